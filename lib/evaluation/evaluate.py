"""Predictions -> rescoring -> OKS-NMS -> the results file, COCO's ten numbers and their table.

N persons, K keypoints. OKS (object keypoint similarity) and AP are COCO's: https://cocodataset.org/#keypoints-eval
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import json_tricks
import msgspec
import numpy as np
import torch
from torch.utils.data import DataLoader

from ..core.predict import Predictions, TestOptions, Watch, predict
from ..dataset.coco import Annotations, Instances
from ..dataset.topdown import TopDownDataset
from ..errors import UserError
from ..models.backends import Backend
from ..models.transpose import TransPose
from ..pose import geometry
from ..runtime import distributed
from ..runtime.files import write_atomically, write_text
from ..runtime.log import Progress
from . import nms, submission
from .coco_eval import average_precision

logger = logging.getLogger(__name__)


def results(
    instances: Instances,
    predictions: Predictions,
    *,
    category_id: int,
    sigmas: Sequence[float],
    score_threshold: float,
    oks_threshold: float,
    soft_nms: bool = False,
) -> list[dict[str, Any]]:
    """COCO results: one dict per person that OKS-NMS keeps, with keypoints and the crop's center and scale."""
    scores = nms.rescore(instances.scores[predictions.index], predictions.scores, score_threshold)
    areas = geometry.crop_areas(predictions.scale)
    image = instances.image[predictions.index]
    kept = nms.suppress(image, predictions.keypoints, scores, areas, oks_threshold, np.asarray(sigmas), soft=soft_nms)
    columns = {
        "image_id": instances.images.ids[image],
        "category_id": np.full(len(image), category_id),
        "keypoints": triplets(predictions),
        "score": scores,
        "center": predictions.center,
        "scale": predictions.scale,
    }
    return as_dicts({name: column[kept] for name, column in columns.items()})


def triplets(predictions: Predictions) -> np.ndarray:
    """x, y and score of each keypoint (N, 3 K), as COCO's format lists them."""
    parts = predictions.keypoints, predictions.scores[..., None]
    return np.concatenate(parts, axis=2, dtype=np.float64).reshape(len(predictions.index), -1)


def as_dicts(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Columns (N, …) -> one dict of plain values per person."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def refuse_broken(instances: Instances, predictions: Predictions) -> None:
    """Raise UserError if a prediction is NaN or infinite."""
    broken = ~np.isfinite(predictions.keypoints).all((1, 2)) | ~np.isfinite(predictions.scores).all(1)
    if broken.any():
        first = predictions.index[broken.argmax()]
        raise UserError(
            f"{broken.sum()} of {len(broken)} predicted persons have keypoints or scores that are NaN or infinite, "
            f"the first in image {instances.images.ids[instances.image[first]]}: the weights are broken, the precision "
            "is too low (TEST.PRECISION), or the training has diverged (TRAIN.LR)"
        )


def markdown_table(name: str, metrics: dict[str, float]) -> str:
    """The table in HRNet's format: one row, three decimals."""
    heads = ["Arch", *metrics]
    cells = [name, *(f"{value:.3f}" for value in metrics.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), cells))


