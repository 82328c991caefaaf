"""The stage ``cells``: cells in every slice, from a network's output and a few labeled slices.

Labels are propagated from every labeled slice up and down to its labeled neighbors (``propagate``).
This is the only sequential work; it is done on the grid of the flow, and every direction of every
interval is independent. Each slice is then separated on its own and brought to full resolution.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem import __version__
from sparsem.annotation.labeled_slices import (
    LabeledSlices,
    annotations_on,
    outputs_of_cells,
    read_annotation,
)
from sparsem.cells.agreement import agreed_labels
from sparsem.cells.disagreement import (
    Disagreement,
    disagreement_map,
    largest_disagreements,
    nearer_front,
)
from sparsem.cells.intervals import (
    Fronts,
    Leg,
    fronts_to_arrays,
    plan_legs,
    seeds_of_nearest_slice,
    slice_fingerprints,
    whole_intervals,
)
from sparsem.cells.job import SeparationJob
from sparsem.cells.new_cells import (
    MAX_NEW_PER_SLICE,
    SeededLeg,
    both_sides,
    find_new_cells,
    read_seeds,
    seeded_legs,
)
from sparsem.cells.propagate import ArrivalCarrier, Front, GridSlice
from sparsem.cells.refine import enlarge_labels, fill_region_holes, number_islands, refine_labels
from sparsem.cells.separate import Evidence, Labels, Mask, Seeds, separate_cells
from sparsem.cells.settings import CellsSettings
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock
from sparsem.image.flow import volume_window
from sparsem.labels.overlaps import label_sizes, resample_labels
from sparsem.settings import resolve_settings
from sparsem.store.names import DISAGREEMENT, REGIONS, checked_separation
from sparsem.store.sample import Sample
from sparsem.store.volume import FOREGROUND, Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, BlockResult, Stage

# OpenCV resamples labels of 16 bit.
MAX_CELLS_PER_SLICE = 65_000
MAX_ISLANDS_PER_SLICE = 2**20
# Larger ids of cells leave no room for the numbers of islands.
MAX_ID = 2**32 - MAX_ISLANDS_PER_SLICE
# Islands are numbered from the next multiple of it.
ISLAND_STEP = 2**16


def cells(
    sample: Sample, settings: CellsSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> StageResult:
    """Separate cells in every slice.

    Writes ``labels/NAME-regions``: in every slice, each cell under its annotated id, and every
    island under a number from 65,536 on. Where ids are that large, islands begin at the next
    multiple of it. New cells, if they are looked for (see ``new_cells``), have ids between those of
    annotated cells and the numbers of islands. Also writes ``probabilities/NAME-disagreement``:
    where labels from the two sides disagree. ``track`` then joins islands to cells.

    After a labeled slice was corrected or added, ``on.overwrite`` recomputes only the slices up to
    its labeled neighbors; the others are copied.

    Args:
        sample: sample with an annotation of cells and the output of ``predict`` of a model that was
            trained with ``cells``.
        settings: method, flow, seeds.
        on: how the work is distributed; directions of intervals run in parallel, then blocks.

    Returns:
        The paths of the volumes in the sample.

    Raises:
        SampleError: there is no such annotation or there are no such probabilities, or the
            annotation belongs to another image.
        InputError: no labeled slice holds a cell, ids leave no room for islands or new cells, or
            too many new cells begin in one slice.
        ResumeError: there is a result of other settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(CellsSettings, settings, changes)
    checked_separation(settings.name)
    # An annotation that does not exist is reported before missing probabilities.
    read_annotation(sample, settings.cells)
    interior, boundary = (_probability(sample, name) for name in outputs_of_cells(settings.cells))
    image_name = settings.image or sample.name_of_image(interior)
    image, annotations = annotations_on(sample, [settings.cells], image_name)
    for probability in (interior, boundary):
        _require_pixels_of_image(sample, probability, image_name, image, settings.cells)
    annotation = annotations[settings.cells]
    prints, first_new = _inspect_annotation(annotation, settings.cells)
    base = _last_id_of_cells(first_new, image.shape[0], settings)
    job = SeparationJob(
        sample=sample,
        image_name=image_name,
        image=image,
        interior=interior,
        boundary=boundary,
        settings=settings,
        grid=settings.grid_shape(image.shape[1:]),
        z=annotation.z,
        base=base,
        first_new=first_new,
        window=volume_window(image),
    )
    return _run_job(job, annotation.fingerprint, prints, on)


