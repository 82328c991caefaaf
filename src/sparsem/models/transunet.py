"""TransUNet, R50-ViT-B/16 (Chen et al. 2021): a residual network looks, a transformer relates what it saw, and a U-Net's way leads up.

Input (B, in, H, W), H and W multiples of 16; output logits (B, out, H, W). One channel is shown as three. Positions are learnt for tiles of
one size, and interpolated for others. The blocks of the transformer are timm's.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

STAGES = (3, 4, 9)  # bottlenecks
GROUPS = 32  # of group normalization
BLOCKS, HEAD = 12, 64  # of the transformer; channels of a head of attention
DROPOUT = 0.1


class StandardizedConvolution(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and variance 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W)."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        return conv2d(
            x, (self.weight - mean) / (variance + 1e-5).sqrt(), None, self.stride, self.padding
        )


class Bottleneck(nn.Module):
    """Three standardized convolutions beside a shortcut: (B, inputs, H, W) -> (B, 4 inner, H / stride, W / stride)."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        parts: list[nn.Module] = []
        for a, b, kernel, step in (
            (inputs, inner, 1, 1),
            (inner, inner, 3, stride),
            (inner, outputs, 1, 1),
        ):
            parts += [
                StandardizedConvolution(a, b, kernel, step),
                nn.GroupNorm(GROUPS, b, eps=1e-6),
                nn.ReLU(),
            ]
        self.residual = nn.Sequential(*parts[:-1])
        plain = inputs == outputs and stride == 1
        shortcut = (
            StandardizedConvolution(inputs, outputs, 1, stride),
            nn.GroupNorm(outputs, outputs),
        )
        self.shortcut = nn.Identity() if plain else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W)."""
        out: Tensor = (self.residual(x) + self.shortcut(x)).relu()
        return out


def conv3x3_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution without bias, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TransUNet(nn.Module):
    """105,911,825 parameters at width 64 with one channel in, one out, and tiles of 512.

    Args:
        width: channels of the first convolution, a multiple of 32; the transformer has 12 times as many.
        inputs: channels of the image, 1 or 3.
        outputs: structures; one logit each.
        tile: edge of the tiles that it learns from, px.
    """

    tile_multiple = 16
    default_width, width_multiple = 64, 32
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
        stages, before = [], width
        for number, count in enumerate(STAGES):
            inner = width * 2**number
            first = Bottleneck(before, inner, 2 if number else 1)
            stages.append(
                nn.Sequential(first, *(Bottleneck(4 * inner, inner, 1) for _ in range(count - 1)))
            )
            before = 4 * inner
        self.stages = nn.ModuleList(stages)
        maps = 12 * width
        self.embed = nn.Conv2d(before, maps, 1)
        self.positions = nn.Parameter(torch.zeros(1, maps, tile // 16, tile // 16))
        self.drop = nn.Dropout(DROPOUT)
        normed: Any = partial(nn.LayerNorm, eps=1e-6)
        blocks = (
            Block(maps, maps // HEAD, qkv_bias=True, norm_layer=normed, proj_drop=DROPOUT)
            for _ in range(BLOCKS)
        )
        self.blocks = nn.Sequential(*blocks, normed(maps))
        self.entrance = conv3x3_norm_relu(maps, 8 * width)
        widths = [8 * width, 4 * width, 2 * width, width, width // 4]
        across = [8 * width, 4 * width, width, 0]
        steps = zip(widths, widths[1:], across, strict=False)
        self.steps = nn.ModuleList(
            nn.Sequential(conv3x3_norm_relu(a + skip, b), conv3x3_norm_relu(b, b))
            for a, b, skip in steps
        )
        self.head = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        height, width = x.shape[2:]
        maps = self.root(x.repeat(1, self.repeats, 1, 1))
        skips = [maps]
        maps = self.pool(maps)
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number < len(self.stages) - 1:
                skips.append(_at(maps, (height >> (number + 2), width >> (number + 2))))
        maps = self.embed(_at(maps, (height // 16, width // 16)))
        positions: Tensor = self.positions
        if positions.shape[2:] != maps.shape[2:]:
            positions = interpolate(positions, maps.shape[2:], mode="bilinear")
        tokens = self.blocks(self.drop(maps + positions).flatten(2).transpose(1, 2))
        maps = self.entrance(tokens.transpose(1, 2).unflatten(2, maps.shape[2:]))
        for step in self.steps:
            maps = interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)
            maps = step(torch.cat([maps, skips.pop()], 1) if skips else maps)
        logits: Tensor = self.head(maps)
        return logits


def _at(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros below and to the right, where pooling without padding left a row or a column short."""
    return pad(maps, (0, size[1] - maps.shape[3], 0, size[0] - maps.shape[2]))
