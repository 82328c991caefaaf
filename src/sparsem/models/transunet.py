"""TransUNet, R50-ViT-B/16 (Chen et al. 2021): a residual network, a transformer, a U-Net decoder.

The transformer relates the features that the residual network extracts. Input (B, in, H, W), H and
W multiples of 16; output logits (B, out, H, W). One input channel is repeated to three. Position
embeddings are trained for tiles of one size, and interpolated for others. The transformer's blocks
are timm's.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

STAGES = (3, 4, 9)  # bottlenecks of each stage of the residual network
GROUPS = 32  # groups of group normalization
BLOCKS = 12  # blocks of the transformer
HEAD = 64  # channels of an attention head
DROPOUT = 0.1
PATCH = 16  # edge of the patch that a token stands for, px


class StandardizedConvolution(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and variance 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, inputs, H, W)."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        filters = (self.weight - mean) / (variance + 1e-5).sqrt()
        return conv2d(x, filters, None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """Three standardized convolutions, to which a shortcut is added.

    (B, inputs, H, W) -> (B, 4 inner, H / stride, W / stride).
    """

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        layers = [
            *_normed_convolution(inputs, inner, 1, 1),
            nn.ReLU(),
            *_normed_convolution(inner, inner, 3, stride),
            nn.ReLU(),
            *_normed_convolution(inner, outputs, 1, 1),
        ]
        self.residual = nn.Sequential(*layers)
        shortcut = (
            StandardizedConvolution(inputs, outputs, 1, stride),
            nn.GroupNorm(outputs, outputs),
        )
        keeps_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if keeps_shape else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block for (B, inputs, H, W)."""
        out: Tensor = (self.residual(x) + self.shortcut(x)).relu()
        return out


def _normed_convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    """Return a standardized convolution and a group normalization."""
    convolution = StandardizedConvolution(inputs, outputs, kernel, stride)
    return [convolution, nn.GroupNorm(GROUPS, outputs, eps=1e-6)]


def conv3x3_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias, a batch normalization and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TransUNet(nn.Module):
    """TransUNet: 105,911,825 parameters at width 64, one input channel, one output, tiles of 512.

    Args:
        width: channels of the first convolution, a multiple of 32; the transformer has 12 times
            as many.
        inputs: channels of the image, 1 or 3.
        outputs: number of structures; one logit each.
        tile: edge of the tiles to train on, px.
    """

    tile_multiple = PATCH
    default_width = 64
    width_multiple = 32
    default_learning_rate = 2e-3

    def __init__(
        self, width: int = default_width, inputs: int = 1, outputs: int = 1, tile: int = 512
    ) -> None:
        super().__init__()
        self.repeats = 3 if inputs == 1 else 1
        self.root = nn.Sequential(
            StandardizedConvolution(inputs * self.repeats, width, 7, 2),
            nn.GroupNorm(GROUPS, width, eps=1e-6),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(3, 2)
        stages, channels = _residual_stages(width)
        self.stages = nn.ModuleList(stages)
        maps = 12 * width
        self.embed = nn.Conv2d(channels, maps, 1)
        self.positions = nn.Parameter(torch.zeros(1, maps, tile // PATCH, tile // PATCH))
        self.drop = nn.Dropout(DROPOUT)
        self.blocks = _transformer(maps)
        self.entrance = conv3x3_norm_relu(maps, 8 * width)
        self.steps = nn.ModuleList(_decoder_steps(width))
        self.head = nn.Conv2d(width // 4, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        height, width = x.shape[2:]
        maps = self.root(x.repeat(1, self.repeats, 1, 1))
        skips = [maps]
        maps = self.pool(maps)
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number < len(self.stages) - 1:
                size = (height >> (number + 2), width >> (number + 2))
                skips.append(_pad_to(maps, size))
        maps = self.embed(_pad_to(maps, (height // PATCH, width // PATCH)))
        positions: Tensor = self.positions
        if positions.shape[2:] != maps.shape[2:]:
            positions = interpolate(positions, maps.shape[2:], mode="bilinear")
        tokens = self.blocks(self.drop(maps + positions).flatten(2).transpose(1, 2))  # (B, N, C)
        maps = self.entrance(tokens.transpose(1, 2).unflatten(2, maps.shape[2:]))
        for step in self.steps:
            maps = interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)
            maps = step(torch.cat([maps, skips.pop()], 1) if skips else maps)
        logits: Tensor = self.head(maps)
        return logits


def _residual_stages(width: int) -> tuple[list[nn.Sequential], int]:
    """Return the stages of the residual network, and the channels of the last one."""
    stages = []
    channels = width
    for number, n_blocks in enumerate(STAGES):
        inner = width * 2**number
        first = Bottleneck(channels, inner, 2 if number else 1)
        following = [Bottleneck(4 * inner, inner, 1) for _ in range(n_blocks - 1)]
        stages.append(nn.Sequential(first, *following))
        channels = 4 * inner
    return stages, channels


def _transformer(channels: int) -> nn.Sequential:
    """Return the blocks of the transformer and a layer normalization."""
    layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)
    blocks = (
        Block(channels, channels // HEAD, qkv_bias=True, norm_layer=layer_norm, proj_drop=DROPOUT)
        for _ in range(BLOCKS)
    )
    return nn.Sequential(*blocks, layer_norm(channels))


def _decoder_steps(width: int) -> list[nn.Sequential]:
    """Return the convolutions after each of the four enlargements of the decoder."""
    widths = [8 * width, 4 * width, 2 * width, width, width // 4]
    skip_widths = [8 * width, 4 * width, width, 0]  # of the joined maps of the residual network
    steps = []
    for inputs, outputs, skip in zip(widths, widths[1:], skip_widths, strict=False):
        first = conv3x3_norm_relu(inputs + skip, outputs)
        steps.append(nn.Sequential(first, conv3x3_norm_relu(outputs, outputs)))
    return steps


def _pad_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad maps with zeros at the lower and right edge to a size.

    Pooling without padding leaves them a row or a column too small.
    """
    return pad(maps, (0, size[1] - maps.shape[3], 0, size[0] - maps.shape[2]))
