"""What both forms of a job share: a fast machine's step and forward pass, as waits, and the figures of a process."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain

STEP = 1 / 5_000  # seconds a crop that a fast machine's training step takes
BATCH = 20  # crops in a step that waits
MAPS = 64  # at most so many crops in a pass that waits
HEATMAP = (48, 64)
Figures = dict[str, float]


def consume(batches: Iterable[Any], samples: int, size_of: Callable[[Any], int], start: float, built: float) -> Figures:
    """Take the batches of a training set, which was built from `start` to `built`, with a step that waits."""
    left, loaded, waited = iter(batches), 0, 0.0
    warm = size_of(next(left))
    first = time.perf_counter()
    while loaded < samples:
        asked = time.perf_counter()
        count = size_of(next(left))
        waited += time.perf_counter() - asked
        time.sleep(count * STEP)
        loaded += count
    seconds = time.perf_counter() - first
    return {
        "set built, s": built - start,
        "first batch, s": first - built,
        "crops/s": loaded / seconds,
        "waited for data, %": 100 * waited / seconds,
        "crops": loaded + warm,
    }


def wait_for(milliseconds: float) -> Callable[[Tensor], Tensor]:
    """In place of a network: heatmaps (B, 17, 64, 48) with peaks, after a wait of so long a crop."""
    draw = np.random.default_rng(0)
    points = draw.random((MAPS, 17, 2)).astype(np.float32) * np.float32(HEATMAP)
    peaks = np.stack([plain.target_maps(joints, np.ones(17), HEATMAP, 2)[0] for joints in points])
    heights = draw.uniform(0.2, 1, (MAPS, 17, 1, 1))
    maps = torch.from_numpy(peaks * heights + draw.normal(0, 0.003, peaks.shape)).float()

    def forward(images: Tensor) -> Tensor:
        time.sleep(len(images) * milliseconds / 1e3)
        return maps[: len(images)]

    return forward


def each_crop(done: list[tuple[float, int]]) -> float:
    """Milliseconds a crop, of the times at which batches of so many crops were done; the first batch, which waits for
    the loading processes to start, is left out, so that the number of boxes does not matter."""
    (first, _), *_, (last, _) = done
    return 1e3 * (last - first) / sum(count for _, count in done[1:])


def since_start() -> float:
    """Seconds since this process was started, to a hundredth (psutil rounds the time of the boot to seconds)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def main(parts: dict[str, Callable[..., Figures]]) -> None:
    """Run the part that the command line names, with its arguments, and print its figures."""
    name, *arguments = sys.argv[1:]
    print(json.dumps(parts[name](*arguments)))
