"""One sample per instance: draw its augmentation and warp its crop.

Samples are uint8 pixels and keypoints; normalisation and target maps are computed in batches on the device.
K keypoints; sizes are (width, height); coordinates are image pixels unless named otherwise.
"""

import logging
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import UserError
from ..pose import geometry
from ..pose.skeleton import Skeleton
from .coco import Instances
from .images import Reader, size_mismatch

logger = logging.getLogger(__name__)

# OpenCV's threads do not survive a fork, and a loading process would wait for them forever.
cv2.setNumThreads(0)

ROTATION_PROBABILITY = 0.6
HALF_BODY_PADDING = 1.5


@dataclass(frozen=True)
class Augmentation:
    """The random augmentation of training; `rotation` is in degrees, the rest are factors and probabilities."""

    flip: bool = True
    scale: float = 0.35
    rotation: float = 45.0
    half_body: float = 0.3
    half_body_joints: int = 8
    upper_body: float = 0.6914624612740131


def refuse_without_crop(instances: Instances, center: np.ndarray, scale: np.ndarray) -> None:
    """Raise UserError that names the first instance whose crop (center, scale) `geometry` cannot compute."""
    for index in np.flatnonzero(~geometry.has_crop(center, scale))[:1].tolist():
        name, box = instances.images.names[instances.image[index]], instances.boxes[index].tolist()
        owner = f"person {instances.ids[index]}"
        raise UserError(f"{name}: the box {box} of {owner} is too small or too far from the image to be cropped")


def crop_instance(
    pixels: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    rotation: float = 0.0,
    flip: bool = False,
    *,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    rgb: bool = True,
) -> dict[str, np.ndarray]:
    """The network's input for one instance in an image (H, W, 3), uint8 BGR, and the map back to the image.

    `center` (2) in image pixels, `scale` (2) and `rotation` (degrees) are those of `geometry.crop_to_output`; with
    `flip` the image is mirrored first, and `center` with it. Returns image (h, w, 3), uint8, RGB unless `rgb` is false;
    to_image (2, 3) float64, heatmap pixels -> pixels of the (mirrored) image; center (2) in these; scale (2).
    """
    if flip:
        center = geometry.flip_points(center, pixels.shape[1]).astype(center.dtype)
    to_input = geometry.crop_to_output(center, scale, rotation, input_size)
    if flip:
        pixels = mirror_image(pixels, center, geometry.half_extent(to_input, input_size))
    crop = cv2.warpAffine(pixels, to_input, input_size, flags=cv2.INTER_LINEAR)
    if rgb:
        cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
    to_image = geometry.crop_to_output(center, scale, rotation, heatmap_size, inverse=True)
    return {"image": crop, "to_image": to_image, "center": center, "scale": scale}


