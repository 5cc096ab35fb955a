"""Whole runs as a user starts them, made small: commands, and what they leave."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.places import Run

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "experiments" / "coco_sample" / "demo.yaml"
# The demo made small: a step takes a few hundredths of a second. Dropout and augmentation draw random numbers.
SMALL = (
    "MODEL.IMAGE_SIZE [32,64] MODEL.HEATMAP_SIZE [8,16] MODEL.DIM_MODEL 16 MODEL.DIM_FEEDFORWARD 16 MODEL.N_HEAD 2 "
    "MODEL.DROPOUT 0.1 MODEL.EXTRA.NUM_DECONV_FILTERS [16] DATASET.FLIP True DATASET.SCALE_FACTOR 0.3 "
    "DATASET.ROT_FACTOR 30 TRAIN.END_EPOCH 2 TRAIN.VALIDATE_EVERY 2 TRAIN.WARMUP_EPOCHS 0 PRINT_FREQ 5 TRAIN.LR 0.001"
).split()
# The second lets torchrun start its processes again (docs/distributed.md).
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def command(tool: str, folder: Path, *overrides: str) -> list[str]:
    directories = ["--modelDir", str(folder / "output"), "--logDir", str(folder / "log")]
    return [sys.executable, str(ROOT / "tools" / tool), "--cfg", str(DEMO), *directories, *SMALL, *overrides]


def torchrun(processes: int, arguments: list[str], *options: str) -> list[str]:
    """The same command in several processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *options]
    return [sys.executable, *launch, *arguments[1:]]


def run(arguments: list[str], cwd: Path, preloaded: Run | None = None) -> str:
    """The output of a command that must succeed; it runs outside the repository's root."""
    if preloaded is not None:
        done = preloaded(Path(arguments[1]).stem, arguments[2:], cwd, {})
    else:
        done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_folder(folder: Path) -> Path:
    return folder / "output" / "coco" / "transpose_r" / "demo"
