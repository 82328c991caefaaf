"""Settings of the stages that change label volumes."""

from typing import Literal

from pydantic import Field

from sparsem.annotation.settings import BOX_EXAMPLE, GroundTruthSettings
from sparsem.settings import Settings, SliceChoice

ObjectMethod = Literal["agglomeration", "components"]


class CorrectSettings(GroundTruthSettings):
    """Corrected slices, and corrected parts of slices, in a file."""

    dataset: str | None = Field(
        None,
        description="key of the labels inside a Zarr group, an HDF5 or a MATLAB file; number of "
        "the image in a TIFF with several",
    )
    slices: SliceChoice | None = Field(
        None,
        description="the corrected slices: 3,10,17 or 10-20, 'all', or 'non-empty' (those that "
        "hold a label); not needed where file names carry the number, or every slice holds a label",
    )
    box: str | None = Field(None, description=f"the corrected part of the stack, as {BOX_EXAMPLE}")
    ids: tuple[int, ...] = Field(
        (), description="numbers of the structure in the file; every number except 0 if not given"
    )
    ignore: int | None = Field(
        None, description="number of pixels in the file that are not corrected, such as 255"
    )
    image: str | None = Field(
        None,
        description="the image whose pixels the file has, if it is not the one that the labels "
        "were made on: raw",
    )


class ObjectSettings(Settings):
    """Method by which the objects of a structure are separated, and their minimum size."""

    method: ObjectMethod | None = Field(
        None,
        description="agglomeration: objects that touch are separated where the boundary between "
        "them is predicted; components: connected components of the mask (default: agglomeration "
        "where that boundary was predicted, see 'train --objects')",
    )
    boundary_threshold: float = Field(
        0.5,
        gt=0,
        le=1,
        description="agglomeration: mean probability of a boundary from which on two parts stay "
        "separate; a smaller one separates more",
    )
    min_voxels: int = Field(
        27,
        ge=1,
        description="minimum object size in voxels; smaller objects are counted and left out",
    )
    min_volume_um3: float = Field(
        0, ge=0, description="minimum object size in cubic micrometers, in addition to voxels"
    )


class FillSettings(Settings):
    """Settings of filling objects."""

    slice_by_slice: bool = Field(
        False, description="also fill holes that are enclosed in a slice, and open above or below"
    )


class SplitSettings(Settings):
    """Settings of splitting an object."""

    probability: str | None = Field(
        None,
        description="probabilities along whose weakest voxels an object is split; if not given, "
        "those of the structure or of the interior of cells; without any, the object is split "
        "where it is narrowest",
    )
    max_mvoxels: float = Field(
        64,
        gt=0,
        description="million voxels in which an object is split; the boundary of a larger one is "
        "found at a coarser level",
    )


class StructureRoles(Settings):
    """Names of the structures that constraints apply to."""

    nucleus: str = Field("nucleus", description="name of the nuclei")
    nucleolus: str = Field("nucleolus", description="name of the nucleoli, which are inside nuclei")
    cytoplasm: tuple[str, ...] = Field(
        ("mitochondrion", "endosome", "lysosome"),
        description="name of a structure that is outside nuclei and inside cells; repeat it for "
        "each",
    )

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of all structures that constraints apply to."""
        return (self.nucleus, self.nucleolus, *self.cytoplasm)


class ConstrainSettings(StructureRoles):
    """Names of structures, and the constraints that apply."""

    cells: str = Field("cells", description="name of the cells")
    inside_cells: bool = Field(
        True, description="remove structures outside cells; needs labels of cells"
    )
