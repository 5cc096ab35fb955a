"""A DataLoader whose processes never outlive the program."""

import atexit
import multiprocessing
import signal
import time
from typing import Any

from torch.utils.data import DataLoader

MAX_WAIT = 60  # seconds until a death is noticed


class Loader(DataLoader):
    """A DataLoader that kills its processes when the program ends.

    Those that ignore SIGTERM, as a training's do, would block the exit for ever.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        # The last function to be registered is the first to run: before PyTorch waits for its processes.
        atexit.unregister(_end)
        atexit.register(_end)
        try:
            yield from batches
        except (EOFError, ConnectionError):
            time.sleep(MAX_WAIT)  # a process died while it sent a batch: PyTorch's handler raises here, and names it
            raise


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # their end is no failure
    for process in multiprocessing.active_children():
        process.kill()
