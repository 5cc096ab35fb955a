"""Samplers of batches that do not depend on the number of processes, nor on whether a run was resumed."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainSampler(Sampler):
    """Micro-batches of (epoch, sample) for one process.

    An optimiser step takes `micro_batches` x `micro_batch` samples from a permutation that (seed, epoch) determine. The
    recipe has one micro-batch per GPU; process `rank` of `world` gets every `world`-th of them. The last step of an
    epoch takes the remaining samples, in equal micro-batches; fewer than `micro_batches` samples are left out of the
    epoch. `epoch` is the epoch to iterate over, and `first` its first step.
    """

    def __init__(
        self,
        samples: int,
        micro_batch: int,
        micro_batches: int,
        seed: int,
        *,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ):
        assert micro_batches % world == 0
        self.samples, self.micro_batch, self.micro_batches = samples, micro_batch, micro_batches
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = self.first = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        full, rest = divmod(self.samples, self.micro_batch * self.micro_batches)
        return full + (rest >= self.micro_batches)

    @property
    def micro_batches_here(self) -> int:
        """Micro-batches of a step that this process takes."""
        return self.micro_batches // self.world

    def step_size(self, step: int) -> int:
        """Samples of an optimiser step over all processes."""
        size = self.micro_batch * self.micro_batches
        return min(size, self.samples - step * size)

    def __len__(self) -> int:
        return (self.steps - self.first) * self.micro_batches_here

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.samples)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        size = self.micro_batch * self.micro_batches
        for step in range(self.first, self.steps):
            parts = np.array_split(order[step * size : (step + 1) * size], self.micro_batches)
            for part in parts[self.rank :: self.world]:
                yield [(self.epoch, int(index)) for index in part]


class EvalSampler(Sampler):
    """Each sample once, grouped by image, so that each image is decoded once.

    `image` (N) is the image of each sample. Process `rank` gets every `world`-th batch.
    """

    def __init__(self, image: np.ndarray, size: int, *, rank: int = 0, world: int = 1):
        self.order = np.argsort(image, kind="stable")
        self.starts = range(rank * size, len(image), size * world)
        self.size = size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield self.order[start : start + self.size].tolist()
