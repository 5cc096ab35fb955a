"""Read files of torch.save without calling anything that the file names.

torch.load with `weights_only` calls the functions on its list (codecs, bytearray, NumPy's types, views of any size)
with any arguments: a file of 500 bytes can take gigabytes. Here each name in the file stands for a function of this
module, and the size of all results is limited. Formats: PEP 307, and torch/serialization.py since PyTorch 0.1.10.
"""

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 48 << 20  # bytes of all that is not a tensor; the training state of the largest model has 30 MB
STEP_BYTES = 160  # most bytes per instruction, besides its argument
MAX_DEPTH = 50  # depth of nested lists
MAX_SHARED = 4  # bytes of all tensors, which may share memory, per byte of the file
MAX_PARTS = 50_000  # files in a zip, and tensors in a .safetensors
ZIP = b"PK\x03\x04"  # first bytes of a zip
MAGIC = 0x1950A86A20F9469CFC6C  # the first value in a file from before PyTorch 1.6, which is no zip

CONSTANTS = {
    *("BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE"),
}
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TYPES = {
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8},
    **{"QInt8": torch.int8, "QUInt8": torch.uint8, "QInt32": torch.int32},
}


class RefusedPickle(Exception):
    """The file contains something that is not read; the message is the end of a sentence."""


def read(content: bytes) -> Any:
    """The tensors, numbers, text, lists and dicts in a file's bytes; NumPy's scalars become Python's.

    Raises RefusedPickle for any other content, and other exceptions for a damaged file.
    """
    if content[257:262] == b"ustar":
        raise _no_plain_value("a tar file from before 2017")
    return _read_zip(content) if content.startswith(ZIP) else _read_old(content)


def _no_plain_value(what: str) -> RefusedPickle:
    return RefusedPickle(
        f"it contains more than tensors and plain values ({what[:80]}) and could run code when loaded; "
        "save a plain state_dict from a source that you trust"
    )


def _read_zip(content: bytes) -> Any:
    if content.count(b"PK\x01\x02") > MAX_PARTS:
        raise RefusedPickle(f"it has more than {MAX_PARTS:,} parts")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise RefusedPickle(
                    f"{part.filename[:80]} in it is compressed, which torch's own files are not, and claims "
                    f"{part.file_size:,} bytes; save the state_dict again with torch.save"
                )
        root = next(name for name in names if name.rpartition("/")[2] == "data.pkl").removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise _no_plain_value("a TorchScript program")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise RefusedPickle("it was written on a machine with another byte order; save it again on one like this")

        def numbers(key: str, dtype: torch.dtype, count: int) -> Tensor:
            part = archive.getinfo(f"{root}data/{key}")
            if part.file_size != count * dtype.itemsize:
                raise ValueError(f"{part.filename} has {part.file_size} bytes")
            return _tensor_of(archive.read(part), dtype)

        return _Unpickler(len(content), numbers).load(io.BytesIO(archive.read(f"{root}data.pkl")))


def _read_old(content: bytes) -> Any:
    """A file of before PyTorch 1.6: the pickle, then a list of keys, then the numbers of each key."""
    file = io.BytesIO(content)
    unpickler = _Unpickler(len(content), lambda key, dtype, count: torch.empty(count, dtype=dtype))
    if unpickler.load(file) != MAGIC:
        raise _no_plain_value("a pickle that torch.save did not write")
    _version, _computer, loaded, keys = (unpickler.load(file) for _ in range(4))
    for key in keys:
        numbers = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != len(numbers):
            raise ValueError(f"another number of numbers in {key}")
        numbers.copy_(_tensor_of(file.read(numbers.nbytes), numbers.dtype))
    return loaded


