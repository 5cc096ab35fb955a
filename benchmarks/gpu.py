"""The network on a GPU: python -m benchmarks.gpu [--write], with PYTHONPATH=tools, or `make bench-gpu`.

Five models at batch 1, 32 and 256 in four precisions, two of them compiled; training steps on synthetic crops, and fed
by loading processes from JPEGs; peak memory. Each beside what the measured matrix product and copy allow (the
roofline): the operations at the one's rate, or weights, images and heatmaps at the other's. Without a GPU: skipped.

Rows are measured until the time is over; those that are compiled longest come last. What needs a package that is not
there is left out, as training from JPEGs.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks import report
from transpose.commands.model_speed import operations
from transpose.core.loss import mse
from transpose.core.train import train_epoch
from transpose.models import zoo
from transpose.models.backends import Backend

BATCHES = (1, 32, 256)
PRECISIONS = ("float32", "TF32", "bfloat16", "float16")
COMPILED = ("tp_r_a4", "tp_h_a6")  # in bfloat16, at the first and the last batch
SECONDS = 0.5  # for each figure
LIMIT = 360.0  # seconds after which no row is begun; the longest one, compiled, may take two minutes
PAGE = report.REPOSITORY / "docs/gpu.md"
TRAINED = (("tp_r_a4", 64), ("tp_h_s", 64))
FED = 0.05  # share of COCO's training set from which a training is fed
FED_STEPS = 60


@dataclass(frozen=True)
class Ceilings:
    """Operations a second in each precision, and bytes a second, as measured."""

    rates: dict[str, float]
    bandwidth: float

    def least(self, how: str, operations: float, elements: int) -> float:
        """Milliseconds that so many operations, on so many values that are moved once, take at least."""
        size = getattr(torch, precision(how)).itemsize
        return 1e3 * max(operations / self.rates[how], elements * size / self.bandwidth)


def milliseconds(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Median time of a call on the GPU; the first three warm up: they compile, choose kernels and record a graph."""
    for _ in range(3):
        call()
    times, end = list[float](), time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after))
    return statistics.median(times)


