"""Comparison of the ways of separating cells, on a sample with truth (Table 2 of the paper)."""

from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from pydantic import Field

from sparsem.cells.cells import CellsSettings, Way, cells
from sparsem.cells.track import TrackSettings, track
from sparsem.score.score import ScoreSettings, score
from sparsem.settings import Settings, SliceChoice, resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution

ALL_WAYS: tuple[Way, ...] = get_args(Way)[::-1]


class ExperimentSettings(Settings):
    """Which ways are compared, and on what."""

    cells: str = Field("cells", description="the annotation of cells")
    method: tuple[Way, ...] = Field(
        ALL_WAYS,
        description="a way of separating cells; repeat it for each; all of them if not given",
    )
    min_voxels: int = Field(
        0, ge=0, description="true cells with fewer voxels are left out of the mean Dice of cells"
    )
    dataset: str | None = Field(None, description="key of the ground truth inside a Zarr group")
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )


def cells_compared(
    sample: Sample,
    truth: str | Path | None = None,
    settings: ExperimentSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> dict[str, dict[str, float | None]]:
    """Table 2 of the paper for a sample: every way, tracked, and scored on the slices that are not labeled.

    Results stay in the sample as ``labels/NAME-WAY``; the table is ``tables/experiment_NAME``.

    Args:
        sample: as for ``cells``.
        truth: a labeled volume whose ids are those of the annotation; the sample's own ``truth/NAME`` if not given.
        settings: which ways.
        on: how the work is spread.

    Returns:
        Way -> scores (see ``instance_scores``).

    Raises:
        SampleError, InputError: as ``cells``, ``track`` and ``score`` do.
    """
    settings = resolve_settings(ExperimentSettings, settings, changes)
    is_own = truth is None
    source = sample.volume("truth", settings.cells).directory if is_own else truth
    slices = (
        "all" if is_own else settings.truth_slices
    )  # ground truth that was made with the sample is complete
    scoring = ScoreSettings(
        instances=True, min_voxels=settings.min_voxels, dataset=settings.dataset, slices=slices
    )
    rows: dict[str, dict[str, Any]] = {}
    for way in settings.method:
        name = f"{settings.cells}-{way}"
        cells(
            sample,
            CellsSettings.model_validate({"cells": settings.cells, "method": way, "out": name}),
            on=on,
        )
        track(sample, TrackSettings(cells=name), on=on)
        rows[way] = score(sample, name, source, scoring, on=on).of_cells("unseen")
    columns = {key: [row[key] for row in rows.values()] for key in next(iter(rows.values()), {})}
    sample.write_table(f"experiment_{settings.cells}", pa.table({"way": list(rows), **columns}))
    return rows
