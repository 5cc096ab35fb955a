"""The configuration: yacs defaults, one comment a key, and `load`, which checks a yaml before anything heavy starts."""

import ast
import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from transpose.errors import UserError, shown

logger = logging.getLogger(__name__)

_C = CfgNode()

_C.OUTPUT_DIR = "output"  # runs' folders; a relative path counts from the repository's root
_C.LOG_DIR = "log"  # TensorBoard's folders
_C.DATA_DIR = ""  # put in front of the relative paths below
_C.GPUS = (0,)  # GPU numbers; their count times TRAIN.BATCH_SIZE_PER_GPU is the effective batch, whatever runs it
_C.WORKERS = 4  # data loading processes of all training processes together; 0 loads in the processes themselves
_C.PRINT_FREQ = 20  # training steps between two lines of the log
_C.AUTO_RESUME = False  # continue from the run folder's checkpoint.pth
_C.PIN_MEMORY = True  # page-locked batches (with a GPU only)
_C.RANK = 0  # number in the name of the results file
_C.SEED = 22  # every random draw comes from it, the epoch, and the sample's index or the step

_C.CUDNN = CfgNode()
_C.CUDNN.BENCHMARK = True
_C.CUDNN.DETERMINISTIC = False
_C.CUDNN.ENABLED = True
_C.CUDNN.TF32 = True  # on a GPU, convolutions in TF32, which is PyTorch's default; false: in full float32
_C.CUDNN.TF32_MATMUL = False  # on a GPU, matrix products in TF32 too

_C.MODEL = CfgNode()
_C.MODEL.NAME = "transpose_r"  # transpose_r or transpose_h
_C.MODEL.INIT_WEIGHTS = True  # draw or load the start weights as published; false leaves them as constructed
_C.MODEL.PRETRAINED = ""  # ImageNet weights of the backbone; '' starts from drawn weights
_C.MODEL.INIT_FROM = ""  # a trained model to start from in place of PRETRAINED, its last layer matched by keypoint
_C.MODEL.NUM_JOINTS = 17
_C.MODEL.TAG_PER_JOINT = True  # legacy
_C.MODEL.TARGET_TYPE = "gaussian"
_C.MODEL.IMAGE_SIZE = [256, 256]  # width, height of the input in pixels
_C.MODEL.HEATMAP_SIZE = [64, 64]  # width, height; a quarter of the input
_C.MODEL.SIGMA = 2.0  # of the target Gaussian, in heatmap pixels
_C.MODEL.BOTTLENECK_NUM = 0  # legacy
_C.MODEL.DIM_MODEL = 256  # d: width of a token
_C.MODEL.DIM_FEEDFORWARD = 512  # h: hidden width of the feed-forward network
_C.MODEL.ENCODER_LAYERS = 6
_C.MODEL.N_HEAD = 8
_C.MODEL.DROPOUT = 0.1  # in the encoder: attention weights, after attention, in and after the feed-forward
_C.MODEL.ATTENTION_DROPOUT = True  # false: none on the attention weights, so that a processor can fuse attention
_C.MODEL.ATTENTION_ACTIVATION = "relu"  # of the feed-forward network: relu or gelu
_C.MODEL.POS_EMBEDDING = "learnable"  # sine, learnable or none
_C.MODEL.PE_ONLY_AT_BEGIN = False  # positions in the first layer only
_C.MODEL.INTERMEDIATE_SUP = False  # legacy

_C.MODEL.EXTRA = CfgNode()
_C.MODEL.EXTRA.FINAL_CONV_KERNEL = 1  # 1 or 3
_C.MODEL.EXTRA.NUM_LAYERS = 50  # R: depth of the ResNet: 18, 34, 50, 101 or 152
_C.MODEL.EXTRA.DECONV_WITH_BIAS = False  # R
_C.MODEL.EXTRA.NUM_DECONV_LAYERS = 1  # R
_C.MODEL.EXTRA.NUM_DECONV_FILTERS = [256]  # R
_C.MODEL.EXTRA.NUM_DECONV_KERNELS = [4]  # R: 2, 3 or 4 each
_C.MODEL.EXTRA.PRETRAINED_LAYERS = ["*"]  # H: stages taken from MODEL.PRETRAINED; a leading '*' takes all
for _name, _modules, _widths in (("STAGE2", 1, [48, 96]), ("STAGE3", 4, [48, 96, 192])):
    _stage = _C.MODEL.EXTRA[_name] = CfgNode()  # H
    _stage.NUM_MODULES = _modules
    _stage.NUM_BRANCHES = len(_widths)
    _stage.BLOCK = "BASIC"  # BASIC or BOTTLENECK
    _stage.NUM_BLOCKS = [4] * len(_widths)
    _stage.NUM_CHANNELS = _widths
    _stage.FUSE_METHOD = "SUM"  # legacy

