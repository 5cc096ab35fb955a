"""Lists of records out of JSON files, checked as they become arrays: the first wrong value is named.

`path` is the file and `what` a record's name in an error, such as "annotation". N records.
"""

import contextlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import UserError
from ..runtime import collector

LARGEST = 2**63  # what the arrays' integers hold
LONGEST = 60  # characters of a wrong value that a sentence shows
NUMBERS = {int, float}


def read_json(path: Path, what: str, form: Any) -> Any:
    """The file's content; `form` is the type that says which fields are read."""
    try:
        content = path.read_bytes()
        with collector.paused():
            return msgspec.json.decode(content, type=form)
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror})") from None
    except msgspec.ValidationError as error:
        mismatch = str(error).replace("Expected", "expected") + (", counted from 0" if "[" in str(error) else "")
        raise UserError(f"{path}: the {what} has another format: {mismatch}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: the {what} is not valid JSON or is truncated ({error})") from None


def label(item: Any, index: int, what: str) -> str:
    """What an error calls a record."""
    known = isinstance(item, dict) and "id" in item
    return f"{what} with id {str(item['id'])[:LONGEST]}" if known else f"{what} number {index + 1}"


def shown(value: Any) -> str:
    """A value as an error shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def is_number(value: Any, whole: bool = False) -> bool:
    """Whether the arrays here can hold a value."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_file_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value and not leads_out(value)


def leads_out(name: str) -> bool:
    """Whether a name of a file in a folder leads to somewhere else."""
    return os.path.isabs(name) or (".." in name and ".." in Path(name).parts)


def column(items: Sequence[dict], key: str, what: str, path: Path) -> list:
    """One field of every item; the first item without it is named."""
    try:
        return [item[key] for item in items]
    except (KeyError, TypeError):
        index = next(i for i, item in enumerate(items) if not isinstance(item, dict) or key not in item)
        raise UserError(f"{path}: {label(items[index], index, what)} has no '{key}'") from None


def numbers(items: Sequence[dict], key: str, dtype: type, what: str, path: Path) -> np.ndarray:
    """One field of every item as numbers (N); the first that is none is named."""
    values = column(items, key, what, path)
    whole = np.issubdtype(dtype, np.integer)
    if not set(map(type, values)) <= ({int} if whole else NUMBERS) or (values and max(map(abs, values)) >= LARGEST):
        index, value = next((i, v) for i, v in enumerate(values) if not is_number(v, whole))
        where = f"{path}: '{key}' of {label(items[index], index, what)}"
        if type(value) in NUMBERS and abs(value) >= LARGEST:
            raise UserError(f"{where} is too large: {shown(value)}")
        raise UserError(f"{where} must be {'a whole' if whole else 'a'} number, not {shown(value)}")
    return np.array(values, dtype)


def file_names(items: Sequence[dict], key: str, what: str, path: Path) -> list[str]:
    """One field of every item as file names; the first that is none is named."""
    values = column(items, key, what, path)
    for index, value in enumerate(values):
        if not is_file_name(value):
            where = label(items[index], index, what)
            if isinstance(value, str) and leads_out(value):
                raise UserError(f"{path}: '{key}' of {where} leads out of the images' folder: {shown(value)}")
            raise UserError(f"{path}: '{key}' of {where} must be the name of a file, not {shown(value)}")
    return values


def refuse_duplicates(ids: np.ndarray, what: str, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path}: {counts.max()} {what}s have the id {values[counts.argmax()]}; each needs its own")


def table(values: Sequence, length: int) -> np.ndarray:
    """Lists of `length` numbers as (N, length) float64; what is no such list is a row with NaN in it."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {length}:
        with contextlib.suppress(OverflowError):
            if set(map(type, chain.from_iterable(values))) <= NUMBERS:
                found = np.fromiter(chain.from_iterable(values), np.float64, length * len(values))
                found[np.abs(found) >= LARGEST] = np.nan
                return found.reshape(-1, length)
    found = np.full((len(values), length), np.nan)
    for index, value in enumerate(values):
        if isinstance(value, list) and len(value) == length and all(map(is_number, value)):
            found[index] = value
    return found


def rows(items: Sequence[dict], key: str, length: int, path: Path, what: str = "annotation") -> np.ndarray:
    """A field that lists `length` numbers as (N, length) float64; the first malformed one is named."""
    values = column(items, key, what, path)
    found = table(values, length)
    for index in np.flatnonzero(np.isnan(found).any(1))[:1].tolist():
        value, where = values[index], f"{path}: '{key}' of {label(items[index], index, what)}"
        if isinstance(value, list) and len(value) == length:
            raise UserError(f"{where} holds something that is no number, or one too large")
        number = f"{len(value)}" if isinstance(value, list) else shown(value)
        hint = " (MODEL.NUM_JOINTS)" if key == "keypoints" else ""
        raise UserError(f"{where} must list {length} numbers{hint}, not {number}")
    return found
