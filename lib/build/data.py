"""The configuration -> data sets, their skeleton and their loaders."""

import contextlib
import logging
import math
import os
import zipfile
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from ..dataset import coco, mpii
from ..dataset.check import doctor
from ..dataset.check.report import Report
from ..dataset.image_cache import DecodedImages
from ..dataset.images import ImageReader, Reader
from ..dataset.loader import Loader
from ..dataset.samplers import EvalSampler, TrainSampler
from ..dataset.topdown import Augmentation, TopDownDataset
from ..errors import UserError
from ..evaluation import pckh
from ..evaluation.evaluate import Evaluation
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime import distributed
from ..runtime.files import checksum, make_writable, remove_leftovers
from ..runtime.signals import leave_to_parent

logger = logging.getLogger(__name__)

MAX_WRITING = 60.0  # seconds, longer than another run takes to write a decoded image


def skeleton_of(cfg: CfgNode, annotations: coco.Annotations) -> Skeleton:
    """The skeleton of DATASET.SKELETON, else the annotated category's, else COCO's; it must fit MODEL.NUM_JOINTS."""
    source = cfg.DATASET.SKELETON
    if source:
        skeleton = skeletons.read(Path(source))
        check_order(skeleton.names, source, annotations)
        skeleton = skeletons.of_category(skeleton, str(annotations.category.get("name", skeleton.category)))
    else:
        source = str(annotations.path)
        skeleton = skeletons.from_category(annotations.category, source) or skeletons.COCO
    joints = skeleton.num_joints
    if cfg.MODEL.NUM_JOINTS != joints:
        raise UserError(
            f"{source}: its skeleton has {joints} keypoints, but MODEL.NUM_JOINTS is {cfg.MODEL.NUM_JOINTS}: "
            f"set MODEL.NUM_JOINTS {joints}"
        )
    if skeleton != skeletons.COCO:
        _log_skeleton(skeleton, source)
    return skeleton


def check_order(names: tuple[str, ...], source: str, annotations: coco.Annotations) -> None:
    """Raise UserError if a keypoint has another position in the annotated category's list.

    Names that the category does not list are allowed, because annotation tools name keypoints 1, 2, 3.
    """
    listed = annotations.category.get("keypoints")
    if not isinstance(listed, list):
        return
    for place, (name, other) in enumerate(zip(names, listed, strict=False), start=1):
        if name != other and (name in listed or other in names):
            raise UserError(
                f"{source}: its keypoint {place} is {name!r}, but {annotations.path} lists {other!r} there, and the "
                "numbers of each annotation follow that list: list `names` in the same order"
            )


def shared_skeleton(loader: DataLoader, evaluation: Evaluation) -> Skeleton:
    """The skeleton that is trained and tested. Raises UserError if the two sets list different keypoints."""
    assert isinstance(loader.dataset, TopDownDataset)
    trained, tested = loader.dataset.skeleton, evaluation.crops.skeleton
    if trained.names != tested.names:
        raise UserError(
            f"the training set lists the keypoints {', '.join(trained.names)}, but {evaluation.name} lists "
            f"{', '.join(tested.names)}: both must list the same in the same order"
        )
    return tested


@cache
def _log_skeleton(skeleton: Skeleton, source: str) -> None:
    """Log a skeleton that is not COCO's, once."""
    pairs = ", ".join(f"{skeleton.names[a]}/{skeleton.names[b]}" for a, b in skeleton.pairs) or "none"
    logger.info(
        "skeleton of %s: %d keypoints (%s); left/right pairs: %s; %d limbs",
        *(source, skeleton.num_joints, ", ".join(skeleton.names), pairs, len(skeleton.limbs)),
    )


def has_truth(name: str) -> bool:
    """Whether the set has annotations; COCO's and MPII's sets with 'test' in their name have none."""
    return "test" not in name


def is_mpii(cfg: CfgNode) -> bool:
    """Whether the data is in MPII's format; else it is in COCO's."""
    return cfg.DATASET.DATASET == "mpii"


def _in_root(cfg: CfgNode, place: str, name: str) -> Path:
    return Path(cfg.DATASET.ROOT) / place.replace("{set}", name)


def _annotation_file(cfg: CfgNode, name: str) -> Path:
    usual = f"annotations/{'person_keypoints' if has_truth(name) else 'image_info'}_{{set}}.json"
    return _in_root(cfg, cfg.DATASET.ANNOTATIONS or ("annot/{set}.json" if is_mpii(cfg) else usual), name)


def _pckh_file(cfg: CfgNode) -> Path:
    """PCKh's ground truth of DATASET.TEST_SET, beside its annotations."""
    name = cfg.DATASET.TEST_SET
    return _annotation_file(cfg, name).with_name(f"gt_{name}.mat")


def _read_annotations(cfg: CfgNode, name: str) -> coco.Annotations:
    path = _annotation_file(cfg, name)
    if is_mpii(cfg):
        return mpii.read_annotations(path, cfg.MODEL.NUM_JOINTS)
    return coco.read_annotations(path, cfg.MODEL.NUM_JOINTS, cfg.DATASET.CATEGORY, image_info=not has_truth(name))


