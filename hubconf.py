"""Entry points of torch.hub: torch.hub.load('<owner>/TransPose:main', 'tpr_a4_256x192', pretrained=True)

Each gives a network for normalised RGB crops (B, 3, 256, 192) -> heatmaps (B, 17, 64, 48), in evaluation mode.
"""

import runpy as _runpy
import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "torchvision", "numpy", "safetensors", "tqdm", "pooch"]


def _load(name: str, pretrained: bool):
    if "transpose" not in _sys.modules:
        _runpy.run_path(str(_Path(__file__).resolve().parent / "tools/transpose.py"))
    from transpose.models import zoo

    return zoo.pretrained(name) if pretrained else zoo.model(name).eval()


def tpr_a3_256x192(pretrained: bool = False):
    """TransPose-R-A3, 5.2 million parameters; `pretrained` downloads the released weights."""
    return _load("tp_r_a3", pretrained)


def tpr_a4_256x192(pretrained: bool = False):
    """TransPose-R-A4, 6.0 million parameters; `pretrained` downloads the released weights."""
    return _load("tp_r_a4", pretrained)


def tph_s_256x192(pretrained: bool = False):
    """TransPose-H-S, 8.0 million parameters; `pretrained` downloads the released weights."""
    return _load("tp_h_s", pretrained)


def tph_a4_256x192(pretrained: bool = False):
    """TransPose-H-A4, 17.3 million parameters; `pretrained` downloads the released weights."""
    return _load("tp_h_a4", pretrained)


def tph_a6_256x192(pretrained: bool = False):
    """TransPose-H-A6, 17.5 million parameters; `pretrained` downloads the released weights."""
    return _load("tp_h_a6", pretrained)
