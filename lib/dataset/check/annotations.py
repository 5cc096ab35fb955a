"""Checks of an annotation file's raw content, whatever is in it, on one table of the annotations.

I images, N annotations, K keypoints. Boxes are x, y, w, h in image pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...pose import geometry
from ...pose import skeleton as skeletons
from ...pose.skeleton import Skeleton
from .. import coco, json_fields
from ..coco import Images
from .report import ERROR, MOST_EXAMPLES, NOTE, OK, Section, many, plain, without

ROUNDING = 1.0  # pixels by which a box may leave its image unreported
SUSPICIOUS, ABSURD = 0.05, 0.5  # shares of persons from which what may happen to one is a note, an error
AREA_OF_BOX = (0.02, 1.5)  # a person's area as a share of the box: COCO's median is 0.5

# COCO's evaluation: square pixels of a person that counts as medium or large, or at all; persons it takes of an image.
MEDIUM, LARGE, ALL = (32.0**2, 96.0**2), (96.0**2, 1e10), (0.0, 1e10)
MOST_FOUND = 20

# What COCO 2017 has: images and annotations of persons; how many of these training, and testing on their boxes, take.
PUBLISHED = {
    "train2017": (118_287, 262_465),
    "val2017": (5_000, 11_004),
    "test-dev2017": (20_288, 0),
}
PUBLISHED_PERSONS = {"train2017": 149_813, "val2017": 6_352}


# ---- well-formed? ---------------------------------------------------------------------------------------------------

is_whole = partial(json_fields.is_number, whole=True)
Field = tuple[Callable[[Any], bool], Any, str]  # what is right, what a missing one stands for, how it is called
IMAGE: dict[str, Field] = {
    "id": (is_whole, None, "a whole number"),
    "width": (is_whole, None, "a whole number"),
    "height": (is_whole, None, "a whole number"),
    "file_name": (json_fields.is_file_name, None, "a file's name"),
}
ANNOTATION: dict[str, Field] = {
    "id": (is_whole, None, "a whole number"),
    "image_id": (is_whole, None, "a whole number"),
    "category_id": (is_whole, None, "a whole number"),
}
PERSON: dict[str, Field] = {
    "area": (json_fields.is_number, None, "a number"),
    "iscrowd": (lambda value: value in (0, 1), 0, "0 or 1"),
    "num_keypoints": (is_whole, 0, "a whole number"),
}
DETECTION: dict[str, Field] = {
    "image_id": (is_whole, None, "a whole number"),
    "category_id": (is_whole, None, "a whole number"),
    "score": (json_fields.is_number, None, "a number"),
}


def check(
    section: Section,
    content: Any,
    path: Path,
    name: str,
    *,
    has_truth: bool,
    tests: bool,
    category: str,
    num_joints: int,
) -> tuple[Images, "Persons | None"]:
    """Check the content of an annotation file, or of an image-info file (`has_truth` false), as far as it has any.

    Returns the images that are well-formed and the annotations of the category. `name` is the set's, `category` and
    `num_joints` are what the configuration says; a set that `tests` must satisfy COCO's evaluation.
    """
    before = len(section.findings)
    lists = _lists(section, content, ["images", "categories", *["annotations"] * has_truth])
    _check_counts(section, name, lists)
    images = _check_image_list(section, lists["images"])
    persons = None
    if has_truth:
        persons = _table(section, lists, images, path, name, tests, category, num_joints)
    if all(finding.check != "format" for finding in section.findings[before:]):
        section.add(OK, "format", "everything that is read is there and of the right kind")
    if persons is not None:
        _check_image_ids(section, persons)
        _check_boxes(section, persons)
        _check_areas(section, persons)
        _check_keypoints(section, persons)
        _check_num_keypoints(section, persons, tests)
    return images, persons


def _lists(section: Section, content: Any, keys: Sequence[str]) -> dict[str, list]:
    """The lists of a COCO file, empty where it has none."""
    found = {}
    for key in keys:
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list):
            section.add(ERROR, "format", f"no list '{key}', so this is no COCO annotation file")
        found[key] = value if isinstance(value, list) else []
    return found


def _check_counts(section: Section, name: str, lists: dict[str, list]) -> None:
    counts = ", ".join(many(len(lists[key]), key[:-1]) for key in ("images", "annotations") if key in lists)
    published = PUBLISHED.get(name)
    if not published or not _has_cocos_keypoints(lists["categories"]):
        section.add(OK, "counts", counts)
    elif _is_published(name, lists):
        section.add(OK, "counts", f"{counts}, as published")
    else:
        wanted = " and ".join(f"{number:,}" for number in published if number)
        section.add(NOTE, "counts", f"{counts}; COCO's {name} has {wanted}")


def _has_cocos_keypoints(categories: list) -> bool:
    listed = [c["keypoints"] for c in categories if isinstance(c, dict) and "keypoints" in c]
    return all(names == list(skeletons.COCO.names) for names in listed)


def _is_published(name: str, lists: dict[str, list]) -> bool:
    return PUBLISHED.get(name) == (len(lists["images"]), len(lists.get("annotations", ())))


def objects_of(section: Section, items: list, what: str, fields: dict[str, Field]) -> tuple[list[dict], np.ndarray]:
    """The items that are JSON objects, and which of them (N, bool) have all fields right."""
    objects = [item for item in items if isinstance(item, dict)]
    if len(objects) < len(items):
        lost = next(i for i, item in enumerate(items) if not isinstance(item, dict))
        says = f"{many(len(items) - len(objects), what)} of {len(items):,} must be a JSON object and is none"
        section.add(ERROR, "format", says, [f"number {lost + 1}"])
    right = np.ones(len(objects), bool)
    for key, (is_right, missing, wanted) in fields.items():
        bad = np.array([not is_right(item.get(key, missing)) for item in objects], bool)
        report_malformed(section, objects, bad, what, key, wanted)
        right &= ~bad
    return objects, right


def report_malformed(section: Section, items: list[dict], bad: np.ndarray, what: str, key: str, wanted: str) -> None:
    if bad.any():
        examples = [
            f"{json_fields.shown(items[i][key]) if key in items[i] else 'none'} in {_name(items[i], i, what)}"
            for i in np.flatnonzero(bad)[:MOST_EXAMPLES].tolist()
        ]
        says = f"{many(int(bad.sum()), what)} of {len(items):,} must have '{key}', {wanted}"
        section.add(ERROR, "format", says, examples)


def _name(item: dict, index: int, what: str) -> str:
    return f"{what} {item['id']}" if is_whole(item.get("id")) else f"{what} number {index + 1}"


def _check_image_list(section: Section, items: list) -> Images:
    objects, right = objects_of(section, items, "image", IMAGE)
    good = [item for item, is_right in zip(objects, right, strict=True) if is_right]
    ids = np.array([item["id"] for item in good], np.int64)
    _check_duplicates(section, ids, "image", ERROR, "persons may be looked for on the wrong photograph")
    sizes = np.array([[item["width"], item["height"]] for item in good], np.int64).reshape(-1, 2)
    empty = (sizes < 1).any(1)
    if empty.any():
        examples = [f"{sizes[i, 0]} x {sizes[i, 1]} of image {ids[i]}" for i in np.flatnonzero(empty)[:MOST_EXAMPLES]]
        section.add(ERROR, "size", f"{many(int(empty.sum()), 'image')} must have a width and a height", examples)
    return Images(ids, np.array([item["file_name"] for item in good], np.str_), sizes)


def _check_duplicates(section: Section, ids: np.ndarray, what: str, level: str, why: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        examples = [f"{counts[i]} times {values[i]}" for i in np.flatnonzero(counts > 1)[:MOST_EXAMPLES]]
        says = f"{(counts > 1).sum():,} of {len(values):,} {what} ids are given more than once: {why}"
        section.add(level, "ids", says, examples, "number them anew, each with an id of its own")
    else:
        section.add(OK, "ids", f"each of the {many(len(values), f'{what} id')} stands once")


# ---- persons --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persons:
    """The annotations of the category (N), NaN where a field is malformed or missing: image index or -1, crowd,
    labelled, boxes (N, 4), areas, keypoints (N, K, 3) and the stated number of keypoints."""

    items: list[dict]
    images: Images
    joints: Sequence[str]
    published: int  # how many of them the published set takes, 0 if this is not it
    image: np.ndarray
    crowd: np.ndarray
    labelled: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    keypoints: np.ndarray
    stated: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) width and height of the person's image, NaN if it is not listed."""
        sizes = np.full((len(self), 2), np.nan)
        sizes[self.image >= 0] = self.images.sizes[self.image[self.image >= 0]]
        return sizes

    @property
    def visible(self) -> np.ndarray:
        """(N, K) bool"""
        return self.keypoints[..., 2] > 0

    @property
    def wanted(self) -> np.ndarray:
        """(N) bool: labelled and no crowd, so that training would have them."""
        return self.labelled & ~self.crowd

    @property
    def inside(self) -> np.ndarray:
        """(N) bool: something of the box is left in the image."""
        return geometry.clean_boxes(self.boxes, self.sizes)[1]

    @property
    def counted(self) -> np.ndarray:
        """(N) bool: COCO's evaluation looks for them."""
        return ~np.logical_or.reduce(list(self.not_counted.values()))

    @property
    def not_counted(self) -> dict[str, np.ndarray]:
        """Why COCO's evaluation ignores annotations (N, bool); what has several reasons stands with the first."""
        stated = np.where(np.isnan(self.stated), self.visible.sum(1), self.stated)
        reasons = {
            "as a crowd": self.crowd,
            "in images not listed": self.image < 0,
            "with num_keypoints 0": stated == 0,
            "of an impossible area": ~self.of_area(ALL),
        }
        return _first_reasons(reasons)

    def of_area(self, limits: tuple[float, float]) -> np.ndarray:
        return (self.areas >= limits[0]) & (self.areas <= limits[1])

    @property
    def left_out(self) -> dict[str, np.ndarray]:
        """Why training leaves persons out (N, bool); who has several reasons stands with the first."""
        reasons = {
            "as a crowd": self.crowd,
            "without a labelled keypoint": ~self.labelled,
            "in images not listed": self.image < 0,
            "malformed": np.isnan(self.boxes).any(1) | np.isnan(self.areas) | np.isnan(self.keypoints).any((1, 2)),
            "with a box outside the image": ~self.inside,
            "without an area": ~(self.areas > 0),
        }
        return _first_reasons(reasons)

    def name(self, index: int) -> str:
        item, place = self.items[index], self.image[index]
        image = self.images.names[place] if place >= 0 else f"image {json_fields.shown(item.get('image_id'))}"
        return f"{_name(item, index, 'annotation')} ({str(image)[: json_fields.LONGEST]})"

    def examples(self, which: np.ndarray, detail: Callable[[int], str]) -> list[str]:
        return [f"{detail(i)} of {self.name(i)}" for i in np.flatnonzero(which)[:MOST_EXAMPLES].tolist()]

    def box(self, index: int) -> str:
        return plain(self.boxes[index])