def _tensor_of(raw: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


@dataclass(frozen=True)
class _Unfit:
    """Stands for a tensor that is not a plain array."""

    kind: str


@dataclass
class _NumpyType:
    """A dtype as NumPy pickles it: its code, such as f8 or U5, then its order of bytes and a date's unit."""

    code: str
    order: str = "="
    unit: str = ""

    def set_state(self, state: tuple) -> None:
        self.order = state[1]
        if self.code[0] in "mM":
            name, step = state[8][1][:2]
            self.unit = f"[{step}{name.decode()}]"

    def value(self, data: bytes | str) -> Any:
        """The scalar with these bytes, which are text if Python 2 wrote them."""
        if not re.fullmatch(r"[<>|=][biufcSUmM]\d{1,9}", f"{self.order}{self.code}"):
            raise _no_plain_value("NumPy's " + f"{self.order}{self.code}".removeprefix("="))
        dtype = np.dtype(f"{self.order}{self.code}{self.unit}")
        raw = data.encode("latin1") if isinstance(data, str) else data
        scalar = np.frombuffer(raw, dtype)[0] if raw else dtype.type()
        plain = scalar.item()
        if isinstance(plain, np.generic):  # more bits than Python's float
            plain = complex(plain) if dtype.kind == "c" else float(plain)
        return plain


class _Unpickler:
    """PEP 307's stack machine. `numbers(key, dtype, count)` gives a storage; `length` is the file's size in bytes."""

    def __init__(self, length: int, numbers: Callable[[str, torch.dtype, int], Tensor]):
        self.numbers = numbers
        self.storages: dict[str, Tensor] = {}
        self.bytes_left, self.stored_left, self.shared_left = MAX_BYTES, length, MAX_SHARED * length
        self.functions: dict[str, Callable] = {
            "collections OrderedDict": lambda pairs=(): dict(self._pairs(pairs)),
            "collections Counter": lambda counts: counts,
            "__builtin__ set": lambda items: items,
            "__builtin__ complex": complex,
            "__builtin__ bytes": lambda: b"",
            "_codecs encode": self._encoded,
            "numpy dtype": lambda code, *_: _NumpyType(code),
            "numpy.core.multiarray scalar": lambda dtype, data=b"": dtype.value(data),
            "torch Size": lambda lengths: lengths,
            "torch device": lambda kind, *_: kind,
            "torch.serialization _get_layout": lambda layout: layout,
            "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils _rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._utils _rebuild_tensor": self._tensor,
            "torch._utils _rebuild_tensor_v2": self._tensor,
            "torch._utils _rebuild_tensor_v3": lambda whole, *place: self._tensor(whole.view(place[5]), *place),
            "torch._utils _rebuild_meta_tensor_no_storage": lambda *_: _Unfit("meta"),
            "torch._utils _rebuild_sparse_tensor": lambda *_: _Unfit("sparse"),
            "torch._utils _rebuild_qtensor": lambda *_: _Unfit("quantised"),
        }

    def load(self, file: IO[bytes]) -> Any:
        """The value of the pickle that begins at the current position, which moves to its end."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for op, argument, _ in pickletools.genops(file):
            self._spend(STEP_BYTES)
            items: list[Any] = []
            if op.name in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS", "ADDITEMS"):
                items, stack = stack, marks.pop()
            match op.name:
                case name if name in CONSTANTS:
                    stack.append(argument)
                case name if name in VALUES:
                    stack.append(VALUES[name])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "TUPLE":
                    stack.append(tuple(items))
                case "LIST":
                    stack.append(items)
                case "DICT":
                    stack.append(dict(self._pairs(zip(items[::2], items[1::2], strict=True))))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(op.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "APPEND":
                    item = stack.pop()
                    list.append(stack[-1], item)
                case "APPENDS" | "ADDITEMS":
                    list.extend(stack[-1], items)
                case "SETITEM":
                    pair = stack[-2:]
                    del stack[-2:]
                    dict.update(stack[-1], self._pairs([pair]))
                case "SETITEMS":
                    dict.update(stack[-1], self._pairs(zip(items[::2], items[1::2], strict=True)))
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(self._named(argument))
                case "STACK_GLOBAL":
                    last = stack.pop()
                    stack[-1] = self._named(f"{stack[-1]} {last}")
                case "REDUCE":
                    arguments = stack.pop()
                    stack[-1] = stack[-1](*arguments)
                case "BUILD":
                    state = stack.pop()
                    if isinstance(stack[-1], _NumpyType):  # the attributes of an OrderedDict are ignored
                        stack[-1].set_state(state)
                case "BINPERSID":
                    stack.append(self._storage(*stack.pop()))
                case "STOP":
                    self._refuse_many(stack[-1])
                    return stack[-1]
                case "PROTO" | "FRAME":
                    pass
                case _:
                    raise ValueError(f"pickle's instruction {op.name}")
        raise EOFError

    def _spend(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise RefusedPickle(f"its content besides tensors takes more than {MAX_BYTES >> 20} MB")

    def _refuse_many(self, value: Any) -> None:
        """Raise RefusedPickle for lists nested so often that a walk through them would not end."""
        depth, level = 0, [value]
        while level:
            depth, inner = depth + 1, list[Any]()
            for item in level:
                if isinstance(item, dict | list | tuple):
                    self._spend(8 * len(item))
                    inner += item.values() if isinstance(item, dict) else item
            level = inner
            if depth > MAX_DEPTH:
                raise RefusedPickle(f"its lists are nested more than {MAX_DEPTH} deep")

    def _named(self, name: str) -> Any:
        """The function, type or storage type that the file names."""
        name = name.replace("builtins ", "__builtin__ ").replace("numpy._core", "numpy.core")
        module, _, last = name.partition(" ")
        if name in self.functions:
            return self.functions[name]
        if module in ("torch", "torch.storage") and last.removesuffix("Storage") in TYPES:
            return TYPES[last.removesuffix("Storage")]
        if module == "torch" and isinstance(dtype := getattr(torch, last, None), torch.dtype):
            return dtype
        raise _no_plain_value(f"{module}.{last}")

    def _encoded(self, text: str, codec: str) -> bytes:
        """Bytes, which are pickled as text."""
        if codec not in ("latin1", "latin-1"):
            raise _no_plain_value(f"the codec {codec}")
        self._spend(len(text))
        return text.encode(codec)

    def _pairs(self, pairs: Iterable) -> Iterator[tuple[Any, Any]]:
        """The items of a dict, after checking that each can be read."""
        for key, value in pairs:
            self._spend(STEP_BYTES)
            if not isinstance(key, str | int | float):
                raise _no_plain_value(f"a {type(key).__name__} as a key")
            if isinstance(value, _Unfit):
                raise RefusedPickle(f"{key} is a {value.kind} tensor; save a dense one with its numbers")
            yield key, value

    def _storage(
        self, what: str, dtype: torch.dtype, key: str, place: str, count: int, view: tuple | None = None
    ) -> Tensor:
        assert what == "storage", what
        if key not in self.storages:
            self.stored_left -= count * dtype.itemsize
            if self.stored_left < 0:
                raise ValueError("a storage with more numbers than the file has bytes")
            self.storages[key] = self.numbers(key, dtype, count)
        storage = self.storages[key]
        return storage if view is None else storage[view[1] : view[1] + view[2]]

    def _tensor(self, storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        self.shared_left -= math.prod(size) * storage.itemsize
        if self.shared_left < 0:
            raise RefusedPickle("its tensors have many times more numbers than it stores")
        return storage.as_strided(size, stride, storage.storage_offset() + offset)
