"""Checks the data that a configuration names: annotations, a detector's boxes, images.

Reports the errors that would stop the tools, and problems that only this report looks for.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...pose import geometry
from ...pose.skeleton import Skeleton
from .. import coco, detections, mpii
from ..coco import Annotations, Images, Instances
from ..findings import ERROR, NOTE, OK, many
from ..images import ImageReader, orientation, size_mismatch, spelt_otherwise
from ..topdown import refuse_without_crop
from . import statistics
from .report import TEST, TRAIN, Report, short

FLAT = 20  # of 255: smallest difference between the 1st and the 99th percentile of an image's values


@dataclass(frozen=True)
class SetToCheck:
    """An image set of the configuration; `open_images` raises UserError if its images are missing.

    For MPII, `read_pckh` raises it if the ground truth does not fit the skeleton and the number of persons.
    """

    name: str
    path: Path
    has_truth: bool
    trains: bool
    tests: bool
    open_images: Callable[[], ImageReader]
    of_mpii: bool = False
    read_pckh: Callable[[Skeleton, int], object] | None = None

    def __str__(self) -> str:
        uses = " and ".join(use for use, is_so in (("training", self.trains), ("test", self.tests)) if is_so)
        return f"the {uses} set {self.name}"

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools that its errors stop. Training needs the test set too, to validate on."""
        return (TRAIN, TEST) if self.tests else (TRAIN,)


@dataclass(frozen=True)
class BoxesToCheck:
    """The detected boxes, which testing on annotated boxes does not use."""

    path: Path
    threshold: float
    used: bool


def examine(
    sets: Sequence[SetToCheck],
    choose_boxes: Callable[[], BoxesToCheck | None],
    *,
    category: str,
    num_joints: int,
    skeleton_of: Callable[[Annotations], Skeleton],
    aspect: float,
    select_data: bool,
    number: int | None,
    follow: Callable[[list[int]], Iterable[int]] = iter,
) -> Report:
    """Check image sets, and the detected boxes of the test set, as a configuration uses them.

    `choose_boxes` and `skeleton_of` raise UserError for sets that do not fit; `aspect` is the crops' width / height,
    which `select_data` depends on. `number` images of each set are read (None: all); `follow` iterates over their
    indices, to show progress. Raises UserError if there is nothing to check.
    """
    if not any(images.path.exists() for images in sets):
        missing = " and ".join(str(images.path) for images in sets)
        raise UserError(f"nothing to check, there is no {missing} (DATASET.ROOT, TRAIN_SET, TEST_SET)")
    report = Report()
    for images in sets:
        source = _read(report, images, category, num_joints)
        labelled = _check_annotations(report, images, source, skeleton_of)
        training, off_centre = labelled if images.trains else None, 0
        if training is not None and select_data:
            centred = coco.centred(training, aspect)
            training, off_centre = coco.select(training, centred), int((~centred).sum())
        if source.category and (images.has_truth or images.trains) and not images.of_mpii:
            statistics.check(report.findings, source, images.name, off_centre, tests=images.tests)
        testing = labelled if images.tests else None
        if images.tests and not images.of_mpii:
            testing = _check_boxes(report, images, source, choose_boxes) or labelled
        if images.read_pckh is not None and labelled is not None and report.skeleton is not None:
            report.begin(f"PCKh's ground truth of {images}", images.tools)
            try:
                images.read_pckh(report.skeleton, len(labelled))
                report.findings.add(OK, "file", "fits the annotations")
            except UserError as error:
                report.fail("file", error)
        try:
            reader = images.open_images()
        except UserError as error:
            report.begin(f"images of {images}", images.tools)
            report.fail("there", error)
            continue
        report.begin(f"images of {images}: {short(reader.source)}", images.tools)
        if report.reader is None and labelled is not None:
            report.instances, report.reader = labelled, reader
        needed = _check_crops(report, len(source.images.ids), training, testing, aspect)
        _check_images(report, source.images, reader, needed, number, follow)
    return report


