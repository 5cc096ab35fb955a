"""Annotations or detections -> one table of persons, held as arrays so that workers share it without copying.

I images, N persons, K keypoints. Boxes are x, y, w, h in image pixels, keypoints x, y in image pixels.
The files are in COCO's format (https://cocodataset.org/#format-data).
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from ..errors import UserError
from ..pose import geometry
from .json_fields import column, file_names, label, numbers, read_json, refuse_duplicates, rows, shown

logger = logging.getLogger(__name__)

ANNOTATION_FILE = "annotation file (DATASET.ROOT, TRAIN_SET, TEST_SET)"
DETECTION_FILE = "detection file (TEST.COCO_BBOX_FILE)"


# What is read of a file: all else, such as the polygons that are most of COCO's bytes, is passed over by the decoder.
# The values are checked where they become arrays, so that a wrong one is named.
class _Image(TypedDict, total=False):
    id: Any
    file_name: Any
    width: Any
    height: Any


class _Annotation(TypedDict, total=False):
    id: Any
    image_id: Any
    category_id: Any
    bbox: Any
    area: Any
    iscrowd: Any
    num_keypoints: Any
    keypoints: Any


class _AnnotationFile(TypedDict, total=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[dict[str, Any]]


class _Detection(TypedDict, total=False):
    image_id: Any
    category_id: Any
    bbox: Any
    score: Any


@dataclass(frozen=True)
class Images:
    """The images of a set: ids (I) int64, file names (I), sizes (I, 2) as width, height."""

    ids: np.ndarray
    names: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Instances:
    """The persons to crop: ids (N) of the annotation or place in the detection file, image (N) index into `images`,
    boxes (N, 4), scores (N) of the boxes, keypoints (N, K, 2), visible (N, K) as 0 or 1. `unlisted` more were left
    out because their image is not listed."""

    images: Images
    ids: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    unlisted: int = 0

    def __len__(self) -> int:
        return len(self.ids)


COLUMNS = ("ids", "image", "boxes", "scores", "keypoints", "visible")  # of People, N long


@dataclass(frozen=True)
class ImageSet:
    """What an annotation file says of its images and of the person category."""

    path: Path
    images: Images
    category: dict[str, Any]


@dataclass(frozen=True)
class Annotations(ImageSet):
    """An annotation file, with the annotations of the person category: of each what keypoints need, as in the file."""

    annotations: list[dict[str, Any]]


def read_annotations(path: Path, with_people: bool = True, category_name: str = "") -> Annotations:
    """Read a COCO annotation file, or an image-info file without annotations (`with_people` false).

    The category is the one of that name; without a name "person", or the only one there is.
    Raises UserError for a file that is missing, no JSON, or not in COCO's format.
    """
    content = read_json(path, ANNOTATION_FILE, _AnnotationFile)
    for key in ["images", "annotations", "categories"] if with_people else ["images", "categories"]:
        if key not in content:
            raise UserError(f"{path}: not a COCO annotation file: it has no list '{key}'")
    images = content["images"]
    ids, width, height = (numbers(images, key, np.int64, "image", path) for key in ("id", "width", "height"))
    refuse_duplicates(ids, "image", path)
    names = file_names(images, "file_name", "image", path)
    category = category_of(content["categories"], category_name, path)
    people = []
    if with_people:
        categories = column(content["annotations"], "category_id", "annotation", path)
        column(content["annotations"], "id", "annotation", path)
        people = [a for a, c in zip(content["annotations"], categories, strict=True) if c == category["id"]]
    table = Images(ids, np.array(names, dtype=np.str_), np.stack([width, height], 1))
    return Annotations(path, table, category, people)


def read_loosely(path: Path) -> Any:
    """What an annotation file holds, however it is formed. Raises UserError for a file that is missing or no JSON."""
    try:
        return read_json(path, ANNOTATION_FILE, _AnnotationFile)
    except UserError:
        return read_json(path, ANNOTATION_FILE, Any)


def annotated_instances(source: Annotations, num_joints: int) -> Instances:
    """Persons that are no crowd, have a valid box and any non-zero keypoint, in image order, then file order.

    Raises UserError when an annotation is malformed or none qualifies.
    """
    path, images = source.path, source.images
    candidates = [a for a in source.annotations if is_labelled(a) and not is_crowd(a)]
    image = _places(images, candidates, "annotation", path)
    labelled, listed = len(candidates), image >= 0
    candidates = [candidates[i] for i in np.flatnonzero(listed)]
    image = image[listed]
    if labelled and not candidates:
        raise UserError(f"{path}: none of its {labelled} labelled persons is in an image that it lists under 'images'")
    if not candidates:
        raise UserError(f"{path}: no annotation of category '{source.category['name']}' has a labelled keypoint")

    ids = numbers(candidates, "id", np.int64, "annotation", path)
    boxes = rows(candidates, "bbox", 4, path)
    points = rows(candidates, "keypoints", 3 * num_joints, path).reshape(-1, num_joints, 3)
    areas = numbers(candidates, "area", np.float64, "annotation", path)

    boxes, valid = geometry.clean_boxes(boxes, images.sizes[image])
    keep = np.flatnonzero(valid & (areas > 0))
    if not len(keep):
        raise UserError(f"{path}: no annotated person has a box inside its image and a positive area")
    keep = keep[np.argsort(image[keep], kind="stable")]
    return Instances(
        images=images,
        ids=ids[keep],
        image=image[keep],
        boxes=boxes[keep],
        scores=np.ones(len(keep)),
        keypoints=points[keep, :, :2].astype(np.float32),
        visible=(points[keep, :, 2] > 0).astype(np.float32),
        unlisted=labelled - len(candidates),
    )


def check_truth(source: Annotations, num_joints: int) -> None:
    """Raise UserError when an annotation, labelled or not, has not what COCO's evaluation looks at."""
    path, annotations = source.path, source.annotations
    numbers(annotations, "image_id", np.int64, "annotation", path)
    areas = numbers(annotations, "area", np.float64, "annotation", path)
    for index in np.flatnonzero(areas < 0)[:1].tolist():
        where = label(annotations[index], index, "annotation")
        raise UserError(f"{path}: 'area' of {where} must not be negative: OKS divides by it")
    rows(annotations, "bbox", 4, path)
    rows([a for a in annotations if a.get("keypoints")], "keypoints", 3 * num_joints, path)
    ids = numbers(annotations, "id", np.int64, "annotation", path)
    refuse_duplicates(ids, "annotation", path)
    numbers([a for a in annotations if "num_keypoints" in a], "num_keypoints", np.int64, "annotation", path)
    for index, annotation in enumerate(annotations):
        if annotation.get("iscrowd", 0) not in (0, 1):
            where, value = label(annotation, index, "annotation"), shown(annotation["iscrowd"])
            raise UserError(f"{path}: 'iscrowd' of {where} must be 0 or 1, not {value}")


