"""Settings of the stage ``report``."""

from typing import Any

from pydantic import Field, field_validator

from sparsem.settings import Settings, SliceChoice, StructureNames, named_values


class ReportSettings(Settings):
    """Contents of the page."""

    title: str = Field("sparsem report", description="title of the page")
    structures: StructureNames = Field(
        (), description="structure to show; repeat it for several; default: every result"
    )
    cells: str = Field("cells", description="name of the cells")
    truth: dict[str, str] = Field(
        {},
        description="NAME=VOLUME, ground truth to show next to the result; repeat it for several",
    )
    truth_slices: dict[str, SliceChoice] = Field(
        {},
        description=(
            "NAME=SLICES, the slices that the ground truth labels: 3,10,17, 'non-empty', or "
            "'all'; not needed if every slice contains a label"
        ),
    )
    n_slices: int = Field(
        24, ge=1, description="number of slices on the page, of all samples together"
    )
    pixels: int = Field(900, ge=64, description="longest edge of a slice on the page, in pixels")
    triangles: int = Field(
        240_000, ge=100, description="triangles of the 3D scenes, of all samples together"
    )

    @field_validator("truth", mode="before")
    @classmethod
    def _parse_truth(cls, value: Any) -> Any:
        return named_values(value, "nucleus=all_nuclei.tif")

    @field_validator("truth_slices", mode="before")
    @classmethod
    def _parse_truth_slices(cls, value: Any) -> Any:
        return named_values(value, "nucleus=3,10,17")
