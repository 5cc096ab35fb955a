"""From an image to a `PoseResult`: boxes (detected or given), crops, heatmaps, keypoints in image pixels.

The steps are those of tools/test.py, so that the same box gives the same keypoints.
N persons in an image, K keypoints; boxes are x, y, w, h in image pixels.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..build.model import CONFIG_FILE, TrainedModel, read_trained_model
from ..core.predict import Predictions, TestOptions, Watch, predict_batch
from ..dataset.images import MAX_PIXELS
from ..dataset.topdown import crop_instance
from ..errors import UserError, passing_over, until_error
from ..evaluation.nms import rescore
from ..explain.maps import Explanation, explain
from ..models import zoo
from ..models.backends import Backend, chosen_precision, input_size, usable_device
from ..models.transpose import TransPose
from ..models.weights import load_weights, unwrap
from ..pose import geometry, skeleton
from ..runtime import checkpoint
from . import export, uncertainty
from .detector import Detect, Detector, detector_for
from .export import Exported
from .image import InputImage, Source
from .result import PoseResult

logger = logging.getLogger(__name__)

MAX_INSTANCES = 100  # per image; torchvision's detectors give no more
MAX_BOX = 1e9  # pixels, so that float32 can hold the crop
# One person: keypoints (K, 2), scores (K), and covariances (K, 2, 2) or None.
CropResult = tuple[np.ndarray, np.ndarray, np.ndarray | None]
Row = tuple[InputImage, np.ndarray, Any, Any]  # an image, its pixels, boxes and scores; None: a detector finds them


@dataclass(frozen=True, eq=False)
class _Crops:
    """What is kept of an image until its keypoints are predicted: boxes (N, 4), scores (N), and a sample for each."""

    image: InputImage
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    samples: list[dict[str, Any]]


class Predictor:
    """Finds the keypoints of the persons in images. Made by `from_pretrained`, or from a `TrainedModel` or `Exported`.

    Args:
        trained: The network with its skeleton and recipe.
        flip_test: Average with the heatmaps of the mirrored crop. Like the next two, by default as in the recipe.
        kernel_size: Of DARK's blur, in heatmap pixels; odd.
        batch_size: Persons in a batch.
        precision: float32, bfloat16, float16, or auto: bfloat16 where the hardware computes in it, else float32.
        backend: pytorch, openvino or onnxruntime.
        compiled: Compile the network with torch.compile.
        device: cpu, cuda, cuda:1 …; by default the GPU if there is one.
        detector: Any function from an RGB image (H, W, 3) to boxes (N, 4) and scores (N). The default for a network
            that finds persons is `Detector()`, whose weights are downloaded when they are first needed. The attribute
            `detector` may be set later.
        max_instances: An image with more boxes is refused.
        max_pixels: A file with more pixels is refused before it is decoded (default: 134 million).

    Raises:
        UserError: A value is out of range, or does not work with the others.
    """

    def __init__(
        self,
        trained: TrainedModel | Exported,
        *,
        flip_test: bool | None = None,
        kernel_size: int | None = None,
        batch_size: int | None = None,
        precision: str = "float32",
        backend: str = "pytorch",
        compiled: bool = False,
        device: str | torch.device | None = None,
        detector: Detect | None = None,
        max_instances: int = MAX_INSTANCES,
        max_pixels: int | None = None,
    ):
        self.trained, self.skeleton, self.detector = trained, trained.skeleton, detector
        recipe = trained.options
        self.options = replace(
            recipe,
            flip_test=recipe.flip_test if flip_test is None else flip_test,
            blur_kernel=recipe.blur_kernel if kernel_size is None else kernel_size,
        )
        self.batch_size = trained.batch_size if batch_size is None else batch_size
        self.max_instances, self.max_pixels = max_instances, MAX_PIXELS if max_pixels is None else max_pixels
        for name in ("batch_size", "max_instances", "max_pixels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.options.blur_kernel < 1 or self.options.blur_kernel % 2 == 0:
            raise UserError(f"kernel_size must be odd and positive, not {self.options.blur_kernel}")
        self.calibration = uncertainty.usable(
            trained.calibration, self.options, trained.path if isinstance(trained, Exported) else trained.weights
        )
        self.device = torch.device("cpu") if isinstance(trained, Exported) else usable_device(device)
        how = Backend(chosen_precision(precision, self.device, backend), backend, compiled)
        # Batch, test options, the skeleton's flip order, a function that sees the heatmaps -> predictions.
        self._find: Callable[[dict[str, Tensor], TestOptions, Tensor, Watch], Predictions]
        if isinstance(trained, Exported):
            if how != Backend() or (device and torch.device(device).type != "cpu"):
                raise UserError(
                    f"{trained.path}: an exported file runs on the CPU, as it was exported; leave out device, "
                    "backend, precision and compile"
                )
            if trained.card.decodes and self.options != recipe:
                raise UserError(
                    f"{trained.path}: flip test and kernel_size are fixed in this file; export again to change them"
                )
            width, height = trained.card.image_size
            self._find = trained.predict
        else:
            width, height = input_size(trained.network)
            self._find = partial(predict_batch, how(trained.network.to(self.device)))
        self.input_size, self.heatmap_size = (width, height), (width // 4, height // 4)
        self._flip_order = torch.from_numpy(self.skeleton.flip_order).to(self.device)

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike, config: str | PathLike | None = None, **options: Any
    ) -> "Predictor":
        """A predictor with trained weights.

        Args:
            source: A released model's name (downloaded on first use), the output folder of a run, a file written by
                tools/export.py, or a checkpoint. A checkpoint that is not in a run's folder and not of a released
                architecture needs `config`.
            config: The yaml of the checkpoint's network.
            options: Those of the constructor.

        Raises:
            UserError: There is no such source, or its files do not fit each other.
        """
        return cls(trained_network(source, config), **options)

    def __call__(
        self, images: Any, boxes: Any = None, scores: Any = None, *, color: str = "RGB", oriented: bool = True
    ) -> PoseResult | list[PoseResult]:
        """The `PoseResult` of an image, or a list of them for a list of images.

        Args:
            images: A path, a NumPy array (H, W, 3), or (H, W) in grey, a PIL image or a tensor (3, H, W), all 8-bit; an
                `InputImage` of one of them with its own label, `color` and `oriented`; or a list of these.
            boxes: (N, 4), x, y, w, h in image pixels, or a list of them for a list of images; N may be 0.
                None: the detector finds them.
            scores: (N), of the boxes; 1 by default.
            color: The order of an array's or tensor's channels, RGB or BGR.
            oriented: Turn files and PIL images as EXIF says; boxes and keypoints then refer to the turned pixels.

        Raises:
            UserError: Names the image and what is wrong with it or its boxes.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images, boxes, scores, color=color, oriented=oriented))
        image = self._input_image(images, "the image", color, oriented)
        (result,) = self.stream([image], [boxes], [scores])
        return result

    def stream(
        self,
        images: Iterable[Source | InputImage],
        boxes: Iterable | None = None,
        scores: Iterable | None = None,
        *,
        color: str = "RGB",
        oriented: bool = True,
        found: bool = False,
        on_error: Callable[[UserError], None] | None = None,
    ) -> Iterator[PoseResult]:
        """The `PoseResult` of each image, in order, for any number of images: only a few are in memory at a time.

        Persons of successive images share batches.

        Args:
            images: As in a call, one after the other.
            boxes: As in a call, one entry per image.
            scores: As in a call, one entry per image.
            color: As in a call.
            oriented: As in a call.
            found: The boxes come from a detector: those that are empty or outside their image are left out with a
                warning, and do not raise an error.
            on_error: Gets the error of an image that cannot be used; the images after it follow. Without it, the error
                is raised after the results of the images before it.
        """
        errors: list[UserError] = []
        rows = until_error(self._rows(images, boxes, scores, color, oriented, on_error), errors)
        waiting: deque[_Crops] = deque()
        samples: list[dict[str, Any]] = []
        done: deque[CropResult] = deque()
        for crops in until_error(self._crops(rows, found, on_error), errors):
            waiting.append(crops)
            samples += crops.samples
            while len(samples) >= self.batch_size or (samples and len(waiting) > self.batch_size):
                done += self._predict(samples[: self.batch_size])
                del samples[: self.batch_size]
            while waiting and len(waiting[0].samples) <= len(done):
                with passing_over(on_error):
                    yield self._result(waiting.popleft(), done)
        if samples:
            done += self._predict(samples)
        for crops in waiting:
            with passing_over(on_error):
                yield self._result(crops, done)
        if errors:
            raise errors[-1]  # a second error belongs to an image before the first's

    def explain(
        self, image: Source | InputImage, boxes: Any = None, *, color: str = "RGB", oriented: bool = True
    ) -> Iterator[Explanation]:
        """What the network attends to on each person of an image; detected boxes come best first.

        Arguments and errors as in a call. An exported file gives no attention. The network runs without flip test, in
        float64.
        """
        network = self.network.eval()
        source = self._input_image(image, "the image", color, oriented)
        pixels = source.pixels()
        if boxes is None:
            found, scores = (np.asarray(column) for column in self.detect([pixels])[0])
            boxes = found[np.argsort(-scores, kind="stable")]
        boxes, _, _, _ = self._checked(source, pixels, boxes, None, found=False)
        return (explain(network, pixels, box, self.skeleton, self.options) for box in boxes)

    @property
    def network(self) -> TransPose:
        """Raises UserError for an exported file, which gives no attention."""
        if isinstance(self.trained, Exported):
            raise UserError(
                f"{self.trained.path}: an exported file gives no attention; pass the checkpoint that it was made from"
            )
        return self.trained.network

    def _input_image(self, image: Source | InputImage, label: str, color: str, oriented: bool) -> InputImage:
        """The image with a label (by default its path) and this predictor's `max_pixels`, unless it has its own."""
        if not isinstance(image, InputImage):
            image = InputImage(image, str(image) if isinstance(image, str | PathLike) else label, color, oriented)
        return image if image.max_pixels else replace(image, max_pixels=self.max_pixels)

    def _rows(
        self,
        images: Iterable[Source | InputImage],
        boxes: Iterable | None,
        scores: Iterable | None,
        color: str,
        oriented: bool,
        on_error: Callable[[UserError], None] | None,
    ) -> Iterator[Row]:
        if boxes is None and scores is not None:
            raise UserError("scores need boxes: pass boxes too")
        columns = [column for column in (images, boxes, scores) if column is not None]
        ended = object()
        for number, row in enumerate(zip_longest(*columns, fillvalue=ended)):
            if any(entry is ended for entry in row):
                raise UserError(
                    f"image {number}: images, boxes and scores differ in number; one of them ends before this image"
                )
            source, own_boxes, own_scores = (*row, None, None)[:3]
            image = self._input_image(source, f"image {number}", color, oriented)
            if own_boxes is None and own_scores is not None:
                raise UserError(f"{image.label}: scores need boxes: pass boxes too")
            with passing_over(on_error):
                yield image, image.pixels(), own_boxes, own_scores

    def _crops(
        self, rows: Iterator[Row], found: bool, on_error: Callable[[UserError], None] | None
    ) -> Iterator[_Crops]:
        """The crops of each image; a detector gets a few images at a time."""
        how: Any = {"input_size": self.input_size, "heatmap_size": self.heatmap_size, "rgb": self.options.rgb}
        # The default detector is made when the first image needs it.
        while group := list(islice(rows, self.detector.batch_size if isinstance(self.detector, Detector) else 1)):
            missing = [pixels for _, pixels, boxes, _ in group if boxes is None]
            detected = iter(self.detect(missing) if missing else ())
            for image, pixels, given, given_scores in group:
                own = next(detected) if given is None else (given, given_scores)
                with passing_over(on_error):
                    boxes, scores, centers, scales = self._checked(image, pixels, *own, found or given is None)
                    samples: list[dict[str, Any]] = [
                        crop_instance(pixels, centers[i], scales[i], **how) | {"index": i} for i in range(len(boxes))
                    ]
                    yield _Crops(image, (pixels.shape[1], pixels.shape[0]), boxes, scores, samples)

    def detect(self, images: list[np.ndarray]) -> list[tuple[Any, Any]]:
        """The detector's boxes (N, 4) and scores (N) for each of these images (H, W, 3), uint8 BGR."""
        if self.detector is None:
            self.detector = detector_for(self.skeleton.category, device=self.device)
        in_rgb = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images]
        if isinstance(self.detector, Detector):
            return self.detector.batch(in_rgb)
        return [self.detector(image) for image in in_rgb]

    def _checked(
        self, image: InputImage, pixels: np.ndarray, boxes: Any, scores: Any, found: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4), their scores (N), and their crops' centres and scales (N, 2)."""
        boxes, scores = checked_boxes(boxes, scores, (pixels.shape[1], pixels.shape[0]), image.label, found)
        if len(boxes) > self.max_instances:
            raise UserError(
                f"{image.label}: {len(boxes)} boxes, more than max_instances {self.max_instances} "
                "(--max-instances); leave out those with low scores, or allow more"
            )
        centers, scales = geometry.boxes_to_crops(boxes, self.input_size[0] / self.input_size[1])
        for box in boxes[~geometry.has_crop(centers, scales)].tolist():
            raise UserError(f"{image.label}: the box {box} is too small or too far from the image to be cropped")
        return boxes, scores, centers, scales

    def _predict(self, samples: list[dict[str, Any]]) -> Iterator[CropResult]:
        """Keypoints (K, 2), scores (K) and, if a calibration has it, covariances (K, 2, 2) of each sample."""
        covariances: list[np.ndarray | None] = [None] * len(samples)

        def watch(batch: dict[str, Tensor], maps: Tensor, keypoints: Tensor) -> None:
            if self.calibration and maps.numel():  # an exported file with decoding gives no heatmaps
                covariances[:] = uncertainty.of_batch(batch, maps, keypoints, self.calibration)

        found = self._find(default_collate(samples), self.options, self._flip_order, watch)
        return zip(found.keypoints, found.scores, covariances, strict=True)

    def _result(self, crops: _Crops, found: deque[CropResult]) -> PoseResult:
        """The result of an image; takes its keypoints and scores from the front of `found`."""
        count, joints = len(crops.samples), self.skeleton.num_joints
        rows = [found.popleft() for _ in range(count)]
        keypoints = np.array([row[0] for row in rows], np.float32).reshape(count, joints, 2)
        scores = np.array([row[1] for row in rows], np.float32).reshape(count, joints)
        broken = ~(np.isfinite(keypoints).all((1, 2)) & np.isfinite(scores).all(1))
        if broken.any():
            raise UserError(
                f"{crops.image.label}: keypoints or scores of person {broken.argmax()} (counted from 0) are NaN or "
                "infinite: the weights are broken, or the precision is too low for them"
            )
        certainty = None
        if self.calibration:
            certainty = uncertainty.joined([row[2] for row in rows], scores, self.calibration)
        return PoseResult(
            image=crops.image,
            size=crops.size,
            keypoints=keypoints,
            scores=scores,
            person_scores=rescore(crops.scores, scores, self.options.score_threshold),
            boxes=crops.boxes,
            box_scores=crops.scores,
            skeleton=self.skeleton,
            uncertainty=certainty,
        )


