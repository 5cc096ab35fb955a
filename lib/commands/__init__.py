"""The commands: `transpose NAME …` of the installed package, and the clone's tools/*.py, call the same code."""

import argparse
import importlib
import sys

from .. import __version__, cli

# Name -> what it does, in the module of that name ("-" is "_").
COMMANDS = {
    "train": "train a model and validate it",
    "test": "test a model: COCO's AP or MPII's PCKh",
    "predict": "find the keypoints of the persons in images and videos",
    "detect": "find the boxes of the persons in images",
    "export": "write a network for ONNX Runtime, OpenVINO or PyTorch",
    "visualize": "draw what the network attends to on one person",
    "attention-stats": "measure attention on a whole set",
    "analyze": "say what costs AP: errors by kind, keypoint and slice",
    "check-data": "check the data that a configuration names",
    "calibrate": "fit how sure a keypoint is: confidence and covariance",
    "sigmas": "measure OKS sigmas by repeated annotations",
    "verify-coco": "test the released models against the published table",
    "draw": "draw a results file",
    "download": "download released models and ImageNet weights",
    "convert": "convert weights between .pth and .safetensors",
    "benchmark": "measure speed",
    "web": "show a web page of predictions and attention",
}


def run(name: str) -> None:
    """Run a command with the options that the program was started with."""
    cli.run(lambda: _call(name))


def main() -> None:
    """The installed command `transpose`, and python -m transpose."""
    cli.run(lambda: _call(_chosen()))


def _call(name: str) -> None:
    importlib.import_module(f".{name.replace('-', '_')}", __name__).main()


def _chosen() -> str:
    """The command that the first argument names; sys.argv then looks as if it had been started directly."""
    lines = [f"  {name:16} {what}" for name, what in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="transpose",
        description="2D human pose estimation with TransPose.",
        epilog="\n".join(["commands:", *lines, "", "transpose COMMAND --help lists a command's options."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    command: str = parser.parse_args(sys.argv[1:2]).command
    sys.argv[:2] = [f"transpose {command}"]  # --help shows it, and distributed starts more processes of it
    return command
