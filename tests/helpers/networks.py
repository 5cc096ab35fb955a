"""Small networks, the published ones, and images for them."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from helpers.goldens import ROOT, state_dicts
from transpose.models.encoder import EncoderConfig
from transpose.models.hrnet import Stage
from transpose.models.transpose import TransPoseH, TransPoseR

PUBLISHED = state_dicts()


SMALL = (64, 96)  # width, height


def with_encoder(options: dict, **numbers) -> dict:
    """A constructor's options, the encoder's among them made one `EncoderConfig`; `numbers` are its defaults."""
    own = {field.name for field in fields(EncoderConfig)} & options.keys()
    encoder = EncoderConfig(**numbers | {name: options[name] for name in own})
    return {name: value for name, value in options.items() if name not in own} | {"encoder": encoder}


def small_r(**options) -> TransPoseR:
    options = {"num_layers": 18, "image_size": SMALL, "deconv_filters": (32,)} | options
    return TransPoseR(**with_encoder(options, dim=32, heads=4, layers=2, feedforward=64)).eval()


def small_h(width: int = 8, **options) -> TransPoseH:
    stage2, stage3 = Stage(1, "BASIC", (1, 1), (width, 16)), Stage(2, "BASIC", (1, 1, 1), (width, 16, 32))
    options = {"image_size": SMALL, "stage2": stage2, "stage3": stage3} | options
    return TransPoseH(**with_encoder(options, dim=16, heads=2, layers=2, feedforward=32)).eval()


BOTH = pytest.mark.parametrize("make", [small_r, small_h], ids=["R", "H"])


def images(batch: int = 1, size: tuple[int, int] = SMALL) -> torch.Tensor:
    return torch.randn(batch, 3, size[1], size[0], generator=torch.Generator().manual_seed(1))


def published(name: str) -> nn.Module:
    from transpose.build.model import build_model
    from transpose.config.load import load_config

    return build_model(load_config(ROOT / "experiments/coco" / PUBLISHED[name]["config"])).eval()
