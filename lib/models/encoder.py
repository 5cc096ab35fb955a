"""The Transformer encoder of TransPose: DETR's post-norm layers, with positions on queries and keys.

B batch, N tokens (the feature map read row by row), D model width, M heads, H x W the token grid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout, attend

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
POSITIONS = ("sine", "learnable", "none")


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder's sizes and position encoding, for both variants of TransPose."""

    dim: int  # D
    heads: int  # M
    layers: int
    feedforward: int  # hidden width of the feed-forward network
    dropout: float = 0.1  # of attention weights, after attention, in and after the feed-forward network
    attention_dropout: float | None = None  # of the attention weights, if different
    activation: str = "relu"  # of the feed-forward network, one of ACTIVATIONS
    positions: str = "sine"  # one of POSITIONS
    positions_at_first_layer_only: bool = False


def sine_positions(height: int, width: int, dim: int) -> Tensor:
    """Two-dimensional sine positions (H*W, 1, D) as in DETR (ECCV 2020, arXiv 2005.12872).

    Rows and columns count from 1 and are scaled to 2 pi; the first half of the channels encodes y, the second x;
    channel i of a half has frequency 10000^(-2 floor(i/2) / (D/2)), sine on even and cosine on odd channels.
    """
    half = dim // 2
    frequency = 10000 ** (2 * (torch.arange(half) // 2) / half)

    def encode(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32) / (length + 1e-6) * 2 * math.pi
        phase = steps[:, None] / frequency
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

    y = encode(height)[:, None].expand(height, width, half)
    x = encode(width)[None].expand(height, width, half)
    return torch.cat([y, x], dim=2).reshape(height * width, 1, dim)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of `nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, M, N, D / M)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def projections(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, M, N, D / M) of tokens (B, N, D)."""
        dim = self.out_proj.in_features
        x_with_positions = x if positions is None else x + positions
        q, k = F.linear(x_with_positions, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim]).chunk(2, dim=-1)
        v = F.linear(x, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        return self._split(q), self._split(k), self._split(v)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D); the N x N maps of all heads are never in memory together."""
        q, k, v = self.projections(x, positions)
        mixed = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward network, each added to its input and normalised after."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        dim, dropout = config.dim, config.attention_dropout
        self.self_attn = SelfAttention(dim, config.heads, config.dropout if dropout is None else dropout)
        self.linear1 = nn.Linear(dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x, positions)))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class Encoder(nn.Module):
    """A stack of layers without a final norm; matrices are Xavier-uniform, biases PyTorch's defaults."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.positions_at_first_layer_only = config.positions_at_first_layer_only
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def positions_of(self, layer: int, positions: Tensor | None) -> Tensor | None:
        """The positions that this layer adds to its queries and keys; None if it adds none."""
        return None if layer > 0 and self.positions_at_first_layer_only else positions

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """(B, N, D), positions (1, N, D) or None -> (B, N, D)."""
        for i, layer in enumerate(self.layers):
            x = layer(x, self.positions_of(i, positions))
        return x
