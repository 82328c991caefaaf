"""A plain U-Net with bilinear upsampling (the thesis' baseline for semi-supervised training).

Input (B, in, H, W), output logits (B, out, H, W); H and W are multiples of 8.
"""

import torch
from torch import Tensor, nn


def double_convolution(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """Return (3x3 convolution, batch normalization, ReLU) twice: inputs -> middle -> outputs."""
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 3, padding=1),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """U-Net with four levels of width, 2 width, 4 width, 4 width.

    It has 4,283,201 parameters at width 64 with one input channel and one output.

    Args:
        width: feature maps of the first level.
        inputs: channels of the image.
        outputs: number of structures; one logit each.
    """

    tile_multiple = 8
    default_width = 16
    width_multiple = 1
    default_learning_rate = 2e-3
    trains_with_muon = True

    def __init__(self, width: int = default_width, inputs: int = 1, outputs: int = 1) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        input_widths = [inputs, *widths[:-1]]
        self.encoder = nn.ModuleList(
            double_convolution(a, b, b) for a, b in zip(input_widths, widths, strict=True)
        )
        decoder_widths = [
            (8 * width, 4 * width, 2 * width),
            (4 * width, 2 * width, width),
            (2 * width, width, width),
        ]
        self.decoder = nn.ModuleList(double_convolution(*maps) for maps in decoder_widths)
        self.shrink = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, outputs, H, W) of images (B, inputs, H, W)."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.shrink(x) if level else x)
            skips.append(x)
        skips.pop()  # the output of the lowest level is enlarged, not joined
        for block in self.decoder:
            x = block(torch.cat([skips.pop(), self.enlarge(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits
