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

PASSES = (5, 28)  # milliseconds a crop of a forward pass: a light network; R-A4, bfloat16, OpenVINO, a CPU with AMX
THREADS = 1  # of PyTorch, in each process
CORES = os.cpu_count() or 1  # as many threads, and loading processes at most, a command takes by itself
RESAMPLES = 1_000
TRAINED = ("tp_r_a4", "tp_h_s")
BOTH = ("float32", "bfloat16")
# Milliseconds a crop of a forward pass in float32 and bfloat16, on an Intel Xeon with AMX, by an earlier version.
EARLIER = {"tp_r_a4": (109, 40), "tp_h_s": (165, 75), "tp_h_a6": (327, 128)}
WANTED = {"forward pass": 2.0, "training step": 1.5}


@dataclass(frozen=True)
class Size:
    """Share of COCO's sets; share of the training images that are decoded once (all are 52 GB), and of val2017's boxes
    that go through the network, and through it twice: by the flip test, or in two precisions; crops that a loader
    delivers, and that a step trains on; steps; frames of the video; images that are predicted; resamples of the plain
    analysis; runs of jobs that take less than a minute."""

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
    runs: int = 3


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
    runs=1,
)


@dataclass(frozen=True)
class Row:
    """A line of a job's table: how much was done in how long. `figure` is what is compared with the plain form, a part
    by name or the elapsed time; `ratio` is how many times as fast it is, where there is a plain form."""

    title: str
    count: str
    found: Measured
    figure: str = ""
    ratio: float | None = None

    def value(self) -> float:
        return self.found.parts[self.figure] if self.figure else self.found.wall


Command = list[str]


def compared(ours: Row, plain: Row) -> list[Row]:
    """Both; ours with the ratio."""
    ratio = plain.value() / ours.value()
    return [replace(ours, ratio=1 / ratio if ours.figure.endswith("/s") else ratio), plain]


