"""Lists of objects in JSON files -> columns; malformed values are kept apart, for errors that name them.

N objects.
"""

import codecs
import contextlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import GenericAlias
from typing import Any, TypedDict

import msgspec
import numpy as np

from ..errors import UserError, shown
from ..runtime.files import read_bytes
from .findings import ERROR, Findings, many

MAX_NUMBER = 2**63  # range of the arrays' integers
MAX_NAME = 4096  # longest file name on Linux
MAX_ID = 60  # characters of an id in a message
NUMBERS = {int, float}
PLAIN_TYPES: dict[type, set[type]] = {np.int64: {int}, np.float64: NUMBERS}  # the usual ones: no further check
NO_JSON = re.compile(rb"[\[:,]\s*(NaN|-?Infinity)\b")  # not JSON, but written by Python's json module
JSON_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?|[{}\[\]]', re.DOTALL)  # a string, or a bracket
MISSING: Any = object()  # stands for a missing field


def read_json(path: Path, what: str, form: Any, otherwise: Any = None) -> Any:
    """The file's content; `form` is a type with the fields to read.

    A file of another form is read as `otherwise`. Raises UserError if that is None, and for a file that is missing or
    not valid JSON.
    """
    try:
        content = read_bytes(path).removeprefix(codecs.BOM_UTF8)
        value = msgspec.json.decode(content, type=form)
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror})") from None
    except msgspec.ValidationError as error:
        if otherwise is not None:
            return read_json(path, what, otherwise)
        mismatch = str(error).replace("Expected", "expected") + (", counted from 0" if "[" in str(error) else "")
        raise UserError(f"{path}: the {what} has the wrong format: {mismatch}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{path}: the {what} is text in UTF-16 or UTF-32; save it as UTF-8") from None
        if found := NO_JSON.search(content):
            near = content[max(found.start(1) - 30, 0) : found.end()].decode(errors="replace")
            raise UserError(
                f"{path}: the {what} holds {found[1].decode()}, which is no number in JSON (… {near}): write a number, "
                "or leave the object out"
            ) from None
        raise UserError(f"{path}: the {what} is not valid JSON or is truncated ({error})") from None
    keys = {key.encode() for key in getattr(form, "__annotations__", ())}
    if suspects := {key for key in keys if content.count(b'"%s"' % key) > 1}:
        _refuse_twice(content, suspects, path, what)
    return value


def _refuse_twice(content: bytes, keys: Collection[bytes], path: Path, what: str) -> None:
    """Raise UserError if one of the keys occurs twice in the outermost object: the decoder takes the last."""
    depth, seen = 0, set()
    for token in JSON_TOKEN.finditer(content):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and token[2] and token[1] in keys:
            if token[1] in seen:
                key = token[1].decode(errors="replace")
                raise UserError(f"{path}: '{key}' occurs twice in the {what}, and one of the two would be lost")
            seen.add(token[1])


def form(name: str, fields: dict[str, Any]) -> Any:
    """The type of an object that may have these fields, of these types; `read_json` skips all others."""
    make: Any = TypedDict
    return make(name, fields, total=False)


def list_of(fields: Iterable[str]) -> Any:
    """The type of a list of objects of which these fields are read. The decoder skips all else, such as the polygons
    that are most of COCO's bytes."""
    return GenericAlias(list, (form("Object", dict.fromkeys(fields, Any)),))


def is_number(value: Any) -> bool:
    """Whether an array can hold the value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def is_file_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and "\0" not in value and not leads_out(value)


def leads_out(name: str) -> bool:
    """Whether a file name leads out of its folder."""
    return os.path.isabs(name) or (".." in name and ".." in Path(name).parts)


def is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


@dataclass(frozen=True)
class Kind:
    """The values that a field may have: a value of `dtype`, or a list of the `shape` (length) or (pairs, 2).

    In the column, `instead` replaces a malformed value (NaN in lists), and `default` a missing value or an empty list.
    """

    wanted: str
    holds: Callable[[Any], bool] = is_number
    dtype: type = np.float64
    instead: Any = np.nan
    default: Any = MISSING
    shape: tuple[int, ...] = ()

    def read(self, values: list) -> tuple[np.ndarray, dict[int, Any]]:
        """The column (N) or (N, *shape), and its malformed values by their places."""
        if self.shape:
            if self.default is not MISSING:
                values = [value or self.default for value in values]
            pairs = len(self.shape) > 1
            lists = [list(chain.from_iterable(v)) if is_pairs(v) else None for v in values] if pairs else values
            found = _rows(lists, math.prod(self.shape))
            places = np.flatnonzero(np.isnan(found).any(1)).tolist()
            return found.reshape(-1, *self.shape), {i: values[i] for i in places}
        wrong = {}
        quick = set(map(type, values)) <= PLAIN_TYPES.get(self.dtype, set())
        if not quick or max(map(abs, values), default=0) >= MAX_NUMBER:
            wrong = {i: value for i, value in enumerate(values) if not self.holds(value)}
        if wrong:
            values = [self.instead if i in wrong else value for i, value in enumerate(values)]
        return np.array(values, self.dtype), wrong

    def fault(self, value: Any) -> str:
        """The text about a malformed value, which follows the field's name in an error."""
        if self.shape:
            if not isinstance(value, list) or (len(self.shape) > 1 and not is_pairs(value)):
                return f"must list {self.wanted}, not {shown(value)}"
            if len(value) != self.shape[0]:
                return f"must list {self.wanted}, not {len(value)}"
            return "has a value that is not a number, or too large"
        if type(value) in NUMBERS and abs(value) >= MAX_NUMBER:
            return f"is too large: {shown(value)}"
        if self is FILE_NAME and isinstance(value, str) and leads_out(value):
            return f"leads out of the images' folder: {shown(value)}"
        return f"must be {self.wanted}, not {shown(value)}"


