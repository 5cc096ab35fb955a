"""Each stage beside its plainest form: python tools/benchmark.py --stages [--stage NAME] [--write], or `make bench`.

A stage is made by a function of a size and a scratch folder. Both forms are run in turn in one process, several times;
what counts is the ratio of the medians, and how far the results lie apart. The page holds three separate runs.
"""

import argparse
import cProfile
import importlib
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from transpose.errors import UserError

# The modules whose STAGES are measured, in the page's order.
MODULES = ("benchmarks.forward", "benchmarks.data_stages")
RUNS = 3  # for the page
THREADS = 1  # of PyTorch
FIGURES = ("plain", "ours", "ratio")
COMMAND = Path(__file__).resolve().parents[1] / "tools/benchmark.py"


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
    """A stage's words; medians in seconds over `repeats`, and the largest difference."""

    title: str
    original: str
    wanted: str
    unit: str
    plain: float
    ours: float
    difference: float
    repeats: int
    equal: bool

    @property
    def ratio(self) -> float:
        return self.plain / self.ours


Maker = Callable[[Size, Path], Stage]


def measure(stage: Stage, seconds: float) -> Measured:
    """Both in turn, once to 25 times (once where `seconds` is 0) within about that time; a short first run warms up."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        start = stage.clock()
        value = call()
        return stage.clock() - start, value

    first, plain_result = timed(stage.plain)
    second, our_result = timed(stage.ours)
    difference = stage.difference(plain_result, our_result)
    del plain_result, our_result
    repeats = round(min(max(1, seconds / (first + second + 1e-9)), 25)) if seconds else 0
    warm = seconds > 0 and first + second < 5
    times = [] if warm else [(first, second)]
    while len(times) < repeats:
        times.append((timed(stage.plain)[0], timed(stage.ours)[0]))
    plain, ours = (statistics.median(column) / stage.count for column in zip(*times, strict=True))
    words = stage.title, stage.original, stage.wanted, stage.unit
    return Measured(*words, plain, ours, difference, len(times), difference <= stage.tolerance)


def makers() -> dict[str, Maker]:
    """All stages by name."""
    return {name: maker for module in MODULES for name, maker in importlib.import_module(module).STAGES.items()}


def run(chosen: list[str], size: Size) -> dict[str, Measured]:
    """Measure the named stages, all if none is named, on one thread."""
    every = makers()
    for name in chosen:
        if name not in every:
            raise UserError(f"there is no stage '{name}'; there are {', '.join(every)}")
    torch.set_num_threads(THREADS)
    found = {}
    for name in chosen or every:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(every[name](size, Path(folder)), size.seconds)
        print(f"{name}: {describe(found[name])}", flush=True)
    return found


def profile(chosen: list[str]) -> None:
    """Print where the named stages' time goes in ours."""
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            stage = makers()[name](FULL, Path(folder))
            stage.ours()
            with cProfile.Profile() as profiler:
                stage.ours()
            print(name)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(12)


def run_apart() -> dict[str, Measured]:
    """Measure all stages at full size in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        subprocess.run([sys.executable, str(COMMAND), "--stages", "--json", str(figures)], check=False)
        if not figures.exists():
            raise UserError("the measuring process ended without a result; above stands what it said")
        return {name: Measured(**found) for name, found in json.loads(figures.read_text()).items()}


def describe(found: Measured) -> str:
    """One line."""
    return (
        f"plain {duration(found.plain)}, ours {duration(found.ours)}, {found.ratio:.1f}× (wanted {found.wanted}); "
        f"largest difference {distance(found)}; {found.repeats} times"
    )


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def distance(found: Measured) -> str:
    return f"{found.difference:.1g} {found.unit}".strip() if found.difference else "none"


def page(runs: list[dict[str, Measured]]) -> str:
    """The section of docs/benchmarks.md: medians over the runs, each run's ratio, the last run's difference."""
    head = ["stage", "original", "plain, here", "ours, here", "ratio", "in each run", "target", "largest difference"]
    rows = []
    for name, last in runs[-1].items():
        each = [run[name] for run in runs]
        plain, ours, ratio = (statistics.median(getattr(m, figure) for m in each) for figure in FIGURES)
        rows.append(
            [
                f"{last.title} (`{name}`)",
                *(last.original, duration(plain), duration(ours), f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"),
                *(", ".join(f"{m.ratio:.3g}" for m in each), last.wanted, distance(last)),
            ]
        )
    return f"{report.surroundings(THREADS)}\n\n{report.reading()}\n\n{report.table(head, rows)}"


def main(arguments: argparse.Namespace) -> None:
    """What tools/benchmark.py was asked for; raises UserError where results differ by more than they may."""
    if arguments.write and (arguments.stage or arguments.smallest):
        raise UserError("--write puts all stages at full size into the page: leave out --stage and --smallest")
    if arguments.write:
        runs = [run_apart() for _ in range(RUNS)]
        report.write_section("stages", page(runs))
    else:
        runs = [run(arguments.stage, SMALLEST if arguments.smallest else FULL)]
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(found) for name, found in runs[-1].items()}))
    unequal = {name for found in runs for name, measured in found.items() if not measured.equal}
    if arguments.profile:
        profile(list(runs[-1]))
    if unequal:
        raise UserError(f"results differ by more than they may in {', '.join(sorted(unequal))}")
