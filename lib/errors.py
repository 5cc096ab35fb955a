"""The one exception that means "you gave something that cannot be used", as opposed to a fault of the program."""

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
        # A DataLoader re-raises a worker's exception with the traceback as its message; the last line is ours.
        if message.startswith(_FROM_WORKER):
            message = message.strip().rsplit("\n", 1)[-1].split(": ", 1)[-1]
        super().__init__(_printable(message))


def _printable(message: str) -> str:
    """A sentence that fits on a screen and cannot steer a terminal, whatever stands in the file that it is about."""
    if len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 400]} […] {message[-390:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def until_error(items: Iterable, errors: list[UserError]) -> Iterator:
    """The items before the first UserError, which is appended to `errors`: what came before it is not lost."""
    try:
        yield from items
    except UserError as error:
        errors.append(error)


@contextmanager
def passing_over(on_error: Callable[[UserError], None] | None) -> Iterator[None]:
    """Give the UserError of one item to `on_error`, so that the next item's turn comes; without it, raise it."""
    try:
        yield
    except UserError as error:
        if on_error is None:
            raise
        on_error(error)


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict, _short.maxstring, _short.maxother = 2, 9, 9, 4, 60, 60


def shown(value: Any) -> str:
    """A user's value as a sentence shows it, cut where it is long or deep: aliases of a yaml multiply without end."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no number of more digits
        return "a number of more than 4,300 digits"


def needs(package: str, extra: str) -> Any:
    """An optional package, imported. Raises UserError that names it and the extra of this package that brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise missing((error.name or package).partition(".")[0], extra) from None


def missing(package: str, extra: str) -> UserError:
    """What to say where a package of an extra is not installed."""
    return UserError(
        f"the package {package} is not installed: pip install {package}, "
        f"or pip install 'transpose-pose[{extra}]' for everything that this needs"
    )
