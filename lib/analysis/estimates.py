"""Estimates as functions of image weights, and their bootstrap intervals over images.

I images, N detections, T OKS thresholds, R recalls, B resamples. An estimate takes weights of the images (B, I) and
returns numbers (B, …), NaN if nothing is annotated; weights of 1 give the estimate for the set itself. A resample draws
I images with replacement, and its weights say how often each image was drawn (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993; percentile intervals).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..evaluation.coco_eval import MAX_DETECTIONS, PARAMS, THRESHOLDS, Found, Matches, Truth

RECALLS: np.ndarray = PARAMS.recThrs  # 0, .01 … 1
HALF, THREE_QUARTERS = (int(abs(THRESHOLDS - t).argmin()) for t in (0.5, 0.75))
PERCENT = 95
AT_ONCE = 1 << 22  # weights of detections held at a time, which limits the memory
Estimate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The detections by descending score, as for AP: `image` (N) is the index of each one's image. For each threshold,
    `right` and `uncounted` are the ranks of the correct and of the ignored detections, and `before` is how many ignored
    ones precede each correct one. `truth` holds the images of the instances that count. Only correct detections need a
    precision: the maxima that COCO interpolates with are there."""

    image: np.ndarray
    right: list[np.ndarray]
    uncounted: list[np.ndarray]
    before: list[np.ndarray]
    truth: np.ndarray

    @classmethod
    def of(cls, found: Found, truth: Truth, matches: Matches, images: np.ndarray) -> "Ranking":
        """`images` (I) are the sorted ids of the weighted images."""
        order = (-found.scores).argsort(kind="stable")
        order = order[~matches.ignored[order].all(1)]
        person, ignored = matches.person[order].T, matches.ignored[order].T
        right = [np.flatnonzero((who >= 0) & ~out) for who, out in zip(person, ignored, strict=True)]
        uncounted = [np.flatnonzero(out) for out in ignored]
        before = [out.searchsorted(at) for at, out in zip(right, uncounted, strict=True)]
        places = images.searchsorted(found.image[order])
        return cls(places, right, uncounted, before, images.searchsorted(truth.image[matches.counted]))

    def precision(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Precision (B, T, R), interpolated as in COCO's evaluation, and the highest recall (B, T)."""
        of_all, total = weights[:, self.image], weights[:, self.truth].sum(1, keepdims=True)
        seen = of_all.cumsum(1)
        precision, recall = (
            np.zeros((len(weights), len(self.right), len(RECALLS))),
            np.zeros((len(weights), len(self.right))),
        )
        for row, (right, uncounted, before) in enumerate(zip(self.right, self.uncounted, self.before, strict=True)):
            if len(right):
                found = of_all[:, right].cumsum(1)
                none = np.zeros((len(weights), 1))
                counted = seen[:, right] - np.hstack([none, of_all[:, uncounted].cumsum(1)])[:, before]
                here = np.hstack([found / (counted + np.spacing(1)), none])
                highest = np.maximum.accumulate(here[:, ::-1], axis=1)[:, ::-1]
                reached = found / np.maximum(total, 1)
                first = np.array([one.searchsorted(RECALLS) for one in reached])
                precision[:, row] = np.take_along_axis(highest, first, 1)
                recall[:, row] = reached[:, -1]
        nobody = total[:, 0] == 0
        precision[nobody], recall[nobody] = np.nan, np.nan
        return precision, recall

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(B, 6): AP, AP .5, AP .75, AR, AR .5, AR .75"""
        precision, recall = self.precision(weights)
        parts = precision.mean(2), recall
        return np.stack([value for by in parts for value in (by.mean(1), by[:, HALF], by[:, THREE_QUARTERS])], 1)


@dataclass(frozen=True, eq=False)
class Ratios:
    """Ratios of weighted sums over images: of `counts` (I, C) to `of` (I, C)."""

    counts: np.ndarray
    of: np.ndarray

    @classmethod
    def over(cls, image: np.ndarray, images: int, counts: np.ndarray, of: np.ndarray) -> "Ratios":
        """From values (M, C) and the image index (M) of each."""
        sums = [np.zeros((images, values.shape[1])) for values in (counts, of)]
        for total, values in zip(sums, (counts, of), strict=True):
            np.add.at(total, image, values)
        return cls(*sums)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self.counts) / (weights @ self.of)


def resamples(images: int, number: int, seed: int = 0) -> np.ndarray:
    """Weights (B, I)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), number).astype(float)


def drawn(estimate: Estimate, weights: np.ndarray) -> np.ndarray:
    """The estimate for each resample (B, …), computed a few at a time."""
    if not len(weights):
        return estimate(np.ones((1, weights.shape[1])))[:0]
    parts = 1 + weights.size * MAX_DETECTIONS // AT_ONCE
    return np.concatenate([estimate(part) for part in np.array_split(weights, parts)])


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the middle `PERCENT` of the draws (B, …); NaN if all draws are NaN."""
    tail = (100 - PERCENT) / 2
    some = np.isfinite(draws).any(0) if len(draws) else np.zeros(draws.shape[1:], bool)
    low, high = np.nanpercentile(np.where(some, draws, 0), (tail, 100 - tail), axis=0) if some.any() else (some, some)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)
