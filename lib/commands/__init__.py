"""The commands: `transpose NAME …` of the installed package, and the clone's tools/*.py, call the same code."""

import argparse
import importlib
import sys

from .. import __version__, cli

# Command -> what it does. Its code is in the module of that name, with "_" for "-".
COMMANDS = {
    "train": "train a model and validate it",
    "test": "test a model: COCO's AP or MPII's PCKh",
    "predict": "find the keypoints of the persons in images and videos",
    "detect": "find the bounding boxes of the persons in images",
    "export": "export a network to ONNX, OpenVINO or PyTorch",
    "visualize": "draw what the network attends to on one person",
    "attention-stats": "measure attention over a whole data set",
    "analyze": "report what costs AP: errors by kind, keypoint and slice",
    "check-data": "check the data that a configuration names",
    "calibrate": "fit a confidence and a covariance for each keypoint",
    "sigmas": "measure OKS sigmas from repeated annotations",
    "verify-coco": "test the released models against the published table",
    "draw": "draw the persons of a results file",
    "download": "download released models and ImageNet weights",
    "convert": "convert weights between .pth and .safetensors",
    "benchmark": "measure speed",
    "web": "serve a web page of predictions and attention",
}


def run(name: str) -> None:
    """Run a command with the options from the command line."""
    cli.run(lambda: _call(name))


def main() -> None:
    """The installed command `transpose`, and python -m transpose."""
    cli.run(lambda: _call(_chosen()))


def _call(name: str) -> None:
    importlib.import_module(f".{name.replace('-', '_')}", __name__).main()


def _chosen() -> str:
    """The command that the first argument names, which is removed: sys.argv becomes that of the command alone."""
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
