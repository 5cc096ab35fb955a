"""A DataLoader whose processes end with the program."""

import atexit
import multiprocessing
import signal
import time
from typing import Any

from torch.utils.data import DataLoader

MAX_WAIT = 60  # seconds until a dead process is noticed


class Loader(DataLoader):
    """A DataLoader that kills its processes when the program ends.

    Processes that ignore SIGTERM, as in training, would block the exit forever.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        # The function registered last runs first: before PyTorch waits for its processes.
        atexit.unregister(_end)
        atexit.register(_end)
        try:
            yield from batches
        except (EOFError, ConnectionError):
            time.sleep(MAX_WAIT)  # a process died while it sent a batch: PyTorch's handler raises here, and names it
            raise


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ended on purpose: not a failure
    for process in multiprocessing.active_children():
        process.kill()
