"""docs/benchmarks.md: each benchmark writes its own section, with the hardware and the versions it ran on."""

import statistics
import time
from pathlib import Path

import cv2

from transpose.commands.model_speed import surroundings, table

__all__ = ["reading", "surroundings", "table", "write_section"]
REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks.md"
IMAGES = REPOSITORY / "data/coco_sample/images/val2017"
ORIGINAL_READING = 1.9e-3  # seconds


def reading() -> str:
    """One line: what the same call of the same library takes here and took where the original was measured."""
    seconds = []
    for path in sorted(IMAGES.glob("*.jpg")):
        times = []
        for _ in range(5):
            start = time.process_time()
            cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            times.append(time.process_time() - start)
        seconds.append(statistics.median(times))
    mean = statistics.mean(seconds)
    return (
        f"`cv2.imread` of a bundled image: {1e3 * mean:.2f} ms. It was {1e3 * ORIGINAL_READING:.1f} ms where the "
        f"original was measured: this machine takes {mean / ORIGINAL_READING:.2f} times as long."
    )


def write_section(name: str, text: str, path: Path | None = None) -> None:
    """Put `text` between the marks of that name, which must be there, in the page or the one at `path`."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    path = path or PAGE
    page = path.read_text()
    before, rest = page.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
