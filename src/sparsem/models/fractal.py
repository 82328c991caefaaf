"""Fractal Tanimoto attention, and the backbone that FracTALResNet and CEECNet share.

Diakogiannis et al. 2020, arXiv 2009.02062. The backbone is a U-Net of one unit a level with a
pyramid of pooled windows at the bottom. Its head predicts how deep inside a structure a pixel lies,
from that the boundary of the structure, and from both the structure. Input (B, in, H, W), output
logits (B, out, H, W).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

SMOOTH = 1e-5  # added above and below in a similarity
ATTENTION_DEPTH = 5  # depth of the similarity that attention uses
LEVELS = 6  # levels of the backbone
WINDOWS = 4  # levels of pooled windows: the whole map, halves, quarters, eighths

Unit = Callable[[int, int], nn.Module]  # (channels, groups) -> a module that keeps the shape


def fractal_tanimoto(first: Tensor, second: Tensor, axes: tuple[int, ...], depth: int) -> Tensor:
    """Return the fractal Tanimoto similarity with its dual, 0..1, of values in 0..1.

    It is the mean over j < ``depth`` of  x / (2^j y - (2^(j+1) - 1) x)  with x = sum(a b) and
    y = sum(a^2) + sum(b^2), once of the values and once of 1 minus the values (section 2 of the
    paper). It is computed in float32, since the sums are large.

    Args:
        first: values a.
        second: values b, of the same shape.
        axes: axes over which to sum; they are kept with length 1.
        depth: number of terms.
    """
    first = first.float()
    second = second.float()
    # The order of operations decides the last bits of gradients: complements come first.
    first_complement = 1 - first
    second_complement = 1 - second
    similarity = _one_sided_similarity(first, second, axes, depth)
    dual = _one_sided_similarity(first_complement, second_complement, axes, depth)
    return 0.5 * (similarity + dual)


def _one_sided_similarity(
    first: Tensor, second: Tensor, axes: tuple[int, ...], depth: int
) -> Tensor:
    """Return the fractal Tanimoto similarity without its dual."""
    product = (first * second).sum(axes, keepdim=True)
    squares = (first * first).sum(axes, keepdim=True) + (second * second).sum(axes, keepdim=True)
    terms = [1 / (2**j * squares - (2 ** (j + 1) - 1) * product + SMOOTH) for j in range(depth)]
    return (product + SMOOTH) * torch.stack(terms).mean(0)


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
    """Attention of a map ``a`` to a map ``b``, in space and over channels: (B, channels, H, W).

    The result is added to 1 and multiplied with a map (see ``Emphasis``). The similarity of query
    and key replaces the product and softmax of other attentions; heads are groups of convolutions.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            NormedConvolution(channels, channels, 3, groups) for _ in range(3)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the attention map of two maps (B, channels, H, W)."""
        query = self.query(a).sigmoid()
        key = self.key(b).sigmoid()
        value = self.value(b).sigmoid()
        in_space = fractal_tanimoto(query, key, (1,), ATTENTION_DEPTH)
        in_space = in_space.to(value.dtype)  # (B, 1, H, W)
        over_channels = fractal_tanimoto(query, key, (2, 3), ATTENTION_DEPTH)
        over_channels = over_channels.to(value.dtype)  # (B, channels, 1, 1)
        attended: Tensor = self.norm(0.5 * (in_space + over_channels) * value)
        return attended


class Emphasis(nn.Module):
    """Emphasis x (1 + gamma m) by an attention map m; gamma is 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Emphasize a map (B, channels, H, W) by an attention map of the same shape."""
        return x * (1 + self.gamma * attention)


class Pyramid(nn.Module):
    """The map itself joined with maxima of smaller and smaller windows.

    (B, inputs, H, W) -> (B, outputs, H, W). A map with few pixels has fewer windows.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(NormedConvolution(inputs, outputs, 1) for _ in range(WINDOWS))
        self.together = NormedConvolution(inputs + WINDOWS * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the pyramid of a map (B, inputs, H, W)."""
        size = (x.shape[2], x.shape[3])
        parts = [x]
        for level, convolution in enumerate(self.pooled):
            n_windows = (min(2**level, size[0]), min(2**level, size[1]))
            # Without a name for the enlarged maxima, which would keep their memory.
            parts.append(convolution(interpolate(adaptive_max_pool2d(x, n_windows), size)))
        joined: Tensor = self.together(torch.cat(parts, 1))
        return joined


class SkipFusion(nn.Module):
    """Fusion of a deep map with the map of the same level of the encoder.

    Deep (B, 2 c, H/2, W/2) and skip (B, c, H, W) -> (B, c, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up, self.together = (
            NormedConvolution(2 * channels, channels, 1),
            NormedConvolution(2 * channels, channels, 1),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Fuse deep (B, 2 c, H/2, W/2) and skip (B, c, H, W)."""
        enlarged = self.up(interpolate(deep, scale_factor=2.0)).relu()
        joined: Tensor = self.together(torch.cat([enlarged, skip], 1))
        return joined


class Head(nn.Module):
    """Head for distances, then boundaries, then structures: logits (B, 3 out, H, W).

    In the output the structures come first, then boundaries, then distances.
    """

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
        """Return the layers of one of the three outputs."""
        first = NormedConvolution(2 * width, width, 3)
        second = NormedConvolution(width, width, 3)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of a map (B, 2 width, H, W)."""
        pooled = self.pyramid(x).relu()
        distance = self.distance(x)
        inside = self.of_distance(distance.sigmoid()).relu()
        boundary = self.boundary(torch.cat([pooled, inside], 1))
        boundary = boundary / (0.01 + self.crispness.sigmoid())
        edge = self.of_boundary(boundary.sigmoid()).relu()
        edge_and_inside = self.of_both(torch.cat([edge, inside], 1)).relu()
        structure = self.structure(torch.cat([edge_and_inside, pooled], 1))
        return torch.cat([structure, boundary, distance], 1)


class FractalBackbone(nn.Module):
    """U-Net of units: one on each of six levels of the encoder and five of the decoder.

    Args:
        unit: makes a unit of the given channels and groups.
        width: channels of the first level, a multiple of 8; doubled on every level below it.
        inputs: channels of the image.
        outputs: number of structures.
    """

    tile_multiple = 2 ** (LEVELS - 1)
    heads = 3  # structures, boundaries, distances
    default_width = 16
    width_multiple = 8
    default_learning_rate = 2e-3

    def __init__(self, unit: Unit, width: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        widths = [width * 2**level for level in range(LEVELS)]
        groups = [width // 8 * 2**level for level in range(LEVELS)]
        decoder_widths = widths[-2::-1]
        decoder_groups = groups[:0:-1]  # those of the level below
        self.first = NormedConvolution(inputs, width, 1)
        self.down = nn.ModuleList(unit(c, g) for c, g in zip(widths, groups, strict=True))
        self.shrink = nn.ModuleList(NormedConvolution(c, 2 * c, 3, stride=2) for c in widths[:-1])
        self.pyramid = Pyramid(widths[-1], widths[-1])
        self.join = nn.ModuleList(SkipFusion(c) for c in decoder_widths)
        self.up = nn.ModuleList(
            unit(c, g) for c, g in zip(decoder_widths, decoder_groups, strict=True)
        )
        self.head = Head(width, outputs)

    def all_heads(self, x: Tensor) -> Tensor:
        """Compute the logits (B, 3 out, H, W) of images (B, inputs, H, W).

        These are structures, boundaries and distances.
        """
        first = self.first(x)
        x = first
        skips: list[Tensor] = []
        for level, unit in enumerate(self.down):
            x = unit(self.shrink[level - 1](x) if level else x)
            skips.append(x)
        x = self.pyramid(skips.pop()).relu()
        for join, unit in zip(self.join, self.up, strict=True):
            x = unit(join(x, skips.pop()))
        logits: Tensor = self.head(torch.cat([first, x], 1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, out, H, W) of images (B, inputs, H, W)."""
        return self.all_heads(x)[:, : self.outputs]