NUMBER = Kind("a number")
WHOLE = Kind("a whole number", lambda value: isinstance(value, int) and is_number(value), np.int64, 0)
ANYTHING = Kind("anything", lambda value: value is not MISSING, object)
FILE_NAME = Kind("the name of a file", is_file_name, object, "")  # np.str_ would make all texts as long as the longest


def listing(length: int, hint: str = "", default: Any = MISSING) -> Kind:
    """The kind of a list of so many numbers; `hint` is the key of the configuration that says how many."""
    return Kind(f"{length} numbers{hint}", shape=(length,), default=default)


def _rows(values: list, length: int) -> np.ndarray:
    """Lists of `length` numbers as (N, length) float64; anything else becomes a row with NaN."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {length}:
        with contextlib.suppress(OverflowError):
            found = np.zeros((len(values), length))
            some = [
                i for i, value in enumerate(values) if value.count(0) < length
            ]  # not for all values, as with COCO's keypoints
            listed = [values[i] for i in some]
            if set(map(type, chain.from_iterable(listed))) <= NUMBERS:
                flat = np.fromiter(chain.from_iterable(listed), np.float64, length * len(some))
                flat[np.abs(flat) >= MAX_NUMBER] = np.nan
                found[some] = flat.reshape(-1, length)
                return found
    found = np.full((len(values), length), np.nan)
    for index, value in enumerate(values):
        if isinstance(value, list) and len(value) == length and all(map(is_number, value)):
            found[index] = value
    return found


def _values(objects: list[dict], key: str, default: Any) -> list:
    try:
        return [item[key] for item in objects]  # twice as fast
    except KeyError:
        return [item.get(key, default) for item in objects]


@dataclass(frozen=True)
class Table:
    """The objects of a list as columns. `what` is the noun for an object, such as "annotation"; `places` (N) are the
    positions in the file's list, `strays` its values that are not objects, and `wrong` the malformed values of each
    column, by index."""

    what: str
    places: np.ndarray
    strays: dict[int, Any]
    fields: Mapping[str, Kind]
    columns: dict[str, np.ndarray]
    wrong: dict[str, dict[int, Any]]

    @classmethod
    def read(cls, items: list, what: str, fields: Mapping[str, Kind], places: np.ndarray | None = None) -> "Table":
        strays = {} if set(map(type, items)) <= {dict} else {i: v for i, v in enumerate(items) if type(v) is not dict}
        if places is None:
            places = np.delete(np.arange(len(items)), list(strays))
        objects = [item for item in items if type(item) is dict] if strays else items
        read = {key: kind.read(_values(objects, key, kind.default)) for key, kind in fields.items()}
        columns, wrong = ({key: found[i] for key, found in read.items()} for i in (0, 1))
        return cls(what, places, strays, fields, columns, wrong)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.columns[key]

    def malformed(self, *keys: str) -> np.ndarray:
        """Which objects (N, bool) have something wrong in one of these columns."""
        found = np.zeros(len(self), bool)
        for key in keys:
            found[list(self.wrong[key])] = True
        return found

    def label(self, index: int) -> str:
        """An object's name in an error."""
        found = self.wrong["id"].get(index, self["id"][index]) if "id" in self.columns else MISSING
        if found is MISSING:
            return f"{self.what} number {self.places[index] + 1}"
        return f"{self.what} with id {str(found)[:MAX_ID]}"

    def name(self, index: int) -> str:
        """The same, shortened for a report."""
        return self.label(index).replace(" with id ", " ")

    def check(self, *keys: str, stops: np.ndarray | None = None) -> Findings:
        """Findings about malformed values, column by column, in all or these columns. Each stops a tool; one that is
        missing or null only in the objects that `stops` (N, bool) marks, or in all if it is None."""
        findings = Findings()
        for place, value in list(self.strays.items())[:1]:
            count = many(len(self.strays), self.what)
            says = f"{count} of {len(self) + len(self.strays):,} must be a JSON object"
            error = f"{self.what} number {place + 1} must be a JSON object, not {shown(value)}"
            findings.add(ERROR, "format", says, [f"number {place + 1}"], error=error)
        for key in keys or self.fields:
            wrong, kind = self.wrong[key], self.fields[key]
            if wrong:
                says = f"{many(len(wrong), self.what)} of {len(self):,} must have '{key}', {kind.wanted}"
                examples = (f"{'none' if v is MISSING else shown(v)} in {self.name(i)}" for i, v in wrong.items())
                stopping = (i for i, v in wrong.items() if stops is None or stops[i] or v not in (MISSING, None))
                error = next((self._error(key, i) for i in stopping), "")
                findings.add(ERROR, "format", says, examples, error=error)
        return findings

    def _error(self, key: str, index: int) -> str:
        value, label = self.wrong[key][index], self.label(index)
        return f"{label} has no '{key}'" if value is MISSING else f"'{key}' of {label} {self.fields[key].fault(value)}"
