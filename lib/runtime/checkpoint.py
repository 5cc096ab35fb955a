"""Files of weights and training state: written atomically, read without executing anything in them."""

import hashlib
import io
import struct
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import UserError
from . import plain_pickle
from .files import read_bytes, root_cause, write_atomically

SAFETENSORS = ".safetensors"
SEAL = b"sha256:"  # and 64 digits: the zip comment of files written here, the checksum of all bytes before it
SEAL_LENGTH = len(SEAL) + 64


class Damaged(UserError):
    """The file is truncated or has wrong bytes."""


def save(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Write tensors, numbers, text, lists and dicts as a .pth file with a checksum inside; named tensors as a
    .safetensors if the name ends so. `keep`: see write_atomically."""
    if path.suffix == SAFETENSORS:
        # safetensors refuses tensors that share memory, such as tied weights.
        alone = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in content.items()}
        whole = safetensors.torch.save(alone)
        return write_atomically(path, lambda file: file.write(whole), keep)
    # Into memory first: torch's own writer hides disk errors.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A zip ends with a comment, which torch leaves empty and readers skip.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", SEAL_LENGTH))
    buffer.write(_seal(buffer.getbuffer()))
    write_atomically(path, lambda file: file.write(buffer.getbuffer()), keep)


def read(path: Path, sealed: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; only tensors, numbers and plain values are accepted.

    Args:
        path: A .pth or .safetensors file.
        sealed: Whether a .pth must have the checksum that `save` writes.

    Raises:
        UserError: The file cannot be read, is not a checkpoint, or contains code.
        Damaged: It is truncated, has wrong bytes, or lacks its checksum.
    """
    no_memory = UserError(f"{path}: cannot read the checkpoint (not enough memory)")
    try:
        # Read at once: any error after this is the file's, not the disk's. It is not mapped into memory either: a file
        # that shrinks while it is mapped ends the process.
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from None
    except MemoryError:
        raise no_memory from None
    is_safetensors = path.suffix == SAFETENSORS
    if not is_safetensors and not _is_as_sealed(content, sealed):
        wrong = "its checksum is missing or does not match its bytes"
        raise Damaged(f"{path}: the checkpoint is truncated or damaged: {wrong}")
    try:
        loaded = _read_safetensors(content) if is_safetensors else plain_pickle.read(content)
    except plain_pickle.RefusedPickle as error:
        raise UserError(f"{path}: refused, {error}") from None
    except Exception as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's is a RuntimeError
            raise no_memory from None
        otherwise = "no .safetensors file" if is_safetensors else "no checkpoint at all"
        raise Damaged(f"{path}: the checkpoint is truncated or {otherwise} ({root_cause(error)})") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a checkpoint: it contains a {type(loaded).__name__}, not a state dict")
    return loaded


def _read_safetensors(content: bytes) -> dict[str, Any]:
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if header.count(b"{") > plain_pickle.MAX_PARTS:  # an empty tensor takes more than its 60 bytes there
        raise plain_pickle.RefusedPickle(f"it has more than {plain_pickle.MAX_PARTS:,} parts")
    return safetensors.torch.load(content)


def _seal(content: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def seal_of(path: Path) -> str:
    """The checksum at the end of a file written here; "" if the file is missing."""
    return read_bytes(path)[-SEAL_LENGTH:].decode("ascii", "replace") if path.exists() else ""


def _is_as_sealed(content: bytes, required: bool) -> bool:
    """Whether a file's checksum matches its bytes. Other programs' files have none: allowed unless `required`."""
    if not required and (content[-2:] == b"\0\0" or not content.startswith(plain_pickle.ZIP)):
        return True
    return _seal(memoryview(content)[:-SEAL_LENGTH]) == content[-SEAL_LENGTH:]
