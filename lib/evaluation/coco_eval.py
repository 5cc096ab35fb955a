"""COCO's keypoint evaluation: https://cocodataset.org/#keypoints-eval

N detections, G annotated instances, K keypoints, P pairs of a detection and an annotated instance of the same image,
T OKS thresholds. Points, boxes and areas are in image pixels. Similarities and matches are computed for all images at
once, and equal those of pycocotools, which computes the ten numbers from them.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval, Params

from ..dataset.coco import Annotations
from .oks import keypoint_similarities

METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
MAX_DETECTIONS = 20  # detections per image that count
ALMOST_ONE = 1 - 1e-10  # pycocotools treats it as a similarity of 1
PAIRS_AT_ONCE = 1 << 16  # limits the memory
PARAMS = Params("keypoints")
THRESHOLDS: np.ndarray = PARAMS.iouThrs  # .5, .55 … .95


@dataclass(frozen=True, eq=False)
class Truth:
    """Annotated instances, image by image: ids (G) of their images, places (G) in the annotation file's table,
    keypoints (G, K, 3), boxes (G, 4), areas (G), and who is a crowd or `ignored` for another reason (G, bool)."""

    image: np.ndarray
    place: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    @classmethod
    def of(cls, annotations: Annotations) -> "Truth":
        """The annotations in listed images."""
        table, image = annotations.table, annotations.table["image_id"]
        place = np.flatnonzero(annotations.image >= 0)
        place = place[image[place].argsort(kind="stable")]
        crowd = table["iscrowd"][place].astype(bool)
        keypoints = annotations.keypoints[place]
        ignored = crowd | (annotations.stated[place] == 0)
        return cls(image[place], place, keypoints, table["bbox"][place], table["area"][place], crowd, ignored)

    @cached_property
    def labelled(self) -> np.ndarray:
        """(G, K) bool"""
        return self.keypoints[..., 2] > 0

    def ignoring(self, which: np.ndarray) -> "Truth":
        """A copy in which these instances (G, bool) are ignored too."""
        return dataclasses.replace(self, ignored=self.ignored | which)

    def of_area(self, limits: tuple[float, float]) -> "Truth":
        """A copy in which instances of other areas are ignored too."""
        return self.ignoring((self.areas < limits[0]) | (self.areas > limits[1]))


@dataclass(frozen=True, eq=False)
class Found:
    """The detections that count, image by image, the best of each first: ids (N) of their images, places (N) in the
    results, scores (N), points (N, K, 2)."""

    image: np.ndarray
    place: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, scores: np.ndarray, points: np.ndarray) -> "Found":
        """The best `MAX_DETECTIONS` of each image; for equal scores, the earlier first."""
        order = np.lexsort((-scores, image))
        order = order[_places_within(image[order]) < MAX_DETECTIONS]
        return cls(image[order], order, scores[order], points[order])

    def select(self, which: np.ndarray, scores: np.ndarray) -> "Found":
        """Selected detections with new scores: the best of each image first."""
        return Found(self.image[which], self.place[which], scores, self.points[which])

    @cached_property
    def rank(self) -> np.ndarray:
        """(N) the rank among the detections of the same image, from 0."""
        return _places_within(self.image)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N) the area of the box around all keypoints."""
        return (self.points.max(1) - self.points.min(1)).prod(1)

    def outside(self, limits: tuple[float, float]) -> np.ndarray:
        """Which detections (N, bool) are outside the limits of area, and ignored if unmatched."""
        return (self.areas < limits[0]) | (self.areas > limits[1])


