"""The error report of a results file: all numbers with their bootstrap intervals, as plain values.

N detections, G annotated instances, K keypoints, I images. Errors are in image pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.coco import Annotations
from ..evaluation.calibration import Calibration
from ..evaluation.coco_eval import (
    Found,
    Matches,
    Pairs,
    Truth,
    match,
    similarities,
    similarities_to_boxes,
    ten_numbers,
)
from ..evaluation.oks import keypoint_similarities
from ..pose.skeleton import Skeleton
from . import taxonomy
from .confidence import error_of, reliability
from .estimates import Estimate, Ranking, Ratios, drawn, interval
from .sigmas import tolerance
from .slices import slices
from .taxonomy import KINDS, MISS, NONE, STEPS, Diagnosis, diagnose

SHARES = (*KINDS, "not found")  # of all labelled keypoints of instances that count
AP_NAMES = ("AP", "AP .5", "AP .75", "AR", "AR .5", "AR .75")
PCK_AT: np.ndarray = np.linspace(0, 0.2, 41)  # fractions of the longer side of the box
PCK_SHOWN = (0.05, 0.1, 0.2)
RIGHT = 0.5  # OKS of a right keypoint, if there is no calibration that defines it
DETECTION_ERRORS = ("misranked", "duplicate", "background", "not found")
Follow = Callable[[list], Iterable]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Results matched with their annotations: the errors, and the estimates of the report.

    `images` (I) are the sorted ids; `errors` (G, K) are the distances to the annotated places, NaN for unlabelled
    keypoints and instances that are not found; `scores` (G, K) are those of the same keypoints; `estimates` are named
    by section and row.
    """

    path: Path
    annotations: Annotations
    skeleton: Skeleton
    images: np.ndarray
    found: Found
    truth: Truth
    diagnosis: Diagnosis
    metrics: dict[str, float]
    errors: np.ndarray
    scores: np.ndarray
    estimates: dict[tuple[str, str], Estimate] = field(default_factory=dict)

    @property
    def counted(self) -> np.ndarray:
        """(G, bool)"""
        return ~self.truth.ignored

    def rank(self, name: tuple[str, str], found: Found, truth: Truth, matches: Matches) -> None:
        """Add an AP."""
        self.estimates["AP of " + name[0], name[1]] = Ranking.of(found, truth, matches, self.images)


def analyse(path: Path, results: dict[str, np.ndarray], annotations: Annotations, skeleton: Skeleton) -> Analysis:
    """Match `results`, the columns of the file at `path` (`evaluation.results`), with the annotations."""
    sigmas = np.asarray(skeleton.sigmas)
    found = Found.of(results["image_id"], results["score"], results["keypoints"][..., :2])
    truth = Truth.of(annotations)
    pairs = Pairs.of(found, truth)
    similarity = similarities(found, truth, pairs, sigmas)
    diagnosis = diagnose(found, truth, pairs, similarity, skeleton)
    reached = results["keypoints"][found.place][diagnosis.detection] if len(found.image) else truth.keypoints
    errors = np.linalg.norm(reached[..., :2] - truth.keypoints[..., :2], axis=-1)
    analysis = Analysis(
        path=path,
        annotations=annotations,
        skeleton=skeleton,
        images=np.unique(annotations.images.ids),
        found=found,
        truth=truth,
        diagnosis=diagnosis,
        metrics=ten_numbers(found, truth, sigmas),
        errors=np.where(diagnosis.kind == NONE, np.nan, errors),
        scores=reached[..., 2],
    )
    matches = match(found, truth, pairs, similarity)
    analysis.rank(("all", ""), found, truth, matches)
    _add_shares(analysis, ("all", ""), analysis.counted, slice(None))
    for step, state in taxonomy.corrections(found, truth, pairs, diagnosis, skeleton):
        analysis.rank(("step", step), state.found, state.truth, match(*state))
    for part in slices(truth, found, annotations.sizes[truth.place]):
        group = part.group, part.label
        if part.group == "size":  # COCO's own AP (M) and AP (L) match detections again for each size
            within = match(found, truth.ignoring(~part.inside), pairs, similarity, part.outside)
        else:
            within = matches.within(part.inside, part.outside)
        analysis.rank(group, found, truth, within)
        _add_shares(analysis, group, analysis.counted & part.inside, slice(None))
    to_boxes = similarities_to_boxes(found, truth, pairs, sigmas)
    for k, name in enumerate(skeleton.names):
        # AP as if only this keypoint were annotated; a detection that scores it 0 does not count.
        squared = ((found.points[pairs.detection, k] - truth.keypoints[pairs.person, k, :2]) ** 2).sum(1)
        near = keypoint_similarities(squared[:, None], truth.areas[pairs.person], sigmas[[k]])[:, 0]
        near = np.where(truth.labelled[pairs.person, k], near, to_boxes)
        silent = results["keypoints"][found.place, k, 2] <= 0
        alone = match(found, truth.ignoring(~truth.labelled[:, k]), pairs, near, silent)
        analysis.rank(("keypoint", name), found, truth, alone)
        _add_shares(analysis, ("keypoint", name), analysis.counted, slice(k, k + 1))
    _add_detection_errors(analysis)
    return analysis


