"""Settings of experiments."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, get_args

from pydantic import Field

from sparsem.cells.settings import SeparationMethod
from sparsem.settings import Settings, SliceChoice
from sparsem.training.settings import NetworkTrainingSettings

ALL_METHODS: tuple[SeparationMethod, ...] = get_args(SeparationMethod)[::-1]


class CellMethodsSettings(Settings):
    """Settings of a comparison of methods of separating cells."""

    cells: str = Field("cells", description="the annotation of cells")
    method: tuple[SeparationMethod, ...] = Field(
        ALL_METHODS,
        description="method of separating cells; repeat it for several; all if not given",
    )
    min_voxels: int = Field(
        0,
        ge=0,
        description="minimum size of a cell of the ground truth; smaller ones do not count in the "
        "mean Dice of cells",
    )
    dataset: str | None = Field(None, description="key of the ground truth inside a Zarr group")
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )


class ModelsSettings(NetworkTrainingSettings):
    """Settings of the comparison of networks, and of their trainings."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Experiment": ("networks", "n_slices", "minutes", "dataset", "truth_slices", "image"),
    }

    networks: tuple[str, ...] = Field(
        ("resunet", "unet", "unet++", "resunet+cps"),
        min_length=1,
        description="a network, with +cps or +mean-teacher for training on unlabeled slices too; "
        "repeat it for several",
    )
    n_slices: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 10, 15, 25),
        min_length=1,
        description="number of labeled slices to train on; repeat it for several",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="duration of every training on this machine; if not given, --updates each",
    )
    dataset: str | None = Field(
        None, description="key of the ground truth inside a Zarr group or an HDF5 file"
    )
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )


class SlicesSettings(NetworkTrainingSettings):
    """Settings of the experiment on numbers of slices and tile sizes, and of its trainings."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Experiment": ("n_slices", "contexts_px", "repeats", "dataset", "truth_slices", "image"),
    }

    n_slices: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 10, 15, 25, 50),
        min_length=1,
        description="number of labeled slices to train on; repeat it for several",
    )
    contexts_px: tuple[Annotated[int, Field(ge=16)], ...] = Field(
        (),
        description="edge of a tile in the image, px; repeat it for several; "
        "--context-px if not given",
    )
    repeats: int = Field(
        3,
        ge=1,
        description="trainings for each number of slices and tile size, with other seeds and other "
        "slices",
    )
    dataset: str | None = Field(
        None, description="key of the ground truth inside a Zarr group or an HDF5 file"
    )
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )
