"""From the configuration to objects: the one place besides config.py and tools/ that reads cfg."""

import difflib
import logging
import math
import os
import random
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from transpose import checkpoint, config, distributed, figures, heatmap, log
from transpose import skeleton as skeletons
from transpose.core import loss, pckh
from transpose.core.evaluate import CocoEvaluation, Evaluation
from transpose.core.pckh import PckhEvaluation
from transpose.dataset import check, index, mpii, people, resident, store
from transpose.dataset.batches import EvaluationBatches, TrainingBatches
from transpose.dataset.crops import Augmentation, Crops, ImageReader, Reader
from transpose.dataset.workers import Loader
from transpose.errors import UserError
from transpose.inference import PRECISIONS, Inference
from transpose.interruption import leave_to_parent
from transpose.models import weights
from transpose.models.hrnet import Stage
from transpose.models.transpose import MODELS, TransPose
from transpose.monitor import Monitor, Pictures
from transpose.skeleton import Skeleton
from transpose.training import BEST, FINAL

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CONFIG_FILE, SKELETON_FILE = "config.yaml", "skeleton.yaml"  # beside a run's weights
HEAD = ("pos_embedding", "reduce.", "global_encoder.", "deconv_layers.", "final_layer.")  # all but the backbone


def skeleton(cfg: CfgNode, annotations: people.ImageSet) -> Skeleton:
    """The skeleton of DATASET.SKELETON, else the annotated category's, else COCO's; it must fit MODEL.NUM_JOINTS."""
    source = cfg.DATASET.SKELETON
    if source:
        kind = skeletons.read(Path(source))
        _check_order(kind.names, source, annotations)
    else:
        source = str(annotations.path)
        kind = skeletons.from_category(annotations.category, source) or skeletons.COCO
    if cfg.MODEL.NUM_JOINTS != kind.num_joints:
        raise UserError(
            f"{source}: its skeleton has {kind.num_joints} keypoints, but MODEL.NUM_JOINTS is {cfg.MODEL.NUM_JOINTS}: "
            f"set MODEL.NUM_JOINTS {kind.num_joints}"
        )
    if kind != skeletons.COCO:
        _report(kind, source)
    return kind


def _check_order(names: tuple[str, ...], source: str, annotations: people.ImageSet) -> None:
    """Raise UserError if a keypoint that the annotated category knows too stands at another place there.

    Names of its own are the skeleton's right: annotation tools call keypoints 1, 2, 3.
    """
    listed = annotations.category.get("keypoints")
    if not isinstance(listed, list):
        return
    for place, (name, other) in enumerate(zip(names, listed, strict=False), start=1):
        if name != other and (name in listed or other in names):
            raise UserError(
                f"{source}: its keypoint {place} is {name!r}, but {annotations.path} lists {other!r} there, and the "
                "numbers of each annotation follow that list: give `names` in its order"
            )


def shared_skeleton(loader: DataLoader | resident.ResidentCrops, evaluation: Evaluation) -> Skeleton:
    """The skeleton that is trained and tested. Raises UserError if the two sets list different keypoints."""
    assert isinstance(loader.dataset, Crops)
    trained, tested = loader.dataset.skeleton, evaluation.crops.skeleton
    if trained.names != tested.names:
        raise UserError(
            f"the training set lists the keypoints {', '.join(trained.names)}, but {evaluation.name} lists "
            f"{', '.join(tested.names)}: both must list the same in the same order"
        )
    return tested


@cache
def _report(kind: Skeleton, source: str) -> None:
    """Say once what was made of a skeleton that is not COCO's."""
    pairs = ", ".join(f"{kind.names[a]}/{kind.names[b]}" for a, b in kind.pairs) or "none"
    logger.info(
        "skeleton of %s: %d keypoints (%s); left/right pairs: %s; %d limbs",
        *(source, kind.num_joints, ", ".join(kind.names), pairs, len(kind.limbs)),
    )


