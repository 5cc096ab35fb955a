"""The instances of a large annotation file, saved as arrays, so that the file is parsed once.

An entry holds the SHA-256 of the annotation file's bytes, of the code that makes arrays of them, and of what else they
depend on. It is used while all three are the same, and built again when one has changed.
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
from .coco import COLUMNS, Annotations, Images, Instances

logger = logging.getLogger(__name__)

MIN_BYTES = 16 << 20  # of an annotation file that is worth an entry; a smaller one is parsed in a moment
IMAGE_COLUMNS = ("ids", "names", "sizes")


def load_or_build(
    folder: Path, path: Path, build: Callable[[], tuple[Annotations, Instances]], *, key: str
) -> tuple[Annotations, Instances]:
    """What `build` makes of the annotation file at `path`, from its entry in `folder` if that is up to date; an
    entry holds only the path, images and category of the annotations.

    `key` says what else the result depends on. A missing, damaged or outdated entry is written; a failure to write it
    is a warning. Raises what `build` raises.
    """
    if not path.is_file() or path.stat().st_size < MIN_BYTES:
        return build()
    name = hashlib.sha256(f"{path.absolute()}\n{key}".encode()).hexdigest()[:12]
    entry, checksum = folder / f"{path.stem}-{name}.npz", _checksum(path, key)
    found = _load(entry, checksum, path)
    if found is None:
        found = build()
        # The file may have been replaced while it was read.
        if _checksum(path, key) == checksum:
            _save(entry, checksum, *found)
    return found


def _checksum(path: Path, key: str) -> str:
    # Mapped, not read, which would copy some hundred megabytes.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        digest = hashlib.sha256(content)
    for source in (__file__, coco.__file__, json_fields.__file__, geometry.__file__):
        digest.update(Path(source).read_bytes())
    digest.update(key.encode())
    return digest.hexdigest()


def _load(entry: Path, checksum: str, path: Path) -> tuple[Annotations, Instances] | None:
    try:
        with np.load(entry, allow_pickle=False) as file:
            if str(file["key"]) != checksum:
                return None
            images = Images(*(file[f"image_{name}"] for name in IMAGE_COLUMNS))
            source = Annotations(path, images, json.loads(str(file["category"])))
            columns = {name: file[name] for name in COLUMNS}
            return source, Instances(images=images, **columns, unlisted=int(file["unlisted"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged, built again (%s)", entry, error)
        return None


def _save(entry: Path, checksum: str, source: Annotations, instances: Instances) -> None:
    columns = {name: getattr(instances, name) for name in COLUMNS}
    columns |= {f"image_{name}": getattr(source.images, name) for name in IMAGE_COLUMNS}
    content = io.BytesIO()
    np.savez(content, key=checksum, category=json.dumps(source.category), unlisted=instances.unlisted, **columns)
    try:
        write_atomically(entry, lambda file: file.write(content.getbuffer()))
    except UserError as error:
        logger.warning("%s; the next run parses %s again (DATASET.INDEX_CACHE)", error, source.path)