def in_turn(
    runs: int,
    title: str,
    count: str,
    ours: Callable[[int], Command],
    plain: Callable[[int], Command],
    figure: str = "",
    until: str = "",
) -> list[Row]:
    """Both forms several times in turn, each run by its number; of each the run with the median figure."""
    both = []
    for number in range(runs):
        both.append([Row(title, count, run(ours(number), until), figure)])
        both[-1].append(Row("plain form", count, run(plain(number), until), figure))
    return compared(*(sorted(column, key=Row.value)[runs // 2] for column in zip(*both, strict=True)))


def python(*arguments: Any) -> Command:
    return [sys.executable, *map(str, arguments)]


def part(name: str, *arguments: Any) -> Command:
    return python("-m", "benchmarks.job_parts", name, *arguments)


def plain_part(name: str, *arguments: Any) -> Command:
    return python("-m", "benchmarks.plain_jobs", name, *arguments)


def tool(name: str, *arguments: Any) -> Command:
    return python(f"tools/{name}.py", *arguments)


# The jobs, by the part of the page


def feeding(root: Path, size: Size, weights: Path) -> str:
    """A training set of COCO's size against a step of a fast machine."""
    rows, stored = [], []
    small = root / "decoded"
    scale.make_set(small, "train2017", scale.TRAIN, size.stored)
    store = ["DATASET.DECODED_DIR", small / "store"]
    crops = round(scale.TRAIN["persons"] * size.stored) - 2 * BATCH
    made = run(part("feed", small, 0, crops, *store))  # each image is decoded when it is first asked for

    def row(title: str, workers: int, command: Command) -> Row:
        found = run(command)
        count = f"{found.parts['crops']:,.0f} crops"
        parts = {name: value for name, value in found.parts.items() if name != "crops"}
        title = f"{title}, {workers} loading process{'es' * (workers != 1)}"
        return Row(title, count, replace(found, parts=parts), "crops/s")

    for workers in range(CORES + 1):
        ours = row("JPEG", workers, part("feed", root, workers, size.loaded))
        plain = row("plain form, JPEG", workers, plain_part("feed", root, RECIPES["tp_r_a4"], workers, size.loaded))
        rows += compared(ours, plain)
        decoded = row("`DATASET.DECODED_DIR`", workers, part("feed", small, workers, size.loaded, *store))
        stored += compared(decoded, plain)[:1]
    share = f"{100 * size.stored:g} % of the images"
    text = f"A first pass over {share}, which decodes and stores each, took {made.wall:.0f} s with no loading process."
    return f"{table('training crops, a step of 0.2 ms a crop', rows + stored)}\n\n{text}"


def tested(threads: int = THREADS) -> Callable[..., Row]:
    """A function that measures a test of a folder's boxes, ours or plain: with a "network", so many milliseconds of a
    wait, or made-up predictions in place of both."""
    recipe = RECIPES["tp_r_a4"], min(load_config(RECIPES["tp_r_a4"]).WORKERS, CORES)

    def row(title: str, count: int, folder: Path, how: Any, *, flip: bool = False, plain: bool = False) -> Row:
        ours = part("test", folder, how, "TEST.FLIP_TEST", flip)
        theirs = plain_part("test", folder, *recipe, how, *(["flip"] if flip else []))
        return Row(title, f"{count:,} boxes", run(theirs if plain else ours, threads=threads))

    return row


def scaled(row: Row, boxes: int, rest: Row | None = None) -> Row:
    """With the time for so many `boxes`: that of predicting a crop, times all, and that of the `rest` of the test."""
    seconds = row.found.parts["a crop, ms"] / 1e3 * boxes + (rest.found.wall if rest else 0)
    figure = f"{boxes:,} boxes, s"
    return replace(row, found=replace(row.found, parts=row.found.parts | {figure: seconds}), figure=figure)


def testing(root: Path, size: Size, weights: Path) -> str:
    """A test of val2017's 104,125 boxes, with a wait in place of the network."""
    small, boxes = root / "waits", boxes_of(size)
    few = make_boxes(small, size.predicted)
    save_weights(root)
    row = tested()
    rest, plain_rest = row("no network", boxes, root, ""), row("plain form", boxes, root, "", plain=True)
    rows = compared(rest, plain_rest)
    for wait in PASSES:
        title = f"forward pass of {wait} ms a crop"
        plain = row("plain form", few, small, wait, plain=True)
        rows += compared(scaled(row(title, few, small, wait), boxes, rest), scaled(plain, boxes, plain_rest))
    rows.append(row(f"forward pass of {PASSES[0]} ms a crop", boxes, root, PASSES[0]))
    return table("tools/test.py, no flip test", rows)


def network(root: Path, size: Size, weights: Path) -> str:
    """A test with R-A4 itself, on all cores."""
    row, rows = tested(threads=CORES), []
    for title, share, flip in (("no flip test", size.predicted, False), ("flip test", size.compared, True)):
        folder = root / title
        count = make_boxes(folder, share)
        ours, plain = (row(title, count, folder, "network", flip=flip, plain=plain) for plain in (False, True))
        plain = replace(plain, title="plain form")
        rows += compared(scaled(ours, boxes_of(size)), scaled(plain, boxes_of(size)))
    return table(f"tools/test.py with R-A4, random weights, {CORES} threads", rows)


def boxes_of(size: Size) -> int:
    return round(scale.VAL_BOXES * size.fraction)


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
    """tools/analyze.py on the results of a test of all boxes."""
    save_weights(root)
    run(part("test", root, ""))
    (results,) = (root / "output").rglob("keypoints_val2017_results_0.json")
    count = f"{len(json.loads(results.read_bytes())):,} results"
    how = ["--cfg", RECIPES["tp_r_a4"], "--results", results, "--worst", 0, "DATASET.ROOT", root]

    def ours(title: str, resamples: int) -> Row:
        command = tool("analyze", *how, "--bootstrap", resamples, "--out", root / f"analysis-{resamples}")
        return Row(title, count, run(command))

    def plain(title: str, resamples: int) -> Row:
        truth = root / "annotations/person_keypoints_val2017.json"
        return Row(f"plain form, 18 APs only{title}", count, run(plain_part("analyse", truth, results, resamples)))

    none, few = plain("", 0), plain(f", {size.resamples} resample{'s' * (size.resamples > 1)}", size.resamples)
    resampling = few.found.parts["resamples, s"] / size.resamples * RESAMPLES
    all_of_them = replace(none, found=replace(none.found, wall=none.found.wall + resampling))
    (drawn, _) = compared(ours(f"{RESAMPLES:,} resamples", RESAMPLES), all_of_them)
    # Ours has no parts to show beside the plain form's.
    rows = [*compared(ours("no intervals", 0), none), drawn, few]
    rows = [replace(row, found=replace(row.found, parts={})) for row in rows]
    computed = f"{RESAMPLES:,} resamples: {all_of_them.value():,.0f} s"
    text = f"Computed for the plain form with {computed}, which the last column compares."
    return f"{table('tools/analyze.py, no pictures', rows)}\n\n{text}"


def training(root: Path, size: Size, weights: Path) -> str:
    """Training steps on this CPU."""
    rows = []
    for name in TRAINED:
        ours = part("train", root / "runs", name, size.micro_batch, size.steps)
        data = REPOSITORY / "data/coco_sample", "val2017", 1  # loading process
        plain = plain_part("train", RECIPES[name], *data, size.micro_batch, size.steps, "augmented")
        count = f"{size.steps} steps of {size.micro_batch}"
        rows += in_turn(size.runs, name, count, lambda _, ours=ours: ours, lambda _, plain=plain: plain, "step, s")
    return table("training on the bundled sample", rows)


def precision(root: Path, size: Size, weights: Path) -> str:
    """bfloat16 beside float32, where the CPU computes it, and what bounds the gain."""
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
    """tools/predict.py on a folder and on a video, with demo.yaml's network."""
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

    def add(title: str, count: str, source: Path, options: list[Any], *given: Path) -> None:
        number, out = int(count.split()[0]), root / f"predicted-{len(rows)}"
        rows.extend(
            in_turn(
                size.runs,
                title,
                count,
                lambda run: part("predict", number, source, *options, "--out", out / f"ours-{run}"),
                lambda run: plain_part("predict", number, source, DEMO, weights, out / f"plain-{run}", *given),
            )
        )

    add("one image, drawn", "1 image", one, whole)
    add("a folder, drawn", f"{len(files)} images", folder, whole)
    add("a folder, detected boxes, as COCO's JSON", f"{len(files)} images", folder, [*how, *detected], boxes, truth)
    add("a video, drawn", f"{size.frames} frames", film, whole)
    return table("tools/predict.py, demo.yaml's network", rows)


def starting(root: Path, size: Size, weights: Path) -> str:
    """From the start of a command to its first output."""
    recipe = RECIPES["tp_r_a4"]
    sets = ["DATASET.ROOT", root, "TEST.COCO_BBOX_FILE", root / "boxes.json", "MODEL.INIT_WEIGHTS", "False"]
    small = ["GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", 1, "PRINT_FREQ", 1, "WORKERS", 1, "AUTO_RESUME", "False"]

    def trained(cfg: Path, run: int, *options: Any) -> Command:
        out = root / f"{cfg.stem}-{run}"
        return tool("train", "--cfg", cfg, "--modelDir", out, "--logDir", out, *options)

    demo = plain_part("train", DEMO, REPOSITORY / "data/coco_sample", "val2017", 0, 4, 2)
    whole = plain_part("train", recipe, root, "train2017", 1, 1, 2, "augmented")
    imports = Row('python -c "import torch, torchvision"', "", run(python("-c", "import torch, torchvision")))
    rows = [
        imports,
        *in_turn(
            size.runs, "train.py --help", "", lambda _: tool("train", "--help"), lambda _: python("-c", PLAIN_HELP)
        ),
        *in_turn(
            size.runs,
            "train.py, demo.yaml, to its first step",
            "",
            lambda run: trained(DEMO, run, "PRINT_FREQ", 1),
            lambda _: demo,
            until="step 1/",
        ),
        *in_turn(
            size.runs,
            "train.py, R-A4 on a set of COCO's size, to its first step",
            "",
            lambda run: trained(recipe, run, *sets, *small),
            lambda _: whole,
            until="step 1/",
        ),
    ]
    return table("start to first output", rows)


def unit(name: str) -> str:
    return f" {name.split(', ')[1]}" if ", " in name else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(title: str, rows: list[Row]) -> str:
    """A column for each part, and for the count where there is one."""
    parts = list(dict.fromkeys(name for row in rows for name in row.found.parts))
    counted = any(row.count for row in rows)
    lines = []
    for row in rows:
        found = row.found
        own = [number(found.parts[name]) + unit(name) if name in found.parts else "" for name in parts]
        times = "" if row.ratio is None else f"{row.ratio:.2f}×" if row.ratio < 10 else f"{row.ratio:.0f}×"
        wall = f"{found.wall:.1f} s" if found.wall >= 1 else f"{1e3 * found.wall:.0f} ms"
        basic = wall, f"{found.cpu:.1f} s", f"{found.peak:,.0f} MB" if found.peak else ""
        lines.append([row.title, *([row.count] * counted), *basic, *own, times])
    head = [title, *(["amount"] * counted), "elapsed", "CPU time", "memory", *(name.split(", ")[0] for name in parts)]
    return report.table([*head, "times as fast as the plain form"], lines)


JOBS: dict[str, Callable[[Path, Size, Path], str]] = {
    "feeding": feeding,
    "testing": testing,
    "network": network,
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
