"""Object keypoint similarity: https://cocodataset.org/#keypoints-eval. K keypoints."""

import numpy as np


def keypoint_similarities(squared: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """exp(-d² / (2 s² k²)) of squared distances (…, K), where s² is the instance's area (…) and k = 2 sigma (K)."""
    return np.exp(-(squared / (sigmas * 2) ** 2 / (areas[..., None] + np.spacing(1)) / 2))
