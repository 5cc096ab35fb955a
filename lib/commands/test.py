"""Test a model: python tools/test.py --cfg experiments/….yaml [TEST.MODEL_FILE FILE] [KEY VALUE …]"""

from collections.abc import Sequence
from pathlib import Path

from .. import cli


def main(argv: Sequence[str] | None = None) -> None:
    arguments = cli.parser("Test TransPose: keypoints, results file, and COCO's AP or MPII's PCKh.").parse_args(argv)
    cfg = cli.configuration(arguments)

    from ..build.evaluation import build_evaluation
    from ..build.model import build_model, load_trained, refuse_other_order
    from ..build.run import run_folder, set_backends
    from ..evaluation.evaluate import markdown_table
    from ..runtime import distributed, log

    distributed.start_one_process_per_gpu(cfg.GPUS)
    device = distributed.start(cfg.GPUS)
    set_backends(cfg)
    name = Path(arguments.cfg).stem
    folder = run_folder(cfg, name)
    model = build_model(cfg)
    weights = load_trained(cfg, model, folder)
    if distributed.rank() == 0:
        log.to_file(folder / f"{name}_{log.time_stamp()}_test.log")
    evaluation = build_evaluation(cfg, device)
    refuse_other_order(weights, evaluation.crops.skeleton, evaluation.name)
    predictions = evaluation.predict(model.to(device))
    if distributed.rank() == 0:
        metrics = evaluation.evaluate(predictions, folder, str(weights))
        log.logger.info("weights: %s", weights)
        log.logger.info("%s", evaluation.describe())
        if metrics is not None:
            log.logger.info("%s", markdown_table(name, metrics))
    distributed.stop()
