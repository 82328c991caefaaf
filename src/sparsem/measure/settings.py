"""Settings of the stages that measure, and of the comparison of groups."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from sparsem.settings import Range, Settings, StructureNames, named_values

Fill = Literal["3d", "2d"]
Element = Literal["box", "ball"]


class MeasureSettings(Settings):
    """Settings of ``measure``: structures, lengths and gray levels."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Objects": ("min_voxels", "min_volume_um3", "fill", "protrusion_nm"),
        "Texture": (
            "texture",
            "gray_levels",
            "gray_range",
            "texture_nm",
            "glcm_nm",
            "spectrum_sizes",
            "spectrum_step_nm",
            "spectrum_element",
        ),
    }

    structures: StructureNames = Field(
        (), description="structures to measure; if not given, all structures with labels"
    )
    cells: str = Field("cells", description="name of the cells")
    nucleus: str = Field("nucleus", description="name of the nuclei")
    nucleolus: str = Field("nucleolus", description="name of the nucleoli")
    image: str | None = Field(
        None,
        description="image whose texture is measured; if not given, the image of the labels",
    )
    min_voxels: int | None = Field(
        None,
        ge=1,
        description="minimum object size in voxels; smaller objects of a mask are counted but not "
        "measured (default: as 'sparsem objects' numbered them, else 27)",
    )
    min_volume_um3: dict[str, float] = Field(
        {},
        description="minimum object size of a structure in cubic micrometers, NAME=VOLUME; smaller "
        "components of its mask are counted but not measured",
    )
    max_mvoxels: float = Field(
        32,
        gt=0,
        description="maximum size in million voxels of the largest object of a structure; larger "
        "objects are read at a coarser level for texture, cavities, distances and protrusions",
    )
    texture: bool = Field(True, description="measure the texture of all structures but the cells")
    gray_levels: int = Field(
        64, ge=2, le=255, description="number of gray levels for co-occurrence and size zones"
    )
    gray_range: Range | None = Field(
        None,
        description="image values where the first gray level begins and the last one ends; if not "
        "given, 0 and 256 for 8 bit, else the 0.1st and 99.9th percentile",
    )
    texture_nm: float | None = Field(
        None,
        gt=0,
        description="voxel edge at which texture is measured; if not given, that of the finest "
        "level whose voxels are less than twice as long as wide",
    )
    glcm_nm: float | None = Field(
        None,
        gt=0,
        description="distance between the voxels of a pair for co-occurrence; if not given, the "
        "longest edge of a voxel",
    )
    spectrum_sizes: int = Field(
        8, ge=1, description="number of openings, and of closings, of the pattern spectrum"
    )
    spectrum_step_nm: float | None = Field(
        None,
        gt=0,
        description="length from one size of the pattern spectrum to the next; if not given, the "
        "longest edge of a voxel",
    )
    spectrum_element: Element = Field("ball", description="structuring element: ball or box")
    fill: Fill = Field("3d", description="fill cavities in 3d, or in 2d slice by slice")
    protrusion_nm: float = Field(
        400, gt=0, description="width below which parts of a cell are protrusions"
    )

    @field_validator("min_volume_um3", mode="before")
    @classmethod
    def _parse_min_volumes(cls, value: Any) -> Any:
        return named_values(value, "nucleus=0.5")

    @field_validator("gray_range")
    @classmethod
    def _check_ascending(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits and limits[0] >= limits[1]:
            raise ValueError("the first number must be smaller than the second")
        return limits


class ContactSettings(Settings):
    """Settings of the stage ``contacts``."""

    distance_nm: float = Field(
        30, gt=0, description="largest distance of two surfaces that are in contact"
    )


class SkeletonSettings(Settings):
    """Settings of the stage ``skeletons``."""

    max_mvoxels: float = Field(
        16,
        gt=0,
        description="maximum size in million voxels of the largest object; larger objects are "
        "thinned at a coarser level",
    )


class SampleGroup(Settings):
    """Samples that are one group. Paths are relative to the file."""

    name: str = Field(min_length=1, description="name of the group, such as control")
    samples: tuple[str, ...] = Field(
        min_length=1, description="measured samples, or patterns such as control/*.zarr"
    )


class ComparisonSettings(Settings):
    """Groups of samples to compare."""

    group: tuple[SampleGroup, ...] = Field(
        min_length=2, description="samples of one kind; one [[group]] for each"
    )
    out: str = Field("compared", description="folder for the tables")
    by: Literal["sample", "cell"] = Field(
        "sample",
        description="unit of statistics: each sample, or each cell, is one value, the median of "
        "its objects; cells of one sample are not independent",
    )
    structures: StructureNames = Field(
        (), description="structures to compare; if not given, all that every sample has"
    )
    measures: tuple[str, ...] = Field(
        (),
        description="columns to compare, such as volume_um3; if not given, all. Name few: p is "
        "corrected for all tests",
    )
    cut: bool = Field(
        False, description="use objects that the border cuts, too, although their numbers are wrong"
    )
