"""Annotations in COCO's format -> instances, held as arrays so that workers share them without copying.

I images, N instances, K keypoints. Boxes are x, y, w, h in image pixels, keypoints x, y in image pixels.
The format: https://cocodataset.org/#format-data. A file is read once into columns, which one list of checks examines:
the tools raise the first finding that stops them, and the data check (`check/`) reports all.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..pose import geometry
from .findings import ERROR, NOTE, OK, Findings, many
from .json_fields import ANYTHING, FILE_NAME, MAX_ID, NUMBER, WHOLE, Kind, Table, form, list_of, listing, read_json

NUM_JOINTS = 17  # of COCO's persons
SUSPICIOUS, FEW = 0.05, 5  # share and number of objects from which a file's unit is called wrong
PERCENT = 105  # largest coordinate in percent: a little more than 100 where something leaves its image
AREA_OF_BOX = (0.02, 1.5)  # usual range of area / box area, whose median in COCO is 0.5
NOT_STATED = -1  # num_keypoints of an annotation without this field

IMAGE = {"id": WHOLE, "width": WHOLE, "height": WHOLE, "file_name": FILE_NAME}
ANNOTATION = {
    "id": WHOLE,
    "image_id": WHOLE,
    "area": NUMBER,
    "iscrowd": Kind("0 or 1", lambda value: value in (0, 1), bool, False, default=0),
    "num_keypoints": dataclasses.replace(WHOLE, default=NOT_STATED),
    "bbox": listing(4),
}


def annotation_fields(num_joints: int) -> dict[str, Kind]:
    length = 3 * num_joints
    return ANNOTATION | {"keypoints": listing(length, " (MODEL.NUM_JOINTS)", default=[0] * length)}


_ANNOTATION_FILE = form(
    "AnnotationFile",
    {
        "images": list_of(IMAGE),
        "annotations": list_of([*annotation_fields(0), "category_id"]),
        "categories": list[dict[str, Any]],
    },
)


@dataclass(frozen=True)
class Images:
    """The images of a set: ids (I) int64, file names (I), sizes (I, 2) as width, height."""

    ids: np.ndarray
    names: np.ndarray
    sizes: np.ndarray

    def find(self, table: Table) -> np.ndarray:
        """Each object's image, as an index (N) int32; -1 if its id is malformed or not listed."""
        ids = table["image_id"]
        if not len(self.ids):
            return np.full(len(ids), -1, np.int32)
        order = self.ids.argsort(kind="stable")
        place = order[self.ids.searchsorted(ids, side="right", sorter=order) - 1]
        return np.where((self.ids[place] == ids) & ~table.malformed("image_id"), place, -1).astype(np.int32)


@dataclass(frozen=True)
class Instances:
    """The instances to crop: ids (N) of annotations, or positions in the detection file; image (N), indices into
    `images`; boxes (N, 4) and their scores (N); keypoints (N, K, 2); visible (N, K), 0 or 1. `left_out` counts the
    file's other objects by reason, and `doubts` say what may be wrong with its numbers."""

    images: Images
    ids: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    left_out: str = ""
    doubts: str = ""

    def __len__(self) -> int:
        return len(self.ids)


COLUMNS = ("ids", "image", "boxes", "scores", "keypoints", "visible")  # of Instances, N long


