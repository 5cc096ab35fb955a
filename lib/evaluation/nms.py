"""Rescoring and OKS-NMS: of persons in an image whose keypoints nearly coincide, only the best is kept.

N persons, P pairs of them, K keypoints.
"""

import numpy as np

from .oks import keypoint_similarities

MAX_AFTER_SOFT = 20  # persons per image after soft OKS-NMS


def rescore(box_scores: np.ndarray, keypoint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Person scores (N): box score x mean of the keypoint scores (N, K) above the threshold; 0 if there are none."""
    counted = keypoint_scores > threshold
    total = np.where(counted, keypoint_scores, 0).sum(1, dtype=np.float64)
    return box_scores * total / np.maximum(counted.sum(1), 1)


def oks(one: np.ndarray, other: np.ndarray, one_area: np.ndarray, area: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """OKS (P), by the mean of both areas (P), of keypoints (P, K, 2) with others; one side may be a single person's."""
    return keypoint_similarities(((other - one) ** 2).sum(-1), (one_area + area) / 2, sigmas).mean(1)


def suppress(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    sigmas: np.ndarray,
    soft: bool = False,
) -> np.ndarray:
    """Indices of the persons that are kept, by image (N, any numbers), the best first.

    A person removes those in its image whose OKS with it is above the threshold. With `soft` it moves similar ones back
    in the order instead, by the factor exp(-OKS^2 / threshold), and at most `MAX_AFTER_SOFT` per image are kept.
    """
    order = np.lexsort((scores, -image))[::-1]  # for equal scores the later comes first, as published
    stays: list[int] = []
    for left in np.split(order, np.flatnonzero(np.diff(image[order])) + 1):
        remaining, most = scores[left], len(stays) + MAX_AFTER_SOFT
        while len(left) and not (soft and len(stays) == most):
            best, left = left[0], left[1:]
            stays.append(best)
            similarity = oks(keypoints[best], keypoints[left], areas[best], areas[left], sigmas)
            if soft:
                remaining = remaining[1:] * np.exp(-(similarity**2) / threshold)
                again = remaining.argsort(kind="stable")[::-1]
                left, remaining = left[again], remaining[again]
            else:
                left = left[~(similarity > threshold)]
    return np.array(stays, np.int64)
