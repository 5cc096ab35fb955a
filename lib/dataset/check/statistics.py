"""Statistics of an annotation file that reveal a wrong unit, a wrong format, or an AP that would be wrong.

I images, N annotations, K keypoints. Boxes are x, y, w, h in image pixels.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...pose import geometry
from ...pose import skeleton as skeletons
from ...pose.skeleton import Skeleton
from ..coco import Annotations, Instances, count_reasons, first_reasons, other_unit
from ..findings import ERROR, NOTE, OK, Findings, in_digits, many

ROUNDING = 1.0  # pixels by which a box may exceed its image without a report
SUSPICIOUS, ABSURD = 0.05, 0.5  # shares of the instances from which a problem is a note, and an error
COVERED = 0.5  # smallest IoU of a detected box that covers an annotated one

# COCO's evaluation: limits of medium, large and all areas in square pixels; largest number of persons per image.
MEDIUM, LARGE, ALL = (32.0**2, 96.0**2), (96.0**2, 1e10), (0.0, 1e10)
MAX_FOUND = 20

# COCO 2017: numbers of images and of person annotations; how many of these training and testing use.
PUBLISHED_COUNTS = {
    "train2017": (118_287, 262_465),
    "val2017": (5_000, 11_004),
    "test-dev2017": (20_288, 0),
}
PUBLISHED_PERSONS = {"train2017": 149_813, "val2017": 6_352}


def not_counted(source: Annotations) -> dict[str, np.ndarray]:
    """Reason -> the annotations (N, bool) that COCO's evaluation ignores for it; each has one, the first to apply."""
    return first_reasons(
        {
            "as a crowd": source.table["iscrowd"],
            "in images not listed": source.image < 0,
            "with num_keypoints 0": source.stated == 0,
            "of an impossible area": ~_of_area(source, ALL),
        }
    )


def _of_area(source: Annotations, limits: tuple[float, float]) -> np.ndarray:
    return (source.table["area"] >= limits[0]) & (source.table["area"] <= limits[1])


def _examples(source: Annotations, which: np.ndarray, detail: Callable[[int], str]) -> Iterator[str]:
    return (f"{detail(i)} of {source.name(i)}" for i in np.flatnonzero(which).tolist())


def is_published(source: Annotations, name: str) -> bool:
    return PUBLISHED_COUNTS.get(name) == (source.listed["images"], source.listed.get("annotations", 0))


def check_counts(findings: Findings, source: Annotations, name: str) -> None:
    counts = ", ".join(many(count, key[:-1]) for key, count in source.listed.items() if key != "categories")
    names = list(skeletons.COCO.names)
    if name not in PUBLISHED_COUNTS or source.category.get("keypoints", names) != names:
        findings.add(OK, "counts", counts)
    elif is_published(source, name):
        findings.add(OK, "counts", f"{counts}, as published")
    else:
        wanted = " and ".join(f"{number:,}" for number in PUBLISHED_COUNTS[name] if number)
        findings.add(NOTE, "counts", f"{counts}; COCO's {name} has {wanted}")


def check(findings: Findings, source: Annotations, name: str, off_centre: int, *, tests: bool) -> None:
    """All statistics of a set's annotations; `off_centre` is how many of them training leaves out."""
    joints = [f"{k + 1}" for k in range(source.keypoints.shape[1])]
    names = source.category.get("keypoints")
    if isinstance(names, list) and len(names) == len(joints):
        joints = names
    if not other_unit(findings):
        check_boxes(findings, source)
        check_keypoints(findings, source, joints)
    check_num_keypoints(findings, source, tests)
    if source.taken.any():
        check_taken(findings, source, name, off_centre)
    if tests:
        check_precision(findings, source)