# ---- annotations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annotations:
    """An annotation file: its well-formed images, the category, the N annotations of the category as columns, the
    lengths of the file's lists, and the findings about everything except these columns."""

    path: Path
    images: Images
    category: dict[str, Any]
    table: Table = field(default_factory=lambda: Table.read([], "annotation", {}))
    listed: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    @cached_property
    def image(self) -> np.ndarray:
        """(N) index into `images`, or -1."""
        return self.images.find(self.table)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(N, 2) width and height of each annotation's image; NaN if the image is not listed."""
        sizes = np.full((len(self.table), 2), np.nan)
        sizes[self.image >= 0] = self.images.sizes[self.image[self.image >= 0]]
        return sizes

    @property
    def keypoints(self) -> np.ndarray:
        """(N, K, 3) x, y, visibility: 0 if there are no keypoints, NaN if they are malformed."""
        return self.table["keypoints"].reshape(len(self.table), -1 if len(self.table) else 1, 3)

    @cached_property
    def visible(self) -> np.ndarray:
        """(N, K) bool"""
        return self.keypoints[..., 2] > 0

    @cached_property
    def labelled(self) -> np.ndarray:
        """(N) bool: a keypoint is not all 0, or the keypoints are malformed."""
        return (self.table["keypoints"] != 0).any(1)

    @cached_property
    def wanted(self) -> np.ndarray:
        """(N) bool: labelled and not a crowd, so that training would use them."""
        return self.labelled & ~self.table["iscrowd"]

    @cached_property
    def stated(self) -> np.ndarray:
        """(N) num_keypoints, counted where it is missing or malformed."""
        given = (self.table["num_keypoints"] != NOT_STATED) & ~self.table.malformed("num_keypoints")
        return np.where(given, self.table["num_keypoints"], self.visible.sum(1))

    @cached_property
    def left_out(self) -> dict[str, np.ndarray]:
        """Reason -> the annotations (N, bool) that are not cropped for it; each has one, the first that applies."""
        return first_reasons(
            {
                "as a crowd": self.table["iscrowd"],
                "without a labelled keypoint": ~self.labelled,
                "in images not listed": self.image < 0,
                "malformed": self.table.malformed("bbox", "area", "keypoints"),
                "with an empty box or one outside the image": ~geometry.clean_boxes(self.table["bbox"], self.sizes)[1],
                "without an area": ~(self.table["area"] > 0),
            }
        )

    @cached_property
    def taken(self) -> np.ndarray:
        """(N) bool: training crops them, and testing on annotated boxes."""
        return ~np.logical_or.reduce(list(self.left_out.values()))

    @property
    def noun(self) -> str:
        """The noun for an instance of the category in messages."""
        return "person" if self.category.get("name", "person") == "person" else "instance"

    def name(self, index: int) -> str:
        """An annotation's name in a report: its id and image."""
        place = self.image[index]
        found = self.table.wrong["image_id"].get(index, self.table["image_id"][index])
        image = self.images.names[place] if place >= 0 else f"image {found}"
        return f"{self.table.name(index)} ({str(image)[:MAX_ID]})"

    def as_dicts(self) -> list[dict[str, Any]]:
        """The annotations as pycocotools reads them, with defaults for fields that other tools leave out."""
        columns = {key: self.table[key] for key in ("id", "image_id", "area", "bbox", "keypoints")}
        columns["iscrowd"] = self.table["iscrowd"].astype(int)
        columns["num_keypoints"] = self.stated
        columns["category_id"] = np.full(len(self.table), self.category["id"])
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


