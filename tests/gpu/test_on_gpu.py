"""Tests that need a GPU: `make test-gpu`. All are skipped without one."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.goldens import golden
from helpers.networks import BOTH, images, small_h, small_r
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transpose.core.loss import mse
from transpose.core.train import TrainOptions, train_epoch
from transpose.dataset.samplers import TrainSampler
from transpose.models.backends import Backend, computes_bfloat16
from transpose.pose import heatmap

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")
# Largest difference from the processor's heatmaps in float32, as a share of the largest value.
BOUNDS = {"float32": 1e-4, "TF32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}


@pytest.fixture(autouse=True)
def _switches():
    """PyTorch's global switches as they were."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


def constructed(make) -> nn.Module:
    """The same random weights each time; those drawn from names saturate attention, which magnifies rounding."""
    torch.manual_seed(0)
    return make()


@BOTH
@pytest.mark.parametrize("precision", BOUNDS)
@torch.inference_mode()
def test_heatmaps_are_the_processors(make, precision):
    network, crops = constructed(make), images(4)
    wanted = Backend()(network)(crops)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
    found = Backend(precision.replace("TF32", "float32"))(network.to(GPU))(crops.to(GPU)).cpu()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < BOUNDS[precision]


@pytest.mark.parametrize("kernel", [3, 11])
def test_decoding_is_the_processors(kernel):
    maps = torch.from_numpy(golden("decode")["heatmaps"])[None]
    for here, there in zip(heatmap.decode(maps, kernel), heatmap.decode(maps.to(GPU), kernel), strict=True):
        assert there.is_cuda
        np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), rtol=0, atol=1e-4)


@BOTH
@torch.inference_mode()
def test_compiled_with_a_cuda_graph(make):
    network, crops = constructed(make).to(GPU), images(4).to(GPU)
    wanted, forward = Backend()(network)(crops), Backend(compiled=True)(network)
    for _ in range(3):  # the graph is recorded, then replayed
        found = forward(crops)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


class Run:
    """A small training on crops of random pixels; dropout is on."""

    def __init__(self, precision: torch.dtype, wrap=lambda network: network):
        torch.manual_seed(0)
        self.network = small_r().to(GPU)
        self.model = wrap(self.network)
        self.optimizer = torch.optim.Adam([p for p in self.network.parameters() if p.requires_grad], 1e-3, fused=True)
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)
        self.options = TrainOptions(epochs=1, precision=precision, clip=1.0)

    def steps(self, first: int, last: int) -> list[float]:
        """The losses of these optimiser steps."""
        plan = TrainSampler(4 * last, 4, 1, seed=22)
        plan.first = first
        draw = torch.Generator().manual_seed(1)
        pixels = torch.randint(256, (4, 96, 64, 3), dtype=torch.uint8, generator=draw)
        target = torch.rand(4, 17, 24, 16, generator=draw).to(GPU)
        batches = [{"image": pixels, "index": torch.arange(4)} for _ in range(first, last)]

        def targets(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return target, torch.ones(4, 17, device=GPU)

        taken = train_epoch(
            self.model, batches, plan, targets, mse, self.optimizer, self.scaler, self.options, first_step=0
        )
        return [float(step.losses[0]) for step, *_ in taken]

    def state(self) -> list[dict]:
        return [part.state_dict() for part in (self.network, self.optimizer, self.scaler)]

    def resume(self, states: list[dict]) -> None:
        for part, state in zip((self.network, self.optimizer, self.scaler), states, strict=True):
            part.load_state_dict(state)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_training_learns_in_every_precision(precision):
    if precision == torch.bfloat16 and not computes_bfloat16(GPU):
        pytest.skip("this GPU has no bfloat16")
    losses = Run(precision).steps(0, 30)
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]


def test_a_float16_run_resumes_identically(tmp_path):
    whole = Run(torch.float16)
    losses = whole.steps(0, 12)
    one, other = Run(torch.float16), Run(torch.float16)
    one.steps(0, 6)
    torch.save(one.state(), tmp_path / "state.pth")
    other.resume(torch.load(tmp_path / "state.pth", weights_only=True))
    assert other.scaler.get_scale() == one.scaler.get_scale()
    np.testing.assert_allclose(other.steps(6, 12), losses[6:], rtol=2e-3)


def test_deterministic_training_gives_the_same_bits(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    assert Run(torch.float32).steps(0, 6) == Run(torch.float32).steps(0, 6)


def test_one_process_under_nccl_trains_as_without(tmp_path):
    alone = Run(torch.float32).steps(0, 6)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        together = Run(torch.float32, lambda network: DistributedDataParallel(network, [0])).steps(0, 6)
    finally:
        dist.destroy_process_group()
    np.testing.assert_allclose(together, alone, rtol=1e-3)  # a GPU adds in another order each time


def test_exports_of_a_network_on_a_gpu_give_its_keypoints(tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    network, crops = constructed(small_h), images(2)
    found = Backend(backend="onnxruntime")(network.to(GPU))(crops.to(GPU))
    wanted = Backend()(network)(crops.to(GPU))
    assert found.is_cuda and float((found - wanted).abs().max() / wanted.abs().max()) < 1e-3
