"""The sources on the command line, and the names and ids of their results.

A source is an image, a folder, a zip, a list (@FILE, a source a line), a pattern such as "images/**/*.jpg", a video,
its address, or a camera's number.
"""

import contextlib
import glob
import itertools
import logging
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypedDict
from urllib.parse import urlsplit

import numpy as np

from ..dataset import coco, detections
from ..dataset.findings import many
from ..dataset.images import opened_zip, orientation, stated_size
from ..dataset.json_fields import leads_out, read_json
from ..errors import UserError, passing_over
from ..pose.skeleton import PERSON
from ..runtime.files import open_to_read, read_bytes, root_cause
from .image import content

logger = logging.getLogger(__name__)

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
NO_BOXES = np.zeros((0, 4)), np.zeros(0)
SAME_SIZE = (2, 3, 4)  # EXIF orientations that leave the size as it is
CAMERA_DIGITS = 3  # of a camera's number at most
ADDRESS = re.compile("(https?|rtsps?)://", re.IGNORECASE)  # of a video or a camera


@dataclass(frozen=True)
class Sources:
    """Files, each once, in the order in which they were named; the addresses of videos; the numbers of cameras; and the
    folders that were searched for images."""

    images: list[Path]
    folders: list[str]
    videos: list[Path | str]
    cameras: list[int]

    @property
    def names(self) -> list[str]:
        """The images' paths relative to the named folder, or to the deepest common folder of several."""
        root = os.path.commonpath(self.folders) if self.folders else ""
        return [path_from(root, file) for file in self.images]


def path_from(folder: str, file: Path) -> str:
    return Path(os.path.relpath(os.path.abspath(file), folder)).as_posix()


def expand(names: Sequence[str], on_error: Callable[[UserError], None] | None = None) -> Sources:
    """The files, addresses and cameras of the sources.

    Raises UserError for a source that has none; with `on_error`, which is given the error, the others are taken.
    """
    files: dict[str, Path] = {}
    folders: dict[Path, str] = {}
    cameras: dict[int, None] = {}
    addresses: dict[str, None] = {}
    for name in names:
        if name.isdecimal() and len(name) <= CAMERA_DIGITS and not os.path.exists(name):
            cameras[int(name)] = None
        elif ADDRESS.match(name):
            addresses[ADDRESS.sub(lambda scheme: scheme[0].lower(), name)] = None
        else:
            for one in _listed(name, on_error):  # a file leads to no address and no camera
                with passing_over(on_error):
                    folder, found = _files(one)
                    for file in found:
                        if files.setdefault(os.path.realpath(file), file) is file:
                            folders[file] = os.path.abspath(folder)
    images = [file for file in files.values() if file.suffix.lower() in IMAGES]
    return Sources(
        images=images,
        folders=[folders[file] for file in images],
        videos=[*(file for file in files.values() if file.suffix.lower() in VIDEOS), *addresses],
        cameras=list(cameras),
    )


def _listed(name: str, on_error: Callable[[UserError], None] | None) -> list[str]:
    """The sources in a list, which is named with an @ before it, else the one itself."""
    if not name.startswith("@") or os.path.exists(name):
        return [name]
    with passing_over(on_error):
        try:
            lines = read_bytes(Path(name[1:])).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise UserError(f"{name[1:]}: cannot read this list of sources ({root_cause(error)})") from None
        return [line for line in lines if line.strip()]
    return []


def _members(archive: Path) -> list[Path]:
    """The files in a zip, each as a path through it."""
    with opened_zip(archive) as opened:
        names = opened.namelist()
    for name in filter(leads_out, names):
        raise UserError(f"{archive}: its member {name!r} leads out of the zip")
    return [archive / name for name in names]


