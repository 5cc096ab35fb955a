"""The networks: the published ones exactly, and the effects of the constructor's arguments."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from helpers.goldens import fill_from_names, golden
from helpers.networks import BOTH, PUBLISHED, images, published, small_h, small_r
from torch import nn

from transpose.errors import UserError
from transpose.explain.attention import Attention
from transpose.models.encoder import Encoder, EncoderConfig, sine_positions
from transpose.models.transpose import RESNETS
from transpose.models.weights import initialise, load_weights, resize_positions, token_grid, unwrap
from transpose.runtime import checkpoint

SMALL_ENCODER = EncoderConfig(dim=16, heads=2, layers=2, feedforward=32)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# The published models


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_and_parameters_are_the_published_ones(name):
    model = published(name)
    found = [[key, list(value.shape), str(value.dtype).split(".")[1]] for key, value in model.state_dict().items()]
    assert found == PUBLISHED[name]["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("name", ["tp_r_a4", "tp_h_s"])
def test_heatmaps_positions_and_attention_are_the_originals(name):
    model, wanted = published(name), golden(name)
    fill_from_names(model)
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 256, 192)).astype(np.float32))[:1]
    with torch.no_grad():
        heatmaps = model(x)
    attention = Attention(model, x).dependency(torch.from_numpy(wanted["attention_queries"])[None]).mean(2).flatten(-2)
    np.testing.assert_allclose(heatmaps.numpy(), wanted["heatmaps"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(attention.numpy(), wanted["attention"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.pos_embedding[:, 0].numpy(), wanted["pos_embedding"], rtol=0, atol=1e-5)


# Variants


@pytest.mark.parametrize("depth", RESNETS)
def test_every_resnet_has_torchvisions_tensors_and_gives_quarter_size_heatmaps(depth):
    with torch.device("meta"):
        imagenet = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    model = small_r(num_layers=depth)
    kept = ("conv1", "bn1", "layer1", "layer2")
    backbone = {key: value.shape for key, value in imagenet.items() if key.startswith(kept)}
    assert {key: value.shape for key, value in model.state_dict().items() if key.startswith(kept)} == backbone
    with torch.no_grad():
        assert model(images(2)).shape == (2, 17, 24, 16)


@pytest.mark.parametrize("positions", ["sine", "learnable", "none"])
@pytest.mark.parametrize("final_kernel", [1, 3])
@BOTH
def test_heatmaps_are_a_quarter_of_the_input(make, positions, final_kernel):
    with torch.no_grad():
        assert make(positions=positions, final_kernel=final_kernel, num_joints=5)(images(2)).shape == (2, 5, 24, 16)


@pytest.mark.parametrize("kernel", [4, 3, 2])
def test_every_deconvolution_kernel_doubles_the_size(kernel):
    with torch.no_grad():
        assert small_r(deconv_kernels=(kernel,), deconv_bias=True)(images()).shape == (1, 17, 24, 16)


@BOTH
def test_positions_are_fixed_trained_or_absent(make):
    sine, learnable, none = (make(positions=kind) for kind in ("sine", "learnable", "none"))
    assert not sine.pos_embedding.requires_grad
    assert learnable.pos_embedding.requires_grad
    assert not torch.equal(learnable.pos_embedding, make(positions="learnable").pos_embedding)
    shape = (sine.grid[0] * sine.grid[1], 1, sine.reduce.out_channels)
    assert learnable.pos_embedding.shape == sine.pos_embedding.shape == shape
    assert none.state_dict().keys() == sine.state_dict().keys() - {"pos_embedding"}


def test_without_positions_the_encoder_does_not_know_the_tokens_order():
    torch.manual_seed(0)
    encoder = Encoder(SMALL_ENCODER).eval()
    x, order, positions = torch.randn(1, 12, 16), torch.randperm(12), sine_positions(3, 4, 16).transpose(0, 1)
    with torch.no_grad():
        assert torch.allclose(encoder(x[:, order], None), encoder(x, None)[:, order], atol=1e-5)
        assert not torch.allclose(encoder(x[:, order], positions), encoder(x, positions)[:, order], atol=1e-2)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_without_positions_is_pytorchs(activation):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(dim=16, heads=4, layers=1, feedforward=32, activation=activation))
    own = encoder.layers[0].eval()  # initialised by the encoder, not by itself
    torchs = nn.TransformerEncoderLayer(16, 4, 32, 0.1, activation, batch_first=True).eval()
    torchs.load_state_dict(own.state_dict(), strict=True)
    x = torch.randn(2, 12, 16)
    with torch.no_grad():
        assert torch.allclose(own(x, None), torchs(x), atol=1e-5)


def test_gelu_changes_the_heatmaps_of_equal_weights():
    relu, gelu = small_r(), small_r(activation="gelu")
    gelu.load_state_dict(relu.state_dict())
    with torch.no_grad():
        assert not torch.allclose(relu(images()), gelu(images()), atol=1e-4)


def test_positions_at_the_first_layer_only():
    torch.manual_seed(0)
    everywhere = Encoder(SMALL_ENCODER).eval()
    first = Encoder(replace(SMALL_ENCODER, positions_at_first_layer_only=True)).eval()
    first.load_state_dict(everywhere.state_dict())
    x, positions = torch.randn(1, 12, 16), sine_positions(3, 4, 16).transpose(0, 1)
    one, two = first.layers
    with torch.no_grad():
        hidden = one(x, positions)
        assert torch.equal(first(x, positions), two(hidden, None))
        assert torch.equal(everywhere(x, positions), two(hidden, positions))
        assert not torch.allclose(first(x, positions), everywhere(x, positions), atol=1e-3)


# Checkpoints


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"epoch": 3, "optimizer": {"state": {}}, "state_dict": state},
        lambda state: {"epoch": 3, "best_state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "DataParallel", "compiled", "compiled-DDP", "training", "best"],
)
@BOTH
def test_checkpoints_load_however_they_were_saved(make, wrap, tmp_path):
    source, target = make(), make()
    fill_from_names(source)
    torch.save(wrap(source.state_dict()), tmp_path / "model.pth")
    assert load_weights(target, unwrap(checkpoint.read(tmp_path / "model.pth"), "model.pth"), "model.pth") == []
    assert equal(target.state_dict(), source.state_dict())


def test_a_tensor_that_is_there_twice_is_refused():
    with pytest.raises(UserError, match=r"^odd.pth: it holds a.b twice, with and without a prefix such as 'module.'"):
        unwrap({"a.b": torch.zeros(1), "module.a.b": torch.ones(1)}, "odd.pth")


def test_what_is_saved_is_the_plain_published_state_dict(tmp_path):
    model = small_h()
    checkpoint.save(tmp_path / "model.pth", model.state_dict())
    assert equal(torch.load(tmp_path / "model.pth", weights_only=True), model.state_dict())


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda s: s.pop("reduce.weight"), ["1 missing", "reduce.weight"]),
        (lambda s: s.update(extra=torch.zeros(2)), ["1 unexpected", "extra"]),
        (
            lambda s: s.update({"reduce.weight": torch.zeros(7, 128, 1, 1)}),
            ["reduce.weight", "7x128x1x1", "32x128x1x1"],
        ),
        (lambda s: s.update(pos_embedding=torch.zeros(96, 1, 64)), ["pos_embedding", "96x1x64", "96x1x32"]),
    ],
    ids=["missing", "unexpected", "shape", "width"],
)
def test_checkpoint_of_another_model_names_file_keys_and_shapes_and_changes_nothing(spoil, named):
    model = small_r()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    spoil(state)
    with pytest.raises(UserError) as error:
        load_weights(model, state, "some/file.pth")
    assert all(text in str(error.value) for text in ["some/file.pth", *named])
    assert equal(model.state_dict(), before)


# Positions of another input size


@pytest.mark.parametrize("grid", [(32, 24), (24, 32), (16, 16), (6, 2)])
def test_sine_positions_tell_their_grid_whatever_it_is_compared_with(grid):
    positions = sine_positions(*grid, 16)
    assert token_grid(positions, (10, 40)) == token_grid(positions, (40, 10)) == grid


@pytest.mark.parametrize("like, grid", [((64, 48), (32, 24)), ((12, 16), (24, 32))])
def test_learned_positions_take_the_grid_nearest_in_aspect(like, grid):
    assert token_grid(torch.randn(768, 1, 8), like) == grid


def test_resized_positions_keep_corners_and_are_bilinear_between():
    grid, wanted = (6, 4), (11, 10)
    positions = torch.randn(24, 1, 8, generator=torch.Generator().manual_seed(2))
    old, new = positions.view(*grid, 8), resize_positions(positions, grid, wanted).view(*wanted, 8)
    for row in (0, -1):
        for column in (0, -1):
            assert torch.allclose(new[row, column], old[row, column])
    assert torch.allclose(new[1, 0], (old[0, 0] + old[1, 0]) / 2, atol=1e-6)
    assert torch.allclose(new[0, 3], old[0, 1], atol=1e-6)
    assert torch.allclose(resize_positions(positions, grid, grid), positions, atol=1e-6)


@pytest.mark.parametrize("positions", ["sine", "learnable"])
@BOTH
def test_checkpoint_of_another_input_size_loads_with_resized_positions(make, positions):
    source, target = make(positions=positions), make(positions=positions, image_size=(96, 128))
    fill_from_names(source)
    remarks = load_weights(target, source.state_dict(), "file")
    assert len(remarks) == 1 and all("x".join(map(str, m.grid)) in remarks[0] for m in (source, target))
    assert torch.equal(target.pos_embedding, resize_positions(source.pos_embedding, source.grid, target.grid))
    own, loaded = target.state_dict(), source.state_dict()
    assert equal(*({k: v for k, v in state.items() if k != "pos_embedding"} for state in (own, loaded)))
    with torch.no_grad():
        assert target(images(1, (96, 128))).shape == (1, 17, 32, 24)


@pytest.mark.parametrize("spoil", [lambda positions: positions > 0, lambda positions: positions[:0]])
def test_positions_that_cannot_be_resized_are_refused(spoil):
    source, target = small_r(), small_r(image_size=(96, 128))
    state = source.state_dict()
    with pytest.raises(UserError, match=r"^odd.pth: .*pos_embedding"):
        load_weights(target, state | {"pos_embedding": spoil(state["pos_embedding"])}, "odd.pth")
    with pytest.raises(UserError, match=r"^odd.pth: .*pos_embedding"):
        load_weights(source, state | {"pos_embedding": spoil(state["pos_embedding"])}, "odd.pth")


def test_weights_of_eight_bits_load():
    """PyTorch compares and interpolates none of this type."""
    eight = {
        key: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value
        for key, value in small_r(image_size=(96, 128)).state_dict().items()
    }
    target = small_r()
    assert len(load_weights(target, eight, "file")) == 1
    assert torch.equal(target.bn1.weight, eight["bn1.weight"].float())


def test_sine_positions_of_the_transposed_input_are_resized_too():
    """As many tokens, other places: shapes alone do not show that the checkpoint's grid is another."""
    portrait, landscape = small_r(image_size=(64, 96)), small_r(image_size=(96, 64))
    load_weights(landscape, portrait.state_dict(), "file")
    assert torch.equal(landscape.pos_embedding, resize_positions(portrait.pos_embedding, portrait.grid, landscape.grid))


