"""Annotations or detections -> one table of persons, held as arrays so that workers share it without copying.

I images, N persons, K keypoints. Boxes are x, y, w, h in image pixels, keypoints x, y in image pixels.
The files are in COCO's format (https://cocodataset.org/#format-data).
"""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from transpose import geometry
from transpose.errors import UserError

logger = logging.getLogger(__name__)

LARGEST = 2**63  # what the arrays' integers hold
LONGEST = 60  # characters of a wrong value that a sentence shows
ANNOTATION_FILE = "annotation file (DATASET.ROOT, TRAIN_SET, TEST_SET)"
DETECTION_FILE = "detection file (TEST.COCO_BBOX_FILE)"


@dataclass(frozen=True)
class Images:
    """The images of a set: ids (I) int64, file names (I), sizes (I, 2) as width, height."""

    ids: np.ndarray
    names: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class People:
    """The persons to crop: ids (N) of the annotation or place in the detection file, image (N) index into `images`,
    boxes (N, 4), scores (N) of the boxes, keypoints (N, K, 2), visible (N, K) as 0 or 1."""

    images: Images
    ids: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Annotations:
    """An annotation file: its path, images, the person category, and that category's annotations as in the file."""

    path: Path
    images: Images
    category: dict[str, Any]
    annotations: list[dict[str, Any]]


def read_annotations(path: Path, with_people: bool = True, category_name: str = "") -> Annotations:
    """Read a COCO annotation file, or an image-info file without annotations (`with_people` false).

    The category is the one of that name; without a name "person", or the only one there is.
    Raises UserError for a file that is missing, no JSON, or not in COCO's format.
    """
    return annotations_of(read_json(path, ANNOTATION_FILE), path, with_people, category_name)


def annotations_of(content: Any, path: Path, with_people: bool = True, category_name: str = "") -> Annotations:
    """The same from what the file at `path` holds."""
    wanted = ["images", "annotations", "categories"] if with_people else ["images", "categories"]
    for key in wanted:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: not a COCO annotation file: it has no list '{key}'")
    images = content["images"]
    ids, width, height = (_numbers(images, key, np.int64, "image", path) for key in ("id", "width", "height"))
    names = _names(images, "file_name", "image", path)
    category = category_of(content["categories"], category_name, path)
    people = []
    if with_people:
        categories = _column(content["annotations"], "category_id", "annotation", path)
        _column(content["annotations"], "id", "annotation", path)
        people = [a for a, c in zip(content["annotations"], categories, strict=True) if c == category["id"]]
    table = Images(ids, np.array(names, dtype=np.str_), np.stack([width, height], 1))
    return Annotations(path, table, category, people)


def annotated_people(source: Annotations, num_joints: int) -> People:
    """Persons that are no crowd, have a valid box and any non-zero keypoint, in image order, then file order.

    Raises UserError when an annotation is malformed or none qualifies.
    """
    path, images = source.path, source.images
    candidates = [a for a in source.annotations if is_labelled(a) and not is_crowd(a)]
    known = _places(images, candidates, "annotation", path).tolist()
    if -1 in known:
        logger.warning("%s: %d annotations of images that it does not list are skipped", path, known.count(-1))
    candidates = [a for a, i in zip(candidates, known, strict=True) if i >= 0]
    image = np.array([i for i in known if i >= 0], np.int32)
    if known and not candidates:
        raise UserError(
            f"{path}: none of its {len(known)} labelled persons is in an image that it lists under 'images'"
        )
    if not candidates:
        raise UserError(f"{path}: no annotation of category '{source.category['name']}' has a labelled keypoint")

    ids = _numbers(candidates, "id", np.int64, "annotation", path)
    boxes = _rows(candidates, "bbox", 4, path)
    points = _rows(candidates, "keypoints", 3 * num_joints, path).reshape(-1, num_joints, 3)
    areas = _numbers(candidates, "area", np.float64, "annotation", path)

    boxes, valid = geometry.clean_boxes(boxes, images.sizes[image])
    keep = np.flatnonzero(valid & (areas > 0))
    if not len(keep):
        raise UserError(f"{path}: no annotated person has a box inside its image and a positive area")
    keep = keep[np.argsort(image[keep], kind="stable")]
    return People(
        images=images,
        ids=ids[keep],
        image=image[keep],
        boxes=boxes[keep],
        scores=np.ones(len(keep)),
        keypoints=points[keep, :, :2].astype(np.float32),
        visible=(points[keep, :, 2] > 0).astype(np.float32),
    )


