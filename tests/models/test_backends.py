"""Faster inference gives the same heatmaps and leaves the model unchanged; training in lower precision."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.goldens import ROOT, fill_from_names, golden
from helpers.networks import SMALL, images, published, small_h, small_r
from torch import nn

from transpose.build.optim import build_train_options
from transpose.config.load import load_config
from transpose.core.loss import mse
from transpose.core.predict import heatmaps_of
from transpose.errors import UserError
from transpose.models import backends
from transpose.models.backends import Backend, chosen_precision, folded
from transpose.models.transpose import TransPose
from transpose.pose.skeleton import COCO

DEMO = ROOT / "experiments/coco_sample/demo.yaml"
BOTH = pytest.mark.parametrize("make", [small_r, small_h], ids=["R", "H"])
BOUND = {small_r: 1e-4, small_h: 5e-4}  # of heatmaps, relative to the largest value
PACKAGES = {"openvino": "openvino", "onnxruntime": "onnx onnxscript onnxruntime"}
INSTALLED = {
    "pytorch": True,
    "openvino": importlib.util.find_spec("openvino") is not None,
    "onnxruntime": all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")),
}


def drawn(make, **options) -> TransPose:
    model = make(**options)
    fill_from_names(model)
    return model


@torch.no_grad()
def largest_difference(forward, model: TransPose, batch: int) -> float:
    """Of heatmaps, relative to the largest value."""
    wanted = model(images(batch))
    found = forward(images(batch))
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@BOTH
def test_folding_leaves_no_batch_norm_and_the_same_heatmaps(make):
    model = drawn(make)
    copied = folded(model)
    assert not [module for module in copied.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert largest_difference(copied, model, 2) < (1e-5 if make is small_r else BOUND[make])


@torch.no_grad()
def test_heatmaps_of_lower_precision_are_not_rounded_to_it():
    maps = Backend("bfloat16")(drawn(small_r))(images(2))
    assert maps.dtype == torch.float32
    assert (maps != maps.bfloat16().float()).float().mean() > 0.9


@pytest.mark.parametrize("size, share", [((64, 96), 16), ((192, 256), 2), ((288, 384), 2)])
def test_a_thread_gets_as_many_images_at_a_time_as_its_caches_hold(size, share, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model, seen = small_r(image_size=size), []
    monkeypatch.setattr(type(model), "forward", lambda self, x: seen.append(len(x)) or x)
    Backend()(model)(torch.zeros(2 * 2 * share + 1, 3, *size[::-1]))
    assert seen == [2 * share, 2 * share, 1]


@pytest.mark.parametrize("name, bound", [("tp_r_a4", 1e-4), ("tp_h_s", 5e-4)])
def test_the_published_models_keep_the_originals_heatmaps(name, bound):
    model = published(name)
    fill_from_names(model)
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 256, 192)).astype(np.float32))[:1]
    with torch.inference_mode():
        found = Backend()(model)(x)
    wanted = torch.from_numpy(golden(name)["heatmaps"])
    assert float((found - wanted).abs().max() / wanted.abs().max()) < bound
    assert torch.equal(found.flatten(2).argmax(2), wanted.flatten(2).argmax(2))


@BOTH
def test_the_model_and_its_state_dict_stay_what_they_are(make):
    model = drawn(make).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Backend("bfloat16")(model)(images(1))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert model.final_layer.weight.requires_grad


def test_each_call_takes_the_weights_of_its_moment():
    model, how = drawn(small_r), Backend()
    first = how(model)(images(1))
    with torch.no_grad():
        model.bn1.running_mean += 1
        model.final_layer.bias += 1
    assert largest_difference(how(model), model, 1) < 1e-5
    assert not torch.allclose(first, how(model)(images(1)), atol=0.1)


@BOTH
def test_bfloat16_is_near(make):
    """With weights as constructed; those drawn from names saturate attention, which magnifies rounding."""
    torch.manual_seed(0)
    model = make()
    assert 1e-4 < largest_difference(Backend("bfloat16")(model), model, 2) < 0.05


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@BOTH
def test_other_runtimes_give_the_same_heatmaps_for_any_batch_size(make, backend):
    if not INSTALLED[backend]:
        pytest.skip(f"{backend} is not installed: pip install {PACKAGES[backend]}")
    model = drawn(make)
    forward = Backend(backend=backend)(model)
    assert max(largest_difference(forward, model, batch) for batch in (1, 3)) < BOUND[make]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_runtime_that_is_missing_is_named_with_the_way_to_get_it(backend, monkeypatch):
    for package in PACKAGES[backend].split():
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^the package \w+ is not installed: .* 'transpose-pose\[{backend}\]'"):
        Backend(backend=backend)(small_r())


def test_a_compiled_network_keeps_its_keys_and_gives_the_same_heatmaps():
    model = drawn(small_r)
    keys = list(model.state_dict())
    model.compile(backend="eager")  # what TRAIN.COMPILE does, without the C++ compiler
    assert list(model.state_dict()) == keys
    assert largest_difference(Backend()(model), model, 1) < 1e-5


def test_the_flip_test_as_one_batch_is_that_of_two():
    """What a GPU does, on a model that only pretends to be on one."""
    forward, order = Backend()(drawn(small_r)), torch.from_numpy(COCO.flip_order)

    class OnGpu(torch.Tensor):
        is_cuda = True

    sizes = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(x.as_subclass(torch.Tensor))

    with torch.inference_mode():
        two = heatmaps_of(watched, images(2), order)
        one = heatmaps_of(watched, images(2).as_subclass(OnGpu), order)
    assert sizes == [2, 2, 4]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * float(two.abs().max()))


def gradients(model: TransPose) -> list[torch.Tensor]:
    torch.manual_seed(3)
    model.train()
    mse(model(images(2)), torch.rand(2, 17, SMALL[1] // 4, SMALL[0] // 4), torch.ones(2, 17)).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@BOTH
def test_without_attention_dropout_only_that_is_left_out(make):
    """Equal to plain attention where dropout is 0, not where the rest of the encoder drops out."""
    base, without = (drawn(make, dropout=0.0, attention_dropout=p) for p in (None, 0.0))
    assert all(torch.equal(*pair) for pair in zip(gradients(base), gradients(without), strict=True))
    model = drawn(make, dropout=0.5, attention_dropout=0.0)
    layer = model.global_encoder.layers[0]
    assert layer.self_attn.dropout == 0 and layer.dropout.p == 0.5
    tokens = torch.randn(1, 12, model.reduce.out_channels)
    assert torch.equal(layer.self_attn.train()(tokens, None), layer.self_attn.eval()(tokens, None))


@pytest.mark.parametrize(
    "keys, sentence",
    [
        (
            "TEST.BACKEND onnxruntime TEST.PRECISION bfloat16",
            "onnxruntime computes in float32 only, not in TEST.PRECISION",
        ),
        ("TEST.BACKEND openvino TEST.COMPILE True", "TEST.COMPILE works with TEST.BACKEND pytorch only"),
        (
            "TEST.BACKEND openvin",
            "must be one of pytorch, openvino, onnxruntime, not 'openvin'; the nearest",
        ),
        ("TRAIN.PRECISION half", "TRAIN.PRECISION must be one of float32, bfloat16, float16"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(DEMO, keys.split())


@pytest.mark.slow  # where the processor has no bfloat16 arithmetic
def test_bfloat16_trains_float32_weights_resumes_equally_and_differs(tmp_path):
    """A run in two parts against one in one, as a user starts them."""
    keys = (
        "MODEL.IMAGE_SIZE [32,64] MODEL.HEATMAP_SIZE [8,16] MODEL.DIM_MODEL 16 MODEL.DIM_FEEDFORWARD 16 MODEL.N_HEAD 2 "
        "MODEL.DROPOUT 0.1 MODEL.EXTRA.NUM_DECONV_FILTERS [16] TRAIN.SCHEDULE multistep TRAIN.WARMUP_EPOCHS 0 "
        "TRAIN.VALIDATE_EVERY 9 TRAIN.PRECISION bfloat16 TRAIN.RESUME_CHANGED True"
    ).split()

    def train(folder: str, *further: str) -> dict[str, torch.Tensor]:
        command = [
            sys.executable,
            str(ROOT / "tools/train.py"),
            "--cfg",
            str(ROOT / "experiments/coco_sample/demo.yaml"),
        ]
        command += ["--modelDir", str(tmp_path / folder), "--logDir", str(tmp_path / "log"), *keys, *further]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return torch.load(tmp_path / folder / "coco/transpose_r/demo/final_state.pth", weights_only=True)

    whole = train("whole", "TRAIN.END_EPOCH", "2")
    train("parts", "TRAIN.END_EPOCH", "1")
    parts = train("parts", "TRAIN.END_EPOCH", "2")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert whole["final_layer.weight"].dtype == torch.float32
    plain = train("float32", "TRAIN.END_EPOCH", "2", "TRAIN.PRECISION", "float32")
    assert not torch.equal(plain["final_layer.weight"], whole["final_layer.weight"])


# What the machine computes in


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_device_computes_in_it_and_the_log_says_so(has, monkeypatch, caplog):
    caplog.set_level("INFO", logger="transpose")
    monkeypatch.setattr(backends, "computes_bfloat16", lambda device: has)
    device, chosen = torch.device("cpu"), "bfloat16" if has else "float32"
    assert chosen_precision("auto", device) == chosen
    assert f"precision auto: {chosen}, chosen for pytorch on this cpu" in caplog.text
    assert chosen_precision("auto", device, "onnxruntime") == "float32"
    cfg = load_config(DEMO, ["TRAIN.PRECISION", "auto"], report=False)
    assert build_train_options(cfg, device).precision == getattr(torch, chosen)


def test_a_named_precision_is_taken_whatever_the_device_computes_in(monkeypatch, caplog):
    monkeypatch.setattr(backends, "computes_bfloat16", lambda device: True)
    assert chosen_precision("float32", torch.device("cpu")) == "float32" and not caplog.text
    assert chosen_precision("bfloat16", torch.device("cpu")) == "bfloat16" and not caplog.text


def test_bfloat16_that_the_device_does_not_compute_is_taken_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(backends, "computes_bfloat16", lambda device: False)
    assert chosen_precision("bfloat16", torch.device("cpu")) == "bfloat16"
    assert "PyTorch may emulate bfloat16 on this CPU, which" in caplog.text