def _require_pixels_of_image(
    sample: Sample, probability: Volume, image_name: str, image: Volume, cells_name: str
) -> None:
    """Check that a probability was predicted on an image of the same pixels.

    Raises:
        SampleError: the image is aligned differently.
    """
    if not sample.transform_of(probability).is_same(sample.transform_of(image)):
        raise SampleError(
            f"The pixels of the image '{image_name}' of {sample.path.name} are not those of "
            f"probabilities/{outputs_of_cells(cells_name)[0]}; predict on that image (--image)."
        )


def _run_job(
    job: SeparationJob, annotation_print: str, prints: Sequence[str], on: Execution
) -> StageResult:
    """Run the stage, and return the paths of its volumes."""
    settings = job.settings
    outputs = _outputs(job)
    inputs = {**job.volume_fingerprints, "annotation": annotation_print}
    name, needs = f"cells-{settings.name}", _needs(job, outputs)
    with Stage(job.sample, name, settings, inputs, outputs, on, needs) as stage:
        _run_stage(stage, job, prints)
    written = tuple(output.path for output in outputs)
    return StageResult(sample=job.sample, written=written)


def _run_stage(stage: Stage, job: SeparationJob, prints: Sequence[str]) -> None:
    """Propagate labels, then separate the slices whose inputs differ from those of the last result.

    Args:
        stage: stage to run.
        job: inputs of the separation.
        prints: fingerprints of the labeled slices.
    """
    n_slices = job.image.shape[0]
    blocks = job.image.blocks()
    fingerprints = slice_fingerprints(job.z, prints, n_slices, _inputs_of_all_slices(job))
    previous = _previous_slices(stage, n_slices)
    is_needed = [False] * n_slices
    for block in stage.undone_blocks(blocks):
        for z in range(block.start, block.stop):
            is_needed[z] = previous[z]["fingerprint"] != fingerprints[z]
    fronts = _propagate(stage, job, is_needed)
    stage.map(
        _separate_block,
        blocks,
        job,
        fronts,
        of_block=lambda block: (fingerprints[block.own], previous[block.own]),
    )


def _propagate(stage: Stage, job: SeparationJob, is_needed: Sequence[bool]) -> Fronts:
    """Carry labels to all slices that are needed; with new cells twice, the second time with them.

    Args:
        stage: stage to run.
        job: inputs of the separation.
        is_needed: for every slice, whether its result has to be computed.
    """
    has_new_cells = job.settings.new_cells_um3 > 0
    needed = whole_intervals(job.z, is_needed) if has_new_cells else is_needed
    chains = plan_legs(job.z, len(needed), job.image.block_depth, needed)
    folder = stage.chain(f"{stage.name}, propagation", _propagate_labels, chains, job)
    fronts = Fronts(folder, chains)
    if not has_new_cells or stage.finished:
        return fronts
    return _propagate_again(stage, job, fronts)


def _propagate_again(stage: Stage, job: SeparationJob, fronts: Fronts) -> Fronts:
    """Find new cells behind the fronts, and return the fronts of labels and new cells.

    A chain crosses one interval; without new cells in it, its fronts stay as they are.
    """
    ids = find_new_cells(stage, job, fronts)
    seeded: dict[str, list[SeededLeg]] = {}
    final: dict[str, Sequence[Leg]] = {}
    for name, legs in fronts.chains.items():
        with_new_cells = seeded_legs(legs, ids, job.image.block_depth)
        if with_new_cells:
            name = f"{name}-seeded"
            seeded[name] = with_new_cells
        final[name] = legs
    title = f"{stage.name}, propagation with new cells"
    stage.chain(title, _propagate_with_new_cells, seeded, job, fronts.folder)
    return Fronts(fronts.folder, final)


def _inputs_of_all_slices(job: SeparationJob) -> dict[str, Any]:
    """Return what the result of every slice depends on."""
    return {
        **job.volume_fingerprints,
        "version": __version__,
        "base": job.base,
        **job.settings.model_dump(mode="json"),
    }


def _previous_slices(stage: Stage, n_slices: int) -> list[dict[str, Any]]:
    """Return the summaries of all slices in the result that is replaced; empty ones if none is."""
    previous = [summary for block in stage.replaced_summaries() for summary in block["slices"]]
    if len(previous) != n_slices:
        previous = [{"fingerprint": None}] * n_slices
    return previous