def first_reasons(reasons: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reasons (N, bool), each object marked for its first reason only."""
    left, first = np.array(True), {}
    for reason, which in reasons.items():
        first[reason] = which & left
        left = left & ~which
    return first


def count_reasons(reasons: dict[str, np.ndarray], others: int = 0) -> str:
    """The number of objects per reason, and of other categories."""
    counts = {"of other categories": others} | {reason: int(which.sum()) for reason, which in reasons.items()}
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)


class Wording(NamedTuple):
    """How errors refer to an annotation file: the keys that name it, in brackets, and how to choose its category."""

    keys: str = " (DATASET.ROOT, TRAIN_SET, TEST_SET)"
    choose: str = "set DATASET.CATEGORY to a name or an id"


CONFIGURED = Wording()


def read_annotations(
    path: Path,
    num_joints: int = NUM_JOINTS,
    category_name: str = "",
    *,
    image_info: bool = False,
    wording: Wording = CONFIGURED,
) -> Annotations:
    """Read a COCO annotation file.

    Args:
        path: The file.
        num_joints: K, the number of keypoints of the category.
        category_name: The category; '' takes "person", or the only one.
        image_info: The file is an image-info file, which has no annotations.
        wording: How errors refer to the file and tell to choose a category.

    Raises:
        UserError: The file is missing, not JSON, or not in COCO's format. `check_truth` and `annotated_instances`
            report what is wrong with the category's annotations.
    """
    source = parse_annotations(path, num_joints, category_name, image_info=image_info, wording=wording)
    source.findings.refuse(path)
    return source


def parse_annotations(
    path: Path, num_joints: int, category_name: str, *, image_info: bool, wording: Wording = CONFIGURED
) -> Annotations:
    """As `read_annotations`, but reads what it can of a file in any format; `findings` say what is wrong.

    Raises UserError for a file that is missing or no JSON.
    """
    content = read_json(path, f"annotation file{wording.keys}", _ANNOTATION_FILE, otherwise=Any)
    findings, lists = Findings(), {}
    for key in ("images", "categories") if image_info else ("images", "annotations", "categories"):
        found = content.get(key) if isinstance(content, dict) else None
        lists[key] = found if isinstance(found, list) else []
        if not isinstance(found, list):
            says = f"no list '{key}', so this is not a COCO annotation file"
            findings.add(ERROR, "format", says, error=f"not a COCO annotation file: it has no list '{key}'")
        elif not found and key != "annotations":  # of which COCO's evaluation may have none
            findings.add(ERROR, "format", f"its list '{key}' is empty", error=f"its list '{key}' is empty")
    images = _images_of(lists["images"], findings)
    category: dict[str, Any] = {}
    try:
        category = _category_of(lists["categories"], category_name, wording.choose) if lists["categories"] else {}
    except UserError as error:
        findings.add(ERROR, "category", str(error), error=str(error))
    annotations: list = lists.get("annotations", [])
    categories = Table.read(annotations, "annotation", {"category_id": NUMBER})
    findings += categories.check()
    places = categories.places[categories["category_id"] == category.get("id")]
    ours = [annotations[i] for i in places.tolist()]
    table = Table.read(ours, "annotation", annotation_fields(num_joints), places)
    return Annotations(path, images, category, table, {key: len(items) for key, items in lists.items()}, findings)


def _images_of(items: list, findings: Findings) -> Images:
    """The well-formed images."""
    table = Table.read(items, "image", IMAGE)
    findings += table.check()
    good = ~table.malformed(*IMAGE)
    images = Images(table["id"][good], table["file_name"][good], np.stack([table["width"], table["height"]], 1)[good])
    _check_ids(findings, images.ids, "image", ERROR, "instances may be looked for in the wrong image")
    empty = images.sizes.min(1) < 1
    if empty.any():
        examples = ("{} x {} of image {}".format(*images.sizes[i], images.ids[i]) for i in np.flatnonzero(empty))
        findings.add(ERROR, "size", f"{many(int(empty.sum()), 'image')} must have a width and a height", examples)
    return images


def _check_ids(findings: Findings, ids: np.ndarray, what: str, level: str, why: str, stops: bool = True) -> None:
    values, counts = np.unique(ids, return_counts=True)
    twice = counts > 1
    if not twice.any():
        findings.add(OK, "ids", f"each of the {many(len(values), f'{what} id')} is given once")
        return
    says = f"{twice.sum():,} of {len(values):,} {what} ids are given more than once: {why}"
    examples = (f"{counts[i]} times {values[i]}" for i in np.flatnonzero(twice))
    error = f"{counts.max()} {what}s have the id {values[counts.argmax()]}; each needs its own" if stops else ""
    findings.add(level, "ids", says, examples, "give each an id of its own", error)


def _category_of(categories: list, wanted: str, choose: str) -> dict[str, Any]:
    """The category of the wanted name or id; else the one named "person"; else any. If several are left, the only one
    that lists keypoints: some tools add a root category, or write a name twice."""
    table = Table.read(categories, "category", {"name": ANYTHING, "id": WHOLE})
    for finding in table.check()[:1]:
        raise UserError(finding.error)
    found = [category for category in categories if category["name"] == (wanted or "person")]
    if not found:
        found = [category for category in categories if not wanted or str(category["id"]) == wanted]
    if len(found) > 1:
        found = [category for category in found if category.get("keypoints")]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{category['id']} {category['name']}" for category in categories)
    meant = f"none is named {wanted!r}" if wanted else "it is not clear which one to use"
    raise UserError(f"its categories are {listed}: {meant}; {choose}")


def check_annotations(source: Annotations, *, scored: bool) -> Findings:
    """Findings about the annotations of the category. Training reads those that it may crop; COCO's evaluation (of sets
    that are `scored`) reads all."""
    table, wanted, listed, areas = source.table, source.wanted, source.image >= 0, source.table["area"]
    findings = table.check(stops=None if scored else wanted & (listed | table.malformed("image_id")))
    level, why = (ERROR, "testing stops") if scored else (NOTE, "testing on this set would stop")
    _check_ids(findings, table["id"][~table.malformed("id")], "annotation", level, why, stops=scored)
    if not listed.all():
        says = f"{(~listed).sum():,} of {many(len(table), 'annotation')} are of images that are not listed"
        findings.add(
            NOTE if listed.any() else ERROR, "images", says, map(source.name, np.flatnonzero(~listed).tolist())
        )
    else:
        findings.add(OK, "images", "those of all annotations are listed")

    boxes, points = table["bbox"][listed], source.keypoints[wanted & listed]
    seen = np.where(points[..., 2:] > 0, points[..., :2], -np.inf).max(1, initial=-np.inf)
    check_units(findings, "the boxes", boxes.reshape(-1, 2, 2), source.sizes[listed], source.image[listed])
    check_units(findings, "the keypoints", seen[:, None], source.sizes[wanted & listed], source.image[wanted & listed])

    none, negative = areas <= 0, areas < 0
    if none.any():
        says = f"{none.sum():,} of {(~np.isnan(areas)).sum():,} are not positive: training leaves them out"
        error = ""
        if scored and negative.any():
            error = f"'area' of {table.label(int(negative.argmax()))} must not be negative: OKS divides by it"
        findings.add(
            ERROR if negative.any() or (none & wanted).any() else NOTE,
            "areas",
            f"{says}, and AP cannot find them",
            (f"{areas[i]:g} of {source.name(i)}" for i in np.flatnonzero(none).tolist()),
            "set 'area' to the instance's area in square pixels, or to half of the box's",
            error,
        )
    spans = np.prod(table["bbox"][:, 2:], axis=1)
    both = wanted & (areas > 0) & (spans > 0)
    share = float(np.median(areas[both] / spans[both])) if both.any() else 0.5
    if not AREA_OF_BOX[0] <= share <= AREA_OF_BOX[1] and not other_unit(findings):
        says = f"they are {share:.3g} times the box's area in the median, where COCO's are half of it"
        remedy = "give them in square pixels of the image: the OKS of COCO's evaluation divides by them"
        findings.add(ERROR, "areas", says, remedy=remedy)
    elif not (none.any() or other_unit(findings)):
        findings.add(OK, "areas", "all positive")
    if not source.taken.any():
        says = f"no person to train on or to test: 0 of {many(len(table), source.noun)}"
        error = f"no annotated {source.noun} has a box inside its image and a positive area"
        if not source.listed.get("annotations"):
            error = "its list 'annotations' is empty"
        elif not len(table):
            wanted_id = f"category_id {source.category.get('id')} that '{source.category.get('name')}' has"
            error = f"none of its {many(source.listed['annotations'], 'annotation')} has the {wanted_id}"
        elif source.labelled.any() and not wanted.any():
            error = f"every annotation of category '{source.category.get('name')}' with a labelled keypoint is a crowd"
        elif not wanted.any():
            error = f"no annotation of category '{source.category.get('name')}' has a labelled keypoint"
        elif not (wanted & listed).any():
            error = f"none of its {wanted.sum()} labelled {source.noun}s is in an image that it lists under 'images'"
        findings.add(ERROR, "taken", f"{says}; left out: {count_reasons(source.left_out) or 'none'}", error=error)
    return findings


def check_units(findings: Findings, what: str, parts: np.ndarray, sizes: np.ndarray, images: np.ndarray) -> None:
    """Check whether coordinates are fractions or percent of the image.

    `parts` (N, P, 2) are the x and y of each object: of a box its corner and its sides, of keypoints the largest ones.
    `sizes` (N, 2) are the width and height of its image, 0 if unknown, and `images` (N) tell the images apart.
    """
    known, far = ~np.isnan(parts).any((1, 2)), parts.sum(1)
    within = known & (far > 0).any(1) & (parts <= 1).all((1, 2))
    remedy = "give them in pixels: multiply x by the image's width and y by its height"
    if within.any():
        says = f"{what} of {within.sum():,} of {known.sum():,} lie within one pixel, like fractions of the image"
        many_are = within.sum() > SUSPICIOUS * known.sum()
        error = f"{says}; {remedy}" if many_are else ""
        findings.add(ERROR if many_are else NOTE, "units", says, remedy=remedy, error=error)
        return
    stated = known & (sizes > 0).all(1)
    tells = known & (sizes > 200).all(1)
    if tells.sum() >= FEW and 2 * tells.sum() > known.sum() and 50 < far[known].max() <= PERCENT:
        side = max(100, math.ceil(far[known].max()))
        says = f"{what} of all {known.sum():,} lie within {side} x {side} pixels, like percent of the image"
        remedy += ", divided by 100"
        certain = (far[tells].max(0) > 80).all()  # in both directions up to the border, but not past
        # A group in the corner of an image, or of one camera's images, may do so in pixels.
        certain &= len(np.unique(images[tells])) >= FEW and len(np.unique(sizes[tells], axis=0)) > 1
        findings.add(ERROR, "units", says, remedy=remedy, error=f"{says}; {remedy}" if certain else "")
    beyond = stated & (far > sizes + 1).any(1)
    if 2 * beyond.sum() > stated.sum():
        says = f"{what} of {beyond.sum():,} of {known.sum():,} reach beyond their image"
        findings.add(NOTE, "units", says, remedy="are they in pixels, and of images of this size?")


def other_unit(findings: Findings) -> bool:
    """Whether the coordinates are in another unit, which explains much else."""
    return any(finding.check == "units" and finding.level == ERROR for finding in findings)


def check_truth(source: Annotations) -> None:
    """Raise UserError when an annotation, labelled or not, lacks what COCO's evaluation reads."""
    check_annotations(source, scored=True).refuse(source.path)