def model(cfg: CfgNode) -> TransPose:
    """The network as constructed."""
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
    return MODELS[m.NAME](
        image_size=tuple(m.IMAGE_SIZE),
        num_joints=m.NUM_JOINTS,
        dim=m.DIM_MODEL,
        feedforward=m.DIM_FEEDFORWARD,
        heads=m.N_HEAD,
        layers=m.ENCODER_LAYERS,
        positions=m.POS_EMBEDDING,
        dropout=m.DROPOUT,
        attention_dropout=None if m.ATTENTION_DROPOUT else 0.0,
        activation=m.ATTENTION_ACTIVATION,
        positions_at_first_layer_only=m.PE_ONLY_AT_BEGIN,
        final_kernel=extra.FINAL_CONV_KERNEL,
        **own,
    )


def check_start(cfg: CfgNode) -> None:
    """Raise UserError if the start weights are not there, before the data is read."""
    m = cfg.MODEL
    if m.INIT_FROM and not Path(m.INIT_FROM).is_file():
        raise UserError(f"{m.INIT_FROM}: the weights to start from (MODEL.INIT_FROM) are missing")
    if not m.INIT_FROM and m.INIT_WEIGHTS and m.PRETRAINED and not Path(m.PRETRAINED).is_file():
        raise UserError(
            f"{m.PRETRAINED}: the ImageNet weights (MODEL.PRETRAINED) are missing; get them from "
            f"{weights.imagenet_source(m.NAME)}, or train without them: MODEL.PRETRAINED ''"
        )


def start(cfg: CfgNode, network: TransPose, kind: Skeleton) -> None:
    """Give a network that is to be trained its start weights: MODEL.INIT_FROM's, or those of the recipe."""
    m = cfg.MODEL
    if m.INIT_FROM:
        path = Path(m.INIT_FROM)
        beside = path.parent / SKELETON_FILE
        source = skeletons.read(beside) if beside.exists() else skeletons.COCO
        remarks = weights.transfer(
            network, weights.unwrap(checkpoint.read(path)), source.names, kind.names, source=str(path)
        )
        logger.info("start weights: %s (%s)", path, f"keypoints of {beside if beside.exists() else 'COCO'}")
        for remark in remarks:
            logger.info("  %s", remark)
    elif m.INIT_WEIGHTS:
        imagenet = weights.unwrap(checkpoint.read(Path(m.PRETRAINED))) if m.PRETRAINED else None
        weights.initialise(network, imagenet, m.EXTRA.PRETRAINED_LAYERS, source=m.PRETRAINED)
        logger.info("start weights: %s", m.PRETRAINED or "drawn, without ImageNet")


def freeze(cfg: CfgNode, network: TransPose) -> None:
    """Keep the parameters that TRAIN.FREEZE names, and the statistics of their batch norms, as they are."""
    for pattern in cfg.TRAIN.FREEZE:
        names = network.freeze(pattern)
        if not names:
            known = [name for name, _ in network.named_parameters()]
            nearest = difflib.get_close_matches(pattern, known, n=1, cutoff=0)[0]
            raise UserError(f"TRAIN.FREEZE: {pattern!r} matches no parameter; the nearest is {nearest}")
        logger.info("frozen by %r: %d tensors", pattern, len(names))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError("TRAIN.FREEZE leaves no parameter to train")


def load_trained(cfg: CfgNode, network: TransPose, folder: Path) -> Path:
    """Load TEST.MODEL_FILE, or the final state of the run in `folder`, into the network; returns the file."""
    path = Path(cfg.TEST.MODEL_FILE or folder / FINAL)
    if not cfg.TEST.MODEL_FILE and not path.exists():
        raise UserError(
            f"{path}: TEST.MODEL_FILE is not set and this configuration has not been trained to its end; "
            "give TEST.MODEL_FILE a checkpoint or run tools/train.py"
        )
    _load(network, path)
    return path


def _load(network: TransPose, path: Path) -> None:
    for remark in weights.load_weights(network, weights.unwrap(checkpoint.read(path)), source=str(path)):
        logger.info("%s", remark)


@dataclass(frozen=True)
class Trained:
    """A trained network, what it finds, and how its recipe tests it; by default as the published recipes do."""

    network: TransPose
    skeleton: Skeleton
    weights: Path  # the file they came from
    rgb: bool = True  # the order of the channels that the network was trained on
    flip_test: bool = True
    kernel_size: int = 11  # of DARK's blur, in heatmap pixels
    score_threshold: float = 0.2  # keypoints above it count towards a person's score
    batch_size: int = 32