@dataclass(frozen=True, eq=False)
class Pairs:
    """The detection (P) and the annotated instance (P) of each pair."""

    detection: np.ndarray
    person: np.ndarray

    @classmethod
    def of(cls, found: "Found | Truth", truth: Truth) -> "Pairs":
        first = truth.image.searchsorted(found.image)
        count = truth.image.searchsorted(found.image, side="right") - first
        detection = np.repeat(np.arange(len(count)), count)
        return cls(detection, np.arange(len(detection)) + np.repeat(first - (count.cumsum() - count), count))

    def parts(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The pairs in parts: detections, instances, and the part's slice."""
        for start in range(0, len(self.person), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            yield part, self.detection[part], self.person[part]


@dataclass(frozen=True, eq=False)
class Matches:
    """At each threshold, the instance (N, T) that a detection finds, -1 for none; which detections (N, T, bool) do not
    count; and which instances (G, bool) do."""

    person: np.ndarray
    ignored: np.ndarray
    counted: np.ndarray

    def within(self, inside: np.ndarray, outside: np.ndarray) -> "Matches":
        """The same matches if only instances `inside` (G, bool) count, and unmatched detections that are `outside`
        (N, bool) are ignored."""
        ignored = np.where(self.person >= 0, self.ignored | ~inside[self.person], outside[:, None])
        return Matches(self.person, ignored, self.counted & inside)


def _places_within(image: np.ndarray) -> np.ndarray:
    return np.arange(len(image)) - image.searchsorted(image)


def similarities(found: Found, truth: Truth, pairs: Pairs, sigmas: np.ndarray) -> np.ndarray:
    """OKS (P): the mean similarity of the keypoints that are labelled.

    For an instance without labelled keypoints, which is ignored, it is the similarity to its surroundings.
    """
    similarity = np.empty(len(pairs.person))
    blind = ~np.any(truth.labelled, axis=1)
    for part, one, other in pairs.parts():
        squared = ((found.points[one] - truth.keypoints[other, :, :2]) ** 2).sum(-1)
        near, labelled = keypoint_similarities(squared, truth.areas[other], sigmas), truth.labelled[other]
        similarity[part] = np.where(labelled, near, 0).sum(1) / np.maximum(labelled.sum(1), 1)
    alone = np.flatnonzero(blind[pairs.person])
    similarity[alone] = similarities_to_boxes(found, truth, Pairs(pairs.detection[alone], pairs.person[alone]), sigmas)
    return similarity


def similarities_to_boxes(found: Found, truth: Truth, pairs: Pairs, sigmas: np.ndarray) -> np.ndarray:
    """(P): as OKS, but distances are those to the box extended by its own width and height on each side."""
    similarity = np.empty(len(pairs.person))
    start, size = truth.boxes[:, None, :2], truth.boxes[:, None, 2:]
    for part, one, other in pairs.parts():
        from_start = found.points[one] - start[other]
        beyond = np.maximum(0, -size[other] - from_start) + np.maximum(0, from_start - 2 * size[other])
        similarity[part] = keypoint_similarities((beyond**2).sum(-1), truth.areas[other], sigmas).mean(1)
    return similarity


def match(
    found: Found,
    truth: Truth,
    pairs: Pairs,
    similarity: np.ndarray,
    outside: np.ndarray | None = None,
    thresholds: np.ndarray = THRESHOLDS,
) -> Matches:
    """Match detections and instances: each detection, the best first, takes the free instance most similar (P) to it.

    Among equals it takes the last, and an ignored instance only if no other reaches the threshold; a crowd stays free.
    Unmatched detections are ignored if they are `outside` (N, bool).
    """
    thresholds = np.minimum(thresholds, ALMOST_ONE)
    able = np.flatnonzero(similarity >= thresholds.min())
    detection, person, value = pairs.detection[able], pairs.person[able], similarity[able]
    # Detections of the same rank are in different images, so that they do not compete.
    order = np.lexsort((-person, -value, truth.ignored[person], detection, found.rank[detection]))
    detection, person, value = detection[order], person[order], value[order]
    matched = np.full((len(found.image), len(thresholds)), -1)
    free = np.ones((len(truth.image), len(thresholds)), bool)
    ends = found.rank[detection].searchsorted(np.arange(MAX_DETECTIONS + 1))
    for start, end in pairwise(ends.tolist()):
        if start < end:
            wanted = person[start:end]
            possible = (value[start:end, None] >= thresholds) & free[wanted]
            who, first = np.unique(detection[start:end], return_index=True)
            place = np.minimum.reduceat(np.where(possible, np.arange(end - start)[:, None], end), first)
            at, column = np.nonzero(place < end)
            taken = wanted[place[at, column]]
            matched[who[at], column] = taken
            free[taken, column] = truth.crowd[taken]
    ignored = np.where(matched >= 0, truth.ignored[matched], False if outside is None else outside[:, None])
    return Matches(matched, ignored, ~truth.ignored)


def average_precision(
    detections: list[dict[str, Any]], ground_truth: Annotations, sigmas: Sequence[float]
) -> dict[str, float]:
    """COCO's ten numbers.

    Args:
        detections: COCO results, each a dict of image_id, category_id, keypoints (x, y, score of each) and score.
        ground_truth: From `coco.read_annotations`.
        sigmas: (K), OKS's.

    Returns:
        AP to AR (L) by the names in `METRICS`; all 0 without a detection, -1 if no instance counts.
    """
    if not detections:
        return dict.fromkeys(METRICS, 0.0)
    image, scores = (np.array([detection[key] for detection in detections]) for key in ("image_id", "score"))
    numbers = chain.from_iterable(detection["keypoints"] for detection in detections)
    points = np.fromiter(numbers, float, 3 * len(sigmas) * len(detections)).reshape(-1, len(sigmas), 3)[..., :2]
    listed = np.isin(image, ground_truth.images.ids)
    listed &= np.array([detection["category_id"] == ground_truth.category["id"] for detection in detections])
    found, truth = Found.of(image[listed], scores[listed], points[listed]), Truth.of(ground_truth)
    return ten_numbers(found, truth, np.asarray(sigmas))


def ten_numbers(found: Found, truth: Truth, sigmas: np.ndarray) -> dict[str, float]:
    """The ten numbers named in `METRICS`."""
    pairs = Pairs.of(found, truth)
    similarity = similarities(found, truth, pairs, sigmas)
    evaluation = COCOeval(iouType="keypoints")
    evaluation._paramsEval = params = evaluation.params
    params.imgIds, params.catIds = np.union1d(found.image, truth.image).tolist(), [1]
    evaluation.evalImgs = []
    cuts, others = (column.searchsorted(params.imgIds[1:]) for column in (found.image, truth.image))
    for limits in params.areaRng:
        matches = match(found, truth.of_area(limits), pairs, similarity, found.outside(limits))
        columns = (
            np.split(found.scores, cuts),
            np.split(matches.person.T + 1, cuts, axis=1),
            np.split(matches.ignored.T, cuts, axis=1),
            np.split(~matches.counted, others),
        )
        names = ("dtScores", "dtMatches", "dtIgnore", "gtIgnore")
        evaluation.evalImgs += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))