def check_boxes(findings: Findings, source: Annotations) -> None:
    boxes, sizes = source.table["bbox"], source.sizes
    known = ~np.isnan(boxes).any(1) & (source.image >= 0)
    empty = known & (boxes[:, 2:] <= 0).any(1)
    outside = known & ~empty & ~geometry.clean_boxes(boxes, sizes)[1]
    ends = boxes[:, :2] + boxes[:, 2:]
    before = known & ~empty & ~outside & (boxes[:, :2] < -ROUNDING).any(1)
    beyond = known & ~empty & ~outside & ~before & (ends > sizes + ROUNDING).any(1)
    # x1, y1, x2, y2 read as x, y, w, h gives boxes that exceed the image, and w >= x and h >= y.
    corners = known & (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + ROUNDING).all(1)
    remedy = ""
    if known.any() and corners.sum() == known.sum() and (before | beyond | outside).mean() > SUSPICIOUS:
        remedy = "they look like x1, y1, x2, y2; COCO's boxes are x, y, width, height"
    for which, what, certain in (
        (empty, "without width or height", True),
        (outside, "wholly outside their image and left out", True),
        (before, "begin left of or above their image: moved to its edge, width and height kept, as published", False),
        (beyond, "reach beyond their image and are cut there", False),
    ):
        if which.any():
            level = ERROR if remedy or (certain and (which & source.wanted).any()) else NOTE
            examples = _examples(source, which, lambda i: in_digits(boxes[i]))
            findings.add(level, "boxes", f"{which.sum():,} of {known.sum():,} {what}", examples, remedy)
    if not (empty | outside | before | beyond).any():
        findings.add(OK, "boxes", "none is empty or leaves its image")


def check_keypoints(findings: Findings, source: Annotations, joints: Sequence[str]) -> None:
    points, visible, wanted = source.keypoints[..., :2], source.visible, source.wanted
    sizes = source.sizes[:, None]
    before = len(findings)

    def joint(marked: np.ndarray) -> Callable[[int], str]:
        def text(person: int) -> str:
            k = int(np.flatnonzero(marked[person])[0])
            return f"{joints[k]} at {in_digits(source.keypoints[person, k, :2])}"

        return text

    out: np.ndarray = visible & ((points < 0) | (points > sizes)).any(-1)
    gone = out.any(1) & (out == visible).all(1)
    if out.any():
        says = f"{out.sum():,} of {visible.sum():,} labelled ones are outside their image"
        if gone.any():
            says += f", for {many(int(gone.sum()), source.noun)} all of them"
        examples = _examples(source, np.any(out, axis=1), joint(out))
        findings.add(ERROR if gone.any() else NOTE, "keypoints", says, examples)

    odd: np.ndarray = ~np.isnan(source.keypoints[..., 2]) & ~np.isin(source.keypoints[..., 2], (0, 1, 2))
    if odd.any():
        says = f"{odd.sum():,} have a visibility that is not 0, 1 or 2; above 0 it means labelled"
        findings.add(NOTE, "keypoints", says, _examples(source, np.any(odd, axis=1), joint(odd)))

    blind = wanted & ~np.isnan(points).any((1, 2)) & ~visible.any(1)
    if blind.any():
        says = f"{many(int(blind.sum()), source.noun)} with coordinates, but visibility 0 in all: nothing to learn from"
        findings.add(
            ERROR if blind.sum() > ABSURD * wanted.sum() else NOTE,
            "keypoints",
            says,
            map(source.name, np.flatnonzero(blind).tolist()),
        )

    boxes = source.table["bbox"]
    seen = wanted & visible.any(1) & ~np.isnan(boxes).any(1)
    weight = visible[..., None] / np.maximum(visible.sum(1), 1)[:, None, None]
    middle = np.nansum(points * weight, axis=1)
    start, extent = boxes[:, :2], boxes[:, 2:]
    away = seen & ~((middle >= start - extent / 4) & (middle <= start + extent * 5 / 4)).all(1)
    if away.sum() > SUSPICIOUS * seen.sum():
        says = f"those of {away.sum():,} of {many(int(seen.sum()), source.noun)} are far from their box"
        examples = _examples(source, away, lambda i: f"around {in_digits(middle[i])}, box {in_digits(boxes[i])},")
        findings.add(ERROR if away.sum() > ABSURD * seen.sum() else NOTE, "keypoints", says, examples)
    if len(findings) == before:
        findings.add(OK, "keypoints", f"{visible.sum():,} labelled, all inside their image")


