"""Draw a results file: python tools/draw_results.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError

if TYPE_CHECKING:
    import numpy as np

CELL = 400, 300  # width, height of an image on the sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Draw the persons of a COCO keypoint results file on DATASET.TEST_SET, as one contact sheet.")
    parser.add_argument("--results", required=True, type=Path, metavar="FILE", help="COCO keypoint results, JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="picture to write; else beside the results, as PNG")
    parser.add_argument("--columns", type=int, default=6, metavar="N", help="images in a row (%(default)s)")
    parser.add_argument("--images", type=int, default=32, metavar="N", help="images at most (%(default)s)")
    parser.add_argument("--score", type=float, default=0.3, metavar="S", help="lowest score of a person (%(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.2, metavar="T", help="lowest score of a joint (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.columns, arguments.images) < 1:
        raise UserError("--columns and --images must be 1 or more")
    cfg = cli.configuration(arguments)

    from ..build.data import skeleton_of, test_images
    from ..pose import draw, geometry
    from ..runtime import log
    from ..runtime.files import write_atomically

    annotations, reader = test_images(cfg)
    skeleton = skeleton_of(cfg, annotations)
    images = annotations.images
    persons = read_persons(arguments.results, skeleton.num_joints, images.ids.tolist(), arguments.score)
    fullest = sorted(range(len(images.ids)), key=lambda i: len(persons[int(images.ids[i])]), reverse=True)

    names, drawn, count = [], [], 0
    for i in fullest[: arguments.images]:
        image_id, name = int(images.ids[i]), str(images.names[i])
        # Scaled before drawing, or the lines would shrink with the image.
        image, to_cell = draw.fit(reader.read(name, owner=f"image {image_id}"), CELL)
        keypoints, scores = geometry.apply(to_cell, persons[image_id][..., :2]), persons[image_id][..., 2]
        drawn.append(draw.persons(image, keypoints, scores, skeleton, arguments.threshold))
        names.append(name)
        count += len(keypoints)
    sheet = draw.mosaic(drawn, arguments.columns, CELL, labels=names)

    out = arguments.out or arguments.results.with_suffix(".png")
    content = draw.encode(sheet, out)
    write_atomically(out, lambda file: file.write(content))
    log.logger.info("%s: %d person(s) on %d of %d images", out, count, len(names), len(images.ids))


def read_persons(path: Path, num_joints: int, image_ids: list[int], min_score: float) -> "dict[int, np.ndarray]":
    """The keypoints (P, K, 3: x, y, score) of the persons scored `min_score` or more, for every image.

    Results of other images are left out. Raises UserError for a file that is malformed or leaves nothing to draw.
    """
    import numpy as np

    from ..dataset.json_fields import NUMBER, WHOLE, Table, listing, read_json

    content = read_json(path, "results file", list[dict[str, Any]])
    fields = {"image_id": WHOLE, "score": NUMBER, "keypoints": listing(3 * num_joints)}
    results = Table.read(content, "result", fields)
    results.check().refuse(path)
    image, scores = results["image_id"], results["score"]
    listed = np.isin(image, image_ids)
    if not listed.any():
        raise UserError(
            f"{path}: none of its {len(results)} results is of an image of DATASET.TEST_SET; is it another set's file?"
        )
    best = scores[listed].max()
    if best < min_score:
        raise UserError(f"{path}: no person is scored {min_score:g} or more, the best has {best:.3g}; lower --score")
    keypoints = results["keypoints"].reshape(-1, num_joints, 3)
    return {image_id: keypoints[(image == image_id) & (scores >= min_score)] for image_id in image_ids}
