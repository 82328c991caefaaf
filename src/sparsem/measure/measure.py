"""The stage ``measure``: a tidy table for each structure, one row an object, and one for cells.

The passes run one after the other, each in parallel over blocks or crops:

1. ``moments_pass``: sums over the voxels of all objects, and their overlaps with cells and nuclei.
2. ``surface_pass``: surfaces, and the corners of the objects' slices.
3. ``hull_pass``: convex hulls and Feret diameters, from these corners.
4. ``nucleolus_pass``, ``texture_pass`` and ``cell_pass``: measures of single objects in crops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.measure.cell_pass import measure_cells
from sparsem.measure.features.outline import outline_columns
from sparsem.measure.features.shape import shape_columns
from sparsem.measure.features.surface import surface_reach
from sparsem.measure.hull_pass import run_hull_pass
from sparsem.measure.inputs import number_masks, select_image, select_labels
from sparsem.measure.lost_slices import cross_gaps, lost_slice_positions
from sparsem.measure.moments_pass import sum_voxels
from sparsem.measure.nucleolus_pass import measure_nucleoli
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import MeasuredStructure
from sparsem.measure.surface_pass import combine_surfaces, run_surface_pass
from sparsem.measure.tables import (
    forget_incomplete_result,
    measured_tables,
    write_measure_tables,
)
from sparsem.measure.texture_pass import measure_textures
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Stage, fingerprint_of

# Bytes of memory for each voxel of a block, of the slices that a surface depends on, and of the
# budget.
BLOCK_BYTES_PER_VOXEL = 12
WINDOW_BYTES_PER_VOXEL = 5
CROP_BYTES_PER_VOXEL = 30


@dataclass(frozen=True)
class MeasureSummary(StageResult):
    """The result of ``measure``.

    Attributes:
        objects: number of objects of each structure.
        tables: names of the tables.
        summary: one row a structure, as in ``tables/measured``.
    """

    objects: Mapping[str, int]
    tables: tuple[str, ...]
    summary: pa.Table


def measure(
    sample: Sample, settings: MeasureSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> MeasureSummary:
    """Measure every object of every structure, and every cell.

    Writes ``tables/NAME`` for each structure (units are in the names of the columns),
    ``tables/pattern_NAME`` (pattern spectra), ``tables/protrusions``, ``tables/measured`` (one row
    a structure), ``tables/statistics`` (quartiles of every measure, per object and per cell) and
    ``tables/dictionary`` (the meaning of every column). Masks are first split into
    connected objects (``labels/NAME-objects``); labels that number objects are taken as they are.

    In separate images (``import --montage``), which no depth connects, objects have an area and an
    outline instead of a volume and a surface, and their positions within cells and nuclei are not
    measured.

    Shape is measured at full resolution, whatever the size of an object. Texture, cavities,
    distances and protrusions are measured at the level of the pyramid at which the largest object
    of the structure fits the budget; each row contains this level.

    Raises:
        SampleError: there is nothing to measure; a structure is missing, or differs from the others
            in shape or voxel size.
        ResumeError: there are tables of other labels or settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(MeasureSettings, settings, changes)
    labels = select_labels(sample, settings)
    image = select_image(sample, settings, next(iter(labels.values())))
    forget_incomplete_result(sample)
    volumes, small_components = number_masks(sample, labels, settings, on)
    inputs = _inputs_of(sample, labels, volumes, image)
    needs = _needs(volumes, settings)
    with Stage(sample, "measure", settings, inputs, [], on, needs) as stage:
        if not stage.finished:
            structures, protrusions = _run_passes(stage, volumes, image, settings)
            _flag_gaps(structures, lost_slice_positions(sample))
            stage.forget()
            write_measure_tables(
                sample, structures, small_components, protrusions, settings, labels
            )
    return _summary_of(sample)


def _flag_gaps(structures: Mapping[str, MeasuredStructure], gaps: NDArray[np.int64]) -> None:
    """Add a column that flags the objects of a stack within which slices are lost."""
    for structure in structures.values():
        if not structure.is_in_images:
            moments = structure.moments
            is_crossing = cross_gaps(moments.low[:, 0], moments.high[:, 0] - 1, gaps)
            structure.columns["crosses_gap"] = is_crossing


