"""Export a trained network: python tools/export.py --model SOURCE --format onnx [--with-decode]"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

FORMATS = "onnx", "openvino", "torchscript", "torch-export"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Export a network, and keep the file if its keypoints on the bundled sample agree with PyTorch's."
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="SOURCE",
        help="output folder of a run, checkpoint, or released model (tp_r_a4 …)",
    )
    parser.add_argument("--cfg", metavar="YAML", help="configuration of a checkpoint that has no config.yaml beside it")
    parser.add_argument("--format", required=True, choices=FORMATS, help="file format")
    parser.add_argument("--half", action="store_true", help="16-bit weights")
    parser.add_argument("--dynamic-batch", action="store_true", help="any batch size (default: 1)")
    parser.add_argument(
        "--with-decode",
        action="store_true",
        help="from 8-bit crops to keypoints (default: from normalised images to heatmaps)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: beside the weights, with their name)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments = parser.parse_args(argv)

    from ..build.evaluation import build_sample_evaluation
    from ..models.backends import input_size
    from ..predictor import export
    from ..predictor.predictor import trained_network
    from ..runtime import log

    log.start()
    trained = trained_network(arguments.model, arguments.cfg)
    if isinstance(trained, export.Exported):
        raise UserError(
            f"{arguments.model}: this is an exported file; pass the run's folder or the checkpoint behind it"
        )
    suffix = export.FORMATS[arguments.format].suffix
    kinds = "_keypoints" * arguments.with_decode + "_half" * arguments.half
    out = arguments.out or trained.weights.with_name(f"{trained.weights.stem}{kinds}{suffix}")
    if out.suffix != suffix:
        raise UserError(f"--out {out}: a file of the format {arguments.format} ends in {suffix}")
    for file in (out, *([out.with_suffix(".bin")] if arguments.format == "openvino" else [])):
        if file.exists() and not arguments.overwrite:
            raise UserError(f"{file}: exists already; choose another with --out, or pass --overwrite")
    found = export.export(
        trained,
        out,
        build_sample_evaluation(input_size(trained.network)),
        half=arguments.half,
        any_batch=arguments.dynamic_batch,
        decodes=arguments.with_decode,
    )
    log.logger.info("%s: %s\n%s", arguments.format, out, found.describe())