def annotated_instances(source: Annotations) -> Instances:
    """The annotated instances that are cropped: no crowd, a valid box, any non-zero keypoint.

    Args:
        source: From `read_annotations`.

    Returns:
        In image order, then file order.

    Raises:
        UserError: One of them is malformed, or there is none.
    """
    findings = check_annotations(source, scored=False)
    findings.refuse(source.path)
    doubts = findings.warn(source.path)
    keep = np.flatnonzero(source.taken)
    keep = keep[np.argsort(source.image[keep], kind="stable")]
    image = source.image[keep]
    return Instances(
        images=source.images,
        ids=source.table["id"][keep],
        image=image,
        boxes=geometry.clean_boxes(source.table["bbox"][keep], source.images.sizes[image])[0],
        scores=np.ones(len(keep)),
        keypoints=source.keypoints[keep, :, :2].astype(np.float32),
        visible=source.visible[keep].astype(np.float32),
        left_out=count_reasons(source.left_out, source.listed["annotations"] - len(source.table)),
        doubts=doubts,
    )


# ---- instances ------------------------------------------------------------------------------------------------------


def centred(instances: Instances, aspect: float) -> np.ndarray:
    """Which instances (N, bool) have visible keypoints near the centre of the box (SELECT_DATA, as in HRNet)."""
    center, scale = geometry.boxes_to_crops(instances.boxes, aspect)
    count = instances.visible.sum(1)
    mean = (instances.keypoints * instances.visible[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    distance = ((mean - center) ** 2).sum(1)
    similarity = np.exp(-distance / (2 * 0.2**2 * geometry.crop_areas(scale)))
    return (count > 0) & (similarity > 0.45 + 0.0125 * (count - 1))


def select(instances: Instances, keep: np.ndarray) -> Instances:
    """The instances that `keep` (N, bool) marks."""
    return dataclasses.replace(instances, **{name: getattr(instances, name)[keep] for name in COLUMNS})
