"""Test a model: python tools/test.py --cfg experiments/….yaml [TEST.MODEL_FILE FILE] [KEY VALUE …]"""

from pathlib import Path

from transpose import cli


def main() -> None:
    arguments = cli.parser("Test TransPose: keypoints, results file, and COCO's AP or MPII's PCKh.").parse_args()
    cfg = cli.configuration(arguments)

    from transpose import build, distributed, log
    from transpose.core.evaluate import markdown_table

    distributed.start_one_process_per_gpu(cfg.GPUS)
    device = distributed.start(cfg.GPUS)
    build.set_backends(cfg)
    name = Path(arguments.cfg).stem
    folder = build.run_folder(cfg, name)
    if distributed.rank() == 0:
        log.to_file(folder / f"{name}_{log.time_stamp()}_test.log")

    model = build.model(cfg)
    weights = build.load_trained(cfg, model, folder)
    evaluation = build.evaluation(cfg, device)
    predictions = evaluation.predict(model.to(device))
    if distributed.rank() == 0:
        metrics = evaluation.judge(predictions, folder, str(weights))
        log.logger.info("weights: %s", weights)
        log.logger.info("%s", evaluation.describe())
        if metrics is not None:
            log.logger.info("%s", markdown_table(name, metrics))
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)
