"""The stage ``review``: the places of a result where a correction helps most."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.precedence import Drawing, known_voxels, read_drawing
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.review.accepted import review_places
from sparsem.review.places import ReviewPlace, review_table
from sparsem.review.settings import ReviewSettings
from sparsem.review.uncertain import CubeGrid, step_sums, uncertain_places
from sparsem.settings import nearest, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, Stage, fingerprint_of, forget, link_arrays


@dataclass(frozen=True)
class Review(StageResult):
    """Result of ``review``.

    Attributes:
        places: places to review that were not accepted, the most important first.
        accepted: number of places that a person accepted.
    """

    places: tuple[ReviewPlace, ...]
    accepted: int


def review(
    sample: Sample,
    structure: str,
    settings: ReviewSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Review:
    """List the places of a result where a correction helps most.

    Of a predicted structure, these are the places where the prediction is least certain; what a
    person labeled or corrected is certain. They are written to ``tables/review_NAME``. Of cells,
    they are the places that ``track`` wrote there. Places that were accepted in the window are left
    out.

    Args:
        sample: the sample.
        structure: name of the structure, or of the cells.
        settings: number of places; the defaults if None.
        on: how the work is distributed.
        changes: single settings that replace those of ``settings``.

    Raises:
        SampleError: the structure was not predicted, and there are no cells of this name.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(ReviewSettings, settings, changes)
    table = f"review_{structure}"
    written: tuple[str, ...] = ()
    if structure in sample.names("probabilities"):
        _write_uncertain_places(sample, structure, settings, on)
        written = (f"tables/{table}",)
    elif table not in sample.tables:
        names = dict.fromkeys([*sample.names("probabilities"), *_tracked(sample)])
        raise SampleError(
            f"{sample.path.name} has no prediction and no tracked cells of "
            f"'{structure}'{nearest(structure, list(names))} "
            "Run 'sparsem predict' or 'sparsem track' first."
        )
    n_listed = sample.read_table(table).num_rows
    places = review_places(sample, structure)
    return Review(
        sample=sample,
        written=written,
        places=tuple(places[: settings.n]),
        accepted=n_listed - len(places),
    )


def _tracked(sample: Sample) -> list[str]:
    """Return the names of structures and cells with a table of places to review."""
    return [name.removeprefix("review_") for name in sample.tables if name.startswith("review_")]


def _write_uncertain_places(
    sample: Sample, structure: str, settings: ReviewSettings, on: Execution
) -> None:
    volume = sample.volume("probabilities", structure)
    sample.transform_of(volume)  # refuses a volume of an image that was replaced since
    drawing = read_drawing(sample, structure)
    inputs = {"probabilities": volume.fingerprint, "drawing": fingerprint_of(drawing.record)}
    # The places of an earlier call may be those of other probabilities.
    on = replace(on, overwrite=True)
    table, stage_name = f"review_{structure}", f"review-{structure}"
    if table not in sample.tables:
        forget(sample, stage_name)
    with Stage(sample, stage_name, settings, inputs, [], on, _needs(volume)) as stage:
        if not stage.finished:
            grid = CubeGrid.of(volume.voxel_size)
            slice_sums = _sum_slices(stage, volume, drawing, grid)
            places = uncertain_places(volume, slice_sums, grid, settings.n)
            sample.write_table(table, review_table(places))


def _needs(volume: Volume) -> Needs:
    """Return the memory of a block with its known voxels, and of the sums of all slices."""
    n_slices, y, x = volume.shape
    _, step_y, step_x = CubeGrid.of(volume.voxel_size)
    sums = 16 * n_slices * (y // step_y + 1) * (x // step_x + 1)
    return Needs(ram=4 * volume.block_depth * y * x + sums, smaller="use fewer --workers")


def _sum_slices(
    stage: Stage, volume: Volume, drawing: Drawing, grid: CubeGrid
) -> NDArray[np.float32]:
    """Return the entropy of every slice, summed over squares: (n slices, rows, columns)."""
    blocks = volume.blocks()
    chains = {_chain_name(block): [block] for block in blocks}
    folder = stage.chain(stage.name, _sum_block, chains, volume, drawing, grid)
    sums = [link_arrays(folder, _chain_name(block), 0)["bits"] for block in blocks]
    return np.concatenate([np.asarray(block_sums[...]) for block_sums in sums])


def _chain_name(block: ZBlock) -> str:
    return f"slices-{block.start}"


def _sum_block(
    block: ZBlock, _previous: None, volume: Volume, drawing: Drawing, grid: CubeGrid
) -> Arrays:
    return {"bits": step_sums(volume.read(block.own), known_voxels(drawing, block), grid)}
