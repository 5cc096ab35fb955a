"""What a user waits for, from end to end: python -m benchmarks.jobs [--write], with PYTHONPATH=tools, or `make
bench-jobs`.

Each job is a process of its own, watched from outside: elapsed time, CPU time, and the most memory that it and
its loading processes take together (proportional set size). Where a CPU's network would hide everything else,
a wait stands in its place, as long as a fast machine's.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import psutil
import torch
from torch import Tensor

from benchmarks import forward, report, scale, synthetic, video
from benchmarks.data_stages import gaussians
from benchmarks.forward import DEMO, RECIPES, REPOSITORY
from transpose.build.data import build_training_data
from transpose.build.model import build_model
from transpose.build.run import build_trainer
from transpose.commands import test
from transpose.config.load import load_config
from transpose.core.loss import mse
from transpose.core.train import train_epoch
from transpose.errors import UserError
from transpose.evaluation.evaluate import CocoEvaluation
from transpose.models.backends import Backend, computes_bfloat16

STEP = 1 / 5_000  # seconds a crop that a fast machine's training step takes
PASSES = (5, 28)  # milliseconds a crop of a forward pass: a light network, R-A4 in bfloat16 on a CPU with AMX
BATCH = 20
THREADS = 1  # of PyTorch, in each process
ALL_THREADS = os.cpu_count() or 1  # what a command takes by itself
MB = 1e6
RESAMPLES = 1_000
TRAINED = ("tp_r_a4", "tp_h_s")
BOTH = ("float32", "bfloat16")
# PyTorch's operations that bfloat16 makes faster.
KERNELS = re.compile(r"conv|scaled_dot_product|aten::(add|b|badd)?(mm|bmm)_?$")
# Milliseconds a crop of a forward pass in float32 and bfloat16, on an Intel Xeon with AMX, by an earlier version.
EARLIER = {"tp_r_a4": (109, 40), "tp_h_s": (165, 75), "tp_h_a6": (327, 128)}
WANTED = {"forward pass": 2.0, "training step": 1.5}
LOOKS = 0.1  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Size:
    """Share of COCO's sets; share of the training images that are decoded once (all are 52 GB), and of val2017's boxes
    that go through the network, and through it twice: by the flip test, or in two precisions; crops that a loader
    delivers, and that a step trains on; steps; frames of the video; images that are predicted."""

    fraction: float = 1.0
    stored: float = 0.05
    predicted: float = 0.02
    compared: float = 0.001
    loaded: int = 2_000
    micro_batch: int = 4
    steps: int = 6
    frames: int = 96
    images: int = 32


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
)


@dataclass(frozen=True)
class Measured:
    """Seconds, MB, and the seconds or rates of the parts by name."""

    wall: float
    cpu: float
    peak: float
    parts: dict[str, float] = field(default_factory=dict)


def run(command: list[str], until: str = "", threads: int = THREADS) -> Measured:
    """Run a command to its end, or until it prints `until`."""
    own = {"PYTHONPATH": str(REPOSITORY / "tools"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as said:
        start, peak = time.perf_counter(), 0.0
        process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | own, stdout=said, stderr=subprocess.STDOUT)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if not pid and until and until in output(said):
                process.terminate()
                pid, _, used = os.wait4(process.pid, 0)
                status = 0
            if pid:
                break
            peak = max(peak, memory(psutil.Process(process.pid)))
            time.sleep(LOOKS)
        process.returncode = os.waitstatus_to_exitcode(status)
        lines = output(said).splitlines()
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {' '.join(lines[-3:])}")
    parts = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    found = Measured(wall, used.ru_utime + used.ru_stime, peak, parts)
    print(" ".join(command[1:]), found, file=sys.stderr, flush=True)
    return found


def output(file: Any) -> str:
    file.seek(0)
    return file.read()


def memory(process: psutil.Process) -> float:
    """MB of a process and its children; what they share counts once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
    return total / MB


# Parts: what runs in a process of its own and prints its figures


