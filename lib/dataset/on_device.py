"""Training crops cut on the device that holds the photographs: while training, nothing is decoded.

COCO's training persons are on some 57,000 photographs, about 52 GB decoded. Several processes hold a share each; they
tell each other which crops they need, and each cuts those of its own photographs for all: batches stay what they are.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..pose import geometry
from ..runtime import distributed
from . import warp
from .image_cache import DecodedImages
from .topdown import TopDownDataset


class CropGeometries(Dataset):
    """The samples of `Crops` without pixels, but with where they come from: the photograph's `offset` and `size`, and
    `to_photograph` (2, 3) float64, input pixels -> its pixels."""

    def __init__(self, crops: TopDownDataset, store: DecodedImages):
        self.crops, self.store = crops, store

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        people = self.crops.people
        photograph = self.store.place(str(people.images.names[people.image[index]]))
        size = self.store.sizes[photograph]
        crops, width = self.crops, int(size[0])
        center, scale, rotation, flip = crops.sample_augmentation(epoch, index)
        if flip:
            center = geometry.flip_points(center, width).astype(center.dtype)
        to_photograph = geometry.crop_to_output(center, scale, rotation, crops.input_size, inverse=True)
        if flip:
            to_photograph[0] = (0, 0, width - 1) - to_photograph[0]
        return {
            "offset": self.store.offsets[photograph],
            "size": size,
            "to_photograph": to_photograph,
            "to_image": geometry.crop_to_output(center, scale, rotation, crops.heatmap_size, inverse=True),
            "center": center,
            "scale": scale,
            **crops.labels(index, center, scale, rotation, flip, width),
        }


class OnDeviceLoader:
    """Stands in for a DataLoader over `Crops`: the same batches, their `image` on the device of `pixels`.

    `placed` loads batches, of at most `share` samples, of `Placed`; `pixels` (P) uint8 are the store's from `first` on.
    """

    def __init__(self, placed: DataLoader, pixels: Tensor, share: int, first: int = 0):
        assert isinstance(placed.dataset, CropGeometries)
        self.placed, self.pixels, self.share, self.first = placed, pixels, share, first
        self.dataset = placed.dataset.crops

    def __len__(self) -> int:
        return len(self.placed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.placed:
            offset, size, to_photograph = (batch.pop(name) for name in ("offset", "size", "to_photograph"))
            wanted = torch.cat([offset[:, None], size, to_photograph.flatten(1)], 1).to(self.pixels.device)
            images = self._cut(wanted) if distributed.world() == 1 else self._cut_together(wanted)
            yield {"image": images.flip(-1) if self.dataset.rgb else images, **batch}

    def _cut(self, wanted: Tensor) -> Tensor:
        """Crops (B, h, w, 3) of photographs held here; `wanted` (B, 9) float64 are offset, size and matrix of each."""
        offset, size, matrix = wanted[:, 0].long() - self.first, wanted[:, 1:3].long(), wanted[:, 3:].view(-1, 2, 3)
        return warp.crops(self.pixels, offset, size, matrix, self.dataset.input_size)

    def _cut_together(self, wanted: Tensor) -> Tensor:
        """The same from whichever process holds the photograph; every process calls this at the same time."""
        padded = wanted.new_full((self.share, wanted.shape[1]), -1)
        padded[: len(wanted)] = wanted
        everyones = torch.cat(distributed.collect(padded))
        here = (everyones[:, 0] >= self.first) & (everyones[:, 0] < self.first + len(self.pixels))
        width, height = self.dataset.input_size
        crops = torch.zeros(len(everyones), height, width, 3, dtype=torch.uint8, device=self.pixels.device)
        crops[here] = self._cut(everyones[here])
        own = distributed.rank() * self.share
        return distributed.total(crops)[own : own + len(wanted)]


def on_device(store: DecodedImages, device: torch.device) -> tuple[Tensor, int]:
    """This process's share of a store's pixels (P) uint8 in the device's memory, on the CPU the mapped file itself; and
    where in the store it begins. Shares hold whole photographs."""
    bounds = np.append(store.offsets, len(store.pixels))
    rank, world = distributed.rank(), distributed.world()
    first, end = (int(bounds[bounds.searchsorted(len(store.pixels) * part // world)]) for part in (rank, rank + 1))
    return torch.from_numpy(store.pixels[first:end]).to(device), first
