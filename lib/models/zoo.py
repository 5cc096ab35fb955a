"""The five released models (ICCV 2021, arXiv 2012.14214): networks by name, without a configuration, and their weights.

All take RGB crops of 256x192 pixels (height x width) and were trained on COCO train2017, for COCO's 17 keypoints.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..config.paths import repository_root
from ..errors import UserError
from ..runtime import checkpoint, download
from .encoder import EncoderConfig
from .hrnet import Stage
from .transpose import R_A4, VARIANTS, TransPose
from .weights import BACKBONES, load_weights, unwrap

RELEASE = "https://github.com/yangsenius/TransPose/releases/download/Hub"
FOLDER = "models/pytorch/transpose_coco"  # under the repository's root, as the recipes' TEST.MODEL_FILE
IMAGENET_FOLDER = "models/pytorch/imagenet"  # as the recipes' MODEL.PRETRAINED
IMAGE_SIZE = 192, 256  # width, height
KEYPOINTS = 17
BLUR_KERNEL = 11  # blur of DARK's decoding; the published APs were measured with it and with the flip test


@dataclass(frozen=True)
class Released:
    """A released model. `gflops` count a multiply-add as two operations (measured here, on one 256x192 image), the
    published ones as one; AP is the published one on COCO val2017, with a detector's boxes and with the annotated."""

    parameters: int
    gflops: float
    published_gflops: float
    published_ap: float
    published_ap_gt: float
    title: str
    hub_name: str
    network: Callable[..., TransPose]
    file: str
    sha256: str = ""  # checksum; not published: recorded at the first download

    @property
    def url(self) -> str:
        return f"{RELEASE}/{self.file}"


