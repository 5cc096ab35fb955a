"""Find boxes: python tools/detect.py SOURCE… --out FILE.json, for TEST.COCO_BBOX_FILE and for predict.py --boxes"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Find the persons in photographs: COCO detections, one box a person.")
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help='photograph, folder or pattern ("photos/**/*.jpg")')
    add("--out", type=Path, required=True, metavar="FILE", help="detections to write, JSON")
    add("--annotations", type=Path, metavar="FILE", help="COCO annotation file that gives the photographs their ids")
    add("--detector", default="fasterrcnn", metavar="NAME", help="fasterrcnn or retinanet (%(default)s)")
    add("--weights", type=Path, metavar="FILE", help="its weights; else torchvision's, downloaded on first use")
    add("--score", type=float, default=0.05, metavar="S", help="leave out boxes scored less (%(default)s)")
    add("--batch", type=int, default=4, metavar="N", help="photographs at a time (%(default)s)")
    add("--max-pixels", type=int, metavar="N", help="refuse a file with more, before it is decoded (134 million)")
    add("--honour-exif", action="store_true", help="turn photographs as EXIF says, which tools/test.py does not")
    add("--device", help="cpu, cuda, cuda:1 …; else a GPU if there is one")
    add("--overwrite", action="store_true", help="replace files that are there already")
    given = parser.parse_args(argv)

    from ..dataset.images import MAX_PIXELS
    from ..models.backends import usable_device
    from ..predictor import inputs
    from ..predictor.detector import Detector
    from ..predictor.image import InputImage
    from ..runtime import log
    from ..runtime.files import write_atomically

    log.start()
    found = inputs.expand(given.sources)
    if found.videos or found.cameras:
        raise UserError(
            f"{[*found.videos, *found.cameras][0]}: boxes are found in photographs; predict.py reads videos"
        )
    numbers = inputs.numbering(found.photographs, given.annotations)
    listed = given.out.with_name(f"{given.out.stem}_images.json")
    for path in [given.out] if given.annotations else [given.out, listed]:
        if path.exists() and not given.overwrite:
            raise UserError(f"{path}: there already; --overwrite replaces it, --out chooses another")
    max_pixels = MAX_PIXELS if given.max_pixels is None else given.max_pixels
    if max_pixels < 1:
        raise UserError(f"--max-pixels must be 1 or more, not {max_pixels}")
    usable_device(given.device)
    detector = Detector(
        given.detector, given.weights, threshold=given.score, batch_size=given.batch, device=given.device
    )

    detections: list[dict] = []
    sizes: list[tuple[int, int]] = []
    broken = None
    with log.Progress(len(found.photographs), "photographs") as progress:
        for start in range(0, len(found.photographs), given.batch):
            files = found.photographs[start : start + given.batch]
            pixels = []
            try:
                for file in progress.follow(files):
                    photograph = InputImage(file, str(file), oriented=given.honour_exif, max_pixels=max_pixels)
                    pixels.append(photograph.pixels())
            except UserError as error:
                done = len(sizes) + len(pixels)
                if not done:
                    raise
                broken = inputs.cut_short(error, done, "photograph")
            boxes_and_scores = detector.batch([image[..., ::-1].copy() for image in pixels])
            for number, (boxes, scores) in zip(numbers.ids[start:], boxes_and_scores, strict=False):
                detections += [
                    {"image_id": number, "category_id": numbers.category["id"], "bbox": box, "score": score}
                    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
                ]
            sizes += [(image.shape[1], image.shape[0]) for image in pixels]
            if broken is not None:
                break

    def write(path: Path, content: object) -> None:
        write_atomically(path, lambda file: file.write(json.dumps(content).encode()))

    write(given.out, detections)
    if not given.annotations:
        write(listed, inputs.image_list(found.photographs, sizes, numbers))
    log.logger.info("%s: %d boxes in %d photographs", given.out, len(detections), len(sizes))
    if broken is not None:
        raise broken
