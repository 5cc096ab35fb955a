"""Signals that stop a run: after the first the state is saved; a second ends the process at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Under torchrun, a second signal within so many seconds is taken for a copy of the first: a scheduler signals every
# process, and torchrun forwards the signal too.
REPEAT_SECONDS = 2.0


class Interrupted(BaseException):
    """Stops a run from anywhere; not an Exception, so that `except Exception` does not catch it."""


class SignalHandler:
    """A context that holds back SIGTERM, SIGINT and SIGUSR1; `signal` is the first one that came."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._time = 0.0
        self._raises = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._time = number, now
            if self._raises:
                raise Interrupted
        elif now - self._time > (REPEAT_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For code that may be interrupted anywhere: a signal, even an earlier one, raises Interrupted."""
        self._raises = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._raises = False


def leave_to_parent(worker: int) -> None:
    """For a data loading process: ignore signals sent to the whole group; the parent ends it when it is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