def check_truth(source: Annotations, num_joints: int) -> None:
    """Raise UserError when an annotation, labelled or not, has not what COCO's evaluation looks at."""
    path, annotations = source.path, source.annotations
    _numbers(annotations, "image_id", np.int64, "annotation", path)
    areas = _numbers(annotations, "area", np.float64, "annotation", path)
    for index in np.flatnonzero(areas < 0)[:1].tolist():
        where = _label(annotations[index], index, "annotation")
        raise UserError(f"{path}: 'area' of {where} must not be negative: OKS divides by it")
    _rows(annotations, "bbox", 4, path)
    _rows([a for a in annotations if a.get("keypoints")], "keypoints", 3 * num_joints, path)
    ids = _numbers(annotations, "id", np.int64, "annotation", path)
    _refuse_duplicates(ids, "annotation", path)
    _numbers([a for a in annotations if "num_keypoints" in a], "num_keypoints", np.int64, "annotation", path)
    for index, annotation in enumerate(annotations):
        if annotation.get("iscrowd", 0) not in (0, 1):
            where, value = _label(annotation, index, "annotation"), shown(annotation["iscrowd"])
            raise UserError(f"{path}: 'iscrowd' of {where} must be 0 or 1, not {value}")


def detected_people(path: Path, source: Annotations, num_joints: int, threshold: float) -> People:
    """A detector's person boxes scored `threshold` or more, in file order, not clipped.

    The file is a COCO results list: image_id, category_id, bbox, score. Boxes of images that the annotation file does
    not list are counted and skipped. Raises UserError when the file is malformed or no box is left.
    """
    content = read_json(path, DETECTION_FILE)
    if not isinstance(content, list):
        raise UserError(f"{path}: a detection file is a list of boxes, this is a {type(content).__name__}")
    categories = _column(content, "category_id", "detection", path)
    image = _places(source.images, content, "detection", path)
    scores = _numbers(content, "score", np.float64, "detection", path)
    boxes = _rows(content, "bbox", 4, path, what="detection")

    person = np.array([category == source.category["id"] for category in categories], bool)
    if len(person) and not person.any():
        raise UserError(
            f"{path}: none of its {len(person)} boxes has the category_id {source.category['id']} "
            f"that '{source.category['name']}' has in {source.path}"
        )
    unknown = int((image[person] < 0).sum())
    if unknown == person.sum():
        raise UserError(
            f"{path}: none of its {unknown} person boxes is of an image of {source.path}; "
            "TEST.COCO_BBOX_FILE and DATASET.TEST_SET do not belong together"
        )
    if unknown:
        logger.warning("%s: %d boxes of images that %s does not list are skipped", path, unknown, source.path.name)
    empty = person & (boxes[:, 2:] <= 0).all(1)
    if empty.any():
        logger.warning("%s: %d boxes without an area are skipped", path, int(empty.sum()))
    keep = np.flatnonzero(person & (image >= 0) & ~empty & (scores >= threshold))
    if not len(keep):
        raise UserError(f"{path}: no person box is scored {threshold} (TEST.IMAGE_THRE) or more")
    return People(
        images=source.images,
        ids=keep,
        image=image[keep],
        boxes=boxes[keep],
        scores=scores[keep],
        keypoints=np.zeros((len(keep), num_joints, 2), np.float32),
        visible=np.ones((len(keep), num_joints), np.float32),
    )


