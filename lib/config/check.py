"""The allowed values, alone and in combination, and the keys that have no effect."""

import difflib
import logging
import re
from collections.abc import Callable, Collection, Iterator
from functools import reduce
from typing import Any

from yacs.config import CfgNode

from ..errors import UserError, shown

logger = logging.getLogger(__name__)

MAX_WIDTH, MAX_DEPTH = 4096, 100  # channels, pixels and keypoints; layers and modules
Rule = Callable[[Any], str]  # value -> what is wrong with it, as "must be … , not …"; "" if nothing is


def one_of(*options: str | int) -> Rule:
    listed = [str(option) for option in options]

    def rule(value: Any) -> str:
        if value in options:
            return ""
        nearest = difflib.get_close_matches(str(value), listed, n=1, cutoff=0)
        return f"must be one of {', '.join(listed)}, not {shown(value)}; the nearest is {nearest[0]}"

    return rule


def must(demand: str, holds: Callable[[Any], bool]) -> Rule:
    return lambda value: "" if holds(value) else f"must {demand}, not {shown(value)}"


def up_to(most: int) -> Rule:
    """For the numbers that a network is made of: a few characters of a yaml must not ask for any memory."""
    return must(f"be 1 to {most:,}", lambda value: 0 < value <= most)


file_name = must("be a name, without / and ..", lambda value: bool(re.fullmatch(r"(?!\.\.?$)[^/\\]{0,100}", value)))
positive = must("be positive", lambda value: value > 0)
not_negative = must("not be negative", lambda value: value >= 0)
probability = must("be between 0 and 1", lambda value: 0 <= value <= 1)
width_and_height = must(
    f"be width and height, {MAX_WIDTH:,} at most", lambda value: len(value) == 2 and max(value) <= MAX_WIDTH
)
precision = one_of("float32", "bfloat16", "float16", "auto")


def stage_rules(stage: str, branches: int) -> dict[str, Rule]:
    """The rules of one of HRNet's stages, by their keys."""
    one_each = must(
        f"list {branches} numbers of 1 to {MAX_WIDTH:,}",
        lambda value: len(value) == branches and 0 < min(value) <= max(value) <= MAX_WIDTH,
    )
    return {
        f"{stage}.NUM_MODULES": up_to(MAX_DEPTH),
        f"{stage}.NUM_BRANCHES": must(f"be {branches}", lambda value: value == branches),
        f"{stage}.BLOCK": one_of("BASIC", "BOTTLENECK"),
        f"{stage}.NUM_BLOCKS": one_each,
        f"{stage}.NUM_CHANNELS": one_each,
    }


