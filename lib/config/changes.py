"""The differences between a configuration and the one that a run was started with."""

from typing import Any

from yacs.config import CfgNode

from .check import REMOVED
from .default import defaults
from .load import leaves

# Keys that may change when a run is resumed: paths, speed, and what is logged or saved.
FREE_TO_CHANGE = (
    "OUTPUT_DIR",
    "LOG_DIR",
    "DATA_DIR",
    "WORKERS",
    "PRINT_FREQ",
    "AUTO_RESUME",
    "PIN_MEMORY",
    "RANK",
    "CUDNN.BENCHMARK",
    "CUDNN.DETERMINISTIC",
    "CUDNN.ENABLED",
    "DEBUG",
    "MODEL.PRETRAINED",
    "DATASET.ROOT",
    "DATASET.DATA_FORMAT",
    "DATASET.IMAGES",
    "DATASET.ANNOTATIONS",
    "DATASET.CACHE_MB",
    "DATASET.MAX_IMAGE_PIXELS",
    "DATASET.DECODED_DIR",
    "TRAIN.CHECKPOINT_EVERY",
    "TRAIN.IGNORE_LOCK",
    "TRAIN.RESUME_CHANGED",
    "TEST.MODEL_FILE",
    "TEST.COCO_BBOX_FILE",
    "TEST.BATCH_SIZE_PER_GPU",
    "TEST.BACKEND",
    "TEST.COMPILE",
)


def as_dict(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as nested dicts of plain values."""
    return {
        key: as_dict(value) if isinstance(value, CfgNode) else list(value) if isinstance(value, tuple) else value
        for key, value in cfg.items()
    }


def config_changes(old: dict[str, Any], cfg: CfgNode) -> list[str]:
    """Lines "KEY: old -> new" for all changes that would affect training or evaluation of a resumed run."""
    # A checkpoint older than a key was trained with the key's default.
    before, after = (dict(leaves(as_dict(defaults()))) | dict(leaves(tree)) for tree in (old, as_dict(cfg)))
    for values in (before, after):
        values["GPUS"] = len(values["GPUS"])
    return [
        f"{key}: {value} -> {after.get(key, '(absent)')}"
        for key, value in before.items()
        if value != after.get(key) and not is_free(key)
    ]


def is_free(key: str) -> bool:
    """Whether a resumed run may change a key: the key or its section is listed, or the key was removed."""
    return key.split(".")[0] in FREE_TO_CHANGE or key in FREE_TO_CHANGE or key in REMOVED
