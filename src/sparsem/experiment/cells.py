"""Comparison of the methods of separating cells, on a sample with ground truth (paper, Table 2)."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from sparsem.cells.cells import cells
from sparsem.cells.settings import CellsSettings, SeparationMethod, TrackSettings
from sparsem.cells.track import track
from sparsem.experiment.settings import CellMethodsSettings
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.settings import resolve_settings
from sparsem.store.names import METHOD
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution


def compare_cell_methods(
    sample: Sample,
    truth: str | Path | None = None,
    settings: CellMethodsSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> dict[str, dict[str, float | None]]:
    """Separate and track cells by every method, and score them on the unlabeled slices.

    This is Table 2 of the paper for a sample. Results stay in the sample as ``labels/NAME-METHOD``;
    the table is ``tables/experiment_NAME``.

    Args:
        sample: sample as for ``cells``.
        truth: a labeled volume whose ids are those of the annotation; the sample's own
            ``truth/NAME`` if not given.
        settings: methods.
        on: how the work is distributed.

    Returns:
        Method -> scores (see ``instance_scores``).

    Raises:
        SampleError, InputError: as ``cells``, ``track`` and ``score`` do.
    """
    settings = resolve_settings(CellMethodsSettings, settings, changes)
    scoring = _scoring_of(settings)
    if truth is None:
        truth = sample.volume("truth", settings.cells).directory
        # Ground truth that was generated with the sample is complete.
        scoring["slices"] = "all"
    scores: dict[str, dict[str, float | None]] = {}
    for method in settings.method:
        name = _separate_and_track(sample, settings.cells, method, on)
        result = score(sample, name, truth, ScoreSettings.model_validate(scoring), on=on)
        scores[method] = result.of_cells("unseen")
    sample.write_table(f"experiment_{settings.cells}", _score_table(scores))
    return scores


def _scoring_of(settings: CellMethodsSettings) -> dict[str, Any]:
    """Return the settings of ``score`` that a comparison uses."""
    return {
        "instances": True,
        "min_voxels": settings.min_voxels,
        "dataset": settings.dataset,
        "slices": settings.truth_slices,
    }


def _separate_and_track(
    sample: Sample, annotation: str, method: SeparationMethod, on: Execution
) -> str:
    """Separate and track cells by a method, and return the name of their labels."""
    name = f"{annotation}{METHOD}{method}"
    separation = CellsSettings(cells=annotation, method=method, out=name)
    cells(sample, separation, on=on)
    track(sample, TrackSettings(cells=name), on=on)
    return name


def _score_table(scores: dict[str, dict[str, float | None]]) -> pa.Table:
    """Return one row for each method, one column for each score."""
    columns: dict[str, list[Any]] = {"method": list(scores)}
    first_row: dict[str, float | None] = next(iter(scores.values()), {})
    for column in first_row:
        columns[column] = [row[column] for row in scores.values()]
    return pa.table(columns)
