"""Each stage beside its plainest form: python tools/benchmark.py --stages [--stage NAME] [--write], or `make bench`.

A stage is made by a function of a size and a scratch folder. Both forms are run in turn in one process, several times;
what counts is the ratio of the medians, and how far the results lie apart.
"""

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from transpose.errors import UserError

# The modules whose STAGES are measured, in the page's order.
MODULES = ("benchmarks.data_stages",)


@dataclass(frozen=True)
class Size:
    """How much of everything: maps to decode in a batch, crops in a pass, persons to evaluate, share of COCO's
    training set, and how long a stage is repeated in seconds."""

    batch: int
    samples: int
    persons: int
    fraction: float
    seconds: float


FULL = Size(batch=32, samples=105, persons=100_000, fraction=1.0, seconds=20.0)
SMALLEST = Size(batch=2, samples=8, persons=300, fraction=0.001, seconds=0.0)


@dataclass(frozen=True)
class Stage:
    """Two forms of the same. `original` and `wanted` are the published system's time on its machine and what is asked
    of the ratio; `difference` of both results must stay within `tolerance`, in `unit`. Times are divided by `count`.
    """

    title: str
    original: str
    wanted: str
    plain: Callable[[], Any]
    ours: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    tolerance: float
    unit: str = ""
    count: int = 1
    clock: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Measured:
    """Medians in seconds, over `repeats`, and the largest difference."""

    plain: float
    ours: float
    difference: float
    repeats: int

    @property
    def ratio(self) -> float:
        return self.plain / self.ours


Maker = Callable[[Size, Path], Stage]


def measure(stage: Stage, seconds: float) -> Measured:
    """Both in turn, 3 to 25 times (once where `seconds` is 0) within about that time; a short first run warms up."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        start = stage.clock()
        value = call()
        return stage.clock() - start, value

    first, plain_result = timed(stage.plain)
    second, our_result = timed(stage.ours)
    difference = stage.difference(plain_result, our_result)
    del plain_result, our_result
    repeats = round(min(max(3, seconds / (first + second + 1e-9)), 25)) if seconds else 0
    warm = seconds > 0 and first + second < 1
    times = [] if warm else [(first, second)]
    while len(times) < repeats:
        times.append((timed(stage.plain)[0], timed(stage.ours)[0]))
    plain, ours = (statistics.median(column) for column in zip(*times, strict=True))
    return Measured(plain / stage.count, ours / stage.count, difference, len(times))


def makers() -> dict[str, Maker]:
    """All stages by name."""
    return {name: maker for module in MODULES for name, maker in importlib.import_module(module).STAGES.items()}


def run(chosen: list[str], size: Size) -> dict[str, tuple[Stage, Measured]]:
    """Measure the named stages, all if none is named, on one thread."""
    every = makers()
    for name in chosen:
        if name not in every:
            raise UserError(f"there is no stage '{name}'; there are {', '.join(every)}")
    torch.set_num_threads(1)
    found = {}
    for name in chosen or every:
        with tempfile.TemporaryDirectory() as folder:
            stage = every[name](size, Path(folder))
            found[name] = stage, measure(stage, size.seconds)
        print(f"{name}: {describe(*found[name])}", flush=True)
    return found


def describe(stage: Stage, found: Measured) -> str:
    """One line."""
    return (
        f"plain {duration(found.plain)}, ours {duration(found.ours)}, {found.ratio:.1f}× (wanted {stage.wanted}); "
        f"largest difference {distance(stage, found)}; {found.repeats} times"
    )


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def distance(stage: Stage, found: Measured) -> str:
    return f"{found.difference:.1g} {stage.unit}".strip() if found.difference else "none"


def page(found: dict[str, tuple[Stage, Measured]]) -> str:
    """The section of docs/benchmarks.md."""
    head = ["stage", "original, its machine", "plain, here", "ours, here", "ratio", "wanted", "largest difference"]
    rows = [
        [
            f"{stage.title} (`{name}`)",
            stage.original,
            duration(measured.plain),
            duration(measured.ours),
            f"{measured.ratio:.1f}×",
            stage.wanted,
            distance(stage, measured),
        ]
        for name, (stage, measured) in found.items()
    ]
    return f"{report.surroundings()}\n\n{report.table(head, rows)}"


def main(arguments: argparse.Namespace) -> None:
    """What tools/benchmark.py was asked for; raises UserError where results differ by more than they may."""
    if arguments.write and (arguments.stage or arguments.smallest):
        raise UserError("--write puts all stages at full size into the page: leave out --stage and --smallest")
    found = run(arguments.stage, SMALLEST if arguments.smallest else FULL)
    if arguments.write:
        report.write_section("stages", page(found))
    unequal = [name for name, (stage, measured) in found.items() if not measured.difference <= stage.tolerance]
    if unequal:
        raise UserError(f"results differ by more than they may in {', '.join(unequal)}")
