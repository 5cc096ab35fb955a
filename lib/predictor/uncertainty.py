"""The confidence and covariance of a result's keypoints, from the calibration of the network.

N persons, K keypoints.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core.predict import TestOptions
from ..evaluation.calibration import LEVELS, Calibration
from ..pose import heatmap

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """For keypoints (N, K): confidence (N, K), the probability that a keypoint is right, and covariance (N, K, 2, 2) of
    its error in image pixels squared (None for an exported file with decoding), both from `calibration`."""

    confidence: np.ndarray
    covariance: np.ndarray | None
    calibration: Calibration

    def ellipses(self, level: float = LEVELS[-1]) -> np.ndarray | None:
        """Matrices M (N, K, 2, 2): the errors p with p^T M^-1 p <= 1 form the ellipse that contains the fraction
        `level` of all errors, one of `LEVELS`."""
        radius = self.calibration.radii[LEVELS.index(level)]
        return None if self.covariance is None else self.covariance * radius**2

    def columns(self) -> dict[str, np.ndarray]:
        """The values to save for each person: confidence (N, K) and covariance (N, K, 3: xx, xy, yy), if any."""
        found = {"confidence": self.confidence.astype(np.float64).round(4)}
        if self.covariance is not None:
            flat = self.covariance.reshape(*self.covariance.shape[:-2], 4)[..., [0, 1, 3]]
            found["covariance"] = flat.astype(np.float64).round(3)
        return found


def usable(calibration: Calibration | None, options: TestOptions, where: Path) -> Calibration | None:
    """The calibration, or None, with a warning that names `where`, if it was made with other test options."""
    if calibration is None or calibration.holds_for(options):
        return calibration
    logger.warning(
        "%s: its calibration is not used, because it was made with flip test %s and blur %d",
        *(where, "on" if calibration.flip_test else "off", calibration.blur_kernel),
    )
    return None


def of_batch(batch: dict[str, Tensor], maps: Tensor, keypoints: Tensor, calibration: Calibration) -> np.ndarray:
    """(B, K, 2, 2) in image pixels squared, of keypoints (B, K, 2) in heatmap pixels and their maps (B, K, H, W)."""
    scores = heatmap.peaks(maps)[1].cpu().numpy()
    whole = (keypoints == keypoints.round()).all(-1).cpu().numpy()
    moments = heatmap.second_moments(maps, keypoints).cpu().numpy()
    covariance = calibration.covariance(moments, scores, whole)
    turn = batch["to_image"][:, None, :, :2].float().numpy()
    return turn @ covariance @ turn.swapaxes(-1, -2)


def joined(rows: list[np.ndarray | None], scores: np.ndarray, calibration: Calibration) -> Uncertainty:
    """For the persons of an image: covariances (K, 2, 2) or None for each, and scores (N, K)."""
    found = [row for row in rows if row is not None]
    shape = (*scores.shape, 2, 2)
    covariance = np.array(found, np.float32).reshape(shape) if len(found) == len(rows) else None
    return Uncertainty(calibration.confidence(scores), covariance, calibration)
