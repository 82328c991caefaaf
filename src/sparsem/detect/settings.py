"""Settings of detectors, of their boxes, masks and scores."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sparsem.settings import Metavar, OptionName, Settings, StructureNames
from sparsem.training.settings import LoopSettings

Split = Literal["sample", "image", "none"]


class DetectTrainSettings(LoopSettings):
    """Settings of training a detector.

    The thesis used tiles of 2048 px, COCO weights, and one structure for each detector.
    """

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Detector": (
            "architecture",
            "weights",
            "from_model",
            "input_px",
            "context_px",
            "queries",
        ),
        "Training": ("max_grad_norm", "intensity_augmentation"),
        "Held-out images": ("split", "validation", "test", "exclude", "validate_every"),
    }

    architecture: str = Field(
        "retinanet-small",
        description="retinanet-small or deformable-detr-small; on a GPU also retinanet or "
        "deformable-detr, as in the thesis",
    )
    structures: StructureNames = Field(
        (),
        description="structure to detect; repeat it for several in one detector; all structures "
        "with boxes in every sample if not given",
    )
    weights: str = Field(
        "auto",
        description="initial weights: coco, none, a file or a folder; auto: coco where they are "
        "available",
    )
    from_model: Annotated[str | None, OptionName("from"), Metavar("MODEL")] = Field(
        None,
        description="start from an earlier detector, NAME.safetensors; architecture, tile, nm per "
        "pixel and queries are then its own, and other structures get new output layers",
    )
    input_px: int = Field(
        512, ge=128, le=4096, description="edge of a tile as the detector sees it, in pixels"
    )
    context_px: int | None = Field(
        None,
        ge=32,
        le=65536,
        description="edge of that tile in the image, in pixels; chosen from the sizes of the "
        "objects if not given",
    )
    queries: int = Field(
        300, ge=10, description="deformable-detr: maximum number of boxes in a tile"
    )
    batch: int = Field(4, ge=1, description="tiles in an update")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="highest learning rate of AdamW; that of the architecture if not given",
    )
    max_grad_norm: float = Field(0.1, gt=0, description="maximum norm of the gradient")
    intensity_augmentation: float = Field(
        0.25, ge=0, le=2, description="gray-level augmentation in standard deviations; 0 for none"
    )
    split: Split = Field(
        "sample",
        description="unit held out for validation and testing (10 % each): whole samples, images "
        "in their order, or none",
    )
    validation: tuple[str, ...] = Field(
        (),
        description="images held out for validation: SAMPLE or SAMPLE:FIRST-LAST; repeat it for "
        "several",
    )
    test: tuple[str, ...] = Field(
        (),
        description="images held out for testing: SAMPLE or SAMPLE:FIRST-LAST; repeat it for "
        "several",
    )
    exclude: tuple[str, ...] = Field(
        (),
        description="images to leave out of training, validation and testing: SAMPLE or "
        "SAMPLE:FIRST-LAST; repeat it for several",
    )
    validate_every: int = Field(200, ge=1, description="updates between two validations")


class DetectSettings(Settings):
    """Settings of detection."""

    overlap: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="overlap of neighboring tiles as a fraction of a tile; objects up to this size "
        "are never cut",
    )
    batch: int = Field(4, ge=1, description="tiles in a batch")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to search; the newest image if not given")


class DetectScoreSettings(Settings):
    """Settings of scoring boxes."""

    structures: StructureNames = Field(
        (),
        description="structure to score; repeat it for several; all annotated and detected ones if "
        "not given",
    )
    images: Literal["unseen", "all"] = Field(
        "unseen",
        description="unseen: images that were not used for training or validation and not "
        "excluded; all: all annotated images",
    )


class MasksSettings(Settings):
    """Settings of masks in boxes."""

    structures: StructureNames = Field(
        (),
        description="structure to make masks of; repeat it for several; all detected ones if not "
        "given",
    )
    sam: str | None = Field(
        None,
        description="Segment Anything Model: a folder with SAM, SAM-HQ, SAM 2 or SAM 3, or its "
        "name on the Hugging Face hub, such as facebook/sam-vit-base; outlines from gray levels if "
        "not given",
    )
    connectivity: Literal["2d", "3d"] = Field(
        "2d",
        description="2d: every box is an object; 3d: one mask for a stack, in which masks that "
        "touch across slices are one object",
    )
    keep_embeddings: bool = Field(
        False,
        description="keep the model's embeddings of tiles on disk, for masks of other boxes later",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
