"""Calibrate keypoints: collect scores, heatmaps and errors on annotated instances, fit, and measure the fit.

N labelled keypoints. The fit itself is in evaluation/calibration.py, as the predictor also uses it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import needs
from ..evaluation.calibration import GAUSSIAN, LEVELS, Calibration, Labelled, mahalanobis
from ..evaluation.evaluate import CocoEvaluation
from ..explain import figures
from ..models.transpose import TransPose
from ..pose import heatmap
from .sigmas import tolerance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10  # equal-width bins of the calibration error
Curve = list[tuple[float, float, int]]
FOLDS = 5
CURVE_COLOURS = "#d95f02", "#1b6ca8"


def collect(evaluation: CocoEvaluation, model: TransPose, similarity: float) -> Labelled:
    """Run the model on a set's annotated boxes; returns one entry per labelled keypoint."""
    seen: list[tuple[Tensor, ...]] = []

    def watch(batch: dict[str, Tensor], maps: Tensor, keypoints: Tensor) -> None:
        errors = keypoints.cpu() - batch["keypoints"]
        whole = (keypoints == keypoints.round()).all(-1)
        seen.append((batch["index"], heatmap.second_moments(maps, keypoints).cpu(), whole.cpu(), errors))

    predictions = evaluation.predict(model, watch)
    index, moments, whole, errors = (torch.cat(column).numpy() for column in zip(*seen, strict=True))
    order = np.argsort(index)
    instances, table = evaluation.crops.instances, evaluation.annotations.table
    area_of = dict(zip(table["id"].tolist(), table["area"].tolist(), strict=True))
    areas = np.array([area_of[number] for number in instances.ids.tolist()])
    distances = np.linalg.norm(predictions.keypoints - instances.keypoints, axis=-1) / np.sqrt(areas)[:, None]
    labelled = instances.visible > 0
    return Labelled(
        scores=predictions.scores[labelled],
        moments=moments[order][labelled].astype(np.float64),
        whole=whole[order][labelled],
        errors=errors[order][labelled].astype(np.float64),
        right=(distances <= tolerance(evaluation.sigmas, similarity))[labelled],
        image=np.broadcast_to(instances.image[:, None], labelled.shape)[labelled],
    )


@dataclass(frozen=True)
class Tested:
    """Keypoints that the calibration was not fitted on: confidence (N); squared Mahalanobis distances (2, N) of the
    errors, divided by the squared radius of each of `LEVELS`, so that 1 is on the ellipse; sizes (N) of the ellipses in
    heatmap pixels."""

    data: Labelled
    confidence: np.ndarray
    distances: np.ndarray
    sizes: np.ndarray


def apply(calibration: Calibration, data: Labelled) -> Tested:
    covariance = calibration.covariance(data.moments, data.scores, data.whole)
    squares = mahalanobis(data.errors, covariance)
    return Tested(
        data,
        calibration.confidence(data.scores),
        squares / np.array(calibration.radii)[:, None] ** 2,
        np.linalg.det(covariance) ** 0.25,
    )


def cross_fit(data: Labelled, fitted: Callable[[Labelled], Calibration]) -> Tested:
    """Cross-validation: the keypoints of each fifth of the images, tested with a fit on the other four fifths."""
    parts = []
    for fold in range(FOLDS):
        own = data.image % FOLDS == fold
        parts.append(apply(fitted(data.select(~own)), data.select(own)))
    whole = data.select(np.concatenate([np.flatnonzero(data.image % FOLDS == fold) for fold in range(FOLDS)]))
    columns = [np.concatenate([getattr(p, name) for p in parts], -1) for name in ("confidence", "distances", "sizes")]
    return Tested(whole, *columns)