def _add_shares(analysis: Analysis, name: tuple[str, str], instances: np.ndarray, joints: slice) -> None:
    """The shares of each kind of error among the labelled keypoints of some instances."""
    truth, kind = analysis.truth, analysis.diagnosis.kind[instances, joints]
    image, labelled = analysis.images.searchsorted(truth.image[instances]), truth.labelled[instances, joints]
    counts = np.stack([(kind == code).sum(1) for code in range(MISS + 1)] + [(labelled & (kind == NONE)).sum(1)], 1)
    analysis.estimates["shares of " + name[0], name[1]] = Ratios.over(
        image, len(analysis.images), counts, labelled.sum(1, keepdims=True)
    )


def _add_detection_errors(analysis: Analysis) -> None:
    """Per instance that counts: duplicates with a higher score than a better detection, all duplicates, detections on
    the background, and instances that are not found."""
    diagnosis, images = analysis.diagnosis, len(analysis.images)
    duplicate = diagnosis.duplicate
    of_found = np.stack([diagnosis.misranked, duplicate, diagnosis.false & ~duplicate], 1)
    counts = np.zeros((images, len(DETECTION_ERRORS)))
    np.add.at(counts[:, :3], analysis.images.searchsorted(analysis.found.image), of_found)
    place = analysis.images.searchsorted(analysis.truth.image)
    np.add.at(counts[:, 3], place, analysis.counted & (diagnosis.detection < 0))
    counted = np.bincount(place, analysis.counted, images)[:, None]
    analysis.estimates["detection errors", ""] = Ratios(counts, counted)


def draws_of(analysis: Analysis, weights: np.ndarray, follow: Follow = iter) -> dict[tuple[str, str], np.ndarray]:
    """Every estimate for each resample (B, …); `follow` iterates over the estimates' names, to show progress."""
    return {name: drawn(analysis.estimates[name], weights) for name in follow(list(analysis.estimates))}


def measure(
    analysis: Analysis, draws: dict[tuple[str, str], np.ndarray], calibration: Calibration | None = None
) -> dict[str, Any]:
    """The report as plain values: each number with the `low` and `high` of its interval, None if there is none.

    `calibration` gives the confidence that is reported beside the scores.
    """
    diagnosis, truth, errors = analysis.diagnosis, analysis.truth, analysis.errors
    ones = np.ones((1, len(analysis.images)))
    value = {name: estimate(ones)[0] for name, estimate in analysis.estimates.items()}

    def numbers(section: str, row: str, names: Iterable[str]) -> dict[str, Any]:
        key = (section, row)
        return {name: _number(value[key][i], draws[key][:, i]) for i, name in enumerate(names)}

    def shares(section: str, row: str) -> dict[str, Any]:
        return numbers("shares of " + section, row, SHARES)

    metrics = numbers("AP of all", "", AP_NAMES)
    for size, letter in (("medium", "M"), ("large", "L")):
        if ("AP of size", size) in value:
            own = numbers("AP of size", size, AP_NAMES)
            metrics |= {f"{name} ({letter})": own[name] for name in ("AP", "AR")}
    steps, last = [], ("AP of all", "")
    for step in STEPS:
        key = ("AP of step", step)
        gain = _number(value[key][0] - value[last][0], draws[key][:, 0] - draws[last][:, 0])
        steps.append({"corrected": step, "AP": _number(value[key][0], draws[key][:, 0]), "gain": gain})
        last = key
    sides = truth.boxes[:, 2:].max(1)[analysis.counted]
    relative = np.where(truth.labelled, np.nan_to_num(errors, nan=np.inf), np.nan)[analysis.counted] / sides[:, None]
    roots = np.sqrt(np.maximum(truth.areas, 1))[:, None]
    keypoints = []
    for k, name in enumerate(analysis.skeleton.names):
        own = errors[analysis.counted, k]
        normalised = (errors / roots)[analysis.counted, k]
        keypoints.append(
            {"name": name, "labelled": int(truth.labelled[analysis.counted, k].sum())}
            | numbers("AP of keypoint", name, AP_NAMES)
            | {"shares": shares("keypoint", name), "pixels": _quantiles(own), "of_root_area": _quantiles(normalised)}
            | {"PCK": _pck(relative[:, k])}
        )
    detections = numbers("detection errors", "", DETECTION_ERRORS)
    return {
        "results": analysis.path.name,
        "annotations": analysis.annotations.path.name,
        "images": len(analysis.images),
        "instances": int(analysis.counted.sum()),
        "labelled": int(truth.labelled[analysis.counted].sum()),
        "detections": len(analysis.found.image),
        "resamples": len(next(iter(draws.values()))),
        "metrics": metrics,
        "steps": steps,
        "shares": shares("all", ""),
        "pixels": _quantiles(errors[analysis.counted]),
        "detection_errors": detections,
        "counts": {
            "keypoints": {kind: int((diagnosis.kind[analysis.counted] == i).sum()) for i, kind in enumerate(KINDS)},
            "misranked": int(diagnosis.misranked.sum()),
            "duplicate": int(diagnosis.duplicate.sum()),
            "background": int((diagnosis.false & ~diagnosis.duplicate).sum()),
            "not found": int((analysis.counted & (diagnosis.detection < 0)).sum()),
        },
        "slices": [
            {"group": section.removeprefix("AP of "), "label": label}
            | {"instances": len(estimate.truth)}
            | numbers(section, label, AP_NAMES)
            | {"shares": shares(section.removeprefix("AP of "), label)}
            for (section, label), estimate in analysis.estimates.items()
            if isinstance(estimate, Ranking) and section not in ("AP of all", "AP of step", "AP of keypoint")
        ],
        "keypoints": keypoints,
        "PCK": {"at": PCK_AT.tolist(), "all": _pck(relative)},
        "reliability": _reliability(analysis, calibration),
    }


