"""Small files that would take much memory, or end the program, if their reader were careless."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers.goldens import ROOT

SPARE, FACTOR = 64 << 20, 8  # of memory: bytes, and for each byte of the file
MEASURED = """
import resource, sys
sys.path.insert(0, {tools!r})
from pathlib import Path
from transpose.errors import UserError
{imports}

def grown():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for name in {paths!r}:
    path, before = Path(name), grown()
    try:
        {code}
    except UserError as error:
        assert "\\n" not in str(error) and len(str(error)) < 1600
    most = {spare} + {factor} * path.stat().st_size
    assert grown() - before <= most, (path, grown() - before)
"""


def read_within_bounds(imports: str, code: str, paths: Iterable[Path]) -> None:
    """Run `code` on each `path` in a separate process; checks the error message, if any, and the memory limit."""
    names = [str(path) for path in paths]
    given = {"tools": str(ROOT / "tools"), "imports": imports, "code": code, "paths": names}
    text = MEASURED.format(spare=SPARE, factor=FACTOR, **given)
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr


def zipped(pickled: bytes, **parts: bytes) -> bytes:
    """A .pth with this pickle, and storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, part in parts.items():
            archive.writestr(f"a/data/{name}", part)
    return file.getvalue()


def calls(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle of {"w": module.name(*arguments)}; arguments may be `Named` or bytes of pickle's own."""
    return b"\x80\x02}X\x01\x00\x00\x00w" + call(module, name, *arguments) + b"s."


def call(module: str, name: str, *arguments: Any) -> bytes:
    parts = [a if isinstance(a, bytes) else pickle.dumps(a, 2)[2:-1] for a in arguments]
    return f"c{module}\n{name}\n(".encode() + b"".join(parts) + b"tR"


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"


MANY = b"J\xff\xff\xff\x7f"  # 2,147,483,647


def tensor(size: tuple, stride: tuple, storage: bytes = STORAGE) -> bytes:
    return call(
        "torch._utils", "_rebuild_tensor_v2", storage, 0, size, stride, False, call("collections", "OrderedDict")
    )


def doubled(times: int) -> bytes:
    """A list that contains a list twice, and so on."""
    value: list = []
    for _ in range(times):
        value = [value, value]
    return pickle.dumps({"w": value}, 2)


def nested_codecs(times: int) -> bytes:
    inner = pickle.dumps("x" * 500, 2)[2:-1]
    for codec in ("latin1", *["hex"] * times):
        inner = call("_codecs", "encode", inner, codec)
    return b"\x80\x02}X\x01\x00\x00\x00w" + inner + b"s."


float32 = b"ctorch\nfloat32\n"
STATES: dict[str, tuple[bytes, str]] = {
    "codecs": (zipped(nested_codecs(21)), "the codec hex"),
    "codecs_of_bytes": (zipped(calls("_codecs", "encode", "x" * 500, "zlib")), "the codec zlib"),
    "bytearray": (zipped(calls("builtins", "bytearray", 2**31)), "builtin__.bytearray"),
    "numpy_void": (
        zipped(calls("numpy.core.multiarray", "scalar", call("numpy", "dtype", "V2000000000", False, True))),
        "NumPy's V2000000000",
    ),
    "numpy_text": (
        zipped(calls("numpy.core.multiarray", "scalar", call("numpy", "dtype", "U500000000", False, True), b"U\x01x")),
        "no checkpoint at all",
    ),
    "numpy_struct": (
        zipped(
            b"\x80\x02}X\x01\x00\x00\x00w"
            + call(
                "numpy.core.multiarray",
                "scalar",
                call("numpy", "dtype", "f8", False, True) + pickle.dumps((3, "f8," * 200_000, 0), 2)[2:-1] + b"b",
            )
            + b"s."
        ),
        "NumPy's f8,f8,",
    ),
    "numpy_array": (zipped(calls("numpy.core.multiarray", "_reconstruct", (0,))), "numpy.core.multiarray._reconstruct"),
    "view": (
        zipped(b"\x80\x02}X\x01\x00\x00\x00w" + tensor((10**7, 1, 256), (0, 0, 0)) + b"s.", **{"0": bytes(4)}),
        "many times more numbers than it stores",
    ),
    "storage": (
        zipped(b"\x80\x02}X\x01\x00\x00\x00w" + tensor((1,), (1,), STORAGE.replace(b"K\x01", MANY)) + b"s."),
        "more numbers than the file has bytes",
    ),
    "lists": (zipped(doubled(60)), "takes more than 48 MB"),
    "deep": (zipped(b"\x80\x02}X\x01\x00\x00\x00w" + b"]" * 100_000 + b"a" * 99_999 + b"s."), "more than 50 deep"),
    "many": (zipped(b"\x80\x02}X\x01\x00\x00\x00w](" + b"}" * 2_000_000 + b"es."), "takes more than 48 MB"),
    "keys": (zipped(b"\x80\x02}" + b"K\x01" + b"q\x00h\x00\x86" * 40 + b"Ns."), "a tuple as a key"),
    "memo": (zipped(b"\x80\x02}r\xff\xff\xff\x7f."), "read"),
    "meta": (
        zipped(calls("torch._utils", "_rebuild_meta_tensor_no_storage", float32, (10**6, 10**6), (1, 1), False)),
        "w is a meta tensor",
    ),
    "sparse": (zipped(calls("torch._utils", "_rebuild_sparse_tensor", 0, ())), "w is a sparse tensor"),
    "quantised": (zipped(calls("torch._utils", "_rebuild_qtensor", 0)), "w is a quantised tensor"),
    "program": (zipped(calls("__torch__.models", "Net")), "__torch__.models.Net"),
    "parts": (
        b"PK\x03\x04" + b"PK\x01\x02" * 60_000 + bytes(2),
        "more than 50,000 parts",
    ),
    "old": (
        b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        + b"\x80\x02}X\x01\x00\x00\x00w"
        + tensor((1,), (1,), STORAGE.replace(b"K\x01t", MANY + b"Nt"))
        + b"s.",
        "more numbers than the file has bytes",
    ),
}  # fmt: skip


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of 10 x 10 grey pixels with more tags: number, type, how many values, and these or where they are. The
    pixels, and then the `data`, begin at byte 8."""
    data = (bytes(100) + data).ljust(102 + len(data) % 2, b"\0")
    own = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 10, 279: 100}
    entries = {tag: (tag, 4, 1, value) for tag, value in own.items()} | {entry[0]: entry for entry in tags}
    packed = b"".join(struct.pack("<HHII", *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + packed + bytes(4)


def png_with(start: bytes, kind: bytes, *contents: bytes) -> bytes:
    """A PNG, with more chunks of one kind behind its first."""
    chunks = [len(c).to_bytes(4, "big") + kind + c + zlib.crc32(kind + c).to_bytes(4, "big") for c in contents]
    return start[:33] + b"".join(chunks) + start[33:]


def tiff_with_two_sizes() -> bytes:
    """A TIFF of LZW strips with its width and its length twice: 10 for the reader that takes the last, 30,000 first."""
    size = 30_000
    tags = [(256, 4, size), (256, 4, 10), (257, 4, size), (257, 4, 10), (258, 3, 8), (259, 3, 5), (262, 3, 1)]
    tags += [(273, 4, 200), (277, 3, 1), (278, 4, size), (279, 4, 100)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (head + entries + bytes(4)).ljust(200, b"\0") + bytes(100)