def _propagate_labels(leg: Leg, previous: Arrays | None, job: SeparationJob) -> Arrays:
    """Carry labels across a leg; return the fronts, and the state at the end for the next leg."""
    return _advance_along(leg, previous, job, None)


def _propagate_with_new_cells(
    seeded: SeededLeg, previous: Arrays | None, job: SeparationJob, folder: Path
) -> Arrays:
    """Carry labels across a leg, with new cells that begin at their seeds."""
    return _advance_along(seeded.leg, previous, job, read_seeds(seeded, job, folder))


def _advance_along(
    leg: Leg, previous: Arrays | None, job: SeparationJob, seeds: NDArray[np.uint32] | None
) -> Arrays:
    """Carry labels across a leg; return the fronts, and the state at the end for the next leg.

    Args:
        leg: slices to cross.
        previous: the state after the leg before; None if this one begins at a labeled slice.
        job: inputs of the separation.
        seeds: ids of new cells in the slices of the leg, from its lowest one on.
    """
    carrier = job.carrier
    fronts = []
    state = None
    if previous is not None:
        state = {name.removeprefix("state-"): array for name, array in previous.items()}
    grid_slices = job.grid_slices(slice(leg.start, leg.stop))
    for n in range(len(grid_slices))[:: leg.step]:
        if state is None:
            state = _start_at_labels(leg.source, job, grid_slices[n])
        elif seeds is not None and isinstance(carrier, ArrivalCarrier):
            state = dict(carrier.advance(state, grid_slices[n], seeds[n]))
        else:
            state = dict(carrier.advance(state, grid_slices[n]))
        fronts.append(carrier.front(state))
    arrays = dict(fronts_to_arrays(fronts[:: leg.step]))
    for name, array in (state or {}).items():
        arrays[f"state-{name}"] = array
    return arrays


def _start_at_labels(source: int, job: SeparationJob, grid_slice: GridSlice) -> dict[str, Any]:
    """Return the state of propagation in the labeled slice number ``source``."""
    labels, known = job.labeled_slice(source)
    labels_on_grid = resample_labels(labels, job.grid)
    known_on_grid = resample_labels(known, job.grid)
    return dict(job.carrier.begin(labels_on_grid, known_on_grid, grid_slice))


def _separate_block(
    block: ZBlock,
    job: SeparationJob,
    fronts: Fronts,
    slices: tuple[list[str], list[dict[str, Any]]],
) -> BlockResult:
    """Separate the slices of a block whose inputs changed since the last result; copy the others.

    Args:
        block: block of slices.
        job: inputs of the separation.
        fronts: fronts of all slices.
        slices: fingerprints of the slices of the block, and their summaries in the last result.
    """
    fingerprints, previous = slices
    pairs = zip(previous, fingerprints, strict=True)
    is_changed = [summary["fingerprint"] != fingerprint for summary, fingerprint in pairs]
    summaries = list(previous)
    summary = {
        "slices": summaries,
        "base": job.base,
        "first_new": job.first_new,
        "labeled_slices": list(job.z),
    }
    if not any(is_changed):  # image and probabilities are not read
        return _read_last_result(block, job), summary
    network_slices = _read_network_slices(block, job)
    if all(is_changed):
        arrays = _empty_result(block, job)
    else:
        arrays = _read_last_result(block, job)
    regions, disagreement = arrays.values()
    for n in np.flatnonzero(is_changed).tolist():
        z = block.start + n
        separated = _separate_slice(z, network_slices[n], fronts.at(z), job)
        regions[n] = separated.regions
        disagreement[n] = separated.disagreement
        summaries[n] = {"fingerprint": fingerprints[n], "disagreements": separated.places}
    return arrays, summary


def _empty_result(block: ZBlock, job: SeparationJob) -> dict[str, NDArray[Any]]:
    """Return an array to fill for every output of a block."""
    shape = (block.stop - block.start, *job.image.shape[1:])
    return {output.path: np.empty(shape, output.dtype) for output in _outputs(job)}


def _read_last_result(block: ZBlock, job: SeparationJob) -> dict[str, NDArray[Any]]:
    """Read the voxels of a block from the result that is being replaced."""
    paths = [output.path for output in _outputs(job)]
    return {path: Volume(job.sample.path / path).read(block.own) for path in paths}


