"""From an image to its people: the detector's or the caller's boxes, crops, heatmaps, keypoints in image pixels.

Each step is the one that tools/test.py takes, so that the same box gives the same keypoints.
N persons in an image, K keypoints; boxes are x, y, w, h in image pixels.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from ..build.model import CONFIG_FILE, TrainedModel, read_trained_model
from ..core.predict import predict_batch, to_image
from ..dataset.images import MAX_PIXELS
from ..dataset.topdown import crop_instance
from ..errors import UserError
from ..evaluation.nms import rescore
from ..explain.maps import Explanation, explain
from ..models import zoo
from ..models.backends import Backend, Forward, input_size, usable_device
from ..models.weights import load_weights, unwrap
from ..pose import geometry, skeleton
from ..runtime import checkpoint
from . import export
from .detector import Detector
from .export import Exported
from .image import InputImage, Source
from .result import PoseResult

MOST_PERSONS = 100  # of one image; what torchvision's detectors give at most
LARGEST = 1e9  # pixels, of a box: float32 must hold its crop
EXPORTED_BATCH_SIZE = 32  # persons; a file that takes one at a time is given them one by one
# An RGB image (H, W, 3), uint8 -> boxes (N, 4) and scores (N).
Detect = Callable[[np.ndarray], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class _Request:
    """An image whose people are wanted; without boxes a detector finds them."""

    photograph: InputImage
    boxes: Any
    scores: Any


@dataclass(frozen=True, eq=False)
class _Cropped:
    """An image of which the crops are left: boxes (N, 4), scores (N), and a sample of `Crops` each."""

    photograph: InputImage
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    samples: list[dict[str, Any]]


class Predictor:
    """Finds the people of images. Made by `from_pretrained`, or of a `Trained` network or an `Exported` file.

    `flip_test`, `kernel_size` (of DARK's blur, odd) and `batch_size` (persons) are by default as the network's recipe
    tests it. `device` is the GPU if there is one. `detector` is any function from an RGB image (H, W, 3) to boxes
    (N, 4) and scores (N), by default `Detector()`, whose weights are downloaded when it is first needed; the attribute
    of that name may be exchanged later. More than `most_persons` in an image are refused, and so are files of more than
    `max_pixels`, before they are decoded (134 million by default). Raises UserError for values that nothing can run
    with.
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
        most_persons: int = MOST_PERSONS,
        max_pixels: int | None = None,
    ):
        own_batch_size = EXPORTED_BATCH_SIZE if isinstance(trained, Exported) else trained.batch_size
        self.trained, self.skeleton, self.most_persons = trained, trained.skeleton, most_persons
        self.max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
        recipe = trained.card.options if isinstance(trained, Exported) else trained.options
        self.options = replace(
            recipe,
            flip_test=recipe.flip_test if flip_test is None else flip_test,
            blur_kernel=recipe.blur_kernel if kernel_size is None else kernel_size,
        )
        self.batch_size = own_batch_size if batch_size is None else batch_size
        least_1 = {"batch_size": self.batch_size, "most_persons": most_persons, "max_pixels": self.max_pixels}
        for name, value in least_1.items():
            if value < 1:
                raise UserError(f"{name} must be 1 or more, not {value}")
        if self.options.blur_kernel < 1 or self.options.blur_kernel % 2 == 0:
            raise UserError(f"kernel_size must be odd and positive, not {self.options.blur_kernel}")
        how = Backend(precision, backend, compiled)
        self.detector = detector
        self._forward: Forward | None = None
        if isinstance(trained, Exported):
            if how != Backend() or (device and torch.device(device).type != "cpu"):
                raise UserError(f"{trained.path}: it runs as it was exported, on the processor")
            if trained.card.decodes and self.options != recipe:
                raise UserError(
                    f"{trained.path}: its flip test and kernel_size are in its graph and stay what they are"
                )
            self.device = torch.device("cpu")
            width, height = trained.card.image_size
            if not trained.card.decodes:
                self._forward = trained.forward
        else:
            self.device = usable_device(device)
            width, height = input_size(trained.network)
            self._forward = how(trained.network.to(self.device))
        self.input_size = width, height
        self._flip_order = torch.from_numpy(self.skeleton.flip_order).to(self.device)

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike, config: str | PathLike | None = None, **options: Any
    ) -> "Predictor":
        """A predictor with trained weights; `options` are the constructor's.

        `source` is a name of the zoo (downloaded on first use), the output folder of a run, a file of tools/export.py,
        or a checkpoint: one that lies in a run's folder, one of the zoo's architectures, or any other with the yaml
        `config` of its network.
        Raises UserError if there is no such thing, or the files do not fit each other.
        """
        return cls(trained_network(source, config), **options)

    def __call__(
        self, images: Any, boxes: Any = None, scores: Any = None, *, color: str = "RGB", oriented: bool = True
    ) -> PoseResult | list[PoseResult]:
        """The `People` of an image, or a list of them for a list of images.

        An image is a path, a NumPy array (H, W, 3), or (H, W) in grey, a PIL image or a tensor (3, H, W), all 8-bit, or
        a `Photograph` of one of them, which says itself what errors and results call it, its `color` and `oriented`;
        `color` is the order of an array's or tensor's channels, RGB or BGR. `oriented`: files and PIL images are
        turned as EXIF says, and so are the pixels that boxes and keypoints count in.
        `boxes` (N, 4) and their `scores` (N), else 1, are an image's, or a list of them for a list of images; there
        may be no box. Where they are None, the detector finds them.
        Raises UserError that names the image and what is wrong with it or its boxes.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images, boxes, scores, color=color, oriented=oriented))
        (found,) = self._stream(self._requests([images], [boxes], [scores], color, oriented, alone=True))
        return found

    def stream(
        self,
        images: Iterable[Source | InputImage],
        boxes: Iterable | None = None,
        scores: Iterable | None = None,
        *,
        color: str = "RGB",
        oriented: bool = True,
    ) -> Iterator[PoseResult]:
        """The `People` of each image, in order, for as many images as there are: a few at a time are in memory.

        Arguments as in a call, one entry an image. Persons of successive images share batches.
        """
        return self._stream(self._requests(images, boxes, scores, color, oriented))

    def _stream(self, requests: Iterator[_Request]) -> Iterator[PoseResult]:
        waiting: deque[_Cropped] = deque()
        samples: list[dict[str, Any]] = []
        keypoints: deque[tuple[np.ndarray, np.ndarray]] = deque()
        crops, broken = self._cropped(requests), None
        while True:
            try:
                cropped = next(crops)
            except StopIteration:
                break
            except UserError as error:  # those before it are not lost
                broken = error
                break
            waiting.append(cropped)
            samples += cropped.samples
            while len(samples) >= self.batch_size or (samples and len(waiting) > self.batch_size):
                keypoints += self._predict(samples[: self.batch_size])
                del samples[: self.batch_size]
            while waiting and len(waiting[0].boxes) <= len(keypoints):
                yield self._people(waiting.popleft(), keypoints)
        if samples:
            keypoints += self._predict(samples)
        for cropped in waiting:
            yield self._people(cropped, keypoints)
        if broken is not None:
            raise broken

    def explain(
        self, image: Source | InputImage, boxes: Any = None, *, color: str = "RGB", oriented: bool = True
    ) -> Iterator[Explanation]:
        """What the network attends to on each person of an image, the surest box first where a detector finds them.

        Arguments and errors as in a call; an exported file has no network to look into. The network is run without
        flip test, in float64.
        """
        if isinstance(self.trained, Exported):
            raise UserError(f"{self.trained.path}: an exported file does not show its attention; take the checkpoint")
        network = self.trained.network.eval()
        photograph = self._photograph(image, None, color, oriented)
        pixels = photograph.pixels()
        if boxes is None:
            found, scores = (np.asarray(column) for column in self._detect([pixels])[0])
            boxes = found[np.argsort(-scores, kind="stable")]
        boxes, _, _, _ = self._checked(photograph, pixels, boxes, None)
        return (explain(network, pixels, box, self.skeleton, self.options) for box in boxes)

    def _requests(
        self,
        images: Iterable[Source | InputImage],
        boxes: Iterable | None,
        scores: Iterable | None,
        color: str,
        oriented: bool,
        alone: bool = False,
    ) -> Iterator[_Request]:
        if boxes is None and scores is not None:
            raise UserError("there are scores, but no boxes that they could be of")
        columns = [column for column in (images, boxes, scores) if column is not None]
        ended = object()
        for number, row in enumerate(zip_longest(*columns, fillvalue=ended)):
            if any(entry is ended for entry in row):
                raise UserError(f"image {number}: images, boxes and scores must be as many; one of them ends before it")
            image, own_boxes, own_scores = (*row, None, None)[:3]
            photograph = self._photograph(image, None if alone else number, color, oriented)
            if own_boxes is None and own_scores is not None:
                raise UserError(f"{photograph.label}: it has scores, but no boxes that they could be of")
            yield _Request(photograph, own_boxes, own_scores)

    def _photograph(self, image: Source | InputImage, number: int | None, color: str, oriented: bool) -> InputImage:
        if not isinstance(image, InputImage):
            image = InputImage(image, _label(image, number), color, oriented)
        return image if image.max_pixels else replace(image, max_pixels=self.max_pixels)

    def _cropped(self, requests: Iterator[_Request]) -> Iterator[_Cropped]:
        """Every image's crops; what a detector is to find it finds in a few images at once."""
        broken = None
        while broken is None:
            group: list[_Request] = []
            pixels: list[np.ndarray] = []
            try:
                for request in islice(requests, self.images_at_once):
                    pixels.append(request.photograph.pixels())
                    group.append(request)
            except UserError as error:  # those before it are not lost
                broken = error
            if not group:
                break
            lacking = [i for i, request in enumerate(group) if request.boxes is None]
            found = dict(zip(lacking, self._detect([pixels[i] for i in lacking]), strict=True)) if lacking else {}
            for i, request in enumerate(group):
                boxes, scores = found.get(i, (request.boxes, request.scores))
                yield self._crops(request.photograph, pixels[i], boxes, scores)
        if broken is not None:
            raise broken

    @property
    def images_at_once(self) -> int:
        """How many images are in memory at a time: as many as the detector takes."""
        return self.detector.batch_size if isinstance(self.detector, Detector) else 1

    def _detect(self, images: list[np.ndarray]) -> list[tuple[Any, Any]]:
        if self.detector is None:
            self.detector = Detector(device=self.device)
        in_rgb = [image[..., ::-1].copy() for image in images]
        if isinstance(self.detector, Detector):
            return self.detector.batch(in_rgb)
        return [self.detector(image) for image in in_rgb]

    def _crops(self, photograph: InputImage, pixels: np.ndarray, boxes: Any, scores: Any) -> _Cropped:
        boxes, scores, centers, scales = self._checked(photograph, pixels, boxes, scores)
        width, height = self.input_size
        how = partial(
            crop_instance,
            pixels,
            input_size=self.input_size,
            heatmap_size=(width // 4, height // 4),
            rgb=self.options.rgb,
        )
        crops = zip(centers, scales, strict=True)
        samples = [how(center, scale) | {"index": np.int64(i)} for i, (center, scale) in enumerate(crops)]
        return _Cropped(photograph, (pixels.shape[1], pixels.shape[0]), boxes, scores, samples)

    def _checked(
        self, photograph: InputImage, pixels: np.ndarray, boxes: Any, scores: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4), their scores (N), and their crops' centres and scales (N, 2)."""
        boxes, scores = checked_boxes(boxes, scores, (pixels.shape[1], pixels.shape[0]), photograph.label)
        if len(boxes) > self.most_persons:
            raise UserError(
                f"{photograph.label}: {len(boxes)} boxes, more than most_persons {self.most_persons} "
                "(--most-persons); leave out the least sure ones, or allow more"
            )
        centers, scales = geometry.boxes_to_crops(boxes, self.input_size[0] / self.input_size[1])
        for number in np.flatnonzero(~geometry.has_crop(centers, scales))[:1].tolist():
            raise UserError(f"{photograph.label}: the box {boxes[number].tolist()} is too small to be cropped")
        return boxes, scores, centers, scales

    def _predict(self, samples: list[dict[str, Any]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keypoints (K, 2) and scores (K) of each sample."""
        batch = default_collate(samples)
        if self._forward is None:
            assert isinstance(self.trained, Exported)
            places, scores = self.trained.keypoints(batch["image"])
            return zip(to_image(places, batch["to_image"]).float().numpy(), scores.numpy(), strict=True)
        found = predict_batch(self._forward, batch, self.options, self._flip_order)
        return zip(found.keypoints, found.scores, strict=True)

    def _people(self, cropped: _Cropped, found: deque[tuple[np.ndarray, np.ndarray]]) -> PoseResult:
        """The image's people, taken off the left of what was found."""
        count, joints = len(cropped.boxes), self.skeleton.num_joints
        rows = [found.popleft() for _ in range(count)]
        keypoints = np.array([row[0] for row in rows], np.float32).reshape(count, joints, 2)
        scores = np.array([row[1] for row in rows], np.float32).reshape(count, joints)
        broken = ~(np.isfinite(keypoints).all((1, 2)) & np.isfinite(scores).all(1))
        if broken.any():
            raise UserError(
                f"{cropped.photograph.label}: keypoints or scores of person {broken.argmax()} (counted from 0) are no "
                "finite numbers: the weights are broken, or the precision is too low for them"
            )
        return PoseResult(
            photograph=cropped.photograph,
            size=cropped.size,
            keypoints=keypoints,
            scores=scores,
            person_scores=rescore(cropped.scores, scores, self.options.score_threshold),
            boxes=cropped.boxes,
            box_scores=cropped.scores,
            skeleton=self.skeleton,
        )


def _label(image: Source, number: int | None = None) -> str:
    """What errors and results call an image: its path, else its number among several."""
    if isinstance(image, str | PathLike):
        return str(image)
    return "the image" if number is None else f"image {number}"


def checked_boxes(boxes: Any, scores: Any, size: tuple[int, int], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and scores (N), float64, of an image of `size` (width, height), all of which show some of it.

    Raises UserError that names the image and the first wrong box.
    """
    try:
        table = np.asarray(boxes, np.float64)
        certainty = np.ones(len(table)) if scores is None else np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{label}: boxes and scores must be numbers: [[x, y, w, h], …] and [score, …]") from None
    if not table.size:
        table = table.reshape(0, 4)
    if table.ndim != 2 or table.shape[1] != 4:
        raise UserError(f"{label}: boxes must be (N, 4), [[x, y, w, h], …], not of the shape {table.shape}")
    if certainty.shape != (len(table),):
        raise UserError(f"{label}: {len(table)} boxes need as many scores, not the shape {certainty.shape}")
    for number, (box, score) in enumerate(zip(table, certainty, strict=True)):
        where = f"{label}: box {number} (counted from 0), {box.tolist()}, scored {score:g},"
        x, y, w, h = box
        if not (np.abs([*box, score]) < LARGEST).all():
            raise UserError(f"{where} is not made of finite numbers, or one of them is absurdly large")
        if w <= 0 or h <= 0:
            raise UserError(f"{where} must have a positive width and height: x, y, w, h")
        if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
            raise UserError(f"{where} lies outside of the image, which is {size[0]} x {size[1]} pixels")
    return table, certainty


def trained_network(source: str | PathLike, config: str | PathLike | None = None) -> TrainedModel | Exported:
    """What a `source` of `Predictor.from_pretrained` names."""
    path, yaml_file = Path(source), Path(config) if config else None
    if zoo.is_name(str(source)):
        if yaml_file:
            raise UserError(f"{source}: a model of the zoo has no configuration file")
        return _released(zoo.pretrained(str(source)), zoo.weights(str(source)))
    if not path.exists():
        raise UserError(
            f"{source}: there is no such file or folder, and the zoo has no model of this name, but "
            f"{', '.join(zoo.RELEASED)}"
        )
    if export.is_exported(path):
        if yaml_file:
            raise UserError(f"{source}: an exported network has no configuration file")
        return export.load(path)
    if path.is_dir() or yaml_file or (path.parent / CONFIG_FILE).exists():
        return read_trained_model(path, yaml_file)
    state = unwrap(checkpoint.read(path))
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for entry in zoo.RELEASED.values():
        with torch.device("meta"):
            own = entry.network().state_dict()
        if shapes == {name: tensor.shape for name, tensor in own.items()}:
            network = entry.network()
            load_weights(network, state, source=str(path))
            return _released(network, path)
    raise UserError(
        f"{path}: none of the zoo's networks has the shapes of this checkpoint, and no {CONFIG_FILE} lies beside "
        "it; name the yaml that it was trained with (--cfg, in Python config)"
    )


def _released(network: Any, weights: Path) -> TrainedModel:
    return TrainedModel(network, skeleton.COCO, weights)
