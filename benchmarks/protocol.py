"""The published protocol on annotations without pixels: ours beside plain loops and plain pycocotools.

python -m benchmarks.protocol --root DIR [KEY VALUE …], with PYTHONPATH=tools. DIR is laid out as COCO, its images may
be missing: predictions are made up around the annotated keypoints. KEY VALUE are the configuration's, such as
TEST.USE_GT_BBOX True or TEST.SOFT_NMS True.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain, synthetic
from transpose import cli
from transpose.build.evaluation import build_evaluation
from transpose.config.load import load_config
from transpose.core.predict import Predictions
from transpose.dataset import coco
from transpose.errors import UserError
from transpose.evaluation.coco_eval import METRICS
from transpose.evaluation.evaluate import CocoEvaluation, markdown_table

RECIPE = Path(__file__).resolve().parents[1] / ("experiments/coco/transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml")
BOXES = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate made-up predictions, ours and in the plainest way.")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="annotations and detections as in COCO")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, e.g. TEST.SOFT_NMS True")
    arguments = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments.root.absolute(), arguments.opts, Path(folder))


def plainly(evaluation: CocoEvaluation, predictions: Predictions, box_scores: np.ndarray, file: Path) -> list[float]:
    """COCO's ten numbers in the plainest way, of predictions for all persons of the evaluation."""
    people = evaluation.crops.instances
    with contextlib.redirect_stdout(io.StringIO()):
        return plain.evaluate(
            np.concatenate([predictions.keypoints, predictions.scores[..., None]], 2),
            predictions.center,
            predictions.scale,
            box_scores,
            people.images.ids[people.image],
            evaluation.annotations.path,
            file,
            score_threshold=evaluation.options.score_threshold,
            oks_threshold=evaluation.oks_threshold,
            soft=evaluation.soft_nms,
        )


def compare(root: Path, overrides: list[str], folder: Path) -> tuple[dict[str, float], list[float]]:
    """Print both tables, the largest difference and the seconds; returns the numbers, ours and plain."""
    (folder / "images/val2017").mkdir(parents=True)  # no image is opened
    if not (root / "annotations").is_dir():
        raise UserError(f"{root}: there is no folder annotations in it (--root)")
    (folder / "annotations").symlink_to(root / "annotations")
    options = ["DATASET.ROOT", str(folder), "TEST.COCO_BBOX_FILE", str(root / BOXES), *overrides]
    cfg = load_config(RECIPE, options, output_dir=str(folder / "output"))
    evaluation = build_evaluation(cfg, torch.device("cpu"))
    crops, persons = evaluation.crops, evaluation.crops.instances
    annotated = coco.annotated_instances(evaluation.annotations)
    if not cfg.TEST.USE_GT_BBOX:
        persons = synthetic.with_keypoints(persons, annotated)
    predictions = synthetic.predictions(persons, crops.center, crops.scale)

    start = time.perf_counter()
    ours = evaluation.evaluate(predictions, folder / "output" / "ours", "none")
    middle = time.perf_counter()
    theirs = plainly(evaluation, predictions, persons.scores, folder / "plain.json")
    end = time.perf_counter()
    assert ours is not None
    print(evaluation.describe())
    print(markdown_table("ours", ours))
    print(markdown_table("plain", dict(zip(METRICS, theirs, strict=True))))
    difference = np.abs(np.array(list(ours.values())) - theirs).max()
    print(f"largest difference {difference:.1e}; {middle - start:.2f} s, plain {end - middle:.2f} s")
    return ours, theirs


if __name__ == "__main__":
    cli.run(main)
