"""Download weights: python tools/download.py --list | NAME …"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Download released models and ImageNet weights, and verify their checksums."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="released model (tp_r_a4 …) or ImageNet weights")
    parser.add_argument("--list", action="store_true", help="list all names, and which files are downloaded")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where to put the files (default: where the recipes look; outside a clone, the cache)",
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.names) == arguments.list:
        raise UserError("give the names of what to download, or pass --list")

    from ..config.paths import repository_root
    from ..models import zoo
    from ..runtime import log

    log.start()
    if arguments.list:
        print(table(arguments.folder))
        return
    clone = repository_root()
    failures, done = cli.Failures(), 0
    for name in arguments.names:
        get, place = (zoo.backbone, zoo.IMAGENET_FOLDER) if name in zoo.BACKBONES else (zoo.weights, zoo.FOLDER)
        folder = arguments.folder or (clone / place if (clone / "experiments").is_dir() else None)
        with failures.passing_over():
            log.logger.info("%s: %s", name, get(name, folder))
            done += 1
    failures.end(done)


def table(folder: Path | None) -> str:
    """All names, as lines of text: sizes, published AP, and which files are in `folder`, or where
    `zoo.weights` looks."""
    from ..models import zoo

    def file(place: str, name: str) -> str:
        path = zoo.place(folder, place, name)
        return f"{path}  (here)" if path.exists() else name

    lines = [
        "COCO, released by the authors; AP on val2017 with detected and with annotated boxes as published",
        f"{'name':10} {'parameters':>11} {'GFLOPs':>7} {'published':>9} {'AP':>5} {'AP gt':>5}  file",
    ]
    for name, entry in zoo.RELEASED.items():
        lines.append(
            f"{name:10} {entry.parameters:11,} {entry.gflops:7.2f} {entry.published_gflops:9.1f} "
            f"{entry.published_ap:5.3f} {entry.published_ap_gt:5.3f}  {file(zoo.FOLDER, entry.file)}"
        )
    lines += ["(GFLOPs: measured, a multiply-add counts as 2; published: as 1)", "", "ImageNet, to start training from"]
    for name, backbone in zoo.BACKBONES.items():
        line = f"{name:10} {file(zoo.IMAGENET_FOLDER, backbone.file)}"
        lines.append(line if backbone.url else f"{line}; get it from {backbone.source}")
    return "\n".join(lines)
