"""Dropout on a processor: the published arithmetic with other draws."""

import math

import pytest
import torch
import torch.nn.functional as F

from transpose.models import dropout
from transpose.models.dropout import Dropout, attend, draw_kept, kept_scale
from transpose.models.encoder import Encoder, EncoderConfig


def heads(samples=2, count=3, tokens=10, width=4):
    draw = torch.Generator().manual_seed(0)
    made = [torch.randn(samples, tokens, count, width, dtype=torch.float64, generator=draw) for _ in range(3)]
    return [part.transpose(1, 2).requires_grad_() for part in made]  # strides as in the encoder


def attend_plainly(q, k, v, share):
    """As PyTorch's parts do it, with the draws that `attend` makes after the same seed, rows in the same groups."""
    draw = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
    tokens = q.shape[2]
    step = min(tokens, dropout.VALUES // tokens)
    groups = [min(step, tokens - first) for first in range(0, tokens, step)]
    kept = [
        torch.cat([draw_kept(torch.Size((rows, tokens)), share, draw) for rows in groups])
        for _ in range(q.shape[0] * q.shape[1])
    ]
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
    return weights * torch.stack(kept).view_as(weights) * kept_scale(share) @ v


@pytest.mark.parametrize("values", [2**20, 30], ids=["a head at a time", "three rows at a time"])
def test_attention_and_its_gradients_are_those_of_the_plain_form(monkeypatch, values):
    monkeypatch.setattr(dropout, "VALUES", values)
    found = []
    for way in (attend, attend_plainly):
        parts = heads()
        torch.manual_seed(5)
        mixed = way(*parts, 0.3)
        mixed.square().sum().backward()
        found.append([mixed.detach(), *(part.grad for part in parts)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_function():
    q, k, v = heads(1, 2, 6, 3)

    def fixed(*parts):
        torch.manual_seed(5)
        return attend(*parts, 0.3)

    assert torch.autograd.gradcheck(fixed, (q, k, v))


def test_bfloat16_attends_nearly_as_float64_does():
    parts = heads(tokens=50, width=8)
    torch.manual_seed(5)
    exact = attend(*parts, 0.3)
    torch.manual_seed(5)
    rounded = attend(*(part.bfloat16() for part in parts), 0.3)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_that_drops_out_and_the_mean_are_as_asked(share):
    torch.manual_seed(0)
    values = Dropout(share)(torch.ones(1_000_003))
    kept = values != 0
    assert abs(kept.double().mean() - (1 - share)) < 5 * math.sqrt(share * (1 - share) / len(values))
    assert abs(values.double().mean() - 1) < 5 * math.sqrt(share / (1 - share) / len(values))
    neighbours = kept[:-1] & kept[1:]  # values whose bits come from one drawn number are independent too
    assert abs(neighbours.double().mean() - (1 - share) ** 2) < 0.003


def test_all_none_and_not_in_training():
    x = torch.arange(1.0, 8.0)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(7))
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    q, k, v = heads()
    assert torch.equal(attend(q, k, v, 1.0), torch.zeros_like(v))
    torch.testing.assert_close(attend(q, k, v, 0.0), F.scaled_dot_product_attention(q, k, v))


def test_equal_seeds_train_equally_and_others_do_not():
    config = EncoderConfig(dim=8, heads=2, layers=1, feedforward=16, dropout=0.5)
    torch.manual_seed(0)
    encoder, tokens = Encoder(config), torch.randn(2, 12, 8)

    def gradient(seed):
        torch.manual_seed(seed)
        encoder.zero_grad()
        encoder(tokens, None).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters()])

    assert torch.equal(gradient(1), gradient(1))
    assert not torch.equal(gradient(1), gradient(2))
