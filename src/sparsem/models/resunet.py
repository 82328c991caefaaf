"""ResUNet (paper 3.3, figure 1C and D): a U-Net of residual blocks.

Input (B, in, H, W), output logits (B, out, H, W); H and W are multiples of 16.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

DEPTH = 4  # halvings between the first block and the bridge


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalization and ReLU, and a 1x1 shortcut.

    The shortcut is added to the output of the convolutions. It selects every ``stride``-th pixel
    and convolves those. A strided 1x1 convolution is the same function, but its backward pass in
    oneDNN (3.10, AVX-512 without AMX, channels_last) writes beyond its memory below 16 channels.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the first convolution and of the shortcut; 2 replaces a pooling layer.
        activate_first: normalize and rectify the input; not in the first block, whose input is
            the image.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, activate_first: bool = True
    ) -> None:
        super().__init__()
        activation = [nn.BatchNorm2d(inputs), nn.ReLU()] if activate_first else []
        self.residual = nn.Sequential(
            *activation,
            nn.Conv2d(inputs, outputs, 3, stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, outputs, H / stride, W / stride) from (B, inputs, H, W)."""
        shortcut_input = x[..., :: self.stride, :: self.stride]
        total: Tensor = self.residual(x) + self.shortcut(shortcut_input)
        return total


class ResUNet(nn.Module):
    """The paper's network: 32,443,777 parameters at width 64 with one input channel and one output.

    Args:
        width: feature maps of the first level; doubled on each of the four levels below it.
        inputs: channels of the image.
        outputs: number of structures; one logit each.
    """

    tile_multiple = 2**DEPTH
    default_width = 16
    width_multiple = 1
    default_learning_rate = 2e-3
    trains_with_muon = True

    def __init__(self, width: int = default_width, inputs: int = 1, outputs: int = 1) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(DEPTH + 1)]
        # In this order, since the random weights depend on it.
        down = [ResidualBlock(above, below, stride=2) for above, below in pairwise(widths)]
        first = ResidualBlock(inputs, width, activate_first=False)
        self.encoder = nn.ModuleList([first, *down])
        decoder_widths = widths[-2::-1]
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(2 * maps, maps, 2, 2) for maps in decoder_widths
        )
        self.decoder = nn.ModuleList(ResidualBlock(2 * maps, maps) for maps in decoder_widths)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        skips.pop()  # the output of the bridge is enlarged, not joined
        for enlarge, block in zip(self.enlarge, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), enlarge(x)], dim=1))  # (B, 2 maps, H, W)
        logits: Tensor = self.head(x)
        return logits
