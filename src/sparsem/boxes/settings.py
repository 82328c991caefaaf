"""Settings of the stages about boxes."""

from typing import Any, Literal

from pydantic import Field, field_validator

from sparsem.settings import Settings, StructureNames, named_values


class CountSettings(Settings):
    """Settings of counting: structures, and metadata of the samples."""

    structures: StructureNames = Field(
        (),
        description="structure to count; repeat it for several; all detected ones if not given",
    )
    metadata: str | None = Field(
        None,
        description="a .csv with a column 'sample' and others, such as subtype, tissue, grade",
    )


class BoxesSettings(Settings):
    """Settings of the import of boxes."""

    source: str | None = Field(
        None, description="annotated boxes: a COCO .json, a .csv, or a folder of YOLO labels"
    )
    from_labels: tuple[str, ...] = Field(
        (),
        description="instead of a file: draw boxes around the objects of an annotation, of labels "
        "or of a ground truth with this NAME; repeat it for several",
    )
    classes: dict[str, str] = Field(
        {},
        description="CLASS=NAME, the structure that a class of the file stands for, such as "
        "0=mitochondrion; repeat it for several",
    )
    min_px: float = Field(
        20,
        ge=0,
        description="minimum width and height of a box in pixels; smaller boxes are dropped as "
        "accidental clicks (20 in the thesis)",
    )
    on_invalid: Literal["refuse", "skip", "clip"] = Field(
        "refuse",
        description="what to do with invalid boxes: refuse the file; skip them, so that their "
        "images are not completely annotated; clip: like skip, but cut boxes at the border of "
        "their image",
    )
    unlisted_images: Literal["unknown", "empty"] = Field(
        "unknown",
        description="images that the file does not list: unknown, or annotated and empty",
    )
    image: str | None = Field(
        None, description="image that the boxes were drawn on; the raw image if not given"
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_values(value, "0=mitochondrion")