class TopDownDataset(Dataset):
    """One crop per instance.

    Indexed by a sample number, or by (epoch, sample number) in training: every draw comes from (seed, epoch, sample),
    whatever process makes it. A sample is a dict of arrays:
    image (h, w, 3) uint8; keypoints (K, 2) float32 in heatmap pixels; visible (K) float32;
    to_image (2, 3) float64, heatmap pixels -> image pixels; center (2), scale (2); index.
    """

    def __init__(
        self,
        instances: Instances,
        reader: Reader,
        skeleton: Skeleton,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        *,
        rgb: bool = True,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.instances, self.reader, self.skeleton = instances, reader, skeleton
        self.input_size, self.heatmap_size = input_size, heatmap_size
        self.rgb, self.augmentation, self.seed = rgb, augmentation, seed
        self.aspect = input_size[0] / input_size[1]
        self.center, self.scale = geometry.boxes_to_crops(instances.boxes, self.aspect)
        self._warned = torch.zeros(
            1, dtype=torch.bool
        ).share_memory_()  # warn once, in whichever loading process sees it first
        refuse_without_crop(instances, self.center, self.scale)

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self._sample(index, *self.sample_augmentation(epoch, index))

    def mirrored(self, index: int) -> dict[str, np.ndarray]:
        """The sample, mirrored but not augmented otherwise."""
        return self._sample(index, self.center[index], self.scale[index], 0.0, flip=True)

    def sample_augmentation(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """A sample's centre, scale, rotation in degrees and flip."""
        center, scale = self.center[index], self.scale[index]
        if self.augmentation is None:
            return center, scale, 0.0, False
        # 0 is used for the epoch's permutation (dataset/samplers.py).
        draw = np.random.default_rng((self.seed, epoch, 1 + index))
        keypoints, visible = self.instances.keypoints[index], self.instances.visible[index]
        return self._augment(draw, self.augmentation, center, scale, keypoints, visible)

    def _sample(
        self, index: int, center: np.ndarray, scale: np.ndarray, rotation: float, flip: bool
    ) -> dict[str, np.ndarray]:
        pixels = self.image(index)
        sizes = {"input_size": self.input_size, "heatmap_size": self.heatmap_size}
        sample = crop_instance(pixels, center, scale, rotation, flip, **sizes, rgb=self.rgb)
        return sample | self.labels(index, sample["center"], scale, rotation, flip, pixels.shape[1])

    def labels(
        self, index: int, center: np.ndarray, scale: np.ndarray, rotation: float, flip: bool, width: int
    ) -> dict[str, np.ndarray]:
        """A sample's keypoints and visibility; with `flip`, `center` is in the mirrored image, `width` pixels wide."""
        keypoints, visible = self.instances.keypoints[index], self.instances.visible[index]
        if flip:
            order = self.skeleton.flip_order
            keypoints, visible = geometry.flip_points(keypoints, width)[order], visible[order]
        to_heatmap = geometry.crop_to_output(center, scale, rotation, self.heatmap_size)
        return {
            "keypoints": geometry.apply(to_heatmap, keypoints).astype(np.float32),
            "visible": visible,
            "index": np.int64(index),
        }

    def image(self, index: int) -> np.ndarray:
        """The image (H, W, 3), BGR, of an instance. Warns about the first whose size is not the annotated one."""
        images, place = self.instances.images, self.instances.image[index]
        name, stated = str(images.names[place]), images.sizes[place].tolist()
        pixels = self.reader.read(name, owner=f"{self.skeleton.noun} {self.instances.ids[index]}")
        contradiction = size_mismatch(pixels, stated)
        if contradiction and not self._warned:
            self._warned.fill_(True)
            logger.warning(
                "%s: %s, as annotated: boxes and keypoints are misplaced; tools/check_data.py lists all such images",
                *(self.reader.source / name, contradiction),
            )
        return pixels

    def _augment(
        self,
        draw: np.random.Generator,
        chosen: Augmentation,
        center: np.ndarray,
        scale: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """Centre, scale, rotation in degrees and flip, drawn in the published order."""
        if visible.sum() > chosen.half_body_joints and draw.random() < chosen.half_body:
            prefer_upper = draw.random() < chosen.upper_body
            half = half_body_crop(keypoints, visible, self.skeleton, self.aspect, prefer_upper)
            center, scale = half or (center, scale)
        factor = min(max(1 + chosen.scale * draw.standard_normal(), 1 - chosen.scale), 1 + chosen.scale)
        scale = scale * np.float64(factor)  # float64, as published
        rotation = 0.0
        if draw.random() <= ROTATION_PROBABILITY:
            bound = 2 * chosen.rotation
            rotation = min(max(chosen.rotation * draw.standard_normal(), -bound), bound)
        return center, scale, rotation, chosen.flip and draw.random() <= 0.5


def mirror_image(image: np.ndarray, center: np.ndarray, half_extent: np.ndarray) -> np.ndarray:
    """An image (H, W, 3), mirrored only where a crop around `center` (2, in the mirrored image) shows it.

    A crop shows a small part of most images, so that this is several times as fast.
    """
    height, width = image.shape[:2]
    # Two pixels more than interpolation needs.
    left, top = np.maximum(np.floor(center - half_extent) - 2, 0).astype(int)
    right, bottom = np.minimum(np.ceil(center + half_extent) + 3, (width, height)).astype(int)
    mirror = np.empty_like(image)
    if left < right and top < bottom:
        cv2.flip(image[top:bottom, width - right : width - left], 1, dst=mirror[top:bottom, left:right])
    return mirror


def half_body_crop(
    keypoints: np.ndarray, visible: np.ndarray, skeleton: Skeleton, aspect: float, prefer_upper: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre (2) and scale (2) of a crop around the visible joints of one half of the body, None for a lone joint.

    The upper half is taken if it is preferred and has more than two joints; else the lower if it has more than two;
    else the upper.
    """
    halves = (skeleton.upper_body, skeleton.lower_body)
    upper, lower = (keypoints[[joint for joint in half if visible[joint] > 0]] for half in halves)
    if prefer_upper and len(upper) > 2:
        chosen = upper
    else:
        chosen = lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    width, height = chosen.max(0) - chosen.min(0) + 1
    scale = geometry.fit_aspect(width, height, aspect) / geometry.PIXEL_STD * HALF_BODY_PADDING
    return chosen.mean(0), scale.astype(np.float32)
