"""Check the data that a configuration names: python tools/check_data.py --cfg experiments/….yaml [KEY VALUE …]

Reads annotations, detections and images as tools/train.py and tools/test.py would, reports what is wrong with them
on one screen, and draws some instances as annotated and mirrored. Exit code 0: nothing stops a run or makes its result
wrong, though there may be notes; 1: something does; 2: there is nothing to check, or the command itself is wrong.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ..dataset.check.doctor import Report

WIDTH = 100  # characters of a line
HEIGHT = 224  # pixels of a crop on the sheet
PER_ROW = 3
TITLE = (
    "Samples as annotated and, beside each, mirrored as in training. If the left/right pairs are right, the "
    "second skeleton is the first one's mirror image with blue and orange exchanged; a limb that is wrong in the "
    "second only shows a wrong pair."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Check annotations, detections and images of a configuration; draw some of the instances.")
    parser.add_argument(
        "--images", default="200", metavar="N|all", help="images to read per set (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="instances to draw (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="picture to write (default: <OUTPUT_DIR>/check/<name of the yaml>.png)"
    )
    arguments = parser.parse_args(argv)
    if arguments.images != "all" and not arguments.images.isdecimal():
        raise UserError(f"--images must be a number or all, not {arguments.images!r}")
    if arguments.samples < 0:
        raise UserError(f"--samples must not be negative, not {arguments.samples}")
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out}: exists already; name another with --out, or move it away")
    cfg = cli.configuration(arguments)

    from ..build.data import data_report
    from ..pose import draw
    from ..runtime import log
    from ..runtime.files import write_atomically

    if arguments.out is not None:
        draw.check_name(arguments.out)  # before all images are read, not after
    log.start(quiet=True)  # the report contains what the tools would warn about
    number = None if arguments.images == "all" else int(arguments.images)
    report = data_report(cfg, number, log.follow("images"))
    for line in report.lines(WIDTH):
        print(line)
    sheet = contact_sheet(report, cfg.MODEL.IMAGE_SIZE[0] / cfg.MODEL.IMAGE_SIZE[1], arguments.samples)
    if sheet is not None:
        out = arguments.out or Path(cfg.OUTPUT_DIR) / "check" / f"{Path(arguments.cfg).stem}.png"
        content = draw.encode(sheet, out)
        write_atomically(out, lambda file: file.write(content))
        print(f"contact sheet: {out}")
    sys.exit(0 if report.healthy else 1)


def contact_sheet(report: "Report", aspect: float, number: int) -> "np.ndarray | None":
    """Instances of the report, BGR, unflipped beside flipped; None if there is none whose image can be read."""
    import numpy as np

    from ..dataset.check import doctor
    from ..dataset.topdown import TopDownDataset
    from ..pose import draw, sheets

    if report.instances is None or report.reader is None or report.skeleton is None or not number:
        return None
    size = round(HEIGHT * aspect), HEIGHT
    # A crop as large as its heatmap has its keypoints in its own pixels.
    crops = TopDownDataset(report.instances, report.reader, report.skeleton, size, size, rgb=False)
    gap = np.full((HEIGHT, 2, 3), sheets.PAPER, np.uint8)
    pictures, labels = [], []
    for candidates in doctor.samples(report.instances, number):
        for index in candidates[:5]:
            try:
                pair = crops[index], crops.mirrored(index)
            except UserError:
                continue
            drawn = [
                draw.persons(c["image"], c["keypoints"], c["visible"], report.skeleton, draw.DrawOptions(0.5))
                for c in pair
            ]
            pictures.append(np.concatenate([drawn[0], gap, drawn[1]], axis=1))
            image = report.instances.images.names[report.instances.image[index]]
            labels.append(f"{image}, annotation {report.instances.ids[index]}")
            break
    if not pictures:
        return None
    sheet = sheets.mosaic(pictures, PER_ROW, (2 * size[0] + 2, HEIGHT), labels)
    return sheets.legend(sheets.titled(sheet, TITLE), sheets.SIDES)