def _files(name: str) -> tuple[Path, list[Path]]:
    """The folder that a source names, and the files in it."""
    try:
        return _found(name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None


def _found(name: str) -> tuple[Path, list[Path]]:
    path = Path(name)
    readable: tuple[str, ...] = IMAGES + VIDEOS
    endings = f"known endings are {' '.join(readable)}"
    if path.suffix.lower() == ".zip" and path.is_file():
        folder, candidates, readable = path, _members(path), IMAGES
        endings = f"in a zip, known endings are {' '.join(readable)}"
    elif path.is_file():
        if path.suffix.lower() not in readable:
            raise UserError(f"{name}: the name does not end like an image or a video; {endings}")
        return path.parent, [path]
    elif path.is_dir():
        folder, candidates = path, list(path.iterdir())
    elif glob.has_magic(name):
        folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        candidates = [Path(found) for found in glob.glob(name, recursive=True)]
    elif path.exists():
        raise UserError(f"{name}: neither a file nor a folder; a pipe or a device is not read")
    else:
        raise UserError(f"{name}: there is no such file or folder, and it is not a pattern or a camera number")
    # Hidden files are skipped: macOS puts a ._name beside each image.
    shown = [file for file in candidates if not file.name.startswith(".")]
    known = sorted(file for file in shown if file.suffix.lower() in readable and not file.is_dir())
    if not known and readable == IMAGES and any(file.suffix.lower() in VIDEOS for file in shown):
        raise UserError(f"{name}: videos in a zip are not read: unpack it")
    if other := sorted(str(file) for file in set(shown).difference(known) if _is_media(file)):
        logger.warning("%s: passed over: %s, such as %s; %s", name, many(len(other), "file"), other[0], endings)
    if not known:
        raise UserError(f"{name}: no image or video is there; {endings}")
    return folder, known


def _is_media(file: Path) -> bool:
    """Whether a file's ending is that of an image or a video, of those that are read here or others."""
    kind = mimetypes.guess_type(file.name)[0] or ""
    return (kind.startswith(("image/", "video/")) or file.suffix.lower() in VIDEOS) and not file.is_dir()


def result_names(sources: Sequence[Path | str | int], taken: Sequence[str] = ()) -> list[str]:
    """A name for the results of each source: its own without the ending, plus a number if two are the same."""
    used = {name.lower() for name in taken}  # some file systems ignore case
    names = []
    for source in sources:
        own = f"camera{source}" if isinstance(source, int) else _stem(source)
        name, number = own, 1
        while name.lower() in used:
            number += 1
            name = f"{own}-{number}"
        used.add(name.lower())
        names.append(name)
    return names


def _stem(source: Path | str) -> str:
    if isinstance(source, Path):
        return source.stem
    address = urlsplit(source)
    return re.sub(r"[^\w.-]+", "_", Path(address.path).stem or address.hostname or "video")


class _ListHead(TypedDict, total=False):
    """What the list of images of tools/detect.py says about all of them."""

    turned_as_exif_says: Any


@dataclass(frozen=True)
class Numbering:
    """Images and their names; their ids in COCO's files; their sizes (width, height) in the list of images; the
    category of the detections; and whether images were rotated as EXIF says, according to the list. Ids that are
    `places` are positions in this order, and not ids from a file."""

    files: list[Path]
    names: list[str]
    ids: list[int]
    category: dict[str, Any]
    sizes: list[tuple[int, int] | None]
    places: bool = False
    turned: bool | None = None

    def refuse_otherwise_turned(self, turned: bool) -> None:
        """Raise UserError if the list's images were read with the other EXIF setting: sizes do not show half a turn.

        If the list does not state the setting, warn of the first image with an orientation that keeps the size.
        """
        if self.turned not in (None, turned):
            how = "rotated as EXIF says: leave out --ignore-exif" if self.turned else "as stored: pass --ignore-exif"
            raise UserError(f"the list of images was written for images {how}, or write it again")
        if turned and self.turned is None and any(self.sizes):
            for file in itertools.islice((file for file in self.files if orientation(_content(file)) in SAME_SIZE), 1):
                logger.warning(
                    "%s: is rotated as its EXIF orientation says, and the list of images does not state whether it was "
                    "written for such images; if it was written for images as stored, pass --ignore-exif",
                    file,
                )


def numbering(
    sources: Sources,
    annotations: Path | None = None,
    category: str = PERSON,
    on_error: Callable[[UserError], None] | None = None,
) -> Numbering:
    """The ids of an annotation file, by the images' names. Without one, the numbers in the files' names if all names
    are numbers, as COCO's are, and differ; else 1, 2, 3 …

    An image is known by its path from the folder that was named, or by a longer end of its path. One that the file does
    not list is left out if `on_error` is given the error. Raises UserError for it otherwise, and for one that could be
    several of the list's.
    """
    if annotations is None:
        stems = [file.stem for file in sources.images]
        own = [int(stem) for stem in stems if stem.isdecimal() and int(stem) < 2**63]
        places = len(set(own)) < len(stems)
        ids = list(range(1, len(stems) + 1)) if places else own
        return Numbering(sources.images, sources.names, ids, {"id": 1, "name": category}, [None] * len(stems), places)
    source = _annotations(annotations, category, image_info=True)
    listed: dict[tuple[str, ...], list[int]] = {}
    ends: list[tuple[str, ...]] = [PureWindowsPath(name).parts for name in source.images.names.tolist()]  # \\ too
    for index, parts in enumerate(ends):
        listed.setdefault(parts[-1:], []).append(index)
    found: dict[int, tuple[Path, str]] = {}
    for file, name, folder in zip(sources.images, sources.names, sources.folders, strict=True):
        path, shortest = Path(os.path.abspath(file)).parts, Path(path_from(folder, file)).parts
        same_name = [index for index in listed.get((file.name,), []) if len(ends[index]) >= len(shortest)]
        fitting = [index for index in same_name if path[-len(ends[index]) :] == ends[index]]
        fitting = [index for index in fitting if ends[index] == Path(name).parts] or fitting
        if not fitting:
            with passing_over(on_error):
                raise UserError(f"{file}: {annotations} lists no image {name}")
            continue
        if len(fitting) > 1:
            several = " and ".join(str(source.images.ids[index]) for index in fitting)
            raise UserError(f"{file}: in {annotations} it could be image {several}; list paths from one folder")
        if other := found.get(fitting[0]):
            listed_as = str(source.images.names[fitting[0]])
            raise UserError(f"{file}: {other[0]} fits {listed_as!r} in {annotations} too; list paths from one folder")
        found[fitting[0]] = file, name
    ids, sizes = source.images.ids[list(found)].tolist(), source.images.sizes[list(found)].tolist()
    turned = read_json(annotations, "list of images", _ListHead).get("turned_as_exif_says")
    files, names = [file for file, _ in found.values()], [name for _, name in found.values()]
    return Numbering(files, names, ids, source.category, [(width, height) for width, height in sizes], turned=turned)


def _content(file: Path) -> bytes:
    """An image's file; empty if it cannot be read: predicting on it says why."""
    with contextlib.suppress(UserError):
        return content(file, str(file))
    return b""


def list_beside(boxes: Path) -> Path:
    """The path of the list of images that tools/detect.py writes beside a detection file."""
    return boxes.parent / f"{boxes.stem}_images.json"


def image_list(
    images: Iterable[tuple[str, int, tuple[int, int]]], category: dict[str, Any], turned: bool
) -> dict[str, Any]:
    """A COCO image_info file (no annotations) of the images' names, ids, and sizes (width, height)."""
    listed = [
        {"id": number, "file_name": name, "width": width, "height": height} for name, number, (width, height) in images
    ]
    return {"turned_as_exif_says": turned, "images": listed, "categories": [category]}


def cut_short(error: UserError, done: int) -> UserError:
    """The error that ended a video after `done` frames, with a remark that their results are saved."""
    return UserError(f"{error}; the results of the {done} frame(s) before it are saved, the rest is skipped")


Boxes = tuple[np.ndarray, np.ndarray]  # (N, 4) and scores (N)


def read_boxes(path: Path, known: Numbering, threshold: float) -> list[Boxes]:
    """The boxes of each image: those of a COCO detection file scored `threshold` or more, or an annotation file's.

    Raises UserError if the file is malformed, or no box in it is of one of the images.
    """
    sizes = (size or stated_size(_content(file)) for file, size in zip(known.files, known.sizes, strict=True))
    found = _boxes_by_image(path, known.category, threshold, dict(zip(known.ids, sizes, strict=True)))
    if known.places:
        raise UserError(
            f"{path}: it is unknown which images its image_ids mean, because the images' names are not numbers and "
            f"there is no {list_beside(path)}; name the annotation file that lists them (--annotations)"
        )
    if found and not found.keys() & set(known.ids):
        count = sum(len(scores) for _, scores in found.values())
        raise UserError(
            f"{path}: none of its {count} boxes of category {known.category['id']} belongs to one of the "
            f"{len(known.ids)} images, whose ids are {known.ids[0]} …; name the annotation file with the images' ids "
            "(--annotations)"
        )
    return [found.get(number, NO_BOXES) for number in known.ids]


@dataclass(frozen=True)
class ListedBoxes:
    """The boxes of a file, by the number of their frame; called with a number, it gives the frame's."""

    path: Path
    found: dict[int, Boxes]

    def __call__(self, frame: int) -> Boxes:
        return self.found.get(frame, NO_BOXES)

    def expect_frames(self, count: int) -> None:
        """Warn of boxes that belong to no frame of a video of `count` frames.

        Raises UserError if none belongs to one.
        """
        others = [number for number in self.found if not 0 <= number < count]
        if not others:
            return
        says = (
            f"{self.path}: {len(others)} of the {len(self.found)} frames with boxes are not in the video, whose frames "
            f"are 0 to {count - 1}; the first is {others[0]}"
        )
        if len(others) == len(self.found):
            raise UserError(says)
        logger.warning("%s", says)


def read_frame_boxes(path: Path, category: str, threshold: float) -> ListedBoxes:
    """The boxes of a video's frames, by the frame's number (from 0): the image_id in a detection file, and the last
    number in an image's file_name in an annotation file.

    Raises UserError if the file is malformed, or two images of an annotation file have the same number.
    """
    found = _boxes_by_image(path, {"id": 1, "name": category}, threshold)
    if is_annotation_file(path):
        images = _annotations(path, category).images
        numbers = [re.findall(r"\d+", name) for name in images.names.tolist()]
        frames = [int(digits[-1]) if digits else None for digits in numbers]
        if None in frames or len(set(frames)) < len(frames):
            raise UserError(
                f"{path}: the last number in each file_name must be the frame's number, and differ between images"
            )
        found = {
            frame: found[number]
            for frame, number in zip(frames, images.ids.tolist(), strict=True)
            if frame is not None and number in found
        }
    return ListedBoxes(path, found)


def is_annotation_file(path: Path) -> bool:
    """Whether a JSON file is a COCO annotation file, and not a list of detections."""
    try:
        with open_to_read(path) as file:
            return file.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False  # reading it raises the error


def _annotations(path: Path, category: str, image_info: bool = False) -> coco.Annotations:
    """A COCO annotation file's objects of the category; persons need not be named so."""
    asked = "" if category == PERSON else category
    wording = coco.Wording("", f"give a file that has the category {category}, which is looked for here")
    return coco.read_annotations(path, category_name=asked, image_info=image_info, wording=wording)


def _boxes_by_image(
    path: Path, category: dict[str, Any], threshold: float, stated: Mapping[int, tuple[int, int] | None] = {}
) -> dict[int, Boxes]:
    """The boxes of the category by image_id; `stated` are the known sizes (width, height) of images."""
    if is_annotation_file(path):
        source = _annotations(path, category["name"])
        table, sizes = source.table, source.sizes
        findings, scores, own = table.check("image_id", "bbox", "iscrowd"), np.ones(len(table)), ~table["iscrowd"]
        others = "as a crowd"
    else:
        table, findings = detections.parse_detections(path, "detection file (--boxes)")
        scores, own, others = table["score"], table["category_id"] == category["id"], "of other categories"
        if category["name"] != PERSON and len(np.unique(table["category_id"])) == 1:
            own[:] = True  # all boxes of one category, whatever its id, are those of the wanted one
        sizes = np.array([stated.get(number) or (0, 0) for number in table["image_id"].tolist()]).reshape(-1, 2)
    boxes, image = table["bbox"], table["image_id"]
    coco.check_units(findings, "the boxes", boxes.reshape(-1, 2, 2), sizes, image)
    findings.refuse(path)
    findings.warn(path)
    if len(table) and not own.any():
        raise UserError(f"{path}: none of its {len(table)} boxes is of category {category['id']}, {category['name']}")
    low = scores < threshold
    reasons = coco.first_reasons({others: ~own, f"scored below {threshold:g} (--box-score)": low})
    if left_out := coco.count_reasons(reasons):
        logger.info("%s: %d boxes; left out: %s", path, (own & ~low).sum(), left_out)
    places = {number: own & (image == number) for number in np.unique(image[own]).tolist()}
    return {number: (boxes[one & ~low], scores[one & ~low]) for number, one in places.items()}