def _read(report: Report, images: SetToCheck, category: str, num_joints: int) -> Annotations:
    what = "annotations" if images.has_truth else "images"
    report.begin(f"{what} of {images}: {short(images.path)}", images.tools)
    try:
        if images.of_mpii:
            source = mpii.parse_annotations(images.path, num_joints)
        else:
            source = coco.parse_annotations(images.path, num_joints, category, image_info=not images.has_truth)
    except UserError as error:
        report.fail("file", error, images.path)
        nothing = Images(np.zeros(0, np.int64), np.zeros(0, np.str_), np.zeros((0, 2), np.int64))
        return Annotations(images.path, nothing, {})
    statistics.check_counts(report.findings, source, images.name)
    report.add(source.findings, source.path)
    return source


def _check_annotations(
    report: Report, images: SetToCheck, source: Annotations, skeleton_of: Callable[[Annotations], Skeleton]
) -> Instances | None:
    """Do the checks of the tools; returns the labelled instances, or None if the tools would stop before."""
    kind = None
    try:
        source.findings.refuse(source.path)
        kind = skeleton_of(source)
        if report.skeleton is None:
            report.skeleton = kind
            statistics.check_skeleton(report.findings, kind)
    except UserError as error:
        report.stop(error)
    if not source.category or not (images.has_truth or images.trains or images.of_mpii):
        return None
    if images.of_mpii:
        report.add(mpii.check_annotations(source, images.has_truth), source.path)
    else:
        report.add(coco.check_annotations(source, scored=images.tests and images.has_truth), source.path)
    if not any(finding.check == "format" for finding in report.findings):
        report.findings.add(OK, "format", "all fields that are read are there and have the right type")
    with contextlib.suppress(UserError):  # one of the findings above
        if kind is not None and images.of_mpii:
            return mpii.annotated_instances(source, images.has_truth)
        return coco.annotated_instances(source) if kind is not None else None
    return None


def _check_boxes(
    report: Report, images: SetToCheck, source: Annotations, choose_boxes: Callable[[], BoxesToCheck | None]
) -> Instances | None:
    """Check the detected boxes; returns the detected instances if testing uses them."""
    try:
        boxes = choose_boxes()
    except UserError as error:
        report.begin(f"boxes of {images}", images.tools)
        report.fail("choice", error)
        return None
    if boxes is None:
        return None
    path = boxes.path
    report.begin(f"detected boxes of {images}: {short(path)}", images.tools if boxes.used else ())
    if not boxes.used and not path.exists():
        report.findings.add(NOTE, "file", "missing, and not needed while TEST.USE_GT_BBOX is True")
        return None
    try:
        joints = report.skeleton.num_joints if report.skeleton is not None else 0
        findings, detected = detections.check_detections(path, source, joints, boxes.threshold)
    except UserError as error:
        report.fail("file", error, path)
        return None
    report.add(findings, path)
    if any(finding.error for finding in findings) or not source.category:
        return None
    statistics.check_cover(report.findings, source, detected)
    return detected if boxes.used else None


def _check_crops(
    report: Report, count: int, training: Instances | None, testing: Instances | None, aspect: float
) -> np.ndarray:
    """Check the images; returns which of them (I, bool) have crops."""
    needed = np.zeros(count, bool)
    for instances, tools in ((training, (TRAIN,)), (testing, (TRAIN, TEST))):
        if instances is not None:
            needed[instances.image] = True
            try:
                refuse_without_crop(instances, *geometry.boxes_to_crops(instances.boxes, aspect))
            except UserError as error:
                report.fail("crops", error, tools=tools)
    return needed


