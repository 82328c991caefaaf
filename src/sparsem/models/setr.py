"""SETR (Zheng et al. 2021): a vision transformer over patches of 16 px, and one of three ways up from there. The transformer is timm's.

Input (B, in, H, W), H and W multiples of 16; output logits (B, out, H, W). Positions are learnt for tiles of one size, and interpolated for
others.
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sparsem.errors import SettingsError

PATCH = 16
HEAD = 64  # channels of a head of attention
MAPS = 256  # of the way up
PRETRAINED = {768: "vit_base_patch16_384", 1024: "vit_large_patch16_384"}  # of timm, by width
DEEP, SHALLOW = (
    (1024, 24),
    (0, 12),
)  # from such a width on, so many blocks: that of ViT-L, and that of ViT-B


def conv_norm_relu(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Setr(nn.Module):
    """What the three have in common.

    Args:
        width: channels of a token, a multiple of 64: 1024 is ViT-L, 768 is ViT-B.
        inputs: channels of the image.
        outputs: structures; one logit each.
        tile: edge of the tiles that it learns from, px.
    """

    tile_multiple = PATCH
    default_width, width_multiple = 768, HEAD
    default_learning_rate = 2e-4

    def __init__(
        self, width: int = default_width, inputs: int = 1, outputs: int = 1, tile: int = 512
    ) -> None:
        super().__init__()
        self.maps, self.blocks = width, DEEP[1] if width >= DEEP[0] else SHALLOW[1]
        self.seen: dict[str, Any] = {"img_size": tile, "in_chans": inputs}
        self.transformer = timm.models.VisionTransformer(
            **self.seen,
            patch_size=PATCH,
            num_classes=0,
            global_pool="",
            embed_dim=self.maps,
            depth=self.blocks,
            num_heads=width // HEAD,
            final_norm=False,
            dynamic_img_size=True,
        )
        self.build_up(outputs)

    def build_up(self, outputs: int) -> None:
        """Make the layers of the way up."""
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Let the transformer begin with what it learnt on ImageNet.

        Raises:
            SettingsError: weights are offered for other widths only.
        """
        if self.maps not in PRETRAINED:
            raise SettingsError(
                f"Pretrained weights of SETR are of width {' or '.join(map(str, PRETRAINED))}; got {self.maps}."
            )
        learnt = timm.create_model(
            PRETRAINED[self.maps], pretrained=True, num_classes=0, **self.seen
        ).state_dict()
        self.transformer.load_state_dict(
            {name: learnt[name] for name in self.transformer.state_dict()}
        )

    def looked(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C, H / 16, W / 16) after a quarter, a half, three quarters and all of the blocks."""
        every = self.blocks // 4
        after = [every - 1, 2 * every - 1, 3 * every - 1, 4 * every - 1]
        found: Any = self.transformer.forward_intermediates(
            x, indices=after, norm=False, intermediates_only=True
        )
        return list(found)


class NormedMap(nn.Module):
    """Layer normalization over the channels of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        normed: Tensor = self.norm(x.movedim(1, 3)).movedim(3, 1)
        return normed


class SetrNaive(Setr):
    """Straight up: 304,412,673 parameters at width 1024, 86,632,193 at 768, with three channels in, one out, and tiles of 512."""

    def build_up(self, outputs: int) -> None:
        """Two convolutions of single pixels."""
        self.up = nn.Sequential(
            NormedMap(self.maps),
            conv_norm_relu(self.maps, MAPS, 1, bias=True),
            nn.Conv2d(MAPS, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        return interpolate(self.up(self.looked(x)[-1]), x.shape[2:], mode="bilinear")


class SetrPup(Setr):
    """Up in four steps of two: 308,281,601 parameters at width 1024, 89,976,833 at 768, with three channels in, one out, tiles of 512."""

    def build_up(self, outputs: int) -> None:
        """Four convolutions, each before an enlargement."""
        self.norm = NormedMap(self.maps)
        self.steps = nn.ModuleList(
            conv_norm_relu(self.maps if step == 0 else MAPS, MAPS, 3, bias=True)
            for step in range(4)
        )
        self.head = nn.Conv2d(MAPS, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        maps = self.norm(self.looked(x)[-1])
        for number, step in enumerate(self.steps):
            maps = interpolate(maps, scale_factor=2.0, mode="bilinear") if number else maps
            maps = step(maps)
        return interpolate(self.head(maps), x.shape[2:], mode="bilinear")


class SetrMla(Setr):
    """Up from four depths at once: 309,343,745 parameters at width 1024, 91,365,121 at 768, with three channels in, one out, tiles of 512.

    The class token is in the count and is left out before the first block, as published.
    """

    def build_up(self, outputs: int) -> None:
        """For each of the four: a normalization, and four convolutions."""
        self.norms = nn.ModuleList(NormedMap(self.maps) for _ in range(4))
        self.narrow = nn.ModuleList(
            conv_norm_relu(self.maps, MAPS, 1, bias=False) for _ in range(4)
        )
        self.smooth = nn.ModuleList(conv_norm_relu(MAPS, MAPS, 3, bias=False) for _ in range(4))
        half = MAPS // 2
        self.last = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(MAPS, half, 3, bias=False), conv_norm_relu(half, half, 3, bias=False)
            )
            for _ in range(4)
        )
        self.head = nn.Conv2d(4 * half, outputs, 3, padding=1)

    def looked(self, x: Tensor) -> list[Tensor]:
        """As those of the others, but the blocks never see the class token."""
        size = x.shape[2] // PATCH, x.shape[3] // PATCH
        vit = self.transformer
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))[:, 1:]
        found = []
        for number, block in enumerate(vit.blocks, 1):
            tokens = block(tokens)
            if number % (self.blocks // 4) == 0:
                found.append(tokens.transpose(1, 2).unflatten(2, size))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        narrowed = [
            narrow(norm(maps))
            for narrow, norm, maps in zip(self.narrow, self.norms, self.looked(x), strict=True)
        ]
        for level in (2, 1, 0):  # from the deepest on, each adds what is below it
            narrowed[level] = narrowed[level] + narrowed[level + 1]
        ends = [
            last(smooth(maps))
            for last, smooth, maps in zip(self.last, self.smooth, narrowed, strict=True)
        ]
        larger = [
            interpolate(end, scale_factor=4.0, mode="bilinear", align_corners=True) for end in ends
        ]
        return interpolate(self.head(torch.cat(larger, 1)), x.shape[2:], mode="bilinear")
