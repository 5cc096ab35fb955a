"""What a user waits for, from end to end: python -m benchmarks.jobs [--write], with PYTHONPATH=tools, or `make
bench-jobs`.

Each job is a process of its own, watched from outside, and so is its plain form (`benchmarks.plain_jobs`), right after
it. Where a CPU's network would hide everything else, a wait stands in its place, as long as a fast machine's.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import forward, report, scale, synthetic, video
from benchmarks.data_stages import PLAIN_HELP
from benchmarks.forward import DEMO, RECIPES, REPOSITORY
from benchmarks.job_process import BATCH
from benchmarks.watch import Measured, run
from transpose.build.model import build_model
from transpose.config.load import load_config
from transpose.models.backends import computes_bfloat16

PASSES = (5, 28)  # milliseconds a crop of a forward pass: a light network, R-A4 in bfloat16 on a CPU with AMX
THREADS = 1  # of PyTorch, in each process
ALL_THREADS = os.cpu_count() or 1  # what a command takes by itself
RESAMPLES = 1_000
TRAINED = ("tp_r_a4", "tp_h_s")
BOTH = ("float32", "bfloat16")
# Milliseconds a crop of a forward pass in float32 and bfloat16, on an Intel Xeon with AMX, by an earlier version.
EARLIER = {"tp_r_a4": (109, 40), "tp_h_s": (165, 75), "tp_h_a6": (327, 128)}
WANTED = {"forward pass": 2.0, "training step": 1.5}


@dataclass(frozen=True)
class Size:
    """Share of COCO's sets; share of the training images that are decoded once (all are 52 GB), and of val2017's boxes
    that go through the network, and through it in two precisions; crops that a loader delivers, and that a step trains
    on; steps; frames of the video; images that are predicted; resamples of the plain analysis."""

    fraction: float = 1.0
    stored: float = 0.05
    predicted: float = 0.02
    compared: float = 0.001
    loaded: int = 2_000
    micro_batch: int = 4
    steps: int = 6
    frames: int = 96
    images: int = 32
    resamples: int = 3


FULL = Size()
SMALLEST = Size(
    fraction=0.002,
    stored=0.002,
    predicted=0.0005,
    compared=0.0001,
    loaded=20,
    micro_batch=1,
    steps=2,
    frames=3,
    images=2,
    resamples=1,
)


@dataclass(frozen=True)
class Row:
    """A line of a job's table: how much was done in how long. `figure` is what is compared with the plain form, a part
    by name or the elapsed time; `faster` is the ratio, where there is a plain form."""

    title: str
    count: str
    found: Measured
    figure: str = ""
    faster: float | None = None

    def value(self) -> float:
        return self.found.parts[self.figure] if self.figure else self.found.wall


def compared(ours: Row, plain: Row) -> list[Row]:
    """Both; ours with how many times as fast it is."""
    ratio = plain.value() / ours.value()
    return [replace(ours, faster=1 / ratio if ours.figure.endswith("/s") else ratio), plain]


def part(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, "-m", "benchmarks.job_parts", name, *map(str, arguments)]


def plain_part(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, "-m", "benchmarks.plain_jobs", name, *map(str, arguments)]


def tool(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, f"tools/{name}.py", *map(str, arguments)]


# The jobs, by the part of the page


def feeding(root: Path, size: Size, weights: Path) -> str:
    """(a) A training set of COCO's size against a step of a fast machine."""
    rows, stored = [], []
    few = root / "few"
    scale.make_set(few, "train2017", scale.TRAIN, size.stored)
    store = ["DATASET.DECODED_DIR", few / "store"]
    crops = round(scale.TRAIN["persons"] * size.stored) - 2 * BATCH
    made = run(part("feed", few, 0, crops, *store))  # each image is decoded when it is first asked for

    def row(title: str, workers: int, command: list[str]) -> Row:
        found = run(command)
        count = f"{found.parts.pop('crops'):,.0f} crops"
        return Row(f"{title}, {workers} loading process{'es' * (workers != 1)}", count, found, "crops/s")

    for workers in range(ALL_THREADS + 1):
        ours = row("JPEG", workers, part("feed", root, workers, size.loaded))
        plain = row("plain form, JPEG", workers, plain_part("feed", root, workers, size.loaded))
        rows += compared(ours, plain)
        decoded = row("`DATASET.DECODED_DIR`", workers, part("feed", few, workers, size.loaded, *store))
        stored += compared(decoded, plain)[:1]
    text = f"Decoding once: {made.wall:.0f} s for {size.stored:.0%} of the images in one process, once a data set."
    return f"{table('training crops, a step of 0.2 ms a crop', rows + stored)}\n\n{text}"


