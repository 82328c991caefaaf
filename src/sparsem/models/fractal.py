"""Fractal Tanimoto attention, and the frame that FracTALResNet and CEECNet share (Diakogiannis et al. 2020, arXiv 2009.02062).

The frame is a U-Net of one unit a level with a pyramid of pooled windows at the bottom, and a head that finds how deep inside a structure a
pixel lies, from that its boundary, and from both the structure. Input (B, in, H, W), output logits (B, out, H, W).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

SMOOTH = 1e-5  # added above and below in a similarity
ATTENTION_DEPTH = 5  # of the similarity that attention uses
LEVELS = 6  # of the frame
WINDOWS = 4  # levels of pooled windows: the whole map, halves, quarters, eighths

Unit = Callable[[int, int], nn.Module]  # (channels, groups) -> a module that keeps the shape


def fractal_tanimoto(first: Tensor, second: Tensor, over: tuple[int, ...], depth: int) -> Tensor:
    """Fractal Tanimoto similarity with its dual, 0..1: of values 0..1, summed over some axes, which stay with length 1.

    The mean over j < ``depth`` of  x / (2^j y - (2^(j+1) - 1) x)  with x = sum(a b), y = sum(a^2) + sum(b^2), of the values and of one
    less the values (section 2 of the paper). In float32: the sums are large.
    """
    first, second = first.float(), second.float()
    both = [_one_way(a, b, over, depth) for a, b in ((first, second), (1 - first, 1 - second))]
    return 0.5 * (both[0] + both[1])


def _one_way(first: Tensor, second: Tensor, over: tuple[int, ...], depth: int) -> Tensor:
    product = (first * second).sum(over, keepdim=True)
    squares = (first * first).sum(over, keepdim=True) + (second * second).sum(over, keepdim=True)
    parts = [1 / (2**j * squares - (2 ** (j + 1) - 1) * product + SMOOTH) for j in range(depth)]
    return (product + SMOOTH) * torch.stack(parts).mean(0)


class NormedConvolution(nn.Sequential):
    """A convolution and a batch normalization, without an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, groups: int = 1, stride: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups),
            nn.BatchNorm2d(outputs),
        )


class Attention(nn.Module):
    """Where and in which channels ``b`` holds what ``a`` asks for: (B, channels, H, W), to be added to 1 and multiplied with.

    Similarity of query and key stands in for the product and the softmax of other attentions; heads are groups of convolutions.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            NormedConvolution(channels, channels, 3, groups) for _ in range(3)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, channels, H, W) twice."""
        query, key, value = self.query(a).sigmoid(), self.key(b).sigmoid(), self.value(b).sigmoid()
        where = fractal_tanimoto(query, key, (1,), ATTENTION_DEPTH).to(value.dtype)  # (B, 1, H, W)
        which = fractal_tanimoto(query, key, (2, 3), ATTENTION_DEPTH).to(
            value.dtype
        )  # (B, channels, 1, 1)
        attended: Tensor = self.norm(0.5 * (where + which) * value)
        return attended


class Emphasis(nn.Module):
    """x (1 + gamma m) for an attention map m; it begins without any."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Both (B, channels, H, W)."""
        return x * (1 + self.gamma * attention)


class Pyramid(nn.Module):
    """Maxima of ever smaller windows beside the map itself: (B, inputs, H, W) -> (B, outputs, H, W); of few pixels, fewer windows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(NormedConvolution(inputs, outputs, 1) for _ in range(WINDOWS))
        self.together = NormedConvolution(inputs + WINDOWS * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W)."""
        size = (x.shape[2], x.shape[3])
        parts = [x]
        for level, convolution in enumerate(self.pooled):
            windows = (min(2**level, size[0]), min(2**level, size[1]))
            parts.append(convolution(interpolate(adaptive_max_pool2d(x, windows), size)))
        joined: Tensor = self.together(torch.cat(parts, 1))
        return joined


class SkipFusion(nn.Module):
    """A deep map of 2 c channels and half the size, and what was there on the way down, (B, c, H, W) -> (B, c, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up, self.together = (
            NormedConvolution(2 * channels, channels, 1),
            NormedConvolution(2 * channels, channels, 1),
        )

    def forward(self, deep: Tensor, across: Tensor) -> Tensor:
        """Deep (B, 2 c, H/2, W/2), across (B, c, H, W)."""
        enlarged = self.up(interpolate(deep, scale_factor=2.0)).relu()
        joined: Tensor = self.together(torch.cat([enlarged, across], 1))
        return joined


class Head(nn.Module):
    """Distance, then boundary, then the structure: logits (B, 3 out, H, W), the structures first, boundaries, distances."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(2 * width, width)
        self.distance, self.boundary, self.structure = (
            self._task(width, outputs) for _ in range(3)
        )
        self.of_distance, self.of_boundary = (
            NormedConvolution(outputs, width, 1) for _ in range(2)
        )
        self.of_both = NormedConvolution(2 * width, width, 1)
        self.crispness = nn.Parameter(torch.ones(1))

    @staticmethod
    def _task(width: int, outputs: int) -> nn.Sequential:
        first, second = NormedConvolution(2 * width, width, 3), NormedConvolution(width, width, 3)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 width, H, W)."""
        pooled = self.pyramid(x).relu()
        distance = self.distance(x)
        inside = self.of_distance(distance.sigmoid()).relu()
        boundary = self.boundary(torch.cat([pooled, inside], 1)) / (0.01 + self.crispness.sigmoid())
        edge = self.of_boundary(boundary.sigmoid()).relu()
        both = self.of_both(torch.cat([edge, inside], 1)).relu()
        return torch.cat([self.structure(torch.cat([both, pooled], 1)), boundary, distance], 1)


class FractalBackbone(nn.Module):
    """The U-Net around units: one on each of six levels down and on five up.

    Args:
        unit: makes a unit of so many channels and groups.
        width: channels of the first level, a multiple of 8; doubled on every level below it.
        inputs: channels of the image.
        outputs: structures.
    """

    tile_multiple = 2 ** (LEVELS - 1)
    heads = 3  # structures, boundaries, distances
    default_width, width_multiple = 16, 8
    default_learning_rate = 2e-3

    def __init__(self, unit: Unit, width: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        widths = [width * 2**level for level in range(LEVELS)]
        groups = [width // 8 * 2**level for level in range(LEVELS)]
        self.first = NormedConvolution(inputs, width, 1)
        self.down = nn.ModuleList(unit(*one) for one in zip(widths, groups, strict=True))
        self.shrink = nn.ModuleList(NormedConvolution(c, 2 * c, 3, stride=2) for c in widths[:-1])
        self.pyramid = Pyramid(widths[-1], widths[-1])
        self.join = nn.ModuleList(SkipFusion(c) for c in widths[-2::-1])
        self.up = nn.ModuleList(
            unit(*one) for one in zip(widths[-2::-1], groups[:0:-1], strict=True)
        )
        self.head = Head(width, outputs)

    def all_heads(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, 3 out, H, W): structures, boundaries, distances."""
        x = first = self.first(x)
        across: list[Tensor] = []
        for level, unit in enumerate(self.down):
            x = unit(self.shrink[level - 1](x) if level else x)
            across.append(x)
        x = self.pyramid(across.pop()).relu()
        for join, unit in zip(self.join, self.up, strict=True):
            x = unit(join(x, across.pop()))
        found: Tensor = self.head(torch.cat([first, x], 1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, out, H, W)."""
        return self.all_heads(x)[:, : self.outputs]
