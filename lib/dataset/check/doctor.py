"""The data of a configuration under examination: annotations, a detector's boxes, photographs.

The checks look at the files' raw content, whatever is in it; then come the very steps that the tools take, so that
nothing stops them unforeseen. I images, N annotations or detections. Boxes are x, y, w, h in image pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...pose import geometry
from ...pose.skeleton import Skeleton
from .. import coco, json_fields
from ..coco import Annotations, Images, Instances
from ..images import ImageReader
from ..topdown import refuse_what_has_no_crop
from . import annotations
from .annotations import ABSURD, DETECTION, Persons, is_whole, numbers_of, objects_of, report_malformed
from .report import ERROR, MOST_EXAMPLES, NOTE, OK, TEST, TRAIN, Report, Section, many, plain, short, without

COVERED = 0.5  # IoU of a detected with an annotated box
PUBLISHED_BOXES = {"COCO_val2017_detections_AP_H_56_person.json": 104_125}


@dataclass(frozen=True)
class SetToCheck:
    """An image set of the configuration; `open_images` raises UserError if its images are not there."""

    name: str
    path: Path
    has_truth: bool
    trains: bool
    tests: bool
    open_images: Callable[[], ImageReader]

    def __str__(self) -> str:
        uses = " and ".join(use for use, is_so in (("training", self.trains), ("test", self.tests)) if is_so)
        return f"the {uses} set {self.name}"

    @property
    def tools(self) -> tuple[str, ...]:
        """Those that it can stop; training validates on the test set."""
        return (TRAIN, TEST) if self.tests else (TRAIN,)


@dataclass(frozen=True)
class Boxes:
    """A detector's boxes. Testing on annotated boxes does not use them."""

    path: Path
    threshold: float
    used: bool


# ---- the whole ------------------------------------------------------------------------------------------------------


def examine(
    sets: Sequence[SetToCheck],
    choose_boxes: Callable[[], Boxes | None],
    *,
    category: str,
    num_joints: int,
    skeleton_of: Callable[[Annotations], Skeleton],
    aspect: float,
    select_data: bool,
    number: int | None,
    follow: Callable[[list[int]], Iterable[int]] = iter,
) -> Report:
    """Check image sets, and a detector's boxes for the one that is tested on, as a configuration uses them.

    `choose_boxes` and `skeleton_of` raise UserError for what does not fit; `aspect` is the crops' width / height, by
    which `select_data` selects. `number` images of each set are read, all if it is None; `follow` sees their indices
    go by. Raises UserError where there is nothing to check.
    """
    if not any(images.path.exists() for images in sets):
        missing = " and ".join(str(images.path) for images in sets)
        raise UserError(f"nothing to check, there is no {missing} (DATASET.ROOT, TRAIN_SET, TEST_SET)")
    report = Report()
    for images in sets:
        seen = _examine_annotations(images, report, category, num_joints, skeleton_of, aspect, select_data)
        if images.tests:
            _examine_boxes(images, report, seen, choose_boxes)
        _examine_images(images, report, seen, aspect, number, follow)
    return report


@dataclass
class _Seen:
    """What could be had of an image set: its well-formed images, the annotations of the category; as the tools read
    it, the file, the labelled persons, and those that training and testing crop."""

    images: Images
    persons: Persons | None = None
    annotations: Annotations | None = None
    labelled: Instances | None = None
    training: Instances | None = None
    testing: Instances | None = None


def _examine_annotations(
    images: SetToCheck,
    report: Report,
    category: str,
    num_joints: int,
    skeleton_of: Callable[[Annotations], Skeleton],
    aspect: float,
    select_data: bool,
) -> _Seen:
    what = "annotations" if images.has_truth else "images"
    section = report.section(f"{what} of {images}: {short(images.path)}", images.tools)
    seen = _Seen(Images(np.zeros(0, np.int64), np.zeros(0, np.str_), np.zeros((0, 2), np.int64)))
    try:
        content = coco.read_loosely(images.path)
    except UserError as error:
        section.add(ERROR, "file", without(images.path, error))
        report.stop(images.tools, error)
        return seen

    seen.images, seen.persons = annotations.check(
        section,
        content,
        images.path,
        images.name,
        has_truth=images.has_truth,
        tests=images.tests,
        category=category,
        num_joints=num_joints,
    )

    off_centre = 0
    try:
        seen.annotations = coco.read_annotations(images.path, images.has_truth, category)
        kind = skeleton_of(seen.annotations)
        if report.skeleton is None:
            report.skeleton = kind
            annotations.check_skeleton(section, kind)
        if images.trains or images.has_truth:
            persons = coco.annotated_instances(seen.annotations, kind.num_joints)
            seen.testing = persons if images.tests else None
            if images.trains and select_data:
                centred = coco.centred(persons, aspect)
                off_centre = int((~centred).sum())
                persons = coco.select(persons, centred)
            seen.training = persons if images.trains else None
            seen.labelled = persons
        if images.tests and images.has_truth:
            coco.check_truth(seen.annotations, kind.num_joints)
    except UserError as error:
        report.stop(images.tools, error)

    if seen.persons is not None:
        annotations.check_taken(section, seen.persons, off_centre)
        if images.tests:
            annotations.check_precision(section, seen.persons)
    return seen


