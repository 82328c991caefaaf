"""Settings of prediction, of suggested slices and of live training."""

from typing import Literal

from pydantic import Field

from sparsem.settings import Engine, PredictPrecision, Settings
from sparsem.training.settings import NetworkTrainingSettings


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
    z_smoothing_nm: float = Field(
        25,
        ge=0,
        description="standard deviation of the Gaussian across slices by which probabilities are "
        "smoothed, but those of boundaries and cells; for thicker slices one slice, along the "
        "optical flow; 0: none; not with three views",
    )
    batch: int = Field(
        16,
        ge=1,
        description="tiles in a batch; changes the speed and the memory, not the result",
    )
    precision: PredictPrecision = Field(
        "auto",
        description="auto: bfloat16 where the processor computes it fast, else float32; int8: "
        "integers, which are faster and change the labels of a few pixels of 10,000",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    engine: Engine = Field(
        "auto",
        description="openvino: compile the network for the processor; torch: do not; auto: "
        "openvino where it is installed and the stack is large enough",
    )
    image: str | None = Field(None, description="image to predict (default: the newest)")


class SuggestSettings(Settings):
    """Settings of the stage ``suggest``."""

    n: int = Field(7, ge=1, description="number of slices to label next")
    model: tuple[str, ...] = Field(
        (),
        description=(
            "model to predict with; repeat it for several: slices where they contradict each "
            "other are suggested"
        ),
    )
    every: int | None = Field(
        None, ge=1, description="models predict every n-th slice only (default: about 96 slices)"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


class LiveSettings(NetworkTrainingSettings):
    """Settings of live training: those of a training that never ends by itself."""

    updates: int = Field(1_000_000, ge=1, description="updates after which training ends")
    schedule: Literal["cosine", "constant"] = Field(
        "constant", description="the learning rate does not fall"
    )
    warmup: int = Field(10, ge=0, description="updates until the highest learning rate")
    round_updates: int = Field(
        25, ge=1, description="updates between two looks for new labels, and two previews"
    )
