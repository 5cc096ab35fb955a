"""Training and evaluation in turn for minutes: python -m benchmarks.soak [--minutes 10], or `make soak`.

Runs tools/train.py on the bundled images with loading processes, each epoch validated, and looks on from outside:
memory (resident) and open files of the process and of its loading processes, once a second. Exit code 1 if they grow.

The rule: after a warm-up (the first fifth), a straight line is laid through each number by least squares. The number
is flat if over the rest of the run the line rises by less than 1 % of the mean, or by less than three of its standard
errors, which is no rise that can be told from the coming and going of batches and processes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from benchmarks import report

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "experiments/coco_sample/demo.yaml"
OPTIONS = (
    "AUTO_RESUME False WORKERS 2 PRINT_FREQ 1000000 DATASET.CACHE_MB 0 DATASET.SCALE_FACTOR 0.35 DATASET.ROT_FACTOR 45 "
    "DATASET.FLIP True TRAIN.END_EPOCH 1000000 TRAIN.VALIDATE_EVERY 1 TEST.FLIP_TEST True"
).split()
EVERY = 1.0  # seconds between two looks
WARM_UP = 0.2  # of the run
RISE = 0.01  # of the mean, over the rest of the run
ERRORS = 3  # standard errors
MB = 1e6


def look(process: psutil.Process) -> dict[str, float]:
    """Memory in MB and open files of a process, and the most that any of its children has of either."""
    numbers = {"memory, MB": process.memory_info().rss / MB, "open files": process.num_fds()}
    children = process.children()
    numbers["loading processes"] = len(children)
    numbers["memory of the largest, MB"] = _most(children, lambda child: child.memory_info().rss / MB)
    numbers["open files of the one with most"] = _most(children, psutil.Process.num_fds)
    return numbers


def _most(children: list[psutil.Process], measure: Callable[[psutil.Process], float]) -> float:
    values = [np.nan]
    for child in children:
        try:
            values.append(measure(child))
        except psutil.NoSuchProcess:  # between two epochs of evaluation
            continue
    return float(np.nanmax(values)) if len(values) > 1 else np.nan


def line(seconds: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """What a straight line through the values (N) rises by, and that number's standard error."""
    slope, offset = np.polyfit(seconds, values, 1)
    spread = np.std(values - slope * seconds - offset, ddof=2)
    length = seconds[-1] - seconds[0]
    return float(slope * length), float(spread * length / (seconds.std() * len(seconds) ** 0.5))


def judge(seconds: np.ndarray, columns: dict[str, np.ndarray]) -> tuple[list[list[str]], bool]:
    """A row for each number, and whether all of them are flat."""
    rows, flat = [], True
    for name, values in columns.items():
        kept = np.isfinite(values) & (seconds >= WARM_UP * seconds[-1])
        rest = values[kept]
        rise, error = line(seconds[kept], rest)
        holds = rise < max(RISE * rest.mean(), ERRORS * error)
        flat &= holds
        numbers = [f"{value:,.1f}" for value in (rest[0], rest.mean(), rest.max(), rest[-1])]
        rows.append([name, *numbers, f"{rise:+.2f} ± {error:.2f}", "flat" if holds else "GROWS"])
    return rows, flat


def watch(minutes: float, folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """Seconds (N), numbers (N) of each kind, and the epochs that were trained and validated."""
    output = folder / "stdout"
    arguments = ["--cfg", str(DEMO), "--modelDir", str(folder / "output"), "--logDir", str(folder / "log"), *OPTIONS]
    looks, began = [], None
    with output.open("w") as file:
        command = [sys.executable, str(REPOSITORY / "tools/train.py"), *arguments]
        run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            process = psutil.Process(run.pid)
            while began is None or time.monotonic() - began < 60 * minutes:
                time.sleep(EVERY)
                if run.poll() is not None:
                    sys.exit(f"tools/train.py ended with {run.returncode}:\n{output.read_text()[-2000:]}")
                if began is None and "epoch 1 on" in output.read_text():
                    began = time.monotonic()
                if began is not None:
                    looks.append((time.monotonic() - began, look(process)))
        finally:
            run.kill()
            run.wait()
    columns = {name: np.array([numbers[name] for _, numbers in looks]) for name in looks[0][1]}
    return np.array([seconds for seconds, _ in looks]), columns, output.read_text().count(" on val2017\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and evaluate for minutes and see whether memory stays flat.")
    parser.add_argument("--minutes", type=float, default=10, metavar="M", help="to look on (%(default)s)")
    minutes = parser.parse_args().minutes
    if not minutes >= 0.2:
        parser.error("--minutes must be 0.2 or more")
    with tempfile.TemporaryDirectory() as folder:
        seconds, columns, epochs = watch(minutes, Path(folder))
    rows, flat = judge(seconds, columns)
    head = ["after the warm-up", "first", "mean", "maximum", "last", "rise of the line", ""]
    print(f"{report.surroundings()}\n\n{seconds[-1] / 60:.1f} minutes, {epochs} epochs trained and validated, ", end="")
    print(f"{len(seconds)} samples\n\n{report.table(head, rows)}")
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
