"""Draw a results file: python tools/draw_results.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import cli
from ..errors import UserError

CELL = 400, 300  # width, height of a photograph on the sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Draw the persons of a COCO keypoint results file on DATASET.TEST_SET, as one contact sheet.")
    parser.add_argument("--results", required=True, type=Path, metavar="FILE", help="COCO keypoint results, JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="picture to write; else beside the results, as PNG")
    parser.add_argument("--columns", type=int, default=6, metavar="N", help="photographs in a row (%(default)s)")
    parser.add_argument("--images", type=int, default=32, metavar="N", help="photographs at most (%(default)s)")
    parser.add_argument("--score", type=float, default=0.3, metavar="S", help="draw persons from it on (%(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.2, metavar="T", help="draw joints from it on (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.columns, arguments.images) < 1:
        raise UserError("--columns and --images must be 1 or more")
    cfg = cli.configuration(arguments)

    import numpy as np

    from ..build.data import skeleton_of, test_images
    from ..pose import draw, geometry
    from ..runtime import log
    from ..runtime.files import write_atomically

    annotations, reader = test_images(cfg)
    skeleton = skeleton_of(cfg, annotations)
    images = annotations.images
    persons = read_persons(arguments.results, skeleton.num_joints, images.ids.tolist(), arguments.score)
    fullest = sorted(range(len(images.ids)), key=lambda i: len(persons[int(images.ids[i])]), reverse=True)

    names, photographs, count = [], [], 0
    for i in fullest[: arguments.images]:
        image_id, name = int(images.ids[i]), str(images.names[i])
        # Scaled before drawing, or the lines would shrink with the photograph.
        photograph, to_cell = draw.fit(reader.read(name, owner=f"image {image_id}"), CELL)
        triplets = np.array(persons[image_id], float).reshape(-1, skeleton.num_joints, 3)
        keypoints, scores = geometry.apply(to_cell, triplets[..., :2]), triplets[..., 2]
        photographs.append(draw.persons(photograph, keypoints, scores, skeleton, arguments.threshold))
        names.append(name)
        count += len(keypoints)
    sheet = draw.mosaic(photographs, arguments.columns, CELL, labels=names)

    out = arguments.out or arguments.results.with_suffix(".png")
    content = draw.encode(sheet, out)
    write_atomically(out, lambda file: file.write(content))
    log.logger.info("%s: %d person(s) on %d of %d photographs", out, count, len(names), len(images.ids))


def read_persons(path: Path, num_joints: int, image_ids: list[int], least: float) -> dict[int, list[list[float]]]:
    """The keypoints (x, y, score of each joint) of the persons scored `least` or more, for every image.

    Results of other images are left out. Raises UserError for a file that is malformed or leaves nothing to draw.
    """
    persons: dict[int, list[list[float]]] = {image_id: [] for image_id in image_ids}
    everything = read_results(path, num_joints)
    results = [result for result in everything if result["image_id"] in persons]
    if not results:
        raise UserError(
            f"{path}: none of its {len(everything)} results is of an image of DATASET.TEST_SET; "
            "they do not belong together"
        )
    best = max(result["score"] for result in results)
    if best < least:
        raise UserError(f"{path}: no person is scored {least:g} or more, the best has {best:.3g}; lower --score")
    for result in results:
        if result["score"] >= least:
            persons[result["image_id"]].append(result["keypoints"])
    return persons


def read_results(path: Path, num_joints: int) -> list[dict[str, Any]]:
    """A COCO results list, each entry with a whole image_id, a number as score, and 3 x `num_joints` numbers."""
    from ..dataset.json_fields import read_json

    results = read_json(path, "results file", list[dict[str, Any]])
    for number, result in enumerate(results, start=1):
        where = f"{path}: result number {number}"
        for key in ("image_id", "score", "keypoints"):
            if key not in result:
                raise UserError(f"{where} has no '{key}': not a COCO keypoint results file")
        if not isinstance(result["image_id"], int) or not is_number(result["score"]):
            raise UserError(f"{where} must have a whole number as 'image_id' and a number as 'score'")
        keypoints = result["keypoints"]
        if not isinstance(keypoints, list) or len(keypoints) != 3 * num_joints or not all(map(is_number, keypoints)):
            found = f"a list of {len(keypoints)}" if isinstance(keypoints, list) else repr(keypoints)
            raise UserError(f"{where}: 'keypoints' must list {3 * num_joints} finite numbers; it is {found}")
    return results


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