def centred(people: People, aspect: float) -> np.ndarray:
    """Which persons (N, bool) have their visible joints around the box's centre (`SELECT_DATA` of the lineage)."""
    center, scale = geometry.boxes_to_crops(people.boxes, aspect)
    count = people.visible.sum(1)
    mean = (people.keypoints * people.visible[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    distance = ((mean - center) ** 2).sum(1)
    similarity = np.exp(-distance / (2 * 0.2**2 * geometry.crop_areas(scale)))
    return (count > 0) & (similarity > 0.45 + 0.0125 * (count - 1))


def select(people: People, keep: np.ndarray) -> People:
    """The persons that `keep` (N, bool) marks."""
    columns = {name: getattr(people, name)[keep] for name in People.__dataclass_fields__ if name != "images"}
    return People(images=people.images, **columns)


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file, which an error calls `what`."""
    # Looking for garbage among values that are all kept takes longer than reading them.
    collects = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror})") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: the {what} is not valid JSON or is truncated ({error})") from None
    finally:
        if collects:
            gc.enable()


def category_of(categories: list, wanted: str, path: Path) -> dict[str, Any]:
    """The category of the wanted name, else the one named "person", else the only one there is."""
    names = _column(categories, "name", "category", path)
    _numbers(categories, "id", np.int64, "category", path)
    named = [c for c, name in zip(categories, names, strict=True) if name == (wanted or "person")]
    if len(named) == 1:
        return named[0]
    if len(categories) == 1 and not wanted:
        return categories[0]
    listed = ", ".join(map(str, names))
    raise UserError(
        f"{path}: its categories ({listed}) do not hold one named '{wanted or 'person'}'; set DATASET.CATEGORY to one"
    )


def is_crowd(annotation: dict) -> bool:
    return bool(annotation.get("iscrowd", 0))


def is_labelled(annotation: dict) -> bool:
    """Whether it has keypoints that are not all zero; what is no list is for `_rows` to complain about."""
    points = annotation.get("keypoints")
    return bool(points) and (not isinstance(points, list) or any(points))


def _places(images: Images, items: Sequence[dict], what: str, path: Path) -> np.ndarray:
    """Index (N) int32 into the images of each item's image_id; -1 for one that is not listed."""
    place = {int(image_id): i for i, image_id in enumerate(images.ids)}
    return np.array([place.get(int(i), -1) for i in _numbers(items, "image_id", np.int64, what, path)], np.int32)


def _label(item: Any, index: int, what: str) -> str:
    known = isinstance(item, dict) and "id" in item
    return f"{what} with id {str(item['id'])[:LONGEST]}" if known else f"{what} number {index + 1}"


def shown(value: Any) -> str:
    """A value as an error shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _column(items: Sequence, key: str, what: str, path: Path) -> list:
    """One field of every item; the first item without it is named."""
    try:
        return [item[key] for item in items]
    except (KeyError, TypeError):
        index, item = next((i, x) for i, x in enumerate(items) if not isinstance(x, dict) or key not in x)
        raise UserError(f"{path}: {_label(item, index, what)} has no '{key}'") from None


def is_number(value: Any, whole: bool = False) -> bool:
    """Whether the arrays here can hold a value."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_file_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _numbers(items: Sequence, key: str, dtype: type, what: str, path: Path) -> np.ndarray:
    """One field of every item as numbers (N); the first that is none is named."""
    values = _column(items, key, what, path)
    whole = np.issubdtype(dtype, np.integer)
    for index, value in enumerate(values):
        if not is_number(value, whole):
            where = f"{path}: '{key}' of {_label(items[index], index, what)}"
            if isinstance(value, int | float) and abs(value) >= LARGEST:
                raise UserError(f"{where} is too large: {value}")
            raise UserError(f"{where} must be {'a whole' if whole else 'a'} number, not {shown(value)}")
    return np.array(values, dtype)


def _names(items: Sequence, key: str, what: str, path: Path) -> list[str]:
    """One field of every item as file names; the first that is none is named."""
    values = _column(items, key, what, path)
    for index, value in enumerate(values):
        if not is_file_name(value):
            where = _label(items[index], index, what)
            raise UserError(f"{path}: '{key}' of {where} must be the name of a file, not {shown(value)}")
    return values


def _refuse_duplicates(ids: np.ndarray, what: str, path: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path}: {counts.max()} {what}s have the id {values[counts.argmax()]}; each needs its own")


def rows(values: Sequence, length: int) -> np.ndarray:
    """Lists of `length` numbers as (N, length) float64; what is no such list is a row with NaN in it."""
    try:
        found = np.array(values)
    except ValueError:  # lists of several lengths
        found = np.array(None)
    if found.shape == (len(values), length) and found.dtype.kind in "iuf":
        table = found.astype(np.float64)
    else:
        table = np.full((len(values), length), np.nan)
        for index, value in enumerate(values):
            if isinstance(value, list) and len(value) == length and all(isinstance(x, int | float) for x in value):
                table[index] = value
    table[np.abs(table) >= LARGEST] = np.nan
    return table


def _rows(items: Sequence[dict], key: str, length: int, path: Path, what: str = "annotation") -> np.ndarray:
    """A field that lists `length` numbers as (N, length) float64; the first malformed one is named."""
    values = _column(items, key, what, path)
    table = rows(values, length)
    for index in np.flatnonzero(np.isnan(table).any(1))[:1].tolist():
        value, where = values[index], f"{path}: '{key}' of {_label(items[index], index, what)}"
        if isinstance(value, list) and len(value) == length:
            raise UserError(f"{where} holds something that is no number, or one too large")
        found = f"{len(value)}" if isinstance(value, list) else shown(value)
        hint = " (MODEL.NUM_JOINTS)" if key == "keypoints" else ""
        raise UserError(f"{where} must list {length} numbers{hint}, not {found}")
    return table
