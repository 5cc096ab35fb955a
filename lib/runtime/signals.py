"""Signals that end a run: the first is heeded where nothing gets lost, a second one ends the process at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Under torchrun the seconds in which a signal is the same request once more: a scheduler hands it to every process, and
# so does torchrun.
ECHO = 2.0


class Interrupted(BaseException):
    """Ends a run from wherever it is; no mistake, and nothing that an `except Exception` may swallow."""


class SignalHandler:
    """While entered, holds SIGTERM, SIGINT and SIGUSR1 back; `signal` is the first one that came."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._came = 0.0
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        self._before = {number: signal.signal(number, self._heed) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._came = number, now
            if self._raises:
                raise Interrupted
        elif now - self._came > (ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around what may be left anywhere: a signal, or one that came before, raises Interrupted."""
        self._raises = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._raises = False


def leave_to_parent(worker: int) -> None:
    """For a data loading process: a signal to the whole group means its parent, which ends it when it is time."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
