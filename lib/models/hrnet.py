"""HRNet-S: HRNet (CVPR 2019, arXiv 1902.09212) up to its third stage, kept at its highest resolution.

B batch; branch i has C[i] channels at 1/4, 1/8, 1/16 of the input for i = 0, 1, 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}


@dataclass(frozen=True)
class Stage:
    """A stage of HRNet: how many modules, which block, and per branch the number of blocks and their planes."""

    modules: int
    block: str
    blocks: tuple[int, ...]
    planes: tuple[int, ...]

    @property
    def widths(self) -> list[int]:
        """Output channels of each branch."""
        return [planes * BLOCKS[self.block].expansion for planes in self.planes]


def conv_bn(inputs: int, outputs: int, stride: int, kernel: int = 3) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def conv_bn_relu(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, stride), nn.ReLU(inplace=True))


def make_layer(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, blocks: int, stride: int = 1
) -> nn.Sequential:
    """Residual blocks in a row; the first has a 1x1 projection on its shortcut if the shapes differ."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(blocks - 1)))


def downward_path(inputs: int, outputs: int, steps: int) -> nn.Sequential:
    """`steps` 3x3 stride-2 convolutions; the last changes the width and has no ReLU."""
    path: list[nn.Module] = [conv_bn_relu(inputs, inputs, stride=2) for _ in range(steps - 1)]
    return nn.Sequential(*path, nn.Sequential(*conv_bn(inputs, outputs, stride=2)))


def upward_path(inputs: int, outputs: int, steps: int) -> nn.Sequential:
    upsample = nn.Upsample(scale_factor=2**steps, mode="nearest")
    return nn.Sequential(*conv_bn(inputs, outputs, stride=1, kernel=1), upsample)


class ExchangeModule(nn.Module):
    """Parallel branches; then each output branch is the sum of all branches, resampled to its resolution."""

    def __init__(self, stage: Stage, inputs: Sequence[int], outputs: int):
        super().__init__()
        widths = stage.widths
        self.branches = nn.ModuleList(
            make_layer(BLOCKS[stage.block], *arguments)
            for arguments in zip(inputs, stage.planes, stage.blocks, strict=True)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        make = downward_path if source < target else upward_path
        return make(widths[source], widths[target], abs(source - target))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fused = []
        for paths in cast(list[nn.ModuleList], self.fuse_layers):
            terms = [path(x) for path, x in zip(paths, features, strict=True)]
            fused.append(self.relu(sum(terms[1:], start=terms[0])))
        return fused


def make_transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Change the branches' widths; the last entry adds a branch of half the lowest resolution."""
    same: list[nn.Module] = [
        nn.Identity() if old == new else conv_bn_relu(old, new, stride=1)
        for old, new in zip(before, after, strict=False)
    ]
    return nn.ModuleList([*same, nn.Sequential(conv_bn_relu(before[-1], after[-1], stride=2))])


def make_stage(stage: Stage, only_highest_resolution: bool = False) -> nn.Sequential:
    """The stage's modules; with `only_highest_resolution` the last gives only branch 0."""
    widths = stage.widths
    return nn.Sequential(
        *(
            ExchangeModule(stage, widths, 1 if only_highest_resolution and i == stage.modules - 1 else len(widths))
            for i in range(stage.modules)
        )
    )
