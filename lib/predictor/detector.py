"""Detectors for persons, or for another of COCO's classes: YOLOX, or torchvision's networks.

N boxes in an image. The predictor also takes any other function from an RGB image (H, W, 3), uint8, to boxes (N, 4:
x, y, w, h) and scores (N).
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from ..config.paths import repository_root
from ..errors import UserError
from ..models.backends import usable_device
from ..pose.skeleton import PERSON
from ..runtime import checkpoint, download
from . import yolox

DEFAULT = "yolox_nano"
FOLDER = "models/pytorch/torchvision"  # under the repository's root
# torchvision's names. Each gives at most 100 boxes per image, scored 0.05 or more.
TORCHVISION = {"fasterrcnn": "fasterrcnn_resnet50_fpn_v2", "retinanet": "retinanet_resnet50_fpn_v2"}
DETECTORS = (*yolox.SIZES, *TORCHVISION)
WHOLE_IMAGE = "whole-image"
# An RGB image (H, W, 3), uint8 -> boxes (N, 4) and scores (N).
Detect = Callable[[np.ndarray], tuple[Any, Any]]
LABELS = get_model_weights(TORCHVISION["fasterrcnn"])["COCO_V1"].meta["categories"]  # by their numbers in COCO
CLASSES = [label for label in LABELS[1:] if label != "N/A"]  # COCO's 80
WITHOUT = (
    "--box x,y,w,h, --boxes FILE and --detector whole-image need no detector (in Python boxes=… and "
    "detector=transpose.predictor.detector.whole_image)"
)


def published(name: str) -> Path:
    """The path of a detector's published weights, downloaded on first use (`download.cached_place`).

    Raises UserError if the download fails; the message names the alternatives.
    """
    if name in yolox.SIZES:
        url, folder = f"{yolox.RELEASE}/{name}.onnx", yolox.FOLDER
    else:
        url, folder = get_model_weights(TORCHVISION[name])["COCO_V1"].url, FOLDER
    try:
        return download.fetch(url, download.cached_place(repository_root() / folder / url.rsplit("/", 1)[1]))
    except UserError as error:
        raise UserError(f"the weights of the detector {name}: {error}; {WITHOUT}") from None


def network(name: str, weights: Path) -> nn.Module:
    """One of torchvision's detectors with the weights of a file. Raises UserError for a file of another network."""
    model = get_model(TORCHVISION[name], weights=None, weights_backbone=None)
    try:
        model.load_state_dict(checkpoint.read(weights))
    except RuntimeError:
        raise UserError(f"{weights}: these weights do not fit torchvision's detector {name}") from None
    return model


class Detector:
    """Finds the objects of one of COCO's classes, `category`.

    `model` is a name in `DETECTORS`, or one of torchvision's detection networks. For a name, `weights` is the file of
    its weights (default: the published file, downloaded on first use). Boxes scored `threshold` or more are returned
    (default: 0.3 with YOLOX, else 0.5). `batch_size` is the number of images in a batch. `device` is the GPU by
    default, if there is one; YOLOX runs on the CPU.

    Raises UserError for an unknown name or category and for a threshold or batch size out of range, before any weights
    are downloaded.
    """

    def __init__(
        self,
        model: nn.Module | str = DEFAULT,
        weights: Path | None = None,
        *,
        category: str = PERSON,
        threshold: float | None = None,
        batch_size: int = 4,
        device: str | torch.device | None = None,
    ):
        if isinstance(model, str) and model not in DETECTORS:
            raise UserError(f"there is no detector {model!r}; the detectors are {', '.join(DETECTORS)}")
        if category not in CLASSES:
            nearest = difflib.get_close_matches(category, CLASSES, n=1, cutoff=0)[0]
            raise UserError(
                f"{category!r} is not one of the 80 COCO classes that the detectors know (the nearest is {nearest!r}); "
                f"{WITHOUT}"
            )
        by_yolox = isinstance(model, str) and model in yolox.SIZES
        self.threshold = (0.3 if by_yolox else 0.5) if threshold is None else threshold
        self.batch_size = batch_size
        if not 0 <= self.threshold <= 1 or batch_size < 1:
            raise UserError(
                f"a detector's threshold must be between 0 and 1 and its batch_size 1 or more, not "
                f"{self.threshold} and {batch_size}"
            )
        self.device = usable_device("cpu" if by_yolox and device is None else device)
        # RGB images -> the boxes (N, 4) and scores (N) of each.
        self._find: Callable[[Sequence[np.ndarray]], Iterable[tuple[np.ndarray, np.ndarray]]]
        if isinstance(model, str) and by_yolox:
            file, place = weights or published(model), CLASSES.index(category)
            self._find = partial(map, yolox.Yolox(file, yolox.SIZES[model], place, self.threshold))
        else:
            net = network(model, weights or published(model)) if isinstance(model, str) else model
            self._find = partial(self._by_torchvision, net.to(self.device).eval(), LABELS.index(category))

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes (N, 4) found in an RGB image (H, W, 3), uint8, in its pixels, and their scores (N), best first."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """As a call, for each of several images, which may differ in size."""
        starts = range(0, len(images), self.batch_size)
        return [found for start in starts for found in self._find(images[start : start + self.batch_size])]

    @torch.inference_mode()
    def _by_torchvision(
        self, model: nn.Module, label: int, images: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        tensors = [torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255 for image in images]
        found = []
        for output in model(tensors):
            boxes, scores = output["boxes"].double(), output["scores"].double()
            sides = boxes[:, 2:] - boxes[:, :2]
            taken = (output["labels"] == label) & (scores >= self.threshold) & (sides > 0).all(1)
            boxes = torch.cat([boxes[:, :2], sides], 1)
            found.append((boxes[taken].cpu().numpy(), scores[taken].cpu().numpy()))
        return found


def detector_for(
    category: str,
    name: str | None = None,
    wanted: str | None = None,
    threshold: float | None = None,
    device: str | torch.device | None = None,
) -> Detect:
    """The detector for a network that finds `category`: the default one, the one of that name in `DETECTORS`, or
    `whole_image` for `WHOLE_IMAGE`.

    `wanted` is the COCO class to detect. Raises UserError, before any weights are downloaded, if the network finds
    something other than persons and no class is given.
    """
    if name == WHOLE_IMAGE:
        return whole_image
    if category != PERSON and not wanted:
        known = f"; --detector-class {category} detects COCO's class of this name" if category in CLASSES else ""
        which = f"the detector {name}" if name else "the default detector"
        raise UserError(f"the network finds {category!r}, but {which} finds persons: {WITHOUT}{known}")
    return Detector(name or DEFAULT, category=wanted or PERSON, threshold=threshold, device=device)


def whole_image(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Used in place of a detector if each image shows one person or object: one box, the whole image, with score 1."""
    return np.array([[0.0, 0.0, image.shape[1], image.shape[0]]]), np.ones(1)
