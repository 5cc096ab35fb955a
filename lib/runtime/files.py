"""Write files completely or not at all, read regular files only, and compute checksums; and the cause of an error."""

import contextlib
import csv
import errno
import hashlib
import io
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import UserError

PART = ".part"  # ends the names of files that are being written


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None) -> None:
    """Let `write` fill a new file that replaces `path` once it is completely on the disk.

    With `keep`, the old file moves there: after a crash `path` may be missing, but one of the two is always there. A
    symbolic link at `path` is replaced, not followed. Raises UserError if the folder cannot be written; then both files
    are unchanged.
    """
    temporary, then = None, "an existing file is unchanged"
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
        aside = temporary.with_suffix(f".old{PART}")
        before = [(keep, aside), (path, keep)] if keep is not None and path.exists() else []
        _move_all([*(move for move in before if move[0].exists()), (temporary, path)])
        then = "the new file is there, but may be lost in a power failure"
        aside.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); {then}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, by `write_atomically`; bytes of a file's name that are not UTF-8 are escaped."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def _move_all(moves: list[tuple[Path, Path]]) -> None:
    """Rename files from one path to another; if one fails, all are moved back."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.insert(0, (target, source))
    except OSError:
        for source, target in done:
            os.replace(source, target)
        raise


def remove_leftovers(folder: Path, min_age: float = 0) -> None:
    """Remove the unfinished files of killed processes from a folder and its subfolders.

    If others may be writing there, `min_age` (seconds) must be longer than writing a file takes.
    """
    for part in folder.rglob(f".*{PART}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.lstat().st_mtime >= min_age:
                part.unlink()


def open_to_read(path: Path) -> io.BufferedReader:
    """Open a regular file. Raises OSError for anything else: a pipe or a device may never end."""
    if stat.S_ISREG(path.stat().st_mode) or path.is_dir():
        return path.open("rb")  # whose message is clear for a folder
    raise OSError(errno.EINVAL, "Not a regular file")


def read_bytes(path: Path) -> bytes:
    """All of a file. Raises OSError as `open_to_read` does."""
    with open_to_read(path) as file:
        return file.read()


def checksum(path: Path, kind: str = "sha256") -> str:
    """A file's checksum in hexadecimal. Raises OSError as `open_to_read`."""
    with open_to_read(path) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def open_to_append(path: Path) -> io.TextIOWrapper:
    """Open a text file to append to. Raises OSError for a link or a pipe: another user may have put it there."""
    regular = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | regular, 0o666)

    return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=opener)


def _sync(folder: Path) -> None:
    """Write the folder's entries to the disk."""
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
    """Make a folder. Raises UserError if it cannot be written; the message names the `option` that chooses another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({error.strerror}); choose another with {option}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: this folder is not writable; choose another with {option}")


def root_cause(error: BaseException) -> str:
    """The class and text, in one line, of the first error in a chain of another library's errors."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{type(error).__name__}: {text[:200]}".removesuffix(": ")
