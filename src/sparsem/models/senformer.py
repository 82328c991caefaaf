"""SenFormer (Bousselham et al. 2021): a Swin transformer looks, a pyramid of transformers joins its levels, a learner for each decides.

Input (B, in, H, W), output logits (B, out, H, W). The Swin transformer and its blocks are timm's. Published are several classes that
exclude each other; here every structure stands for itself, so a learner's probability is a sigmoid, and the network's the learners' mean.
"""

from typing import Any

import timm
import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from sparsem.errors import SettingsError

SWIN = "swin_small_patch4_window7_224"
DEPTHS = (2, 2, 18, 2)  # of Swin-S
HEADS, LAYERS, WINDOW = 8, 6, 7
HEAD = 32  # channels of a head of the Swin transformer
SURE = 1e-6  # a probability is no nearer to 0 or 1


class CrossAttention(nn.Module):
    """Queries (B, K, D) ask tokens (B, N, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key_value = (
            nn.Linear(channels, channels),
            nn.Linear(channels, 2 * channels),
        )
        self.out = nn.Linear(channels, channels)

    def forward(self, asked: Tensor, tokens: Tensor) -> Tensor:
        """(B, K, D)."""
        query, key, value = (
            one.unflatten(2, (HEADS, -1)).transpose(1, 2)
            for one in (self.query(asked), *self.key_value(tokens).chunk(2, 2))
        )
        found: Tensor = self.out(
            scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        )
        return found


class DecoderLayer(nn.Module):
    """The queries ask the tokens, then each other, then themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.cross, self.among = CrossAttention(channels), Attention(channels, HEADS, qkv_bias=True)
        self.alone = Mlp(channels, 4 * channels)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(B, K, D), (B, N, D) -> (B, K, D)."""
        queries = queries + self.cross(self.norms[0](queries), tokens)
        queries = queries + self.among(self.norms[1](queries))
        out: Tensor = queries + self.alone(self.norms[2](queries))
        return out


class Learner(nn.Module):
    """A query a structure, and how much it resembles each place: (B, D, H, W) -> (B, outputs, H, W)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, outputs, channels))
        self.of_tokens, self.of_queries = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.layers = nn.ModuleList(DecoderLayer(channels) for _ in range(LAYERS))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, H, W)."""
        tokens = self.of_tokens(maps.flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(maps), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        # In float32: sums of hundreds of products that are not small.
        alike = tokens.float() @ self.of_queries(queries).float().transpose(1, 2)
        logits: Tensor = alike.transpose(1, 2).unflatten(2, maps.shape[2:])
        return logits


class SenFormer(nn.Module):
    """163,100,906 parameters at width 96 with one channel in and one out.

    Args:
        width: channels of the first level of the Swin transformer, a multiple of 32.
        inputs: channels of the image.
        outputs: structures; one logit each.
        tile: edge of the tiles that it learns from, px; others are taken as well.
    """

    tile_multiple = 32
    default_width, width_multiple = 96, HEAD
    default_learning_rate = 1e-4

    def __init__(
        self, width: int = default_width, inputs: int = 1, outputs: int = 1, tile: int = 512
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(DEPTHS))]
        channels = HEADS * round(width * 2 / 3)  # 512 at width 96
        self.width = width
        self.options: dict[str, Any] = {
            "in_chans": inputs,
            "img_size": tile,
            "embed_dim": width,
            "num_heads": tuple(one // HEAD for one in widths),
            "features_only": True,
            "drop_path_rate": 0.2,
            "always_partition": True,
            "dynamic_img_size": True,
        }
        self.swin = timm.create_model(SWIN, pretrained=False, **self.options)
        self.norms = nn.ModuleList(nn.LayerNorm(one) for one in widths)
        # A ring of zeros around maps of single pixels is what the published count and network have.
        self.narrow = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(one, channels, 1, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
            )
            for one in widths
        )
        self.joined = nn.ModuleList(
            SwinTransformerBlock(
                channels,
                (tile // 4, tile // 4),
                HEADS,
                window_size=WINDOW,
                shift_size=0,
                always_partition=True,
            )
            for _ in widths
        )
        self.learners = nn.ModuleList(Learner(channels, outputs) for _ in widths)

    def load_pretrained(self) -> None:
        """Let the Swin transformer begin with what it learnt on ImageNet.

        Raises:
            SettingsError: weights are offered for another width only.
        """
        if self.width != self.default_width:
            raise SettingsError(
                f"Pretrained weights of 'senformer' are of width {self.default_width}; got {self.width}."
            )
        self.swin.load_state_dict(
            timm.create_model(SWIN, pretrained=True, **self.options).state_dict()
        )

    def each(self, x: Tensor) -> Tensor:
        """What every learner says: logits (4, B, outputs, H, W), the finest level first; each has a loss of its own."""
        seen = self.swin(x)  # (B, h, w, C) each, the finest first
        maps = [
            narrow(norm(one).movedim(3, 1))
            for narrow, norm, one in zip(self.narrow, self.norms, seen, strict=True)
        ]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + interpolate(maps[level + 1], maps[level].shape[2:])
        joined = [
            block(one.movedim(1, 3)).movedim(3, 1)
            for block, one in zip(self.joined, maps, strict=True)
        ]
        found = [learner(one) for learner, one in zip(self.learners, joined, strict=True)]
        return torch.stack([interpolate(one, x.shape[2:], mode="bilinear") for one in found])

    def combined(self, each: Tensor) -> Tensor:
        """Logits of every learner -> logits (B, outputs, H, W) of their mean probability."""
        return each.float().sigmoid().mean(0).clamp(SURE, 1 - SURE).logit()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        return self.combined(self.each(x))
