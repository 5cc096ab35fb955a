"""The configuration -> a network, the weights it starts from, and trained networks."""

import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from yacs.config import CfgNode

from ..config.load import load_config
from ..core.predict import TestOptions
from ..engine.resume import BEST, FINAL
from ..errors import UserError
from ..evaluation import calibration
from ..evaluation.calibration import Calibration
from ..models import weights, zoo
from ..models.encoder import EncoderConfig
from ..models.hrnet import Stage
from ..models.transpose import VARIANTS, TransPose
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime import checkpoint

logger = logging.getLogger(__name__)

CONFIG_FILE, SKELETON_FILE = "config.yaml", "skeleton.yaml"  # files beside a run's weights


def build_model(cfg: CfgNode) -> TransPose:
    """The network that a configuration describes, without trained weights.

    Args:
        cfg: From `load_config`.

    Returns:
        Normalised images (B, 3, 4H, 4W) -> heatmaps (B, K, H, W).
    """
    m, extra = cfg.MODEL, cfg.MODEL.EXTRA
    if m.NAME == "transpose_r":
        own = {
            "num_layers": extra.NUM_LAYERS,
            "deconv_filters": tuple(extra.NUM_DECONV_FILTERS),
            "deconv_kernels": tuple(extra.NUM_DECONV_KERNELS),
            "deconv_bias": extra.DECONV_WITH_BIAS,
        }
    else:
        own = {
            name.lower(): Stage(s.NUM_MODULES, s.BLOCK, tuple(s.NUM_BLOCKS), tuple(s.NUM_CHANNELS))
            for name, s in (("STAGE2", extra.STAGE2), ("STAGE3", extra.STAGE3))
        }
    return VARIANTS[m.NAME](
        image_size=tuple(m.IMAGE_SIZE),
        num_joints=m.NUM_JOINTS,
        encoder=EncoderConfig(
            dim=m.DIM_MODEL,
            heads=m.N_HEAD,
            layers=m.ENCODER_LAYERS,
            feedforward=m.DIM_FEEDFORWARD,
            dropout=m.DROPOUT,
            attention_dropout=None if m.ATTENTION_DROPOUT else 0.0,
            activation=m.ATTENTION_ACTIVATION,
            positions=m.POS_EMBEDDING,
            positions_at_first_layer_only=m.PE_ONLY_AT_BEGIN,
        ),
        final_kernel=extra.FINAL_CONV_KERNEL,
        **own,
    )


def check_start_weights(cfg: CfgNode) -> None:
    """Raise UserError if the start weights are missing, before the data is read."""
    m = cfg.MODEL
    if m.INIT_FROM and not Path(m.INIT_FROM).is_file():
        raise UserError(f"{m.INIT_FROM}: the weights to start from (MODEL.INIT_FROM) are missing")
    if not m.INIT_FROM and m.INIT_WEIGHTS and m.PRETRAINED and not Path(m.PRETRAINED).is_file():
        source = next(backbone.source for backbone in weights.BACKBONES.values() if backbone.model == m.NAME)
        raise UserError(
            f"{m.PRETRAINED}: the ImageNet weights (MODEL.PRETRAINED) are missing; get them from "
            f"{source}, or train without them: MODEL.PRETRAINED ''"
        )


def load_start_weights(cfg: CfgNode, network: TransPose, skeleton: Skeleton) -> None:
    """Load the start weights of a training run: those of MODEL.INIT_FROM, or of the recipe."""
    m = cfg.MODEL
    if m.INIT_FROM:
        path = Path(m.INIT_FROM)
        beside = path.parent / SKELETON_FILE
        source = _skeleton_of(path)
        state = weights.unwrap(checkpoint.read(path), str(path))
        remarks = weights.transfer(network, state, source.names, skeleton.names, source=str(path))
        logger.info("start weights: %s (%s)", path, f"keypoints of {beside if beside.exists() else 'COCO'}")
        for remark in remarks:
            logger.info("  %s", remark)
    elif m.INIT_WEIGHTS:
        imagenet = weights.unwrap(checkpoint.read(Path(m.PRETRAINED)), m.PRETRAINED) if m.PRETRAINED else None
        weights.initialise(network, imagenet, m.EXTRA.PRETRAINED_LAYERS, source=m.PRETRAINED)
        logger.info("start weights: %s", m.PRETRAINED or "random initialisation, without ImageNet")


def _skeleton_of(weights_file: Path) -> Skeleton:
    """A checkpoint's skeleton: the skeleton.yaml beside it, else COCO's."""
    beside = weights_file.parent / SKELETON_FILE
    return skeletons.read(beside) if beside.exists() else skeletons.COCO


