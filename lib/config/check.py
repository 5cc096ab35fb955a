"""Which values are allowed, alone and together, and which keys of the original's files do nothing."""

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from ..errors import UserError, shown

logger = logging.getLogger(__name__)


# Keys that the original's files set and nothing reads, with the value of another key that brings some of them to life.
LEGACY: dict[str, tuple[str, str] | None] = {
    "MODEL.TAG_PER_JOINT": None,
    "MODEL.BOTTLENECK_NUM": None,
    "MODEL.INTERMEDIATE_SUP": None,
    "MODEL.EXTRA.STAGE2.FUSE_METHOD": None,
    "MODEL.EXTRA.STAGE3.FUSE_METHOD": None,
    "LOSS.USE_OHKM": None,
    "LOSS.TOPK": ("LOSS.NAME", "ohkm"),
    "DATASET.HYBRID_JOINTS_TYPE": None,
    "TRAIN.LR_STEP": ("TRAIN.SCHEDULE", "multistep"),
    "TRAIN.LR_FACTOR": ("TRAIN.SCHEDULE", "multistep"),
    "TRAIN.WD": ("TRAIN.OPTIMIZER", "sgd"),
    "TRAIN.MOMENTUM": ("TRAIN.OPTIMIZER", "sgd"),
    "TRAIN.NESTEROV": ("TRAIN.OPTIMIZER", "sgd"),
    "TRAIN.GAMMA1": None,
    "TRAIN.GAMMA2": None,
    "TRAIN.RESUME": None,
    "TRAIN.CHECKPOINT": None,
    "TEST.POST_PROCESS": None,
    "TEST.SHIFT_HEATMAP": None,
    "TEST.NMS_THRE": None,
    "TEST.BBOX_THRE": None,
}


PRECISIONS = ("float32", "bfloat16", "float16")


