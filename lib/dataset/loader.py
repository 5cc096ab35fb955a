"""The loading processes: one that dies is told with the photograph that it was reading.

The system kills a process that wants too much memory, and a decoder may fail on a photograph as no exception can tell.
PyTorch then knows the process's number alone. Here each notes in shared memory what it turns to.
"""

import atexit
import ctypes
import multiprocessing
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cache, partial
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import UserError
from .images import Reader
from .topdown import TopDownDataset

LONGEST = 1024  # bytes of a note
PATIENCE = 10  # seconds in which a death is reported
# What PyTorch says of one process, or of several.
DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>.*?)\.? *$", re.DOTALL)

Note = ctypes.Array[ctypes.c_char]


class Loader(DataLoader):
    """A DataLoader whose dead process raises UserError that names the photograph."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_workers: int,
        worker_init_fn: Callable[[int], None] | None = None,
        **options: Any,
    ):
        self.told = False  # that one of its processes died; others may follow
        self.notes = [RawArray(ctypes.c_char, LONGEST) for _ in range(num_workers)]
        begin = partial(_begin, self.notes, worker_init_fn)
        super().__init__(dataset, num_workers=num_workers, worker_init_fn=begin, **options)
        _loaders.add(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            # The last to be registered is the first to run: before PyTorch waits for its processes.
            atexit.unregister(_end)
            atexit.register(_end)
            if self.notes and threading.current_thread() is threading.main_thread():
                _explain_signals()
            yield from batches
        except RuntimeError as error:
            if (explanation := _explanation(error)) is None:
                raise
            raise explanation from None
        except (EOFError, ConnectionError, FileNotFoundError):
            if not self.notes:
                raise
            # What a dying process sent cannot be fetched from it any more; the signal of its death ends the sleep.
            time.sleep(PATIENCE)
            raise


def _end() -> None:
    """At the program's end: processes that ignore SIGTERM, as a training's do, would be waited for without end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # these deaths are nobody's concern
    for process in multiprocessing.active_children():
        process.kill()


_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


class _NotingReader:
    """Reads as another reader does, after writing down what it is asked for."""

    def __init__(self, reader: Reader, note: Note):
        self.reader, self.note, self.source = reader, note, reader.source
        self.begin = f"{os.getpid()} {self.source}{os.sep}"

    def read(self, name: str, owner: str) -> np.ndarray:
        self.note.value = f"{self.begin}{name} ({owner})".encode()[:LONGEST]
        return self.reader.read(name, owner)


def _begin(notes: list[Note], then: Callable[[int], None] | None, worker: int) -> None:
    """The first thing that a loading process does."""
    info = get_worker_info()
    assert info is not None
    if isinstance(info.dataset, TopDownDataset):
        info.dataset.reader = _NotingReader(info.dataset.reader, notes[worker])
    if then is not None:
        then(worker)


def _explanation(error: RuntimeError) -> UserError | None:
    """What PyTorch says of a dead process, with what that was reading; None if it says anything else."""
    if isinstance(error.__cause__, UserError):
        return error.__cause__  # of the signal, which came while waiting for the process
    told = DEATH.match(str(error))
    if told is None:
        return None
    pids, read = re.findall(r"\d+", told["pids"]), []
    for loader in _loaders:
        for note in loader.notes:
            pid, _, what = note.value.decode(errors="replace").partition(" ")
            if pid in pids:
                read.append(what)
                loader.told = True
    if not read:
        return None
    return UserError(
        f"{', '.join(read)}: the process that was reading it {told['how']}; if it was killed, the memory did not "
        "suffice (WORKERS, DATASET.CACHE_MB), else the decoder failed on the image"
    )


@cache
def _explain_signals() -> None:
    """Once: when the system reports a death PyTorch raises wherever this process is, also between two batches.

    Of a loader's deaths only the first does: the next would come while the first is being told.
    """
    usual = signal.getsignal(signal.SIGCHLD)
    if not callable(usual):
        return

    def explain(number: int, frame: Any) -> None:
        known = {loader for loader in _loaders if loader.told}
        try:
            usual(number, frame)
        except RuntimeError as error:
            if (explanation := _explanation(error)) is None:
                raise
            if {loader for loader in _loaders if loader.told} != known:
                raise explanation from None

    signal.signal(signal.SIGCHLD, explain)