def _reliability(analysis: Analysis, calibration: Calibration | None) -> dict[str, Any]:
    """Reliability curves of the labelled keypoints of found instances: for the raw score and, with a calibration, the
    confidence; empty if there is no such keypoint."""
    similarity = calibration.similarity if calibration else RIGHT
    seen = analysis.counted[:, None] & ~np.isnan(analysis.errors)
    distances = analysis.errors / np.sqrt(np.maximum(analysis.truth.areas, 1))[:, None]
    right = (distances <= tolerance(analysis.skeleton.sigmas, similarity))[seen]
    scores, curves = analysis.scores[seen], {}
    if len(scores):
        curves["raw score"] = reliability(np.clip(scores, 0, 1), right)
        if calibration:
            curves["confidence"] = reliability(calibration.confidence(scores), right)
    errors = {name: error_of(curve) for name, curve in curves.items()}
    return {"similarity": similarity, "keypoints": len(scores), "curves": curves, "calibration_error": errors}


def compare(
    first: Analysis,
    second: Analysis,
    draws: tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray]],
    number: int,
) -> dict[str, Any]:
    """The second results minus the first, with paired intervals: both are computed from the same resamples. `better` is
    the share of resamples in which the second is better. `moved` lists at most `number` images, those whose instances'
    OKS changed most."""
    ones = np.ones((1, len(first.images)))
    rows = dict.fromkeys(AP_NAMES, ("AP of all", "")) | {
        f"AP ({letter})": ("AP of size", size) for size, letter in (("medium", "M"), ("large", "L"))
    }
    metrics = {}
    for name, key in rows.items():
        if key in first.estimates:
            i = AP_NAMES.index(name) if name in AP_NAMES else 0
            change = (second.estimates[key](ones) - first.estimates[key](ones))[0, i]
            moves = draws[1][key][:, i] - draws[0][key][:, i]
            better = float((moves > 0).mean() + (moves == 0).mean() / 2) if len(moves) else None
            metrics[name] = _number(change, moves) | {"better": better}
    key = ("shares of all", "")
    change, moves = (second.estimates[key](ones) - first.estimates[key](ones))[0], draws[1][key] - draws[0][key]
    shift = np.where(first.counted, second.diagnosis.similarity - first.diagnosis.similarity, 0)
    place = first.images.searchsorted(first.truth.image)
    of_images = np.bincount(place, shift, len(first.images))
    most = np.argsort(-abs(of_images), kind="stable")[:number]
    return {
        "results": second.path.name,
        "metrics": metrics,
        "shares": {name: _number(change[i], moves[:, i]) for i, name in enumerate(SHARES)},
        "moved": [
            {"image_id": int(first.images[i]), "instances": int((first.counted & (place == i)).sum())}
            | {"OKS": float(of_images[i])}
            for i in most
            if of_images[i]
        ],
    }


def _number(value: float, draws: np.ndarray) -> dict[str, float | None]:
    low, high = interval(draws)
    return {"value": _plain(value), "low": _plain(low), "high": _plain(high)}


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _quantiles(errors: np.ndarray) -> dict[str, float | None]:
    errors = errors[np.isfinite(errors)]
    values = [errors.mean(), *np.quantile(errors, (0.5, 0.9))] if len(errors) else [np.nan] * 3
    return dict(zip(("mean", "median", "90 %"), map(_plain, values), strict=True))


def _pck(relative: np.ndarray) -> list[float | None]:
    """The share of errors within each of PCK_AT; errors of instances that are not found are infinite."""
    errors = np.sort(relative[~np.isnan(relative)])
    if not len(errors):
        return [None] * len(PCK_AT)
    return (errors.searchsorted(PCK_AT, side="right") / len(errors)).tolist()