@dataclass
class Evaluation(ABC):
    """A test set and how a model predicts on it; a subclass evaluates the predictions."""

    name: str
    crops: TopDownDataset
    loader: DataLoader
    options: TestOptions
    number: int  # number in the file names
    device: torch.device
    backend: Backend  # runs the network

    main: ClassVar[str]  # the metric that chooses a run's best epoch

    @abstractmethod
    def describe(self) -> str:
        """A description of the measurement, in one line."""

    def how_predicted(self) -> str:
        """The part of `describe` that all data sets share."""
        flip = "on" if self.options.flip_test else "off"
        return f"flip test: {flip}; decoder: DARK, blur {self.options.blur_kernel}; forward: {self.backend.describe()}"

    def predict(self, model: TransPose, watch: Watch | None = None) -> Predictions:
        """The predictions of all processes, in every process. Raises UserError if any is NaN or infinite."""
        forward = self.backend(model)
        with Progress(len(self.loader), f"test {self.name}", hidden=distributed.rank() > 0) as progress:
            flip_order = torch.from_numpy(self.crops.skeleton.flip_order).to(self.device)
            own = predict(forward, progress.follow(self.loader), self.options, flip_order, watch)
        predictions = Predictions.merge(distributed.gather(own))
        refuse_broken(self.crops.instances, predictions)
        return predictions

    @abstractmethod
    def evaluate(self, predictions: Predictions, folder: Path, weights: str) -> dict[str, float] | None:
        """Write the results file and return the metrics (None for a set without ground truth).

        `weights` is the weights' name in the summary beside the results.
        """

    def write_results(self, folder: Path, results: list[dict[str, Any]]) -> tuple[Path, str]:
        """Write the results into the run's `folder`; returns the file, and the checksum of what was written."""
        path = folder / "results" / f"keypoints_{self.name}_results_{self.number}.json"
        content = msgspec.json.encode(results)
        write_atomically(path, lambda file: file.write(content))
        logger.info("results: %s", path)
        return path, hashlib.sha256(content).hexdigest()

    def write_summary(self, results: Path, checksum: str, weights: str, metrics: dict[str, float]) -> None:
        """Write the metrics, the description and the checksum of the `results` into a file beside them."""
        content = {"weights": weights, "measured": self.describe(), "metrics": metrics, "results_sha256": checksum}
        summary = json_tricks.dumps(content, indent=2)
        path = results.with_name(f"metrics_{self.name}_{self.number}.json")
        write_text(path, summary)


@dataclass
class CocoEvaluation(Evaluation):
    """Writes predictions as a COCO results file and, with ground truth, computes AP."""

    boxes: str
    annotations: Annotations
    has_truth: bool
    doubts: str  # about the coordinates of annotations and boxes
    oks_threshold: float
    soft_nms: bool

    main: ClassVar[str] = "AP"

    @property
    def sigmas(self) -> Sequence[float]:
        return self.crops.skeleton.sigmas

    def describe(self) -> str:
        count, images = len(self.crops), len(np.unique(self.crops.instances.image))
        return (
            f"{self.name}: {count} {self.crops.skeleton.noun}s in {images} of {len(self.annotations.images.ids)} "
            f"images; boxes: {self.boxes}; {self.how_predicted()}; "
            f"{'soft ' if self.soft_nms else ''}OKS-NMS {self.oks_threshold:g}; "
            f"keypoint scores > {self.options.score_threshold:g}{'; doubtful: ' * bool(self.doubts)}{self.doubts}"
        )

    def detections(self, predictions: Predictions) -> list[dict[str, Any]]:
        """COCO results of the persons that OKS-NMS keeps."""
        return results(
            self.crops.instances,
            predictions,
            category_id=self.annotations.category["id"],
            sigmas=self.sigmas,
            score_threshold=self.options.score_threshold,
            oks_threshold=self.oks_threshold,
            soft_nms=self.soft_nms,
        )

    def metrics(self, detections: list[dict[str, Any]]) -> dict[str, float]:
        """COCO's ten numbers for the results, against the annotated instances."""
        return average_precision(detections, self.annotations, self.sigmas)

    def evaluate(self, predictions: Predictions, folder: Path, weights: str) -> dict[str, float] | None:
        detections = self.detections(predictions)
        path, checksum = self.write_results(folder, detections)
        if not self.has_truth:
            archive = submission.write(path.parent, self.name, folder.name, detections)
            logger.info("ready for COCO's server: %s", archive)
            logger.info(submission.HOW_TO_SUBMIT.format(set_name=self.name, archive=archive.name))
            return None
        metrics = self.metrics(detections)
        self.write_summary(path, checksum, weights, metrics)
        return metrics
