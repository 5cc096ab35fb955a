"""Find boxes: python tools/detect.py SOURCE… --out FILE.json, for TEST.COCO_BBOX_FILE and for predict.py --boxes"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError
from .predict import DETECTORS
from .results import NOT_IN_RESULTS

if TYPE_CHECKING:
    import numpy as np


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Find the persons in images, or the objects of another class, and write COCO detections."
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help='image, folder, zip, list (@FILE) or pattern ("a/**/*.jpg")')
    add("--out", type=Path, required=True, metavar="FILE", help="detection file to write, JSON")
    add("--annotations", type=Path, metavar="FILE", help="COCO annotation file that gives the images their ids")
    add("--detector", default=DETECTORS[0], choices=DETECTORS, help="detection network (default: %(default)s)")
    add("--detector-class", default="person", metavar="NAME", help="COCO class to detect (default: %(default)s)")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="the detector's weights (default: the published ones, downloaded on first use)",
    )
    add(
        "--score",
        type=float,
        default=0.01,
        metavar="S",
        help="leave out boxes with a lower score (default: %(default)s)",
    )
    add("--batch", type=int, default=4, metavar="N", help="images in a batch (default: %(default)s)")
    cli.add_reading(add)
    add("--honour-exif", action="store_true", help=argparse.SUPPRESS)  # an old option, which is the default now
    cli.add_device(add)
    add("--overwrite", action="store_true", help="replace existing files")
    given = parser.parse_args(argv)

    from ..dataset.images import MAX_PIXELS
    from ..predictor import inputs, shared
    from ..predictor.detector import TORCHVISION, Detector
    from ..predictor.image import InputImage
    from ..runtime import distributed, log

    log.start(quiet=distributed.rank() > 0)
    failures = cli.Failures()
    found = inputs.expand(given.sources, failures.errors.append)
    for source in [*found.videos, *found.cameras]:
        says = "this command reads images only; tools/predict.py also reads videos and cameras"
        failures.errors.append(UserError(f"{source}: {says}"))
    numbers = inputs.numbering(found, given.annotations, given.detector_class, failures.errors.append)
    if not numbers.files:
        failures.end(done=0)
    turned = not given.ignore_exif
    numbers.refuse_otherwise_turned(turned)
    if not given.out.name or given.out.is_dir():
        raise UserError(f"--out {given.out}: this is a folder; name a file, such as {given.out / 'boxes.json'}")
    images_file, folder = inputs.list_beside(given.out), given.out.with_name(f".{given.out.name}{shared.PARTS}")
    for path in [given.out] if given.annotations else [given.out, images_file]:
        if path.exists() and not given.overwrite and not shared.is_unfinished(folder):
            raise UserError(f"{path}: exists already; pass --overwrite to replace it, or choose another with --out")
    max_pixels = MAX_PIXELS if given.max_pixels is None else given.max_pixels
    if max_pixels < 1:
        raise UserError(f"--max-pixels must be 1 or more, not {max_pixels}")
    detector = Detector(
        given.detector,
        given.weights,
        category=given.detector_class,
        threshold=given.score,
        batch_size=given.batch,
        device=distributed.own_device(given.device) if given.detector in TORCHVISION else given.device,
    )

    rows = list(zip(numbers.files, numbers.names, numbers.ids, numbers.sizes, strict=True))

    def find(chunk: slice) -> dict[str, Any]:
        failed, detections, listed = cli.Failures(), list[dict](), list[tuple]()

        def readable() -> "Iterator[tuple[str, int, np.ndarray]]":
            for file, name, number, size in progress.follow(rows[chunk]):
                with failed.passing_over():
                    image = InputImage(file, str(file), oriented=turned, max_pixels=max_pixels, size=size)
                    yield name, number, image.pixels()

        images = readable()
        while group := list(islice(images, given.batch)):
            boxes_and_scores = detector.batch([pixels[..., ::-1].copy() for _, _, pixels in group])
            for (name, number, pixels), (boxes, scores) in zip(group, boxes_and_scores, strict=True):
                detections += [
                    {"image_id": number, "category_id": numbers.category["id"], "bbox": box, "score": score}
                    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
                ]
                listed.append((name, number, (pixels.shape[1], pixels.shape[0])))
        listing = inputs.image_list(listed, numbers.category, turned)["images"]
        return {"boxes": detections, "images": listing, "errors": [str(error) for error in failed.errors]}

    wanted = {name: value for name, value in vars(given).items() if name not in NOT_IN_RESULTS}
    how = shared.dependence(wanted, rows)
    parts = shared.Parts(folder, how, len(rows), given.batch, given.overwrite)
    with log.Progress(parts.length, "images", hidden=distributed.rank() > 0) as progress:
        if not parts.fill(find):
            return
    boxes = images = 0
    for part in parts:
        boxes, images = boxes + len(part["boxes"]), images + len(part["images"])
        failures.errors += map(UserError, part["errors"])
    if images:
        shared.write_lists(given.out, (part["boxes"] for part in parts))
        if not given.annotations:
            around = json.dumps(inputs.image_list([], numbers.category, turned))
            shared.write_lists(images_file, (part["images"] for part in parts), around)
        log.logger.info("%s: %d boxes in %d images", given.out, boxes, images)
    parts.remove()
    failures.end(images)
