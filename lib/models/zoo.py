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
BLUR_KERNEL = 11  # of DARK's decoding, with which and with the flip test on the published APs were measured


@dataclass(frozen=True)
class Released:
    """A released model. `gflops` count a multiply-add as two operations (measured here, on one 256x192 image), the
    published ones as one; AP is the published one on COCO val2017, with a detector's boxes and with the annotated."""

    title: str
    hub_name: str
    network: Callable[..., TransPose]
    file: str
    parameters: int
    gflops: float
    published_gflops: float
    published_ap: float
    published_ap_gt: float
    sha256: str = ""  # not published: recorded by the first download

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


RELEASED = {
    "tp_r_a3": Released(
        title="TransPose-R-A3",
        hub_name="tpr_a3_256x192",
        network=partial(transpose_r, 3),
        file="tp_r_256x192_enc3_d256_h1024_mh8.pth",
        parameters=5_195_345,
        gflops=10.83,
        published_gflops=8.0,
        published_ap=0.717,
        published_ap_gt=0.738,
    ),
    "tp_r_a4": Released(
        title="TransPose-R-A4",
        hub_name="tpr_a4_256x192",
        network=partial(transpose_r, 4),
        file="tp_r_256x192_enc4_d256_h1024_mh8.pth",
        parameters=5_985_105,
        gflops=12.64,
        published_gflops=8.9,
        published_ap=0.726,
        published_ap_gt=0.751,
    ),
    "tp_h_s": Released(
        title="TransPose-H-S",
        hub_name="tph_s_256x192",
        network=partial(transpose_h, 32, 64, 4),
        file="tp_h_32_256x192_enc4_d64_h128_mh1.pth",
        parameters=8_019_281,
        gflops=19.86,
        published_gflops=10.2,
        published_ap=0.742,
        published_ap_gt=0.761,
    ),
    "tp_h_a4": Released(
        title="TransPose-H-A4",
        hub_name="tph_a4_256x192",
        network=partial(transpose_h, 48, 96, 4),
        file="tp_h_48_256x192_enc4_d96_h192_mh1.pth",
        parameters=17_306_129,
        gflops=34.41,
        published_gflops=17.5,
        published_ap=0.753,
        published_ap_gt=0.775,
    ),
    "tp_h_a6": Released(
        title="TransPose-H-A6",
        hub_name="tph_a6_256x192",
        network=partial(transpose_h, 48, 96, 6),
        file="tp_h_48_256x192_enc6_d96_h192_mh1.pth",
        parameters=17_455_697,
        gflops=42.56,
        published_gflops=21.8,
        published_ap=0.758,
        published_ap_gt=0.781,
    ),
}
HUB_NAMES = {released.hub_name: name for name, released in RELEASED.items()}


def is_name(text: str) -> bool:
    """Whether a text names a released model; else it may be a path."""
    return text in RELEASED or text in HUB_NAMES


def released(name: str) -> Released:
    """The entry of a name, tp_r_a4 or the hub's tpr_a4_256x192. Raises UserError for another."""
    if not is_name(name):
        nearest = difflib.get_close_matches(name, [*RELEASED, *HUB_NAMES], n=1, cutoff=0)[0]
        raise UserError(f"there is no model {name!r}; there are {', '.join(RELEASED)}; the nearest is {nearest}")
    return RELEASED[HUB_NAMES.get(name, name)]


def model(name: str, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """The network of a name as constructed, without trained weights; `variants` are the classes of both variants."""
    return released(name).network(variants=variants)


def weights(name: str, folder: Path | None = None) -> Path:
    """The file of a model's released weights, downloaded if it is absent: in `folder`, else where the recipes of a
    clone look if it is there, else in the user's cache (`download.place`).

    Raises UserError if the download fails, or if the file is not the one that was first downloaded.
    """
    entry = released(name)
    return download.fetch(entry.url, _place(folder, FOLDER, entry.file), entry.sha256)


def backbone(name: str, folder: Path | None = None) -> Path:
    """The file of ImageNet weights, of a name in `BACKBONES`, like `weights`.

    Raises UserError that says where to get it, if it is absent and only a browser can download it.
    """
    if name not in BACKBONES:
        raise UserError(f"there are no ImageNet weights {name!r}; there are {', '.join(BACKBONES)}")
    entry = BACKBONES[name]
    path = _place(folder, IMAGENET_FOLDER, entry.file)
    if not path.exists() and not entry.url:
        raise UserError(f"{path}: get {entry.file} with a browser, from {entry.source}, and put it there")
    return download.fetch(entry.url, path)


def pretrained(name: str, variants: Mapping[str, type] = VARIANTS) -> TransPose:
    """The network of a name with its released weights, in evaluation mode on the CPU; `variants` as of `model`."""
    path = weights(name)
    network = model(name, variants)
    load_weights(network, unwrap(checkpoint.read(path)), source=str(path))
    return network.eval()


def table(folder: Path | None = None) -> str:
    """What there is, in lines of text: names, sizes, published AP, and which files `weights` would find."""

    def file(place: str, name: str) -> str:
        path = _place(folder, place, name)
        return f"{path}  (here)" if path.exists() else name

    lines = [
        "COCO, released by the authors; AP on val2017 with detected and with annotated boxes as published",
        f"{'name':10} {'parameters':>11} {'GFLOPs':>7} {'published':>9} {'AP':>5} {'AP gt':>5}  file",
    ]
    for name, entry in RELEASED.items():
        lines.append(
            f"{name:10} {entry.parameters:11,} {entry.gflops:7.2f} {entry.published_gflops:9.1f} "
            f"{entry.published_ap:5.3f} {entry.published_ap_gt:5.3f}  {file(FOLDER, entry.file)}"
        )
    lines += ["(GFLOPs: a multiply-add is 2, measured; published: it is 1)", "", "ImageNet, to start training from"]
    for name, backbone in BACKBONES.items():
        line = f"{name:10} {file(IMAGENET_FOLDER, backbone.file)}"
        lines.append(line if backbone.url else f"{line}; get it from {backbone.source}")
    return "\n".join(lines)


def _place(folder: Path | None, in_clone: str, file: str) -> Path:
    return folder / file if folder else download.place(repository_root() / in_clone / file)
