"""Losses on heatmaps, and the accuracy that training logs.

B batch, K keypoints, H x W heatmap. `weight` (B, K) multiplies both maps, so it acts squared.
"""

import torch
from torch import Tensor

from ..pose import heatmap


def joint_losses(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(B, K): half the mean squared difference of each keypoint's maps (B, K, H, W)."""
    return ((output - target) * weight[..., None, None]).square().mean((2, 3)) / 2


def mse(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The published loss: the mean of `joint_losses` over batch and keypoints."""
    return joint_losses(output, target, weight).mean()


def ohkm(output: Tensor, target: Tensor, weight: Tensor, topk: int) -> Tensor:
    """Online hard keypoint mining (CPN, CVPR 2018): the mean over each sample's `topk` worst keypoints."""
    return joint_losses(output, target, weight).topk(topk, dim=1).values.mean()


def pck(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Counts (K) of keypoints whose peak is near the target's (within 1/20 of the map's size), and of all counted ones.

    Keypoints whose target peak has a coordinate of 1 or less are not counted.
    """
    height, width = output.shape[-2:]
    found, _ = heatmap.peaks(output)
    wanted, _ = heatmap.peaks(target)
    valid = (wanted > 1).all(-1)
    dx, dy = (found - wanted).unbind(-1)
    near = torch.hypot(dx / (width / 10), dy / (height / 10)) < 0.5
    return (near & valid).sum(0), valid.sum(0)


def pck_average(correct: Tensor, counts: Tensor) -> tuple[float, Tensor]:
    """The mean accuracy of the counted keypoints, and that of each (K); -1: never counted."""
    each = torch.where(counts > 0, correct / counts.clamp_min(1), -1.0)
    counted = each[counts > 0]
    return (float(counted.mean()) if len(counted) else 0.0), each
