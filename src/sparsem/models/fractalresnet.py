"""FracTALResNet: residual blocks emphasised by fractal Tanimoto attention (Diakogiannis et al. 2020)."""

from torch import Tensor, nn

from sparsem.models.fractal import Attention, Emphasis, FractalBackbone


class FracTALUnit(nn.Module):
    """(x + r(x)) (1 + gamma A(x)): a grouped residual block r and attention A to what goes in; (B, channels, H, W) stays so."""

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
        self.attention, self.emphasis = Attention(channels, groups), Emphasis()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W)."""
        out: Tensor = self.emphasis(x + self.residual(x), self.attention(x, x))
        return out


class FracTALResNet(FractalBackbone):
    """18,199,919 parameters at width 32 with one channel in and one out."""

    def __init__(
        self, width: int = FractalBackbone.default_width, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(FracTALUnit, width, inputs, outputs)
