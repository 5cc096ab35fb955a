"""Files that are written completely or not at all, writable folders, and the cause of an error."""

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import UserError

PART = ".part"  # ends the names of files that are being written


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None) -> None:
    """Let `write` fill a file that takes the place of `path` once it is whole on the disk.

    The file that was at `path` moves to `keep`, if that is given: a crash may then leave no `path`, but never no file
    at all. Raises UserError when the folder cannot be written; the file at `path` then stays as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); an existing file is unchanged") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Write a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def make_writable(folder: Path, option: str) -> None:
    """Make a folder. Raises UserError that names the `option` to choose another with, if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({error.strerror}); choose another with {option}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: this folder is not writable; choose another with {option}")


def root_cause(error: BaseException) -> str:
    """The class and the text, in one line, of the error that another library's error began with."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{type(error).__name__}: {text[:200]}".removesuffix(": ")