def feed(root: str, workers: str, samples: str, *overrides: str) -> dict[str, float]:
    """The training set's loader against a step that waits."""
    own = ["WORKERS", workers, "GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", str(BATCH)]
    start = time.perf_counter()
    loader, _ = build_training_data(scale.settings(Path(root), *own, *overrides))
    built = time.perf_counter()
    batches, loaded, waited = iter(loader), 0, 0.0
    warm = len(next(batches)["index"])
    first = time.perf_counter()
    while loaded < int(samples):
        asked = time.perf_counter()
        count = len(next(batches)["index"])
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


def wait_for(milliseconds: float) -> Callable[..., Callable[[Tensor], Tensor]]:
    """In place of a network: heatmaps with peaks, after a wait."""
    maps = gaussians(64, noise=0.003)

    def forward(images: Tensor) -> Tensor:
        time.sleep(len(images) * milliseconds / 1e3)
        return maps[: len(images)]

    return lambda *_: forward


def test_command(root: str, forward: str, *overrides: str) -> dict[str, float]:
    """tools/test.py on detected boxes with the "network", or with so many milliseconds of a wait in its place. Without
    either the predictions are made up, so that what is left is reading, OKS-NMS, the results file and AP."""
    folder, seconds, done = Path(root), dict[str, float](), list[tuple[float, int]]()
    whole = CocoEvaluation.predict

    def watched(self: CocoEvaluation, model: Any) -> Any:
        return whole(self, model, lambda batch, *_: done.append((time.perf_counter(), len(batch["index"]))))

    def made_up(self: CocoEvaluation, *_: Any) -> Any:
        return synthetic.predictions(self.crops.instances, self.crops.center, self.crops.scale)

    CocoEvaluation.predict = watched if forward else made_up  # type: ignore[assignment,method-assign]
    if forward not in ("", "network"):
        Backend.__call__ = wait_for(float(forward))  # type: ignore[method-assign]
    for method in ("predict", "evaluate"):
        setattr(CocoEvaluation, method, timed(getattr(CocoEvaluation, method), f"{method}, s", seconds))

    import transpose.build.evaluation as built

    built.build_evaluation = timed(built.build_evaluation, "read, s", seconds)
    options = ["TEST.USE_GT_BBOX", "False", "TEST.FLIP_TEST", "False", "TEST.MODEL_FILE", str(folder / "weights.pth")]
    sets = ["DATASET.ROOT", root, "TEST.COCO_BBOX_FILE", str(folder / "boxes.json"), *overrides]
    test.main(["--cfg", str(RECIPES["tp_r_a4"]), "--modelDir", str(folder / "output"), *options, *sets])
    if done:  # without the first batch, which waits for the loading processes to start, whatever the number of boxes
        (first, _), *_, (last, _) = done
        seconds["a crop, ms"] = 1e3 * (last - first) / sum(count for _, count in done[1:])
    return seconds


def timed(call: Callable, name: str, seconds: dict[str, float]) -> Callable:
    """The same function; how long it takes is added to `seconds`."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - start

    return wrapped


def train(root: str, recipe: str, micro_batch: str, steps: str, *overrides: str) -> dict[str, float]:
    """Training steps of a recipe on the bundled sample, as the trainer takes them."""
    sample = [
        *("DATASET.ROOT", str(REPOSITORY / "data/coco_sample"), "DATASET.TRAIN_SET", "val2017", "GPUS", "(0,)"),
        *("TRAIN.BATCH_SIZE_PER_GPU", micro_batch, "MODEL.INIT_WEIGHTS", "False", "WORKERS", "1"),
        *overrides,
    ]
    cfg = load_config(RECIPES[recipe], sample, output_dir=root)
    trainer = build_trainer(cfg, recipe, Path(root), torch.device("cpu"))
    fixed = trainer.model, trainer.loader, trainer.plan, trainer.targets, trainer.criterion
    taken = train_epoch(*fixed, trainer.optimizer, trainer.scaler, trainer.options, 0)
    next(taken)
    start = time.perf_counter()
    for _ in range(int(steps)):
        next(taken)
    seconds = (time.perf_counter() - start) / int(steps)
    return {"step, s": seconds, "steps/s": 1 / seconds, "crops/s": int(micro_batch) / seconds}


def work(recipe: str, what: str, precision: str, batch: int) -> Callable[[], Tensor]:
    """A forward pass as in a test, or a training step, of a recipe's network with random weights."""
    network = forward.model_of(recipe)
    if what == "training step":
        return forward.step_of(network, mse, batch, torch.float32)
    images, how = forward.images_of(batch), Backend(precision)(network)
    return torch.inference_mode()(lambda: how(images))