RULES: dict[str, Rule] = {
    "GPUS": must("list GPU numbers, (0,) for one", lambda value: len(value) > 0 and min(value) >= 0),
    "WORKERS": not_negative,
    "PRINT_FREQ": positive,
    "SEED": not_negative,
    "MODEL.NAME": one_of("transpose_r", "transpose_h"),
    "MODEL.NUM_JOINTS": up_to(MAX_WIDTH),
    "MODEL.TARGET_TYPE": one_of("gaussian"),
    "MODEL.IMAGE_SIZE": width_and_height,
    "MODEL.HEATMAP_SIZE": width_and_height,
    "MODEL.SIGMA": positive,
    "MODEL.DIM_MODEL": up_to(MAX_WIDTH),
    "MODEL.DIM_FEEDFORWARD": up_to(4 * MAX_WIDTH),
    "MODEL.ENCODER_LAYERS": up_to(MAX_DEPTH),
    "MODEL.N_HEAD": up_to(MAX_WIDTH),
    "MODEL.DROPOUT": probability,
    "MODEL.ATTENTION_ACTIVATION": one_of("relu", "gelu"),
    "MODEL.POS_EMBEDDING": one_of("sine", "learnable", "none"),
    "MODEL.EXTRA.FINAL_CONV_KERNEL": one_of(1, 3),
    "LOSS.NAME": one_of("mse", "ohkm"),
    "DATASET.DATASET": one_of("coco", "mpii"),
    "DATASET.TRAIN_SET": file_name,
    "DATASET.TEST_SET": file_name,
    "DATASET.HYBRID_JOINTS_TYPE": file_name,
    "DATASET.CACHE_MB": not_negative,
    "DATASET.MAX_IMAGE_PIXELS": positive,
    "DATASET.SCALE_FACTOR": must("be in [0, 1)", lambda value: 0 <= value < 1),
    "DATASET.ROT_FACTOR": not_negative,
    "DATASET.PROB_HALF_BODY": probability,
    "DATASET.PROB_UPPER_BODY": probability,
    "TRAIN.OPTIMIZER": one_of("adam", "adamw", "sgd"),
    "TRAIN.LR": positive,
    "TRAIN.BACKBONE_LR_FACTOR": positive,
    "TRAIN.SCHEDULE": one_of("cosine", "multistep"),
    "TRAIN.LR_END": not_negative,
    "TRAIN.WARMUP_EPOCHS": not_negative,
    "TRAIN.WD": not_negative,
    "TRAIN.MOMENTUM": not_negative,
    "TRAIN.BEGIN_EPOCH": not_negative,
    "TRAIN.END_EPOCH": positive,
    "TRAIN.VALIDATE_EVERY": positive,
    "TRAIN.CHECKPOINT_EVERY": not_negative,
    "TRAIN.EMA": must("be 0 or more and less than 1, for example 0.999", lambda value: 0 <= value < 1),
    "TRAIN.CLIP_GRAD": not_negative,
    "TRAIN.BATCH_SIZE_PER_GPU": positive,
    "TRAIN.PRECISION": precision,
    "TEST.BATCH_SIZE_PER_GPU": positive,
    "TEST.BACKEND": one_of("pytorch", "openvino", "onnxruntime"),
    "TEST.PRECISION": precision,
    "TEST.BLUR_KERNEL": must("be odd, and less than 4,096", lambda value: 0 < value < 4096 and value % 2 == 1),
    "TEST.OKS_THRE": positive,
    "DEBUG.SAVE_ATTENTION": not_negative,
}
VARIANT_RULES: dict[str, dict[str, Rule]] = {
    "transpose_r": {
        "MODEL.EXTRA.NUM_LAYERS": one_of(18, 34, 50, 101, 152),
        "MODEL.EXTRA.NUM_DECONV_LAYERS": must("be 1 to give heatmaps of a quarter of the input", lambda n: n == 1),
    },
    "transpose_h": stage_rules("MODEL.EXTRA.STAGE2", 2) | stage_rules("MODEL.EXTRA.STAGE3", 3),
}

# Keys of the original's files that have no effect, unless another key has the given value.
NO_EFFECT: dict[str, dict[str, Any]] = {
    "MODEL.TAG_PER_JOINT": {},
    "MODEL.BOTTLENECK_NUM": {},
    "MODEL.INTERMEDIATE_SUP": {},
    "MODEL.EXTRA.STAGE2.FUSE_METHOD": {},
    "MODEL.EXTRA.STAGE3.FUSE_METHOD": {},
    "LOSS.USE_OHKM": {},
    "LOSS.TOPK": {"LOSS.NAME": "ohkm"},
    "DATASET.HYBRID_JOINTS_TYPE": {},
    "TRAIN.LR_STEP": {"TRAIN.SCHEDULE": "multistep"},
    "TRAIN.LR_FACTOR": {"TRAIN.SCHEDULE": "multistep"},
    "TRAIN.WD": {"TRAIN.OPTIMIZER": "sgd", "TRAIN.APPLY_WEIGHT_DECAY": True},
    "TRAIN.MOMENTUM": {"TRAIN.OPTIMIZER": "sgd"},
    "TRAIN.NESTEROV": {"TRAIN.OPTIMIZER": "sgd"},
    "TRAIN.GAMMA1": {},
    "TRAIN.GAMMA2": {},
    "TRAIN.RESUME": {},
    "TRAIN.CHECKPOINT": {},
    "TEST.POST_PROCESS": {},
    "TEST.SHIFT_HEATMAP": {},
    "TEST.NMS_THRE": {},
    "TEST.BBOX_THRE": {},
}
# Keys of earlier versions, which files and checkpoints may still contain, and their replacements.
REMOVED = {
    "TEST.SCORER": "pycocotools computes the AP; faster-coco-eval saved 1 s of a test of 104,125 boxes",
    "DATASET.ON_DEVICE": "DATASET.DECODED_DIR spares the decoding as well",
    "DATASET.INDEX_CACHE": "COCO's annotations are parsed in 5 s",
}