def _inputs_of(
    sample: Sample,
    labels: Mapping[str, Volume],
    volumes: Mapping[str, Volume],
    image: Volume | None,
) -> dict[str, str]:
    """Return the fingerprints of labels, of their objects, of the image and of lost slices."""
    inputs = {f"labels/{name}": volume.fingerprint for name, volume in labels.items()}
    for name, volume in volumes.items():
        if volume.directory != labels[name].directory:
            inputs[f"objects of {name}"] = volume.fingerprint
    if image:
        inputs["image"] = image.fingerprint
    gaps = lost_slice_positions(sample)
    if len(gaps):
        inputs["lost slices"] = fingerprint_of({"before": gaps.tolist()})
    return inputs


def _run_passes(
    stage: Stage, volumes: Mapping[str, Volume], image: Volume | None, settings: MeasureSettings
) -> tuple[dict[str, MeasuredStructure], pa.Table | None]:
    """Measure everything: the structures, and the table of protrusions if cells are measured."""
    structures = _measure_shapes(stage, volumes, settings)
    # In separate images no object is around or within another one in depth.
    in_images = any(structure.is_in_images for structure in structures.values())
    if not in_images:
        measure_nucleoli(stage, structures, settings)
    if image:
        measure_textures(stage, structures, image, settings)
    protrusions = None if in_images else measure_cells(stage, structures, settings)
    return structures, protrusions


def _measure_shapes(
    stage: Stage, volumes: Mapping[str, Volume], settings: MeasureSettings
) -> dict[str, MeasuredStructure]:
    """Measure the shape of the objects of every structure, by three passes over the blocks."""
    structures = sum_voxels(stage, volumes, settings)
    surface_results = run_surface_pass(stage, structures)
    hulls = run_hull_pass(stage, structures, surface_results)
    for name, structure in structures.items():
        surface = combine_surfaces(surface_results, name, structure)
        columns_of = outline_columns if structure.is_in_images else shape_columns
        structure.columns = columns_of(
            structure.moments,
            surface,
            hulls[name],
            _ends_of(structure),
            structure.volume.voxel_size,
        )
    return structures


def _ends_of(structure: MeasuredStructure) -> NDArray[np.int64]:
    """Return where the volume ends around each object, (n, 3) z, y, x.

    Separate images may be smaller than the volume that holds them all.
    """
    volume = structure.volume
    depth, height, width = volume.shape
    slice_sizes = np.array(volume.sizes or [(height, width)] * depth, np.int64)
    sizes = slice_sizes[structure.moments.low[:, 0]]
    return np.column_stack([np.full(len(sizes), depth), sizes])


def _summary_of(sample: Sample) -> MeasureSummary:
    """Return the summary of the tables that are in the sample."""
    summary = sample.read_table("measured")
    names = summary["structure"].to_pylist()
    counts = summary["objects"].to_pylist()
    tables = tuple(measured_tables(sample))
    return MeasureSummary(
        sample=sample,
        written=tuple(f"tables/{table}" for table in tables),
        objects=dict(zip(names, counts, strict=True)),
        tables=tables,
        summary=summary,
    )


def _needs(volumes: Mapping[str, Volume], settings: MeasureSettings) -> Needs:
    """Return the memory that a block or a crop needs, whichever is larger."""
    volume = next(iter(volumes.values()))
    _, height, width = volume.shape
    window_depth = 2 * surface_reach(volume.voxel_size.micrometers) + 2
    bytes_per_pixel = (
        volume.block_depth * BLOCK_BYTES_PER_VOXEL + window_depth * WINDOW_BYTES_PER_VOXEL
    )
    block_bytes = height * width * bytes_per_pixel
    crop_bytes = int(settings.max_mvoxels * 1e6) * CROP_BYTES_PER_VOXEL
    return Needs(
        max(block_bytes, crop_bytes),
        smaller="use a smaller --max-mvoxels, fewer --workers, or import with a smaller "
        "--block-depth",
    )
