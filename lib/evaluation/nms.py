"""Rescoring, and OKS-NMS: of persons in one image whose keypoints nearly coincide, the best stays.

N persons, P pairs of them, K keypoints. OKS (object keypoint similarity) is COCO's:
https://cocodataset.org/#keypoints-eval, with the areas of both persons averaged.
"""

from collections.abc import Callable, Iterator

import numpy as np

MAX_AFTER_SOFT = 20  # persons that soft OKS-NMS leaves in an image
PAIRS_AT_ONCE = 1 << 17  # bounds the memory; as many fit a processor's cache
BOUND_MARGIN = 1e-4  # above what rounding can do to the bound


def rescore(box_scores: np.ndarray, keypoint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Person scores (N): box score x mean of the keypoint scores (N, K) above the threshold; 0 if there are none."""
    counted = keypoint_scores > threshold
    total = np.where(counted, keypoint_scores, 0).sum(1, dtype=np.float64)
    return box_scores * total / np.maximum(counted.sum(1), 1)


def oks(one: np.ndarray, other: np.ndarray, one_area: np.ndarray, area: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Similarity (P) of keypoints (P, K, 2) to others, and areas (P); one side may be a single person's."""
    distance = ((other - one) ** 2).sum(-1)
    spread = (2 * sigmas) ** 2 * 2 * ((one_area + area) / 2 + np.spacing(1))[:, None]
    return np.exp(-distance / spread).mean(1)


def _best_first(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The order (N) image by image, by descending score; of equal scores the later comes first, as published."""
    return np.lexsort((scores, -image))[::-1]


def hard(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    sigmas: np.ndarray,
) -> np.ndarray:
    """Indices of the persons that stay, image by image (N: any numbers), the best first.

    Each drops those of its image that are more similar to it than the threshold.
    """
    order = _best_first(image, scores)
    image, keypoints, areas = image[order], keypoints[order], areas[order]
    stays = np.ones(len(order), bool)
    may_exceed = _bound(keypoints, areas, threshold, sigmas)
    for better, worse in _pairs(image):
        close = may_exceed(better, worse)
        better, worse = better[close], worse[close]
        similarity = oks(keypoints[better], keypoints[worse], areas[better], areas[worse], sigmas)
        similar = similarity > threshold
        # A pair comes after all pairs in which its better one is the worse.
        for one, other in zip(better[similar].tolist(), worse[similar].tolist(), strict=True):
            if stays[one]:
                stays[other] = False
    return order[stays]


def _pairs(image: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (P) of places in the sorted `image` (N) that hold the same value, the first in the order ahead."""
    following = np.searchsorted(image, image, side="right") - np.arange(len(image)) - 1
    until = following.cumsum()
    start = 0
    while start < len(image):
        done = until[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(until, done + PAIRS_AT_ONCE, side="right")))
        counts = following[start:stop]
        first = np.repeat(np.arange(start, stop), counts)
        offset = np.arange(len(first)) - np.repeat(until[start:stop] - counts - done, counts)
        yield first, first + 1 + offset
        start = stop


def _bound(
    keypoints: np.ndarray, areas: np.ndarray, threshold: float, sigmas: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Tells of pairs (P each) which (P, bool) could be more similar than the threshold; spares most of them the rest.

    No keypoint adds more than 1/K: one more that lie apart than may be missed altogether rule a pair out, soonest
    those with the smallest sigmas.
    """
    joints = len(sigmas)
    few = np.argsort(sigmas)[: int(joints * (1 - threshold)) + 1]
    x, y = np.ascontiguousarray(keypoints[:, few].transpose(2, 1, 0), np.float32)
    spreads = ((2 * sigmas[few]) ** 2).astype(np.float32)
    total = (areas + np.spacing(1)).astype(np.float32)
    needed = joints * (threshold - BOUND_MARGIN) - (joints - len(few))

    def may_exceed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        inverse = -1 / (total[one] + total[other])
        near = np.zeros(len(one), np.float32)
        for across, down, spread in zip(x, y, spreads, strict=True):
            distance = (across[one] - across[other]) ** 2 + (down[one] - down[other]) ** 2
            near += np.exp(distance * inverse / spread)
        return near > needed

    return may_exceed


def soft(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    sigmas: np.ndarray,
) -> np.ndarray:
    """Like `hard`, but similar persons only move back: by exp(-OKS^2 / threshold); at most `MAX_AFTER_SOFT` of an image
    stay."""
    order = _best_first(image, scores)
    remaining = scores[order]
    kept = []
    for _ in range(MAX_AFTER_SOFT):
        owner = image[order]
        is_best = np.diff(owner, prepend=np.nan) != 0
        kept.append(order[is_best])
        best, rest = order[is_best][is_best.cumsum() - 1][~is_best], order[~is_best]
        similar = oks(keypoints[best], keypoints[rest], areas[best], areas[rest], sigmas)
        remaining = remaining[~is_best] * np.exp(-(similar**2) / threshold)
        again = _best_first(image[rest], remaining)
        order, remaining = rest[again], remaining[again]
    every = np.concatenate(kept)
    return every[np.argsort(image[every], kind="stable")]
