"""The sources that a user names on the command line, and the names and ids of their results.

A source is an image, a folder, a pattern such as "images/**/*.jpg", a video, or a camera's number.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import coco
from ..dataset.json_fields import Table, read_json
from ..errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Sources:
    """Files, each once, in the order in which they were named; the numbers of cameras."""

    images: list[Path]
    videos: list[Path]
    cameras: list[int]


def expand(names: Sequence[str]) -> Sources:
    """The files and cameras that the sources name. Raises UserError for a source that names none."""
    files: dict[str, Path] = {}
    cameras: dict[int, None] = {}
    for name in names:
        if name.isdecimal() and not os.path.exists(name):
            cameras[int(name)] = None
        else:
            for file in _files(name):
                files.setdefault(os.path.realpath(file), file)
    found = list(files.values())
    return Sources(
        images=[file for file in found if file.suffix.lower() in IMAGES],
        videos=[file for file in found if file.suffix.lower() in VIDEOS],
        cameras=list(cameras),
    )


def _files(name: str) -> list[Path]:
    endings = f"known endings are {' '.join(IMAGES + VIDEOS)}"
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() not in IMAGES + VIDEOS:
            raise UserError(f"{name}: neither an image nor a video by its name; {endings}")
        return [path]
    if path.is_dir():
        candidates = list(path.iterdir())
    elif glob.has_magic(name):
        candidates = [Path(found) for found in glob.glob(name, recursive=True)]
    else:
        raise UserError(f"{name}: there is no such file or folder, and it is neither a pattern nor a camera's number")
    known = sorted(file for file in candidates if file.suffix.lower() in IMAGES + VIDEOS and file.is_file())
    if not known:
        raise UserError(f"{name}: no image or video there; {endings}")
    return known


def result_names(files: Sequence[Path], taken: Sequence[str] = ()) -> list[str]:
    """A name for what is made of each file: its own without the ending, with a number where another has the same."""
    used = {name.lower() for name in taken}  # some file systems ignore case
    names = []
    for file in files:
        name, number = file.stem, 1
        while name.lower() in used:
            number += 1
            name = f"{file.stem}-{number}"
        used.add(name.lower())
        names.append(name)
    return names


@dataclass(frozen=True)
class Numbering:
    """The images' ids in COCO's files, in the order of the images, and the category of a person."""

    ids: list[int]
    category: dict[str, Any]


def numbering(files: Sequence[Path], annotations: Path | None = None) -> Numbering:
    """The ids of an annotation file, by the files' names; without one the numbers that the names consist of, as COCO's
    do, and if they do not, or one stands twice, 1, 2, 3 …

    Raises UserError if the annotation file does not list an image.
    """
    if annotations is None:
        stems = [file.stem for file in files]
        own = [int(stem) for stem in stems if stem.isdecimal() and int(stem) < 2**63]
        ids = own if len(set(own)) == len(stems) else list(range(1, len(stems) + 1))
        return Numbering(ids, {"id": 1, "name": "person"})
    source = coco.read_annotations(annotations, image_info=True)
    listed = dict(zip(source.images.names.tolist(), source.images.ids.tolist(), strict=True))
    for file in files:
        if file.name not in listed:
            raise UserError(f"{file}: {annotations} lists no image of this name")
    return Numbering([listed[file.name] for file in files], source.category)


def image_list(
    files: Sequence[Path], sizes: Sequence[tuple[int, int]], numbers: Numbering
) -> dict[str, list[dict[str, Any]]]:
    """A COCO file without annotations, such as image_info files, of the first images: those of `sizes` (width,
    height)."""
    images = [
        {"id": number, "file_name": file.name, "width": width, "height": height}
        for number, file, (width, height) in zip(numbers.ids, files, sizes, strict=False)
    ]
    return {"images": images, "categories": [numbers.category]}


def cut_short(error: UserError, done: int, what: str) -> UserError:
    """The error that ended a command after so many images or frames, saying that their results are saved."""
    return UserError(f"{error}; the {done} {what}(s) before it are saved, the rest is skipped")


def read_boxes(path: Path, known: Numbering, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each image the boxes (N, 4) and scores (N) of a COCO detection file scored `threshold` or more.

    Raises UserError if the file is malformed, or no box in it is of one of the images.
    """
    what = "detection file (--boxes)"
    content = read_json(path, what, list[dict[str, Any]])
    table = Table.read(content, "detection", coco.DETECTION)
    table.check().refuse(path)
    image, scores, boxes = table["image_id"], table["score"], table["bbox"]
    category = table["category_id"] == known.category["id"]
    if len(content) and not (np.isin(image, known.ids) & category).any():
        raise UserError(
            f"{path}: none of its {len(content)} boxes is a person's in one of the {len(known.ids)} images, whose "
            f"ids are {known.ids[0]} …; name the annotation file that gives them theirs (--annotations)"
        )
    taken = category & (scores >= threshold)
    return [(boxes[taken & (image == number)], scores[taken & (image == number)]) for number in known.ids]