def _lookup(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(CfgNode.__getitem__, key.split("."), cfg)


def check(cfg: CfgNode, where: str) -> None:
    """Raise UserError for the first value that is not allowed, or does not fit another; it begins with `where`."""
    for key, rule in (RULES | VARIANT_RULES.get(cfg.MODEL.NAME, {})).items():
        if wrong := rule(_lookup(cfg, key)):
            raise UserError(f"{where}: {key} {wrong}")
    for holds, sentence in _relations(cfg):
        if not holds:
            raise UserError(f"{where}: {sentence}")


def _relations(cfg: CfgNode) -> Iterator[tuple[Any, str]]:
    """The relations between the values of several keys, and the message if one does not hold."""
    model, extra, train, test, data = cfg.MODEL, cfg.MODEL.EXTRA, cfg.TRAIN, cfg.TEST, cfg.DATASET
    yield len(set(cfg.GPUS)) == len(cfg.GPUS), f"GPUS {cfg.GPUS} lists a GPU twice"

    stride = 8 if model.NAME == "transpose_r" else 16  # of the coarsest feature map
    yield (
        all(length >= 32 and length % stride == 0 for length in model.IMAGE_SIZE),
        f"MODEL.IMAGE_SIZE {model.IMAGE_SIZE} must be multiples of {stride} for {model.NAME}, 32 at least",
    )
    size, quarter = model.HEATMAP_SIZE, [length // 4 for length in model.IMAGE_SIZE]
    sentence = f"MODEL.HEATMAP_SIZE {size} must be a quarter of IMAGE_SIZE {model.IMAGE_SIZE}, that is {quarter}"
    yield size == quarter, sentence
    width = f"MODEL.DIM_MODEL {model.DIM_MODEL} must be divisible by"
    yield model.DIM_MODEL % model.N_HEAD == 0, f"{width} MODEL.N_HEAD {model.N_HEAD}"
    yield model.POS_EMBEDDING != "sine" or model.DIM_MODEL % 4 == 0, f"{width} 4 for sine positions"
    if model.NAME == "transpose_r":
        filters, kernels = extra.NUM_DECONV_FILTERS, extra.NUM_DECONV_KERNELS
        yield (
            len(filters) == len(kernels) == extra.NUM_DECONV_LAYERS,
            f"MODEL.EXTRA.NUM_DECONV_LAYERS is {extra.NUM_DECONV_LAYERS}, but NUM_DECONV_FILTERS lists {len(filters)} "
            f"and NUM_DECONV_KERNELS {len(kernels)}",
        )
        for key, rule, value in (("FILTERS", up_to(MAX_WIDTH), filters[0]), ("KERNELS", one_of(4, 3, 2), kernels[0])):
            yield not rule(value), f"MODEL.EXTRA.NUM_DECONV_{key} {rule(value)}"
    yield (
        cfg.LOSS.NAME != "ohkm" or 0 < cfg.LOSS.TOPK <= model.NUM_JOINTS,
        f"LOSS.TOPK must be between 1 and MODEL.NUM_JOINTS {model.NUM_JOINTS}, not {cfg.LOSS.TOPK}",
    )

    needs_skeleton = "DATASET.DATASET mpii needs DATASET.SKELETON: experiments/mpii/skeleton.yaml"
    yield data.DATASET != "mpii" or data.SKELETON, needs_skeleton
    yield (
        not data.ANNOTATIONS or "{set}" in data.ANNOTATIONS or data.TRAIN_SET == data.TEST_SET,
        f"DATASET.ANNOTATIONS {data.ANNOTATIONS} is one file for TRAIN_SET {data.TRAIN_SET} and TEST_SET "
        f"{data.TEST_SET}: write {{set}} in place of the set's name",
    )

    for key in ("BEGIN_EPOCH", "WARMUP_EPOCHS"):
        sentence = f"TRAIN.{key} {train[key]} must be less than END_EPOCH {train.END_EPOCH}"
        yield train[key] < train.END_EPOCH, sentence
    has_momentum = train.MOMENTUM > 0 or not (train.NESTEROV and train.OPTIMIZER == "sgd")
    yield has_momentum, "TRAIN.NESTEROV needs a positive TRAIN.MOMENTUM"

    yield (
        test.BACKEND != "onnxruntime" or test.PRECISION in ("float32", "auto"),
        f"TEST.BACKEND onnxruntime computes in float32 only, not in TEST.PRECISION {test.PRECISION}; openvino can",
    )
    yield test.BACKEND == "pytorch" or not test.COMPILE, "TEST.COMPILE works with TEST.BACKEND pytorch only"


def report_idle_keys(cfg: CfgNode, given: Collection[str]) -> None:
    """Log the given keys without effect: one line for the original's, one for those of earlier versions."""
    idle = [
        key
        for key, unless in NO_EFFECT.items()
        if key in given and not any(_lookup(cfg, other) == value for other, value in unless.items())
    ]
    if idle:
        logger.info("keys that have no effect, as in the original: %s", ", ".join(idle))
    removed = [f"{key} ({instead})" for key, instead in REMOVED.items() if key in given]
    if removed:
        logger.info("removed keys without effect: %s", ", ".join(removed))
