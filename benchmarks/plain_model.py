"""The network in the plainest way: attention by PyTorch's multi-head module, which returns its maps.

The baseline of the benchmarks of the forward pass and the training step, on the weights of one of `lib`'s models;
`lib` never imports it.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from transpose.models.encoder import EncoderLayer
from transpose.models.transpose import TransPose


class PlainLayer(nn.Module):
    """The encoder's layer on (N, B, D), its N x N attention materialised, softmaxed, and averaged over the heads."""

    def __init__(self, layer: EncoderLayer):
        super().__init__()
        dim, heads, dropout = layer.linear1.in_features, layer.self_attn.heads, layer.dropout.p
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout)
        self.linear1 = nn.Linear(dim, layer.linear1.out_features)
        self.linear2 = nn.Linear(layer.linear1.out_features, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))
        self.activation = layer.activation
        self.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        queries = keys = x + positions
        mixed, _ = self.self_attn(queries, keys, value=x, need_weights=True)
        x = self.norm1(x + self.dropout1(mixed))
        hidden = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return self.norm2(x + self.dropout2(hidden))


class PlainTransPose(nn.Module):
    """A model of `lib` with plain attention; holds a copy of its weights. Positions are needed."""

    def __init__(self, model: TransPose):
        super().__init__()
        self.network = copy.deepcopy(model)
        self.layers = nn.ModuleList(PlainLayer(layer) for layer in model.global_encoder.layers)
        del self.network.global_encoder
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        x = self.network.reduce(self.network.features(images))
        batch, dim, height, width = x.shape
        x = x.flatten(2).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, self.network.pos_embedding)
        return self.network.head(x.permute(1, 2, 0).contiguous().view(batch, dim, height, width))


def plain_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean squared error, joint after joint: half of each joint's mean, averaged over the joints."""
    joints = output.shape[1]
    loss = output.new_zeros(())
    for joint in range(joints):
        scale = weight[:, joint, None, None]
        loss = loss + 0.5 * F.mse_loss(output[:, joint] * scale, target[:, joint] * scale)
    return loss / joints
