"""PCKh, MPII's metric: the share of joints within half a head size of their annotated place.

N persons, K keypoints. The ground truth's file and pred.mat count pixels from 1, as Matlab does.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.predict import Predictions
from ..dataset.coco import Instances
from ..errors import UserError, needs
from ..runtime.files import open_to_read, write_atomically
from . import matlab_file
from .evaluate import Evaluation, as_dicts, triplets

logger = logging.getLogger(__name__)

PCKH_COLUMNS = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
MEANS = {
    "Mean": 0.5,
    "Mean@0.1": 0.1,
    "Mean@0.11": 0.11,
}  # thresholds in head sizes; HRNet prints the last under the second's name
NOT_IN_MEANS = ("pelvis", "thorax")
HEAD_SHARE = 0.6  # head size relative to the diagonal of the head box
NO_JOINT = -1.0  # a column without annotated joints, as in COCO's numbers


@dataclass(frozen=True)
class PckhTruth:
    """PCKh's ground truth: joints (N, K, 2) in 1-based pixels, annotated (N, K) bool, head_sizes (N) in pixels."""

    joints: np.ndarray
    annotated: np.ndarray
    head_sizes: np.ndarray


def _matlab() -> Any:
    """SciPy's reader and writer of Matlab's files."""
    return needs("scipy.io", extra="mpii")


def _matlab_name(keypoint: str) -> str:
    """The ground truth file's name of a keypoint of `PCKH_COLUMNS`: head, lsho, relb …"""
    side, _, joint = keypoint.partition("_")
    return "head" if keypoint == "head_top" else side[0] + joint[:3]


def read_truth(path: Path, names: Sequence[str], persons: int) -> PckhTruth:
    """Read annot/gt_<set>.mat: dataset_joints (K), jnt_missing (K, N), pos_gt_src (K, 2, N), headboxes_src (2, 2, N).

    `names` are the skeleton's keypoints and `persons` is how many the annotation file holds. Raises UserError for a
    file that is missing, damaged or does not fit them.
    """
    _matlab()
    wanted = ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src")
    try:
        open_to_read(path).close()
        content = matlab_file.read(path, wanted)
    except OSError as error:
        raise UserError(f"{path}: cannot read PCKh's ground truth ({error.strerror})") from None
    except matlab_file.Unreadable as error:
        raise UserError(f"{path}: PCKh's ground truth is damaged or not a .mat file ({error})") from None
    for key in wanted:
        if key not in content:
            raise UserError(f"{path}: not PCKh's ground truth: it has no '{key}'")
    _check_order(content["dataset_joints"], names, path)
    shapes = {
        "jnt_missing": (len(names), persons),
        "pos_gt_src": (len(names), 2, persons),
        "headboxes_src": (2, 2, persons),
    }
    for key, shape in shapes.items():
        found = content[key].shape
        if found != shape:
            raise UserError(
                f"{path}: '{key}' has the shape {found}, but {shape} fits the {persons} persons of the annotation "
                f"file and {len(names)} keypoints; the two files do not belong together"
            )
    fields = {key: np.asarray(content[key], np.float64) for key in shapes if content[key].dtype.kind in "biuf"}
    for key in shapes.keys() - fields.keys():
        raise UserError(f"{path}: '{key}' must hold numbers, not {content[key].dtype}")
    for key, values in fields.items():
        if not np.isfinite(values).all():
            raise UserError(f"{path}: '{key}' holds a number that is NaN or infinite")
    boxes = fields["headboxes_src"]
    sizes = HEAD_SHARE * np.linalg.norm(boxes[1] - boxes[0], axis=0)
    if not sizes.all():
        raise UserError(f"{path}: the head box of person number {int(sizes.argmin()) + 1} has no size")
    annotated = fields["jnt_missing"].T == 0
    if not annotated[:, _in_means(names)].any():
        raise UserError(f"{path}: 'jnt_missing' leaves no joint to measure")
    return PckhTruth(fields["pos_gt_src"].transpose(2, 0, 1), annotated, sizes)


