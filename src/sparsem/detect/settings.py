"""How detectors learn and find: every setting, with its default."""

from typing import Literal

from pydantic import Field

from sparsem.settings import Settings
from sparsem.training.settings import LoopSettings

Split = Literal["sample", "image", "none"]


class DetectTrainSettings(LoopSettings):
    """What a detector learns, from which pictures, and how. The thesis: tiles of 2048 px, COCO weights, one structure a detector."""

    architecture: str = Field(
        "retinanet-small",
        description="retinanet-small, deformable-detr-small, or, on a GPU, retinanet, deformable-detr as in the thesis",
    )
    structure: tuple[str, ...] = Field(
        (),
        description="what to find; repeat it for several in one detector; all that has boxes in every sample if not given",
    )
    weights: str = Field(
        "auto",
        description="to begin with: coco, none, a file or folder; auto: coco where it can be had",
    )
    input_px: int = Field(
        512, ge=128, le=4096, description="edge of a tile as the detector sees it, px"
    )
    context_px: int | None = Field(
        None,
        ge=32,
        le=65536,
        description="edge of that tile in the picture, px; if not given so that the objects are of a size it finds well",
    )
    queries: int = Field(300, ge=10, description="deformable-detr: most boxes in a tile")
    batch: int = Field(4, ge=1, description="tiles an update")
    learning_rate: float | None = Field(
        None, gt=0, description="of AdamW, at its highest; the detector's usual one if not given"
    )
    max_grad_norm: float = Field(0.1, gt=0, description="largest norm of a gradient")
    intensity_augmentation: float = Field(
        0.25, ge=0, le=2, description="gray-level augmentation in standard deviations; 0 for none"
    )
    split: Split = Field(
        "sample",
        description="what a tenth each of is held out for validation and test: sample; picture, in their order; none",
    )
    validation: tuple[str, ...] = Field(
        (),
        description="held out to choose and to calibrate: SAMPLE or SAMPLE:FIRST-LAST; repeat it",
    )
    test: tuple[str, ...] = Field(
        (), description="held out for the score: SAMPLE or SAMPLE:FIRST-LAST; repeat it"
    )
    exclude: tuple[str, ...] = Field(
        (), description="pictures for nothing: SAMPLE or SAMPLE:FIRST-LAST; repeat it"
    )
    validate_every: int = Field(200, ge=1, description="updates between two validations")


class DetectSettings(Settings):
    """How boxes are found."""

    overlap: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="of neighboring tiles, as part of a tile; objects up to that size are never cut",
    )
    batch: int = Field(4, ge=1, description="tiles at once")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to look at; the newest one if not given")
