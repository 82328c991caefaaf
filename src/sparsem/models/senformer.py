"""SenFormer (Bousselham et al. 2021): a Swin transformer, a pyramid of transformers, and learners.

The pyramid joins the levels of the Swin transformer, and a learner for each level segments it. The
Swin transformer and its blocks are timm's. Input (B, in, H, W), output logits (B, out, H, W). The
published network has several classes that exclude each other; here structures are independent, so
that the probability of a learner is a sigmoid, and that of the network the mean of the learners.
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
DEPTHS = (2, 2, 18, 2)  # blocks of the levels of Swin-S
HEADS = 8  # attention heads of the pyramid and of the learners
LAYERS = 6  # decoder layers of a learner
WINDOW = 7  # edge of the attention windows of the pyramid
HEAD = 32  # channels of an attention head of the Swin transformer
PROBABILITY_MARGIN = 1e-6  # minimum distance of a probability from 0 and 1


class CrossAttention(nn.Module):
    """Attention of queries (B, K, D) to tokens (B, N, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return what the tokens (B, N, D) add to the queries (B, K, D)."""
        query = _split_heads(self.query(queries))
        key, value = (_split_heads(part) for part in self.key_value(tokens).chunk(2, 2))
        attended = scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


def _split_heads(x: Tensor) -> Tensor:
    """Split (B, N, D) into attention heads: (B, HEADS, N, D / HEADS)."""
    heads: Tensor = x.unflatten(2, (HEADS, -1)).transpose(1, 2)
    return heads


class DecoderLayer(nn.Module):
    """Attention of the queries to the tokens and to each other, and a perceptron."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.cross = CrossAttention(channels)
        self.among = Attention(channels, HEADS, qkv_bias=True)
        self.alone = Mlp(channels, 4 * channels)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Update queries (B, K, D) from tokens (B, N, D)."""
        queries = queries + self.cross(self.norms[0](queries), tokens)
        queries = queries + self.among(self.norms[1](queries))
        out: Tensor = queries + self.alone(self.norms[2](queries))
        return out


class Learner(nn.Module):
    """One query a structure; its similarity to each position is the logit.

    (B, D, H, W) -> (B, outputs, H, W).
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, outputs, channels))
        self.of_tokens = nn.LayerNorm(channels)
        self.of_queries = nn.LayerNorm(channels)
        self.layers = nn.ModuleList(DecoderLayer(channels) for _ in range(LAYERS))

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the logits of maps (B, D, H, W)."""
        tokens = self.of_tokens(maps.flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(maps), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        # In float32: sums of hundreds of products that are not small.
        similarity = tokens.float() @ self.of_queries(queries).float().transpose(1, 2)  # (B, N, K)
        logits: Tensor = similarity.transpose(1, 2).unflatten(2, maps.shape[2:])
        return logits


class SenFormer(nn.Module):
    """SenFormer: 163,100,906 parameters at width 96 with one input channel and one output.

    Args:
        width: channels of the first level of the Swin transformer, a multiple of 32.
        inputs: channels of the image.
        outputs: number of structures; one logit each.
        tile: edge of the tiles to train on, px; tiles of other sizes are accepted too.
    """

    tile_multiple = 32
    default_width = 96
    width_multiple = HEAD
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
            "num_heads": tuple(level_width // HEAD for level_width in widths),
            "features_only": True,
            "drop_path_rate": 0.2,
            "always_partition": True,
            "dynamic_img_size": True,
        }
        self.swin = timm.create_model(SWIN, pretrained=False, **self.options)
        self.norms = nn.ModuleList(nn.LayerNorm(level_width) for level_width in widths)
        self.narrow = nn.ModuleList(_narrow(level_width, channels) for level_width in widths)
        self.joined = nn.ModuleList(_pyramid_block(channels, tile) for _ in widths)
        self.learners = nn.ModuleList(Learner(channels, outputs) for _ in widths)

    def load_pretrained(self) -> None:
        """Load ImageNet weights into the Swin transformer.

        Raises:
            SettingsError: the weights are of another width.
        """
        if self.width != self.default_width:
            raise SettingsError(
                f"Pretrained weights of 'senformer' are of width {self.default_width}; "
                f"got {self.width}."
            )
        pretrained = timm.create_model(SWIN, pretrained=True, **self.options)
        self.swin.load_state_dict(pretrained.state_dict())

    def each(self, x: Tensor) -> Tensor:
        """Compute the logits (4, B, outputs, H, W) of every learner, the finest level first.

        Each learner has its own loss.
        """
        features = self.swin(x)  # (B, h, w, C) of each level, the finest first
        maps = [
            narrow(norm(feature).movedim(3, 1))
            for narrow, norm, feature in zip(self.narrow, self.norms, features, strict=True)
        ]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + interpolate(maps[level + 1], maps[level].shape[2:])
        joined = [
            block(level_maps.movedim(1, 3)).movedim(3, 1)
            for block, level_maps in zip(self.joined, maps, strict=True)
        ]
        logits = [
            learner(level_maps) for learner, level_maps in zip(self.learners, joined, strict=True)
        ]
        size = x.shape[2:]
        return torch.stack([interpolate(level, size, mode="bilinear") for level in logits])

    def combined(self, each: Tensor) -> Tensor:
        """Return the logits (B, outputs, H, W) of the learners' mean probability."""
        probability = each.float().sigmoid().mean(0)
        return probability.clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN).logit()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        return self.combined(self.each(x))


def _narrow(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 1x1 convolution, a batch normalization and a ReLU.

    The padding of 1 px around maps of a 1x1 convolution is in the published count and network.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _pyramid_block(channels: int, tile: int) -> SwinTransformerBlock:
    """Return a transformer block of the pyramid."""
    return SwinTransformerBlock(
        channels,
        (tile // 4, tile // 4),
        HEADS,
        window_size=WINDOW,
        shift_size=0,
        always_partition=True,
    )
