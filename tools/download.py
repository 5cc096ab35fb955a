"""Get weights: python tools/download.py --list | NAME …"""

import argparse
from pathlib import Path

from transpose import cli
from transpose.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description="Download released models and ImageNet weights, and check them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a model or of ImageNet weights")
    parser.add_argument("--list", action="store_true", help="say which there are, and which are here")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where they go; else where the recipes look")
    arguments = parser.parse_args()
    if bool(arguments.names) == arguments.list:
        raise UserError("name what to download, or ask for --list")

    from transpose import log, zoo

    log.start()
    if arguments.list:
        print(zoo.table(arguments.folder))
        return
    for name in arguments.names:
        get = zoo.backbone if name in zoo.BACKBONES else zoo.weights
        log.logger.info("%s: %s", name, get(name, arguments.folder))


if __name__ == "__main__":
    cli.run(main)
