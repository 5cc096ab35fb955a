"""Files of weights and training state: written atomically, read without executing anything in them."""

import codecs
import hashlib
import io
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ..errors import UserError
from .files import PART, root_cause, write_atomically

SAFETENSORS = ".safetensors"

# The original's training checkpoints hold their AP as a NumPy number, pickled under the old or the new module's name.
_number = np.float64(0).__reduce__()[0]
NUMPY_NUMBER: list[Any] = [
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    codecs.encode,
]

SEAL = b"sha256:"  # and 64 digits: the comment at the end of our zip files, the sum of all bytes before it
SEAL_LENGTH = len(SEAL) + 64


class Damaged(UserError):
    """A file that is truncated or has wrong bytes."""


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while writing .pth files left; nobody may be writing there."""
    for part in folder.glob(f".*.pth.*{PART}"):
        part.unlink()


def save(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Write tensors, numbers, text, lists and dicts as a .pth file with a checksum inside; named tensors as a
    .safetensors if the name ends so. `keep`: see write_atomically."""
    if path.suffix == SAFETENSORS:
        # It refuses tensors that share memory, as tied weights do.
        alone = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in content.items()}
        whole = safetensors.torch.save(alone)
        return write_atomically(path, lambda file: file.write(whole), keep)
    # In memory first: torch's own writer hides the disk's errors.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A zip ends with the length of its comment, which torch leaves empty and every reader skips.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", SEAL_LENGTH))
    buffer.write(_seal(buffer.getbuffer()))
    write_atomically(path, lambda file: file.write(buffer.getbuffer()), keep)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; only tensors, numbers and plain values are accepted.

    Args:
        path: A .pth or .safetensors file.

    Raises:
        UserError: The file cannot be read, is not a checkpoint, or contains code.
        Damaged: It is truncated or has wrong bytes.
    """
    try:
        # Read at once: any error after this is the file's, not the disk's. It is not mapped into memory either: a file
        # that shrinks while it is mapped ends the process.
        content = path.read_bytes()
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path, content)
        return _read_pth(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from None
    except MemoryError:
        raise UserError(f"{path}: cannot read the checkpoint (not enough memory)") from None


def _read_safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        raise _damaged(path, error, "no .safetensors file") from None


def _read_pth(path: Path, content: bytes) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            _check_zip(path, content)
        with torch.serialization.safe_globals(NUMPY_NUMBER), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols and programs; the errors below say what is wrong
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # With weights_only torch names what else a file wants to import, and opens neither programs (TorchScript) nor
        # the tar files of before 2017.
        said = str(error).lower()
        forbidden = "unsupported global" in said or "cannot use ``weights_only" in said
        if forbidden or content[257:262] == b"ustar" or _is_whole_pickle(content):
            raise UserError(
                f"{path}: refused, it contains more than tensors and plain values and could run code when loaded; "
                "save a plain state_dict from a source that you trust"
            ) from None
        raise _damaged(path, error, "no checkpoint at all") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(loaded).__name__}, not a state dict")
    return loaded


def _damaged(path: Path, error: Exception, otherwise: str) -> Exception:
    """The meaning of a library's error about a file's bytes: the file is damaged, unless there is not enough memory."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's is a RuntimeError
        return MemoryError()
    return Damaged(f"{path}: the checkpoint is truncated or {otherwise} ({root_cause(error)})")


def _seal(content: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def _check_zip(path: Path, content: bytes) -> None:
    """Raise Damaged if a file's checksum does not match its bytes; only our files have one.

    Raises UserError for compressed parts, which torch does not write: a small file of them fills any memory.
    """
    if content[-2:] != b"\0\0" and _seal(memoryview(content)[:-SEAL_LENGTH]) != content[-SEAL_LENGTH:]:
        raise Damaged(f"{path}: damaged, its checksum does not match its bytes")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        packed = [part for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
    if packed:
        largest = max(packed, key=lambda part: part.file_size)
        raise UserError(
            f"{path}: refused, {largest.filename} in it is compressed, which torch's own files are not, and claims "
            f"{largest.file_size:,} bytes; save the state_dict again with torch.save"
        )


def _is_whole_pickle(content: bytes) -> bool:
    """Whether bytes are one intact pickle, which torch's own files are not; reads its instructions, executes none."""
    file = io.BytesIO(content)
    try:
        return sum(1 for _ in pickletools.genops(file)) > 1 and not file.read(1)
    except ValueError:
        return False
