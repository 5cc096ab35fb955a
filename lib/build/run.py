"""The configuration -> a run's folders, PyTorch's switches, and what may change when it is resumed."""

import logging
import os
import random
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
import yaml
from yacs.config import CfgNode

from ..config.check import REMOVED
from ..config.default import defaults
from ..config.load import differences
from ..engine.monitor import Monitor, Pictures
from ..explain import figures
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime.files import make_writable, write_atomically
from .model import CONFIG_FILE, SKELETON_FILE

logger = logging.getLogger(__name__)


def _run_place(cfg: CfgNode) -> Path:
    """<dataset>/<model name>, under which a run's folders lie."""
    hybrid = cfg.DATASET.HYBRID_JOINTS_TYPE
    return Path(f"{cfg.DATASET.DATASET}_{hybrid}" if hybrid else cfg.DATASET.DATASET) / cfg.MODEL.NAME


def run_folder(cfg: CfgNode, name: str) -> Path:
    """output/<dataset>/<model name>/<name>, made if need be. Raises UserError if it cannot be written."""
    folder = Path(cfg.OUTPUT_DIR) / _run_place(cfg) / name
    make_writable(folder, "--modelDir")
    return folder


def log_folder(cfg: CfgNode, name: str, stamp: str) -> Path:
    """log/<dataset>/<model name>/<name>_<time>"""
    return Path(cfg.LOG_DIR) / _run_place(cfg) / f"{name}_{stamp}"


# What may differ when a run goes on: where things are, how fast they come, what is written down.
FREE_TO_CHANGE = (
    "OUTPUT_DIR",
    "LOG_DIR",
    "DATA_DIR",
    "WORKERS",
    "PRINT_FREQ",
    "AUTO_RESUME",
    "PIN_MEMORY",
    "RANK",
    "CUDNN",
    "DEBUG",
    "MODEL.PRETRAINED",
    "DATASET.ROOT",
    "DATASET.DATA_FORMAT",
    "DATASET.IMAGES",
    "DATASET.ANNOTATIONS",
    "DATASET.CACHE_MB",
    "DATASET.MAX_IMAGE_PIXELS",
    "DATASET.DECODED_DIR",
    "DATASET.INDEX_CACHE",
    "TRAIN.CHECKPOINT_EVERY",
    "TRAIN.IGNORE_LOCK",
    "TRAIN.RESUME_CHANGED",
    "TEST.MODEL_FILE",
    "TEST.COCO_BBOX_FILE",
    "TEST.BATCH_SIZE_PER_GPU",
    "TEST.SCORER",
    "TEST.BACKEND",
    "TEST.COMPILE",
)


def plain(cfg: CfgNode) -> dict:
    """The configuration as nested dicts of plain values."""
    return {
        key: plain(value) if isinstance(value, CfgNode) else list(value) if isinstance(value, tuple) else value
        for key, value in cfg.items()
    }


def _filled(tree: dict, defaults: dict) -> dict:
    """Nested dicts with what they lack."""
    return defaults | {
        key: _filled(value, defaults[key]) if isinstance(value, dict) and key in defaults else value
        for key, value in tree.items()
    }


def config_changes(old: dict, cfg: CfgNode) -> list[str]:
    """Lines "KEY: old -> new" for what a resumed run would train or judge differently."""
    new = plain(cfg)
    old = _filled(old, plain(defaults()))  # a checkpoint of before a key was there was trained with its default
    pair = [tree | {"GPUS": len(tree["GPUS"])} for tree in (old, new)]
    return [line for line in differences(*pair) if not line.startswith((*FREE_TO_CHANGE, *REMOVED))]


def set_backends(cfg: CfgNode, deterministic: bool = False) -> None:
    """PyTorch's global switches, and the seed of what is drawn while building or by additions.

    With `deterministic` an operation that cannot give the same bits twice raises RuntimeError.
    """
    torch.backends.cudnn.benchmark = cfg.CUDNN.BENCHMARK
    torch.backends.cudnn.deterministic = cfg.CUDNN.DETERMINISTIC
    torch.backends.cudnn.enabled = cfg.CUDNN.ENABLED
    torch.backends.cudnn.allow_tf32 = cfg.CUDNN.TF32
    torch.backends.cuda.matmul.allow_tf32 = cfg.CUDNN.TF32_MATMUL
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS asks for
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    random.seed(cfg.SEED)
    np.random.seed(cfg.SEED % 2**32)
    torch.manual_seed(cfg.SEED)


def build_monitor(cfg: CfgNode, kind: Skeleton, log_folder: Path, folder: Path) -> Monitor:
    """TensorBoard in `log_folder`, and the pictures that DEBUG asks for in `folder`/pictures."""
    make_writable(log_folder, "--logDir")
    debug = cfg.DEBUG
    wanted = Pictures()
    if debug.DEBUG:
        wanted = Pictures(
            debug.SAVE_BATCH_IMAGES_GT,
            debug.SAVE_BATCH_IMAGES_PRED,
            debug.SAVE_HEATMAPS_GT,
            debug.SAVE_HEATMAPS_PRED,
            debug.SAVE_ATTENTION,
        )
        if wanted.attention:
            figures.check_package()
    return Monitor(log_folder, folder / "pictures", wanted, kind, cfg.DATASET.COLOR_RGB)


def describe_run(cfg: CfgNode, kind: Skeleton, folder: Path) -> None:
    """Write the resolved configuration and the skeleton beside a run's weights."""
    keypoints = yaml.safe_dump(skeletons.to_mapping(kind), sort_keys=False)
    content = {CONFIG_FILE: cfg.dump(), SKELETON_FILE: keypoints}
    for name, text in content.items():
        write_atomically(folder / name, partial(_write, text=text))


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())
