"""Weights: initialise a model (randomly, or from ImageNet), and load a trained state dict into it.

State dicts are flat, key -> tensor. `source` is the name of their file in error messages.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .transpose import TransPose, TransPoseR

INITIAL_STD = 0.001
WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel, DDP and torch.compile add to every key
HRNET = (
    "folder imagenet of HRNet's model zoo, https://drive.google.com/drive/folders/1hOTihvbyIxsm5ygDpbUuJ7O_tzv4oXjC or "
    "https://1drv.ms/f/s!AhIXJn_J-blW231MH2krnmLq5kkQ"
)


@dataclass(frozen=True)
class Backbone:
    """ImageNet weights to start training the variant `model` from; those without a `url` are on
    shares that only a browser opens."""

    model: str
    file: str
    source: str

    @property
    def url(self) -> str:
        return self.source if self.source.startswith("https:") else ""


BACKBONES = {
    "resnet50": Backbone(
        "transpose_r", "resnet50-19c8e357.pth", "https://download.pytorch.org/models/resnet50-19c8e357.pth"
    ),
    "hrnet_w32": Backbone("transpose_h", "hrnet_w32-36af842e.pth", HRNET),
    "hrnet_w48": Backbone("transpose_h", "hrnet_w48-8ef0771d.pth", HRNET),
}


def initialise(
    model: TransPose, imagenet: Mapping[str, Tensor] | None, stages: Sequence[str] = ("*",), source: str = ""
) -> None:
    """Start weights as published, in place; the encoder and the positions stay as constructed.

    R with ImageNet weights initialises the final layer only and takes what matches; without them, every convolution.
    H initialises every convolution, then takes the `stages` (first part of a key; a leading "*" takes all).
    Raises UserError if the ImageNet weights are of another network, or if there is no such stage.
    """
    if isinstance(model, TransPoseR) and imagenet is not None:
        _initialise(model.final_layer)
        _take(model, imagenet, source)
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            _initialise(module, with_bias=not (isinstance(model, TransPoseR) and module is model.final_layer))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if imagenet is not None:
        known = {name for name, _ in model.named_children()} | {key.split(".")[0] for key in imagenet} | {"*"}
        for stage in stages:
            if stage not in known:
                nearest = difflib.get_close_matches(stage, known, n=1, cutoff=0)[0]
                raise UserError(
                    f"MODEL.EXTRA.PRETRAINED_LAYERS: {stage!r} is no part of this model; the nearest is {nearest!r}"
                )
        chosen = {k: v for k, v in imagenet.items() if "*" in stages[:1] or k.split(".")[0] in stages}
        _take(model, chosen, source)


def _initialise(module: nn.Conv2d | nn.ConvTranspose2d, with_bias: bool = True) -> None:
    nn.init.normal_(module.weight, std=INITIAL_STD)
    if with_bias and module.bias is not None:
        nn.init.zeros_(module.bias)


def _take(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the keys that the model has. Raises UserError for a key of another shape: the weights do not belong here."""
    own = model.state_dict()
    matching = {key: value for key, value in state.items() if key in own}
    if not matching:
        raise UserError(f"{source}: none of its {len(state)} tensors belongs to this backbone")
    for key, value in matching.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{source}: {key} has shape {_shape(value)} but this backbone needs {_shape(own[key])}; "
                "the weights are of another backbone"
            )
    refuse_unusable(matching, own, source)
    model.load_state_dict(matching, strict=False)


