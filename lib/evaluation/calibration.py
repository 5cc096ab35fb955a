"""Calibration: a keypoint's confidence and the covariance of its error, from its score and heatmap.

Confidence is the probability that a keypoint is right: that its own OKS is `similarity` or more
(https://cocodataset.org/#keypoints-eval). It is a monotone function of the score, by the pool-adjacent-violators
algorithm (Zadrozny and Elkan, KDD 2002). The covariance of the error is the heatmap's matrix of second moments, times a
power of the score, and times a factor if decoding left the keypoint at a whole pixel. N keypoints.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..core.predict import TestOptions
from ..dataset.json_fields import read_json
from ..errors import UserError
from ..runtime.files import checksum, write_text

logger = logging.getLogger(__name__)

LEVELS = (0.68, 0.95)  # of the ellipses
GAUSSIAN = tuple(
    math.sqrt(-2 * math.log(1 - level)) for level in LEVELS
)  # radii of a Gaussian's ellipses in standard deviations
MIN_KEYPOINTS = 200  # keypoints needed for a fit
QUANTILES = 20  # bins with equally many keypoints, whose shares give the probability
MIN_SCORE = 1e-3  # lower scores are raised to it before taking the logarithm


@dataclass(frozen=True)
class Labelled:
    """Keypoints with annotations: scores (N); moments (N, 2, 2), `heatmap.second_moments`; whole (N, bool), whether
    they lie at a whole heatmap pixel; errors (N, 2) in heatmap pixels; right (N, bool); image (N), whose they are."""

    scores: np.ndarray
    moments: np.ndarray
    whole: np.ndarray
    errors: np.ndarray
    right: np.ndarray
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: np.ndarray) -> "Labelled":
        """The keypoints that `keep` (N, bool) selects."""
        return Labelled(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


@dataclass(frozen=True)
class Calibration:
    """The result of `fit`, and what it is valid for: the weights file and the test options."""

    similarity: float
    scores: tuple[float, ...]  # ascending; between them the probability is interpolated
    probabilities: tuple[float, ...]
    spread: tuple[float, float, float]  # logarithm of the covariance's scale: constant, per log score, at whole pixels
    radii: tuple[float, float]  # radii of the ellipses of `LEVELS`, in standard deviations of the covariance
    keypoints: int  # keypoints of the fit
    weights_sha256: str
    flip_test: bool
    blur_kernel: int

    def confidence(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (…) of being right, float32, for scores (…)."""
        return np.interp(scores, self.scores, self.probabilities).astype(np.float32)

    def covariance(self, moments: np.ndarray, scores: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Covariances (…, 2, 2), float32, in the units of `moments` (…, 2, 2); scores, whole (…) as in `Labelled`."""
        return (moments * np.exp(_features(scores, whole) @ np.array(self.spread))[..., None, None]).astype(np.float32)

    def holds_for(self, options: TestOptions) -> bool:
        """Whether scores with these test options are comparable with those of the fit."""
        return (self.flip_test, self.blur_kernel) == (options.flip_test, options.blur_kernel)


def fit(data: Labelled, similarity: float, weights_sha256: str, options: TestOptions) -> Calibration:
    """Fit a calibration. Raises UserError for fewer than `MIN_KEYPOINTS`.

    The scale of the covariance is a least-squares fit to the logarithm of the squared Mahalanobis distances, which a
    few large errors hardly change. The radii are quantiles of these distances, so that the coverage is right for any
    distribution of errors; they are scaled so that the smaller ellipse is that of a Gaussian.
    """
    if len(data) < MIN_KEYPOINTS:
        raise UserError(
            f"{len(data)} labelled keypoints are too few to fit a calibration; it needs at least {MIN_KEYPOINTS}"
        )
    features, squares = _features(data.scores, data.whole), mahalanobis(data.errors, data.moments)
    spread = np.linalg.lstsq(features, np.log(np.maximum(squares, 1e-9)))[0]
    radii = np.sqrt(np.quantile(squares / np.exp(features @ spread), LEVELS))
    unit = radii[0] / GAUSSIAN[0]
    spread[0] += 2 * math.log(unit)
    scores, probabilities = _monotone(data.scores, data.right)
    return Calibration(
        similarity=similarity,
        scores=tuple(scores.tolist()),
        probabilities=tuple(probabilities.tolist()),
        spread=tuple(spread.tolist()),
        radii=tuple((radii / unit).tolist()),
        keypoints=len(data),
        weights_sha256=weights_sha256,
        flip_test=options.flip_test,
        blur_kernel=options.blur_kernel,
    )


def mahalanobis(errors: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared distances (N) of errors (N, 2) from 0, in standard deviations of covariance (N, 2, 2)."""
    return np.einsum("ni,ni->n", errors, np.linalg.solve(covariance, errors[..., None])[..., 0])


def _features(scores: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(…, 3): the terms of the covariance's log scale, which is linear in them."""
    return np.stack([np.ones(np.shape(scores)), np.log(np.maximum(scores, MIN_SCORE)), whole], -1, dtype=np.float64)


def _monotone(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores and shares of right keypoints per bin; bins are merged until both are ascending.

    A share is (right + 1/2) / (count + 1): never 0 or 1, which no finite sample shows.
    """
    pooled: list[np.ndarray] = []  # per bin: sum of the scores, number of right keypoints, number of keypoints
    for part in np.array_split(np.argsort(scores, kind="stable"), QUANTILES):
        pooled.append(np.array([scores[part].sum(dtype=np.float64), right[part].sum(), len(part)]))
        while len(pooled) > 1 and _share(pooled[-2]) >= _share(pooled[-1]):
            pooled[-2:] = [pooled[-2] + pooled[-1]]
    return np.array([bin_[0] / bin_[2] for bin_ in pooled]), np.array([_share(bin_) for bin_ in pooled])


def _share(sums: np.ndarray) -> float:
    return float((sums[1] + 0.5) / (sums[2] + 1))


# The file beside the weights


def place(weights: Path) -> Path:
    """The path of the calibration of a weights file."""
    return weights.parent / f"{weights.stem}_calibration.json"


def write(path: Path, calibration: Calibration) -> None:
    text = json.dumps(asdict(calibration), indent=2)
    write_text(path, text)


def from_mapping(content: Mapping[str, Any], where: str) -> Calibration:
    """A calibration from plain values. Raises UserError if they are malformed."""
    kinds: dict[str, Callable[[Any], Any]] = {
        name: lambda values: tuple(float(value) for value in values)
        for name in ("scores", "probabilities", "spread", "radii")
    }
    try:
        found = Calibration(**{key: kinds.get(key, lambda value: value)(value) for key, value in content.items()})
        fits = len(found.scores) == len(found.probabilities) > 0 and (len(found.spread), len(found.radii)) == (3, 2)
    except (TypeError, ValueError, AttributeError, OverflowError):
        fits = False
    if not fits:
        raise UserError(f"{where}: not a calibration of this version; make it again with tools/calibrate.py")
    return found


def read(weights: Path) -> Calibration | None:
    """The calibration beside a weights file, None if there is none.

    A calibration of other weights is ignored with a warning. Raises UserError for a damaged file.
    """
    path = place(weights)
    if not path.exists():
        return None
    found = from_mapping(read_json(path, "calibration", Any), str(path))
    if found.weights_sha256 != checksum(weights):
        logger.warning(
            "%s: ignored, because it was made for other weights than %s; run tools/calibrate.py", path, weights
        )
        return None
    return found
