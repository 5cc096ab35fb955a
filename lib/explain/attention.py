"""The attention of a trained network for chosen queries: rows, columns, and their combination over the layers.

B crops, L layers, M heads, N tokens (the encoder's grid H x W read row by row), D model width, Q queries.
A token is a cell of `stride` x `stride` input pixels. All maps are float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from ..models.encoder import EncoderLayer
from ..models.transpose import TransPose

BLOCK_BYTES = 2 << 20  # rows of an attention matrix held at a time: H's 3,072 x 3,072 weights take 75 MB per head

Block = tuple[slice, Tensor]  # a slice of rows of an attention matrix, and these rows (B, M, rows, N)


@dataclass(frozen=True, eq=False)
class Projections:
    """Queries, keys and values of one layer (B, M, N, D / M)."""

    q: Tensor
    k: Tensor
    v: Tensor

    def weights(self, q: Tensor) -> Tensor:
        """Attention rows of queries (B, M, Q, D / M): (B, M, Q, N), each summing to 1."""
        return (q / math.sqrt(q.shape[-1]) @ self.k.mT).softmax(-1)

    def slices(self) -> Iterator[slice]:
        batch, heads, tokens, _ = self.q.shape
        step = max(1, BLOCK_BYTES // (batch * heads * tokens * self.q.element_size()))
        return (slice(first, first + step) for first in range(0, tokens, step))

    def blocks(self) -> Iterator[Block]:
        """The whole attention matrix, a block of rows at a time."""
        return ((rows, self.weights(self.q[:, :, rows])) for rows in self.slices())


class _Watched(TorchFunctionMode):
    """A context in which a network computes in float64, without a copy of its weights, in blocks of queries.

    In float32, saturated rows magnify the features' rounding errors to 1e-5, differently on every CPU.
    `mixed` (B, M, N, D / M) is the output of each attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[Tensor] = []

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, _in_float64, (args, kwargs or {}))
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        layer = Projections(*args)
        # A block is computed again in the backward pass, to save memory.
        parts = [checkpoint(_mixed, layer.q[:, :, rows], layer, use_reentrant=False) for rows in layer.slices()]
        self.mixed.append(torch.cat(parts, 2))
        return self.mixed[-1]


def _mixed(q: Tensor, layer: Projections) -> Tensor:
    return layer.weights(q) @ layer.v


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


