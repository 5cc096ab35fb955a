"""The loading processes: the death of one becomes one sentence, and none outlives the program."""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from functools import cache
from multiprocessing import connection
from typing import Any

from torch.utils.data import DataLoader

from ..errors import UserError

PATIENCE = 5  # seconds between the first sign of a process's death and its exit code


class Loader(DataLoader):
    """A DataLoader that raises UserError if one of its processes is killed."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        workers = multiprocessing.active_children()
        # The last function to be registered is the first to run: before PyTorch waits for its processes.
        atexit.unregister(_end)
        atexit.register(_end)
        if self.num_workers and threading.current_thread() is threading.main_thread():
            _pytorchs_handler()
            signal.signal(signal.SIGCHLD, _on_death)
        try:
            yield from batches
        except (RuntimeError, EOFError, OSError):
            ended = connection.wait([worker.sentinel for worker in workers], PATIENCE)
            for worker in workers:
                worker.join(PATIENCE if worker.sentinel in ended else 0)
                if worker.exitcode:
                    raise _killed(f"exit code {worker.exitcode}") from None
            raise


@cache
def _pytorchs_handler() -> Any:
    return signal.getsignal(signal.SIGCHLD)


def _on_death(number: int, frame: Any) -> None:
    """PyTorch's handler raises wherever the program is, also between two batches."""
    try:
        _pytorchs_handler()(number, frame)
    except RuntimeError as error:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # further deaths must not interrupt the report of this one
        raise _killed(str(error).strip()) from None


def _killed(how: str) -> UserError:
    return UserError(
        f"a data loading process was killed ({how}): most often there is not enough memory: lower WORKERS or "
        "DATASET.CACHE_MB"
    )


def _end() -> None:
    """At the program's end: processes that ignore SIGTERM, as a training's do, would block the exit for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # these deaths are no failures
    for process in multiprocessing.active_children():
        process.kill()
