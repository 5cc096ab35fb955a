"""What `benchmark --models` measures: the five released models in every backend that is installed.

Parameters, operations, and the crops per second of the forward pass. The weights are not trained, which does not change
the speed. Times are wall time, on all threads or on the GPU.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError
from ..models import zoo
from ..models.backends import Backend, computes_bfloat16
from ..models.transpose import TransPose
from ..runtime.files import write_text

REPORTED = ("torch", "torchvision", "numpy", "opencv-python", "pycocotools", "openvino", "onnxruntime")
RUNTIMES = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}  # what each backend needs


@dataclass(frozen=True)
class Size:
    """Number of samples to measure for each batch size, and of forward passes to warm up."""

    samples: dict[int, int]
    warm: int


FULL = Size(samples={1: 100, 8: 32, 32: 32}, warm=1)
SMALLEST = Size(samples={1: 1, 2: 2}, warm=1)


@dataclass(frozen=True)
class Measured:
    """The speed of a model in one backend: samples per second for each batch size."""

    model: str
    parameters: int
    gflops: float
    way: str
    per_second: dict[int, float]


def ways(device: torch.device) -> dict[str, Backend]:
    """The backends that can run here; plain PyTorch, whose figures go into the first table, comes first."""
    bfloat16 = computes_bfloat16(device)
    compiler = device.type == "cuda" or shutil.which("g++") or shutil.which("clang++")
    found = [Backend()]
    found += [Backend(compiled=True)] if compiler else []
    if device.type == "cpu":
        found += [Backend(backend=name) for name in RUNTIMES if installed(name)]
    if bfloat16:
        found += [Backend("bfloat16", how.backend, how.compiled) for how in found if how.backend != "onnxruntime"]
    return {how.describe(): how for how in found}


def installed(backend: str) -> bool:
    return all(importlib.util.find_spec(package) for package in RUNTIMES[backend])


def surroundings(threads: int | None = None) -> str:
    """One line: the CPU and what it computes, memory, system, versions, threads (by default this process's), date."""
    present = {package.name: package.version for package in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {present[name]}" for name in REPORTED if name in present)
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory_gb()} GB{gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; {threads or torch.get_num_threads()} PyTorch thread(s); "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    bfloat16 = "bfloat16" if computes_bfloat16(torch.device("cpu")) else "no bfloat16"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {bfloat16})"


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def operations(network: TransPose) -> float:
    """GFLOPs of one 256x192 image, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 192))
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def per_second(forward: Callable[[Tensor], Tensor], batch: int, size: Size, device: torch.device) -> float:
    """Samples per second at one batch size."""
    images = torch.randn(batch, 3, 256, 192, generator=torch.Generator().manual_seed(1)).to(device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(size.warm):
        forward(images)
    wait()
    steps = size.samples[batch] // batch
    start = time.perf_counter()
    for _ in range(steps):
        forward(images)
    wait()
    return steps * batch / (time.perf_counter() - start)


def measure(names: list[str], size: Size) -> list[Measured]:
    """Measure every model in every backend that can run here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for name in names:
        network = zoo.model(name).eval()
        parameters, gflops = sum(p.numel() for p in network.parameters()), operations(network)
        network.to(device)
        for way, how in ways(device).items():
            forward = how(network)
            speeds = {batch: per_second(forward, batch, size, device) for batch in size.samples}
            found.append(Measured(name, parameters, gflops, way, speeds))
            print(
                f"{name}, {way}: {', '.join(f'{batch}: {speed:.1f}/s' for batch, speed in speeds.items())}", flush=True
            )
    return found


def page(found: list[Measured], size: Size) -> str:
    """The machine and two tables, as markdown."""
    first = {measured.model: measured for measured in reversed(found)}
    heads = ["model", "parameters", "GFLOPs (multiply-add = 2)", "GFLOPs (multiply-add = 1)", "GFLOPs (published)"]
    rows = [
        [
            zoo.RELEASED[name].title,
            f"{m.parameters:,}",
            f"{m.gflops:.2f}",
            f"{m.gflops / 2:.2f}",
            f"{zoo.RELEASED[name].published_gflops}",
            f"{m.per_second[1]:.1f}",
        ]
        for name, m in ((name, first[name]) for name in zoo.RELEASED if name in first)
    ]
    speeds = [
        [zoo.RELEASED[m.model].title, m.way, *(f"{m.per_second[batch]:.1f}" for batch in size.samples)] for m in found
    ]
    return "\n\n".join(
        [
            surroundings(),
            f"Mean of {size.samples[1]} samples of 256×192, {found[0].way}, without flip test and decoding:",
            table([*heads, "FPS, batch 1"], rows),
            "Samples a second, mean of " + ", ".join(f"{n} in batches of {b}" for b, n in size.samples.items()) + ":",
            table(["model", "backend", *(f"batch {batch}" for batch in size.samples)], speeds),
        ]
    )


def main(arguments: argparse.Namespace) -> str:
    """Measure what the command line asks for; returns the page's section."""
    if arguments.write and (arguments.model or arguments.smallest):
        raise UserError("--write updates the page for all models at full size: leave out --model and --smallest")
    for name in arguments.model:
        zoo.released(name)
    size = SMALLEST if arguments.smallest else FULL
    found = measure([zoo.HUB_NAMES.get(name, name) for name in arguments.model] or list(zoo.RELEASED), size)
    text = page(found, size)
    print(f"\n{text}")
    if arguments.json:
        content = json.dumps({"surroundings": surroundings(), "models": [asdict(m) for m in found]}, indent=2)
        write_text(arguments.json, content)
    return text
