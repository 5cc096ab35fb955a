"""Training crops cut on the device that holds all photographs: while training, nothing is decoded and no pixel travels.

COCO's training persons are on some 57,000 photographs, about 52 GB decoded.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transpose.dataset import warp
from transpose.dataset.crops import Crops
from transpose.dataset.store import ImageStore


class Placed(Dataset):
    """The samples of `Crops` without pixels, but with where they come from: the photograph's `offset` and `size`, and
    `to_photograph` (2, 3) float64, input pixels -> its pixels."""

    def __init__(self, crops: Crops, store: ImageStore):
        self.crops, self.store = crops, store

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        people = self.crops.people
        photograph = self.store.place(str(people.images.names[people.image[index]]))
        size = self.store.sizes[photograph]
        center, scale, rotation, flip = self.crops.drawn(epoch, index)
        to_input, sample = self.crops.placed(index, center, scale, rotation, flip, int(size[0]))
        to_photograph = np.linalg.inv(np.vstack([to_input, (0, 0, 1)]))[:2]
        if flip:
            to_photograph[0] = (0, 0, size[0] - 1) - to_photograph[0]
        offset = self.store.offsets[photograph]
        return {"offset": offset, "size": size, "to_photograph": to_photograph, **sample}


class ResidentCrops:
    """Stands in for a DataLoader over `Crops`: the same batches, their `image` on the device of `pixels`.

    `placed` loads batches of `Placed`; `pixels` (P) uint8 are the store's.
    """

    def __init__(self, placed: DataLoader, pixels: Tensor):
        assert isinstance(placed.dataset, Placed)
        self.placed, self.pixels = placed, pixels
        self.dataset = placed.dataset.crops

    def __len__(self) -> int:
        return len(self.placed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.placed:
            offset, size, to_photograph = (batch.pop(name) for name in ("offset", "size", "to_photograph"))
            images = warp.crops(self.pixels, offset, size, to_photograph, self.dataset.input_size)
            yield {"image": images.flip(-1) if self.dataset.rgb else images, **batch}


def on_device(store: ImageStore, device: torch.device) -> Tensor:
    """All pixels of a store (P) uint8 in the device's memory; on the CPU the mapped file itself."""
    return torch.from_numpy(store.pixels).to(device)
