"""Crops -> heatmaps -> keypoints in image pixels.

B batch, N persons, K keypoints, H x W heatmap. "model" is any callable (B, 3, h, w) -> (B, K, H, W).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from ..pose import heatmap

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for values in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TestOptions:
    """The test options of a trained network; the defaults are the published recipes'."""

    flip_test: bool = True  # average with the prediction for the mirrored crop
    blur_kernel: int = 11  # odd width of DARK's smoothing, in heatmap pixels
    score_threshold: float = 0.2  # keypoints with a higher score count towards a person's score
    rgb: bool = True  # the order of the channels that the network was trained on


# Called with each batch, its heatmaps, and the decoded keypoints in heatmap pixels.
Watch = Callable[[dict[str, Tensor], Tensor, Tensor], None]


@dataclass(frozen=True)
class Predictions:
    """Persons in the order of the dataset: index (N) into it, keypoints (N, K, 2) in image pixels, scores (N, K),
    center (N, 2) in image pixels and scale (N, 2) of their crops."""

    index: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    @staticmethod
    def merge(parts: list["Predictions"]) -> "Predictions":
        """Join the predictions for parts of a dataset, in any order, in the dataset's order; a part may be empty."""
        parts = [part for part in parts if len(part.index)] or parts[:1]
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in Predictions.__dataclass_fields__
        }
        order = np.argsort(columns["index"], kind="stable")
        return Predictions(**{name: column[order] for name, column in columns.items()})


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1), copied to the device once."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return mean, std


def normalise(images: Tensor, device: torch.device) -> Tensor:
    """uint8 crops (B, h, w, 3) -> normalised images (B, 3, h, w), float32, on the device."""
    pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    mean, std = _statistics(device)
    return pixels.div_(255).sub_(mean).div_(std)


def heatmaps_of(model: Callable[[Tensor], Tensor], images: Tensor, flip_order: Tensor | None) -> Tensor:
    """Heatmaps of normalised images; with `flip_order` (K) the mean with those of the mirrored images, not shifted.

    A GPU takes both as one batch of 2B; on a CPU that is not faster.
    """
    if flip_order is None:
        return model(images)
    mirrored = images.flip(-1)
    if images.is_cuda:
        maps, flipped = model(torch.cat([images, mirrored])).chunk(2)
    else:
        maps, flipped = model(images), model(mirrored)
    return (maps + heatmap.flip(flipped, flip_order)) / 2


def to_image(keypoints: Tensor, matrices: Tensor) -> Tensor:
    """Heatmap pixels (B, K, 2) -> image pixels, by maps (B, 2, 3)."""
    return torch.baddbmm(matrices[:, None, :, 2], keypoints.double(), matrices[:, :, :2].transpose(1, 2))


@torch.inference_mode()
def predict_batch(
    model: Callable[[Tensor], Tensor],
    batch: dict[str, Tensor],
    options: TestOptions,
    flip_order: Tensor,
    watch: Watch | None = None,
) -> Predictions:
    """Predict the persons of one batch of crops, in its order, on the device of `flip_order` (K)."""
    images = normalise(batch["image"], flip_order.device)
    maps = heatmaps_of(model, images, flip_order if options.flip_test else None)
    keypoints, scores = heatmap.decode(maps, options.blur_kernel)
    if watch is not None:
        watch(batch, maps, keypoints)
    return Predictions(
        index=batch["index"].numpy(),
        keypoints=to_image(keypoints.cpu(), batch["to_image"]).float().numpy(),
        scores=scores.cpu().numpy(),
        center=batch["center"].numpy(),
        scale=batch["scale"].numpy(),
    )


def predict(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Tensor]],
    options: TestOptions,
    flip_order: Tensor,
    watch: Watch | None = None,
) -> Predictions:
    """Predict every person of the batches; this process may have none."""
    none = np.zeros((0, 2), np.float32)
    nothing = Predictions(np.zeros(0, np.int64), none[:, None], none, none, none)
    predicted = partial(predict_batch, model, options=options, flip_order=flip_order, watch=watch)
    return Predictions.merge([nothing, *map(predicted, batches)])