class Attention:
    """What each token of a batch of crops attends to, in the forward that gives `heatmaps` (B, K, 4-pixel cells).

    Of the N x N weights only the requested rows and columns are returned, and no whole matrix is held in memory.
    Queries (B, Q) are tokens, counted row by row from the upper left one.
    """

    @torch.no_grad()
    def __init__(self, network: TransPose, images: Tensor):
        """`images` (B, 3, h, w) are normalised; the network must be in eval mode, and is not changed."""
        assert not network.training
        self.network, self.grid, self.stride = network, network.grid, network.stride
        self._encoder_layers = cast(Sequence[EncoderLayer], network.global_encoder.layers)
        self.num_layers, self.heads = len(self._encoder_layers), self._encoder_layers[0].self_attn.heads
        with _Watched():
            x = network.tokens(images)
            self._inputs = []
            for i, layer in enumerate(self._encoder_layers):
                self._inputs.append(x)
                x = layer(x, self._positions(i))
            self._encoded = x
            self.heatmaps = self._head(x)

    def layer(self, i: int) -> Projections:
        """The projections of layer i, computed again from its input, to save memory."""
        with _Watched():
            return Projections(*self._encoder_layers[i].self_attn.projections(self._inputs[i], self._positions(i)))

    def _positions(self, layer: int) -> Tensor | None:
        return self.network.global_encoder.positions_of(layer, self.network.positions())

    def _head(self, x: Tensor) -> Tensor:
        return self.network.head(x.mT.unflatten(2, self.grid))

    def _as_maps(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, self.grid)

    @torch.no_grad()
    def dependency(self, queries: Tensor) -> Tensor:
        """The tokens that the queries depend on, their attention rows: (L, B, M, Q, H, W); each map sums to 1."""
        rows = [layer.weights(_at(layer.q, queries)) for layer in map(self.layer, range(self.num_layers))]
        return self._as_maps(torch.stack(rows))

    @torch.no_grad()
    def affect(self, queries: Tensor) -> Tensor:
        """The tokens that depend on the queries, their attention columns: (L, B, M, Q, H, W)."""
        index = queries[:, None, None]
        columns = [
            torch.cat([block.gather(3, index.expand(*block.shape[:3], -1)) for _, block in layer.blocks()], 2)
            for layer in map(self.layer, range(self.num_layers))
        ]
        return self._as_maps(torch.stack(columns).mT)

    @torch.no_grad()
    def rollout(self, queries: Tensor) -> Tensor:
        """Attention rollout (Abnar and Zuidema, ACL 2020, arXiv 2005.00928) up to each layer: (L, B, Q, H, W).

        The queries' rows of the product, from that layer down to the first, of 0.5 A + 0.5 I, where A is the mean of
        the heads and I is the residual connection. Each map sums to 1.
        """
        downward = map(self.layer, reversed(range(self.num_layers)))
        means = (((rows, block.mean(1)) for rows, block in layer.blocks()) for layer in downward)
        return self._as_maps(_products(self._alone(queries), means, own=0.5, others=0.5))

    @torch.no_grad()
    def gradient(self, queries: Tensor, keypoints: Sequence[int]) -> Tensor:
        """Relevance for keypoints (Q), each seen from its own query, up to each layer: (L, B, Q, H, W).

        Chefer, Gur and Wolf (ICCV 2021, arXiv 2103.15679): the queries' rows of the product of I + A*, less I, where
        A* is the mean over heads of the positive part of A times the gradient, for A, of the heatmap's maximum.
        """
        alone = self._alone(queries)
        maps = []
        for i, keypoint in enumerate(keypoints):
            own = alone[:, [i]]
            maps.append(_products(own, self._weighted(keypoint), own=1.0, others=1.0) - own)
        return self._as_maps(torch.cat(maps, 2))

    def _alone(self, queries: Tensor) -> Tensor:
        """(B, Q, N): 1 at the query, else 0."""
        return F.one_hot(queries.long(), self.grid[0] * self.grid[1]).double()

    def _weighted(self, keypoint: int) -> Iterator[Iterator[tuple[slice, Tensor]]]:
        """A* of each layer in blocks (B, rows, N), from the last layer to the first."""
        with torch.enable_grad(), _Watched():
            x = self._encoded.detach().requires_grad_()
            value = self._head(x)[:, keypoint].flatten(1).amax(1).sum()
        (gradient,) = torch.autograd.grad(value, x)
        for i in reversed(range(self.num_layers)):
            of_mixed, gradient = self._backward(i, gradient)
            yield _weighted_blocks(self.layer(i), of_mixed)

    def _backward(self, i: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, N, D) of layer i's output -> of its attention's output (B, M, N, D / M), and of its input."""
        with torch.enable_grad(), _Watched() as watched:
            x = self._inputs[i].detach().requires_grad_()
            y = self._encoder_layers[i](x, self._positions(i))
        of_mixed, of_input = torch.autograd.grad(y, [watched.mixed[0], x], gradient)
        return of_mixed, of_input


def _weighted_blocks(layer: Projections, gradient: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The heads' mean of the positive part of A times its gradient g v^T, where g is the gradient of A v."""
    for rows, block in layer.blocks():
        yield rows, (block * (gradient[:, :, rows] @ layer.v.mT)).relu().mean(1)


def _at(x: Tensor, queries: Tensor) -> Tensor:
    """Take tokens (B, Q) out of (B, M, N, C): (B, M, Q, C)."""
    batch, heads, _, width = x.shape
    return x.gather(2, queries[:, None, :, None].expand(batch, heads, -1, width))


def _products(start: Tensor, matrices: Iterable[Iterable[tuple[slice, Tensor]]], own: float, others: float) -> Tensor:
    """Rows `start` (B, Q, N) times own * I + others * A of each layer down to the first, from each: (L, B, Q, N).

    `matrices` are the layers' A from the last to the first, in blocks (B, rows, N).
    """
    begun: list[Tensor] = []
    for blocks in matrices:
        row = torch.cat([*begun, start], 1)
        row = own * row + others * sum(row[..., rows] @ block for rows, block in blocks)
        begun = list(row.split(start.shape[1], 1))
    return torch.stack(begun[::-1])