def check_num_keypoints(findings: Findings, source: Annotations, tests: bool) -> None:
    have = source.visible.sum(1)
    lies: np.ndarray = ~np.isnan(source.keypoints).any((1, 2)) & (source.stated != have)
    if not lies.any():
        findings.add(OK, "num_keypoints", "right wherever it is given")
        return
    hidden = lies & ~source.table["iscrowd"] & ((source.stated == 0) | (have == 0))
    says = f"{lies.sum():,} of {len(source.table):,} are wrong"
    if hidden.any():
        says += f", in {hidden.sum():,} of them the stated or the true number is 0, which changes the AP"
    examples = _examples(source, lies, lambda i: f"{source.stated[i]} stated, {have[i]} labelled in the keypoints")
    remedy = "set it to the number of keypoints with visibility above 0, or leave it out"
    findings.add(ERROR if tests and hidden.any() else NOTE, "num_keypoints", says, examples, remedy)


def check_taken(findings: Findings, source: Annotations, name: str, off_centre: int) -> None:
    """How many annotations are used; `coco.check_annotations` reports if there are none."""
    taken = int(source.taken.sum()) - off_centre
    says = f"{taken:,} of {len(source.table):,} {source.noun}s in {len(np.unique(source.image[source.taken])):,} images"
    if not source.taken.all():
        says += f"; left out: {count_reasons(source.left_out)}"
    if off_centre:
        says += f"; left out in training: {off_centre:,} off centre (SELECT_DATA)"
    published = PUBLISHED_PERSONS.get(name, 0) if is_published(source, name) else 0
    if not taken:
        findings.add(ERROR, "taken", f"no instance to train on: {says}")
    elif published and not off_centre and taken != published:
        findings.add(NOTE, "taken", f"{says}; published: {published:,}")
    else:
        findings.add(OK, "taken", says)


def why_no_precision(source: Annotations) -> str:
    """Why AP is always -1; empty if it is not."""
    reasons = not_counted(source)
    if not np.logical_or.reduce(list(reasons.values())).all():
        return ""
    why = f" ({count_reasons(reasons)})" if len(source.table) else ""
    return f"AP is -1 whatever the model finds: none of {many(len(source.table), source.noun)} counts{why}"


def count_by_size(source: Annotations) -> tuple[str, str]:
    """How many persons count, of which size, and which of COCO's numbers are -1 for want of them; empty if none is."""
    counted = ~np.logical_or.reduce(list(not_counted(source).values()))
    medium, large = (int((counted & _of_area(source, limits)).sum()) for limits in (MEDIUM, LARGE))
    count = many(int(counted.sum()), source.noun)
    says = f"{count} count, {medium:,} of medium size (32² to 96² pixels) and {large:,} large"
    empty = " and ".join(name for name, number in (("AP (M)", medium), ("AP (L)", large)) if not number)
    return says + f"; {empty} will be -1" * bool(empty), empty


def check_precision(findings: Findings, source: Annotations) -> None:
    """Why even a perfect model would get an AP of -1, or below 1."""
    if says := why_no_precision(source):
        findings.add(ERROR, "AP", says)
        return
    counted = ~np.logical_or.reduce(list(not_counted(source).values()))
    says, empty = count_by_size(source)
    findings.add(NOTE if empty else OK, "AP", says)

    out = counted & ~source.taken
    if out.any():
        says = f"{out.sum():,} of those that count are left out above and cannot be found on annotated boxes"
        findings.add(NOTE, "AP", says, map(source.name, np.flatnonzero(out).tolist()))
    if (counted & (source.table["id"] == 0) & ~source.table.malformed("id")).any():
        says = "plain pycocotools never counts the annotation with id 0 as found; here it counts"
        findings.add(NOTE, "AP", says, remedy="count the ids from 1")
    places, numbers = np.unique(source.image[counted], return_counts=True)
    if numbers.max() > MAX_FOUND:
        name = str(source.images.names[places[numbers.argmax()]])
        says = f"{name} has {numbers.max()} {source.noun}s that count; COCO's evaluation takes {MAX_FOUND} of an image"
        findings.add(NOTE, "AP", says)