def transpose_r(layers: int, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """TransPose-R of 256x192 crops with ResNet-50's first stages and an encoder of so many layers.

    `variants` are the classes of both variants.
    """
    return variants["transpose_r"](
        image_size=IMAGE_SIZE, num_joints=KEYPOINTS, num_layers=50, encoder=replace(R_A4, layers=layers)
    )


def transpose_h(width: int, dim: int, layers: int, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """TransPose-H of 256x192 crops with HRNet of that width; the feed-forward network is twice as wide as `dim`."""
    return variants["transpose_h"](
        image_size=IMAGE_SIZE,
        num_joints=KEYPOINTS,
        stage2=Stage(1, "BASIC", (4, 4), (width, 2 * width)),
        stage3=Stage(4, "BASIC", (4, 4, 4), (width, 2 * width, 4 * width)),
        encoder=EncoderConfig(dim=dim, heads=1, layers=layers, feedforward=2 * dim),
    )


# fmt: off
RELEASED = {
    # name               parameters, GFLOPs, as published, AP, with annotated boxes
    "tp_r_a3": Released(  5_195_345, 10.83,  8.0, 0.717, 0.738,
        "TransPose-R-A3", "tpr_a3_256x192", partial(transpose_r, 3), "tp_r_256x192_enc3_d256_h1024_mh8.pth"),
    "tp_r_a4": Released(  5_985_105, 12.64,  8.9, 0.726, 0.751,
        "TransPose-R-A4", "tpr_a4_256x192", partial(transpose_r, 4), "tp_r_256x192_enc4_d256_h1024_mh8.pth"),
    "tp_h_s":  Released(  8_019_281, 19.86, 10.2, 0.742, 0.761,
        "TransPose-H-S", "tph_s_256x192", partial(transpose_h, 32, 64, 4), "tp_h_32_256x192_enc4_d64_h128_mh1.pth"),
    "tp_h_a4": Released( 17_306_129, 34.41, 17.5, 0.753, 0.775,
        "TransPose-H-A4", "tph_a4_256x192", partial(transpose_h, 48, 96, 4), "tp_h_48_256x192_enc4_d96_h192_mh1.pth"),
    "tp_h_a6": Released( 17_455_697, 42.56, 21.8, 0.758, 0.781,
        "TransPose-H-A6", "tph_a6_256x192", partial(transpose_h, 48, 96, 6), "tp_h_48_256x192_enc6_d96_h192_mh1.pth"),
}
# fmt: on
# Published for COCO val2017 and the boxes of HRNet's detector (human AP 56.4), with the flip test: AP, AP .5, AP .75,
# AP (M), AP (L), AR, AR .5, AR .75, AR (M), AR (L).
PUBLISHED = {
    "tp_r_a3": (0.717, 0.889, 0.788, 0.680, 0.786, 0.771, 0.930, 0.836, 0.727, 0.835),
    "tp_r_a4": (0.726, 0.891, 0.799, 0.688, 0.798, 0.780, 0.931, 0.845, 0.735, 0.844),
    "tp_h_s": (0.742, 0.896, 0.808, 0.706, 0.810, 0.795, 0.935, 0.855, 0.752, 0.856),
    "tp_h_a4": (0.753, 0.900, 0.818, 0.717, 0.821, 0.803, 0.939, 0.861, 0.761, 0.865),
    "tp_h_a6": (0.758, 0.901, 0.821, 0.719, 0.828, 0.808, 0.939, 0.864, 0.764, 0.872),
}
HUB_NAMES = {released.hub_name: name for name, released in RELEASED.items()}


def is_name(text: str) -> bool:
    """Whether a text is the name of a released model; else it may be a path."""
    return text in RELEASED or text in HUB_NAMES


def released(name: str) -> Released:
    """The entry of a name, tp_r_a4 or the hub's tpr_a4_256x192. Raises UserError for another."""
    if not is_name(name):
        nearest = difflib.get_close_matches(name, [*RELEASED, *HUB_NAMES], n=1, cutoff=0)[0]
        raise UserError(
            f"there is no released model {name!r}; choose from {', '.join(RELEASED)}; the nearest is {nearest}"
        )
    return RELEASED[HUB_NAMES.get(name, name)]


def model(name: str, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """The network of a name as constructed, without trained weights; `variants` are the classes of both variants."""
    return released(name).network(variants=variants)


def weights(name: str, folder: Path | None = None) -> Path:
    """The file of a model's released weights, downloaded if it is absent: in `folder`, else where the recipes of a
    clone look if it is there, else in the user's cache (`download.cached_place`).

    Raises UserError if the download fails, or if the file is not the one that was first downloaded.
    """
    entry = released(name)
    return download.fetch(entry.url, place(folder, FOLDER, entry.file), entry.sha256)


def backbone(name: str, folder: Path | None = None) -> Path:
    """The file of ImageNet weights, of a name in `BACKBONES`, like `weights`.

    Raises UserError that says where to get it, if it is absent and only a browser can download it.
    """
    if name not in BACKBONES:
        raise UserError(f"there are no ImageNet weights {name!r}; choose from {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    path = place(folder, IMAGENET_FOLDER, entry.file)
    if not path.exists() and not entry.url:
        raise UserError(f"{path}: download {entry.file} with a browser from {entry.source}, and put it there")
    return download.fetch(entry.url, path)


def pretrained(name: str, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """A released network with its weights, in evaluation mode on the CPU.

    Args:
        name: tp_r_a3, tp_r_a4, tp_h_s, tp_h_a4 or tp_h_a6; or the name in torch.hub.
        variants: The classes of both variants; `hub.HUB_VARIANTS` for the Hugging Face Hub.

    Returns:
        Normalised RGB images (B, 3, 256, 192) -> heatmaps (B, 17, 64, 48).

    Raises:
        UserError: There is no such model, or the download fails.
    """
    path = weights(name)
    network = model(name, variants)
    load_weights(network, unwrap(checkpoint.read(path), str(path)), source=str(path))
    return network.eval()


def place(folder: Path | None, in_clone: str, file: str) -> Path:
    """The path of a file, or of its download, as in `weights`; `in_clone` is its folder in a clone."""
    return folder / file if folder else download.cached_place(repository_root() / in_clone / file)
