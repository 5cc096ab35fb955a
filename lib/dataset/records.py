"""Lists of records out of JSON files, checked as they become arrays: the first wrong value is named.

`path` is the file and `what` a record's name in an error, such as "annotation". N records.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from transpose import collector
from transpose.errors import UserError

LARGEST = 2**63  # what the arrays' integers hold


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


def _label(item: dict, index: int, what: str) -> str:
    return f"{what} with id {item['id']}" if "id" in item else f"{what} number {index + 1}"


def column(items: Sequence[dict], key: str, what: str, path: Path) -> list:
    """One field of every item; the first item without it is named."""
    try:
        return [item[key] for item in items]
    except KeyError:
        index = next(i for i, item in enumerate(items) if key not in item)
        raise UserError(f"{path}: {_label(items[index], index, what)} has no '{key}'") from None


def numbers(items: Sequence[dict], key: str, dtype: type, what: str, path: Path) -> np.ndarray:
    """One field of every item as numbers (N); the first that is none is named."""
    values = column(items, key, what, path)
    whole = np.issubdtype(dtype, np.integer)
    right = {int} if whole else {int, float}
    if not set(map(type, values)) <= right or (values and max(max(values), -min(values)) >= LARGEST):
        wanted = "a whole number" if whole else "a number"
        for index, value in enumerate(values):
            if type(value) not in right:
                raise UserError(
                    f"{path}: '{key}' of {_label(items[index], index, what)} must be {wanted}, not {value!r}"
                )
            if abs(value) >= LARGEST:
                raise UserError(f"{path}: '{key}' of {_label(items[index], index, what)} is too large: {value}")
    return np.array(values, dtype)


def refuse_duplicates(ids: np.ndarray, what: str, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path}: {counts.max()} {what}s have the id {values[counts.argmax()]}; each needs its own")


def rows(items: Sequence[dict], key: str, length: int, path: Path, what: str = "annotation") -> np.ndarray:
    """A field that lists `length` finite numbers as (N, length) float64; the first malformed one is named."""
    values = column(items, key, what, path)
    if set(map(type, values)) - {list} or set(map(len, values)) - {length}:
        index, value = next((i, v) for i, v in enumerate(values) if not isinstance(v, list) or len(v) != length)
        found = f"{len(value)}" if isinstance(value, list) else repr(value)
        hint = " (MODEL.NUM_JOINTS)" if key == "keypoints" else ""
        raise UserError(
            f"{path}: '{key}' of {_label(items[index], index, what)} must list {length} numbers{hint}, not {found}"
        )
    if not set(map(type, chain.from_iterable(values))) <= {int, float}:
        index = next(i for i, value in enumerate(values) if not {int, float}.issuperset(map(type, value)))
        raise UserError(f"{path}: '{key}' of {_label(items[index], index, what)} holds something that is no number")
    try:
        return np.fromiter(chain.from_iterable(values), np.float64, length * len(values)).reshape(-1, length)
    except OverflowError:
        index = next(i for i, value in enumerate(values) if max(map(abs, value)) >= LARGEST)
        raise UserError(
            f"{path}: '{key}' of {_label(items[index], index, what)} holds a number that is too large"
        ) from None