_C.LOSS = CfgNode()
_C.LOSS.NAME = "mse"  # mse, or ohkm: online hard keypoint mining
_C.LOSS.TOPK = 8  # joints that ohkm keeps of each sample
_C.LOSS.USE_OHKM = False  # legacy: LOSS.NAME chooses
_C.LOSS.USE_TARGET_WEIGHT = True  # leave invisible joints out
_C.LOSS.USE_DIFFERENT_JOINTS_WEIGHT = False  # weigh joints by the skeleton's weights

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""
_C.DATASET.DATASET = "coco"  # the data's format, coco or mpii, and a folder of the output path
_C.DATASET.TRAIN_SET = "train2017"
_C.DATASET.TEST_SET = "val2017"
_C.DATASET.CATEGORY = ""  # name of the annotated category; '' takes "person", or the only one
_C.DATASET.SKELETON = ""  # yaml of keypoints; '' takes a COCO file's own, and COCO's where it names none
_C.DATASET.DATA_FORMAT = "jpg"  # zip: images/<set>.zip; else the folder images/<set> (mpii: images.zip, images)
_C.DATASET.IMAGES = ""  # under ROOT, in place of images/{set}: a folder or a .zip; {set} stands for the set's name
_C.DATASET.ANNOTATIONS = ""  # under ROOT, in place of annotations/person_keypoints_{set}.json
_C.DATASET.HYBRID_JOINTS_TYPE = ""  # legacy, but appended to the output folder's name
_C.DATASET.SELECT_DATA = False  # train only on persons whose joints lie around the box's centre
_C.DATASET.CACHE_MB = 0  # memory that each process may fill with decoded images; 0 keeps only the last one
_C.DATASET.MAX_IMAGE_PIXELS = 134_217_728  # an image whose header states more is refused before it is decoded
_C.DATASET.DECODED_DIR = ""  # folder for the training photographs, decoded once: 52 GB for COCO; '' decodes each time
_C.DATASET.ON_DEVICE = False  # hold the decoded training photographs in the GPUs' memory and cut the crops there
_C.DATASET.INDEX_CACHE = True  # keep the persons of large annotation files as arrays in OUTPUT_DIR/index
_C.DATASET.FLIP = True  # mirror with probability 0.5
_C.DATASET.SCALE_FACTOR = 0.25
_C.DATASET.ROT_FACTOR = 30.0  # degrees
_C.DATASET.PROB_HALF_BODY = 0.0
_C.DATASET.NUM_JOINTS_HALF_BODY = 8  # half-body crops need more visible joints than this
_C.DATASET.PROB_UPPER_BODY = 0.6914624612740131  # legacy: P(standard normal < 0.5); 0.5 is even-handed
_C.DATASET.COLOR_RGB = False

_C.TRAIN = CfgNode()
_C.TRAIN.OPTIMIZER = "adam"  # adam, adamw or sgd
_C.TRAIN.LR = 0.0001
_C.TRAIN.BACKBONE_LR_FACTOR = 1.0  # the backbone's learning rate as a multiple of the rest's
_C.TRAIN.FREEZE = []  # patterns of parameter names that stay as they start, e.g. ['conv1*', 'layer?.*']
_C.TRAIN.SCHEDULE = "cosine"  # cosine: LR to LR_END over END_EPOCH epochs; multistep: times LR_FACTOR at each LR_STEP
_C.TRAIN.LR_END = 0.00001
_C.TRAIN.LR_FACTOR = 0.1
_C.TRAIN.LR_STEP = [90, 110]
_C.TRAIN.WARMUP_EPOCHS = 0  # epochs over which the rate rises linearly to the schedule's
_C.TRAIN.WD = 0.0001  # weight decay of sgd; of adam and adamw only with APPLY_WEIGHT_DECAY
_C.TRAIN.APPLY_WEIGHT_DECAY = False  # the published recipes set WD and train Adam without it
_C.TRAIN.MOMENTUM = 0.9  # sgd
_C.TRAIN.NESTEROV = False  # sgd
_C.TRAIN.GAMMA1 = 0.99  # legacy
_C.TRAIN.GAMMA2 = 0.0  # legacy
_C.TRAIN.BEGIN_EPOCH = 0
_C.TRAIN.END_EPOCH = 140
_C.TRAIN.VALIDATE_EVERY = 1  # epochs between validations; the last epoch is always validated
_C.TRAIN.RESUME = False  # legacy: AUTO_RESUME decides
_C.TRAIN.CHECKPOINT = ""  # legacy
_C.TRAIN.RESUME_CHANGED = False  # resume although the configuration differs from the checkpoint's
_C.TRAIN.CHECKPOINT_EVERY = 0  # optimiser steps between two saved states within an epoch; 0: at its end only
_C.TRAIN.IGNORE_LOCK = False  # start although another run is writing into the same folder
_C.TRAIN.EMA = 0.0  # decay a step of the weights' moving average, validated and kept in their place; 0 for none
_C.TRAIN.CLIP_GRAD = 0.0  # bound of the gradient's norm; 0 for none
_C.TRAIN.SKIP_NONFINITE = False  # leave out a step whose loss or gradient is not finite; else the run stops there
_C.TRAIN.BATCH_SIZE_PER_GPU = 32
_C.TRAIN.SHUFFLE = True
_C.TRAIN.PRECISION = "float32"  # of the forward and backward pass: float32, bfloat16 or float16 (GPU only)
_C.TRAIN.COMPILE = False  # torch.compile the network