def detected_instances(path: Path, source: ImageSet, num_joints: int, threshold: float) -> Instances:
    """A detector's person boxes scored `threshold` or more, in file order, not clipped.

    The file is a COCO results list: image_id, category_id, bbox, score. Boxes of images that the annotation file does
    not list are counted and skipped. Raises UserError when the file is malformed or no box is left.
    """
    content = read_json(path, DETECTION_FILE, list[_Detection])
    categories = column(content, "category_id", "detection", path)
    image = _places(source.images, content, "detection", path)
    scores = numbers(content, "score", np.float64, "detection", path)
    boxes = rows(content, "bbox", 4, path, what="detection")

    wanted = source.category["id"]
    person = np.array([category == wanted for category in categories], bool)
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
    empty = person & (boxes[:, 2:] <= 0).all(1)
    if empty.any():
        logger.warning("%s: %d boxes without an area are skipped", path, int(empty.sum()))
    keep = np.flatnonzero(person & (image >= 0) & ~empty & (scores >= threshold))
    if not len(keep):
        raise UserError(f"{path}: no person box is scored {threshold} (TEST.IMAGE_THRE) or more")
    return Instances(
        images=source.images,
        ids=keep,
        image=image[keep],
        boxes=boxes[keep],
        scores=scores[keep],
        keypoints=np.zeros((len(keep), num_joints, 2), np.float32),
        visible=np.ones((len(keep), num_joints), np.float32),
        unlisted=unknown,
    )


def centred(people: Instances, aspect: float) -> np.ndarray:
    """Which persons (N, bool) have their visible joints around the box's centre (`SELECT_DATA` of the lineage)."""
    center, scale = geometry.boxes_to_crops(people.boxes, aspect)
    count = people.visible.sum(1)
    mean = (people.keypoints * people.visible[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    distance = ((mean - center) ** 2).sum(1)
    similarity = np.exp(-distance / (2 * 0.2**2 * geometry.crop_areas(scale)))
    return (count > 0) & (similarity > 0.45 + 0.0125 * (count - 1))


def select(people: Instances, keep: np.ndarray) -> Instances:
    """The persons that `keep` (N, bool) marks."""
    return dataclasses.replace(people, **{name: getattr(people, name)[keep] for name in COLUMNS})


def category_of(categories: list, wanted: str, path: Path) -> dict[str, Any]:
    """The category of the wanted name, else the one named "person", else the only one there is."""
    names = column(categories, "name", "category", path)
    numbers(categories, "id", np.int64, "category", path)
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
    """Whether it has keypoints that are not all zero; what is no list is for `rows` to complain about."""
    points = annotation.get("keypoints")
    return bool(points) and (not isinstance(points, list) or any(points))


def _places(images: Images, items: Sequence[dict], what: str, path: Path) -> np.ndarray:
    """Index (N) int32 into the images of each item's image_id; -1 for one that is not listed."""
    wanted = numbers(items, "image_id", np.int64, what, path)
    if not len(images.ids):
        return np.full(len(wanted), -1, np.int32)
    order = images.ids.argsort(kind="stable")
    place = order[images.ids.searchsorted(wanted, side="right", sorter=order) - 1]
    return np.where(images.ids[place] == wanted, place, -1).astype(np.int32)