def _check_order(found: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Raise UserError if the skeleton lacks a keypoint of PCKh, or the file has another order."""
    theirs = [str(name).strip() for name in found.ravel()]
    for keypoint in (keypoint for column in PCKH_COLUMNS.values() for keypoint in column):
        if keypoint not in names:
            raise UserError(f"PCKh needs a keypoint named '{keypoint}': use the skeleton of experiments/mpii")
        place, name = names.index(keypoint), _matlab_name(keypoint)
        if len(theirs) <= place or theirs[place] != name:
            raise UserError(
                f"{path}: 'dataset_joints' must have '{name}' as number {place + 1}, where the skeleton has "
                f"'{keypoint}'; it lists {', '.join(theirs)}"
            )


def _in_means(names: Sequence[str]) -> np.ndarray:
    """Which keypoints (K, bool) are included in the means."""
    return np.array([name not in NOT_IN_MEANS for name in names])


def pckh(keypoints: np.ndarray, truth: PckhTruth, names: Sequence[str]) -> dict[str, float]:
    """PCKh in percent for keypoints (N, K, 2) in 0-based pixels: for each of `PCKH_COLUMNS`, the mean of both sides at
    half a head; and over all annotated joints except pelvis and thorax, at the thresholds of `MEANS`."""
    one_based = np.asarray(keypoints, np.float64) + 1
    distances = np.linalg.norm(one_based - truth.joints, axis=2) / truth.head_sizes[:, None]
    count, counted = truth.annotated.sum(0), _in_means(names)

    def right(threshold: float) -> np.ndarray:
        """The number of joints (K) within the threshold."""
        return ((distances <= threshold) & truth.annotated).sum(0)

    share = 100 * right(MEANS["Mean"]) / np.maximum(count, 1)
    metrics = {}
    for column, keypoint_names in PCKH_COLUMNS.items():
        sides = [place for place in map(names.index, keypoint_names) if count[place]]
        metrics[column] = float(share[sides].mean()) if sides else NO_JOINT
    for mean, threshold in MEANS.items():
        metrics[mean] = float(100 * right(threshold)[counted].sum() / count[counted].sum())
    return metrics


def results(instances: Instances, predictions: Predictions) -> list[dict[str, Any]]:
    """One dict per person, in the annotation file's order and 0-based pixels; COCO's format where possible."""
    image = instances.image[predictions.index]
    return as_dicts(
        {
            "image": instances.images.names[image],
            "image_id": instances.images.ids[image],
            "keypoints": triplets(predictions),
            "score": predictions.scores.astype(np.float64).mean(1),
            "center": predictions.center,
            "scale": predictions.scale,
        }
    )


@dataclass
class PckhEvaluation(Evaluation):
    """Writes predictions on an MPII set as a results file and pred.mat and, with ground truth, computes PCKh."""

    truth: PckhTruth | None  # None for a set whose annotations are withheld

    main: ClassVar[str] = "Mean"

    def __post_init__(self) -> None:
        # Checked before hours of prediction.
        _matlab()

    def describe(self) -> str:
        persons, images = len(self.crops), len(self.crops.instances.images.ids)
        return (
            f"{self.name}: {persons} persons in {images} images; boxes: annotated centre and scale; "
            f"{self.how_predicted()}; PCKh: heads of {HEAD_SHARE:g} x their box's diagonal"
        )

    def evaluate(self, predictions: Predictions, folder: Path, weights: str) -> dict[str, float] | None:
        path, checksum = self.write_results(folder, results(self.crops.instances, predictions))
        matrix = io.BytesIO()
        _matlab().savemat(matrix, {"preds": np.asarray(predictions.keypoints, np.float64) + 1})
        pred = path.with_name(f"pred_{self.name}_{self.number}.mat")
        write_atomically(pred, lambda file: file.write(matrix.getvalue()))
        logger.info("for Matlab: %s", pred)
        if self.truth is None:
            logger.info("%s has no ground truth here: MPII's organisers evaluate %s", self.name, pred.name)
            return None
        metrics = pckh(predictions.keypoints, self.truth, self.crops.skeleton.names)
        self.write_summary(path, checksum, weights, metrics)
        return metrics
