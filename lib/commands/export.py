"""Write a trained network for other programs: python tools/export.py --model SOURCE --format onnx [--with-decode]"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

FORMATS = "onnx", "openvino", "torchscript", "torch-export"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Export a network, run the file on the bundled sample, and keep it if it finds what PyTorch finds."
    )
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="a run's folder, a checkpoint, or a name of the model zoo"
    )
    parser.add_argument("--cfg", metavar="YAML", help="a checkpoint's recipe, if no config.yaml lies beside it")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what is written")
    parser.add_argument("--half", action="store_true", help="16-bit weights")
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of crops at once; else one")
    parser.add_argument(
        "--with-decode", action="store_true", help="from 8-bit crops to keypoints; else from images to heatmaps"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="else beside the weights, named after them")
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
        raise UserError(f"{arguments.model}: exported already; name the run's folder or checkpoint it was made from")
    suffix = export.FORMATS[arguments.format].suffix
    kinds = "_keypoints" * arguments.with_decode + "_half" * arguments.half
    out = arguments.out or trained.weights.with_name(f"{trained.weights.stem}{kinds}{suffix}")
    if out.suffix != suffix:
        raise UserError(f"--out {out}: a file of the format {arguments.format} ends in {suffix}")
    for file in (out, *([out.with_suffix(".bin")] if arguments.format == "openvino" else [])):
        if file.exists() and not arguments.overwrite:
            raise UserError(f"{file}: this file exists already; choose another with --out, or pass --overwrite")
    found = export.export(
        trained,
        out,
        build_sample_evaluation(input_size(trained.network)),
        half=arguments.half,
        any_batch=arguments.dynamic_batch,
        decodes=arguments.with_decode,
    )
    log.logger.info("%s: %s\n%s", arguments.format, out, found.describe())
