"""Settings of the stages ``cells`` and ``track``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from sparsem.image.settings import FlowSettings
from sparsem.settings import Settings

SeparationMethod = Literal[
    "arrival", "per_frame", "selective", "mask_flow", "flow", "mask_border", "mask"
]
SeedPoint = Literal["deepest", "centroid"]


class PropagationSettings(FlowSettings):
    """Settings of the propagation of labels."""

    seed_point: SeedPoint = Field(
        "deepest",
        description="position of the seed in a cell: deepest (the point farthest from the edge), "
        "or centroid as in the paper",
    )


class CellsSettings(PropagationSettings):
    """Settings of the separation of cells."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Separation": (
            "outline_margin_nm",
            "min_iou",
            "min_island_nm2",
            "fill_holes_um2",
            "new_cells_um3",
        ),
    }

    cells: str = Field(
        "cells",
        description="annotation of cells; the network's output is read from NAME-interior and "
        "NAME-boundary",
    )
    method: SeparationMethod = Field(
        "arrival",
        description="method of separation: arrival, or one of the six methods of Table 2",
    )
    out: str | None = Field(
        None, description="name of the result; that of the annotation if not given"
    )
    image: str | None = Field(
        None, description="image for the optical flow; the one that was predicted if not given"
    )
    outline_margin_nm: float = Field(
        20,
        ge=0,
        description="boundaries within this distance of the outline of all cells do not cut "
        "(the paper: 5 px)",
    )
    min_iou: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="minimum IoU of a region with the labels that the flow carried from the same "
        "cell; below, the region does not get the cell's id",
    )
    min_island_nm2: float = Field(
        2500, ge=0, description="minimum area of an island; smaller ones are removed"
    )
    fill_holes_um2: float = Field(
        1.0,
        ge=0,
        description="maximum area of a hole that is filled: one cell encloses it in a slice, as "
        "happens with organelles",
    )

    new_cells_um3: float = Field(
        0.0,
        ge=0,
        description="minimum volume of a new cell: tissue behind boundaries that no labeled slice "
        "shows gets an id of its own instead of that of a neighbor; 0 for none",
    )

    @model_validator(mode="after")
    def _new_cells_need_costs(self) -> Self:
        if self.new_cells_um3 and self.method != "arrival":
            raise ValueError(
                f"--new-cells-um3 needs the costs of --method arrival, not {self.method}"
            )
        return self

    @property
    def name(self) -> str:
        """Name of the result."""
        return self.out or self.cells


class TrackSettings(Settings):
    """Settings of tracking islands."""

    cells: str = Field(
        "cells", description="name of the result of cells, and of the result of track"
    )
    min_volume_um3: float = Field(
        0.02,
        ge=0,
        description="minimum volume of an object that never meets an annotated cell; "
        "smaller ones are left out of the result",
    )
    window_px: int = Field(
        512,
        ge=8,
        description="edge of the square around an island in which its IoU with other regions is "
        "computed",
    )