def checked_boxes(
    boxes: Any, scores: Any, size: tuple[int, int], label: str, found: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and scores (N), float64, of an image of `size` (width, height). Each overlaps the image.

    Boxes of a detector (`found`) that do not are left out with a warning. Raises UserError that names the image and the
    first wrong box.
    """
    try:
        table = np.asarray(boxes, np.float64)
        certainty = np.ones(len(table)) if scores is None else np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{label}: boxes and scores must be numbers: [[x, y, w, h], …] and [score, …]") from None
    if not table.size:
        table = table.reshape(0, 4)
    if table.ndim != 2 or table.shape[1] != 4:
        raise UserError(f"{label}: boxes must have the shape (N, 4), [[x, y, w, h], …], not {table.shape}")
    if certainty.shape != (len(table),):
        raise UserError(
            f"{label}: {len(table)} boxes need {len(table)} scores, not scores of the shape {certainty.shape}"
        )
    shown = geometry.in_image(table, np.array(size)) | ~np.isfinite(table).all(1)
    for number, (box, score) in enumerate(zip(table, certainty, strict=True)):
        if found and not shown[number]:
            continue
        where = f"{label}: box {number} (counted from 0), {box.tolist()}, scored {score:g},"
        x, y, w, h = box
        if not (np.abs([*box, score]) < MAX_BOX).all():
            raise UserError(f"{where} has a value that is NaN, infinite or too large")
        if found:
            continue
        if w <= 0 or h <= 0:
            raise UserError(f"{where} must have a positive width and height: x, y, w, h")
        if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
            raise UserError(f"{where} lies outside of the image, which is {size[0]} x {size[1]} pixels")
        if max(box) <= 1 < max(size):
            raise UserError(f"{where} lies within one pixel, like fractions of the image: give it in pixels")
    if not shown.all():
        logger.warning(
            "%s: %d of %d boxes are empty or outside the image, and are left out", label, (~shown).sum(), len(shown)
        )
    return table[shown], certainty[shown]


def trained_network(source: str | PathLike, config: str | PathLike | None = None) -> TrainedModel | Exported:
    """The network that a `source` of `Predictor.from_pretrained` names."""
    path, yaml_file = Path(source), Path(config) if config else None
    if zoo.is_name(str(source)):
        if yaml_file:
            raise UserError(f"{source}: a released model needs no configuration; leave it out")
        return TrainedModel(zoo.pretrained(str(source)), skeleton.COCO, zoo.weights(str(source)))
    if not path.exists():
        raise UserError(
            f"{source}: there is no such file or folder, and no released model of this name; the released models are "
            f"{', '.join(zoo.RELEASED)}"
        )
    if path.suffix in export.SUFFIXES:
        if yaml_file:
            raise UserError(f"{source}: an exported network needs no configuration; leave it out")
        return export.load(path)
    if path.is_dir() or yaml_file or (path.parent / CONFIG_FILE).exists():
        return read_trained_model(path, yaml_file)
    state = unwrap(checkpoint.read(path), str(path))
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for entry in zoo.RELEASED.values():
        with torch.device("meta"):
            own = entry.network().state_dict()
        if shapes == {name: tensor.shape for name, tensor in own.items()}:
            network = entry.network()
            load_weights(network, state, source=str(path))
            return TrainedModel(network, skeleton.COCO, path)
    raise UserError(
        f"{path}: this checkpoint fits no released model, and no {CONFIG_FILE} lies beside it; name the yaml that it "
        "was trained with (--cfg, in Python config)"
    )
