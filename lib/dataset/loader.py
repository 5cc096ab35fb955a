"""A DataLoader whose processes never outlive the program."""

import atexit
import multiprocessing
import signal
from typing import Any

from torch.utils.data import DataLoader


class Loader(DataLoader):
    """A DataLoader that kills its processes when the program ends.

    Those that ignore SIGTERM, as a training's do, would block the exit for ever.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        # The last function to be registered is the first to run: before PyTorch waits for its processes.
        atexit.unregister(_end)
        atexit.register(_end)
        return batches


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # their end is no failure
    for process in multiprocessing.active_children():
        process.kill()
