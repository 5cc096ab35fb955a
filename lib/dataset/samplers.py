"""Which samples make which batch: the same for any number of processes and from wherever a run goes on."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainSampler(Sampler):
    """Micro-batches of (epoch, sample) for one process.

    An optimiser step takes `share` x `shares` samples of a permutation drawn from (seed, epoch). It is cut into
    `shares` micro-batches, of which process `rank` of `world` gets every `world`-th: the recipe's GPUs, however many
    processes stand for them. The epoch's last step takes what is left, in equal shares; fewer samples than `shares`
    wait for another epoch's permutation. `epoch` is the one to iterate over, `first` the step to begin with.
    """

    def __init__(
        self, samples: int, share: int, shares: int, seed: int, *, shuffle: bool = True, rank: int = 0, world: int = 1
    ):
        assert shares % world == 0
        self.samples, self.share, self.shares, self.seed, self.shuffle = samples, share, shares, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = self.first = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        full, rest = divmod(self.samples, self.share * self.shares)
        return full + (rest >= self.shares)

    @property
    def shares_here(self) -> int:
        """Micro-batches of a step that this process takes."""
        return self.shares // self.world

    def step_size(self, step: int) -> int:
        """Samples of an optimiser step over all processes."""
        size = self.share * self.shares
        return min(size, self.samples - step * size)

    def __len__(self) -> int:
        return (self.steps - self.first) * self.shares_here

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.samples)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        size = self.share * self.shares
        for step in range(self.first, self.steps):
            parts = np.array_split(order[step * size : (step + 1) * size], self.shares)
            for part in parts[self.rank :: self.world]:
                yield [(self.epoch, int(index)) for index in part]


class EvalSampler(Sampler):
    """Each sample once, those of one image next to each other, so that it is decoded once; `image` (N) tells which.

    Process `rank` gets every `world`-th batch.
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