def testing(root: Path, size: Size, weights: Path) -> str:
    """(b) A test of val2017's 104,125 boxes."""
    few, boxes = make_boxes(root / "few", size.predicted), round(scale.VAL_BOXES * size.fraction)
    save_weights(root)
    of_all = f"all {boxes:,} boxes, s"

    def row(title: str, command: list[str], threads: int = THREADS, rest: Row | None = None) -> Row:
        """`rest` is the test without predicting, whose time is added to that of predicting all boxes."""
        found = run(command, threads=threads)
        whole = rest.found.wall + found.parts["a crop, ms"] / 1e3 * boxes if rest else found.wall
        count = f"{few if rest else boxes:,} boxes"
        return Row(title, count, replace(found, parts=found.parts | {of_all: whole}), of_all)

    recipe = RECIPES["tp_r_a4"], min(load_config(RECIPES["tp_r_a4"]).WORKERS, ALL_THREADS)
    rest = row("without predicting", part("test", root, ""))
    plain_rest = row("plain form", plain_part("test", root, *recipe, ""))
    rows = compared(rest, plain_rest)
    waits = [(f"forward pass of {wait} ms a crop", THREADS, wait, False) for wait in PASSES]
    itself = f"R-A4 itself, random weights, {ALL_THREADS} threads"
    networks = [(itself, ALL_THREADS, "network", False), (f"{itself}, flip test", ALL_THREADS, "network", True)]
    for title, threads, how, flip in (*waits, *networks):
        ours = part("test", root / "few", how, "TEST.FLIP_TEST", flip)
        plain = plain_part("test", root / "few", *recipe, how, *(["flip"] if flip else []))
        rows += compared(row(title, ours, threads, rest), row("plain form", plain, threads, plain_rest))
    return table("tools/test.py, no flip test unless named", rows)


def make_boxes(folder: Path, fraction: float) -> int:
    """A share of val2017 with its boxes, and weights; returns the number of boxes."""
    ids = scale.make_set(folder, "val2017", scale.VAL, fraction).ids
    boxes = round(scale.VAL_BOXES * fraction)
    synthetic.detections(folder / "boxes.json", ids, boxes=boxes)
    save_weights(folder)
    return boxes


def save_weights(folder: Path) -> None:
    """Any weights of R-A4, which a test asks for."""
    torch.save(build_model(load_config(RECIPES["tp_r_a4"])).state_dict(), folder / "weights.pth")


def analysing(root: Path, size: Size, weights: Path) -> str:
    """(f) tools/analyze.py on the results of such a test, on one core."""
    save_weights(root)
    run(part("test", root, ""))
    (results,) = (root / "output").rglob("keypoints_val2017_results_0.json")
    count = f"{len(json.loads(results.read_bytes())):,} results"
    how = ["--cfg", RECIPES["tp_r_a4"], "--results", results, "--worst", 0, "DATASET.ROOT", root]

    def ours(title: str, resamples: int) -> Row:
        command = tool("analyze", *how, "--bootstrap", resamples, "--out", root / f"analysis-{resamples}")
        return Row(title, count, run(command))

    truth = root / "annotations/person_keypoints_val2017.json"
    plain = run(plain_part("analyse", truth, results, 0))
    rows = compared(ours("no intervals", 0), Row("plain form, 18 APs only", count, replace(plain, parts={})))
    few = run(plain_part("analyse", truth, results, size.resamples))
    whole = replace(few, wall=plain.wall + few.parts["resamples, s"] / size.resamples * RESAMPLES)
    drawn = ours(f"{RESAMPLES:,} resamples", RESAMPLES)
    (drawn, _) = compared(drawn, Row("", "", whole))
    title = f"plain form, 18 APs only, {size.resamples} resample{'s' * (size.resamples > 1)}"
    rows += [drawn, Row(title, count, replace(few, parts={}))]
    computed = f"{RESAMPLES:,} resamples: {whole.wall:,.0f} s"
    text = f"Computed for the plain form with {computed}, which the last column compares."
    return f"{table('tools/analyze.py, no pictures', rows)}\n\n{text}"


