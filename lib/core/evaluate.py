"""Predictions -> rescoring -> OKS-NMS -> COCO's ten numbers.

N persons, K keypoints. OKS (object keypoint similarity) and AP are COCO's: https://cocodataset.org/#keypoints-eval
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json_tricks
import numpy as np
import orjson
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader

from transpose import checkpoint, distributed, geometry
from transpose.core.predict import Predictions, Watch, predict
from transpose.dataset.crops import Crops
from transpose.dataset.people import Annotations, People
from transpose.log import Progress

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
SOFT_NMS_MOST = 20  # persons that soft OKS-NMS leaves in an image


def rescore(box_scores: np.ndarray, keypoint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Person scores (N): box score x mean of the keypoint scores (N, K) above the threshold; 0 if there are none."""
    counted = keypoint_scores > threshold
    total = np.where(counted, keypoint_scores, 0).sum(1, dtype=np.float64)
    return box_scores * total / np.maximum(counted.sum(1), 1)


def oks(one: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Similarity (M) of a person's keypoints (K, 2) to others' (M, K, 2), the areas of both averaged."""
    distance = ((others - one) ** 2).sum(-1)
    spread = (2 * sigmas) ** 2 * 2 * ((area + areas) / 2 + np.spacing(1))[:, None]
    return np.exp(-distance / spread).mean(1)


def _best_first(scores: np.ndarray) -> np.ndarray:
    """Descending order; of equal scores the later comes first, as in the published evaluation."""
    return scores.argsort(kind="stable")[::-1]


def oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float, sigmas: np.ndarray
) -> list[int]:
    """Persons of one image that stay, best first: each drops those that are more similar to it than the threshold."""
    kept: list[int] = []
    order = _best_first(scores)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[oks(keypoints[best], keypoints[rest], areas[best], areas[rest], sigmas) <= threshold]
    return kept


def soft_oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float, sigmas: np.ndarray
) -> list[int]:
    """Like `oks_nms`, but similar persons only move back: by exp(-OKS^2 / threshold); at most `SOFT_NMS_MOST` stay."""
    order = _best_first(scores)
    kept: list[int] = []
    remaining = scores[order]
    while len(order) and len(kept) < SOFT_NMS_MOST:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        similar = oks(keypoints[best], keypoints[rest], areas[best], areas[rest], sigmas)
        remaining = remaining[1:] * np.exp(-(similar**2) / threshold)
        again = _best_first(remaining)
        order, remaining = rest[again], remaining[again]
    return kept


def results(
    people: People,
    predictions: Predictions,
    *,
    category_id: int,
    sigmas: Sequence[float],
    score_threshold: float,
    oks_threshold: float,
    soft_nms: bool = False,
) -> list[dict[str, Any]]:
    """COCO results, one dict a person that OKS-NMS keeps, with the crop's center and scale beside the keypoints."""
    scores = rescore(people.scores[predictions.index], predictions.scores, score_threshold)
    areas = geometry.crop_areas(predictions.scale)
    image = people.image[predictions.index]
    triplets = np.concatenate([predictions.keypoints, predictions.scores[..., None]], axis=2, dtype=np.float64)
    nms = soft_oks_nms if soft_nms else oks_nms
    kept: list[int] = []
    by_image = np.argsort(image, kind="stable")
    for group in np.split(by_image, np.flatnonzero(np.diff(image[by_image])) + 1):
        stay = nms(predictions.keypoints[group], scores[group], areas[group], oks_threshold, np.asarray(sigmas))
        kept += group[stay].tolist()
    return [
        {
            "image_id": int(people.images.ids[image[i]]),
            "category_id": category_id,
            "keypoints": triplets[i].ravel().tolist(),
            "score": float(scores[i]),
            "center": predictions.center[i].tolist(),
            "scale": predictions.scale[i].tolist(),
        }
        for i in kept
    ]


def _complete(annotation: dict[str, Any], num_joints: int) -> dict[str, Any]:
    """The annotation with what pycocotools reads and other tools leave out."""
    keypoints = annotation.get("keypoints") or [0] * (3 * num_joints)
    labelled = sum(v > 0 for v in keypoints[2::3])
    return {"iscrowd": 0, "num_keypoints": labelled} | annotation | {"keypoints": keypoints}


def average_precision(
    detections: list[dict[str, Any]], ground_truth: Annotations, sigmas: Sequence[float]
) -> dict[str, float]:
    """The ten numbers named in `METRICS`, by pycocotools; without any detection all are 0."""
    if not detections:
        return dict.fromkeys(METRICS, 0.0)
    truth = COCO()
    truth.dataset = {
        "info": {},
        "licenses": [],
        "images": [{"id": int(image_id)} for image_id in ground_truth.images.ids],
        "categories": [ground_truth.category],
        # Numbered anew: pycocotools takes a match with the id 0, from which many tools count, for none.
        "annotations": [
            _complete(annotation, len(sigmas)) | {"id": number}
            for number, annotation in enumerate(ground_truth.annotations, start=1)
        ],
    }
    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # loadRes adds to what it is given.
        evaluation = COCOeval(truth, truth.loadRes([dict(detection) for detection in detections]), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def markdown_table(name: str, metrics: dict[str, float]) -> str:
    """The table that the lineage prints: one row, three decimals."""
    heads = ["Arch", *metrics]
    cells = [name, *(f"{value:.3f}" for value in metrics.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), cells))


@dataclass
class Evaluation:
    """A test set and all that turns a model's predictions on it into a results file and, with ground truth, an AP."""

    name: str
    boxes: str
    crops: Crops
    loader: DataLoader
    annotations: Annotations
    has_truth: bool
    sigmas: Sequence[float]
    flip_order: Tensor | None
    kernel_size: int
    score_threshold: float
    oks_threshold: float
    soft_nms: bool
    number: int
    device: torch.device

    def describe(self) -> str:
        """What is measured, in one line."""
        persons, images = len(self.crops), len(np.unique(self.crops.people.image))
        return (
            f"{self.name}: {persons} persons in {images} of {len(self.annotations.images.ids)} images; "
            f"boxes: {self.boxes}; flip test: {'on' if self.flip_order is not None else 'off'}; "
            f"decoder: DARK, blur {self.kernel_size}; "
            f"{'soft ' if self.soft_nms else ''}OKS-NMS {self.oks_threshold:g}; "
            f"joint scores > {self.score_threshold:g}"
        )

    def predict(self, model: nn.Module, watch: Watch | None = None) -> Predictions:
        """All processes' predictions, on every process."""
        model.eval()
        with Progress(len(self.loader), f"test {self.name}", hidden=distributed.rank() > 0) as progress:
            own = predict(
                model,
                progress.follow(self.loader),
                kernel_size=self.kernel_size,
                flip_order=self.flip_order,
                device=self.device,
                watch=watch,
            )
        return Predictions.merge(distributed.gather(own))

    def judge(self, predictions: Predictions, folder: Path, weights: str) -> dict[str, float] | None:
        """Write the results file and return the ten numbers (None for a set without ground truth).

        `weights` is what the summary beside the results calls the weights.
        """
        detections = results(
            self.crops.people,
            predictions,
            category_id=self.annotations.category["id"],
            sigmas=self.sigmas,
            score_threshold=self.score_threshold,
            oks_threshold=self.oks_threshold,
            soft_nms=self.soft_nms,
        )
        path = folder / "results" / f"keypoints_{self.name}_results_{self.number}.json"
        checkpoint.write_atomically(path, lambda file: file.write(orjson.dumps(detections)))
        logger.info("results: %s", path)
        if not self.has_truth:
            return None
        metrics = average_precision(detections, self.annotations, self.sigmas)
        summary = json_tricks.dumps({"weights": weights, "measured": self.describe(), "metrics": metrics}, indent=2)
        path = path.with_name(f"metrics_{self.name}_{self.number}.json")
        checkpoint.write_atomically(path, lambda file: file.write(summary.encode()))
        return metrics
