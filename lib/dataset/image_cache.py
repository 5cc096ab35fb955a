"""Images decoded once into one file that is mapped into memory: pixels without JPEG, shared by all processes.

For sets that are read from slow disks, or where decoding bounds training. Beside the pixels lies an index with the
names, sizes, places, and a SHA-256 of what the store was made from: each image's name, length and time of change,
or its length and checksum in a zip. It is used while that is the same.
"""

import hashlib
import io
import itertools
import logging
import os
import threading
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import UserError
from ..runtime.files import write_atomically
from .images import ImageReader

logger = logging.getLogger(__name__)

AT_ONCE = 256  # images decoded before they are written

Follow = Callable[[list[str]], Iterable[str]]  # for a progress bar


class DecodedImages:
    """Reads what `build` wrote; used in place of an `ImageReader`.

    `pixels` (P) uint8 are all images one after the other, each (H, W, 3) BGR from its place in `offsets` (I) on;
    `sizes` (I, 2) are width, height.
    """

    def __init__(self, path: Path):
        """Raises FileNotFoundError if there is none, ValueError if it is damaged."""
        self.path = self.source = path
        with np.load(_index_of(path), allow_pickle=False) as index:
            self.key = str(index["key"])
            self.sizes, self.offsets = index["sizes"], index["offsets"]
            self._place = {str(name): i for i, name in enumerate(index["names"])}
        if path.stat().st_size != _length(self.sizes):
            raise ValueError(f"{path}: not as long as its index says")
        self._map()

    def _map(self) -> None:
        # Writable for PyTorch's sake; what is written stays in this process.
        self.pixels = np.memmap(self.path, np.uint8, "c")

    def __getstate__(self) -> dict:
        # A loading process maps the file itself, instead of getting its content.
        return {name: value for name, value in self.__dict__.items() if name != "pixels"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()

    def place(self, name: str) -> int:
        """Index (of I) of an image."""
        return self._place[name]

    def read(self, name: str, owner: str) -> np.ndarray:
        """Pixels (H, W, 3), BGR, not to be written to. Raises UserError if the image is not in the store."""
        if name not in self._place:
            raise UserError(f"{self.path}: {name} ({owner}) is not among the decoded images; remove the file")
        place = self._place[name]
        width, height = self.sizes[place].tolist()
        start = int(self.offsets[place])
        return self.pixels[start : start + 3 * width * height].reshape(height, width, 3)


def path_in(folder: Path, source: Path) -> Path:
    """The file in `folder` for the images of a folder or zip."""
    return folder / f"{source.stem}-{hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:12]}.bin"


def opened(path: Path, reader: ImageReader, names: list[str], follow: Follow = iter) -> DecodedImages:
    """The store at `path` of the images `names`, made first if it is missing, damaged or out of date.

    `follow` sees the names as they are decoded. Raises UserError for an image that cannot be read, and where there
    is no room.
    """
    key = _key(reader, names)
    try:
        store = DecodedImages(path)
        if store.key == key:
            return store
        logger.info("%s: the images have changed, they are decoded again", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged, made again (%s)", path, error)
    _build(path, reader, names, key, follow)
    return DecodedImages(path)


def _index_of(path: Path) -> Path:
    return path.with_suffix(".npz")


def _length(sizes: np.ndarray) -> int:
    return int(3 * sizes.prod(1).sum())


def _key(reader: ImageReader, names: list[str]) -> str:
    digest = hashlib.sha256()
    try:
        if reader.source.suffix == ".zip":
            with zipfile.ZipFile(reader.source) as archive:
                known = {member.filename: f"{member.file_size} {member.CRC}" for member in archive.infolist()}
            marks = [known.get(name, "") for name in names]
        else:
            stats = [os.stat(reader.source / name) for name in names]
            marks = [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read the image ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{reader.source}: cannot read the zip ({error})") from None
    for name, mark in zip(names, marks, strict=True):
        digest.update(f"{name}\n{mark}\n".encode())
    return digest.hexdigest()


def _build(path: Path, reader: ImageReader, names: list[str], key: str, follow: Follow) -> None:
    logger.info("decoding %d images into %s", len(names), path)
    sizes = np.zeros((len(names), 2), np.int64)

    own = threading.local()

    def decode(name: str) -> np.ndarray:
        # Each thread has its own reader, because a reader's position in a zip cannot be shared.
        if not hasattr(own, "reader"):
            own.reader = ImageReader(reader.source, max_pixels=reader.max_pixels)
        return own.reader.read(name, owner="to be decoded")

    def fill(file: IO[bytes]) -> None:
        names_left = iter(follow(names))
        done = 0
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            while batch := list(itertools.islice(names_left, AT_ONCE)):
                for image in threads.map(decode, batch):
                    sizes[done] = image.shape[1], image.shape[0]
                    file.write(image.tobytes())
                    done += 1

    # First, so that an interruption never leaves the old index beside new pixels.
    _index_of(path).unlink(missing_ok=True)
    write_atomically(path, fill)
    offsets = np.concatenate([[0], 3 * sizes.prod(1).cumsum()[:-1]]).astype(np.int64)
    index = io.BytesIO()
    np.savez(index, key=key, names=np.array(names, np.str_), sizes=sizes, offsets=offsets)
    write_atomically(_index_of(path), lambda file: file.write(index.getbuffer()))
