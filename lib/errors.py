"""The exception for a user's mistake, as opposed to a fault of the program."""

import importlib
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

MAX_MESSAGE = 1500  # characters
_FROM_WORKER = "Caught UserError in DataLoader worker"


class UserError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one sentence.

    The commands print it without a traceback and exit with 2; every other exception keeps its traceback.
    """

    def __init__(self, message: str):
        # A DataLoader re-raises a worker's exception with the traceback as its message; the last line is the message.
        if message.startswith(_FROM_WORKER):
            message = message.strip().rsplit("\n", 1)[-1].split(": ", 1)[-1]
        super().__init__(_printable(message))


def _printable(message: str) -> str:
    """The message, shortened for the screen and without control characters, which a user's file may contain."""
    if len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 400]} […] {message[-390:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def until_error(items: Iterable, errors: list[UserError]) -> Iterator:
    """The items before the first UserError, which is appended to `errors`, so that they are not lost."""
    try:
        yield from items
    except UserError as error:
        errors.append(error)


@contextmanager
def passing_over(on_error: Callable[[UserError], None] | None) -> Iterator[None]:
    """Give an item's UserError to `on_error`, so that the next item can follow; without `on_error`, raise it."""
    try:
        yield
    except UserError as error:
        if on_error is None:
            raise
        on_error(error)


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict, _short.maxstring, _short.maxother = 2, 9, 9, 4, 60, 60


def shown(value: Any) -> str:
    """A user's value for a message, cut if it is long or deep: yaml aliases can make it endless."""
    try:
        return _short.repr(value)
    except ValueError:  # Python does not print longer numbers
        return "a number of more than 4,300 digits"


def needs(package: str, extra: str) -> Any:
    """Import an optional package. Raises UserError that names the package and the extra that installs it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise missing((error.name or package).partition(".")[0], extra) from None


def missing(package: str, extra: str) -> UserError:
    """The message for a package that is not installed."""
    return UserError(
        f"the package {package} is not installed: pip install {package}, "
        f"or pip install 'transpose-pose[{extra}]' for everything that this needs"
    )