def once(recipe: str, precision: str, batch: str) -> dict[str, float]:
    """A forward pass after a first one."""
    call = work(recipe, "forward pass", precision, int(batch))
    call()
    start = time.perf_counter()
    call()
    return {"s": time.perf_counter() - start}


def kernels(recipe: str, what: str, batch: str) -> dict[str, float]:
    """The share of float32's time in operations that bfloat16 makes faster."""
    call = work(recipe, what, "float32", int(batch))
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        call()
    spent = {entry.key: entry.self_cpu_time_total for entry in profiler.key_averages()}
    return {"share": sum(spent[name] for name in spent if KERNELS.search(name)) / sum(spent.values())}


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "feed": feed,
    "test": test_command,
    "train": train,
    "once": once,
    "kernels": kernels,
}


def part(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, "-m", "benchmarks.jobs", "--part", name, *map(str, arguments)]


def tool(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, f"tools/{name}.py", *map(str, arguments)]


# The jobs, by the part of the page


def feeding(root: Path, size: Size, weights: Path) -> str:
    """(a) A training set of COCO's size against a step of a fast machine."""
    rows = []
    few = root / "few"
    scale.make_set(few, "train2017", scale.TRAIN, size.stored)
    store = ["DATASET.DECODED_DIR", few / "store"]
    crops = round(scale.TRAIN["persons"] * size.stored) - 2 * BATCH
    made = run(part("feed", few, 0, crops, *store))  # each image is decoded when it is first asked for
    for title, place, options in (("JPEG", root, []), ("`DATASET.DECODED_DIR`", few, store)):
        for workers in range(os.cpu_count() + 1):  # type: ignore[operator]
            found = run(part("feed", place, workers, size.loaded, *options))
            name = f"{title}, {workers} loading processes"
            rows.append(row(name, found, count=f"{found.parts['crops']:.0f} crops"))
    text = f"Decoding once: {made.wall:.0f} s for {size.stored:.0%} of the images in one process, once a data set."
    return f"{table('training crops, a step of 0.2 ms a crop', rows)}\n\n{text}"


def testing(root: Path, size: Size, weights: Path) -> str:
    """(b) A test of val2017's 104,125 boxes."""
    count = {"few": make_boxes(root / "few", size.predicted), "fewer": make_boxes(root / "fewer", size.compared)}
    save_weights(root)
    all_boxes = round(scale.VAL_BOXES * size.fraction)
    rest = run(part("test", root, ""))
    rows = [row("without predicting", rest, count=f"{all_boxes:,} boxes")]
    whole = []

    def predict(title: str, threads: int, name: str, *how: Any, known: str = "") -> None:
        found = run(part("test", root / name, *how), threads=threads)
        rows.append(row(title, found, count=f"{count[name]:,} boxes"))
        seconds = rest.wall + found.parts["a crop, ms"] / 1e3 * all_boxes
        whole.append(f"{title}: {seconds:,.0f} s{known}")

    for wait in PASSES:
        known = f", {wait * all_boxes / 1e3:,.0f} s of them for the passes"
        predict(f"forward pass of {wait} ms a crop", THREADS, "few", wait, known=known)
    itself = f"R-A4 itself, random weights, {ALL_THREADS} threads"
    predict(itself, ALL_THREADS, "few", "network")
    predict(f"{itself}, flip test", ALL_THREADS, "fewer", "network", "TEST.FLIP_TEST", True)
    computed = f"Computed from these for {all_boxes:,} boxes: {'; '.join(whole)}."
    return f"{table('tools/test.py, no flip test unless named', rows)}\n\n{computed}"


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
    rows = []
    for resamples in (0, RESAMPLES):
        own = ["--bootstrap", resamples, "--out", root / f"analysis-{resamples}"]
        title = f"{resamples:,} resamples" if resamples else "no intervals"
        rows.append(row(title, run(tool("analyze", *how, *own)), count))
    return table("tools/analyze.py, no pictures", rows)