class _NetworkSlice(NamedTuple):
    """The prediction of the network in one slice.

    Attributes:
        mask: mask of all cells at full resolution.
        boundary: boundaries at full resolution.
        grid_slice: the slice on the grid of the flow; None if no method needs it.
    """

    mask: Mask
    boundary: Mask
    grid_slice: GridSlice | None


def _read_network_slices(block: ZBlock, job: SeparationJob) -> list[_NetworkSlice]:
    """Return what the network predicts in the slices of a block."""
    masks = job.interior.read(block.own) >= FOREGROUND
    boundaries = job.boundary.read(block.own) >= FOREGROUND
    grid_slices = job.grid_slices(block.own) if job.uses_seeds else [None] * len(masks)
    return list(map(_NetworkSlice, masks, boundaries, grid_slices))


class SeparatedSlice(NamedTuple):
    """Result of one slice, at full resolution.

    Attributes:
        regions: ids of cells and numbers of islands, (y, x) uint32.
        disagreement: 255 times the disagreement of the two sides, (y, x) uint8.
        places: the largest disagreements, in pixels of the slice.
    """

    regions: NDArray[np.uint32]
    disagreement: NDArray[np.uint8]
    places: list[Disagreement]


def _separate_slice(
    z: int,
    network_slice: _NetworkSlice,
    fronts: dict[int, tuple[int, Front]],
    job: SeparationJob,
) -> SeparatedSlice:
    """Separate the cells of one slice.

    Args:
        z: number of the slice.
        network_slice: what the network predicts in the slice.
        fronts: fronts at the slice, by their step.
        job: inputs of the separation.
    """
    mask, boundary, grid_slice = network_slice
    below, above = both_sides(fronts)
    if z in job.z:
        return _complete_labeled_slice(job.z.index(z), mask, boundary, below, job)
    labels = nearer_front(below, above).labels
    if len(fronts) == 2:
        # The flow knows no new cells.
        is_new = (labels >= job.first_new) & (labels <= job.base)
        labels = np.where(is_new, labels, agreed_labels(labels, below, above))
    if grid_slice is not None:
        seeds = seeds_of_nearest_slice(fronts, z, job.z)
        labels = _separate_on_grid(labels, grid_slice, seeds, job.settings)
    if job.settings.method == "flow":
        mask = enlarge_labels(labels, (mask.shape[0], mask.shape[1])) > 0
    regions = _regions_of(labels, mask, boundary, job)
    disagreement, places = _disagreement_of(below, above, mask)
    return SeparatedSlice(regions, disagreement, places)


def _regions_of(
    labels: Labels, mask: Mask, boundary: Mask, job: SeparationJob
) -> NDArray[np.uint32]:
    """Return cells and islands of a slice at full resolution, from labels on the grid."""
    labels = refine_labels(labels, mask)
    regions = number_islands(labels, mask, job.base, job.min_island_px, boundary)
    return fill_region_holes(regions, job.max_hole_px)


def _separate_on_grid(
    carried: Labels, grid_slice: GridSlice, seeds: Seeds, settings: CellsSettings
) -> Labels:
    """Separate the cells of a slice by the method of the settings, on the grid of the flow."""
    interior, boundary = grid_slice.interior, grid_slice.boundary
    evidence = Evidence(interior, boundary, carried, seeds, grid_slice.margin)
    return separate_cells(settings.method, evidence, settings.min_iou)


def _complete_labeled_slice(
    index: int, mask: Mask, boundary: Mask, front: Front, job: SeparationJob
) -> SeparatedSlice:
    """Return the annotated ids of a labeled slice; only its unknown pixels are separated."""
    labels, known = job.labeled_slice(index)
    unknown = mask & ~known
    labels = np.where(known, labels, refine_labels(front.labels, unknown))
    regions = number_islands(labels, unknown, job.base, job.min_island_px, boundary)
    return SeparatedSlice(regions, np.zeros(mask.shape, np.uint8), [])


def _disagreement_of(
    below: Front, above: Front, mask: Mask
) -> tuple[NDArray[np.uint8], list[Disagreement]]:
    """Return the disagreement within a mask of full resolution, and its largest places."""
    height, width = mask.shape
    grid_height, grid_width = below.labels.shape
    mask_on_grid = resample_labels(mask, (grid_height, grid_width))
    on_grid = np.round(255 * disagreement_map(below, above) * mask_on_grid).astype(np.uint8)
    row_scale, column_scale = height / grid_height, width / grid_width
    places = [
        disagreement.scaled(row_scale, column_scale)
        for disagreement in largest_disagreements(below, above, mask_on_grid)
    ]
    return resample_labels(on_grid, (height, width)), places


