"""Train a model and validate it: python tools/train.py --cfg experiments/….yaml [KEY VALUE …]"""

import sys
from collections.abc import Sequence
from pathlib import Path

from .. import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("Train TransPose, validate by COCO's AP, keep the best and the last weights.")
    parser.add_argument("--deterministic", action="store_true", help="bit-identical results each time; slower on a GPU")
    arguments = parser.parse_args(argv)
    cfg = cli.configuration(arguments)

    from ..build.run import build_trainer, log_folder, read_state, run_folder, set_backends
    from ..engine.resume import describe_best
    from ..runtime import distributed, log

    distributed.start_one_process_per_gpu(cfg.GPUS)
    device = distributed.start(cfg.GPUS)
    set_backends(cfg, deterministic=arguments.deterministic)
    name, stamp = Path(arguments.cfg).stem, log.time_stamp()
    folder, logs = run_folder(cfg, name), log_folder(cfg, name, stamp)
    saved = read_state(cfg, folder)
    if saved is not None and saved["epoch"] >= cfg.TRAIN.END_EPOCH:
        log.logger.info(
            "%s: this run is finished (%d epochs, %s); test it with tools/test.py, or continue with a larger "
            "TRAIN.END_EPOCH and TRAIN.RESUME_CHANGED True",
            *(folder, saved["epoch"], describe_best(saved["best"])),
        )
        return

    trainer = build_trainer(cfg, name, folder, device, saved, logs)
    if distributed.rank() == 0:
        log.to_file(folder / f"{name}_{stamp}_train.log")
        log.logger.info("run: %s; TensorBoard: %s", folder, logs)
    stopped_by = trainer.run()
    distributed.stop()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
