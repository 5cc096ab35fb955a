"""The sources that a user names on the command line, and the names and ids of their results.

A source is an image, a folder, a pattern such as "images/**/*.jpg", a video, or a camera's number.
"""

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..dataset import coco
from ..errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Sources:
    """Files, each once, in the order in which they were named, the numbers of cameras, and the folders in which the
    images were looked for."""

    images: list[Path]
    folders: list[str]
    videos: list[Path]
    cameras: list[int]

    @property
    def names(self) -> list[str]:
        """The images' paths from the folder that was named, or from the one that all named folders share."""
        root = os.path.commonpath(self.folders) if self.folders else ""
        return [path_from(root, file) for file in self.images]


def path_from(folder: str, file: Path) -> str:
    return Path(os.path.relpath(os.path.abspath(file), folder)).as_posix()


def expand(names: Sequence[str]) -> Sources:
    """The files and cameras that the sources name. Raises UserError for a source that names none."""
    files: dict[str, Path] = {}
    folders: dict[Path, str] = {}
    cameras: dict[int, None] = {}
    for name in names:
        if name.isdecimal() and not os.path.exists(name):
            cameras[int(name)] = None
        else:
            folder, found = _files(name)
            for file in found:
                if files.setdefault(os.path.realpath(file), file) is file:
                    folders[file] = os.path.abspath(folder)
    images = [file for file in files.values() if file.suffix.lower() in IMAGES]
    return Sources(
        images=images,
        folders=[folders[file] for file in images],
        videos=[file for file in files.values() if file.suffix.lower() in VIDEOS],
        cameras=list(cameras),
    )


def _files(name: str) -> tuple[Path, list[Path]]:
    """The folder that a source names and its files in it."""
    endings = f"known endings are {' '.join(IMAGES + VIDEOS)}"
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() not in IMAGES + VIDEOS:
            raise UserError(f"{name}: neither an image nor a video by its name; {endings}")
        return path.parent, [path]
    if path.is_dir():
        # Hidden files are not the user's: macOS puts a ._name beside each image.
        folder, candidates = path, [file for file in path.iterdir() if not file.name.startswith(".")]
    elif glob.has_magic(name):
        folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        candidates = [Path(found) for found in glob.glob(name, recursive=True)]
    else:
        raise UserError(f"{name}: there is no such file or folder, and it is neither a pattern nor a camera's number")
    known = sorted(file for file in candidates if file.suffix.lower() in IMAGES + VIDEOS and file.is_file())
    if not known:
        raise UserError(f"{name}: no image or video there; {endings}")
    return folder, known


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
    """The images' ids in COCO's files, in the order of the images, the sizes (width, height) that a list gives them,
    and the category of a person. Ids that are `places` stand for no image: only for a place in this order."""

    ids: list[int]
    category: dict[str, Any]
    sizes: list[tuple[int, int] | None]
    places: bool = False


def numbering(sources: Sources, annotations: Path | None = None) -> Numbering:
    """The ids of an annotation file, by the images' names; without one the numbers that the files' names consist of, as
    COCO's do, and if they do not, or one stands twice, 1, 2, 3 …

    An image is known by its path from the folder that was named, or by a longer end of its path.
    Raises UserError if the file does not list an image, or not unambiguously.
    """
    if annotations is None:
        stems = [file.stem for file in sources.images]
        own = [int(stem) for stem in stems if stem.isdecimal() and int(stem) < 2**63]
        places = len(set(own)) < len(stems)
        ids = list(range(1, len(stems) + 1)) if places else own
        return Numbering(ids, {"id": 1, "name": "person"}, [None] * len(stems), places)
    source = coco.read_annotations(annotations, image_info=True)
    listed: dict[tuple[str, ...], list[int]] = {}
    ends: list[tuple[str, ...]] = [PureWindowsPath(name).parts for name in source.images.names.tolist()]  # \\ too
    for index, parts in enumerate(ends):
        listed.setdefault(parts[-1:], []).append(index)
    found: dict[int, Path] = {}
    for file, name, folder in zip(sources.images, sources.names, sources.folders, strict=True):
        path, shortest = Path(os.path.abspath(file)).parts, Path(path_from(folder, file)).parts
        same_name = [index for index in listed.get((file.name,), []) if len(ends[index]) >= len(shortest)]
        fitting = [index for index in same_name if path[-len(ends[index]) :] == ends[index]]
        fitting = [index for index in fitting if ends[index] == Path(name).parts] or fitting
        if not fitting:
            raise UserError(f"{file}: {annotations} lists no image {name}")
        if len(fitting) > 1:
            several = " and ".join(str(source.images.ids[index]) for index in fitting)
            raise UserError(f"{file}: in {annotations} it could be image {several}; list paths from one folder")
        if other := found.get(fitting[0]):
            listed_as = str(source.images.names[fitting[0]])
            raise UserError(f"{file}: {other} fits {listed_as!r} in {annotations} too; list paths from one folder")
        found[fitting[0]] = file
    ids, sizes = source.images.ids[list(found)].tolist(), source.images.sizes[list(found)].tolist()
    return Numbering(ids, source.category, [(width, height) for width, height in sizes])


def list_beside(boxes: Path) -> Path:
    """Where tools/detect.py writes the list of the images that a file of boxes is of."""
    return boxes.with_name(f"{boxes.stem}_images.json")


def image_list(images: Iterable[tuple[str, int, tuple[int, int]]], category: dict[str, Any]) -> dict[str, list]:
    """A COCO file without annotations, such as image_info files, of images' names, ids, and sizes (width, height)."""
    listed = [
        {"id": number, "file_name": name, "width": width, "height": height} for name, number, (width, height) in images
    ]
    return {"images": listed, "categories": [category]}


def cut_short(error: UserError, done: int, what: str) -> UserError:
    """The error that ended a command after so many images or frames, saying that their results are saved."""
    return UserError(f"{error}; the {done} {what}(s) before it are saved, the rest is skipped")


def read_boxes(path: Path, known: Numbering, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each image the boxes (N, 4) and scores (N) of a COCO detection file scored `threshold` or more.

    Raises UserError if the file is malformed, or no box in it is of one of the images.
    """
    table, findings = coco.parse_detections(path, "detection file (--boxes)")
    image, scores, boxes = table["image_id"], table["score"], table["bbox"]
    coco.check_units(findings, "the boxes", boxes[:, :2] + boxes[:, 2:])
    findings.refuse(path)
    if known.places:
        raise UserError(
            f"{path}: nothing says which image its image_ids mean, as the images' names are no numbers and there is no "
            f"{list_beside(path)}; name the annotation file that lists them (--annotations)"
        )
    category = table["category_id"] == known.category["id"]
    if len(table) and not (np.isin(image, known.ids) & category).any():
        raise UserError(
            f"{path}: none of its {len(table)} boxes is a person's in one of the {len(known.ids)} images, whose "
            f"ids are {known.ids[0]} …; name the annotation file that gives them theirs (--annotations)"
        )
    taken = category & (scores >= threshold)
    return [(boxes[taken & (image == number)], scores[taken & (image == number)]) for number in known.ids]