def precision(name: str) -> str:
    """Set TF32 for a row of the table; returns what `Backend` calls the precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    return "float32" if name == "TF32" else name


def ceilings(device: torch.device) -> Ceilings:
    """By a large matrix product in each precision, and a copy."""
    rates = {}
    for name in PRECISIONS:
        matrix = torch.randn(8192, 8192, device=device, dtype=getattr(torch, precision(name)))
        rates[name] = 2 * 8192**3 / milliseconds(lambda m=matrix: m @ m) * 1e3
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return Ceilings(rates, 2 * block.numel() / milliseconds(lambda: other.copy_(block)) * 1e3)


@cache
def of_one_crop(name: str) -> tuple[float, int]:
    """Operations of a forward pass, and the number of weights."""
    network = zoo.model(name).eval()
    return 1e9 * operations(network), sum(p.numel() for p in network.parameters())


def work(name: str, batch: int) -> tuple[float, int]:
    """Operations of a forward pass, and values of its weights, images and heatmaps."""
    each, weights = of_one_crop(name)
    return batch * each, weights + batch * (3 * 256 * 192 + 17 * 64 * 48)


def forward_row(name: str, how: str, compiled: bool, batch: int, device: torch.device, limits: Ceilings) -> list[str]:
    network = zoo.model(name).eval().to(device)
    forward = Backend(precision(how), compiled=compiled)(network)
    images = torch.randn(batch, 3, 256, 192, device=device)
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        spent = milliseconds(lambda: forward(images))
    if compiled:
        torch.compiler.reset()  # also gives the graph's memory back
    share = limits.least(how, *work(name, batch)) / spent
    memory = torch.cuda.max_memory_allocated() / 1e9
    return [
        *(name, how + (", compiled" if compiled else ""), str(batch), f"{spent:.2f} ms"),
        *(f"{1e3 * batch / spent:,.0f}", f"{share:.0%}", f"{memory:.2f} GB"),
    ]


def training_row(name: str, batch: int, how: str, device: torch.device, limits: Ceilings) -> list[str]:
    network = zoo.model(name).train().to(device)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-4, fused=True)
    images, target = torch.randn(batch, 3, 256, 192, device=device), torch.rand(batch, 17, 64, 48, device=device)
    weight, dtype = torch.ones(batch, 17, device=device), getattr(torch, precision(how))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            output = network(images)
        mse(output.float(), target, weight).backward()
        optimizer.step()

    torch.cuda.reset_peak_memory_stats()
    spent, memory = milliseconds(step), torch.cuda.max_memory_allocated() / 1e9
    share = 3 * limits.least(how, *work(name, batch)) / spent  # a backward pass takes twice as much
    return [name, how, str(batch), f"{spent:.1f} ms", f"{1e3 * batch / spent:,.0f}", f"{share:.0%}", f"{memory:.2f} GB"]


def fed(root: Path, recipe: str, batch: int, workers: int, steps: int, device: torch.device) -> tuple[float, float]:
    """Crops a second of a training in bfloat16 from the JPEGs under `root`, and the share of time without waiting."""
    options = {
        "TRAIN.BATCH_SIZE_PER_GPU": str(batch),
        "TRAIN.PRECISION": "bfloat16",
        "MODEL.INIT_WEIGHTS": "False",
        "GPUS": "(0,)",
        "WORKERS": str(workers),
    }
    from benchmarks import scale
    from benchmarks.forward import RECIPES
    from transpose.build.run import build_trainer

    cfg = scale.settings(root, *(text for pair in options.items() for text in pair), recipe=RECIPES[recipe])
    trainer = build_trainer(cfg, recipe, root / "run" / recipe, device)
    fixed = trainer.model, trainer.loader, trainer.plan, trainer.targets, trainer.criterion
    taken = train_epoch(*fixed, trainer.optimizer, trainer.scaler, trainer.options, 0)
    for _ in range(3):
        step, *_ = next(taken)
    float(step.losses[-1])  # waits for the GPU
    start, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        step, *_ = next(taken)
        waited += step.waited
    float(step.losses[-1])
    seconds = time.perf_counter() - start
    return steps * batch / seconds, 1 - waited / seconds


def fed_rows(device: torch.device, workers: int) -> list[list[str]]:
    """A row for each training from JPEGs. Raises ModuleNotFoundError where a package for training is missing."""
    from benchmarks import scale

    with tempfile.TemporaryDirectory() as folder:
        scale.make(Path(folder), FED)
        found = [(name, *fed(Path(folder), name, batch, workers, FED_STEPS, device)) for name, batch in TRAINED]
    return [[name, f"{rate:,.0f}", f"{share:.0%}"] for name, rate, share in found]


def in_time(rows: list[Callable[[], list[str]]], end: float) -> tuple[list[list[str]], int]:
    """The rows that are begun before the `end`, and how many are not."""
    found = list[list[str]]()
    for row in rows:
        if time.monotonic() >= end:
            break
        found.append(row())
    return found, len(rows) - len(found)


def describe(device: torch.device, seconds: float = LIMIT) -> str:
    """The page's section."""
    end = time.monotonic() + seconds
    torch.backends.cudnn.benchmark = True  # as the recipes have it
    limits = ceilings(device)

    def forward(name: str, how: str, compiled: bool, batch: int) -> Callable[[], list[str]]:
        return lambda: forward_row(name, how, compiled, batch, device, limits)

    eager = [forward(name, how, False, batch) for name in zoo.RELEASED for how in PRECISIONS for batch in BATCHES]
    graphs = [forward(name, "bfloat16", True, batch) for batch in (BATCHES[-1], BATCHES[0]) for name in COMPILED]
    steps = [training_row(*each, how, device, limits) for each in TRAINED for how in ("TF32", "bfloat16")]
    cores = os.cpu_count() or 1
    try:
        real = report.table(["model", "crops a second", "time without waiting for data"], fed_rows(device, cores))
    except ModuleNotFoundError as error:
        real = f"Not measured: the package {error.name} is missing."
    rows, left_out = in_time(eager + graphs, end)
    head = ["model", "precision", "batch", "time", "crops a second", "of the roofline", "peak memory"]
    rates = ", ".join(f"{name} {rate / 1e12:,.0f} TFLOPs/s" for name, rate in limits.rates.items())
    parts = [
        report.surroundings(),
        f"Measured ceilings: a product of 8192 x 8192 matrices {rates}; a copy {limits.bandwidth / 1e12:.2f} TB/s.",
        report.table(head, rows),
        f"Left out, as the time was over: {left_out} rows." if left_out else "",
        "Training steps on synthetic crops:",
        report.table(head, steps),
        f"Training in bfloat16 from JPEGs, {cores} loading processes:",
        real,
    ]
    return "\n\n".join(filter(None, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the five models on a GPU.")
    parser.add_argument("--write", action="store_true", help="put the result into docs/gpu.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no GPU")
        return
    text = describe(torch.device("cuda"))
    print(text)
    if arguments.write:
        report.write_section("gpu", text, PAGE)


if __name__ == "__main__":
    main()
