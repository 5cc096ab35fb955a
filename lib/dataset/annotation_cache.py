"""The persons of a large annotation file, kept on disk as arrays, so that the file is parsed once.

An entry names the SHA-256 of the annotation file's bytes, of the code that made arrays of them, and of what was asked
for. It serves while all three are the same; a changed file, reader or wish makes it anew.
"""

import hashlib
import io
import json
import logging
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..pose import geometry
from ..runtime.files import write_atomically
from . import coco, json_fields
from .coco import COLUMNS, Images, ImageSet, Instances

logger = logging.getLogger(__name__)

SMALLEST = 16 << 20  # bytes of an annotation file that is worth an entry; a smaller one is parsed in a moment
IMAGE_COLUMNS = ("ids", "names", "sizes")


def kept(
    folder: Path, path: Path, asked: str, read: Callable[[], tuple[ImageSet, Instances]]
) -> tuple[ImageSet, Instances]:
    """What `read` makes of the annotation file at `path`, from its entry in `folder` if that is up to date.

    `asked` says what else the result depends on. A missing, damaged or outdated entry is written anew; one that cannot
    be written is done without. Raises what `read` raises.
    """
    if not path.is_file() or path.stat().st_size < SMALLEST:
        return read()
    name = hashlib.sha256(f"{path.absolute()}\n{asked}".encode()).hexdigest()[:12]
    entry, key = folder / f"{path.stem}-{name}.npz", _key(path, asked)
    found = _load(entry, key, path)
    if found is None:
        found = read()
        # The file may have been replaced while it was read.
        if _key(path, asked) == key:
            _save(entry, key, *found)
    return found


def _key(path: Path, asked: str) -> str:
    # Mapped, not read, which would copy some hundred megabytes.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        digest = hashlib.sha256(content)
    for source in (__file__, coco.__file__, json_fields.__file__, geometry.__file__):
        digest.update(Path(source).read_bytes())
    digest.update(asked.encode())
    return digest.hexdigest()


def _load(entry: Path, key: str, path: Path) -> tuple[ImageSet, Instances] | None:
    try:
        with np.load(entry, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            images = Images(*(file[f"image_{name}"] for name in IMAGE_COLUMNS))
            source = ImageSet(path, images, json.loads(str(file["category"])))
            columns = {name: file[name] for name in COLUMNS}
            return source, Instances(images=images, **columns, unlisted=int(file["unlisted"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged, made anew (%s)", entry, error)
        return None


def _save(entry: Path, key: str, source: ImageSet, persons: Instances) -> None:
    columns = {name: getattr(persons, name) for name in COLUMNS}
    columns |= {f"image_{name}": getattr(source.images, name) for name in IMAGE_COLUMNS}
    content = io.BytesIO()
    np.savez(content, key=key, category=json.dumps(source.category), unlisted=persons.unlisted, **columns)
    try:
        write_atomically(entry, lambda file: file.write(content.getbuffer()))
    except UserError as error:
        logger.warning("%s; the next run parses %s again (DATASET.INDEX_CACHE)", error, source.path)
