"""CEECNet V2 (Diakogiannis et al. 2020).

In every unit one branch compresses and expands, and the other one expands and compresses. The two
are fused by attention to each other.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sparsem.models.fractal import Attention, Emphasis, FractalBackbone, NormedConvolution


def upsample(x: Tensor, height: int, width: int) -> Tensor:
    """Resize (B, C, h, w) to (B, C, height, width), bilinearly."""
    return interpolate(x, (height, width), mode="bilinear", align_corners=True)


class Exchange(nn.Module):
    """Emphasis of each of two maps by attention to the other; (B, channels, H, W) is kept."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attend = nn.ModuleList(Attention(channels, groups) for _ in range(2))
        self.emphasise = nn.ModuleList(Emphasis() for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Emphasize two maps (B, channels, H, W); the attention sees both before that."""
        emphasized_a = self.emphasise[0](a, self.attend[0](a, b))
        emphasized_b = self.emphasise[1](b, self.attend[1](b, a))
        return emphasized_a, emphasized_b


class Fusion(nn.Module):
    """Fusion of two maps (B, inputs, H, W) that attend to each other to (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.exchange = Exchange(inputs, groups)
        self.together = NormedConvolution(2 * inputs, outputs, 3, groups)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse two maps (B, inputs, H, W)."""
        fused: Tensor = self.together(torch.cat(self.exchange(a, b), 1)).relu()
        return fused


class CEECUnit(nn.Module):
    """Compress and expand, expand and compress, fused; (B, channels, H, W) is kept.

    ``groups`` divides a quarter of the channels.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        half = channels // 2
        self.far, self.near = (NormedConvolution(channels, half, 3, groups) for _ in range(2))
        self.compress = nn.ModuleList(
            [
                NormedConvolution(half, channels, 3, groups, stride=2),
                NormedConvolution(channels, channels, 3, groups),
            ]
        )
        self.expand_again = NormedConvolution(channels, half, 3, groups)
        self.far_convolution = NormedConvolution(half, half, 3, groups)
        self.far_fusion = Fusion(half, half, groups)
        self.expand = nn.ModuleList(
            [
                NormedConvolution(half, half // 2, 3, groups),
                NormedConvolution(half // 2, half // 2, 3, groups),
            ]
        )
        self.compress_again = NormedConvolution(half // 2, half, 3, groups, stride=2)
        self.near_fusion = Fusion(half, half, groups)
        self.exchange = Exchange(half, groups)
        self.collect = Fusion(half, channels, 1)
        self.attention = Attention(channels, groups)
        self.emphasis = Emphasis()

    def forward(self, x: Tensor) -> Tensor:
        """Compute a map (B, channels, H, W) of the same shape."""
        height, width = x.shape[2:]
        far = self.far(x)
        coarse = far
        for convolution in self.compress:
            coarse = convolution(coarse).relu()
        expanded = self.expand_again(upsample(coarse, height, width)).relu()
        far = self.far_fusion(expanded, self.far_convolution(far).relu())
        near = self.near(x)
        fine = upsample(near, 2 * height, 2 * width)
        for convolution in self.expand:
            fine = convolution(fine).relu()
        near = self.near_fusion(self.compress_again(fine).relu(), near)
        collected = self.collect(*self.exchange(far, near))
        out: Tensor = self.emphasis(x + collected, self.attention(x, x))
        return out


class CEECNet(FractalBackbone):
    """CEECNet: 58,964,079 parameters at width 32 with one input channel and one output."""

    def __init__(
        self, width: int = FractalBackbone.default_width, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(CEECUnit, width, inputs, outputs)
