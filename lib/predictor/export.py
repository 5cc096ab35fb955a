"""Export a trained network to a file for other programs, and run such a file.

The file maps normalised images to heatmaps or, with decoding, 8-bit crops to keypoints: then normalisation, flip test
and DARK are part of its graph. A `Card` in the file's metadata describes its input and output.
B batch, K keypoints, h x w the input, H x W the heatmap.
"""

import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from ..build.model import TrainedModel
from ..core.predict import IMAGE_MEAN, IMAGE_STD, Predictions, TestOptions, heatmaps_of, predict_batch, to_image
from ..errors import UserError
from ..evaluation import calibration
from ..evaluation.calibration import Calibration
from ..models import backends
from ..models.backends import folded, input_size
from ..pose import geometry, heatmap
from ..pose import skeleton as skeletons
from ..pose.skeleton import Skeleton
from ..runtime.files import root_cause
from . import drift

if TYPE_CHECKING:
    from ..evaluation.evaluate import CocoEvaluation

MAX_SIDE = 4096  # pixels of the input, and of the blur
MAX_PADDING = 10.0
KEY = "transpose"  # metadata key of the card
Run = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Card:
    """The description in the file's metadata. Sizes are (width, height); `rgb` is the order of the channels.

    A crop is the box enlarged to the input's aspect ratio and by `padding` (`geometry.boxes_to_crops`).
    """

    decodes: bool  # 8-bit crops -> keypoints; else normalised images -> heatmaps
    half: bool
    any_batch: bool  # False: the batch size is 1
    image_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    rgb: bool
    flip_test: bool  # whether the recipe uses it; with `decodes` it is in the graph
    kernel_size: int  # of DARK's blur, in heatmap pixels; with `decodes` in the graph
    score_threshold: float  # keypoints above it count towards a person's score
    skeleton: Mapping[str, Any]
    weights: str
    calibration: Mapping[str, Any] | None = None  # of the file beside the weights
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    padding: float = geometry.PADDING

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that this program never writes and that could exhaust the memory."""
        width, height = self.image_size
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and self.heatmap_size == (width // 4, height // 4)):
            raise ValueError(f"sizes {self.image_size} and {self.heatmap_size}")
        if not 0 < self.kernel_size <= MAX_SIDE or self.kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {self.kernel_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, (*self.mean, self.padding))):
            raise ValueError("mean, std or padding")
        if not all(0 < value < math.inf for value in self.std) or not 0 < self.padding <= MAX_PADDING:
            raise ValueError("std or padding")

    @property
    def inputs(self) -> list[str]:
        return ["crops" if self.decodes else "images"]

    @property
    def text(self) -> str:
        """The JSON in the file's metadata."""
        return json.dumps(asdict(self))

    @property
    def outputs(self) -> list[str]:
        return ["keypoints", "scores"] if self.decodes else ["heatmaps"]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs for one crop."""
        joints, (width, height) = len(self.skeleton["names"]), self.heatmap_size
        return [(joints, 2), (joints,)] if self.decodes else [(joints, height, width)]


def card(trained: TrainedModel, *, decodes: bool, half: bool, any_batch: bool) -> Card:
    """The card for an export of this network."""
    options = trained.options
    width, height = input_size(trained.network)
    return Card(
        decodes=decodes,
        half=half,
        any_batch=any_batch,
        image_size=(width, height),
        heatmap_size=(width // 4, height // 4),
        rgb=options.rgb,
        flip_test=options.flip_test,
        kernel_size=options.blur_kernel,
        score_threshold=options.score_threshold,
        skeleton=skeletons.to_mapping(trained.skeleton),
        weights=trained.weights.name,
        calibration=asdict(trained.calibration) if trained.calibration else None,
    )


# The graph


class ToHeatmaps(nn.Module):
    """Normalised images (B, 3, h, w) -> heatmaps (B, K, H, W), always float32."""

    def __init__(self, trained: TrainedModel, half: bool):
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.network = folded(trained.network).cpu().to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype)).float()


class ToKeypoints(nn.Module):
    """Crops (B, h, w, 3), uint8 -> keypoints (B, K, 2) in the crops' pixels, and scores (B, K)."""

    def __init__(self, trained: TrainedModel, half: bool):
        super().__init__()
        self.heatmaps = ToHeatmaps(trained, half)
        width, height = input_size(trained.network)
        blurs = (heatmap.blur_matrix(trained.options.blur_kernel, n // 4, torch.device("cpu")) for n in (height, width))
        self.rows, self.columns = map(nn.Buffer, blurs)
        self.mean, self.std = (nn.Buffer(torch.tensor(values).view(3, 1, 1)) for values in (IMAGE_MEAN, IMAGE_STD))
        self.stride, self.offset = map(nn.Buffer, _to_crop((width // 4, height // 4), (width, height)))
        order = torch.from_numpy(trained.skeleton.flip_order)
        self.flip_order = nn.Buffer(order) if trained.options.flip_test else None

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        images = (crops.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        maps = heatmaps_of(self.heatmaps, images, self.flip_order)
        keypoints, scores = heatmap.decode_blurred_by(maps, self.rows, self.columns)
        return (keypoints * self.stride + self.offset).float(), scores


def _to_crop(heatmap_size: tuple[int, int], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Factors and offsets (x, y) that map heatmap pixels to pixels of the crop."""
    zero, one = (geometry.heatmap_to_input(np.full(2, value), heatmap_size, image_size) for value in (0, 1))
    return torch.from_numpy(one - zero), torch.from_numpy(zero)


# The formats: how each is written and run. A writer takes a module in eval mode and an example of batch 1.


def _write_onnx(module: nn.Module, example: Tensor, about: Card, path: Path) -> None:
    program = backends.exported(module, example, about.any_batch)
    backends.write_onnx(program, path, about.inputs, about.outputs, {KEY: about.text})


def _read_onnx(path: Path) -> tuple[str | None, Run]:
    session = backends.onnx_session(path)
    (first,) = session.get_inputs()

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {first.name: batch.contiguous().numpy()})))

    return session.get_modelmeta().custom_metadata_map.get(KEY), run


def _write_openvino(module: nn.Module, example: Tensor, about: Card, path: Path) -> None:
    openvino = backends.openvino()
    model = backends.openvino_model(backends.exported(module, example, about.any_batch))
    model.input(0).set_names(set(about.inputs))
    for output, name in zip(model.outputs, about.outputs, strict=True):
        output.set_names({name})
    model.set_rt_info(about.text, [KEY])
    openvino.save_model(model, path, compress_to_fp16=about.half)


def _read_openvino(path: Path) -> tuple[str | None, Run]:
    model = backends.openvino().Core().read_model(path)
    text = str(model.get_rt_info([KEY]).astype(str)) if model.has_rt_info([KEY]) else None
    compiled = backends.openvino_compiled(model)

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        found = compiled([batch.contiguous().numpy()])
        return tuple(torch.from_numpy(found[i].copy()) for i in range(len(found)))

    return text, run


def _write_torchscript(module: nn.Module, example: Tensor, about: Card, path: Path) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(module, example, check_trace=False)
    torch.jit.save(traced, str(path), _extra_files={KEY: about.text})


def _write_torch_export(module: nn.Module, example: Tensor, about: Card, path: Path) -> None:
    program = backends.exported(module, example, about.any_batch)
    torch.export.save(program, str(path), extra_files={KEY: about.text})


def _read_pytorch(path: Path) -> tuple[str | bytes, Run]:
    files: dict[str, Any] = {KEY: ""}
    if path.suffix == ".pt2":
        module = torch.export.load(str(path), extra_files=files).module()
    else:
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=files)

    @torch.inference_mode()
    def run(batch: Tensor) -> tuple[Tensor, ...]:
        found = module(batch.contiguous())
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    return files[KEY], run


@dataclass(frozen=True)
class Format:
    """`write` takes a module, an example of batch 1, the card and the path; `read` gives the card's text and `Run`."""

    suffix: str
    write: Callable[[nn.Module, Tensor, Card, Path], None]
    read: Callable[[Path], tuple[str | bytes | None, Run]]


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "openvino": Format(".xml", _write_openvino, _read_openvino),  # and .bin beside it
    "torchscript": Format(".torchscript", _write_torchscript, _read_pytorch),
    "torch-export": Format(".pt2", _write_torch_export, _read_pytorch),
}
SUFFIXES = {made.suffix: name for name, made in FORMATS.items()}


# A file that is there


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported file, ready to run on the CPU."""

    path: Path
    card: Card
    run: Run
    batch_size = 32  # persons; a file of batch size 1 gets them one by one

    @property
    def options(self) -> TestOptions:
        return TestOptions(self.card.flip_test, self.card.kernel_size, self.card.score_threshold, self.card.rgb)

    @property
    def skeleton(self) -> Skeleton:
        return skeletons.from_mapping(self.card.skeleton, str(self.path))

    @property
    def calibration(self) -> Calibration | None:
        kept = self.card.calibration
        return calibration.from_mapping(kept, str(self.path)) if kept else None

    @torch.inference_mode()
    def predict(
        self, batch: dict[str, Tensor], options: TestOptions, flip_order: Tensor, watch: Callable | None = None
    ) -> Predictions:
        """As `predict_batch`. A file with decoding ignores the options, and gives no heatmaps to `watch`."""
        if not self.card.decodes:
            return predict_batch(self.forward, batch, options, flip_order, watch)
        keypoints, scores = self.keypoints(batch["image"])
        if watch is not None:
            watch(batch, torch.empty(0), keypoints)
        places = to_image(keypoints, batch["to_image"]).float().numpy()
        index, center, scale = (batch[name].numpy() for name in ("index", "center", "scale"))
        return Predictions(index, places, scores.numpy(), center, scale)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) -> heatmaps (B, K, H, W), on the images' device; a file without decoding."""
        assert not self.card.decodes, self.path
        (heatmaps,) = self._batched(images)
        return heatmaps

    def keypoints(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (B, h, w, 3), uint8 -> keypoints (B, K, 2) in heatmap pixels and scores (B, K); a file with decoding.

        The file's own output is in pixels of the crop.
        """
        assert self.card.decodes, self.path
        keypoints, scores = self._batched(crops)
        stride, offset = _to_crop(self.card.heatmap_size, self.card.image_size)
        return ((keypoints.double() - offset) / stride).float(), scores

    def _batched(self, batch: Tensor) -> tuple[Tensor, ...]:
        parts = [batch] if self.card.any_batch else batch.split(1)
        try:
            each = [self.run(part.cpu()) for part in parts]
            found = tuple(torch.cat(tensors).to(batch.device) for tensors in zip(*each, strict=True))
        except MemoryError:
            raise
        except Exception as error:  # each runtime has its own
            raise UserError(
                f"{self.path}: cannot run on the input that its metadata describes ({root_cause(error)}); export the "
                "network again"
            ) from None
        if [tuple(tensor.shape[1:]) for tensor in found] != self.card.shapes:
            raise UserError(
                f"{self.path}: its outputs do not have the shapes in its metadata, {self.card.shapes} per crop; export "
                "the network again"
            )
        return found


def load(path: Path) -> Exported:
    """Read an exported file and its card.

    Raises UserError for a file that is missing, damaged or not written by `export`, and for a missing runtime.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not an exported network, whose name ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    name = SUFFIXES[path.suffix]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated but still used
            text, run = FORMATS[name].read(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each runtime has its own exceptions
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: cannot be loaded as {name} ({reason or type(error).__name__})") from None
    try:
        about = msgspec.json.decode(text or "", type=Card)
        skeletons.from_mapping(about.skeleton, str(path))
    except Exception as error:
        raise UserError(
            f"{path}: its metadata is missing, or not written by tools/export.py ({root_cause(error)})"
        ) from None
    return Exported(path, about, run)


# From a network to a file


def export(
    trained: TrainedModel,
    path: Path,
    sample: "CocoEvaluation",
    *,
    half: bool = False,
    any_batch: bool = False,
    decodes: bool = False,
) -> drift.Drift:
    """Write a network to `path`, in the format of its suffix, and compare the file's results with PyTorch's.

    Raises UserError if they differ too much on `sample`; then nothing is written at `path`.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: an exported network's name ends in {', '.join(SUFFIXES)}")
    about = card(trained, decodes=decodes, half=half, any_batch=any_batch)
    width, height = about.image_size
    module: nn.Module
    if decodes:
        module, example = ToKeypoints(trained, half), torch.zeros(1, height, width, 3, dtype=torch.uint8)
    else:
        module, example = ToHeatmaps(trained, half), torch.zeros(1, 3, height, width)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            written = Path(folder) / path.name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about deprecated tracing, and from the exporters
                FORMATS[SUFFIXES[path.suffix]].write(module.eval(), example, about, written)
            found = drift.measure(load(written), trained, sample)
            if faults := found.faults():
                raise UserError(f"{path}: not written, because its results differ from PyTorch's: {'; '.join(faults)}")
            for file in sorted(Path(folder).iterdir()):  # the .bin before the .xml that refers to it
                os.replace(file, path.with_name(file.name))
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror})") from None
    return found
