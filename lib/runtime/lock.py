"""One run at a time in a folder."""

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import IO

from ..errors import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_held: list[IO[str]] = []  # open for as long as this process lives


def claim(folder: Path, regardless: bool) -> bool:
    """Make a folder this process's own until it ends, in whatever way it ends; whether it surely is.

    POSIX record locks: the system frees them with their process, no child inherits them, and NFS knows them.
    Raises UserError if another process has the folder, unless `regardless`.
    """
    path = folder / LOCK
    try:
        file = path.open("a+")
        _held.append(file)
        locked = _locked(file, path)
        if locked is not False:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return bool(locked)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); choose another folder with --modelDir") from None
    taken = f"{folder}: another run is writing here ({path.read_text().strip()})"
    if not regardless:
        raise UserError(
            f"{taken}: wait for it, choose another folder with --modelDir, or set TRAIN.IGNORE_LOCK True if both may "
            "write"
        )
    logger.warning("%s; going on, as TRAIN.IGNORE_LOCK is true", taken)
    return False


def _locked(file: IO[str], path: Path) -> bool | None:
    """Whether no other process has the file; None where it cannot be told, which is said."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning("%s: cannot be locked (%s): nothing keeps a second run out of this folder", path, error.strerror)
        return None
    return True
