"""Settings of the import of a stack."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from sparsem.settings import Range, Settings, VoxelNm

# Signedness of the bytes of an MRC file (mode 0).
MrcBytes = Literal["signed", "unsigned"]
# Numbers that are read from a "min is white" TIFF.
MinIsWhite = Literal["stored", "displayed"]


class ImportSettings(Settings):
    """Settings of the import of a stack."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Reading": ("dataset", "channel", "time", "mrc_bytes", "min_is_white", "bits"),
        "Gray levels and labels": ("intensity_range", "label_type", "background"),
    }

    voxel_nm: VoxelNm | None = Field(
        None,
        description="voxel size in nm, in the order z y x, such as 50 4 4; "
        "required if the file does not state it",
    )
    non_square_pixels: bool = Field(
        False, description="accept a voxel size whose y and x differ; the order is z y x"
    )
    dataset: str | None = Field(
        None,
        description="key of the array in a Zarr group, an HDF5 or a MATLAB file; "
        "number of the image in a TIFF that holds several",
    )
    channel: int | None = Field(
        None, ge=0, description="number of the channel, in a stack with several; the first is 0"
    )
    time: int | None = Field(
        None, ge=0, description="number of the time point, in a series of stacks; the first is 0"
    )
    missing: Literal["refuse", "repeat", "join", "fill"] = Field(
        "refuse",
        description="how to handle missing data. Slices that a series of files lacks: repeat puts "
        "a copy of the slice before in their place, join closes the gap. Chunks, pages or files "
        "that a stack lacks: fill reads them as their fill value, mostly black",
    )
    mrc_bytes: MrcBytes | None = Field(
        None,
        description="signedness of the bytes of an MRC file (mode 0); "
        "needed only where its header does not state it",
    )
    montage: bool = Field(
        False,
        description="import images of any size that form no stack (a montage); "
        "each is a slice of its own, and detect searches them tile by tile",
    )
    intensity_range: Range | None = Field(
        None,
        description="numbers that become black and white; not needed for 8 and 16 bit unsigned; "
        "by default, 0.1 % of the pixels lie beyond each",
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="numbers to read from a 'min is white' TIFF: stored (as napari reads them) or "
        "displayed (as Fiji shows them); images are read as displayed by default",
    )
    label_type: Literal["mask", "objects"] | None = Field(
        None,
        description="with --as-labels: mask (every number but 0 is the structure) or objects "
        "(each number is one object); by default, labels with one number are a mask",
    )
    background: int | None = Field(
        None,
        description="with --as-labels: a number that is background in addition to 0, such as -1",
    )
    bits: Literal[8, 16] | None = Field(
        None,
        description="bits per voxel of the image; by default, 8 for one-byte numbers, else 16",
    )
    block_depth: int = Field(
        16,
        ge=1,
        description="slices per z-block, the unit of work, of resuming, and of chunks on disk",
    )
