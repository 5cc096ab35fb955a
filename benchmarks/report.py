"""docs/benchmarks.md: each benchmark writes its own section, with the hardware and the versions it ran on."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PHOTOGRAPHS = REPOSITORY / "data/coco_sample/images/val2017"
ORIGINAL_READING = 1.9e-3  # seconds
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "pycocotools")


def surroundings(threads: int | None = None) -> str:
    """One line: processor, memory, system, versions, threads (by default this process's), date."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory_gb()} GB{gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; {threads or torch.get_num_threads()} PyTorch thread(s); "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def reading() -> str:
    """One line: what the same call of the same library takes here and took where the original was measured."""
    seconds = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        times = []
        for _ in range(5):
            start = time.process_time()
            cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            times.append(time.process_time() - start)
        seconds.append(statistics.median(times))
    mean = statistics.mean(seconds)
    return (
        f"`cv2.imread` of a bundled photograph: {1e3 * mean:.2f} ms. It was {1e3 * ORIGINAL_READING:.1f} ms where the "
        f"original was measured: this machine takes {mean / ORIGINAL_READING:.2f} times as long."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def write_section(name: str, text: str) -> None:
    """Put `text` between the page's marks of that name, which must be there."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text()
    before, rest = page.split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
