"""Settings of the stage ``predict``."""

from typing import Literal

from pydantic import Field

from sparsem.settings import Engine, Precision, Settings


class PredictSettings(Settings):
    """Settings of the stage ``predict``."""

    overlap: float = Field(
        0.25, ge=0, le=0.5, description="minimum overlap of adjacent tiles, as a fraction of a tile"
    )
    flips: bool = Field(
        False,
        description="average over four mirror images of every tile; takes four times as long",
    )
    views: Literal[1, 3] = Field(
        1,
        description="3: predict slices across y and x, too, and combine the three views, where "
        "voxels are about as long as wide; takes about four times as long",
    )
    batch: int = Field(
        16,
        ge=1,
        description="tiles in a batch; changes the speed and the memory, not the result",
    )
    precision: Precision = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    engine: Engine = Field(
        "auto",
        description="openvino: compile the network for the processor; torch: do not; auto: "
        "openvino where it is installed and the stack is large enough",
    )
    image: str | None = Field(None, description="image to predict (default: the newest)")
