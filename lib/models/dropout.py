"""Dropout on a CPU: of values, and of attention weights without their N x N maps being kept.

PyTorch draws a number for each value there, which costs more than what is done with the value, and keeps several maps
of each layer for the backward pass. Here a drawn number serves four values, and a map is made of one head at a time, in
the same memory, and made again in the backward pass, as in FlashAttention (Dao et al., 2022, arXiv 2205.14135).

A share is rounded to a multiple of 1/65,536, for 16 bits decide about a value; what stays is scaled by the rounded one.
B batch, N tokens, M heads, D model width.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16  # what 16 bits can be
VALUES = 2**20  # of a map that are worked on at a time, few enough for a CPU's cache


def _dropped(share: float) -> int:
    return min(round(share * STEPS), STEPS - 1)


def draw_kept(shape: torch.Size, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Which values stay, bool, where a `share` of them, below 1, drops out."""
    bits = torch.empty(math.ceil(shape.numel() / 4), dtype=torch.int64)
    bits.random_(-(2**63), None, generator=generator)
    return (bits.view(torch.int16)[: shape.numel()] >= _dropped(share) - STEPS // 2).view(shape)


def kept_scale(share: float) -> float:
    """What the values that stay are multiplied by, so that a sum keeps its expectation."""
    return STEPS / (STEPS - _dropped(share))


class Dropout(nn.Dropout):
    """`nn.Dropout`, faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and 0 < self.p < 1 and x.device.type == "cpu"):
            return super().forward(x)
        return x * draw_kept(x.shape, self.p).to(x.dtype).mul_(kept_scale(self.p))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """softmax(q kᵀ / √(D / M)) v for each head, (B, M, N, D / M), where a share of the softmax's values drops out."""
    if q.device.type == "cpu" and 0 < dropout < 1:
        return _attend_on_cpu(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


@torch.compiler.disable
def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    return _Attention.apply(q, k, v, dropout, int(torch.randint(2**63 - 1, ())))


class _Attention(torch.autograd.Function):
    """For each head, of some rows at a time: S = q kᵀ / √d, P = softmax(S), what is kept of P, and that times v."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: int) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.dropout, ctx.seed = dropout, seed
        mixed = torch.empty_like(q)
        for head, rows, probabilities, kept in _maps(q, k, dropout, seed):
            torch.mm(probabilities.mul_(kept).to(v.dtype), v[head], out=mixed[head][rows])
        return mixed.mul_(kept_scale(dropout))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad = grad * kept_scale(ctx.dropout)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for head, rows, probabilities, kept in _maps(q, k, ctx.dropout, ctx.seed):
            part = grad[head][rows]
            # The gradient of S is P (g - the row's sum of g P), where g is the gradient of P.
            inner = torch.mm(part, v[head].T).to(kept.dtype).mul_(kept).mul_(probabilities)
            inner.addcmul_(probabilities, inner.sum(1, keepdim=True), value=-1).mul_(q.shape[-1] ** -0.5)
            grad_v[head].addmm_(probabilities.mul_(kept).to(v.dtype).T, part)
            grad_k[head].addmm_(inner.to(q.dtype).T, q[head][rows])
            torch.mm(inner.to(q.dtype), k[head], out=grad_q[head][rows])
        return grad_q, grad_k, grad_v, None, None


def _maps(q: Tensor, k: Tensor, dropout: float, seed: int) -> Iterator[tuple[tuple[int, int], slice, Tensor, Tensor]]:
    """Sample and head, rows, their P, and 1 where a value of it is kept, else 0, in memory that is used again."""
    generator = torch.Generator().manual_seed(seed)
    samples, heads, tokens, width = q.shape
    step = min(tokens, max(1, VALUES // tokens))
    scores = q.new_empty(step, tokens)
    probabilities = q.new_empty(step, tokens, dtype=torch.promote_types(q.dtype, torch.float32))
    for head in itertools.product(range(samples), range(heads)):
        for first in range(0, tokens, step):
            rows = slice(first, min(first + step, tokens))
            count = rows.stop - first
            torch.mm(q[head][rows] * width**-0.5, k[head].T, out=scores[:count])
            torch.softmax(scores[:count], -1, dtype=probabilities.dtype, out=probabilities[:count])
            kept = draw_kept(probabilities[:count].shape, dropout, generator)
            yield head, rows, probabilities[:count], kept.to(probabilities.dtype)
