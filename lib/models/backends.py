"""Faster inference with a trained network: folded batch norm, lower precision, other runtimes.

The network and its checkpoints do not change: all of this is done to a copy.
B batch, K keypoints, H x W the heatmap (a quarter of the input).
"""

import copy
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UserError, needs
from .transpose import TransPose

logger = logging.getLogger(__name__)

# Normalised images (B, 3, 4H, 4W) -> heatmaps (B, K, H, W), float32, on the images' device.
Forward = Callable[[Tensor], Tensor]

CACHED = 2 * 256 * 192  # pixels of the images that a thread runs at a time, so that caches hold what they need
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Precision -> OpenVINO's hint, and its name of the CPU's capability.
OPENVINO_PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic: a GPU from Ampere on, a CPU with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def chosen_precision(wanted: str, device: torch.device, backend: str = "pytorch") -> str:
    """The precision; "auto" becomes bfloat16 if the device computes in it, else float32, which is logged."""
    if wanted == "bfloat16" and backend == "pytorch" and not computes_bfloat16(device):
        logger.warning(
            "PyTorch may emulate bfloat16 on this %s, which can take many times as long as float32",
            {"cpu": "CPU", "cuda": "GPU"}.get(device.type, device.type),
        )
    if wanted not in (*PRECISIONS, "auto"):
        raise UserError(f"there is no precision {wanted!r}; choose from {', '.join(PRECISIONS)}, auto")
    if wanted != "auto":
        return wanted
    chosen = "bfloat16" if backend != "onnxruntime" and computes_bfloat16(device) else "float32"
    logger.info("precision auto: %s, chosen for %s on this %s", chosen, backend, device.type)
    return chosen


@dataclass(frozen=True)
class Backend:
    """How a trained network is run; called with a network, it returns a function that runs the current weights."""

    precision: str = "float32"
    backend: str = "pytorch"  # a key of BACKENDS
    compiled: bool = False  # by torch.compile; on a GPU also as a CUDA graph

    def __post_init__(self) -> None:
        """Raise UserError for an unknown precision or backend, and for a pair that does not work together."""
        for what, value, known in (("precision", self.precision, PRECISIONS), ("backend", self.backend, BACKENDS)):
            if value not in known:
                raise UserError(f"there is no {what} {value!r}; choose from {', '.join(known)}")
        if self.backend == "onnxruntime" and self.precision != "float32":
            raise UserError(f"the backend onnxruntime computes in float32, not in {self.precision}; openvino does")
        if self.backend != "pytorch" and self.compiled:
            raise UserError(f"only the backend pytorch can be compiled, not {self.backend}")

    def __call__(self, model: TransPose) -> Forward:
        return BACKENDS[self.backend](model, self)

    def describe(self) -> str:
        """A text for the log and the summary of a test."""
        return f"{self.backend}, {self.precision}{', compiled' if self.compiled else ''}"


def folded(model: TransPose) -> TransPose:
    """A copy for inference, each batch norm folded into the convolution before it."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in copied.modules():
        children = list(parent.named_children())
        for (name, layer), (next_name, following) in pairwise(children):
            if isinstance(following, nn.BatchNorm2d):
                assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d), f"{next_name} does not follow a convolution"
                transposed = isinstance(layer, nn.ConvTranspose2d)
                setattr(parent, name, fuse_conv_bn_eval(layer, following, transposed))
                setattr(parent, next_name, nn.Identity())
    return copied


def input_size(model: TransPose) -> tuple[int, int]:
    """Width and height of the images that a network was built for."""
    height, width = (model.stride * length for length in model.grid)
    return width, height


def exported(network: nn.Module, example: Tensor, any_batch: bool = True) -> torch.export.ExportedProgram:
    """A network as a graph, for runtimes other than PyTorch. `example` is an input of batch 1.

    `any_batch` leaves the first dimension of the input free.
    """
    shapes = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
    if any_batch:
        example = torch.cat([example, example])  # a size of 1 would be exported as fixed
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes)


def _exported(model: TransPose) -> torch.export.ExportedProgram:
    """The folded network for any batch size."""
    width, height = input_size(model)
    return exported(folded(model).cpu(), torch.zeros(1, 3, height, width))


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str] = ("images",),
    outputs: Sequence[str] = ("heatmaps",),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a graph as an ONNX file with these input and output names; `notes` become its metadata."""
    for package in ("onnx", "onnxscript"):
        needs(package, "onnxruntime")
    written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    assert written is not None
    written.model.metadata_props.update(notes or {})
    written.save(str(path), external_data=False)


def openvino() -> Any:
    """Import OpenVINO without its telemetry package, which reports each import and conversion to a server."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # its import then fails, and OpenVINO works without it
    return needs("openvino", "openvino")


def openvino_model(program: torch.export.ExportedProgram) -> Any:
    """A graph as an `openvino.Model`."""
    return openvino().convert_model(program)


def openvino_compiled(model: Any, precision: str = "float32") -> Any:
    """Compile an `openvino.Model`, or the file of one, for the CPU, with PyTorch's number of threads."""
    runtime = openvino().Core()
    hint, capability = OPENVINO_PRECISIONS[precision]
    if capability not in runtime.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        logger.warning("this CPU has no %s arithmetic: openvino computes in float32", precision)
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return runtime.compile_model(model, "CPU", options)


def onnx_session(path: Path) -> Any:
    """Load an ONNX file for the CPU, with PyTorch's number of threads."""
    runtime = needs("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class InFloat32(nn.Module):
    """A layer that autocast leaves in float32: decoding takes differences of heatmaps, which bfloat16 would round to
    three digits."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


def _pytorch(model: TransPose, how: Backend) -> Forward:
    """Channels last, with which the folded convolutions are faster, and lower precisions by autocast."""
    network = folded(model).to(memory_format=torch.channels_last)
    kind = next(network.parameters()).device.type
    width, height = input_size(model)
    share = max(2, CACHED // (width * height)) * torch.get_num_threads() if kind == "cpu" else sys.maxsize
    if how.compiled:
        network.compile(mode="reduce-overhead" if kind == "cuda" else None)
    dtype = PRECISIONS[how.precision]
    if dtype != torch.float32:
        network.final_layer = InFloat32(network.final_layer)  # type: ignore[assignment]

    def forward(images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            return torch.cat([network(part).float() for part in images.split(share)])

    return forward


def _on_cpu(run: Callable[[np.ndarray], np.ndarray]) -> Forward:
    """Make a runtime's function on arrays take and return tensors on any device."""
    return lambda images: torch.from_numpy(run(images.contiguous().cpu().numpy())).to(images.device)


def _openvino(model: TransPose, how: Backend) -> Forward:
    openvino()
    compiled = openvino_compiled(openvino_model(_exported(model)), how.precision)
    return _on_cpu(lambda images: compiled([images])[0].copy())


def _onnxruntime(model: TransPose, how: Backend) -> Forward:
    needs("onnxruntime", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(_exported(model), path)
        session = onnx_session(path)
    return _on_cpu(lambda images: session.run(["heatmaps"], {"images": images})[0])


BACKENDS: dict[str, Callable[[TransPose, Backend], Forward]] = {
    "pytorch": _pytorch,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, by default the GPU if there is one. Raises UserError if PyTorch cannot use it here."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name}: PyTorch cannot use it ({str(error).splitlines()[0]})") from None
    return device
