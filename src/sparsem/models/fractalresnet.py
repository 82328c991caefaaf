"""FracTALResNet: residual blocks emphasized by fractal Tanimoto attention.

Diakogiannis et al. 2020.
"""

from torch import Tensor, nn

from sparsem.models.fractal import Attention, Emphasis, FractalBackbone


class FracTALUnit(nn.Module):
    """Residual block with attention: (x + r(x)) (1 + gamma A(x)).

    r is a grouped residual block, and A is attention to the input; (B, channels, H, W) is kept.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
        )
        self.attention = Attention(channels, groups)
        self.emphasis = Emphasis()

    def forward(self, x: Tensor) -> Tensor:
        """Compute a map (B, channels, H, W) of the same shape."""
        out: Tensor = self.emphasis(x + self.residual(x), self.attention(x, x))
        return out


class FracTALResNet(FractalBackbone):
    """FracTALResNet: 18,199,919 parameters at width 32 with one input channel and one output."""

    def __init__(
        self, width: int = FractalBackbone.default_width, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(FracTALUnit, width, inputs, outputs)