def unwrap(content: Mapping, source: str) -> dict[str, Tensor]:
    """The plain state dict in a file's content: a state dict, or a training checkpoint that contains one.

    Anything but named tensors is left out. Raises UserError for a tensor that is there twice.
    """
    for key in ("state_dict", "best_state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            continue
        while key.startswith(WRAPPERS):
            key = key.split(".", 1)[1]
        if key in state:
            raise UserError(f"{source}: it holds {key} twice, with and without a prefix such as {WRAPPERS[0]!r}")
        state[key] = value
    return state


def load_weights(model: TransPose, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Load a trained state dict strictly, in place; positions of another input size are resized to the model's grid.

    Returns remarks for the log. Raises UserError that says which keys and shapes differ.
    """
    state, remarks = _with_fitting_positions(model, state)
    if differences := _differences(model.state_dict(), state):
        raise UserError(f"{source}: not a checkpoint of this model: {differences}")
    refuse_unusable(state, model.state_dict(), source)
    model.load_state_dict(state, strict=True)
    return remarks


def _with_fitting_positions(model: TransPose, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state, its positions resized to the model's grid, and a remark if they were."""
    positions, own = state.get("pos_embedding"), model.pos_embedding
    if positions is None or own is None or positions.shape[1:] != own.shape[1:]:
        return dict(state), []
    if not (len(positions) and positions.is_floating_point()):  # refused with the other tensors
        return dict(state), []
    grid = token_grid(positions, model.grid)
    if grid == model.grid:
        return dict(state), []
    old, new = ("x".join(map(str, rows_columns)) for rows_columns in (grid, model.grid))
    remark = f"pos_embedding: resized from {old} to {new} tokens (rows x columns)"
    return {**state, "pos_embedding": resize_positions(positions.float(), grid, model.grid)}, [remark]


def transfer(
    model: TransPose, state: Mapping[str, Tensor], names: Sequence[str], new_names: Sequence[str], source: str
) -> list[str]:
    """Start a model for keypoints `new_names` from a trained state of keypoints `names`, in place.

    Rows of the final layer go to the keypoint of the same name, positions are resized, and what is missing or of
    another shape stays as constructed. Returns a remark for each tensor that is not simply copied.
    Raises UserError if nothing fits, or if the final layer does not have one row per name.
    """
    own, taken = model.state_dict(), {}
    state, remarks = _with_fitting_positions(model, state)
    common = [name for name in new_names if name in names]
    for key, value in state.items():
        last = key.startswith("final_layer.")
        if key not in own:
            remarks.append(f"{key}: not of this model, skipped")
        elif last and len(value) != len(names):
            raise UserError(
                f"{source}: {key} has {len(value)} rows for {len(names)} keypoints; put the skeleton.yaml "
                "that the weights were trained with beside them"
            )
        elif value.shape[last:] != own[key].shape[last:]:
            remarks.append(f"{key}: {_shape(value)} instead of {_shape(own[key])}, newly initialised")
        elif last and list(names) != list(new_names):
            taken[key] = own[key].clone()
            for name in common:
                taken[key][new_names.index(name)] = value[names.index(name)]
            remarks.append(f"{key}: rows of {', '.join(common) or 'no keypoint'} taken, the rest newly initialised")
        else:
            taken[key] = value
    remarks += [f"{key}: missing, newly initialised" for key in own if key not in state]
    if not taken:
        raise UserError(f"{source}: none of its {len(state)} tensors fits this model")
    refuse_unusable(taken, own, source)
    model.load_state_dict(taken, strict=False)
    return remarks


def refuse_unusable(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError for numbers that no network computes with, some of which a backend would hide.

    `own` are the model's tensors, of the same keys at least.
    """
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            wrong = "is not a dense tensor with its own numbers"
        elif value.is_floating_point() != own[key].is_floating_point():
            wrong = f"holds {value.dtype} where the model has {own[key].dtype}"
        elif not value.float().isfinite().all():
            wrong = "holds a number that is NaN or infinite"
        elif key.endswith("running_var") and (value.float() < 0).any():
            wrong = "holds a negative variance"
        else:
            continue
        raise UserError(f"{source}: {key} {wrong}; these weights cannot be used")


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor], most: int = 4) -> str:
    lists = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} is {_shape(state[key])}, the model's {_shape(value)}"
            for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {title} ({', '.join(keys[:most])}{f' and {len(keys) - most} more' * (len(keys) > most)})"
        for title, keys in lists.items()
        if keys
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def token_grid(positions: Tensor, like: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid that positions (N, 1, D) belong to.

    Sine positions show them (their y half is constant along a row); else the factors of N closest in aspect to `like`.
    """
    tokens, _, dim = positions.shape
    changes = (positions[1:, 0, : dim // 2] != positions[:-1, 0, : dim // 2]).any(1).nonzero()
    columns = int(changes[0]) + 1 if len(changes) else tokens
    if columns > 1 and tokens % columns == 0:
        return tokens // columns, columns
    aspect = math.log(like[0] / like[1])
    grids = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    # If two are equally close, as for a square input, the upright one.
    return min(grids, key=lambda grid: (round(abs(math.log(grid[0] / grid[1]) - aspect), 9), grid[1]))


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Positions (N, 1, D) of a grid (rows, columns), bilinearly interpolated to another, corners kept on corners."""
    maps = positions.squeeze(1).t().unflatten(1, grid)[None]
    resized = F.interpolate(maps, size=new_grid, mode="bilinear", align_corners=True)
    return resized[0].flatten(1).t()[:, None].contiguous()