# ---- a detector's boxes ---------------------------------------------------------------------------------------------


def _examine_boxes(images: SetToCheck, report: Report, seen: _Seen, choose_boxes: Callable[[], Boxes | None]) -> None:
    try:
        boxes = choose_boxes()
    except UserError as error:
        report.section(f"boxes of {images}", images.tools).add(ERROR, "choice", str(error))
        report.stop(images.tools, error)
        return
    if boxes is None:
        return
    path = boxes.path
    section = report.section(f"detected boxes of {images}: {short(path)}", images.tools if boxes.used else ())
    if not boxes.used and not path.exists():
        section.add(NOTE, "file", "missing, and not needed as long as TEST.USE_GT_BBOX is True")
        return
    try:
        content = json_fields.read_json(path, coco.DETECTION_FILE, Any)
        if not isinstance(content, list):
            raise UserError(f"{path}: a detection file is a list of boxes, this is a {type(content).__name__}")
    except UserError as error:
        section.add(ERROR, "file", without(path, error))
        if boxes.used:
            report.stop(images.tools, error)
        return

    _check_detections(section, content, boxes, seen)
    if seen.annotations is None:
        return
    try:
        joints = report.skeleton.num_joints if report.skeleton is not None else 0
        detected = coco.detected_instances(path, seen.annotations, joints, boxes.threshold)
    except UserError as error:
        if boxes.used:
            report.stop(images.tools, error)
        return
    if boxes.used:
        seen.testing = detected
    if seen.persons is not None:
        _check_cover(section, seen.persons, detected)


def _check_detections(section: Section, content: list, boxes: Boxes, seen: _Seen) -> None:
    published = PUBLISHED_BOXES.get(boxes.path.name, len(content))
    says = f"{many(len(content), 'box')}" + ("" if published == len(content) else f"; COCO's file has {published:,}")
    section.add(OK if published == len(content) else NOTE, "counts", says)
    items, _ = objects_of(section, content, "detection", DETECTION)
    table = json_fields.table([item.get("bbox") for item in items], 4)
    report_malformed(section, items, np.isnan(table).any(1), "detection", "bbox", "four numbers")

    listed = set(seen.images.ids.tolist())
    unknown = np.array([is_whole(i) and i not in listed for i in (item.get("image_id") for item in items)], bool)
    if unknown.any():
        ids = sorted({items[i]["image_id"] for i in np.flatnonzero(unknown).tolist()})
        says = f"{unknown.sum():,} of {many(len(items), 'box')} are of images that the annotation file does not list"
        section.add(ERROR if unknown.all() else NOTE, "images", says, [str(i) for i in ids[:MOST_EXAMPLES]])
    else:
        section.add(OK, "images", "all listed in the annotation file")
    if seen.annotations is not None:
        wanted = seen.annotations.category["id"]
        other = np.array([item.get("category_id") != wanted for item in items], bool)
        if other.any():
            says = f"{other.sum():,} of {many(len(items), 'box')} are not of category {wanted} and are left out"
            found = {json_fields.shown(items[i].get("category_id")) for i in np.flatnonzero(other).tolist()}
            section.add(ERROR if other.all() else NOTE, "categories", says, sorted(found)[:MOST_EXAMPLES])

    empty = (table[:, 2:] <= 0).all(1)
    if empty.any():
        examples = [f"{plain(table[i])} in number {i + 1}" for i in np.flatnonzero(empty)[:MOST_EXAMPLES].tolist()]
        section.add(NOTE, "boxes", f"{empty.sum():,} without width and height are left out", examples)
    scores = numbers_of(items, "score")
    enough = int((scores >= boxes.threshold).sum())
    says = f"{enough:,} of {len(items):,} are {boxes.threshold:g} (TEST.IMAGE_THRE) or more"
    if len(items) and not enough:
        says += f", the best is {np.nanmax(scores, initial=-np.inf):.3g}"
    section.add(OK if enough else ERROR, "scores", says)