def trained(path: Path, yaml_file: Path | None = None) -> Trained:
    """The network of a run's folder, or of a checkpoint as `yaml_file` describes it, else the config.yaml beside it.

    Its keypoints are those of the skeleton.yaml beside the checkpoint, else of DATASET.SKELETON, else COCO's.
    Raises UserError if a file is missing or does not fit the others.
    """
    if path.is_dir():
        folder, path = path, path / FINAL
        if not (folder / CONFIG_FILE).exists():
            raise UserError(f"{folder}: not a run's folder, it holds no {CONFIG_FILE}")
        if not path.exists():
            raise UserError(f"{folder}: this run is not finished; name one of its checkpoints, {folder / BEST} say")
    cfg = config.load(yaml_file or path.parent / CONFIG_FILE, report=False)
    network = model(cfg)
    _load(network, path)
    return _as_tested(cfg, network, path)


def tested(cfg: CfgNode, folder: Path) -> Trained:
    """The network that a test would load (`load_trained`). Raises UserError as `trained` does."""
    network = model(cfg)
    return _as_tested(cfg, network, load_trained(cfg, network, folder))


def _as_tested(cfg: CfgNode, network: TransPose, path: Path) -> Trained:
    beside, test = path.parent / SKELETON_FILE, cfg.TEST
    named = beside if beside.exists() else Path(cfg.DATASET.SKELETON) if cfg.DATASET.SKELETON else None
    kind = skeletons.read(named) if named else skeletons.COCO
    if kind.num_joints != cfg.MODEL.NUM_JOINTS:
        raise UserError(
            f"{path}: the network finds {cfg.MODEL.NUM_JOINTS} keypoints, but the skeleton of {named or 'COCO'} has "
            f"{kind.num_joints}; put the {SKELETON_FILE} that it was trained with beside it"
        )
    return Trained(
        network=network,
        skeleton=kind,
        weights=path,
        rgb=cfg.DATASET.COLOR_RGB,
        flip_test=test.FLIP_TEST,
        kernel_size=test.BLUR_KERNEL,
        score_threshold=test.IN_VIS_THRE,
        batch_size=test.BATCH_SIZE_PER_GPU,
    )


def _place(cfg: CfgNode) -> Path:
    """<dataset>/<model name>, under which a run's folders lie."""
    hybrid = cfg.DATASET.HYBRID_JOINTS_TYPE
    return Path(f"{cfg.DATASET.DATASET}_{hybrid}" if hybrid else cfg.DATASET.DATASET) / cfg.MODEL.NAME


def run_folder(cfg: CfgNode, name: str) -> Path:
    """output/<dataset>/<model name>/<name>, made if need be. Raises UserError if it cannot be written."""
    folder = Path(cfg.OUTPUT_DIR) / _place(cfg) / name
    _make_writable(folder, "--modelDir")
    return folder