def calibration_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al., ICML 2017): the difference between the mean probability and the share of
    right keypoints, averaged over `BINS` bins of equal width, each weighted by its number of keypoints."""
    return error_of(reliability(probabilities, right))


def error_of(curve: Curve) -> float:
    """The `calibration_error` of a `reliability` curve."""
    return sum(abs(mean - share) * count for mean, share, count in curve) / sum(count for _, _, count in curve)


def reliability(probabilities: np.ndarray, right: np.ndarray) -> Curve:
    """Mean probability, share of right keypoints, and count, for each non-empty bin."""
    bins = np.minimum((np.clip(probabilities, 0, 1) * BINS).astype(int), BINS - 1)
    parts = [bins == number for number in np.unique(bins)]
    return [(float(probabilities[part].mean()), float(right[part].mean()), int(part.sum())) for part in parts]


def numbers(tested: Tested) -> dict[str, float]:
    """The numbers that `describe` prints, by name: errors of the raw score (clipped to 0..1) and of the confidence, and
    the share of keypoints inside their ellipses: of all, and of the thirds with small, medium and large ellipses."""
    data, raw = tested.data, np.clip(tested.data.scores, 0, 1)
    found = {"right": float(data.right.mean())}
    for name, values in (("raw", raw), ("calibrated", tested.confidence)):
        found[f"calibration error, {name}"] = calibration_error(values, data.right)
        found[f"Brier score, {name}"] = float(np.mean((values - data.right) ** 2))
    thirds = np.array_split(np.argsort(tested.sizes, kind="stable"), 3)
    for level, distances in zip(LEVELS, tested.distances, strict=True):
        found[f"coverage of {level:.0%}"] = float((distances <= 1).mean())
        for name, part in zip(("smallest", "middle", "largest"), thirds, strict=True):
            found[f"coverage of {level:.0%}, {name}"] = float((distances[part] <= 1).mean())
    return found


def describe(tested: Tested, calibration: Calibration) -> list[str]:
    """Lines for the console."""
    found = numbers(tested)
    lines = [
        f"{found['right']:.1%} of {len(tested.data):,} keypoints are right: OKS {calibration.similarity:g} or more",
        "                              raw score  confidence",
    ]
    for what in ("calibration error", "Brier score"):
        lines.append(f"{what:28} {found[f'{what}, raw']:10.4f} {found[f'{what}, calibrated']:11.4f}")
    lines.append("ellipse  covers  smallest third  middle  largest  radius  Gaussian's")
    for level, radius, gaussian in zip(LEVELS, calibration.radii, GAUSSIAN, strict=True):
        name = f"coverage of {level:.0%}"
        small, middle, large = (found[f"{name}, {third}"] for third in ("smallest", "middle", "largest"))
        lines.append(
            f"{level:7.0%} {found[name]:7.1%} {small:15.1%} {middle:7.1%} {large:8.1%} {radius:7.2f} {gaussian:11.2f}"
        )
    return lines


def reliability_diagram(tested: Tested, calibration: Calibration, path: Path) -> None:
    """Plot the share of right keypoints over the raw score and over the confidence, and save the picture."""
    figure = needs("matplotlib.figure", extra="explain").Figure(
        figsize=(4.2, 4.2), dpi=figures.DPI, layout="constrained"
    )
    right = tested.data.right
    curves = {
        "raw score": reliability(np.clip(tested.data.scores, 0, 1), right),
        "confidence": reliability(tested.confidence, right),
    }
    draw_reliability(figure.add_subplot(), curves, calibration.similarity)
    figures.save(figure, path)


def draw_reliability(axes: "Axes", curves: Mapping[str, Curve], similarity: float) -> None:
    """Draw named `reliability` curves; the area of a dot shows the number of keypoints in its bin."""
    axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
    for (name, curve), colour in zip(curves.items(), CURVE_COLOURS, strict=False):
        means, shares, counts = zip(*curve, strict=True)
        axes.plot(means, shares, color=colour, linewidth=1, label=f"{name}: calibration error {error_of(curve):.3f}")
        sizes = [8 + 120 * math.sqrt(count / sum(counts)) for count in counts]
        axes.scatter(means, shares, s=sizes, color=colour, alpha=0.7, linewidths=0)
    axes.set_xlabel(", ".join(curves))
    axes.set_ylabel(f"share of keypoints with an OKS of {similarity:g} or more")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
