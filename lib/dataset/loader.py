"""A DataLoader whose processes end with the program."""

import atexit
import multiprocessing
import signal
import time
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

MAX_WAIT = 60  # seconds until a dead process is noticed


def own(batch: Any) -> Any:
    """The batch with copies of what a loading process shares. A shared tensor that is kept, for example a prediction's
    index, keeps a file open, and a process may have only some thousand open files. Images are not kept, and copies of
    them would fragment the memory."""
    if isinstance(batch, dict):
        return {name: value if name == "image" else own(value) for name, value in batch.items()}
    return batch.clone() if isinstance(batch, Tensor) and batch.is_shared() else batch


class Loader(DataLoader):
    """A DataLoader that kills its processes when the program ends, and whose batches may be kept, but for their images.

    Processes that ignore SIGTERM, as in training, would block the exit forever.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        # The function registered last runs first: before PyTorch waits for its processes.
        atexit.unregister(_end)
        atexit.register(_end)
        try:
            yield from map(own, batches)
        except (EOFError, ConnectionError):
            time.sleep(MAX_WAIT)  # a process died while it sent a batch: PyTorch's handler raises here, and names it
            raise


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ended on purpose: not a failure
    for process in multiprocessing.active_children():
        process.kill()
