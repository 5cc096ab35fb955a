"""COCO's sizes: python -m benchmarks.scale [--write], with PYTHONPATH=tools, or `make bench-data`.

Makes a training set and a test set of COCO's sizes (random annotations; file names that lead to the bundled
images), and measures, each in a process of its own: seconds from the start of reading to the first sample,
memory, what loading processes grow by, and the evaluation from predictions in memory to the AP and the results file.
"""

import argparse
import json
import logging
import multiprocessing
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import report, synthetic
from transpose.build.data import build_training_data
from transpose.build.evaluation import build_evaluation
from transpose.config.load import load_config
from transpose.dataset import coco
from transpose.evaluation import nms
from transpose.evaluation.coco_eval import average_precision
from transpose.evaluation.evaluate import results
from transpose.pose import geometry

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = REPOSITORY / "data/coco_sample/images/val2017"
RECIPE = REPOSITORY / "experiments/coco/transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml"
# COCO 2017's own numbers of images, of those with persons that training takes, of these persons, and of all persons.
TRAIN = {"images": 118_287, "with_people": 56_599, "persons": 149_813, "annotated": 262_465}
VAL = {"images": 5_000, "with_people": 2_346, "persons": 6_352, "annotated": 11_004}
VAL_BOXES = 104_125
WORKERS = 4
MB = 1e6


def make(root: Path, fraction: float) -> None:
    """Both sets under `root`, in COCO's layout, `fraction` of their size."""
    make_set(root, "train2017", TRAIN, fraction)
    ids = make_set(root, "val2017", VAL, fraction).ids
    synthetic.detections(root / "boxes.json", ids, boxes=round(VAL_BOXES * fraction))


def make_set(root: Path, name: str, full: dict[str, int], fraction: float, images: bool = True) -> coco.Images:
    """A set's annotations, `fraction` of the `full` size, and with `images` their files."""
    size = {key: max(1, round(value * fraction)) for key, value in full.items()}
    path = root / "annotations" / f"person_keypoints_{name}.json"
    synthetic.annotations(
        path,
        images=size["with_people"],
        persons=size["persons"],
        empty_images=size["images"] - size["with_people"],
        unlabelled=size["annotated"] - size["persons"],
    )
    table = coco.read_annotations(path).images
    folder = root / "images" / name
    folder.mkdir(parents=True)
    if images:
        files = sorted(IMAGES.iterdir())
        for number, image in enumerate(table.names):
            (folder / image).symlink_to(files[number % len(files)])
    return table


def settings(root: Path, *overrides: str, recipe: Path = RECIPE) -> Any:
    """A published recipe on the sets under `root`."""
    options = ["DATASET.ROOT", str(root), "TEST.COCO_BBOX_FILE", str(root / "boxes.json"), *overrides]
    return load_config(recipe, options, output_dir=str(root / "output"))


def resident() -> float:
    return psutil.Process().memory_info().rss / MB


def array_mb(persons: coco.Instances) -> float:
    columns = [getattr(persons, name) for name in coco.COLUMNS]
    return sum(a.nbytes for a in [*columns, persons.images.ids, persons.images.names, persons.images.sizes]) / MB


def first_training_sample(root: Path) -> dict[str, float]:
    before, start = resident(), time.perf_counter()
    loader, _ = build_training_data(settings(root))
    crops: Any = loader.dataset
    crops[0, 0]
    return {
        "seconds": time.perf_counter() - start,
        "before_mb": before,
        "resident_mb": resident(),
        "arrays_mb": array_mb(crops.instances) + (crops.center.nbytes + crops.scale.nbytes) / MB,
    }


def first_test_sample(root: Path) -> dict[str, float]:
    before, start = resident(), time.perf_counter()
    evaluation = build_evaluation(settings(root, "TEST.USE_GT_BBOX", "False"), torch.device("cpu"))
    evaluation.crops[0]
    return {
        "seconds": time.perf_counter() - start,
        "before_mb": before,
        "resident_mb": resident(),
        "arrays_mb": array_mb(evaluation.crops.instances),
    }


