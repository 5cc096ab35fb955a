"""Draw a results file: python tools/draw_results.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..errors import UserError

CELL = 400, 300  # width, height of an image on the sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Draw the persons of a COCO keypoint results file on DATASET.TEST_SET, as one contact sheet.")
    parser.add_argument("--results", required=True, type=Path, metavar="FILE", help="COCO keypoint results, JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="picture to write (default: a PNG beside the results)")
    parser.add_argument(
        "--columns",
        type=int,
        default=6,
        metavar="N",
        help="pictures in a row, two an image with --truth (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=int, default=32, metavar="N", help="largest number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--score", type=float, default=0.3, metavar="S", help="lowest score of a person to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--truth",
        action=argparse.BooleanOptionalAction,
        help="also draw the annotated persons, beside each image (default: if keypoints are annotated)",
    )
    cli.add_drawing(parser)
    arguments = parser.parse_args(argv)
    if min(arguments.columns, arguments.images) < 1:
        raise UserError("--columns and --images must be 1 or more")
    options = cli.drawing(arguments)
    if "boxes" in (options.parts or ()):
        raise UserError("--draw boxes: a results file holds keypoints and scores, no boxes")
    cfg = cli.configuration(arguments)

    import numpy as np

    from ..build.data import has_truth, is_mpii, skeleton_of, test_images
    from ..dataset import coco, mpii
    from ..dataset.images import size_mismatch
    from ..evaluation.results import read_results
    from ..pose import draw, geometry, sheets
    from ..runtime import log
    from ..runtime.files import write_atomically

    annotations, reader = test_images(cfg)
    skeleton = skeleton_of(cfg, annotations)
    wanted = arguments.truth
    if wanted is None:
        wanted = has_truth(cfg.DATASET.TEST_SET) and (is_mpii(cfg) or bool(annotations.taken.any()))
    truth = (mpii if is_mpii(cfg) else coco).annotated_instances(annotations) if wanted else None
    images = annotations.images
    results = read_results(arguments.results, annotations, skeleton.num_joints)
    enough, best = results["score"] >= arguments.score, results["score"].max()
    if not enough.any():
        raise UserError(
            f"{arguments.results}: no instance is scored {arguments.score:g} or more, the best has {best:.3g}; "
            "lower --score"
        )
    persons = [enough & (results["image_id"] == number) for number in images.ids]
    annotated = set(truth.image.tolist()) if truth else set[int]()
    shown = [i for i, own in enumerate(persons) if own.any() or i in annotated]
    shown = sorted(shown, key=lambda i: -persons[i].sum())[: arguments.images]

    failures = cli.Failures()
    labels, drawn, count, done = list[str](), list[np.ndarray](), 0, 0
    for i in shown:
        image_id, name = int(images.ids[i]), str(images.names[i])
        with failures.passing_over():
            pixels = reader.read(name, owner=f"image {image_id}")
            if contradiction := size_mismatch(pixels, images.sizes[i].tolist()):
                log.logger.warning("%s: %s, as annotated: its keypoints are misplaced", name, contradiction)
            image, to_cell = sheets.fit(pixels, CELL)  # scaled before drawing: else the lines would become thinner too
            found, scores = (results[key][persons[i]] for key in ("keypoints", "score"))
            rows: list[tuple] = [(f"{name}: found" if truth else name, found[..., :2], found[..., 2], scores)]
            if truth is not None:
                own = truth.image == i
                rows.append(("as annotated", truth.keypoints[own], truth.visible[own], None))
            for label, points, seen, person_scores in rows:
                points = geometry.apply(to_cell, points)
                drawn.append(draw.persons(image, points, seen, skeleton, options, person_scores=person_scores))
                labels.append(label)
            count, done = count + len(found), done + 1
    if not done:
        failures.end(done)
    columns = max(2, arguments.columns // 2 * 2) if truth else arguments.columns
    sheet = sheets.legend(sheets.mosaic(drawn, columns, CELL, labels), options.key(skeleton))

    out = arguments.out or arguments.results.with_suffix(".png")
    content = draw.encode(sheet, out)
    write_atomically(out, lambda file: file.write(content))
    log.logger.info("%s: %d %s(s) on %d of %d images", out, count, skeleton.noun, done, len(images.ids))
    failures.end(done)
