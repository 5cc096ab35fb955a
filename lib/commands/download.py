"""Get weights: python tools/download.py --list | NAME …"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Download released models and ImageNet weights, and check them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a model or of ImageNet weights")
    parser.add_argument("--list", action="store_true", help="say which there are, and which are here")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where they go; else where the recipes look")
    arguments = parser.parse_args(argv)
    if bool(arguments.names) == arguments.list:
        raise UserError("name what to download, or ask for --list")

    from ..models import zoo
    from ..runtime import log

    log.start()
    if arguments.list:
        print(zoo.table(arguments.folder))
        return
    for name in arguments.names:
        get = zoo.backbone if name in zoo.BACKBONES else zoo.weights
        log.logger.info("%s: %s", name, get(name, arguments.folder))
