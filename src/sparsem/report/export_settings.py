"""Settings and result of the stage ``export``."""

from dataclasses import dataclass

from pydantic import Field

from sparsem.settings import Settings, SliceNumbers
from sparsem.workflow.result import FileResult


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


@dataclass(frozen=True)
class ExportResult(FileResult):
    """The result of ``export``.

    Attributes:
        meshes: number of meshes; 0 for voxels and tables.
        triangles: triangles of all meshes.
        simplification: how meshes were simplified, as a sentence; empty if they were not.
    """

    meshes: int = 0
    triangles: int = 0
    simplification: str = ""
