"""Files of weights and training state: written atomically, read without executing anything in them."""

import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from transpose.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that takes the place of `path` once it is whole on the disk.

    Raises UserError when the folder cannot be written; whatever stood at `path` then still stands.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); what stood there is untouched") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, text, lists and dicts as a .pth file."""
    write_atomically(path, lambda file: torch.save(content, file))


def read(path: Path) -> dict[str, Any]:
    """The content of a .pth file, on the CPU; only tensors and plain values are accepted.

    Raises UserError for a file that is missing, truncated, no checkpoint, or that carries code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if path.stat().st_size and "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise UserError(f"{path}: the checkpoint is truncated or no checkpoint at all") from None
        raise UserError(
            f"{path}: refused, it holds more than tensors and plain values and could run code when loaded; "
            "save a plain state_dict from a source that you trust"
        ) from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, IndexError):
        raise UserError(f"{path}: the checkpoint is truncated or no checkpoint at all") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    return content