def check_cover(findings: Findings, source: Annotations, detected: Instances) -> None:
    """Count the annotated persons without a detected box: they cannot be found."""
    wanted = ~np.logical_or.reduce([*not_counted(source).values(), source.table.malformed("bbox")])
    if not wanted.any():
        return
    order = detected.image.argsort(kind="stable")
    covered = 0
    for i in np.flatnonzero(wanted).tolist():
        first, end = detected.image.searchsorted([source.image[i], source.image[i] + 1], sorter=order)
        covered += bool((_overlaps(source.table["bbox"][i], detected.boxes[order[first:end]]) >= COVERED).any())
    says = (
        f"{covered:,} of the {wanted.sum():,} {source.noun}s that count have a box that covers them (IoU {COVERED:g})"
    )
    level = ERROR if not covered else NOTE if covered < ABSURD * wanted.sum() else OK
    remedy = "AP will be near 0: is this the detector's file of these images, with boxes as x, y, width, height?"
    findings.add(level, "cover", says, remedy=remedy if level == ERROR else "")


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (M) of a box (4) with others (M, 4)."""
    start, end = np.maximum(box[:2], others[:, :2]), np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    common = np.prod(np.maximum(end - start, 0), axis=1)
    return common / np.maximum(np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - common, np.finfo(float).tiny)


def check_skeleton(findings: Findings, kind: Skeleton) -> None:
    names = kind.names
    told = dict(skeletons.pairs_from_names(names))
    partner = told | {right: left for left, right in told.items()}
    given = {names[a]: names[b] for a, b in kind.pairs} | {names[b]: names[a] for a, b in kind.pairs}
    wrong = [f"{a}/{b}" for a, b in ((names[a], names[b]) for a, b in kind.pairs) if partner.get(a, b) != b]
    missing = [f"{a}/{b}" for a, b in told.items() if a not in given and b not in given]
    alone = [name for name in skeletons.unpaired_sides(kind) if name not in partner]
    turned = [f"{names[a]}/{names[b]}" for a, b in kind.pairs if told.get(names[b]) == names[a]]
    if wrong:
        findings.add(ERROR, "pairs", "not a left/right pair by their names", wrong)
    if missing:
        findings.add(NOTE, "pairs", "a left/right pair by their names, but a flip does not exchange them", missing)
    if alone:
        remedy = "name the pairs in a yaml: DATASET.SKELETON"
        findings.add(
            NOTE,
            "pairs",
            "left or right by their names, but not in a pair: a flip does not exchange them",
            alone,
            remedy,
        )
    if turned:
        findings.add(NOTE, "pairs", "right comes before left: their colours are exchanged in drawings", turned)
    if names != skeletons.COCO.names and sorted(names) == sorted(skeletons.COCO.names):
        findings.add(NOTE, "order", "COCO's keypoints in another order: weights that find COCO's are refused")
    if not kind.pairs and not missing:
        findings.add(NOTE, "pairs", "none: a flip exchanges nothing")
    if kind.pairs and not (wrong or missing or alone or turned):
        says = f"{len(kind.pairs)} left/right of {many(kind.num_joints, 'keypoint')}, as their names say"
        findings.add(OK, "pairs", says)
    if set(kind.sigmas) == {skeletons.DEFAULT_SIGMA}:
        says = f"none given: {skeletons.DEFAULT_SIGMA:g} is used for each, so its AP cannot be compared"
        findings.add(NOTE, "sigmas", says, remedy="give them in a yaml: DATASET.SKELETON")
