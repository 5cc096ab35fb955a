"""Groups of the annotated instances, by properties that make them hard.

G annotated instances. Boxes and areas are in image pixels. Crowding and numbers of keypoints are grouped as in Ronchi
and Perona (ICCV 2017): by the number of boxes that overlap with an IoU of .1, and at 5, 10 and 15 of 17 keypoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..evaluation.coco_eval import PARAMS, Found, Pairs, Truth

OVERLAP = 0.1  # smallest IoU with another box that counts as crowding
EDGE = 2.0  # a box within so many pixels of the image's edge is cut off
MANY, MOST, ALL_BUT_FEW = 0.3, 0.6, 0.9  # of the keypoints: 5, 10 and 15 of COCO's 17
VISIBLE = 2  # COCO's flag; 1 is labelled but hidden
SMALL = (0.0, PARAMS.areaRng[1][0])
SIZES = {"small": SMALL} | dict(zip(PARAMS.areaRngLbl[1:], map(tuple, PARAMS.areaRng[1:]), strict=True))


@dataclass(frozen=True, eq=False)
class Slice:
    """The instances (G, bool) of a group, and the unmatched detections (N, bool) that are ignored for it."""

    group: str
    label: str
    inside: np.ndarray
    outside: np.ndarray


def slices(truth: Truth, found: Found, sizes: np.ndarray) -> Iterator[Slice]:
    """The groups with at least one instance that counts; `sizes` (G, 2) are the widths and heights of their images.

    For groups by size, detections of another size are ignored, as in COCO's AP (M) and AP (L); for other groups, those
    in images without an instance of the group.
    """
    for label, limits in SIZES.items():
        inside = (truth.areas >= limits[0]) & (truth.areas <= limits[1])
        if (inside & ~truth.ignored).any():
            yield Slice("size", label, inside, found.outside(limits))
    for group, parts in _groups(truth, sizes).items():
        for label, inside in parts.items():
            counted = inside & ~truth.ignored
            if counted.any():
                yield Slice(group, label, inside, ~np.isin(found.image, truth.image[counted]))


def _groups(truth: Truth, sizes: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    others = overlapping(truth)
    start, end = truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]
    cut = ((start <= EDGE) | (end >= sizes - EDGE)).any(1)
    return {
        "crowding": {"alone": others == 0, "1–2 overlap": (others > 0) & (others < 3), "3+ overlap": others >= 3},
        "labelled keypoints": _by_number(truth.labelled.sum(1), truth.labelled.shape[1]),
        "visible keypoints": _by_number((truth.keypoints[..., 2] == VISIBLE).sum(1), truth.labelled.shape[1]),
        "truncation": {"inside the image": ~cut, "at its edge": cut},
    }


def _by_number(number: np.ndarray, most: int) -> dict[str, np.ndarray]:
    ends = sorted({0, *(round(most * share) for share in (MANY, MOST, ALL_BUT_FEW)), most})
    parts = {"0": number == 0}
    for last, end in pairwise(ends):
        parts[f"{last + 1}–{end}" if last + 1 < end else f"{end}"] = (number > last) & (number <= end)
    return parts


def overlapping(truth: Truth) -> np.ndarray:
    """(G) the number of other instances in the image, without crowds, whose box has an IoU of `OVERLAP` or more."""
    pairs = Pairs.of(truth, truth)
    one, other = truth.boxes[pairs.detection], truth.boxes[pairs.person]
    start, end = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    common = np.maximum(end - start, 0).prod(1)
    union = one[:, 2:].prod(1) + other[:, 2:].prod(1) - common
    crowds = (common >= OVERLAP * union) & (pairs.detection != pairs.person) & ~truth.crowd[pairs.person]
    return np.bincount(pairs.detection[crowds], minlength=len(truth.image))
