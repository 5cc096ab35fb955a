"""Fit confidence and covariance: python tools/calibrate.py --cfg experiments/….yaml [--held-out SET] [KEY VALUE …]"""

from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Fit the confidence and covariance of keypoints on the annotated boxes of DATASET.TEST_SET.")
    add = parser.add_argument
    add(
        "--held-out",
        metavar="SET",
        help="the set to measure the fit on (default: five-fold cross-validation over the images)",
    )
    add(
        "--similarity",
        type=float,
        default=0.5,
        metavar="S",
        help="a keypoint with this OKS or more is right (default: %(default)s)",
    )
    add("--picture", type=Path, metavar="FILE", help="reliability diagram to write (.png, .jpg, .svg)")
    add("--overwrite", action="store_true", help="replace an existing calibration and picture")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.similarity < 1:
        raise UserError(f"--similarity must be between 0 and 1, not {arguments.similarity:g}")
    arguments.opts += ["TEST.USE_GT_BBOX", "True"]
    cfg = cli.configuration(arguments)
    if arguments.held_out == cfg.DATASET.TEST_SET:
        raise UserError(
            f"--held-out {arguments.held_out}: the calibration is fitted on this set (DATASET.TEST_SET); name another"
        )

    from ..analysis import confidence
    from ..build.evaluation import build_evaluation
    from ..build.model import build_model, build_test_options, load_trained
    from ..build.run import run_folder
    from ..evaluation import calibration
    from ..evaluation.evaluate import CocoEvaluation
    from ..explain import figures
    from ..runtime import distributed, files, log

    if arguments.picture:
        figures.check_name(arguments.picture)
    device = distributed.start(cfg.GPUS)
    model = build_model(cfg)
    weights = load_trained(cfg, model, run_folder(cfg, Path(arguments.cfg).stem))
    path = calibration.place(weights)
    for file in (path, arguments.picture):
        if file and file.exists() and not arguments.overwrite:
            raise UserError(f"{file}: exists already; pass --overwrite to replace it")
    sets = [build_evaluation(cfg, device)]
    if arguments.held_out:
        arguments.opts += ["DATASET.TEST_SET", arguments.held_out]
        sets.append(build_evaluation(cli.configuration(arguments, report=False), device))
    weights_sum, options = files.checksum(weights), build_test_options(cfg)

    def fitted(data: calibration.Labelled) -> calibration.Calibration:
        return calibration.fit(data, arguments.similarity, weights_sum, options)

    parts = []
    for each in sets:
        if not isinstance(each, CocoEvaluation):
            raise UserError(
                f"{each.name}: a calibration needs annotations in COCO's format, because OKS divides by their areas"
            )
        parts.append(confidence.collect(each, model.to(device), arguments.similarity))
    found = fitted(parts[0])
    tested = confidence.apply(found, parts[1]) if arguments.held_out else confidence.cross_fit(parts[0], fitted)
    calibration.write(path, found)
    log.logger.info("weights: %s", weights)
    log.logger.info("fitted on %s", sets[0].describe())
    log.logger.info("measured on %s", sets[1].describe() if arguments.held_out else f"{confidence.FOLDS} folds of it")
    print("\n".join(confidence.describe(tested, found)))
    if arguments.picture:
        confidence.reliability_diagram(tested, found, arguments.picture)
        print(f"reliability diagram: {arguments.picture}")
    print(f"calibration: {path}")