def refuse_other_order(weights_file: Path, tested: Skeleton, name: str) -> None:
    """Raise UserError if the weights have the keypoints of the test set `name` in another order."""
    names = _skeleton_of(weights_file).names
    own, others = (list(map(skeletons.common_name, joints)) for joints in (names, tested.names))
    if own != others and sorted(own) == sorted(others):
        raise UserError(
            f"{weights_file}: it has the keypoints of {name} in another order, {', '.join(names)}: bring the "
            "annotations into this order"
        )


def freeze_parameters(cfg: CfgNode, network: TransPose) -> None:
    """Freeze the parameters that TRAIN.FREEZE names, and the statistics of their batch norms."""
    for pattern in cfg.TRAIN.FREEZE:
        names = network.freeze(pattern)
        if not names:
            known = [name for name, _ in network.named_parameters()]
            nearest = difflib.get_close_matches(pattern, known, n=1, cutoff=0)[0]
            raise UserError(f"TRAIN.FREEZE: {pattern!r} matches no parameter; the nearest is {nearest}")
        logger.info("frozen by %r: %d tensors", pattern, len(names))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError("TRAIN.FREEZE leaves no parameter to train")


def build_test_options(cfg: CfgNode) -> TestOptions:
    test = cfg.TEST
    return TestOptions(test.FLIP_TEST, test.BLUR_KERNEL, test.IN_VIS_THRE, cfg.DATASET.COLOR_RGB)


def load_trained(cfg: CfgNode, network: TransPose, folder: Path) -> Path:
    """Load TEST.MODEL_FILE, or the final state of the run in `folder`, into the network; returns the file."""
    path = Path(cfg.TEST.MODEL_FILE or folder / FINAL)
    if not cfg.TEST.MODEL_FILE and not path.exists():
        raise UserError(
            f"{path}: TEST.MODEL_FILE is not set and this configuration has not been trained to the end; "
            "give TEST.MODEL_FILE a checkpoint or run tools/train.py"
        )
    for name, entry in zoo.RELEASED.items():
        if path.name == entry.file and not path.exists():
            raise UserError(
                f"{path}: the released weights are missing; download them with: python tools/download.py {name}"
            )
    _load(network, path)
    return path


def _load(network: TransPose, path: Path) -> None:
    for remark in weights.load_weights(network, weights.unwrap(checkpoint.read(path), str(path)), source=str(path)):
        logger.info("%s", remark)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, its skeleton, and its recipe's test options (default: the published recipes')."""

    network: TransPose
    skeleton: Skeleton
    weights: Path  # the file of the weights
    options: TestOptions = field(default_factory=TestOptions)
    batch_size: int = 32

    @property
    def calibration(self) -> Calibration | None:
        """The calibration beside the weights, or None. Raises UserError if it is damaged."""
        return calibration.read(self.weights)


def read_trained_model(path: Path, yaml_file: Path | None = None) -> TrainedModel:
    """The network of a run's folder, or of a checkpoint as `yaml_file` describes it, else the config.yaml beside it.

    Its keypoints are those of the skeleton.yaml beside the checkpoint, else of DATASET.SKELETON, else COCO's.
    Raises UserError if a file is missing or does not fit the others.
    """
    if path.is_dir():
        folder, path = path, path / FINAL
        if not (folder / CONFIG_FILE).exists():
            raise UserError(f"{folder}: not a run's folder: there is no {CONFIG_FILE} in it")
        if not path.exists():
            raise UserError(
                f"{folder}: this run is not finished; name one of its checkpoints, for example {folder / BEST}"
            )
    cfg = load_config(yaml_file or path.parent / CONFIG_FILE, report=False)
    network = build_model(cfg)
    _load(network, path)
    return _as_tested(cfg, network, path)


def read_tested_model(cfg: CfgNode, folder: Path) -> TrainedModel:
    """The network that a test would load (`load_trained`). Raises UserError as `read_trained_model` does."""
    network = build_model(cfg)
    return _as_tested(cfg, network, load_trained(cfg, network, folder))


def _as_tested(cfg: CfgNode, network: TransPose, path: Path) -> TrainedModel:
    beside = path.parent / SKELETON_FILE
    named = beside if beside.exists() else Path(cfg.DATASET.SKELETON) if cfg.DATASET.SKELETON else None
    skeleton = skeletons.read(named) if named else skeletons.COCO
    if cfg.DATASET.CATEGORY:
        skeleton = skeletons.of_category(skeleton, cfg.DATASET.CATEGORY)
    if skeleton.num_joints != cfg.MODEL.NUM_JOINTS:
        raise UserError(
            f"{path}: the network finds {cfg.MODEL.NUM_JOINTS} keypoints, but the skeleton of {named or 'COCO'} has "
            f"{skeleton.num_joints}; put the {SKELETON_FILE} that it was trained with beside it"
        )
    return TrainedModel(
        network=network,
        skeleton=skeleton,
        weights=path,
        options=build_test_options(cfg),
        batch_size=cfg.TEST.BATCH_SIZE_PER_GPU,
    )
