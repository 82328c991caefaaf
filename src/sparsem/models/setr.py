"""SETR (Zheng et al. 2021): a vision transformer over patches of 16 px, and one of three decoders.

The transformer is timm's. Input (B, in, H, W), H and W multiples of 16; output logits
(B, out, H, W). Position embeddings are trained for tiles of one size, and interpolated for others.
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sparsem.errors import SettingsError

PATCH = 16  # edge of a patch, px
HEAD = 64  # channels of an attention head
MAPS = 256  # channels of the decoder
PRETRAINED = {768: "vit_base_patch16_384", 1024: "vit_large_patch16_384"}  # of timm, by width
MIN_LARGE_WIDTH = 1024  # width from which on the transformer has the blocks of ViT-L
LARGE_BLOCKS = 24  # blocks of ViT-L
BASE_BLOCKS = 12  # blocks of ViT-B


def conv_norm_relu(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.Sequential:
    """Return a convolution, a batch normalization and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Setr(nn.Module):
    """Base of the three networks: the transformer, without a decoder.

    Args:
        width: channels of a token, a multiple of 64: 1024 is ViT-L, 768 is ViT-B.
        inputs: channels of the image.
        outputs: number of structures; one logit each.
        tile: edge of the tiles to train on, px.
    """

    tile_multiple = PATCH
    default_width = 768
    width_multiple = HEAD
    default_learning_rate = 2e-4

    def __init__(
        self, width: int = default_width, inputs: int = 1, outputs: int = 1, tile: int = 512
    ) -> None:
        super().__init__()
        self.maps = width
        self.blocks = LARGE_BLOCKS if width >= MIN_LARGE_WIDTH else BASE_BLOCKS
        self.image_options: dict[str, Any] = {"img_size": tile, "in_chans": inputs}
        self.transformer = timm.models.VisionTransformer(
            **self.image_options,
            patch_size=PATCH,
            num_classes=0,
            global_pool="",
            embed_dim=self.maps,
            depth=self.blocks,
            num_heads=width // HEAD,
            final_norm=False,
            dynamic_img_size=True,
        )
        self.add_decoder(outputs)

    def add_decoder(self, outputs: int) -> None:
        """Add the layers of the decoder."""
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Load ImageNet weights into the transformer.

        Raises:
            SettingsError: there are no weights of this width.
        """
        if self.maps not in PRETRAINED:
            widths = " or ".join(map(str, PRETRAINED))
            raise SettingsError(
                f"Pretrained weights of SETR are of width {widths}; got {self.maps}."
            )
        pretrained = timm.create_model(
            PRETRAINED[self.maps], pretrained=True, num_classes=0, **self.image_options
        ).state_dict()
        weights = {name: pretrained[name] for name in self.transformer.state_dict()}
        self.transformer.load_state_dict(weights)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Compute maps after a quarter, a half, three quarters and all of the blocks.

        Images (B, inputs, H, W) -> maps (B, C, H / 16, W / 16).
        """
        quarter = self.blocks // 4
        last_blocks = [quarter - 1, 2 * quarter - 1, 3 * quarter - 1, 4 * quarter - 1]
        maps: Any = self.transformer.forward_intermediates(
            x, indices=last_blocks, norm=False, intermediates_only=True
        )
        return list(maps)


class NormedMap(nn.Module):
    """Layer normalization over the channels of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (B, C, H, W)."""
        normed: Tensor = self.norm(x.movedim(1, 3)).movedim(3, 1)
        return normed


class SetrNaive(Setr):
    """SETR with one enlargement of 16.

    It has 304,412,673 parameters at width 1024, 86,632,193 at 768, with three input channels, one
    output and tiles of 512.
    """

    def add_decoder(self, outputs: int) -> None:
        """Add two 1x1 convolutions."""
        self.up = nn.Sequential(
            NormedMap(self.maps),
            conv_norm_relu(self.maps, MAPS, 1, bias=True),
            nn.Conv2d(MAPS, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        return interpolate(self.up(self.encode(x)[-1]), x.shape[2:], mode="bilinear")


class SetrPup(Setr):
    """SETR with progressive upsampling: four enlargements of 2.

    It has 308,281,601 parameters at width 1024, 89,976,833 at 768, with three input channels, one
    output and tiles of 512.
    """

    def add_decoder(self, outputs: int) -> None:
        """Add four convolutions, each before an enlargement."""
        self.norm = NormedMap(self.maps)
        self.steps = nn.ModuleList(
            conv_norm_relu(self.maps if step == 0 else MAPS, MAPS, 3, bias=True)
            for step in range(4)
        )
        self.head = nn.Conv2d(MAPS, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        maps = self.norm(self.encode(x)[-1])
        for number, step in enumerate(self.steps):
            if number:
                maps = interpolate(maps, scale_factor=2.0, mode="bilinear")
            maps = step(maps)
        return interpolate(self.head(maps), x.shape[2:], mode="bilinear")


class SetrMla(Setr):
    """SETR with multi-level aggregation: maps of four depths are joined.

    It has 309,343,745 parameters at width 1024, 91,365,121 at 768, with three input channels, one
    output and tiles of 512. The class token is part of the count and is left out before the first
    block, as published.
    """

    def add_decoder(self, outputs: int) -> None:
        """Add a normalization and four convolutions for each of the four depths."""
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

    def encode(self, x: Tensor) -> list[Tensor]:
        """Compute maps as the other networks do, but without the class token in the blocks."""
        size = x.shape[2] // PATCH, x.shape[3] // PATCH
        transformer = self.transformer
        embedded = transformer._pos_embed(transformer.patch_embed(x))
        tokens = transformer.norm_pre(transformer.patch_drop(embedded))[:, 1:]
        maps = []
        for number, block in enumerate(transformer.blocks, 1):
            tokens = block(tokens)
            if number % (self.blocks // 4) == 0:
                maps.append(tokens.transpose(1, 2).unflatten(2, size))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        levels = [
            narrow(norm(maps))
            for narrow, norm, maps in zip(self.narrow, self.norms, self.encode(x), strict=True)
        ]
        for level in (2, 1, 0):  # from the second deepest on, each level adds the one below it
            levels[level] = levels[level] + levels[level + 1]
        ends = [
            last(smooth(maps))
            for last, smooth, maps in zip(self.last, self.smooth, levels, strict=True)
        ]
        enlarged = [
            interpolate(end, scale_factor=4.0, mode="bilinear", align_corners=True) for end in ends
        ]
        return interpolate(self.head(torch.cat(enlarged, 1)), x.shape[2:], mode="bilinear")