# Start weights


def is_drawn(weight: torch.Tensor) -> torch.Tensor:
    std, mean = torch.std_mean(weight.detach())
    return abs(std / 0.001 - 1) < 0.2 and abs(mean) < 0.0003


def spoiled(model: nn.Module) -> dict[str, torch.Tensor]:
    """Norms that are not fresh; returns a copy of all tensors."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 3)
            nn.init.constant_(module.bias, 3)
    torch.manual_seed(0)
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_r_with_imagenet_initialises_the_final_layer_only_and_loads_what_matches():
    model, imagenet = small_r(), torchvision.models.resnet18().state_dict()
    before = spoiled(model)
    initialise(model, imagenet, source="resnet18.pth")
    for key, value in model.state_dict().items():
        if key in imagenet:
            assert torch.equal(value, imagenet[key]), key
        elif not key.startswith("final_layer"):
            assert torch.equal(value, before[key]), key
    assert is_drawn(model.final_layer.weight) and (model.final_layer.bias == 0).all()


def test_r_without_imagenet_draws_every_convolution():
    model = small_r(deconv_bias=True)
    before = spoiled(model)
    initialise(model, None)
    assert all(is_drawn(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    kept = [key for key in before if key.startswith(("global_encoder", "pos_embedding", "final_layer.bias"))]
    assert len(kept) == 2 * 12 + 2 and all(torch.equal(model.state_dict()[key], before[key]) for key in kept)


@pytest.mark.parametrize("stages", [("conv1", "layer1", "stage2"), ("*",), ("*", "conv1")])
def test_h_draws_every_convolution_then_takes_the_listed_stages(stages):
    model, imagenet = small_h(), {key: value + 7 for key, value in small_h().state_dict().items()}
    imagenet |= {"classifier.weight": torch.zeros(10, 10)}
    before = spoiled(model)
    initialise(model, imagenet, stages)
    after = model.state_dict()
    taken = {key for key in after if stages[0] == "*" or key.split(".")[0] in stages}
    assert all(torch.equal(after[key], imagenet[key]) for key in taken)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and f"{name}.weight" not in taken:
            assert is_drawn(module.weight), name
            assert module.bias is None or (module.bias == 0).all(), name
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in taken:
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
    encoder = [key for key in after if key.startswith("global_encoder") and key not in taken]
    assert all(torch.equal(after[key], before[key]) for key in encoder)


@pytest.mark.parametrize(
    "model, imagenet, named",
    [
        (small_r, lambda: small_r(num_layers=50).state_dict(), ["layer1.0.conv1.weight", "64x64x1x1", "64x64x3x3"]),
        (small_h, lambda: small_h(width=12).state_dict(), ["transition1.0.0.weight", "12x256x3x3", "8x256x3x3"]),
        (small_r, lambda: {"features.0.weight": torch.zeros(1)}, ["none of its 1 tensors"]),
    ],
    ids=["R", "H", "none"],
)
def test_start_weights_of_another_backbone_are_refused_by_name(model, imagenet, named):
    with pytest.raises(UserError) as error:
        initialise(model(), imagenet(), source="wrong.pth")
    assert all(text in str(error.value) for text in ["wrong.pth", *named])
