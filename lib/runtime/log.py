"""The log of a run: lines on the console and in a file, a progress bar on a terminal."""

import io
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from ..errors import UserError
from .files import open_to_append

PACKAGE = "transpose"
logger = logging.getLogger(PACKAGE)
progress = logging.getLogger(f"{PACKAGE}.progress")  # for lines that a progress bar replaces on a terminal

_early = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)


class Console(logging.Handler):
    """Lines on standard output, written above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != progress.name or not on_terminal():
            tqdm.write(self.format(record), file=sys.stdout)


class File(logging.FileHandler):
    """Lines in a file. After a write error it stops: a full disk must not fill the console with errors."""

    full = False

    def _open(self) -> io.TextIOWrapper:
        return open_to_append(Path(self.baseFilename))

    def emit(self, record: logging.LogRecord) -> None:
        if not self.full:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self.full = True
        print(f"{self.baseFilename}: can no longer be written ({sys.exception()})", file=sys.stderr)


def on_terminal() -> bool:
    return sys.stderr.isatty()


def start(quiet: bool = False) -> None:
    """Log to the console, and keep the lines for `to_file`, which may be called later; `quiet` for ranks above 0."""
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.propagate = False
    logger.handlers = [Console(), _early]


def to_file(path: Path) -> None:
    """Also log to a file, with a time stamp before each line, including the lines logged so far.

    Raises UserError if it cannot be written.
    """
    try:
        file = File(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the log ({error.strerror})") from None
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _early.setTarget(file)
    _early.flush()
    logger.removeHandler(_early)
    logger.addHandler(file)


def time_stamp() -> str:
    return time.strftime("%Y-%m-%d-%H-%M-%S")


class Progress(tqdm):
    """A progress bar on a terminal; nothing if the output goes to a file or a pipe, which get lines."""

    def __init__(self, total: int | None, title: str, hidden: bool = False):
        hidden = hidden or not on_terminal()
        super().__init__(total=total, desc=title, disable=hidden, leave=False, file=sys.stderr)

    def follow(self, items: Iterable) -> Iterator:
        """The items; each one advances the bar."""
        for item in items:
            yield item
            self.update()


def follow(title: str) -> Callable[[list], Iterator]:
    """A function that iterates over a list and shows its progress on a terminal."""

    def through(items: list) -> Iterator:
        with Progress(len(items), title) as progress:
            yield from progress.follow(items)

    return through
