"""UNet++ (Zhou et al. 2018) by segmentation-models-pytorch.

A ResNet34 is the encoder, and nested branches join each level with the others. The library, and
with it the published parameter count, has one output, that of the last branch;
``AveragedUNetPlusPlus`` averages the outputs of all branches, as the thesis describes it (3.3.2).
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

ENCODER = "resnet34"
LEVELS = 5  # levels of the encoder
DECODER = (16, 8, 4, 2, 1)  # channels of the decoder's levels, in those of its last level
SHALLOW = (8, 4, 1)  # the same with three levels of the encoder


class UNetPlusPlus(nn.Module):
    """UNet++: 26,072,337 parameters at width 16 with one input channel and one output.

    Args:
        width: channels of the decoder's last level; the encoder is always the same.
        inputs: channels of the image.
        outputs: number of structures; one logit each.
    """

    tile_multiple = 2**LEVELS
    default_width = 16
    width_multiple = 1
    default_learning_rate = 2e-3
    channels: tuple[int, ...] = DECODER
    levels = LEVELS

    def __init__(self, width: int = default_width, inputs: int = 1, outputs: int = 1) -> None:
        super().__init__()
        options = {
            "encoder_depth": self.levels,
            "encoder_weights": None,
            "decoder_channels": tuple(width * factor for factor in self.channels),
        }
        self.network = smp.UnetPlusPlus(ENCODER, in_channels=inputs, classes=outputs, **options)
        self.inputs = inputs

    def load_pretrained(self) -> None:
        """Load ImageNet weights into the encoder."""
        pretrained = smp.encoders.get_encoder(
            ENCODER, in_channels=self.inputs, depth=self.levels, weights="imagenet"
        )
        self.network.encoder.load_state_dict(pretrained.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        logits: Tensor = self.network(x)
        return logits


class ShallowUNetPlusPlus(UNetPlusPlus):
    """The thesis' network for semi-supervised training, with three levels of the encoder.

    It has 21,954,705 parameters at width 16. The library keeps the layers that are not used;
    2,017,937 parameters are used.
    """

    tile_multiple = 8
    channels = SHALLOW
    levels = 3


class AveragedUNetPlusPlus(UNetPlusPlus):
    """UNet++ whose output is the mean of those of its four nested branches.

    Each branch has its own loss (deep supervision).
    """

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
        """Compute the logits (4, B, outputs, H, W) of every branch."""
        ends = self._branches(self.network.encoder(x))
        last_block = self.network.decoder.blocks[f"x_0_{LEVELS - 1}"]
        logits = [self.network.segmentation_head(last_block(ends[0]))]
        for head, end in zip(self.heads, ends[1:], strict=True):
            logits.append(interpolate(head(end), x.shape[2:], mode="bilinear"))
        return torch.stack(logits)

    def combined(self, each: Tensor) -> Tensor:
        """Return the logits (B, outputs, H, W) of all branches from those of every branch."""
        return each.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        return self.combined(self.each(x))

    def _branches(self, features: list[Tensor]) -> list[Tensor]:
        """Return the ends of the nested branches, at half of the resolution.

        The branch from the deepest level comes first.
        """
        deepest_first = features[:0:-1]
        nodes = dict[tuple[int, int], Tensor]()
        for n_joins in range(LEVELS - 1):
            for start in range(LEVELS - 1 - n_joins):
                end = start + n_joins
                skips = [nodes[skip_start, end] for skip_start in range(start + 1, end + 1)]
                below = nodes[start, end - 1] if n_joins else deepest_first[start]
                block = self.network.decoder.blocks[f"x_{start}_{end}"]
                nodes[start, end] = block(below, torch.cat([*skips, deepest_first[end + 1]], 1))
        return [nodes[start, LEVELS - 2] for start in range(LEVELS - 1)]