def _check_images(
    report: Report,
    images: Images,
    reader: ImageReader,
    needed: np.ndarray,
    number: int | None,
    follow: Callable[[list[int]], Iterable[int]],
) -> None:
    findings, names = report.findings, images.names.tolist()
    noun = report.skeleton.noun if report.skeleton else "person"
    whose = f" with {noun}s" if needed.any() else ""
    needed = needed | ~needed.any()
    try:
        missing = reader.missing(names)
    except UserError as error:
        report.fail("there", error, reader.source)
        return
    wanted = missing & needed
    if missing.any():
        says = f"{missing.sum():,} of {many(len(missing), 'image')} are missing, {wanted.sum():,} of them with {noun}s"
        which = np.flatnonzero(wanted if wanted.any() else missing).tolist()
        findings.add(ERROR if wanted.any() else NOTE, "there", says, (names[i] for i in which))
        if wanted.any():
            first = reader.source / names[which[0]]
            report.stop(UserError(f"{first}: the image is missing{spelt_otherwise(first)}"))
    else:
        findings.add(OK, "there", f"all {len(missing):,}")
    spelt = Counter(map(str.lower, set(names)))
    if twins := [name for name in names if spelt[name.lower()] > 1]:
        says = f"{len(twins):,} are named like another but for upper and lower case: on some systems that is one file"
        findings.add(NOTE, "names", says, twins, "give each a name of its own")

    there = np.flatnonzero(needed & ~missing)
    chosen = there
    if number is not None and number < len(there):
        chosen = there[np.linspace(0, len(there) - 1, number).round().astype(int)]
    broken, other, tagged, flat = [], [], [], []
    for i in follow(chosen.tolist()):
        owner = f"image {images.ids[i]}"
        try:
            pixels, tag = reader.read(names[i], owner), orientation(reader.content(names[i], owner))
        except UserError as error:
            report.stop(error)
            broken.append(str(error).removeprefix(f"{reader.source}/"))
            continue
        if contradiction := size_mismatch(pixels, images.sizes[i].tolist()):
            other.append(f"{names[i]} {contradiction}")
        if tag != 1:
            tagged.append(f"{tag} in {names[i]}")
        low, high = np.percentile(pixels[::4, ::4], (1, 99))
        if high - low < FLAT:
            flat.append(f"{low:g} to {high:g} in {names[i]}")
    if broken:
        findings.add(ERROR, "readable", f"{len(broken):,} of {len(chosen):,} cannot be read", broken)
    if other:
        says = f"{len(other):,} of {len(chosen):,} do not have the annotated size: their keypoints are misplaced"
        remedy = "annotate exactly these files, pixels as stored (EXIF orientation is ignored)"
        findings.add(ERROR, "size", says, other, remedy)
    if tagged:
        says = f"{len(tagged):,} of {len(chosen):,} have an EXIF orientation, which is ignored"
        remedy = "where keypoints are off on the sheet, annotate the pixels as stored, or turn the files"
        findings.add(NOTE, "orientation", says, tagged, remedy)
    if flat:
        says = f"{len(flat):,} of {len(chosen):,} are nearly of one value, such as all black"
        remedy = "only the upper 8 of 16 bits are read: scale 10- or 12-bit values to 16 bits, or save 8 bits"
        findings.add(ERROR if 2 * len(flat) > len(chosen) else NOTE, "contrast", says, flat, remedy)
    if not len(chosen):
        findings.add(NOTE, "readable", "not checked: no image was read")
    elif not broken and not other:
        size = ", each of the stated size" if images.sizes.any() else ""
        findings.add(OK, "readable", f"{len(chosen):,} of {len(there):,}{whose} read{size}")


def samples(instances: Instances, number: int) -> list[list[int]]:
    """Candidates for `number` pictures, spread over the set: for each, instances with many keypoints first."""
    boxes = instances.boxes[:, 2:].prod(1)
    order = np.lexsort((-boxes, -instances.visible.sum(1)))
    place = np.argsort(order)
    groups = np.array_split(np.arange(len(instances)), min(number, len(instances)))
    return [group[np.argsort(place[group])].tolist() for group in groups]
