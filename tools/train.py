"""Train a model and validate it: python tools/train.py --cfg experiments/….yaml [KEY VALUE …]"""

import sys
from functools import partial
from pathlib import Path

from transpose import cli


def main() -> None:
    parser = cli.parser("Train TransPose, validate by COCO's AP, keep the best and the last weights.")
    parser.add_argument("--deterministic", action="store_true", help="the same bits each time, on a GPU at some cost")
    arguments = parser.parse_args()
    cfg = cli.configuration(arguments)

    from transpose import build, distributed, log, training

    distributed.start_one_process_per_gpu(cfg.GPUS)
    device = distributed.start(cfg.GPUS)
    build.set_backends(cfg, deterministic=arguments.deterministic)
    name, stamp = Path(arguments.cfg).stem, log.time_stamp()
    folder, log_folder = build.run_folder(cfg, name), build.log_folder(cfg, name, stamp)

    precision = build.precision(cfg, device)
    training.claim(folder, cfg.TRAIN.IGNORE_LOCK)
    saved = training.saved_state(folder, cfg.AUTO_RESUME, partial(build.changes, cfg=cfg), cfg.TRAIN.RESUME_CHANGED)
    if saved is not None and saved["epoch"] >= cfg.TRAIN.END_EPOCH:
        log.logger.info(
            "%s: this run is finished (%d epochs, %s); test it with tools/test.py, or train on with a larger "
            "TRAIN.END_EPOCH and TRAIN.RESUME_CHANGED True",
            *(folder, saved["epoch"], training.in_words(saved["best"])),
        )
        return

    model = build.model(cfg)
    if saved is None:
        build.check_start(cfg)
    loader, plan = build.training_data(cfg, device)
    evaluation = build.evaluation(cfg, device)
    kind = build.shared_skeleton(loader, evaluation)
    if saved is None:
        build.start(cfg, model, kind)
    build.freeze(cfg, model)
    model.to(device)
    if cfg.TRAIN.COMPILE:
        model.compile()
    optimizer = build.optimizer(cfg, model)
    main_process = distributed.rank() == 0
    if main_process:
        log.to_file(folder / f"{name}_{stamp}_train.log")
        build.describe_run(cfg, kind, folder)
        log.logger.info("run: %s; TensorBoard: %s", folder, log_folder)
    run = training.Training(
        name=name,
        folder=folder,
        config=build.plain(cfg),
        model=model,
        loader=loader,
        plan=plan,
        optimizer=optimizer,
        criterion=build.criterion(cfg),
        targets=build.targets(cfg, kind, device),
        learning_rate=build.learning_rate(cfg),
        evaluation=evaluation,
        monitor=build.monitor(cfg, kind, log_folder, folder) if main_process else None,
        device=device,
        precision=precision,
        epoch=cfg.TRAIN.BEGIN_EPOCH,
        epochs=cfg.TRAIN.END_EPOCH,
        validate_every=cfg.TRAIN.VALIDATE_EVERY,
        report_every=cfg.PRINT_FREQ,
        checkpoint_every=cfg.TRAIN.CHECKPOINT_EVERY,
        clip=cfg.TRAIN.CLIP_GRAD,
        skip_broken=cfg.TRAIN.SKIP_NONFINITE,
    )
    if saved is not None:
        run.resume(saved)
    stopped_by = run.run()
    distributed.stop()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)


if __name__ == "__main__":
    cli.run(main)