def training(root: Path, size: Size, weights: Path) -> str:
    """(c) Training steps on this CPU."""
    rows = []
    sample = REPOSITORY / "data/coco_sample", "val2017", size.micro_batch, size.steps, "augmented"
    for name in TRAINED:
        count = f"{size.steps} steps of {size.micro_batch}"
        ours = run(part("train", root / "runs", name, size.micro_batch, size.steps))
        plain = run(plain_part("train", RECIPES[name], *sample))
        rows += compared(Row(name, count, ours, "step, s"), Row(f"plain form of {name}", count, plain, "step, s"))
    return table("training on the bundled sample", rows)


def precision(root: Path, size: Size, weights: Path) -> str:
    """(g) bfloat16 beside float32, where the CPU computes it, and what bounds the gain."""
    if computes_bfloat16(torch.device("cpu")):
        measured = in_both(root, size)
    else:
        seconds = [run(part("once", "tp_r_a4", how, size.micro_batch)).parts["s"] for how in BOTH]
        measured = (
            "This CPU does not compute bfloat16 (it has neither AMX nor AVX-512 BF16), so there is no gain to "
            f"measure. If it is chosen all the same, bfloat16 takes {seconds[1] / seconds[0]:.0f} times as long as "
            f"float32 for a forward pass of R-A4 with {size.micro_batch} crops."
        )
    trained = f"Not measured, {weights.name} is missing (`make demo` trains it)."
    return "\n\n".join([measured, bounds(size), forward.precision_table(weights) if weights.exists() else trained])


def in_both(root: Path, size: Size) -> str:
    """The time of a test and of training steps in both precisions, and the ratio."""
    boxes = make_boxes(root / "both", size.compared)
    rows = []

    def compare(title: str, figure: str, wanted: float, key: str, *how: Any) -> None:
        slow, fast = (run(part(*how, key, in_which)).parts[figure] for in_which in BOTH)
        times = (f"{number(seconds)}{unit(figure)}" for seconds in (slow, fast))
        rows.append([title, *times, f"{slow / fast:.2f}×", f"≥ {wanted:g}×"])

    test_of = "TEST.PRECISION", "test", root / "both", "network"
    compare(f"test of tp_r_a4, {boxes} boxes, a crop", "a crop, ms", WANTED["forward pass"], *test_of)
    for name in TRAINED:
        training_of = "TRAIN.PRECISION", "train", root / "runs", name, size.micro_batch, size.steps
        compare(f"training step of {name}", "step, s", WANTED["training step"], *training_of)
    return report.table(["", *BOTH, "ratio", "target"], rows)


def bounds(size: Size) -> str:
    """By Amdahl's law: the largest ratio, and how fast the kernels must become for the one that is wanted."""
    rows, gains = [], dict[str, float]()
    for what, names in (("forward pass", tuple(EARLIER)), ("training step", TRAINED)):
        for name in names:
            share = run(part("kernels", name, what, size.micro_batch)).parts["share"]
            if what == "forward pass":
                earlier = EARLIER[name][0] / EARLIER[name][1]
                gains[name] = gain(share, earlier)
                there = f"{earlier:.2f}×, kernels {gains[name]:.1f}×"
            else:
                there = f"{1 / (1 - share + share / gains[name]):.2f}× with these kernels (estimate)"
            needed = f"{gain(share, WANTED[what]):.1f}× for {WANTED[what]:g}×"
            rows.append([f"{what} of {name}", f"{share:.0%}", f"{1 / (1 - share):.1f}×", needed, there])
    return report.table(["", "share of kernels", "bound", "kernels needed", "Xeon with AMX, earlier"], rows)


def gain(share: float, ratio: float) -> float:
    """How many times as fast a `share` of the work must become for the whole to be `ratio` times as fast."""
    rest = 1 / ratio - (1 - share)
    return share / rest if rest > 0 else math.inf


