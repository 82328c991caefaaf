"""CEECNet V2: in every unit one branch looks from further away and one from nearer by, and they are fused by attention to each other
(Diakogiannis et al. 2020).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sparsem.models.fractal import Attention, Emphasis, FractalBackbone, NormedConvolution


def upsample(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) -> (B, C, height, width), linear between pixels."""
    return interpolate(x, (height, width), mode="bilinear", align_corners=True)


class Exchange(nn.Module):
    """Each of two maps is emphasised by attention to the other; (B, channels, H, W) stay so."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attend = nn.ModuleList(Attention(channels, groups) for _ in range(2))
        self.emphasise = nn.ModuleList(Emphasis() for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, channels, H, W); attention sees them as they come."""
        return self.emphasise[0](a, self.attend[0](a, b)), self.emphasise[1](
            b, self.attend[1](b, a)
        )


class Fusion(nn.Module):
    """Two maps that attend to each other become one: (B, inputs, H, W) twice -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.exchange, self.together = (
            Exchange(inputs, groups),
            NormedConvolution(2 * inputs, outputs, 3, groups),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Both (B, inputs, H, W)."""
        fused: Tensor = self.together(torch.cat(self.exchange(a, b), 1)).relu()
        return fused


class CEECUnit(nn.Module):
    """Compress and expand, expand and compress, fused; (B, channels, H, W) stays so, and ``groups`` divides a quarter of the channels."""

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
        self.expand_again, self.beside = (
            NormedConvolution(channels, half, 3, groups),
            NormedConvolution(half, half, 3, groups),
        )
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
        self.attention, self.emphasis = Attention(channels, groups), Emphasis()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W)."""
        height, width = x.shape[2:]
        far = deep = self.far(x)
        for convolution in self.compress:
            deep = convolution(deep).relu()
        far = self.far_fusion(
            self.expand_again(upsample(deep, height, width)).relu(), self.beside(far).relu()
        )
        near = self.near(x)
        fine = upsample(near, 2 * height, 2 * width)
        for convolution in self.expand:
            fine = convolution(fine).relu()
        near = self.near_fusion(self.compress_again(fine).relu(), near)
        collected = self.collect(*self.exchange(far, near))
        out: Tensor = self.emphasis(x + collected, self.attention(x, x))
        return out


class CEECNet(FractalBackbone):
    """58,964,079 parameters at width 32 with one channel in and one out."""

    def __init__(
        self, width: int = FractalBackbone.default_width, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(CEECUnit, width, inputs, outputs)
