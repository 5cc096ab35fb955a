"""The configuration -> the test set, and how a model is evaluated on it."""

import logging
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from ..config.load import load_config
from ..config.paths import repository_root
from ..dataset import coco, detections, mpii
from ..dataset.check import statistics
from ..dataset.findings import Findings
from ..dataset.samplers import EvalSampler
from ..dataset.topdown import TopDownDataset
from ..errors import UserError
from ..evaluation.evaluate import CocoEvaluation, Evaluation
from ..evaluation.pckh import PckhEvaluation
from ..models.backends import Backend, chosen_precision
from ..runtime import distributed
from .data import (
    build_dataset,
    build_loader,
    check_box_source,
    has_truth,
    is_mpii,
    log_left_out,
    read_pckh,
    skeleton_of,
    test_images,
)
from .model import build_test_options

logger = logging.getLogger(__name__)


def build_evaluation(cfg: CfgNode, device: torch.device) -> Evaluation:
    """The test set and how a model is evaluated on it. Raises UserError if the boxes or their images are not there."""
    return _mpii_evaluation(cfg, device) if is_mpii(cfg) else _coco_evaluation(cfg, device)


def build_sample_evaluation(image_size: tuple[int, int]) -> CocoEvaluation:
    """The bundled sample's annotated persons as a test set, in crops of that size (width, height).

    Raises UserError outside a clone, which has the data.
    """
    recipe = repository_root() / "experiments/coco_sample/demo.yaml"
    if not recipe.exists():
        raise UserError(f"{recipe}: missing; the bundled sample is used, so run this in a clone of the repository")
    sizes = {"MODEL.IMAGE_SIZE": list(image_size), "MODEL.HEATMAP_SIZE": [length // 4 for length in image_size]}
    options = [text for key, value in sizes.items() for text in (key, str(value))]
    sample = load_config(recipe, [*options, "TEST.USE_GT_BBOX", "True"], report=False)
    return _coco_evaluation(sample, torch.device("cpu"))


def _mpii_evaluation(cfg: CfgNode, device: torch.device) -> PckhEvaluation:
    name = cfg.DATASET.TEST_SET
    annotations, reader = test_images(cfg)
    skeleton = skeleton_of(cfg, annotations)
    instances = mpii.annotated_instances(annotations, with_joints=has_truth(name))
    truth = read_pckh(cfg, skeleton, len(instances)) if has_truth(name) else None
    return PckhEvaluation(truth=truth, **_common(cfg, device, build_dataset(cfg, instances, reader, skeleton)))


def _coco_evaluation(cfg: CfgNode, device: torch.device) -> CocoEvaluation:
    name, test = cfg.DATASET.TEST_SET, cfg.TEST
    check_box_source(cfg)
    annotations, reader = test_images(cfg)
    skeleton = skeleton_of(cfg, annotations)
    doubts: list[str] = []
    joints, boxes, source = skeleton.num_joints, "ground truth", annotations.path
    if has_truth(name):
        coco.check_truth(annotations)
        if no_precision := statistics.why_no_precision(annotations):
            logger.warning("%s: %s", annotations.path, no_precision)
        elif (sizes := statistics.count_by_size(annotations))[1]:
            logger.info("%s: %s", annotations.path, sizes[0])
        instances = coco.annotated_instances(annotations)
        statistics.check_num_keypoints(stated := Findings(), annotations, tests=True)
        doubts += [instances.doubts, stated.warn(annotations.path)]
    if not test.USE_GT_BBOX:
        boxes = f"{Path(test.COCO_BBOX_FILE).name}, score >= {test.IMAGE_THRE:g}"
        source = Path(test.COCO_BBOX_FILE)
        instances = detections.detected_instances(source, annotations, joints, test.IMAGE_THRE)
        doubts.append(instances.doubts)
    log_left_out(source, instances, skeleton)
    return CocoEvaluation(
        boxes=boxes,
        annotations=annotations,
        has_truth=has_truth(name),
        doubts="; ".join(filter(None, doubts)),
        oks_threshold=test.OKS_THRE,
        soft_nms=test.SOFT_NMS,
        **_common(cfg, device, build_dataset(cfg, instances, reader, skeleton)),
    )


def _common(cfg: CfgNode, device: torch.device, crops: TopDownDataset) -> dict[str, Any]:
    """The arguments that the evaluations of all data sets share."""
    test = cfg.TEST
    image, size = crops.instances.image, test.BATCH_SIZE_PER_GPU
    plan = EvalSampler(image, size, rank=distributed.rank(), world=distributed.world())
    return {
        "name": cfg.DATASET.TEST_SET,
        "crops": crops,
        "loader": build_loader(cfg, crops, plan, persistent=False),
        "options": build_test_options(cfg),
        "number": cfg.RANK,
        "device": device,
        "backend": Backend(chosen_precision(test.PRECISION, device, test.BACKEND), test.BACKEND, test.COMPILE),
    }
