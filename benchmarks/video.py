"""A video from file to file beside its slowest stage: python -m benchmarks.video, with PYTHONPATH=tools.

The video shows the bundled images, with demo.yaml's network (`make demo` trains it) and the default detector, whose
weights are downloaded on first use. Each stage runs alone and on one thread; then the command runs, whose stages share
the cores.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.forward import DEMO, WEIGHTS
from benchmarks.report import IMAGES, surroundings, table
from transpose.commands import predict
from transpose.errors import UserError
from transpose.pose.draw import DrawOptions
from transpose.predictor.detector import Detector
from transpose.predictor.image import InputImage
from transpose.predictor.predictor import Predictor
from transpose.predictor.video import Recording, Video

RATE = Fraction(25)  # frames a second
SIZE = 640, 480  # width and height
SHOWN = 10  # frames that show one image
MARGIN = 1.15  # an image is this much larger than the frame, which moves over it
RUNS = 3


def panned(pixels: np.ndarray, frames: int) -> list[np.ndarray]:
    """A frame that moves from an image's upper left to its lower right."""
    height, width = pixels.shape[:2]
    zoom = MARGIN * max(SIZE[0] / width, SIZE[1] / height)
    large = cv2.resize(pixels, None, fx=zoom, fy=zoom)
    rest = np.array(large.shape[1::-1]) - SIZE
    corners = np.linspace((0, 0), rest, frames).astype(int)
    return [large[y : y + SIZE[1], x : x + SIZE[0]].copy() for x, y in corners]


def write(path: Path, frames: Iterable[np.ndarray]) -> None:
    with Recording(path, RATE) as recording:
        for number, frame in enumerate(frames):
            recording.add(frame, float(number / RATE))


def make(path: Path, images: list[Path], count: int) -> None:
    """A video of at most `count` frames that shows the images one after the other."""
    frames = (frame for image in images for frame in panned(cv2.imread(str(image)), SHOWN))
    write(path, islice(frames, count))


def measured(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds that pass and that the CPU works, and what `call` returns."""
    begun, worked = time.perf_counter(), time.process_time()
    made = call()
    return (time.perf_counter() - begun, time.process_time() - worked), made


def once(predictor: Predictor, film: Path, folder: Path) -> dict[str, tuple[float, float]]:
    """Elapsed and CPU time of each stage alone and of the command's loop, in seconds."""
    seconds = {}
    seconds["read"], frames = measured(lambda: [frame for frame, _ in Video(film).frames()])
    seconds["detect"], found = measured(lambda: predictor.detect(frames))
    images = [InputImage(frame, film.name, "BGR") for frame in frames]
    columns = list(zip(*found, strict=True))
    seconds["estimate"], results = measured(lambda: list(predictor.stream(images, *columns, found=True)))
    seconds["draw"], drawn = measured(lambda: [result.picture(DrawOptions()) for result in results])
    seconds["encode"], _ = measured(lambda: write(folder / "drawn.mp4", drawn))
    given = predict.arguments([str(film), "--model", str(WEIGHTS)])
    target = folder / "whole"
    seconds["whole"], _ = measured(lambda: predict.save_video(given, predictor, Video(film), target, ["video"], None))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a video's whole time with its stages'.")
    parser.add_argument("--images", type=int, default=32, metavar="N", help="bundled images shown (default: 32)")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="default: %(default)s")
    given = parser.parse_args()
    if not WEIGHTS.exists():
        raise UserError(f"{WEIGHTS} is missing: make demo trains it")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    predictor = Predictor.from_pretrained(WEIGHTS, DEMO, device="cpu", detector=Detector(device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        images = sorted(IMAGES.iterdir())[: given.images]
        count = SHOWN * len(images)
        make(film, images, count)
        runs = [once(predictor, film, Path(folder)) for _ in range(given.runs)]
    print(surroundings(1))
    rows, whole = [], []
    for run in runs:
        slowest = max(wall for name, (wall, _) in run.items() if name != "whole")
        whole.append(run["whole"][0] / slowest)
    for name in runs[0]:
        wall, cpu = (1e3 * statistics.median(run[name][i] for run in runs) / count for i in (0, 1))
        rows.append([name, f"{wall:.1f} ms", f"{cpu:.1f} ms"])
    print(table(["a frame", "elapsed", "CPU time"], rows))
    print(f"The whole takes {statistics.median(whole):.2f} times as long as its slowest stage.")


if __name__ == "__main__":
    main()
