"""The commands: `transpose NAME …` of the installed package, and the clone's tools/*.py, call the same code."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from .. import cli

# Name -> what it does, in the module of that name ("-" is "_").
COMMANDS = {
    "train": "train a model and validate it",
    "test": "test a model: COCO's AP or MPII's PCKh",
    "predict": "find the keypoints of the people in images and videos",
    "detect": "find the boxes of the people in images",
    "export": "write a network for ONNX Runtime, OpenVINO or PyTorch",
    "visualize": "draw what the network attends to on one person",
    "attention-stats": "measure attention on a whole set",
    "check-data": "check the data that a configuration names",
    "draw": "draw a results file",
    "download": "download released models and ImageNet weights",
    "convert": "convert weights between .pth and .safetensors",
    "benchmark": "measure speed",
    "web": "show a web page of predictions and attention",
}


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command; `argv` is what follows its name, by default what the program was started with."""
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    cli.run(lambda: module.main(argv))


def main() -> None:
    """The installed command `transpose`."""
    parser = argparse.ArgumentParser(prog="transpose", description="2D human pose estimation with TransPose.")
    lines = [f"  {name:16} {what}" for name, what in COMMANDS.items()]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["commands:", *lines, "", "transpose COMMAND --help tells a command's options."])
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    command = parser.parse_args(sys.argv[1:2]).command
    run(command, sys.argv[2:])
