"""Draw what a network attends to: python tools/visualize.py --model NAME|FOLDER|FILE --image FILE [--box X,Y,W,H] …

Without --model, --cfg experiments/….yaml [KEY VALUE …] explains the weights that tools/test.py would test.
"""

import argparse
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..errors import UserError, needs
from .predict import add_detector, box_from, refuse_detector

if TYPE_CHECKING:
    from ..explain.maps import Explanation, Place
    from ..predictor.predictor import Predictor

MODES = ("dependency", "affect", "rollout", "gradient")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser("Draw what a network attends to when it finds a person's keypoints.", cfg_required=False)
    add = parser.add_argument
    add(
        "--model",
        help="released model (tp_r_a4 …), output folder of a run, or checkpoint (--cfg: its configuration)",
    )
    add("--image", required=True, type=Path, metavar="FILE", help="image file")
    add(
        "--box",
        metavar="X,Y,W,H",
        help="the person's box in image pixels (default: the best of the detector)",
    )
    add_detector(add)
    cli.add_reading(add)
    cli.add_device(add)
    what = parser.add_argument_group("which maps")
    add = what.add_argument
    add("--keypoints", type=texts, metavar="NAME,…", help="keypoints to explain (default: all scored 0.2 or more)")
    add(
        "--point",
        type=numbers,
        action="append",
        metavar="X,Y",
        help="explain a point of the image, in pixels; may be repeated",
    )
    add("--mode", default=MODES[0], choices=MODES, help="kind of map (default: %(default)s)")
    add("--layers", type=whole_numbers, metavar="N,…", help="encoder layers, counted from 0 (default: all)")
    add(
        "--heads",
        type=whole_numbers,
        metavar="N,…",
        help="a row for each head, counted from 0 (default: the mean of all heads)",
    )
    add(
        "--threshold",
        default="0",
        metavar="WEIGHT",
        help="leave out smaller weights; a percentage is of each map's largest weight (default: %(default)s)",
    )
    result = parser.add_argument_group("the pictures")
    add = result.add_argument
    add(
        "--out",
        type=Path,
        default=Path("attention.png"),
        metavar="FILE",
        help="picture of all maps, PNG, JPG or SVG (default: %(default)s)",
    )
    add("--singles", type=Path, metavar="DIR", help="also write one picture per map into this folder")
    add("--overwrite", action="store_true", help="replace existing pictures")
    given = parser.parse_args(argv)
    given.box = given.box and box_from(given.box)
    return given


def threshold(text: str) -> dict[str, float]:
    """The weights that `figures.grid` leaves out. Raises UserError for neither a weight nor a percentage."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < (100 if text.endswith("%") else math.inf):
        raise UserError(f"--threshold must be a weight, 0 or more, or a percentage such as 50%, not {text}")
    return {"share": value / 100} if text.endswith("%") else {"threshold": value}


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def whole_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def texts(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    check(given)
    how = threshold(given.threshold)

    from ..explain import figures
    from ..explain.maps import kept
    from ..runtime import log

    needs("matplotlib", extra="explain")
    figures.check_name(given.out)
    check_free([given.out], given.overwrite)
    predictor = predictor_to_explain(given)
    explanation = explain(given, predictor)
    places: list[Place] | None = None
    if given.keypoints or given.point:
        places = [*(given.keypoints or []), *(explanation.in_crop(point) for point in given.point or [])]
    maps = explanation.maps(places, given.mode, given.layers, given.heads)

    singles = {}
    if given.singles:
        for row, label in enumerate(maps.rows):
            for column, query in enumerate(maps.queries):
                place = re.sub(r"[^\w.-]+", "_", query.label).strip("_")  # whatever a skeleton calls its keypoints
                shown = re.sub(r"\s", "_", label.replace("–", "-"))
                singles[given.singles / f"{place}_{given.mode}_{shown}{given.out.suffix}"] = (row, column)
    check_free(singles, given.overwrite)
    figures.save(figures.grid(explanation, maps, **how), given.out)
    for path, (row, column) in singles.items():
        figure = figures.single(explanation, maps.values[row, column], maps.queries[column], **how)
        figures.save(figure, path)
    log.logger.info("%s: %s of %d point(s) in %d row(s)", given.out, maps.mode, len(maps.queries), len(maps.rows))
    empty = [not kept(weights, **how).any() for row in maps.values for weights in row]
    if any(empty):
        largest = figures.in_words(maps.values.max(), maps.mode)
        log.logger.warning(
            "%d of %d maps show nothing, because all their weights are below --threshold; the largest weight is "
            "%s: lower it, or give a percentage of each map's largest, such as 50%%",
            *(sum(empty), len(empty), largest),
        )
    if singles:
        log.logger.info("%s: %d pictures of one map each", given.singles, len(singles))


def check(given: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if not given.cfg and not given.model:
        raise UserError("no network is given: pass --model, or --cfg for the weights that tools/test.py would test")
    if given.model and given.opts:
        raise UserError(f"{' '.join(given.opts)}: KEY VALUE pairs need --cfg without --model")
    if given.box:
        refuse_detector("--box", {"detector": given.detector, "detector-class": given.detector_class})
    for point in given.point or []:
        if len(point) != 2:
            raise UserError(f"--point must be X,Y, two numbers, not {len(point)}")
    if not given.image.exists():  # before weights are downloaded
        raise UserError(f"{given.image}: cannot read the image (No such file or directory)")


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise UserError if a picture would replace an existing file."""
    for path in paths:
        if path.exists() and not overwrite:
            raise UserError(
                f"{path}: exists already; pass --overwrite to replace it, or choose another with --out or --singles"
            )


def predictor_to_explain(given: argparse.Namespace) -> "Predictor":
    from ..build.model import read_tested_model
    from ..build.run import run_folder
    from ..models.backends import usable_device
    from ..predictor.detector import detector_for
    from ..predictor.predictor import Predictor, trained_network
    from ..runtime import log

    usable_device(given.device)
    if given.model:
        log.start()
        trained = trained_network(given.model, given.cfg or None)
    else:
        cfg = cli.configuration(given)
        trained = read_tested_model(cfg, run_folder(cfg, Path(given.cfg).stem))
    predictor = Predictor(trained, device=given.device, max_pixels=given.max_pixels)
    if not given.box:  # last, as it may have to be downloaded
        wanted = given.detector, given.detector_class
        predictor.detector = detector_for(predictor.skeleton.category, *wanted, device=given.device)
    return predictor


def explain(given: argparse.Namespace, predictor: "Predictor") -> "Explanation":
    """Explain the person in the given box, or in the detector's best."""
    boxes = [given.box] if given.box else None
    found = next(predictor.explain(given.image, boxes, oriented=not given.ignore_exif), None)
    if found is None:
        raise UserError(f"{given.image}: the detector finds no person; pass --box, or --detector whole-image")
    return found
