"""Settings of pages, renderings and files for other programs."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from sparsem.settings import Settings, SliceChoice, SliceNumbers, StructureNames, named_values

Axis = Literal["z", "y", "x"]


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


class ExportSettings(Settings):
    """Pixels of exported voxels, and resolution of exported meshes."""

    cells: str = Field("cells", description="name of the cells")
    object: int | None = Field(
        None, ge=1, description="write the mesh of this object of one structure only"
    )
    onto: str | None = Field(
        None,
        description=(
            "move voxels onto the pixels of this image, such as raw, if alignment moved them"
        ),
    )
    slices: SliceNumbers = Field(
        (), description="write only these slices, in this order: 0,13,26 or 10-20"
    )
    max_mvoxels: float = Field(
        48,
        gt=0,
        description="million voxels of an object, or of a structure whose objects have no numbers, "
        "from which a mesh is made; beyond that a coarser level is read",
    )
    triangles: int | None = Field(
        None,
        ge=0,
        description="approximate number of triangles of all meshes together; 0 for no limit; "
        "default: as many as a GLB file of 5 MB holds",
    )


class RenderSettings(Settings):
    """Structures to draw, and the view of them."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "View": (
            *("object", "object_colors", "cut", "cut_at", "opacity"),
            *("azimuth", "elevation", "background"),
        ),
        "Resolution": ("width", "height", "max_mvoxels", "triangles"),
        "Video": ("seconds", "frames_per_second"),
    }

    structures: StructureNames = Field(
        (), description="structure to draw; repeat it for several; default: every result"
    )
    cells: str = Field("cells", description="name of the cells")
    object: str | None = Field(
        None,
        description=(
            "NUMBER, draw this object of the structure alone; or NAME=NUMBER, draw this object of "
            "the table NAME, the objects inside it, and the nucleus and the cell around it"
        ),
    )
    object_colors: bool = Field(
        False, description="draw every numbered object in a color of its own"
    )
    cut: Axis | None = Field(
        None, description="cut open across this axis to show the inside: z, y or x"
    )
    cut_at: float = Field(
        0.5, ge=0, le=1, description="position of the cut, as a fraction of the length"
    )
    opacity: dict[str, float] = Field(
        {},
        description=(
            "NAME=OPACITY of a structure, 0 to 1; default: 0.2 for cells and 0.35 for nuclei "
            "around other structures, 1 for all others"
        ),
    )
    azimuth: float = Field(30, description="rotation of the view around the vertical axis, degrees")
    elevation: float = Field(25, ge=-90, le=90, description="elevation of the view, degrees")
    width: int = Field(1600, ge=64, le=8192, description="width of the rendering, pixels")
    height: int = Field(1200, ge=64, le=8192, description="height of the rendering, pixels")
    max_mvoxels: float = Field(
        48,
        gt=0,
        description=(
            "million voxels that are read per structure; a coarser level is read beyond that"
        ),
    )
    triangles: int | None = Field(
        None,
        ge=0,
        description="maximum triangles per structure; 0 for no limit; default: 2 million, and "
        "300,000 in a turntable",
    )
    background: str = Field("white", description="a color, such as white, black or #202830")
    seconds: float = Field(8, gt=0, description="length of a turntable video")
    frames_per_second: int = Field(25, ge=1, description="frame rate of a turntable video")

    @field_validator("opacity", mode="before")
    @classmethod
    def _parse_opacity(cls, value: Any) -> Any:
        return named_values(value, "nucleus=0.3")
