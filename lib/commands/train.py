"""Train a model and validate it: python tools/train.py --cfg experiments/….yaml [KEY VALUE …]"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .. import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Train TransPose, validate by COCO's AP, keep the best and the last weights.")
    parser.add_argument("--deterministic", action="store_true", help="the same bits each time, on a GPU at some cost")
    arguments = parser.parse_args(argv)
    cfg = cli.configuration(arguments)

    from ..build.data import build_training_data, shared_skeleton
    from ..build.evaluation import build_evaluation
    from ..build.model import build_model, check_start_weights, freeze_parameters, load_start_weights
    from ..build.optim import build_criterion, build_learning_rate, build_optimizer, build_targets, training_precision
    from ..build.run import build_monitor, config_changes, describe_run, log_folder, plain, run_folder, set_backends
    from ..engine.resume import claim_folder, in_words, saved_state
    from ..engine.trainer import Trainer
    from ..runtime import distributed, log

    distributed.start_one_process_per_gpu(cfg.GPUS)
    device = distributed.start(cfg.GPUS)
    set_backends(cfg, deterministic=arguments.deterministic)
    name, stamp = Path(arguments.cfg).stem, log.time_stamp()
    folder, logs = run_folder(cfg, name), log_folder(cfg, name, stamp)

    precision = training_precision(cfg, device)
    claim_folder(folder, cfg.TRAIN.IGNORE_LOCK)
    saved = saved_state(folder, cfg.AUTO_RESUME, partial(config_changes, cfg=cfg), cfg.TRAIN.RESUME_CHANGED)
    if saved is not None and saved["epoch"] >= cfg.TRAIN.END_EPOCH:
        log.logger.info(
            "%s: this run is finished (%d epochs, %s); test it with tools/test.py, or train on with a larger "
            "TRAIN.END_EPOCH and TRAIN.RESUME_CHANGED True",
            *(folder, saved["epoch"], in_words(saved["best"])),
        )
        return

    model = build_model(cfg)
    if saved is None:
        check_start_weights(cfg)
    loader, plan = build_training_data(cfg, device)
    evaluation = build_evaluation(cfg, device)
    kind = shared_skeleton(loader, evaluation)
    if saved is None:
        load_start_weights(cfg, model, kind)
    freeze_parameters(cfg, model)
    model.to(device)
    if cfg.TRAIN.COMPILE:
        model.compile()
    optimizer = build_optimizer(cfg, model)
    main_process = distributed.rank() == 0
    if main_process:
        log.to_file(folder / f"{name}_{stamp}_train.log")
        describe_run(cfg, kind, folder)
        log.logger.info("run: %s; TensorBoard: %s", folder, logs)
    run = Trainer(
        name=name,
        folder=folder,
        config=plain(cfg),
        model=model,
        loader=loader,
        plan=plan,
        optimizer=optimizer,
        criterion=build_criterion(cfg),
        targets=build_targets(cfg, kind, device),
        learning_rate=build_learning_rate(cfg),
        evaluation=evaluation,
        monitor=build_monitor(cfg, kind, logs, folder) if main_process else None,
        device=device,
        precision=precision,
        epoch=cfg.TRAIN.BEGIN_EPOCH,
        epochs=cfg.TRAIN.END_EPOCH,
        validate_every=cfg.TRAIN.VALIDATE_EVERY,
        report_every=cfg.PRINT_FREQ,
        checkpoint_every=cfg.TRAIN.CHECKPOINT_EVERY,
        clip=cfg.TRAIN.CLIP_GRAD,
        skip_broken=cfg.TRAIN.SKIP_NONFINITE,
        ema=cfg.TRAIN.EMA,
    )
    if saved is not None:
        run.resume(saved)
    stopped_by = run.run()
    distributed.stop()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