def check(cfg: CfgNode, where: str) -> None:
    """Values that do not fit each other or that nothing can run with."""

    def need(holds: bool, message: str) -> None:
        if not holds:
            raise UserError(f"{where}: {message}")

    def choice(key: str, value: Any, options: Sequence) -> None:
        listed = ", ".join(map(str, options))
        nearest = difflib.get_close_matches(str(value), [str(option) for option in options], n=1, cutoff=0)
        need(value in options, f"{key} must be one of {listed}, not {shown(value)}; the nearest is {nearest[0]}")

    model, extra, train, test, data = cfg.MODEL, cfg.MODEL.EXTRA, cfg.TRAIN, cfg.TEST, cfg.DATASET
    choice("MODEL.NAME", model.NAME, ("transpose_r", "transpose_h"))
    choice("MODEL.POS_EMBEDDING", model.POS_EMBEDDING, ("sine", "learnable", "none"))
    choice("MODEL.ATTENTION_ACTIVATION", model.ATTENTION_ACTIVATION, ("relu", "gelu"))
    choice("MODEL.TARGET_TYPE", model.TARGET_TYPE, ("gaussian",))
    choice("MODEL.EXTRA.FINAL_CONV_KERNEL", extra.FINAL_CONV_KERNEL, (1, 3))
    choice("LOSS.NAME", cfg.LOSS.NAME, ("mse", "ohkm"))
    choice("DATASET.DATASET", data.DATASET, ("coco", "mpii"))
    need(
        data.DATASET != "mpii" or data.SKELETON,
        "DATASET.DATASET mpii needs DATASET.SKELETON: experiments/mpii/skeleton.yaml",
    )
    need(data.DECODED_DIR or not data.ON_DEVICE, "DATASET.ON_DEVICE needs a folder for the photographs: DECODED_DIR")
    choice("TEST.SCORER", test.SCORER, ("pycocotools", "faster-coco-eval"))
    need(
        not data.ANNOTATIONS or "{set}" in data.ANNOTATIONS or data.TRAIN_SET == data.TEST_SET,
        f"DATASET.ANNOTATIONS {data.ANNOTATIONS} is one file for TRAIN_SET {data.TRAIN_SET} and TEST_SET "
        f"{data.TEST_SET}: write {{set}} where the set's name stands in it",
    )
    choice("TRAIN.OPTIMIZER", train.OPTIMIZER, ("adam", "adamw", "sgd"))
    choice("TRAIN.PRECISION", train.PRECISION, PRECISIONS)
    choice("TEST.PRECISION", test.PRECISION, PRECISIONS)
    choice("TEST.BACKEND", test.BACKEND, ("pytorch", "openvino", "onnxruntime"))
    need(
        test.BACKEND != "onnxruntime" or test.PRECISION == "float32",
        f"TEST.BACKEND onnxruntime computes in float32, not in TEST.PRECISION {test.PRECISION}; openvino does",
    )
    need(test.BACKEND == "pytorch" or not test.COMPILE, "TEST.COMPILE is for TEST.BACKEND pytorch alone")
    choice("TRAIN.SCHEDULE", train.SCHEDULE, ("cosine", "multistep"))

    need(len(cfg.GPUS) > 0 and min(cfg.GPUS) >= 0, f"GPUS must list GPU numbers, (0,) for one, not {cfg.GPUS}")
    need(len(set(cfg.GPUS)) == len(cfg.GPUS), f"GPUS {cfg.GPUS} lists a GPU twice")
    positive = {
        "PRINT_FREQ": cfg.PRINT_FREQ,
        "DATASET.MAX_IMAGE_PIXELS": data.MAX_IMAGE_PIXELS,
        "MODEL.NUM_JOINTS": model.NUM_JOINTS,
        "MODEL.SIGMA": model.SIGMA,
        "MODEL.DIM_MODEL": model.DIM_MODEL,
        "MODEL.DIM_FEEDFORWARD": model.DIM_FEEDFORWARD,
        "MODEL.ENCODER_LAYERS": model.ENCODER_LAYERS,
        "MODEL.N_HEAD": model.N_HEAD,
        "TRAIN.LR": train.LR,
        "TRAIN.BACKBONE_LR_FACTOR": train.BACKBONE_LR_FACTOR,
        "TRAIN.END_EPOCH": train.END_EPOCH,
        "TRAIN.VALIDATE_EVERY": train.VALIDATE_EVERY,
        "TRAIN.BATCH_SIZE_PER_GPU": train.BATCH_SIZE_PER_GPU,
        "TEST.BATCH_SIZE_PER_GPU": test.BATCH_SIZE_PER_GPU,
        "TEST.OKS_THRE": test.OKS_THRE,
    }
    for key, value in positive.items():
        need(value > 0, f"{key} must be positive, not {value}")
    not_negative = {
        "WORKERS": cfg.WORKERS,
        "SEED": cfg.SEED,
        "DATASET.CACHE_MB": data.CACHE_MB,
        "DATASET.ROT_FACTOR": data.ROT_FACTOR,
        "TRAIN.WARMUP_EPOCHS": train.WARMUP_EPOCHS,
        "TRAIN.BEGIN_EPOCH": train.BEGIN_EPOCH,
        "TRAIN.LR_END": train.LR_END,
        "TRAIN.WD": train.WD,
        "TRAIN.MOMENTUM": train.MOMENTUM,
        "TRAIN.CHECKPOINT_EVERY": train.CHECKPOINT_EVERY,
        "TRAIN.CLIP_GRAD": train.CLIP_GRAD,
        "DEBUG.SAVE_ATTENTION": cfg.DEBUG.SAVE_ATTENTION,
    }
    for key, value in not_negative.items():
        need(value >= 0, f"{key} must not be negative, not {value}")
    probabilities = {
        "MODEL.DROPOUT": model.DROPOUT,
        "DATASET.PROB_HALF_BODY": data.PROB_HALF_BODY,
        "DATASET.PROB_UPPER_BODY": data.PROB_UPPER_BODY,
    }
    for key, value in probabilities.items():
        need(0 <= value <= 1, f"{key} must be between 0 and 1, not {value}")
    need(0 <= train.EMA < 1, f"TRAIN.EMA must be 0 or more and less than 1, 0.999 say, not {train.EMA}")
    need(0 <= data.SCALE_FACTOR < 1, f"DATASET.SCALE_FACTOR must be in [0, 1), not {data.SCALE_FACTOR}")
    need(
        cfg.LOSS.NAME != "ohkm" or 0 < cfg.LOSS.TOPK <= model.NUM_JOINTS,
        f"LOSS.TOPK must be between 1 and MODEL.NUM_JOINTS {model.NUM_JOINTS}, not {cfg.LOSS.TOPK}",
    )
    need(test.BLUR_KERNEL % 2 == 1 and test.BLUR_KERNEL > 0, f"TEST.BLUR_KERNEL must be odd, not {test.BLUR_KERNEL}")

    stride = 8 if model.NAME == "transpose_r" else 16  # of the coarsest feature map
    for key in ("IMAGE_SIZE", "HEATMAP_SIZE"):
        need(len(model[key]) == 2, f"MODEL.{key} must be width and height, not {model[key]}")
    for length in model.IMAGE_SIZE:
        need(
            length >= 32 and length % stride == 0,
            f"MODEL.IMAGE_SIZE {model.IMAGE_SIZE} must be multiples of {stride} for {model.NAME}, 32 at least",
        )
    wanted = [length // 4 for length in model.IMAGE_SIZE]
    need(
        model.HEATMAP_SIZE == wanted,
        f"MODEL.HEATMAP_SIZE {model.HEATMAP_SIZE} must be a quarter of IMAGE_SIZE {model.IMAGE_SIZE}, that is {wanted}",
    )
    need(
        model.DIM_MODEL % model.N_HEAD == 0,
        f"MODEL.DIM_MODEL {model.DIM_MODEL} must be divisible by MODEL.N_HEAD {model.N_HEAD}",
    )
    need(
        model.POS_EMBEDDING != "sine" or model.DIM_MODEL % 4 == 0,
        f"MODEL.DIM_MODEL {model.DIM_MODEL} must be divisible by 4 for sine positions",
    )
    if model.NAME == "transpose_r":
        choice("MODEL.EXTRA.NUM_LAYERS", extra.NUM_LAYERS, (18, 34, 50, 101, 152))
        filters, kernels = extra.NUM_DECONV_FILTERS, extra.NUM_DECONV_KERNELS
        need(
            len(filters) == len(kernels) == extra.NUM_DECONV_LAYERS,
            f"MODEL.EXTRA.NUM_DECONV_LAYERS is {extra.NUM_DECONV_LAYERS}, but NUM_DECONV_FILTERS lists {len(filters)} "
            f"and NUM_DECONV_KERNELS {len(kernels)}",
        )
        need(
            extra.NUM_DECONV_LAYERS == 1,
            f"MODEL.EXTRA.NUM_DECONV_LAYERS must be 1 to give heatmaps of a quarter of the input, "
            f"not {extra.NUM_DECONV_LAYERS}",
        )
        need(filters[0] > 0, f"MODEL.EXTRA.NUM_DECONV_FILTERS must be positive, not {filters[0]}")
        choice("MODEL.EXTRA.NUM_DECONV_KERNELS", kernels[0], (4, 3, 2))
    else:
        for name, branches in (("STAGE2", 2), ("STAGE3", 3)):
            stage = extra[name]
            key = f"MODEL.EXTRA.{name}"
            choice(f"{key}.BLOCK", stage.BLOCK, ("BASIC", "BOTTLENECK"))
            need(stage.NUM_BRANCHES == branches, f"{key}.NUM_BRANCHES must be {branches}, not {stage.NUM_BRANCHES}")
            need(stage.NUM_MODULES > 0, f"{key}.NUM_MODULES must be positive, not {stage.NUM_MODULES}")
            for lengths in ("NUM_BLOCKS", "NUM_CHANNELS"):
                need(
                    len(stage[lengths]) == branches and min(stage[lengths]) > 0,
                    f"{key}.{lengths} must list {branches} positive numbers, not {stage[lengths]}",
                )
    need(
        train.BEGIN_EPOCH < train.END_EPOCH,
        f"TRAIN.BEGIN_EPOCH {train.BEGIN_EPOCH} must be less than END_EPOCH {train.END_EPOCH}",
    )
    need(
        train.WARMUP_EPOCHS < train.END_EPOCH,
        f"TRAIN.WARMUP_EPOCHS {train.WARMUP_EPOCHS} must be less than END_EPOCH {train.END_EPOCH}",
    )
    need(
        train.MOMENTUM > 0 or not (train.NESTEROV and train.OPTIMIZER == "sgd"),
        "TRAIN.NESTEROV needs a positive TRAIN.MOMENTUM",
    )


def _lookup(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def report_legacy(cfg: CfgNode, given: dict[str, Any]) -> None:
    idle = []
    for key, alive in LEGACY.items():
        awake = alive is not None and _lookup(cfg, alive[0]) == alive[1]
        if key == "TRAIN.WD":
            awake = awake or cfg.TRAIN.APPLY_WEIGHT_DECAY
        if key in given and not awake:
            idle.append(key)
    if idle:
        logger.info("legacy keys without effect, as in the original: %s", ", ".join(idle))
