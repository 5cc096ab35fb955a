"""Files of weights and training state: written atomically, read without executing anything in them."""

import codecs
import hashlib
import io
import os
import pickle
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
from .files import PART, write_atomically

SAFETENSORS = ".safetensors"


# Training checkpoints of the lineage hold their AP as a NumPy number, pickled under the old or the new module's name.
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


# What torch.load raises for a file that is cut off or has wrong bytes somewhere.
DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)


class Damaged(UserError):
    """A file that is truncated or has wrong bytes."""


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while writing .pth files left; nobody may be writing there."""
    for part in folder.glob(f".*.pth.*{PART}"):
        part.unlink()


def save(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Write tensors, numbers, text, lists and dicts as a .pth file with a checksum inside; named tensors alone also as
    a .safetensors. `keep`: write_atomically."""
    if path.suffix == SAFETENSORS:
        # It refuses tensors that share memory, as tied weights do.
        alone = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in content.items()}
        whole = safetensors.torch.save(alone)
        return write_atomically(path, lambda file: file.write(whole), keep)
    # In memory first: torch's own writer hides what the disk says.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A zip ends with the length of its comment, which torch leaves empty and every reader passes over.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", SEAL_LENGTH))
    buffer.write(_seal(buffer.getbuffer()))
    write_atomically(path, lambda file: file.write(buffer.getbuffer()), keep)


def _seal(content: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def _refuse_broken_seal(path: Path) -> None:
    """Raise Damaged if a file's checksum is not that of its bytes; files of others have none."""
    if zipfile.is_zipfile(path):
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            if file.read() == b"\0\0":  # no comment
                return
        content = memoryview(path.read_bytes())
        if _seal(content[:-SEAL_LENGTH]) != content[-SEAL_LENGTH:]:
            raise Damaged(f"{path}: damaged, its checksum is not that of its bytes")


def read(path: Path) -> dict[str, Any]:
    """The content of a .pth or .safetensors file, on the CPU; only tensors, numbers and plain values are accepted.

    Raises UserError for a file that is missing, no checkpoint, or that carries code; Damaged for one that is
    truncated or has wrong bytes.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from None
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    try:
        _refuse_broken_seal(path)
        _refuse_compressed(path)
        with torch.serialization.safe_globals(NUMPY_NUMBER), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols and programs; what cannot be loaded is told below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except DAMAGED as error:
        # The unpickler that loads weights only names what else a file of torch's wants to import, and does not open
        # programs (TorchScript) or the tar files of before 2017.
        said = str(error).lower()
        if "unsupported global" in said or "cannot use ``weights_only" in said or _is_whole_pickle(path):
            raise UserError(
                f"{path}: refused, it holds more than tensors and plain values and could run code when loaded; "
                "save a plain state_dict from a source that you trust"
            ) from None
        raise Damaged(f"{path}: the checkpoint is truncated or no checkpoint at all") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    return content


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Not mapped into memory: a file that shrinks while it is mapped ends the process.
        return safetensors.torch.load(path.read_bytes())
    except (safetensors.SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise Damaged(f"{path}: the checkpoint is truncated or no .safetensors file ({error})") from None


def _refuse_compressed(path: Path) -> None:
    """Raise UserError for a zip with compressed parts, which torch does not write: a small one fills any memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [part for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
    except DAMAGED:
        return  # torch has the last word
    if packed:
        largest = max(packed, key=lambda part: part.file_size)
        raise UserError(
            f"{path}: refused, {largest.filename} in it is compressed, which torch's own files are not, and claims "
            f"{largest.file_size:,} bytes; save the state_dict anew with torch.save"
        )


def _is_whole_pickle(path: Path) -> bool:
    """Whether a file is one intact pickle, which torch's own files are not; reads its instructions, follows none."""
    try:
        with path.open("rb") as file:
            instructions = sum(1 for _ in pickletools.genops(file))
            return instructions > 1 and not file.read(1)
    except ValueError:
        return False
