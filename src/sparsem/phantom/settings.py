"""Settings of synthetic tumor volumes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from sparsem.settings import Metavar, Settings, VoxelNm

MIN_EDGE = 32  # px


class PhantomSettings(Settings):
    """Settings of the tissue and of the microscope's faults. A fault of 0 is switched off."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Artifacts": (
            "noise",
            "drift_nm",
            "flicker",
            "curtaining",
            "charging",
            "defocus",
            "jump_nm",
            "bad_slices",
        ),
    }

    shape: Annotated[tuple[int, int, int], Metavar("Z Y X")] = Field(
        (48, 512, 512), description="voxels z y x"
    )
    voxel_nm: VoxelNm = Field((8, 8, 8), description="voxel size z y x in nm")
    cells: int = Field(6, ge=1, description="approximate number of whole cells in the volume")
    touching: bool = Field(
        False,
        description="mitochondria touch and form networks; truth/mitochondrion numbers them",
    )
    seed: int = Field(1, ge=0, lt=2**32, description="same seed, same volume")
    noise: float = Field(9.0, ge=0, description="detector noise, standard deviation in gray levels")
    drift_nm: float = Field(
        2.0, ge=0, description="stage drift from slice to slice, standard deviation in nm"
    )
    flicker: float = Field(
        3.0,
        ge=0,
        description="brightness change from slice to slice, standard deviation in gray levels",
    )
    curtaining: float = Field(
        2.5, ge=0, description="vertical stripes of the ion beam, standard deviation in gray levels"
    )
    charging: float = Field(
        0.0,
        ge=0,
        description="charged slices: bright and dark patches, maximum standard deviation in gray "
        "levels",
    )
    defocus: float = Field(
        0.0, ge=0, description="slices out of focus: blur, maximum standard deviation in px"
    )
    jump_nm: float = Field(
        0.0, ge=0, description="one jump of the stage, in the middle of the stack, in nm"
    )
    bad_slices: int = Field(
        0, ge=0, description="number of slices that charging has ruined: they show no tissue"
    )
    block_depth: int = Field(
        16, ge=1, description="slices in a z-block; does not change the volume"
    )

    @field_validator("shape")
    @classmethod
    def _is_large_enough(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(shape) < 1 or min(shape[1:]) < MIN_EDGE:
            raise ValueError(f"at least 1 slice of {MIN_EDGE} x {MIN_EDGE} voxels is needed")
        return shape