def _image_reader(cfg: CfgNode, name: str) -> ImageReader:
    """The reader of a set's images. Raises UserError if their folder or zip is missing or damaged."""
    data = cfg.DATASET
    usual = "images" if is_mpii(cfg) else "images/{set}" if has_truth(name) else "images/test2017"
    source = _in_root(cfg, data.IMAGES or usual + (".zip" if data.DATA_FORMAT == "zip" else ""), name)
    if not source.exists():
        raise UserError(f"{source}: the images of DATASET set {name} are missing")
    if source.suffix == ".zip" and not zipfile.is_zipfile(source):
        raise UserError(f"{source}: not a zip file, or a truncated one")
    return ImageReader(source, cache_bytes=data.CACHE_MB << 20, max_pixels=data.MAX_IMAGE_PIXELS)


def read_pckh(cfg: CfgNode, skeleton: Skeleton, persons: int) -> pckh.PckhTruth:
    """PCKh's ground truth of DATASET.TEST_SET. Raises UserError if it is missing, damaged or does not fit."""
    return pckh.read_truth(_pckh_file(cfg), skeleton.names, persons)


def build_dataset(
    cfg: CfgNode,
    instances: coco.Instances,
    reader: Reader,
    skeleton: Skeleton,
    augmentation: Augmentation | None = None,
) -> TopDownDataset:
    return TopDownDataset(
        instances,
        reader,
        skeleton,
        tuple(cfg.MODEL.IMAGE_SIZE),
        tuple(cfg.MODEL.HEATMAP_SIZE),
        rgb=cfg.DATASET.COLOR_RGB,
        augmentation=augmentation,
        seed=cfg.SEED,
    )


def test_images(cfg: CfgNode) -> tuple[coco.Annotations, ImageReader]:
    """The annotations of DATASET.TEST_SET and the reader of its images."""
    return _read_annotations(cfg, cfg.DATASET.TEST_SET), _image_reader(cfg, cfg.DATASET.TEST_SET)


def annotated_test_set(cfg: CfgNode, with_images: bool) -> tuple[coco.Annotations, ImageReader | None]:
    """As `test_images`, checked for COCO's evaluation. Raises UserError if there is no ground truth."""
    name = cfg.DATASET.TEST_SET
    if is_mpii(cfg):
        raise UserError("this command needs COCO's format, but DATASET.DATASET is mpii")
    if not has_truth(name):
        raise UserError(f"DATASET.TEST_SET {name} has no ground truth, as COCO's sets with 'test' in their name")
    annotations, reader = test_images(cfg) if with_images else (_read_annotations(cfg, name), None)
    coco.check_truth(annotations)
    return annotations, reader


def build_loader(cfg: CfgNode, crops: Dataset, batches: TrainSampler | EvalSampler, persistent: bool) -> DataLoader:
    """This process's share of the WORKERS loading processes, of which there are at most as many as CPU cores."""
    workers = min(math.ceil(cfg.WORKERS / distributed.world()), os.cpu_count() or 1)
    return Loader(
        crops,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # else each epoch would advance the process's own
        pin_memory=cfg.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=persistent and workers > 0,
    )


def _training_instances(cfg: CfgNode) -> tuple[Skeleton, coco.Instances]:
    """The training set's persons and their skeleton."""
    source = _read_annotations(cfg, cfg.DATASET.TRAIN_SET)
    skeleton = skeleton_of(
        cfg, source
    )  # before the keypoints, so that a wrong number of joints is reported with its source
    instances = (mpii if is_mpii(cfg) else coco).annotated_instances(source)
    log_left_out(source.path, instances, skeleton)
    return skeleton, instances


def log_left_out(path: Path, instances: coco.Instances, skeleton: Skeleton) -> None:
    if instances.left_out:
        logger.info("%s: %d %ss; left out: %s", path, len(instances), skeleton.noun, instances.left_out)


def data_sums(cfg: CfgNode) -> dict[str, str]:
    """Key -> SHA-256 of the file that it names, for the files that define a run's data."""
    data, test = cfg.DATASET, cfg.TEST
    files = {f"DATASET.{key}": _annotation_file(cfg, data[key]) for key in ("TRAIN_SET", "TEST_SET")}
    if is_mpii(cfg):
        files["DATASET.TEST_SET's truth"] = _pckh_file(cfg)
    if data.SKELETON:
        files["DATASET.SKELETON"] = Path(data.SKELETON)
    if test.COCO_BBOX_FILE and not test.USE_GT_BBOX:
        files["TEST.COCO_BBOX_FILE"] = Path(test.COCO_BBOX_FILE)
    sums = {}
    for key, path in files.items():
        with contextlib.suppress(OSError):  # a missing file is reported when it is read
            sums[key] = checksum(path)
    return sums


