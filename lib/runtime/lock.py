"""One run at a time in a folder.

Needs filelock 3.30: with older versions a forked child, such as a loading process, keeps a killed process's lock.
"""

import errno
import logging
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # the file system has no locks
_held: list[FileLock] = []  # a lock is released when its object is deleted; these live as long as the process


def claim(folder: Path, regardless: bool | None = None, option: str = "--model-dir") -> bool:
    """Lock a folder until this process ends in any way; returns whether it is locked.

    Raises UserError, which names the `option` that chooses another place, if the folder cannot be written, and if
    another process has locked it, unless `regardless`; None: there is no such setting.
    """
    path, elsewhere = folder / LOCK, f"choose another place with {option}"
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
        _held.append(lock)
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        return True
    except Timeout:
        taken = f"{folder}: another run is writing here ({path.read_bytes()[:100].decode(errors='replace').strip()})"
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise UserError(f"{path}: cannot write ({error.strerror}); {elsewhere}") from None
        logger.warning("%s: cannot be locked (%s), so a second run could write into this folder", path, error.strerror)
        return False
    if not regardless:
        both = "" if regardless is None else "; if both may write, set TRAIN.IGNORE_LOCK True"
        raise UserError(f"{taken}: wait for it, or {elsewhere}{both}")
    logger.warning("%s; continuing, because TRAIN.IGNORE_LOCK is true", taken)
    return False
