"""What a GPU would be told to do, checked without one: devices, types, and how often the host waits for it.

NumPy's borders are stubbed. PyTorch's engine runs a backward pass on a real GPU only, so that it is stubbed on the fake
one and runs on the device `meta`; batch norms are not folded, as their copies cannot be faked.
"""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.fake_gpu import Watched, fake
from helpers.goldens import ROOT
from helpers.networks import BOTH, SMALL, small_r
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from transpose.build.optim import build_optimizer, build_targets
from transpose.config.load import load_config
from transpose.core import loss, predict, train
from transpose.core.predict import TestOptions
from transpose.core.train import TrainOptions
from transpose.dataset.samplers import TrainSampler
from transpose.pose import heatmap
from transpose.pose.skeleton import COCO

GPU = torch.device("cuda", 0)
WIDTH, HEIGHT = SMALL
BATCH, MICRO_BATCHES = 3, 2
KEYPOINTS_AND_SCORES = ["copy to cpu"] * 2  # what a batch of a test waits for
TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def batch_of(count: int) -> dict[str, Tensor]:
    return {
        "image": torch.zeros(count, HEIGHT, WIDTH, 3, dtype=torch.uint8),
        "keypoints": torch.full((count, 17, 2), 9.0),
        "visible": torch.ones(count, 17),
        "to_image": torch.zeros(count, 2, 3, dtype=torch.float64),
        "center": torch.zeros(count, 2),
        "scale": torch.ones(count, 2),
        "index": torch.arange(count),
    }


def on(device: str, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device(device):
        return make()


@pytest.fixture(autouse=True)
def _own_caches():
    """Constants that the library keeps on a device would be fake ones for the tests that follow."""
    for kept in (heatmap.blur_matrix, predict._statistics):
        kept.cache_clear()
    yield
    for kept in (heatmap.blur_matrix, predict._statistics):
        kept.cache_clear()


@pytest.fixture
def numpy_stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "numpy", lambda tensor, force=False: np.zeros(tuple(tensor.shape)))


def waits_of_a_batch(network: nn.Module, watched: Watched, options: TestOptions) -> list[str]:
    """What a batch of a test waits for, after the first, which copies the constants to the GPU."""
    order = torch.arange(17, device=GPU)
    for _ in range(2):
        watched.waits.clear()
        predict.predict_batch(network.eval(), batch_of(BATCH), options, order)
    return watched.waits


@BOTH
@pytest.mark.parametrize("flip", [True, False], ids=["flip test", "one pass"])
@pytest.mark.usefixtures("numpy_stubbed")
def test_a_test_batch_waits_for_its_keypoints_and_scores_alone(make, flip):
    with fake("cuda") as watched:
        network = on("cuda", make)
        assert waits_of_a_batch(network, watched, TestOptions(flip_test=flip)) == KEYPOINTS_AND_SCORES


def test_decoding_waits_for_nothing_and_stays_where_the_maps_are():
    with fake("cuda") as watched:
        maps = torch.empty(BATCH, 17, HEIGHT // 4, WIDTH // 4, device=GPU)
        heatmap.decode(maps, 11)
        watched.waits.clear()
        keypoints, scores = heatmap.decode(maps, 11)
        assert keypoints.device == scores.device == GPU and watched.waits == []


@TYPES
def test_autocast_computes_in_the_lower_type(dtype):
    """`torch.autocast` itself looks for a real GPU."""
    with fake("cuda"):
        network = on("cuda", small_r)
        images = torch.empty(BATCH, 3, HEIGHT, WIDTH, device=GPU)
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", dtype)
        try:
            assert network(images).dtype == dtype
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()


def train_steps(device: str, options: TrainOptions, watched: Watched) -> list[train.Step]:
    """Two optimiser steps on fake tensors; `watched` forgets the first, which copies the constants to the GPU."""
    cfg = load_config(ROOT / "experiments/coco_sample/demo.yaml", report=False)
    network = on(device, small_r)
    plan = TrainSampler(2 * BATCH * MICRO_BATCHES, BATCH, MICRO_BATCHES, seed=22)
    batches = [batch_of(BATCH) for _ in range(2 * MICRO_BATCHES)]
    targets = build_targets(cfg, COCO, torch.device(device))
    optimizer = build_optimizer(cfg, network)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    taken = train.train_epoch(network, batches, plan, targets, loss.mse, optimizer, scaler, options, 0)
    first, *_ = next(taken)
    watched.waits.clear()
    return [first, *(step for step, *_ in taken)]


@pytest.fixture
def backward_stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients appear as backward would leave them."""

    def backward(value: Tensor) -> None:
        for group in optimizers[-1].param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)

    optimizers: list[torch.optim.Optimizer] = []
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none: optimizers.append(self))
    monkeypatch.setattr(Tensor, "backward", backward)


@pytest.mark.usefixtures("backward_stubbed")
@pytest.mark.parametrize("clip", [0.0, 1.0], ids=["unclipped", "clipped"])
def test_training_steps_wait_for_nothing(clip):
    with fake("cuda") as watched:
        steps = train_steps("cuda", TrainOptions(epochs=1, clip=clip), watched)
        assert [step.norm.device for step in steps] == [GPU, GPU]
        assert watched.waits == []


def test_a_training_step_with_its_backward_pass_on_meta(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **named: contextlib.nullcontext())  # which knows no meta
    with fake("meta") as watched:
        steps = train_steps("meta", TrainOptions(epochs=1, clip=1.0), watched)
        assert [step.norm.device.type for step in steps] == ["meta", "meta"]
        assert watched.waits == []


# Faults that are planted turn these tests red


@pytest.mark.usefixtures("numpy_stubbed")
def test_an_index_on_the_host_is_found(monkeypatch):
    monkeypatch.setattr(heatmap, "flip", lambda maps, order: maps.flip(-1)[:, torch.arange(17, device="cpu")])
    with fake("cuda") as watched, pytest.raises(RuntimeError, match=r"index\.Tensor uses tensors of cpu and cuda"):
        waits_of_a_batch(on("cuda", small_r), watched, TestOptions())


@pytest.mark.usefixtures("backward_stubbed")
def test_a_value_that_is_asked_for_is_found(monkeypatch):
    whole = loss.mse
    monkeypatch.setattr(loss, "mse", lambda output, *rest: whole(output, *rest) * output.amax().item())
    with fake("cuda") as watched, pytest.raises(DataDependentOutputException):
        train_steps("cuda", TrainOptions(epochs=1), watched)


@pytest.mark.usefixtures("backward_stubbed")
def test_a_constant_that_is_copied_in_each_step_is_found(monkeypatch):
    encode = heatmap.encode
    monkeypatch.setattr(heatmap, "encode", lambda points, *rest: encode(points + points.new_tensor([0, 0]), *rest))
    with fake("cuda") as watched:
        train_steps("cuda", TrainOptions(epochs=1), watched)
        assert watched.waits == ["copy to cuda"] * MICRO_BATCHES
