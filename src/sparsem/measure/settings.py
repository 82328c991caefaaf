"""Settings of ``measure``, and which label volumes of a sample are results."""

from typing import Any

from pydantic import Field, field_validator

from sparsem.labels.results import CONSTRAINED
from sparsem.measure.features.nucleolus import Fill
from sparsem.measure.features.pattern_spectrum import Element
from sparsem.settings import Settings, named_values
from sparsem.store.sample import Sample

STEPS = (
    "-interior",
    "-boundary",
    "-regions",
    "-objects",
    CONSTRAINED,
)  # labels that only lead to a result


class MeasureSettings(Settings):
    """What is measured, and with which lengths and gray levels."""

    structure: tuple[str, ...] = Field(
        (), description="structure to measure; repeat it for each; every result if not given"
    )
    cells: str = Field("cells", description="name of the cells")
    nucleus: str = Field("nucleus", description="name of the nuclei")
    nucleolus: str = Field("nucleolus", description="name of the nucleoli")
    image: str | None = Field(
        None,
        description="image whose texture is measured; the one that labels were made on if not given",
    )
    min_voxels: int = Field(
        27,
        ge=1,
        description="connected voxels of a mask that are fewer are specks, counted but not measured",
    )
    min_volume_um3: dict[str, float] = Field(
        {},
        description="NAME=VOLUME in cubic micrometers below which parts of a mask are specks too",
    )
    max_mvoxels: float = Field(
        32,
        gt=0,
        description="million voxels of a structure's largest object; beyond that a coarser level is read",
    )
    texture: bool = Field(True, description="measure texture (of all structures but cells)")
    gray_levels: int = Field(
        64, ge=2, le=255, description="gray levels of co-occurrence and size zones"
    )
    gray_range: tuple[float, float] | None = Field(
        None,
        description="image numbers of the first level and beyond the last; 0 256 for 8 bit, else the 0.1st and 99.9th percentile",
    )
    texture_nm: float | None = Field(
        None,
        gt=0,
        description="voxel edge of texture; the finest level with even voxels if not given",
    )
    glcm_nm: float | None = Field(
        None,
        gt=0,
        description="distance of pairs of voxels; the longest edge of a voxel if not given",
    )
    spectrum_sizes: int = Field(
        8, ge=1, description="openings and closings of the pattern spectrum"
    )
    spectrum_step_nm: float | None = Field(
        None, gt=0, description="by how much they grow; the longest edge of a voxel if not given"
    )
    spectrum_element: Element = Field("ball", description="structuring element: ball or box")
    fill: Fill = Field("3d", description="how cavities are filled: 3d, or 2d slice by slice")
    protrusion_nm: float = Field(
        400, gt=0, description="parts of a cell thinner than this are protrusions"
    )

    @field_validator("min_volume_um3", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_values(value, "nucleus=0.5")

    @field_validator("gray_range")
    @classmethod
    def _ascending(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits and limits[0] >= limits[1]:
            raise ValueError("the first number must be smaller than the second")
        return limits


def result_names(sample: Sample, cells: str) -> list[str]:
    """Names of the labels that are results: not steps on the way, and not other ways to separate the same cells."""
    return [
        name
        for name in sample.names("labels")
        if not name.endswith(STEPS) and not name.startswith(f"{cells}-")
    ]
