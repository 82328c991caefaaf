"""UNet++ (Zhou et al. 2018) by segmentation-models-pytorch: a ResNet34 that looks, and nested branches that join each level with others.

The library, and with it the published parameter count, has one output, that of the last branch; ``AveragedUNetPlusPlus`` averages those of
all branches, as the thesis describes it (3.3.2).
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

ENCODER = "resnet34"
LEVELS = 5  # of the encoder
DECODER = (16, 8, 4, 2, 1)  # channels of the decoder over those of its last level
SHALLOW = (8, 4, 1)  # the same with three levels of the encoder


class UNetPlusPlus(nn.Module):
    """26,072,337 parameters at width 16 with one channel in and one out.

    Args:
        width: channels of the decoder's last level; the encoder is as it is.
        inputs: channels of the image.
        outputs: structures; one logit each.
    """

    tile_multiple = 2**LEVELS
    default_width, width_multiple = 16, 1
    default_learning_rate = 2e-3
    channels: tuple[int, ...] = DECODER
    levels = LEVELS

    def __init__(self, width: int = default_width, inputs: int = 1, outputs: int = 1) -> None:
        super().__init__()
        channels = tuple(width * part for part in self.channels)
        options = {
            "encoder_depth": self.levels,
            "encoder_weights": None,
            "decoder_channels": channels,
        }
        self.network = smp.UnetPlusPlus(ENCODER, in_channels=inputs, classes=outputs, **options)
        self.inputs = inputs

    def load_pretrained(self) -> None:
        """Let the encoder begin with what it learnt on ImageNet."""
        learnt = smp.encoders.get_encoder(
            ENCODER, in_channels=self.inputs, depth=self.levels, weights="imagenet"
        )
        self.network.encoder.load_state_dict(learnt.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        logits: Tensor = self.network(x)
        return logits


class ShallowUNetPlusPlus(UNetPlusPlus):
    """The thesis' network for semi-supervised training, with three levels of the encoder: 21,954,705 parameters at width 16.

    The library keeps the layers that are not used; 2,017,937 are.
    """

    tile_multiple = 8
    channels, levels = SHALLOW, 3


class AveragedUNetPlusPlus(UNetPlusPlus):
    """UNet++ whose output is the mean of those of its four nested branches, each of which has a loss of its own (deep supervision)."""

    def __init__(
        self, width: int = UNetPlusPlus.default_width, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(width, inputs, outputs)
        blocks = self.network.decoder.blocks
        channels = (
            blocks[f"x_{branch}_{LEVELS - 2}"].out_channels for branch in range(1, LEVELS - 1)
        )
        self.heads = nn.ModuleList(nn.Conv2d(maps, outputs, 3, padding=1) for maps in channels)

    def each(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits of every branch (4, B, outputs, H, W)."""
        ends = self._branches(self.network.encoder(x))
        logits = [
            self.network.segmentation_head(
                self.network.decoder.blocks[f"x_0_{LEVELS - 1}"](ends[0])
            )
        ]
        logits += [
            interpolate(head(end), x.shape[2:], mode="bilinear")
            for head, end in zip(self.heads, ends[1:], strict=True)
        ]
        return torch.stack(logits)

    def combined(self, each: Tensor) -> Tensor:
        """Logits of every branch -> logits (B, outputs, H, W) of all."""
        return each.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, outputs, H, W)."""
        return self.combined(self.each(x))

    def _branches(self, features: list[Tensor]) -> list[Tensor]:
        """Where the nested branches end, at half of the resolution: that from the deepest level first."""
        deep, nodes = features[:0:-1], dict[tuple[int, int], Tensor]()
        for joins in range(LEVELS - 1):
            for start in range(LEVELS - 1 - joins):
                end = start + joins
                across = [nodes[other, end] for other in range(start + 1, end + 1)]
                below = nodes[start, end - 1] if joins else deep[start]
                nodes[start, end] = self.network.decoder.blocks[f"x_{start}_{end}"](
                    below, torch.cat([*across, deep[end + 1]], 1)
                )
        return [nodes[start, LEVELS - 2] for start in range(LEVELS - 1)]
