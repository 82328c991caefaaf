"""Settings of the primitives of images."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from sparsem.settings import Settings

# Flow of a 24 Mpx slice is then computed at a quarter of its resolution, forty times faster.
MAX_GRID_PX = 2_000_000


class FlowSettings(Settings):
    """Settings of the optical flow."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Optical flow": (
            "flow",
            "flow_downsampling",
            "flow_pyramid_scale",
            "flow_levels",
            "flow_window",
            "flow_iterations",
            "flow_polynomial",
        )
    }

    flow: Literal["farneback", "dis"] = Field(
        "farneback",
        description="method of the optical flow: farneback as in the paper, or dis",
    )
    flow_downsampling: int | None = Field(
        None,
        ge=1,
        description="edge of a flow pixel in slice pixels; "
        "by default the smallest power of two that reduces a slice to 2 Mpx",
    )
    flow_pyramid_scale: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="scale between two levels of the flow's image pyramid; the paper: 0.2",
    )
    flow_levels: int = Field(
        4, ge=1, description="levels of the flow's image pyramid; the paper: 6"
    )
    flow_window: int = Field(
        15, ge=3, description="averaging window of the flow, in flow pixels; the paper: 30"
    )
    flow_iterations: int = Field(
        3, ge=1, description="iterations of the flow on every level of the pyramid"
    )
    flow_polynomial: int = Field(
        5,
        ge=5,
        description="neighborhood that the flow's polynomial is fitted to, in pixels; "
        "above 5 a wider Gaussian is used as well",
    )

    def grid_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape (h, w) of the flow between slices of ``shape``."""
        downsampling = self.flow_downsampling or _default_downsampling(shape)
        height = max(1, round(shape[0] / downsampling))
        width = max(1, round(shape[1] / downsampling))
        return height, width


def _default_downsampling(shape: tuple[int, int]) -> int:
    """Return the smallest power of two that reduces a slice to ``MAX_GRID_PX``."""
    height, width = shape
    downsampling = 1
    while height * width > MAX_GRID_PX * downsampling**2:
        downsampling *= 2
    return downsampling