def _training_images(cfg: CfgNode) -> Reader:
    """The reader of the training set's images, which keeps them decoded in DATASET.DECODED_DIR."""
    reader = _image_reader(cfg, cfg.DATASET.TRAIN_SET)
    if not cfg.DATASET.DECODED_DIR:
        return reader
    folder = Path(cfg.DATASET.DECODED_DIR)
    make_writable(folder, "DATASET.DECODED_DIR")
    if distributed.rank() == 0:
        remove_leftovers(folder, min_age=MAX_WRITING)
    return DecodedImages(reader, folder)


def build_training_data(cfg: CfgNode) -> tuple[DataLoader, TrainSampler]:
    """The training set's loader, and the sampler of its batches."""
    data = cfg.DATASET
    skeleton, instances = _training_instances(cfg)
    if data.PROB_HALF_BODY and not (skeleton.upper_body and skeleton.lower_body):
        logger.warning("the skeleton names no upper_body and lower_body: no half-body crops (PROB_HALF_BODY)")
    elif data.PROB_HALF_BODY and data.NUM_JOINTS_HALF_BODY >= skeleton.num_joints:
        logger.warning(
            "NUM_JOINTS_HALF_BODY %d is not less than the %d keypoints: no half-body crops (PROB_HALF_BODY)",
            *(data.NUM_JOINTS_HALF_BODY, skeleton.num_joints),
        )
    if data.SELECT_DATA:
        centred = coco.centred(instances, cfg.MODEL.IMAGE_SIZE[0] / cfg.MODEL.IMAGE_SIZE[1])
        logger.info("%s: %d persons off centre are left out (SELECT_DATA)", data.TRAIN_SET, (~centred).sum())
        instances = coco.select(instances, centred)
    augmentation = Augmentation(
        flip=data.FLIP,
        scale=data.SCALE_FACTOR,
        rotation=data.ROT_FACTOR,
        half_body=data.PROB_HALF_BODY,
        half_body_joints=data.NUM_JOINTS_HALF_BODY,
        upper_body=data.PROB_UPPER_BODY,
    )
    crops = build_dataset(cfg, instances, _training_images(cfg), skeleton, augmentation)
    plan = TrainSampler(
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
            f"{data.TRAIN_SET} holds {len(crops)} {skeleton.noun}s, fewer than the {len(cfg.GPUS)} GPUs that share "
            "each step"
        )
    batch = f"{plan.micro_batch * plan.micro_batches} = {plan.micro_batches} GPUS x {plan.micro_batch}"
    if distributed.world() < plan.micro_batches:
        batch += f", accumulated over {plan.micro_batches_here} micro-batches in each of {plan.world} process(es)"
    logger.info("%s: %d %ss, effective batch %s", data.TRAIN_SET, len(crops), skeleton.noun, batch)
    return build_loader(cfg, crops, plan, persistent=True), plan


def check_box_source(cfg: CfgNode) -> None:
    """Raise UserError if TEST names no boxes to test on."""
    name, test = cfg.DATASET.TEST_SET, cfg.TEST
    if not has_truth(name) and test.USE_GT_BBOX:
        raise UserError(
            f"{name} has no ground truth, as COCO's sets with 'test' in their name: set TEST.USE_GT_BBOX False and "
            "TEST.COCO_BBOX_FILE, or rename a set of your own"
        )
    if not test.USE_GT_BBOX and not test.COCO_BBOX_FILE:
        raise UserError("TEST.USE_GT_BBOX is false and TEST.COCO_BBOX_FILE is not set: there are no boxes to test on")


def data_report(cfg: CfgNode, number: int | None, follow: Callable[[list[int]], Iterable[int]] = iter) -> Report:
    """The report on the sets and boxes of the configuration; `number` images of each set are read."""
    data, test = cfg.DATASET, cfg.TEST
    sets = [
        doctor.SetToCheck(
            name=name,
            path=_annotation_file(cfg, name),
            has_truth=has_truth(name),
            trains=name == data.TRAIN_SET,
            tests=name == data.TEST_SET,
            open_images=partial(_image_reader, cfg, name),
            of_mpii=is_mpii(cfg),
            read_pckh=partial(read_pckh, cfg) if is_mpii(cfg) and name == data.TEST_SET and has_truth(name) else None,
        )
        for name in dict.fromkeys((data.TRAIN_SET, data.TEST_SET))
    ]

    def boxes() -> doctor.BoxesToCheck | None:
        check_box_source(cfg)
        if not test.COCO_BBOX_FILE:
            return None
        return doctor.BoxesToCheck(Path(test.COCO_BBOX_FILE), test.IMAGE_THRE, used=not test.USE_GT_BBOX)

    return doctor.examine(
        sets,
        boxes,
        category=data.CATEGORY,
        num_joints=cfg.MODEL.NUM_JOINTS,
        skeleton_of=partial(skeleton_of, cfg),
        aspect=cfg.MODEL.IMAGE_SIZE[0] / cfg.MODEL.IMAGE_SIZE[1],
        select_data=data.SELECT_DATA,
        number=number,
        follow=follow,
    )