def growth_of_workers(root: Path, samples: int) -> dict[str, Any]:
    """Megabytes of its own that each loading process gains between its first hundred samples and the last."""
    loader, plan = build_training_data(settings(root, "WORKERS", str(WORKERS), "TRAIN.BATCH_SIZE_PER_GPU", "20"))
    # As many as COCO's recipes ask for, however few CPU cores there are.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    loader = torch.utils.data.DataLoader(loader.dataset, batch_sampler=plan, num_workers=WORKERS)
    wanted = min(samples * WORKERS, int(0.9 * plan.samples))
    warm = min(100 * WORKERS, wanted // 2)
    batches, loaded, early, late = iter(loader), 0, [], []
    start = time.perf_counter()
    while not late:
        loaded += len(next(batches)["index"])
        if loaded >= warm and not early:
            early = own_memory()
        if loaded >= wanted:
            late = own_memory()
    return {
        "samples": loaded / WORKERS,
        "growth_mb": [after - before for before, after in zip(early, late, strict=True)],
        "samples_per_second": loaded / (time.perf_counter() - start),
    }


def own_memory() -> list[float]:
    """Of each child process, what it shares with no other."""
    processes = sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)
    children = [psutil.Process(process.pid) for process in processes]
    return [child.memory_full_info().uss / MB for child in children]


def evaluation_stage(root: Path) -> dict[str, float]:
    """Seconds of each part, on one core, of random predictions in all the boxes."""
    torch.set_num_threads(1)
    evaluation = build_evaluation(
        settings(root, "TEST.USE_GT_BBOX", "False", "TEST.IMAGE_THRE", "0.0"), torch.device("cpu")
    )
    persons, crops = evaluation.crops.instances, evaluation.crops
    predictions = synthetic.predictions(persons, crops.center, crops.scale)
    seconds: dict[str, float] = {"persons": len(persons)}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = call()
        seconds[name] = time.perf_counter() - start
        return value

    timed("whole stage", lambda: evaluation.evaluate(predictions, root / "output" / "run", "none"))
    evaluation.soft_nms = True
    timed("whole stage, soft OKS-NMS", lambda: evaluation.evaluate(predictions, root / "output" / "run", "none"))
    options = {"category_id": 1, "sigmas": evaluation.sigmas, "score_threshold": 0.2, "oks_threshold": 0.9}
    found = timed("rescoring, OKS-NMS, results", lambda: results(persons, predictions, **options))
    timed("pycocotools", lambda: average_precision(found, evaluation.annotations, evaluation.sigmas))
    areas = geometry.crop_areas(crops.scale)
    arguments = (
        persons.image,
        predictions.keypoints,
        persons.scores,
        areas,
        0.9,
        torch.tensor(evaluation.sigmas).numpy(),
    )
    timed("OKS-NMS alone", lambda: nms.suppress(*arguments))
    return seconds


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "train": first_training_sample,
    "test": first_test_sample,
    "workers": growth_of_workers,
    "evaluation": evaluation_stage,
}


def measure(part: str, root: Path, *arguments: str) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--part", part, "--root", str(root), *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def describe(root: Path, samples: int) -> str:
    """All parts, as markdown."""
    rows = []

    def first(label: str, found: dict[str, float]) -> None:
        memory = f"{found['resident_mb']:.0f} MB, {found['before_mb']:.0f} of them before"
        rows.append([label, f"{found['seconds']:.2f} s", memory, f"{found['arrays_mb']:.1f} MB"])

    first("training set", measure("train", root))
    first("test set, detector's boxes", measure("test", root))
    workers = measure("workers", root, "--samples", str(samples))
    stage = measure("evaluation", root)
    growth = ", ".join(f"{value:.1f}" for value in workers["growth_mb"])
    persons = f"{stage.pop('persons'):,.0f}"
    return "\n\n".join(
        [
            report.surroundings(),
            report.table(["", "start of reading to first sample", "main process", "arrays"], rows),
            f"Each of {WORKERS} loading processes gained {growth} MB of its own over {workers['samples']:,.0f} samples "
            f"({workers['samples_per_second']:.0f} samples/s in all).",
            report.table(
                [f"evaluation of {persons} persons, one core", "seconds"],
                [[name, f"{seconds:.2f}"] for name, seconds in stage.items()],
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure reading, loading and evaluation at COCO's size.")
    parser.add_argument("--fraction", type=float, default=1.0, metavar="F", help="of COCO's size (%(default)s)")
    parser.add_argument("--samples", type=int, default=20_000, metavar="N", help="that each worker loads (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 0 < arguments.fraction <= 1 or arguments.samples < 1:
        parser.error("--fraction must be above 0 and at most 1, --samples 1 or more")
    if arguments.part:
        logging.disable()
        further = [arguments.samples] if arguments.part == "workers" else []
        print(json.dumps(PARTS[arguments.part](arguments.root, *further)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.fraction)
        text = describe(Path(folder), arguments.samples)
    print(text)
    if arguments.write:
        report.write_section("scale", text)


if __name__ == "__main__":
    main()
