"""Find boxes: python tools/detect.py SOURCE… --out FILE.json, for TEST.COCO_BBOX_FILE and for predict.py --boxes"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..errors import UserError
from .predict import DETECTORS

if TYPE_CHECKING:
    import numpy as np


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Find the persons in images, or the objects of another class, and write COCO detections."
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help='image, folder or pattern ("photos/**/*.jpg")')
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
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse an image with more pixels before decoding it (default: 134 million)",
    )
    add(
        "--ignore-exif", action="store_true", help="read images as stored, without EXIF rotation, as tools/test.py does"
    )
    add("--honour-exif", action="store_true", help=argparse.SUPPRESS)  # an old option, which is the default now
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    add("--overwrite", action="store_true", help="replace existing files")
    given = parser.parse_args(argv)

    from ..dataset.images import MAX_PIXELS
    from ..models.backends import usable_device
    from ..predictor import inputs
    from ..predictor.detector import Detector
    from ..predictor.image import InputImage
    from ..runtime import log
    from ..runtime.files import write_text

    log.start()
    failures = cli.Failures()
    found = inputs.expand(given.sources, failures.errors.append)
    for source in [*found.videos, *found.cameras]:
        says = "this command reads images only; tools/predict.py also reads videos and cameras"
        failures.errors.append(UserError(f"{source}: {says}"))
    numbers = inputs.numbering(found, given.annotations, given.detector_class, failures.errors.append)
    if not numbers.files:
        failures.end(done=0)
    numbers.refuse_otherwise_turned(not given.ignore_exif)
    images_file = inputs.list_beside(given.out)
    for path in [given.out] if given.annotations else [given.out, images_file]:
        if path.exists() and not given.overwrite:
            raise UserError(f"{path}: exists already; pass --overwrite to replace it, or choose another with --out")
    max_pixels = MAX_PIXELS if given.max_pixels is None else given.max_pixels
    if max_pixels < 1:
        raise UserError(f"--max-pixels must be 1 or more, not {max_pixels}")
    usable_device(given.device)
    detector = Detector(
        given.detector,
        given.weights,
        category=given.detector_class,
        threshold=given.score,
        batch_size=given.batch,
        device=given.device,
    )

    detections: list[dict] = []
    listed: list[tuple[str, int, tuple[int, int]]] = []

    def readable() -> "Iterator[tuple[str, int, np.ndarray]]":
        rows = zip(numbers.files, numbers.names, numbers.ids, numbers.sizes, strict=True)
        for file, name, number, size in progress.follow(rows):
            with failures.passing_over():
                image = InputImage(file, str(file), oriented=not given.ignore_exif, max_pixels=max_pixels, size=size)
                yield name, number, image.pixels()

    with log.Progress(len(numbers.files), "images") as progress:
        images = readable()
        while group := list(islice(images, given.batch)):
            boxes_and_scores = detector.batch([pixels[..., ::-1].copy() for _, _, pixels in group])
            for (name, number, pixels), (boxes, scores) in zip(group, boxes_and_scores, strict=True):
                detections += [
                    {"image_id": number, "category_id": numbers.category["id"], "bbox": box, "score": score}
                    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
                ]
                listed.append((name, number, (pixels.shape[1], pixels.shape[0])))
    if not listed:
        failures.end(done=0)

    write_text(given.out, json.dumps(detections))
    if not given.annotations:
        write_text(images_file, json.dumps(inputs.image_list(listed, numbers.category, not given.ignore_exif)))
    log.logger.info("%s: %d boxes in %d images", given.out, len(detections), len(listed))
    failures.end(len(listed))