def _check_cover(section: Section, persons: Persons, detected: Instances) -> None:
    """Persons that no box covers cannot be found."""
    wanted = persons.counted & ~np.isnan(persons.boxes).any(1)
    by_image: dict[int, list[int]] = {}
    for i, image_id in enumerate(detected.images.ids[detected.image].tolist()):
        by_image.setdefault(image_id, []).append(i)
    lost = np.zeros(len(persons), bool)
    for i in np.flatnonzero(wanted).tolist():
        there = by_image.get(persons.items[i]["image_id"], [])
        lost[i] = not (_overlaps(persons.boxes[i], detected.boxes[there]) >= COVERED).any()
    if not wanted.any():
        return
    covered = int(wanted.sum() - lost.sum())
    says = f"{covered:,} of the {wanted.sum():,} persons that count have a box that covers them (IoU {COVERED:g})"
    level = ERROR if not covered else NOTE if covered < ABSURD * wanted.sum() else OK
    remedy = "AP will be near 0: is this the detector's file of these images, with boxes as x, y, width, height?"
    section.add(level, "cover", says, remedy=remedy if level == ERROR else "")


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (M) of a box (4) with others (M, 4)."""
    start, end = np.maximum(box[:2], others[:, :2]), np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    common = np.prod(np.maximum(end - start, 0), axis=1)
    return common / np.maximum(np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - common, np.finfo(float).tiny)


# ---- photographs ----------------------------------------------------------------------------------------------------


def _examine_images(
    images: SetToCheck,
    report: Report,
    seen: _Seen,
    aspect: float,
    number: int | None,
    follow: Callable[[list[int]], Iterable[int]],
) -> None:
    try:
        reader = images.open_images()
    except UserError as error:
        report.section(f"photographs of {images}", images.tools).add(ERROR, "there", str(error))
        report.stop(images.tools, error)
        return
    section = report.section(f"photographs of {images}: {short(reader.source)}", images.tools)
    if report.reader is None and seen.labelled is not None:
        report.people, report.reader = seen.labelled, reader
    needed = np.zeros(len(seen.images.ids), bool)
    for persons, tools in ((seen.training, (TRAIN,)), (seen.testing, (TRAIN, TEST))):
        if persons is not None:
            needed[persons.image] = True
            try:
                refuse_what_has_no_crop(persons, *geometry.boxes_to_crops(persons.boxes, aspect))
            except UserError as error:
                section.add(ERROR, "crops", str(error))
                report.stop(tools, error)
    whose = " with persons" if needed.any() else ""
    needed |= not needed.any()
    try:
        missing = reader.missing(seen.images.names.tolist())
    except UserError as error:
        section.add(ERROR, "there", without(reader.source, error))
        report.stop(images.tools, error)
        return
    if missing.any():
        wanted = missing & needed
        says = f"{missing.sum():,} of {many(len(missing), 'image')} are missing, {wanted.sum():,} of them with persons"
        which = np.flatnonzero(wanted if wanted.any() else missing)[:MOST_EXAMPLES]
        section.add(ERROR if wanted.any() else NOTE, "there", says, [str(seen.images.names[i]) for i in which])
        if wanted.any():
            name = str(seen.images.names[which[0]])
            report.stop(images.tools, UserError(f"{reader.source / name}: the image is missing"))
    else:
        section.add(OK, "there", f"all {len(missing):,}")

    there = np.flatnonzero(needed & ~missing)
    chosen = there
    if number is not None and number < len(there):
        chosen = there[np.linspace(0, len(there) - 1, number).round().astype(int)]
    broken, other = [], []
    for i in follow(chosen.tolist()):
        name = str(seen.images.names[i])
        try:
            height, width = reader.read(name, owner=f"image {seen.images.ids[i]}").shape[:2]
        except UserError as error:
            report.stop(images.tools, error)
            broken.append(str(error).removeprefix(f"{reader.source}/"))
            continue
        stated = seen.images.sizes[i].tolist()
        if stated != [width, height]:
            hint = ", turned by its EXIF orientation?" if stated == [height, width] else ""
            other.append(f"{name} is {width} x {height}, not {stated[0]} x {stated[1]}{hint}")
    if broken:
        section.add(ERROR, "readable", f"{len(broken):,} of {len(chosen):,} cannot be read", broken[:MOST_EXAMPLES])
    if other:
        says = f"{len(other):,} of {len(chosen):,} have another size than stated: their keypoints lie elsewhere"
        remedy = "annotate the very files that stand here, pixels as stored (EXIF orientation is ignored)"
        section.add(ERROR, "size", says, other[:MOST_EXAMPLES], remedy)
    if not broken and not other:
        says = f"{len(chosen):,} of {len(there):,}{whose} read, each of the stated size"
        section.add(OK, "readable", says)


# ---- to look at -----------------------------------------------------------------------------------------------------


def samples(persons: Instances, number: int) -> list[list[int]]:
    """Persons for `number` pictures, spread over the set: for each the candidates, those with most joints first."""
    boxes = persons.boxes[:, 2:].prod(1)
    order = np.lexsort((-boxes, -persons.visible.sum(1)))
    place = np.argsort(order)
    groups = np.array_split(np.arange(len(persons)), min(number, len(persons)))
    return [group[np.argsort(place[group])].tolist() for group in groups]