_C.TEST = CfgNode()
_C.TEST.BATCH_SIZE_PER_GPU = 32
_C.TEST.BACKEND = "pytorch"  # pytorch, openvino or onnxruntime (both on the processor)
_C.TEST.PRECISION = "float32"  # float32, bfloat16 or float16; onnxruntime: float32 only
_C.TEST.COMPILE = False  # torch.compile the network; pytorch only
_C.TEST.FLIP_TEST = False  # average with the prediction for the mirrored crop
_C.TEST.BLUR_KERNEL = 3  # odd width of DARK's smoothing, in heatmap pixels
_C.TEST.POST_PROCESS = False  # legacy: DARK decoding is always on
_C.TEST.SHIFT_HEATMAP = False  # legacy
_C.TEST.USE_GT_BBOX = False  # annotated boxes instead of COCO_BBOX_FILE's; mpii always takes the annotated places
_C.TEST.COCO_BBOX_FILE = ""  # detections: COCO results of category person
_C.TEST.IMAGE_THRE = 0.1  # detections below this score are dropped
_C.TEST.BBOX_THRE = 1.0  # legacy
_C.TEST.NMS_THRE = 0.6  # legacy
_C.TEST.SOFT_NMS = False
_C.TEST.OKS_THRE = 0.5  # OKS-NMS drops a person that overlaps a better one by more
_C.TEST.IN_VIS_THRE = 0.0  # joints above this score count towards the person's
_C.TEST.SCORER = "pycocotools"  # what computes AP; faster-coco-eval gives the same numbers sooner, if installed
_C.TEST.MODEL_FILE = ""  # weights to test; '' takes final_state.pth of the run's folder

_C.DEBUG = CfgNode()
_C.DEBUG.DEBUG = False  # pictures every PRINT_FREQ steps, in the run's folder and in TensorBoard
_C.DEBUG.SAVE_BATCH_IMAGES_GT = False
_C.DEBUG.SAVE_BATCH_IMAGES_PRED = False
_C.DEBUG.SAVE_HEATMAPS_GT = False
_C.DEBUG.SAVE_HEATMAPS_PRED = False
_C.DEBUG.SAVE_ATTENTION = 0  # persons of the test set whose dependency areas are drawn at each validation

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
PATHS = (
    "DATASET.ROOT",
    "DATASET.SKELETON",
    "DATASET.DECODED_DIR",
    "MODEL.PRETRAINED",
    "MODEL.INIT_FROM",
    "TEST.MODEL_FILE",
    "TEST.COCO_BBOX_FILE",
)
BASE_KEY = "_BASE_"  # a yaml may name another, relative to itself, whose values it overrides


def defaults() -> CfgNode:
    """Every key with its default."""
    return _C.clone()


