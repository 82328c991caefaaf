"""Settings of the stage ``score``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from sparsem.annotation.settings import GroundTruthSettings
from sparsem.settings import SliceChoice, parsed_slices


class ScoreSettings(GroundTruthSettings):
    """Labels and ground truth that are compared."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Objects": ("instances", "matching", "min_voxels"),
    }

    labels: str | None = Field(
        None,
        description="the labels to compare; if not given, NAME-constrained where they exist, "
        "else NAME",
    )
    trained_slices: SliceChoice | None = Field(
        None,
        description="slices that the labels were trained on, as 3,10,17 or 'none', where the "
        "sample does not know them: imported labels",
    )
    with_drawn: bool = Field(
        False,
        description="compare the labels with the slices and corrections that a person drew in "
        "them; these score too high, so if not given they are left out",
    )
    instances: bool = Field(
        False,
        description="compare object by object too: Dice per cell, adapted Rand error, VOI, PQ, AP, "
        "F1, splits, mergers, counts; of a mask its numbered objects, see 'sparsem objects'",
    )
    matching: Literal["2d", "3d"] | None = Field(
        None,
        description="with --instances: match objects in 3d, or in 2d slice by slice, where the "
        "numbers of the ground truth do not agree between slices (default: what the ground truth "
        "shows)",
    )
    min_voxels: int = Field(
        0,
        ge=0,
        description="with --instances: smaller objects count as background, in labels and ground "
        "truth; pixels of a slice with --matching 2d",
    )

    @field_validator("trained_slices")
    @classmethod
    def _is_a_list(cls, value: str | None) -> str | None:
        if value not in (None, "", "none"):
            parsed_slices(value)
        return value