def predicting(root: Path, size: Size, weights: Path) -> str:
    """(d) tools/predict.py on a folder and on a video, with demo.yaml's network."""
    if not weights.exists():
        return f"Not measured, {weights.name} is missing (`make demo` trains it)."
    files = sorted(report.IMAGES.iterdir())[: size.images]
    one, folder, film = root / "one", root / "folder", root / "film.mp4"
    for place, chosen in ((one, files[:1]), (folder, files)):
        place.mkdir()
        for file in chosen:
            (place / file.name).symlink_to(file)
    video.make(film, files, size.frames)
    how = ["--model", weights, "--cfg", DEMO]
    whole = [*how, "--detector", "whole-image"]
    boxes = REPOSITORY / "data/coco_sample/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    truth = REPOSITORY / "data/coco_sample/annotations/person_keypoints_val2017.json"
    detected = ["--boxes", boxes, "--annotations", truth, "--box-score", 0, "--save", "coco"]
    rows = []
    for title, images, source, options, extra in (
        ("one image, drawn", 1, one, whole, []),
        ("a folder, drawn", len(files), folder, whole, []),
        ("a folder, detected boxes, as COCO's JSON", len(files), folder, [*how, *detected], [boxes, truth]),
        ("a video, drawn", size.frames, film, whole, []),
    ):
        count = f"{images} {'frames' if source == film else 'images' if images > 1 else 'image'}"
        place = root / f"predicted-{len(rows)}"
        ours = run(part("predict", images, source, *options, "--out", place / "ours"))
        plain = run(plain_part("predict", images, source, DEMO, weights, place / "plain", *extra))
        rows += compared(Row(title, count, ours), Row("plain form", count, plain))
    return table("tools/predict.py, demo.yaml's network", rows)


def starting(root: Path, size: Size, weights: Path) -> str:
    """(e) From the start of a command to its first output."""
    training_of = ["--cfg", RECIPES["tp_r_a4"], "--modelDir", root / "first", "--logDir", root / "first"]
    sets = ["DATASET.ROOT", root, "TEST.COCO_BBOX_FILE", root / "boxes.json", "MODEL.INIT_WEIGHTS", "False"]
    small = ["GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", 1, "PRINT_FREQ", 1, "WORKERS", 1, "AUTO_RESUME", "False"]
    demo = ["--cfg", DEMO, "--modelDir", root / "demo", "--logDir", root / "demo", "PRINT_FREQ", 1]
    rows = []
    for title, ours, plain, until in (
        ("train.py --help", tool("train", "--help"), [sys.executable, "-c", PLAIN_HELP], ""),
        (
            "train.py, demo.yaml, to its first step",
            tool("train", *demo),
            plain_part("train", DEMO, REPOSITORY / "data/coco_sample", "val2017", 4, 2),
            "step 1/",
        ),
        (
            "train.py, R-A4 on a set of COCO's size, to its first step",
            tool("train", *training_of, *sets, *small),
            plain_part("train", RECIPES["tp_r_a4"], root, "train2017", 1, 2, "augmented"),
            "step 1/",
        ),
    ):
        rows += compared(Row(title, "", run(ours, until)), Row("plain form", "", run(plain, until)))
    return table("start to first output", rows)


def unit(name: str) -> str:
    return f" {name.split(', ')[1]}" if ", " in name else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(title: str, rows: list[Row]) -> str:
    parts = list(dict.fromkeys(name for row in rows for name in row.found.parts))
    head = [title, "", "elapsed", "CPU time", "memory", *(name.split(", ")[0] for name in parts)]
    lines = []
    for row in rows:
        found = row.found
        own = [number(found.parts[name]) + unit(name) if name in found.parts else "" for name in parts]
        times = "" if row.faster is None else f"{row.faster:.2f}×"
        basic = f"{found.wall:.1f} s", f"{found.cpu:.1f} s", f"{found.peak:,.0f} MB" if found.peak else ""
        lines.append([row.title, row.count, *basic, *own, times])
    return report.table([*head, "times as fast as the plain form"], lines)


JOBS: dict[str, Callable[[Path, Size, Path], str]] = {
    "feeding": feeding,
    "testing": testing,
    "analysing": analysing,
    "training": training,
    "precision": precision,
    "predicting": predicting,
    "starting": starting,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure whole jobs, from start to end.")
    parser.add_argument("--job", nargs="+", choices=JOBS, default=list(JOBS), help="only these")
    parser.add_argument("--weights", type=Path, default=forward.WEIGHTS, metavar="FILE", help="of demo.yaml, trained")
    parser.add_argument("--smallest", action="store_true", help="at the smallest size: does everything run?")
    parser.add_argument("--write", action="store_true", help="put the results into docs/benchmarks.md")
    arguments = parser.parse_args()
    size = SMALLEST if arguments.smallest else FULL
    with tempfile.TemporaryDirectory() as folder:
        scale.make(Path(folder), size.fraction)
        for job in arguments.job:
            text = f"{report.surroundings(THREADS)}\n\n{JOBS[job](Path(folder), size, arguments.weights)}"
            print(f"{text}\n", flush=True)
            if arguments.write:
                report.write_section(f"jobs-{job}", text)


if __name__ == "__main__":
    main()