def _make_writable(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({error.strerror}); choose another with {option}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: this folder is not writable; choose another with {option}")


def log_folder(cfg: CfgNode, name: str, stamp: str) -> Path:
    """log/<dataset>/<model name>/<name>_<time>"""
    return Path(cfg.LOG_DIR) / _place(cfg) / f"{name}_{stamp}"


def _has_no_truth(name: str) -> bool:
    return "test" in name


def _is_mpii(cfg: CfgNode) -> bool:
    """Whether the data is in MPII's format; else it is in COCO's."""
    return cfg.DATASET.DATASET == "mpii"


def _annotation_file(cfg: CfgNode, name: str) -> Path:
    place = cfg.DATASET.ANNOTATIONS
    if not place and _is_mpii(cfg):
        place = "annot/{set}.json"
    elif not place:
        place = f"annotations/{'image_info' if _has_no_truth(name) else 'person_keypoints'}_{{set}}.json"
    return Path(cfg.DATASET.ROOT) / place.replace("{set}", name)


def _annotations(cfg: CfgNode, name: str) -> people.Annotations:
    path = _annotation_file(cfg, name)
    if _is_mpii(cfg):
        return mpii.read_annotations(path)
    return people.read_annotations(path, not _has_no_truth(name), cfg.DATASET.CATEGORY)


def _image_source(cfg: CfgNode, name: str) -> Path:
    """The folder or zip of a set's photographs."""
    place = cfg.DATASET.IMAGES
    if not place:
        place = "images/test2017" if _has_no_truth(name) else "images/{set}"
        place = "images" if _is_mpii(cfg) else place
        place += ".zip" if cfg.DATASET.DATA_FORMAT == "zip" else ""
    return Path(cfg.DATASET.ROOT) / place.replace("{set}", name)


def _reader(cfg: CfgNode, name: str) -> ImageReader:
    source = _image_source(cfg, name)
    if not source.exists():
        raise UserError(f"{source}: the images of DATASET set {name} are missing")
    if source.suffix == ".zip" and not zipfile.is_zipfile(source):
        raise UserError(f"{source}: not a zip, or one that is cut off")
    data = cfg.DATASET
    return ImageReader(source, cache_bytes=data.CACHE_MB << 20, max_pixels=data.MAX_IMAGE_PIXELS)


def _decoded(cfg: CfgNode, persons: people.People, reader: ImageReader) -> store.ImageStore:
    """The training photographs, decoded by the first process unless they are already."""
    folder = Path(cfg.DATASET.DECODED_DIR)
    _make_writable(folder, "DATASET.DECODED_DIR")
    path = store.path_in(folder, reader.source)
    names = np.unique(persons.images.names[persons.image]).tolist()
    if distributed.rank() == 0:
        store.opened(path, reader, names, log.follow(f"decode {cfg.DATASET.TRAIN_SET}"))
    distributed.gather(None)  # the others wait
    return store.opened(path, reader, names)


def _crops(
    cfg: CfgNode,
    persons: people.People,
    reader: Reader,
    kind: Skeleton,
    augmentation: Augmentation | None = None,
) -> Crops:
    return Crops(
        persons,
        reader,
        kind,
        tuple(cfg.MODEL.IMAGE_SIZE),
        tuple(cfg.MODEL.HEATMAP_SIZE),
        rgb=cfg.DATASET.COLOR_RGB,
        augmentation=augmentation,
        seed=cfg.SEED,
    )


def test_images(cfg: CfgNode) -> tuple[people.Annotations, ImageReader]:
    """The annotations of DATASET.TEST_SET and what reads its photographs."""
    return _annotations(cfg, cfg.DATASET.TEST_SET), _reader(cfg, cfg.DATASET.TEST_SET)


def _loader(cfg: CfgNode, crops: Dataset, batches: TrainingBatches | EvaluationBatches, persistent: bool) -> DataLoader:
    """WORKERS processes serve all training processes together, and never more than there are processors."""
    workers = min(math.ceil(cfg.WORKERS / distributed.world()), os.cpu_count() or 1)
    return Loader(
        crops,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # else each epoch would draw from the process's
        pin_memory=cfg.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=persistent and workers > 0,
    )


def _training_people(cfg: CfgNode) -> tuple[Skeleton, people.People]:
    """The training set's persons, out of the index if it has them, and their skeleton."""
    data, joints = cfg.DATASET, cfg.MODEL.NUM_JOINTS

    def read() -> tuple[people.ImageSet, people.People]:
        annotations = _annotations(cfg, data.TRAIN_SET)
        skeleton(cfg, annotations)  # before the keypoints, so that a wrong number of joints is told with its source
        return annotations, (mpii if _is_mpii(cfg) else people).annotated_people(annotations, joints)

    if data.INDEX_CACHE and not _is_mpii(cfg):
        folder, asked = Path(cfg.OUTPUT_DIR) / "index", f"category {data.CATEGORY!r}, {joints} joints"
        source, persons = index.kept(folder, _annotation_file(cfg, data.TRAIN_SET), asked, read)
    else:
        source, persons = read()
    if persons.unlisted:
        logger.warning("%s: %d persons of images that it does not list are skipped", source.path, persons.unlisted)
    return skeleton(cfg, source), persons


def training_data(
    cfg: CfgNode, device: torch.device = CPU
) -> tuple[DataLoader | resident.ResidentCrops, TrainingBatches]:
    """The training set's loader, and the plan of its batches; with DATASET.ON_DEVICE the photographs go to `device`."""
    data = cfg.DATASET
    kind, persons = _training_people(cfg)
    if data.PROB_HALF_BODY and not (kind.upper_body and kind.lower_body):
        logger.warning("the skeleton names no upper_body and lower_body: no half-body crops (PROB_HALF_BODY)")
    elif data.PROB_HALF_BODY and data.NUM_JOINTS_HALF_BODY >= kind.num_joints:
        logger.warning(
            "NUM_JOINTS_HALF_BODY %d is not less than the %d keypoints: no half-body crops (PROB_HALF_BODY)",
            *(data.NUM_JOINTS_HALF_BODY, kind.num_joints),
        )
    if data.SELECT_DATA:
        persons = people.select(persons, people.centred(persons, cfg.MODEL.IMAGE_SIZE[0] / cfg.MODEL.IMAGE_SIZE[1]))
    augmentation = Augmentation(
        flip=data.FLIP,
        scale=data.SCALE_FACTOR,
        rotation=data.ROT_FACTOR,
        half_body=data.PROB_HALF_BODY,
        half_body_joints=data.NUM_JOINTS_HALF_BODY,
        upper_body=data.PROB_UPPER_BODY,
    )
    reader = _reader(cfg, data.TRAIN_SET)
    decoded = _decoded(cfg, persons, reader) if data.DECODED_DIR else None
    crops = _crops(cfg, persons, decoded or reader, kind, augmentation)
    plan = TrainingBatches(
        len(crops),
        cfg.TRAIN.BATCH_SIZE_PER_GPU,
        len(cfg.GPUS),
        cfg.SEED,
        shuffle=cfg.TRAIN.SHUFFLE,
        rank=distributed.rank(),
        world=distributed.world(),
    )
    if not plan.steps:
        raise UserError(
            f"{data.TRAIN_SET} holds {len(crops)} persons, fewer than the {len(cfg.GPUS)} GPUs each step is shared by"
        )
    batch = f"{plan.share * plan.shares} = {plan.shares} GPUS x {plan.share}"
    if distributed.world() < plan.shares:
        batch += f", accumulated over {plan.shares_here} micro-batches in each of {plan.world} process(es)"
    logger.info("%s: %d persons, effective batch %s", data.TRAIN_SET, len(crops), batch)
    if decoded is not None and data.ON_DEVICE:
        placed = _loader(cfg, resident.Placed(crops, decoded), plan, persistent=True)
        pixels, first = resident.on_device(decoded, device)
        return resident.ResidentCrops(placed, pixels, plan.share, first), plan
    return _loader(cfg, crops, plan, persistent=True), plan


def evaluation(cfg: CfgNode, device: torch.device) -> Evaluation:
    """The test set and how a model is judged on it. Raises UserError if the boxes or their images are not there."""
    return _mpii_evaluation(cfg, device) if _is_mpii(cfg) else _coco_evaluation(cfg, device)


def sample(image_size: tuple[int, int]) -> CocoEvaluation:
    """The bundled sample's annotated persons as a test set, in crops of that size (width, height).

    Raises UserError where the repository's data is not at hand.
    """
    recipe = config.repository_root() / "experiments/coco_sample/demo.yaml"
    if not recipe.exists():
        raise UserError(f"{recipe}: missing; the bundled sample is used, so run this in a clone of the repository")
    sizes = {"MODEL.IMAGE_SIZE": list(image_size), "MODEL.HEATMAP_SIZE": [length // 4 for length in image_size]}
    options = [text for key, value in sizes.items() for text in (key, str(value))]
    return _coco_evaluation(config.load(recipe, [*options, "TEST.USE_GT_BBOX", "True"], report=False), CPU)


def _mpii_evaluation(cfg: CfgNode, device: torch.device) -> PckhEvaluation:
    name = cfg.DATASET.TEST_SET
    annotations, reader = test_images(cfg)
    kind = skeleton(cfg, annotations)
    has_truth = not _has_no_truth(name)
    persons = mpii.annotated_people(annotations, kind.num_joints, with_joints=has_truth)
    truth = None
    if has_truth:
        truth = pckh.read_truth(annotations.path.with_name(f"gt_{name}.mat"), kind.names, len(persons))
    return PckhEvaluation(names=kind.names, truth=truth, **_prediction(cfg, device, _crops(cfg, persons, reader, kind)))


def _check_boxes(cfg: CfgNode) -> None:
    """Raise UserError if TEST names no boxes to test on."""
    name, test = cfg.DATASET.TEST_SET, cfg.TEST
    if _has_no_truth(name) and test.USE_GT_BBOX:
        raise UserError(
            f"{name} has no ground truth, as COCO's sets with 'test' in their name: set TEST.USE_GT_BBOX False and "
            "TEST.COCO_BBOX_FILE, or give a set of your own another name"
        )
    if not test.USE_GT_BBOX and not test.COCO_BBOX_FILE:
        raise UserError("TEST.USE_GT_BBOX is false and TEST.COCO_BBOX_FILE is not set: there are no boxes to test on")


def _coco_evaluation(cfg: CfgNode, device: torch.device) -> CocoEvaluation:
    name, test = cfg.DATASET.TEST_SET, cfg.TEST
    _check_boxes(cfg)
    annotations, reader = test_images(cfg)
    kind = skeleton(cfg, annotations)
    joints, boxes = kind.num_joints, "ground truth"
    if not _has_no_truth(name):
        people.check_truth(annotations, joints)
        persons = people.annotated_people(annotations, joints)
    if not test.USE_GT_BBOX:
        boxes = f"{Path(test.COCO_BBOX_FILE).name}, score >= {test.IMAGE_THRE:g}"
        persons = people.detected_people(Path(test.COCO_BBOX_FILE), annotations, joints, test.IMAGE_THRE)
    if persons.unlisted:
        source = annotations.path if test.USE_GT_BBOX else test.COCO_BBOX_FILE
        logger.warning(
            "%s: %d persons of images that %s does not list are skipped",
            *(source, persons.unlisted, annotations.path.name),
        )
    return CocoEvaluation(
        boxes=boxes,
        annotations=annotations,
        has_truth=not _has_no_truth(name),
        sigmas=kind.sigmas,
        score_threshold=test.IN_VIS_THRE,
        oks_threshold=test.OKS_THRE,
        soft_nms=test.SOFT_NMS,
        scorer=test.SCORER,
        **_prediction(cfg, device, _crops(cfg, persons, reader, kind)),
    )


def _prediction(cfg: CfgNode, device: torch.device, crops: Crops) -> dict[str, Any]:
    """What every data set's evaluation is told."""
    test = cfg.TEST
    inference = Inference(test.PRECISION, test.BACKEND, test.COMPILE)
    image, size = crops.people.image, test.BATCH_SIZE_PER_GPU
    plan = EvaluationBatches(image, size, rank=distributed.rank(), world=distributed.world())
    return {
        "name": cfg.DATASET.TEST_SET,
        "crops": crops,
        "loader": _loader(cfg, crops, plan, persistent=False),
        "flip_order": torch.from_numpy(crops.skeleton.flip_order).to(device) if test.FLIP_TEST else None,
        "kernel_size": test.BLUR_KERNEL,
        "number": cfg.RANK,
        "device": device,
        "forward_of": inference,
        "forward_name": inference.describe(),
    }


def data_report(cfg: CfgNode, number: int | None, follow: Callable[[list[int]], Iterable[int]] = iter) -> check.Report:
    """The findings about the sets and boxes that the configuration names; `number` images of each set are read."""
    data, test = cfg.DATASET, cfg.TEST
    if _is_mpii(cfg):
        raise UserError("the data's check reads COCO's format, and DATASET.DATASET is mpii")
    sets = [
        check.ImageSet(
            name=name,
            path=_annotation_file(cfg, name),
            has_truth=not _has_no_truth(name),
            trains=name == data.TRAIN_SET,
            tests=name == data.TEST_SET,
            open_images=partial(_reader, cfg, name),
        )
        for name in dict.fromkeys((data.TRAIN_SET, data.TEST_SET))
    ]

    def boxes() -> check.Boxes | None:
        _check_boxes(cfg)
        if not test.COCO_BBOX_FILE:
            return None
        return check.Boxes(Path(test.COCO_BBOX_FILE), test.IMAGE_THRE, used=not test.USE_GT_BBOX)

    return check.examine(
        sets,
        boxes,
        category=data.CATEGORY,
        num_joints=cfg.MODEL.NUM_JOINTS,
        skeleton_of=partial(skeleton, cfg),
        aspect=cfg.MODEL.IMAGE_SIZE[0] / cfg.MODEL.IMAGE_SIZE[1],
        select_data=data.SELECT_DATA,
        number=number,
        follow=follow,
    )


def targets(cfg: CfgNode, kind: Skeleton, device: torch.device) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """From a batch of crops to target maps (B, K, H, W) and the loss's weights (B, K), on the device."""
    joint_weights = torch.ones(kind.num_joints)
    if cfg.LOSS.USE_DIFFERENT_JOINTS_WEIGHT:
        joint_weights = torch.tensor(kind.joint_weights)
    joint_weights = joint_weights.to(device, torch.float32)
    size, sigma = tuple(cfg.MODEL.HEATMAP_SIZE), cfg.MODEL.SIGMA

    def make(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        keypoints = batch["keypoints"].to(device, non_blocking=True)
        maps, weight = heatmap.encode(keypoints, batch["visible"].to(device, non_blocking=True), size, sigma)
        return maps, weight * joint_weights if cfg.LOSS.USE_TARGET_WEIGHT else torch.ones_like(weight)

    return make


def criterion(cfg: CfgNode) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return partial(loss.ohkm, topk=cfg.LOSS.TOPK) if cfg.LOSS.NAME == "ohkm" else loss.mse


def precision(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """TRAIN.PRECISION. Raises UserError where this device cannot train in it."""
    if cfg.TRAIN.PRECISION == "float16" and device.type != "cuda":
        raise UserError("TRAIN.PRECISION float16 needs a GPU; a processor trains in bfloat16 or float32")
    return PRECISIONS[cfg.TRAIN.PRECISION]


def optimizer(cfg: CfgNode, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam without weight decay as published, AdamW, or SGD, on the parameters that are trained.

    The backbone's group has `lr_scale` TRAIN.BACKBONE_LR_FACTOR, by which its rate differs from the schedule's.
    """
    train = cfg.TRAIN
    groups: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[not name.startswith(HEAD) and train.BACKBONE_LR_FACTOR != 1].append(parameter)
    trained = [
        {"params": group, "lr_scale": train.BACKBONE_LR_FACTOR if backbone else 1.0}
        for backbone, group in groups.items()
        if group
    ]
    if train.OPTIMIZER == "sgd":
        return torch.optim.SGD(
            trained, train.LR, momentum=train.MOMENTUM, weight_decay=train.WD, nesterov=train.NESTEROV
        )
    kind = torch.optim.Adam if train.OPTIMIZER == "adam" else torch.optim.AdamW
    decay = train.WD if train.APPLY_WEIGHT_DECAY else 0.0
    logger.info("%s, weight decay %g (TRAIN.APPLY_WEIGHT_DECAY %s)", kind.__name__, decay, train.APPLY_WEIGHT_DECAY)
    # One kernel for all parameters, which pays on a GPU only.
    on_gpu = next(network.parameters()).is_cuda
    return kind(trained, train.LR, weight_decay=decay, fused=on_gpu or None)


def learning_rate(cfg: CfgNode) -> Callable[[int], float]:
    """The learning rate of an epoch, counted from 0: a pure function, so a resumed run cannot be off."""
    train = cfg.TRAIN

    def rate(epoch: int) -> float:
        if train.SCHEDULE == "multistep":
            value = train.LR * train.LR_FACTOR ** sum(epoch >= step for step in train.LR_STEP)
        else:
            value = train.LR_END + (train.LR - train.LR_END) * (1 + math.cos(math.pi * epoch / train.END_EPOCH)) / 2
        return value * min(1.0, (epoch + 1) / (train.WARMUP_EPOCHS + 1))

    return rate


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


def changes(old: dict, cfg: CfgNode) -> list[str]:
    """Lines "KEY: old -> new" for what a resumed run would train or judge differently."""
    new = plain(cfg)
    old = _filled(old, plain(config.defaults()))  # a checkpoint of before a key was there was trained with its default
    pair = [tree | {"GPUS": len(tree["GPUS"])} for tree in (old, new)]
    return [line for line in config.differences(*pair) if not line.startswith(FREE_TO_CHANGE)]


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


def monitor(cfg: CfgNode, kind: Skeleton, log_folder: Path, folder: Path) -> Monitor:
    """TensorBoard in `log_folder`, and the pictures that DEBUG asks for in `folder`/pictures."""
    _make_writable(log_folder, "--logDir")
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
        checkpoint.write_atomically(folder / name, partial(_write, text=text))


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())