def repository_root() -> Path:
    """Where relative paths of a yaml start: the clone, or the current directory for an installed package."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "experiments").is_dir() else Path.cwd()


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    output_dir: str = "",
    log_dir: str = "",
    data_dir: str = "",
    report: bool = True,
) -> CfgNode:
    """The frozen configuration of a yaml, `overrides` (KEY VALUE KEY VALUE …) applied, paths absolute, checked.

    The three directories are the command line's and count from the current directory; `report` logs the legacy keys.
    Raises UserError that names the file, the key and what to do.
    """
    cfg = defaults()
    given: dict[str, Any] = {}
    for file, content in _read_yaml(Path(path)):
        try:
            for key, value in _leaves(content):
                _set(cfg, key, value, where=str(file))
                given[key] = value
        except RecursionError:
            raise UserError(f"{file}: its sections lie inside each other without end") from None
    given |= _merge_overrides(cfg, overrides)
    for key, directory in (("OUTPUT_DIR", output_dir), ("LOG_DIR", log_dir), ("DATA_DIR", data_dir)):
        if directory:
            cfg[key] = str(Path(directory).absolute())
    _resolve_paths(cfg)
    _check(cfg, f"{path} with the command line" if overrides else str(path))
    if report:
        _report_legacy(cfg, given)
    cfg.freeze()
    return cfg


def _read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict]]:
    """The yaml's nested dicts after those of its bases, each with its file; safe loader only."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration file ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise UserError(f"{path}: not a yaml file: {place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a yaml file: {' '.join(str(error).split())}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, not a {type(content).__name__}")
    base = content.pop(BASE_KEY, None)
    if base is None:
        return [(path, content)]
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE_KEY} must be the name of a yaml, not {shown(base)}")
    base_path = (path.parent / base).resolve()
    if base_path in seen:
        raise UserError(f"{path}: {BASE_KEY} names {base}, which leads back to this file")
    if not base_path.is_file():
        raise UserError(f"{path}: {BASE_KEY} names {base}, but {base_path} does not exist")
    return [*_read_yaml(base_path, (*seen, path.resolve())), (path, content)]


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def _set(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    """Set a dotted key, after checking that it exists and that the value has its type."""
    *parents, leaf = key.split(".")
    node: Any = cfg
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        raise UserError(f"{where}: {key} is not a configuration key; {_nearest(key)}")
    if isinstance(node[leaf], CfgNode):
        if value not in (None, {}):
            raise UserError(f"{where}: {key} holds further keys, not the value {shown(value)}")
        return
    node[leaf] = _coerce(value, node[leaf], key, where)


def _nearest(key: str) -> str:
    known = [name for name, _ in _leaves(_C)]
    sections = {name[:dot] for name in known for dot in range(len(name)) if name[dot] == "."}
    full = difflib.get_close_matches(key, [*known, *sorted(sections)], n=1, cutoff=0.75)
    if not full:
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.5)
        full = [leaves[leaf[0]]] if leaf else difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"the nearest is {full[0]}"


def _decode(text: str) -> Any:
    """What a string stands for: "(0,1)" a tuple, "1e-4" (text to yaml) a number; anything else is itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _coerce(value: Any, default: Any, key: str, where: str) -> Any:
    """The value in its default's type; an integer and a float stand for each other where that loses nothing."""
    if isinstance(default, str):
        return "" if value is None else _expect(isinstance(value, str), value, "text", key, where)
    if isinstance(value, str):
        lowered = value.lower()
        value = lowered == "true" if lowered in ("true", "false") else _decode(value)
    if isinstance(default, bool):
        return _expect(isinstance(value, bool), value, "true or false", key, where)
    if isinstance(default, list | tuple):
        _expect(isinstance(value, list | tuple), value, f"a list such as {default}", key, where)
        return type(default)(_coerce(item, default[0] if default else "", key, where) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        whole = isinstance(value, int) or (number and value.is_integer())
        return int(_expect(number and whole and abs(value) < 2**63, value, "a whole number", key, where))
    return float(_expect(number, value, "a number", key, where))


def _expect(holds: bool, value: Any, wanted: str, key: str, where: str) -> Any:
    if not holds:
        raise UserError(f"{where}: {key} must be {wanted}, not {shown(value)}")
    return value


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> dict[str, Any]:
    if len(overrides) % 2:
        raise UserError(f"command line: overrides come as KEY VALUE pairs, but {overrides[-1]} has no value")
    given = {}
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        # A path that exists from here is meant from here; the yaml's rule applies to any other.
        if key in PATHS and value and os.path.exists(value):
            value = os.path.abspath(value)
        _set(cfg, key, value, where="command line")
        given[key] = value
    return given


def _resolve_paths(cfg: CfgNode) -> None:
    root = repository_root()
    for key in ("OUTPUT_DIR", "LOG_DIR"):
        cfg[key] = str(root / cfg[key])
    for key in PATHS:
        parent, leaf = key.split(".")
        value = cfg[parent][leaf]
        if value or key == "DATASET.ROOT":
            candidates = [root / cfg.DATA_DIR / value, root / value]
            cfg[parent][leaf] = str(next((c for c in candidates if c.exists()), candidates[0]))


def _check(cfg: CfgNode, where: str) -> None:
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


def _report_legacy(cfg: CfgNode, given: dict[str, Any]) -> None:
    idle = []
    for key, alive in LEGACY.items():
        awake = alive is not None and _lookup(cfg, alive[0]) == alive[1]
        if key == "TRAIN.WD":
            awake = awake or cfg.TRAIN.APPLY_WEIGHT_DECAY
        if key in given and not awake:
            idle.append(key)
    if idle:
        logger.info("legacy keys without effect, as in the original: %s", ", ".join(idle))


def differences(old: dict, new: dict) -> list[str]:
    """Lines "KEY: old -> new" for the keys in which two configurations (nested dicts) differ."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = list(dict.fromkeys([*before, *after]))
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]
