"""Training crops cut on the device that holds the images: while training, nothing is decoded.

COCO's training instances are in some 57,000 images, about 52 GB decoded. Several processes hold a part each; they tell
each other which crops they need, and each cuts those of its own images for all: batches stay what they are.
B batch, h x w crop. Images lie one after the other in a flat tensor of uint8, as in `DecodedImages`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..pose import geometry
from ..runtime import distributed
from .image_cache import DecodedImages
from .topdown import TopDownDataset


class CropGeometries(Dataset):
    """The samples of a `TopDownDataset` without pixels, but with where they come from: the stored image's `offset` and
    `size`, and `to_stored` (2, 3) float64, input pixels -> its pixels."""

    def __init__(self, crops: TopDownDataset, store: DecodedImages):
        self.crops, self.store = crops, store

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        instances = self.crops.instances
        place = self.store.place(str(instances.images.names[instances.image[index]]))
        size = self.store.sizes[place]
        crops, width = self.crops, int(size[0])
        center, scale, rotation, flip = crops.sample_augmentation(epoch, index)
        if flip:
            center = geometry.flip_points(center, width).astype(center.dtype)
        to_stored = geometry.crop_to_output(center, scale, rotation, crops.input_size, inverse=True)
        if flip:
            to_stored[0] = (0, 0, width - 1) - to_stored[0]
        return {
            "offset": self.store.offsets[place],
            "size": size,
            "to_stored": to_stored,
            "to_image": geometry.crop_to_output(center, scale, rotation, crops.heatmap_size, inverse=True),
            "center": center,
            "scale": scale,
            **crops.labels(index, center, scale, rotation, flip, width),
        }


class OnDeviceLoader:
    """Used in place of a DataLoader over a `TopDownDataset`: the same batches, their `image` on the device of `pixels`.

    `geometries` loads batches, of at most `micro_batch` samples, of `CropGeometries`; `pixels` (P) uint8 are the
    store's from `first` on.
    """

    def __init__(self, geometries: DataLoader, pixels: Tensor, micro_batch: int, first: int = 0):
        assert isinstance(geometries.dataset, CropGeometries)
        self.geometries, self.pixels, self.micro_batch, self.first = geometries, pixels, micro_batch, first
        self.dataset = geometries.dataset.crops

    def __len__(self) -> int:
        return len(self.geometries)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.geometries:
            offset, size, to_stored = (batch.pop(name) for name in ("offset", "size", "to_stored"))
            wanted = torch.cat([offset[:, None], size, to_stored.flatten(1)], 1).to(self.pixels.device)
            images = self._cut(wanted) if distributed.world() == 1 else self._cut_together(wanted)
            yield {"image": images.flip(-1) if self.dataset.rgb else images, **batch}

    def _cut(self, wanted: Tensor) -> Tensor:
        """Crops (B, h, w, 3) of images held here; `wanted` (B, 9) float64 are offset, size and matrix of each."""
        offset, size, matrix = wanted[:, 0].long() - self.first, wanted[:, 1:3].long(), wanted[:, 3:].view(-1, 2, 3)
        return cut_crops(self.pixels, offset, size, matrix, self.dataset.input_size)

    def _cut_together(self, wanted: Tensor) -> Tensor:
        """As `_cut`, from whichever process holds the image; every process calls this at the same time."""
        padded = wanted.new_full((self.micro_batch, wanted.shape[1]), -1)
        padded[: len(wanted)] = wanted
        everyones = torch.cat(distributed.collect(padded))
        here = (everyones[:, 0] >= self.first) & (everyones[:, 0] < self.first + len(self.pixels))
        width, height = self.dataset.input_size
        crops = torch.zeros(len(everyones), height, width, 3, dtype=torch.uint8, device=self.pixels.device)
        crops[here] = self._cut(everyones[here])
        own = distributed.rank() * self.micro_batch
        return distributed.total(crops)[own : own + len(wanted)]


def on_device(store: DecodedImages, device: torch.device) -> tuple[Tensor, int]:
    """This process's part of a store's pixels (P) uint8 in the device's memory, on the CPU the mapped file itself; and
    where in the store it begins. Parts hold whole images."""
    bounds = np.append(store.offsets, len(store.pixels))
    rank, world = distributed.rank(), distributed.world()
    first, end = (int(bounds[bounds.searchsorted(len(store.pixels) * part // world)]) for part in (rank, rank + 1))
    return torch.from_numpy(store.pixels[first:end]).to(device), first


def cut_crops(pixels: Tensor, offsets: Tensor, sizes: Tensor, to_image: Tensor, size: tuple[int, int]) -> Tensor:
    """What `cv2.warpAffine` makes of one image, of a batch: bilinear crops (B, h, w, 3) uint8, 0 outside of the image,
    in its channels' order.

    Each sample's image starts at `offsets` (B) of `pixels` (P) and is `sizes` (B, 2: width, height) large;
    `to_image` (B, 2, 3) takes pixels of the crop to pixels of the image; `size` is the crop's (width, height).
    """
    width, height = size
    x = torch.arange(width, device=pixels.device, dtype=torch.float64)
    y = torch.arange(height, device=pixels.device, dtype=torch.float64)[:, None]
    matrix = to_image.to(pixels.device, torch.float64)[:, :, :, None, None]
    place = matrix[:, :, 0] * x + matrix[:, :, 1] * y + matrix[:, :, 2]
    corner = place.floor()
    right, below = (place - corner).float().unbind(1)
    left, top = corner.long().unbind(1)
    image_width, image_height = sizes.to(pixels.device)[:, :, None, None].unbind(1)
    start = offsets.to(pixels.device)[:, None, None]
    channels = torch.arange(3, device=pixels.device)

    total = torch.zeros(*left.shape, 3, device=pixels.device)
    for dy, row_weight in ((0, 1 - below), (1, below)):
        for dx, weight in ((0, 1 - right), (1, right)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < image_width) & (row >= 0) & (row < image_height)
            index = torch.where(inside, start + 3 * (row * image_width + column), start)
            values = pixels[index[..., None] + channels].float()
            total += values * (row_weight * weight * inside)[..., None]
    return total.round().to(torch.uint8)