def _first_reasons(reasons: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    left = np.ones(len(next(iter(reasons.values()))), bool)
    first = {}
    for reason, which in reasons.items():
        first[reason] = which & left
        left = left & ~which
    return first


def _count(reasons: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{which.sum():,} {reason}" for reason, which in reasons.items() if which.any())


def _table(
    section: Section,
    lists: dict[str, list],
    images: Images,
    path: Path,
    name: str,
    tests: bool,
    category: str,
    num_joints: int,
) -> Persons | None:
    """The annotations of the category, None if the file has no such category."""
    try:
        kind = coco.category_of(lists["categories"], category, path)
    except UserError as error:
        section.add(ERROR, "category", without(path, error))
        return None
    names = kind.get("keypoints")
    joints = names if isinstance(names, list) and names else [f"{k + 1}" for k in range(num_joints)]
    objects, _ = objects_of(section, lists["annotations"], "annotation", ANNOTATION)
    ids = np.array([item["id"] for item in objects if is_whole(item.get("id"))], np.int64)
    why = "testing stops" if tests else "testing on this set would stop"
    _check_duplicates(section, ids, "annotation", ERROR if tests else NOTE, why)
    items = [item for item in objects if item.get("category_id") == kind["id"]]
    items, _ = objects_of(section, items, "annotation", PERSON)

    boxes = json_fields.table([item.get("bbox") for item in items], 4)
    report_malformed(section, items, np.isnan(boxes).any(1), "annotation", "bbox", "four numbers")
    points = json_fields.table([item.get("keypoints") or [0] * (3 * len(joints)) for item in items], 3 * len(joints))
    report_malformed(section, items, np.isnan(points).any(1), "annotation", "keypoints", f"{3 * len(joints)} numbers")
    place: dict[Any, int] = {int(image_id): i for i, image_id in enumerate(images.ids)}
    return Persons(
        items=items,
        images=images,
        joints=joints,
        published=PUBLISHED_PERSONS.get(name, 0) if _is_published(name, lists) else 0,
        image=np.array([place.get(i, -1) if is_whole(i) else -1 for i in (a.get("image_id") for a in items)], np.int64),
        crowd=np.array([coco.is_crowd(item) for item in items], bool),
        labelled=np.array([coco.is_labelled(item) for item in items], bool),
        boxes=boxes,
        areas=numbers_of(items, "area"),
        keypoints=points.reshape(-1, len(joints), 3),
        stated=numbers_of(items, "num_keypoints"),
    )


def numbers_of(items: list[dict], key: str) -> np.ndarray:
    return np.array([v if json_fields.is_number(v) else np.nan for v in (item.get(key) for item in items)], np.float64)


def _check_image_ids(section: Section, persons: Persons) -> None:
    unlisted = persons.image < 0
    if unlisted.any():
        says = f"{unlisted.sum():,} of {many(len(persons), 'annotation')} are of images that are not listed"
        examples = [persons.name(i) for i in np.flatnonzero(unlisted)[:MOST_EXAMPLES].tolist()]
        section.add(ERROR if unlisted.all() else NOTE, "images", says, examples)
    else:
        section.add(OK, "images", "those of all annotations are listed")


def _check_boxes(section: Section, persons: Persons) -> None:
    boxes, sizes = persons.boxes, persons.sizes
    known = ~np.isnan(boxes).any(1) & (persons.image >= 0)
    empty = known & (boxes[:, 2:] <= 0).any(1)
    outside = known & ~empty & ~persons.inside
    ends = boxes[:, :2] + boxes[:, 2:]
    beyond = known & ~empty & ~outside & ((boxes[:, :2] < -ROUNDING) | (ends > sizes + ROUNDING)).any(1)
    # x1, y1, x2, y2 read as x, y, w, h makes boxes that leave the image, but never with w < x or h < y.
    corners = known & (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + ROUNDING).all(1)
    remedy = ""
    if known.any() and corners.sum() == known.sum() and (beyond | outside).mean() > SUSPICIOUS:
        remedy = "they look like x1, y1, x2, y2; COCO's boxes are x, y, width, height"
    for which, what, certain in (
        (empty, "without width or height", True),
        (outside, "wholly outside their image: training leaves them out", True),
        (beyond, "reach beyond their image and are cut there", False),
    ):
        if which.any():
            level = ERROR if remedy or (certain and (which & persons.wanted).any()) else NOTE
            examples = persons.examples(which, persons.box)
            section.add(level, "boxes", f"{which.sum():,} of {known.sum():,} {what}", examples, remedy)
    if not (empty | outside | beyond).any():
        section.add(OK, "boxes", "none is empty or leaves its image")


def _check_areas(section: Section, persons: Persons) -> None:
    known = ~np.isnan(persons.areas)
    none = known & (persons.areas <= 0)
    if none.any():
        says = f"{none.sum():,} of {known.sum():,} are not positive: training leaves them out, and AP cannot find them"
        examples = persons.examples(none, lambda i: f"{persons.areas[i]:g}")
        remedy = "set 'area' to the person's area in square pixels, or to half of the box's"
        level = ERROR if (none & persons.wanted).any() or (persons.areas < 0).any() else NOTE
        section.add(level, "areas", says, examples, remedy)
    spans = np.prod(persons.boxes[:, 2:], axis=1)
    both = persons.wanted & known & ~none & (spans > 0)
    share = float(np.median(persons.areas[both] / spans[both])) if both.any() else 0.5
    if not AREA_OF_BOX[0] <= share <= AREA_OF_BOX[1]:
        says = f"they are {share:.3g} times the box's area in the median, where COCO's are half of it"
        remedy = "give them in square pixels of the image: the OKS of COCO's evaluation divides by them"
        section.add(ERROR, "areas", says, remedy=remedy)
    elif not none.any():
        section.add(OK, "areas", "all positive")


def _check_keypoints(section: Section, persons: Persons) -> None:
    points, visible, wanted = persons.keypoints[..., :2], persons.visible, persons.wanted
    sizes = persons.sizes[:, None]
    fine = True

    def report(level: str, which: np.ndarray, says: str, examples: Sequence[str], remedy: str = "") -> None:
        nonlocal fine
        if which.any():
            section.add(level, "keypoints", says, examples, remedy)
            fine = False

    def joint(marked: np.ndarray) -> Callable[[int], str]:
        def text(person: int) -> str:
            k = int(np.flatnonzero(marked[person])[0])
            return f"{persons.joints[k]} at {plain(persons.keypoints[person, k, :2])}"

        return text

    out: np.ndarray = visible & ((points < 0) | (points > sizes)).any(-1)
    gone = out.any(1) & (out == visible).all(1)
    says = f"{out.sum():,} of {visible.sum():,} labelled ones are outside their image"
    if gone.any():
        says += f", for {many(int(gone.sum()), 'person')} all of them"
    report(ERROR if gone.any() else NOTE, out, says, persons.examples(np.any(out, axis=1), joint(out)))

    odd: np.ndarray = ~np.isnan(persons.keypoints[..., 2]) & ~np.isin(persons.keypoints[..., 2], (0, 1, 2))
    says = f"{odd.sum():,} have a visibility that is not 0, 1 or 2; above 0 it means labelled"
    report(NOTE, odd, says, persons.examples(np.any(odd, axis=1), joint(odd)))

    blind = wanted & ~np.isnan(points).any((1, 2)) & ~visible.any(1)
    says = f"{many(int(blind.sum()), 'person')} with coordinates, but visibility 0 throughout: nothing to learn from"
    level = ERROR if blind.sum() > ABSURD * wanted.sum() else NOTE
    report(level, blind, says, [persons.name(i) for i in np.flatnonzero(blind)[:MOST_EXAMPLES].tolist()])

    seen = wanted & visible.any(1) & ~np.isnan(persons.boxes).any(1)
    weight = visible[..., None] / np.maximum(visible.sum(1), 1)[:, None, None]
    middle = np.nansum(points * weight, axis=1)
    start, extent = persons.boxes[:, :2], persons.boxes[:, 2:]
    away = seen & ~((middle >= start - extent / 4) & (middle <= start + extent * 5 / 4)).all(1)
    if away.sum() > SUSPICIOUS * seen.sum():
        remedy = ""
        if np.nanmax(np.where(visible[..., None], points, 0)) <= 1:
            remedy = "they look like fractions of the image; COCO's are pixels"
        says = f"those of {away.sum():,} of {many(int(seen.sum()), 'person')} lie elsewhere than their box"
        examples = persons.examples(away, lambda i: f"around {plain(middle[i])}, box {persons.box(i)},")
        report(ERROR if away.sum() > ABSURD * seen.sum() else NOTE, away, says, examples, remedy)
    if fine:
        section.add(OK, "keypoints", f"{visible.sum():,} labelled, all inside their image")


def _check_num_keypoints(section: Section, persons: Persons, tests: bool) -> None:
    have = persons.visible.sum(1)
    known = ~np.isnan(persons.stated) & ~np.isnan(persons.keypoints).any((1, 2))
    lies: np.ndarray = known & (persons.stated != have)
    if not lies.any():
        section.add(OK, "num_keypoints", "true, wherever it is given")
        return
    hidden = lies & ~persons.crowd & ((persons.stated == 0) | (have == 0))
    says = f"{lies.sum():,} of {len(persons):,} are not true"
    if hidden.any():
        says += f", {hidden.sum():,} of them between none and some, which is what AP goes by"
    examples = persons.examples(lies, lambda i: f"{persons.stated[i]:g} stated, {have[i]} labelled in the keypoints")
    remedy = "set it to the number of keypoints with visibility above 0, or leave it out"
    section.add(ERROR if tests and hidden.any() else NOTE, "num_keypoints", says, examples, remedy)


def check_taken(section: Section, persons: Persons, off_centre: int) -> None:
    reasons = persons.left_out
    out = np.logical_or.reduce(list(reasons.values()))
    taken = int((~out).sum()) - off_centre
    says = f"{taken:,} of {len(persons):,} persons in {len(np.unique(persons.image[~out])):,} images"
    if out.any():
        says += f"; left out: {_count(reasons)}"
    if off_centre:
        says += f"; left out in training: {off_centre:,} off centre (SELECT_DATA)"
    if not taken:
        section.add(ERROR, "taken", f"nobody to train on or to test: {says}")
    elif persons.published and not off_centre and taken != persons.published:
        section.add(NOTE, "taken", f"{says}; published: {persons.published:,}")
    else:
        section.add(OK, "taken", says)


def check_precision(section: Section, persons: Persons) -> None:
    """Why AP would be -1, or cannot be 1, however good the model is."""
    counted = persons.counted
    count = int(counted.sum())
    if not count:
        why = f" ({_count(persons.not_counted)})" if len(persons) else ""
        says = f"AP is -1, whatever is found: none of {len(persons):,} counts{why}"
        section.add(ERROR, "AP", says)
        return
    medium, large = (int((counted & persons.of_area(limits)).sum()) for limits in (MEDIUM, LARGE))
    says = f"{many(count, 'person')} count, {medium:,} of medium size (32² to 96² pixels) and {large:,} large"
    empty = " and ".join(name for name, number in (("AP (M)", medium), ("AP (L)", large)) if not number)
    if empty:
        says += f"; {empty} will be -1"
    section.add(NOTE if empty else OK, "AP", says)

    out = np.logical_or.reduce(list(persons.left_out.values())) & counted
    if out.any():
        says = f"{out.sum():,} of those that count are left out above and cannot be found on annotated boxes"
        section.add(NOTE, "AP", says, [persons.name(i) for i in np.flatnonzero(out)[:MOST_EXAMPLES].tolist()])
    zero = counted & np.array([item.get("id") == 0 for item in persons.items], bool)
    if zero.any():
        says = "plain pycocotools takes the annotation with id 0 for one that is never found; here it counts"
        section.add(NOTE, "AP", says, remedy="count the ids from 1")
    places, numbers = np.unique(persons.image[counted], return_counts=True)
    if numbers.max() > MOST_FOUND:
        name = str(persons.images.names[places[numbers.argmax()]])
        says = f"{name} has {numbers.max()} persons that count; COCO's evaluation takes {MOST_FOUND} of an image"
        section.add(NOTE, "AP", says)


def check_skeleton(section: Section, kind: Skeleton) -> None:
    names = kind.names
    told = dict(skeletons.pairs_from_names(names))
    partner = told | {right: left for left, right in told.items()}
    given = {names[a]: names[b] for a, b in kind.pairs} | {names[b]: names[a] for a, b in kind.pairs}
    wrong = [f"{a}/{b}" for a, b in ((names[a], names[b]) for a, b in kind.pairs) if partner.get(a, b) != b]
    missing = [f"{a}/{b}" for a, b in told.items() if a not in given and b not in given]
    turned = [f"{names[a]}/{names[b]}" for a, b in kind.pairs if told.get(names[b]) == names[a]]
    if wrong:
        section.add(ERROR, "pairs", "left and right do not belong together by their names", wrong[:MOST_EXAMPLES])
    if missing:
        section.add(NOTE, "pairs", "left and right by their names, but a flip does not exchange them", missing[:3])
    if turned:
        section.add(NOTE, "pairs", "right stands before left: drawn in each other's colour", turned[:MOST_EXAMPLES])
    if not kind.pairs and not missing:
        section.add(NOTE, "pairs", "none: a flip exchanges nothing")
    if kind.pairs and not (wrong or missing or turned):
        says = f"{len(kind.pairs)} left/right of {many(kind.num_joints, 'keypoint')}, as their names say"
        section.add(OK, "pairs", says)
    if set(kind.sigmas) == {skeletons.DEFAULT_SIGMA}:
        says = f"none given: {skeletons.DEFAULT_SIGMA:g} stands in for each, and AP compares with no other"
        section.add(NOTE, "sigmas", says, remedy="give them in a yaml: DATASET.SKELETON")
