"""Test the released models against the published table: python tools/verify_coco.py [--data DIR] [KEY VALUE …]

Exit code 0: every AP is within ±0.1 of the published one, and every published sum agrees; 1: not so; 2: it cannot be
done.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..analysis.verify import Input, Test

COCO = "http://images.cocodataset.org"
BOXES = "COCO_val2017_detections_AP_H_56_person.json"
DETECTOR = "https://drive.google.com/drive/folders/1fRUDNUDxe9fjqcRZ2bnF_TKMlO0nB_dk (HRNet's, with a browser)"
VAL2017_ZIP = (
    "md5:442b8da7639aecaf257c1dceb8ba8c80"  # of COCO's images/val2017.zip, as many data sets' loaders check it
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Test the released models on COCO val2017, and compare their AP with the published one."
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/coco"), metavar="DIR", help="COCO's folder (default: %(default)s)")
    add(
        "--out",
        type=Path,
        default=Path("output/verify-coco"),
        metavar="DIR",
        help="folder of the results and the report (default: %(default)s)",
    )
    add("--models", metavar="NAME,NAME", help="released models to test (default: all five)")
    add("--overwrite", action="store_true", help="test again what the folder already has results of")
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides, e.g. WORKERS 8 TEST.BATCH_SIZE_PER_GPU 64")
    arguments = parser.parse_args(argv)

    from ..analysis import verify
    from ..build.evaluation import build_evaluation
    from ..config.load import load_config
    from ..config.paths import repository_root
    from ..models import zoo
    from ..runtime import distributed, log
    from .model_speed import surroundings

    log.start()
    names = arguments.models.split(",") if arguments.models else list(zoo.RELEASED)
    recipe = repository_root() / "experiments/coco/base.yaml"
    if not recipe.exists():
        raise UserError(f"{recipe}: missing; run this in a clone of the repository")
    tests = published(names)
    wanted = inputs(arguments.data, names)
    verify.refuse_missing(wanted)
    if arguments.overwrite:
        (arguments.out / verify.STATE).unlink(missing_ok=True)
    protocol = [
        *("DATASET.ROOT", str(arguments.data.absolute()), "TEST.COCO_BBOX_FILE", str(wanted[2].path.absolute())),
        *("DATASET.DATA_FORMAT", "zip" if wanted[1].path.suffix == ".zip" else "jpg"),
    ]
    device = distributed.start((0,))

    def run(test: "Test") -> tuple[str, dict[str, float]]:
        annotated = test.boxes == "ground truth"
        cfg = load_config(recipe, [*protocol, "TEST.USE_GT_BBOX", str(annotated), *arguments.opts], report=False)
        evaluation = build_evaluation(cfg, device)
        predictions = evaluation.predict(zoo.pretrained(test.model).to(device))
        folder = arguments.out / test.model / ("annotated" if annotated else "detected")
        metrics = evaluation.evaluate(predictions, folder, str(zoo.weights(test.model)))
        assert metrics is not None
        return f"{evaluation.describe()}; {surroundings()}", metrics

    text, passed = verify.verify(tests, wanted, arguments.out, run, log.logger.info)
    print(f"\n{text}\nreport: {arguments.out / verify.REPORT}")
    sys.exit(0 if passed else 1)


def inputs(data: Path, names: Sequence[str]) -> "list[Input]":
    """The annotations, images and boxes under COCO's folder, and these models' weights."""
    from ..analysis.verify import Input
    from ..models import zoo

    images, archive = data / "images/val2017", data / "images/val2017.zip"
    zipped = archive.exists() and not images.exists()
    weights = {name: zoo.place(None, zoo.FOLDER, zoo.released(name).file) for name in names}
    return [
        Input(
            data / "annotations/person_keypoints_val2017.json",
            f"{COCO}/annotations/annotations_trainval2017.zip",
        ),
        Input(
            archive if zipped else images, f"{COCO}/zips/val2017.zip, unpacked or not", VAL2017_ZIP if zipped else ""
        ),
        Input(data / "person_detection_results" / BOXES, DETECTOR),
        *(Input(path, f"python tools/download.py {name}") for name, path in weights.items()),
    ]


def published(names: Sequence[str]) -> "list[Test]":
    """Two tests per model: with annotated boxes (AP is published) and detected ones (all ten numbers are)."""
    from ..analysis.verify import Test
    from ..models import zoo

    return [
        test
        for name in names
        for test in (
            Test(name, "ground truth", (zoo.released(name).published_ap_gt,)),
            Test(name, "HRNet's detector", zoo.PUBLISHED[name]),
        )
    ]
