"""Get weights: python tools/download.py --list | NAME …"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Download released models and ImageNet weights, and check them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a model or of ImageNet weights")
    parser.add_argument("--list", action="store_true", help="list what there is, and which files are here")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where they go; else where the recipes look, without a clone the cache",
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.names) == arguments.list:
        raise UserError("name what to download, or pass --list")

    from ..config.paths import repository_root
    from ..models import zoo
    from ..runtime import log

    log.start()
    if arguments.list:
        print(zoo.table(arguments.folder))
        return
    clone = repository_root()
    for name in arguments.names:
        get, place = (zoo.backbone, zoo.IMAGENET_FOLDER) if name in zoo.BACKBONES else (zoo.weights, zoo.FOLDER)
        folder = arguments.folder or (clone / place if (clone / "experiments").is_dir() else None)
        log.logger.info("%s: %s", name, get(name, folder))
