"""The kind of error of each keypoint and detection, and the AP that correcting it would bring.

Ronchi and Perona, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, ICCV 2017 (arXiv 1707.05388).
N detections, G annotated instances, K keypoints, M detections that found an instance, P pairs of a detection and an
instance. Points are in image pixels.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..evaluation.coco_eval import Found, Pairs, Truth, match, similarities
from ..evaluation.oks import keypoint_similarities
from ..pose.skeleton import Skeleton

GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
KINDS = ("good", "jitter", "inversion", "swap", "miss")
NONE = -1  # kind of a keypoint that is not labelled, or whose instance is not found
FOUND_FROM = 0.1  # smallest OKS of a detection that belongs to an instance
NEAR, WITHIN_HUMAN_ERROR = 0.5, 0.85  # keypoint similarities
# In the paper's order; each step includes the corrections before it.
STEPS = ("miss", "swap", "inversion", "jitter", "score", "false positive", "false negative")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The matches of detections and instances (`who_finds`), and their errors.

    For each instance, `detection` (G) is the one that found it (-1: none) and `similarity` (G) its OKS; `kind` (G, K)
    is an index into KINDS, or NONE, and `taken` (G, K) the instance whose keypoint is at that place. `false` (N, bool)
    marks detections that found no instance; `nearest` (N) is the instance each is most similar to (-1: the image has
    none), and `best` (N) that OKS.
    """

    detection: np.ndarray
    similarity: np.ndarray
    kind: np.ndarray
    taken: np.ndarray
    false: np.ndarray
    best: np.ndarray
    nearest: np.ndarray

    @property
    def duplicate(self) -> np.ndarray:
        """(N, bool): false, but similar to an instance that a higher-scored detection found. The rest is background."""
        return self.false & (self.best >= FOUND_FROM)

    @property
    def misranked(self) -> np.ndarray:
        """(N, bool): a duplicate that is more similar to its instance than the higher-scored one that found it."""
        found = np.where(self.nearest >= 0, self.similarity[self.nearest] if len(self.similarity) else 0, np.inf)
        return self.duplicate & (self.best > found)


def diagnose(found: Found, truth: Truth, pairs: Pairs, similarity: np.ndarray, skeleton: Skeleton) -> Diagnosis:
    """`similarity` (P) is OKS.

    A labelled keypoint is good from a similarity of .85 to its own place, a jitter from .5, unless another place is
    nearer: that of its left or right partner (an inversion), or of either on another instance (a swap), each by that
    instance's area. A miss is near none of them.
    """
    count, joints = truth.labelled.shape
    person = who_finds(found, truth, pairs, similarity)
    own = np.flatnonzero((person >= 0) & ~truth.ignored[person])
    detection = np.full(count, -1)
    detection[person[own]] = own
    is_own = person[pairs.detection] == pairs.person
    oks = np.zeros(count)
    oks[pairs.person[is_own]] = similarity[is_own]

    kind, taken = np.full((count, joints), NONE), np.full((count, joints), -1)
    near, swapped, whose, inverted = _nearness(found, truth, pairs, person, own, skeleton)
    best = np.maximum(np.maximum(near, inverted), swapped)
    here = np.select(
        [best < NEAR, (near == best) & (near >= WITHIN_HUMAN_ERROR), near == best, inverted >= swapped],
        [MISS, GOOD, JITTER, INVERSION],
        SWAP,
    )
    kind[person[own]] = np.where(truth.labelled[person[own]], here, NONE)
    taken[person[own]] = np.where(here == SWAP, whose, person[own][:, None])

    most, nearest = most_similar(found, pairs, similarity)
    return Diagnosis(detection, oks, kind, taken, person < 0, most, nearest)