def _probability(sample: Sample, name: str) -> Volume:
    """Open a volume of probabilities."""
    if name not in sample.names("probabilities"):
        annotation = name.rpartition("-")[0]
        raise SampleError(
            f"{sample.path.name} has no probabilities/{name}; "
            f"train with --cells {annotation} and predict with that model before cells."
        )
    return sample.volume("probabilities", name)


def _last_id_of_cells(first_new: int, n_slices: int, settings: CellsSettings) -> int:
    """Return the base above which islands are numbered: behind the ids of all new cells.

    Raises:
        InputError: ids leave no room for new cells.
    """
    if not settings.new_cells_um3:
        return first_new - 1
    stop = first_new + n_slices * MAX_NEW_PER_SLICE
    base = -(-stop // ISLAND_STEP) * ISLAND_STEP - 1
    if base > MAX_ID:
        raise InputError(
            f"'{settings.cells}' has ids that leave no room for new cells in {n_slices} slices; "
            "renumber the cells, or use --new-cells-um3 0."
        )
    return base


def _inspect_annotation(annotation: LabeledSlices, name: str) -> tuple[list[str], int]:
    """Return the fingerprint of every labeled slice, and the first number above all ids.

    It is a multiple of ``ISLAND_STEP``, so that a few more annotated cells do not change it.

    Raises:
        InputError: a slice holds too many cells, no slice holds a cell, or an id is too large.
    """
    prints = []
    largest_id = 0
    for index, z in enumerate(annotation.z):
        labels, known = annotation.objects(index)
        largest_id = max(largest_id, int(labels.max(initial=0)))
        _refuse_many_cells(labels, z, name)
        data = labels.tobytes() + np.packbits(known).tobytes()
        prints.append(hashlib.blake2b(data, digest_size=16).hexdigest())
    _refuse_largest_id(largest_id, name)
    return prints, (largest_id // ISLAND_STEP + 1) * ISLAND_STEP


def _refuse_many_cells(labels: NDArray[Any], z: int, name: str) -> None:
    """Raise an InputError if a labeled slice holds more cells than can be separated."""
    count = len(label_sizes(labels)[0])
    if count > MAX_CELLS_PER_SLICE:
        raise InputError(
            f"Slice {z} of '{name}' holds {count} cells; "
            f"at most {MAX_CELLS_PER_SLICE} cells of one slice can be separated."
        )


def _refuse_largest_id(largest_id: int, name: str) -> None:
    """Raise an InputError if there is no cell, or if ids leave no room for islands."""
    if not largest_id:
        raise InputError(
            f"No labeled slice of '{name}' holds a cell; "
            "check the annotation, --classes and --ignore."
        )
    if largest_id > MAX_ID:
        raise InputError(
            f"'{name}' has the id {largest_id}; ids up to {MAX_ID} leave room for islands. "
            "Renumber the cells."
        )


def _outputs(job: SeparationJob) -> tuple[VolumeSpec, VolumeSpec]:
    """Return the volumes of regions and of disagreement."""
    name, image = job.settings.name, job.image
    made_on = (job.image_name, image.fingerprint)
    regions = image.like(f"labels/{name}{REGIONS}", np.uint32, Kind.LABELS, made_on)
    disagreement = image.like(
        f"probabilities/{name}{DISAGREEMENT}", np.uint8, Kind.PROBABILITY, made_on
    )
    return regions, disagreement


def _needs(job: SeparationJob, outputs: Sequence[VolumeSpec]) -> Needs:
    """Estimate the memory of a block and the disk space of the result, in bytes."""
    n_slices, y, x = job.image.shape
    grid_px = job.grid[0] * job.grid[1]
    block = job.image.block_depth * (y * x * 8 + grid_px * 32) + y * x * 40 + grid_px * 200
    regions, disagreement = outputs
    n_propagations = 2 if job.settings.new_cells_um3 else 1
    fronts = n_propagations * 2 * n_slices * grid_px * 4
    disk = regions.nbytes // 16 + disagreement.nbytes // 8 + fronts
    return Needs(
        ram=block, disk=disk, smaller="import with a smaller --block-depth, or use fewer --workers"
    )
