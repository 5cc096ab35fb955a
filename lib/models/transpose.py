"""TransPose (ICCV 2021, arXiv 2012.14214): a CNN, a Transformer encoder over its feature map, a heatmap head.

B batch, K keypoints, N tokens, D model width, H x W the heatmap (a quarter of the input).
The state dict is a file format: keys, shapes and dtypes are those of the released checkpoints.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .encoder import POSITIONS, Encoder, EncoderConfig, sine_positions
from .hrnet import Stage, conv_bn, make_layer, make_stage, make_transition

# ResNet depth -> block, and the number of blocks in the two stages that ResNet-S keeps.
RESNETS: dict[int, tuple[type[BasicBlock | Bottleneck], int, int]] = {
    18: (BasicBlock, 2, 2),
    34: (BasicBlock, 3, 4),
    50: (Bottleneck, 3, 4),
    101: (Bottleneck, 3, 4),
    152: (Bottleneck, 3, 8),
}
DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}  # kernel -> padding and output padding that double the size
# The encoders of the published models A4.
R_A4 = EncoderConfig(dim=256, heads=8, layers=4, feedforward=1024)
H_A4 = EncoderConfig(dim=96, heads=1, layers=4, feedforward=192)


class TransPose(nn.Module, ABC):
    """The base class of both variants: features -> reduce -> encoder -> head, and the positions.

    A variant sets `stride` (input pixels per token), builds its backbone between `_add_positions` and `_add_encoder`
    so that parameters are created in the published order, and defines `features` and `head`.
    """

    NOT_BACKBONE: ClassVar = ("pos_embedding", "reduce.", "global_encoder.", "deconv_layers.", "final_layer.")
    stride: int
    pos_embedding: nn.Parameter | None
    reduce: nn.Conv2d
    global_encoder: Encoder
    final_layer: nn.Conv2d

    def _add_positions(self, image_size: tuple[int, int], encoder: EncoderConfig) -> None:
        assert encoder.positions in POSITIONS
        self.grid = image_size[1] // self.stride, image_size[0] // self.stride
        if encoder.positions == "sine":
            self.pos_embedding = nn.Parameter(sine_positions(*self.grid, encoder.dim), requires_grad=False)
        elif encoder.positions == "learnable":
            self.pos_embedding = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], 1, encoder.dim))
        else:
            self.register_parameter("pos_embedding", None)

    def _add_encoder(self, channels: int, encoder: EncoderConfig) -> None:
        self.reduce = nn.Conv2d(channels, encoder.dim, 1, bias=False)
        self.global_encoder = Encoder(encoder)

    def _add_final_layer(self, channels: int, num_joints: int, kernel: int) -> None:
        self.final_layer = nn.Conv2d(channels, num_joints, kernel, padding=kernel // 2)

    def freeze(self, pattern: str) -> list[str]:
        """Stop training the parameters whose names match the shell pattern; returns their names.

        A frozen batch norm also keeps its statistics.
        """
        names = [name for name, _ in self.named_parameters() if fnmatch(name, pattern)]
        for name in names:
            self.get_parameter(name).requires_grad_(False)
        return names

    def train(self, mode: bool = True) -> "TransPose":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, 4H, 4W) -> the backbone's feature map, one cell per token."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Encoded map (B, D, *grid) -> heatmaps (B, K, H, W)."""

    def tokens(self, images: Tensor) -> Tensor:
        """(B, N, D), the reduced feature map read row by row."""
        return self.reduce(self.features(images)).flatten(2).transpose(1, 2)

    def positions(self) -> Tensor | None:
        """(1, N, D), what the encoder adds to queries and keys."""
        return None if self.pos_embedding is None else self.pos_embedding.transpose(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, 4H, 4W) -> heatmaps (B, K, H, W)."""
        x = self.global_encoder(self.tokens(images), self.positions())
        return self.head(x.transpose(1, 2).unflatten(2, self.grid))


class TransPoseR(TransPose):
    """TransPose-R: torchvision's ResNet up to `layer2`, tokens at stride 8, transposed convolutions to stride 4."""

    stride = 8

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (192, 256),
        num_joints: int = 17,
        num_layers: int = 50,
        encoder: EncoderConfig = R_A4,
        deconv_filters: Sequence[int] = (256,),
        deconv_kernels: Sequence[int] = (4,),
        deconv_bias: bool = False,
        final_kernel: int = 1,
    ):
        """
        Args:
            image_size: Width and height of the input in pixels.
            num_joints: K, the number of keypoints.
            num_layers: Depth of the ResNet: 18, 34, 50, 101 or 152.
            encoder: The encoder's sizes.
            deconv_filters: Channels after each transposed convolution.
            deconv_kernels: Their kernels: 2, 3 or 4.
            deconv_bias: Whether they have a bias.
            final_kernel: Kernel of the last convolution: 1 or 3.
        """
        super().__init__()
        block, blocks1, blocks2 = RESNETS[num_layers]
        self._add_positions(image_size, encoder)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = make_layer(block, 64, 64, blocks1)
        self.layer2 = make_layer(block, 64 * block.expansion, 128, blocks2, stride=2)
        self._add_encoder(128 * block.expansion, encoder)
        deconvs: list[nn.Module] = []
        channels = encoder.dim
        for filters, kernel in zip(deconv_filters, deconv_kernels, strict=True):
            padding, output_padding = DECONV_PADDING[kernel]
            deconvs += [
                nn.ConvTranspose2d(channels, filters, kernel, 2, padding, output_padding, bias=deconv_bias),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
            channels = filters
        self.deconv_layers = nn.Sequential(*deconvs)
        self._add_final_layer(channels, num_joints, final_kernel)

    def features(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer2(self.layer1(x))

    def head(self, x: Tensor) -> Tensor:
        return self.final_layer(self.deconv_layers(x))


class TransPoseH(TransPose):
    """TransPose-H: HRNet up to stage 3 at its highest resolution, tokens at stride 4, a 1x1 convolution as head."""

    stride = 4

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (192, 256),
        num_joints: int = 17,
        stage2: Stage = Stage(1, "BASIC", (4, 4), (48, 96)),
        stage3: Stage = Stage(4, "BASIC", (4, 4, 4), (48, 96, 192)),
        encoder: EncoderConfig = H_A4,
        final_kernel: int = 1,
    ):
        """
        Args:
            image_size: Width and height of the input in pixels.
            num_joints: K, the number of keypoints.
            stage2: HRNet's second stage.
            stage3: HRNet's third stage.
            encoder: The encoder's sizes.
            final_kernel: Kernel of the last convolution: 1 or 3.
        """
        super().__init__()
        self._add_positions(image_size, encoder)
        self.conv1, self.bn1 = conv_bn(3, 64, stride=2)
        self.conv2, self.bn2 = conv_bn(64, 64, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_layer(Bottleneck, 64, 64, blocks=4)
        self.transition1 = make_transition([64 * Bottleneck.expansion], stage2.widths)
        self.stage2 = make_stage(stage2)
        self.transition2 = make_transition(stage2.widths, stage3.widths)
        self.stage3 = make_stage(stage3, only_highest_resolution=True)
        self._add_encoder(stage3.widths[0], encoder)
        self._add_final_layer(encoder.dim, num_joints, final_kernel)

    def features(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        branches = self.stage2([transition(x) for transition in self.transition1])
        # A new branch opens from the lowest resolution that exists.
        sources = [*branches, branches[-1]]
        return self.stage3([transition(s) for transition, s in zip(self.transition2, sources, strict=True)])[0]

    def head(self, x: Tensor) -> Tensor:
        return self.final_layer(x)


VARIANTS: dict[str, type[TransPoseR | TransPoseH]] = {"transpose_r": TransPoseR, "transpose_h": TransPoseH}