def most_similar(found: Found, pairs: Pairs, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each detection's highest OKS (N) and the instance (N) that has it: 0 and -1 in an image without instances."""
    order = np.lexsort((-similarity, pairs.detection))
    with_any, first = np.unique(pairs.detection[order], return_index=True)
    most, nearest = np.zeros(len(found.image)), np.full(len(found.image), -1)
    most[with_any], nearest[with_any] = similarity[order][first], pairs.person[order][first]
    return most, nearest


def who_finds(found: Found, truth: Truth, pairs: Pairs, similarity: np.ndarray) -> np.ndarray:
    """The instance (N) that each detection finds, -1 for none.

    Matched as in COCO's evaluation at an OKS of .5; detections that reach .5 with no instance are then matched at .1.
    The paper matches at .1 only, where a duplicate can take a neighbouring instance.
    """
    person = match(found, truth, pairs, similarity, thresholds=np.array([NEAR])).person[:, 0]
    settled = (person >= 0) | (most_similar(found, pairs, similarity)[0] >= NEAR)
    left = ~settled[pairs.detection] & ~np.isin(pairs.person, person[person >= 0])
    more = match(found, truth, pairs, np.where(left, similarity, 0), thresholds=np.array([FOUND_FROM])).person[:, 0]
    return np.where(person >= 0, person, more)


def _nearness(
    found: Found, truth: Truth, pairs: Pairs, person: np.ndarray, own: np.ndarray, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of detections `own` (M) that found `person` (N): similarity (M, K) to the keypoint's own place, to the nearest
    place on another instance, whose that is, and to the partner's place; -1 where nothing is labelled."""
    row = np.full(len(found.image), -1)
    row[own] = np.arange(len(own))
    chosen = row[pairs.detection] >= 0
    detection, other = pairs.detection[chosen], pairs.person[chosen]
    group = row[detection]

    def to(joints: np.ndarray) -> np.ndarray:
        squared = ((found.points[detection] - truth.keypoints[other][:, joints, :2]) ** 2).sum(-1)
        near = keypoint_similarities(squared, truth.areas[other], np.asarray(skeleton.sigmas))
        return np.where(truth.labelled[other][:, joints], near, -1.0)

    straight, mirrored = to(np.arange(skeleton.num_joints)), to(skeleton.flip_order)
    mirrored[:, skeleton.flip_order == np.arange(skeleton.num_joints)] = -1
    mine = other == person[detection]
    others = np.where(mine[:, None], -1, np.maximum(straight, mirrored))
    starts = group.searchsorted(np.arange(len(own)))
    if not len(own):
        return straight, straight, straight.astype(int), straight
    swapped = np.maximum.reduceat(others, starts)
    first = np.where(others == swapped[group], np.arange(len(group))[:, None], len(group))
    return straight[mine], swapped, other[np.minimum.reduceat(first, starts)], mirrored[mine]


class Corrected(NamedTuple):
    """The detections, instances and pairs to match; `similarity` (P) is OKS."""

    found: Found
    truth: Truth
    pairs: Pairs
    similarity: np.ndarray


def corrections(
    found: Found, truth: Truth, pairs: Pairs, diagnosis: Diagnosis, skeleton: Skeleton
) -> Iterator[tuple[str, Corrected]]:
    """Each of STEPS, and the state after it.

    A corrected keypoint is at its annotated place, so a gain is the most that the correction can bring (the paper's
    code moves a jitter to a similarity of .85 and a miss to .5). Among the detections most similar to one instance, the
    better ones get the higher scores (the paper uses OKS as the score, which raises duplicates too). Then detections
    that find no instance are removed, and instances that are not found are ignored.
    """
    sigmas = np.asarray(skeleton.sigmas)
    similarity = similarities(found, truth, pairs, sigmas)
    for step in STEPS:
        if step in KINDS:
            person, joint = np.nonzero(diagnosis.kind == KINDS.index(step))
            points = found.points.copy()
            points[diagnosis.detection[person], joint] = truth.keypoints[person, joint, :2]
            found = dataclasses.replace(found, points=points)
        elif step == "score":
            best, nearest = most_similar(found, pairs, similarity)
            rivals = np.where(best >= FOUND_FROM, nearest, -1 - np.arange(len(nearest)))
            scores = np.empty(len(found.scores))
            scores[np.lexsort((-best, rivals))] = found.scores[np.lexsort((-found.scores, rivals))]
            order = np.lexsort((-best, -scores, found.image))
            found = found.select(order, scores[order])
        else:
            person = who_finds(found, truth, pairs, similarity)
            if step == "false positive":
                right = np.flatnonzero(person >= 0)
                found = found.select(right, found.scores[right])
            else:
                truth = truth.ignoring(~np.isin(np.arange(len(truth.image)), person))
        pairs = Pairs.of(found, truth)
        similarity = similarities(found, truth, pairs, sigmas)
        yield step, Corrected(found, truth, pairs, similarity)
