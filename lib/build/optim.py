"""The configuration -> targets, loss, optimiser, learning rate and the options of training."""

import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..core import loss
from ..core.train import TrainOptions
from ..errors import UserError
from ..models.backends import PRECISIONS, chosen_precision
from ..models.transpose import TransPose
from ..pose import heatmap
from ..pose.skeleton import Skeleton

logger = logging.getLogger(__name__)


def build_targets(
    cfg: CfgNode, skeleton: Skeleton, device: torch.device
) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """From a batch of crops to target maps (B, K, H, W) and the loss's weights (B, K), on the device."""
    weights = skeleton.joint_weights if cfg.LOSS.USE_DIFFERENT_JOINTS_WEIGHT else [1.0] * skeleton.num_joints
    joint_weights = torch.tensor(weights, dtype=torch.float32, device=device)
    size, sigma = tuple(cfg.MODEL.HEATMAP_SIZE), cfg.MODEL.SIGMA

    def make(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        keypoints = batch["keypoints"].to(device, non_blocking=True)
        maps, weight = heatmap.encode(keypoints, batch["visible"].to(device, non_blocking=True), size, sigma)
        return maps, weight * joint_weights if cfg.LOSS.USE_TARGET_WEIGHT else torch.ones_like(weight)

    return make


def build_criterion(cfg: CfgNode) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return partial(loss.ohkm, topk=cfg.LOSS.TOPK) if cfg.LOSS.NAME == "ohkm" else loss.mse


def build_train_options(cfg: CfgNode, device: torch.device) -> TrainOptions:
    """How the network is trained. Raises UserError where this device cannot train in TRAIN.PRECISION."""
    train = cfg.TRAIN
    if train.PRECISION == "float16" and device.type != "cuda":
        raise UserError("TRAIN.PRECISION float16 needs a GPU; a CPU trains in bfloat16 or float32")
    return TrainOptions(
        epochs=train.END_EPOCH,
        validate_every=train.VALIDATE_EVERY,
        report_every=cfg.PRINT_FREQ,
        checkpoint_every=train.CHECKPOINT_EVERY,
        precision=PRECISIONS[chosen_precision(train.PRECISION, device)],
        clip=train.CLIP_GRAD,
        skip_broken=train.SKIP_NONFINITE,
        ema=train.EMA,
    )


def build_optimizer(cfg: CfgNode, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam without weight decay as published, AdamW, or SGD, on the parameters that are trained.

    The backbone's group has `lr_scale` TRAIN.BACKBONE_LR_FACTOR, by which its rate differs from the schedule's.
    """
    train = cfg.TRAIN
    groups: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[not name.startswith(TransPose.NOT_BACKBONE) and train.BACKBONE_LR_FACTOR != 1].append(parameter)
    trained = [
        {"params": group, "lr_scale": train.BACKBONE_LR_FACTOR if backbone else 1.0}
        for backbone, group in groups.items()
        if group
    ]
    if train.OPTIMIZER == "sgd":
        return torch.optim.SGD(
            trained, train.LR, momentum=train.MOMENTUM, weight_decay=train.WD, nesterov=train.NESTEROV
        )
    adam = torch.optim.Adam if train.OPTIMIZER == "adam" else torch.optim.AdamW
    decay = train.WD if train.APPLY_WEIGHT_DECAY else 0.0
    logger.info("%s, weight decay %g (TRAIN.APPLY_WEIGHT_DECAY %s)", adam.__name__, decay, train.APPLY_WEIGHT_DECAY)
    # One kernel for all parameters, which pays on a GPU only.
    on_gpu = next(network.parameters()).is_cuda
    return adam(trained, train.LR, weight_decay=decay, fused=on_gpu or None)


def build_learning_rate(cfg: CfgNode) -> Callable[[int], float]:
    """The learning rate of an epoch, counted from 0: a pure function, so a resumed run gets the same one."""
    train = cfg.TRAIN

    def rate(epoch: int) -> float:
        if train.SCHEDULE == "multistep":
            value = train.LR * train.LR_FACTOR ** sum(epoch >= step for step in train.LR_STEP)
        else:
            value = train.LR_END + (train.LR - train.LR_END) * (1 + math.cos(math.pi * epoch / train.END_EPOCH)) / 2
        return value * min(1.0, (epoch + 1) / (train.WARMUP_EPOCHS + 1))

    return rate