def training(root: Path, size: Size, weights: Path) -> str:
    """(c) Training steps on this CPU."""
    found = {name: run(part("train", root / "runs", name, size.micro_batch, size.steps)) for name in TRAINED}
    rows = [row(name, it, count=f"{size.steps} steps of {size.micro_batch}") for name, it in found.items()]
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
    folder = root / "folder"
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    make_video(root / "film.mp4", folder, size.frames)
    how = ["--model", weights, "--cfg", DEMO]
    whole = [*how, "--detector", "whole-image"]
    boxes = REPOSITORY / "data/coco_sample/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    truth = REPOSITORY / "data/coco_sample/annotations/person_keypoints_val2017.json"
    detected = ["--boxes", boxes, "--annotations", truth, "--box-score", 0, "--save", "coco"]
    rows = [
        row("one image, drawn", run(tool("predict", files[0], *whole, "--out", root / "one"))),
        row("a folder, drawn", run(tool("predict", folder, *whole, "--out", root / "a")), f"{len(files)} images"),
        row(
            "a folder, detected boxes, as COCO's JSON",
            run(tool("predict", folder, *how, *detected, "--out", root / "b")),
            f"{len(files)} images",
        ),
        row(
            "a video, drawn",
            run(tool("predict", root / "film.mp4", *whole, "--out", root / "c")),
            f"{size.frames} frames",
        ),
    ]
    return table("tools/predict.py, demo.yaml's network", rows)


def make_video(path: Path, folder: Path, frames: int) -> None:
    """Images of a folder, one after the other, as frames of one size."""
    pictures = [cv2.resize(cv2.imread(str(file)), (640, 480)) for file in sorted(folder.iterdir())]
    video.write(path, [pictures[frame % len(pictures)] for frame in range(frames)])


def starting(root: Path, size: Size, weights: Path) -> str:
    """(e) From the start of a command to its first output."""
    training_of = ["--cfg", RECIPES["tp_r_a4"], "--modelDir", root / "first", "--logDir", root / "first"]
    sets = ["DATASET.ROOT", root, "TEST.COCO_BBOX_FILE", root / "boxes.json", "MODEL.INIT_WEIGHTS", "False"]
    small = ["GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", 1, "PRINT_FREQ", 1, "WORKERS", 1, "AUTO_RESUME", "False"]
    first = run(tool("train", *training_of, *sets, *small), until="step 1/")
    demo = ["--cfg", DEMO, "--modelDir", root / "demo", "--logDir", root / "demo"]
    rows = [
        row("train.py --help", run(tool("train", "--help"))),
        row("train.py, demo.yaml, to its first step", run(tool("train", *demo, "PRINT_FREQ", 1), until="step 1/")),
        row("train.py, R-A4 on a set of COCO's size, to its first step", first),
    ]
    return table("start to first output", rows)


def row(title: str, found: Measured, count: str = "") -> list[str]:
    parts = ", ".join(f"{name.split(',')[0]} {number(value)}{unit(name)}" for name, value in found.parts.items())
    return [title, count, f"{found.wall:.1f} s", f"{found.cpu:.1f} s", f"{found.peak:,.0f} MB", parts]


def unit(name: str) -> str:
    return f" {name.split(', ')[1]}" if ", " in name else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(title: str, rows: list[list[str]]) -> str:
    return report.table([title, "", "elapsed", "CPU time", "memory", "parts"], rows)


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
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *given = arguments.part
        print(json.dumps(PARTS[name](*given)))
        return
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
