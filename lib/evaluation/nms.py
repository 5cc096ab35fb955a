"""Rescoring, and OKS-NMS: of persons in one image whose keypoints nearly coincide, the best stays.

N persons, P pairs of them, K keypoints. OKS (object keypoint similarity) is COCO's:
https://cocodataset.org/#keypoints-eval, with the areas of both persons averaged.
"""

import numpy as np

MAX_AFTER_SOFT = 20  # persons that soft OKS-NMS leaves in an image


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
    stays: list[int] = []
    for left in np.split(order, np.flatnonzero(np.diff(image[order])) + 1):
        while len(left):
            best, left = left[0], left[1:]
            stays.append(best)
            similarity = oks(keypoints[best], keypoints[left], areas[best], areas[left], sigmas)
            left = left[~(similarity > threshold)]
    return np.array(stays, np.int64)


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
