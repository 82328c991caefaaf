"""The stage ``track``: islands get the identity of their cell, and places to review are listed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.precedence import apply_precedence
from sparsem.cells.linking import (
    Links,
    Tracks,
    link_slices,
    relabel_islands,
    remove_fragments,
    resolve_tracks,
)
from sparsem.cells.review import disagreement_places, largest_area_jumps
from sparsem.cells.settings import TrackSettings
from sparsem.cells.tables import concatenate, link_table, new_cell_table, track_table
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import label_sizes
from sparsem.review.places import ReviewPlace, review_table
from sparsem.settings import resolve_settings
from sparsem.store.names import REGIONS
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, BlockResult, Stage, finished, link_arrays

# Rows of the table of places to review.
MAX_PLACES = 100
# Places that are jumps of an area: each of them is located in two slices.
MAX_JUMPS = 20


@dataclass(frozen=True)
class TrackResult(StageResult):
    """Result of ``track``.

    Attributes:
        cells: number of annotated cells in the result.
        islands: number of tracks of islands.
        unassigned: objects that never meet an annotated cell, new cells among them: identity ->
            volume in µm³.
        left_out: number of such objects below the minimum volume.
        left_out_um3: their total volume.
        review: places to review, the largest area first.
    """

    cells: int
    islands: int
    unassigned: Mapping[int, float]
    left_out: int
    left_out_um3: float
    review: tuple[ReviewPlace, ...]


def track(
    sample: Sample, settings: TrackSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> TrackResult:
    """Join islands to their cells through the slices.

    Writes ``labels/NAME``: every cell with its protrusions under one identity; objects that meet no
    annotated cell under identities above all ids. These are fragments, or cells that were not
    annotated; small ones are left out and reported. Labels and corrections by hand take precedence
    in it (see ``annotation.precedence``).

    Also writes ``tables/tracks_NAME``, one row for each track of islands, and then one for each new
    cell that ``cells`` found; ``tables/links_NAME``,
    one row for each pair of overlapping regions of neighboring slices of which one is an island, so
    that all splits and mergers are listed; and ``tables/review_NAME``, the places to review.

    Args:
        sample: sample with ``labels/NAME-regions``, as ``cells`` writes it.
        settings: name and window.
        on: how the work is distributed; pairs of slices are compared in parallel, the graph is
            resolved in this process.

    Raises:
        SampleError: there are no such regions.
        ResumeError: there is a result of other regions or settings, and ``on.overwrite`` is not
            set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(TrackSettings, settings, changes)
    name = settings.cells
    regions = _read_regions(sample, name)
    cells_summary = _summary_of_cells(sample, name)
    base, first_new = int(cells_summary["base"]), int(cells_summary["first_new"])
    inputs = {"regions": regions.fingerprint}
    output = regions.like(f"labels/{name}", np.uint32, Kind.LABELS, regions.made_on)
    needs = _needs(regions, output)
    with Stage(sample, f"track-{name}", settings, inputs, [output], on, needs) as stage:
        if not stage.finished:
            _run_stage(stage, regions, base, first_new, settings)
    apply_precedence(sample, name, on.quiet)
    areas = list(_cell_areas(sample, stage.name))
    places = _places_to_review(regions, sample.computed(name), cells_summary, areas)
    sample.write_table(f"review_{name}", review_table(places))
    return _result(sample, name, first_new, areas, places)


def _read_regions(sample: Sample, name: str) -> Volume:
    """Return ``labels/NAME-regions``.

    Raises:
        SampleError: they do not exist.
    """
    if f"{name}{REGIONS}" not in sample.names("labels"):
        raise SampleError(
            f"{sample.path.name} has no labels/{name}-regions; "
            f"run 'sparsem cells {sample.path.name}' first."
        )
    return sample.volume("labels", f"{name}{REGIONS}")


def _run_stage(
    stage: Stage, regions: Volume, base: int, first_new: int, settings: TrackSettings
) -> None:
    """Compare slices, resolve the graph, and write labels and tables.

    Args:
        stage: stage to run.
        regions: cells and islands of every slice.
        base: labels above it are islands.
        first_new: cells from this id on are new ones.
        settings: name, window and minimum volume.
    """
    folder = _compare_all_slices(stage, regions, base, settings)
    links, pixels = _read_links(folder, regions.blocks(halo=1))
    voxel_um3 = regions.voxel_size.volume_um3
    all_tracks = resolve_tracks(links, [len(islands) for islands in pixels], base)
    min_voxels = settings.min_volume_um3 / voxel_um3
    tracks, left_out = remove_fragments(all_tracks, pixels, base, min_voxels)
    of_block = partial(_identities_in, tracks)
    blocks = stage.map(
        _relabel_block, regions.blocks(), regions, base, first_new, of_block=of_block
    )
    stage.forget()
    n_tracks = len(tracks.identity)
    notes = {
        "islands": n_tracks,
        "left_out": len(left_out),
        "left_out_um3": sum(left_out) * voxel_um3,
    }
    new_areas = [_by_id(areas) for block in blocks for areas in block["new_cells"]]
    new_rows = new_cell_table(new_areas, n_tracks, regions.voxel_size)
    table = pa.concat_tables([track_table(tracks, pixels, regions.voxel_size, first_new), new_rows])
    _write_tables(stage.sample, settings.cells, table, notes, link_table(links, tracks, base))


def _write_tables(
    sample: Sample, name: str, tracks: pa.Table, notes: Mapping[str, float], links: pa.Table
) -> None:
    """Write the table of tracks with notes on what was left out, and the table of links."""
    tracks = tracks.replace_schema_metadata({"sparsem": json.dumps(notes)})
    sample.write_table(f"tracks_{name}", tracks)
    sample.write_table(f"links_{name}", links)


def _compare_all_slices(stage: Stage, regions: Volume, base: int, settings: TrackSettings) -> Path:
    """Link the slices of all blocks, and return the folder of the links."""
    chains = {_chain_name(block): [block] for block in regions.blocks(halo=1)}
    title = f"{stage.name}, comparison of slices"
    return stage.chain(title, _compare_slices, chains, regions, base, settings)


def _result(
    sample: Sample,
    name: str,
    first_new: int,
    areas: Sequence[Mapping[int, int]],
    places: Sequence[ReviewPlace],
) -> TrackResult:
    """Summarize the tables of a finished stage."""
    all_cells = {cell for slice_areas in areas for cell in slice_areas}
    table = sample.read_table(f"tracks_{name}")
    notes = sample.table_notes(f"tracks_{name}")
    tables = [f"tables/{kind}_{name}" for kind in ("tracks", "links", "review")]
    return TrackResult(
        sample=sample,
        written=(f"labels/{name}", *tables),
        cells=sum(cell < first_new for cell in all_cells),
        islands=int(notes["islands"]),
        unassigned=_unassigned_volumes(table),
        left_out=int(notes["left_out"]),
        left_out_um3=float(notes["left_out_um3"]),
        review=tuple(places),
    )


def _unassigned_volumes(table: pa.Table) -> dict[int, float]:
    """Return the volume of every object that meets no cell, in µm³, by its identity."""
    volumes: dict[int, float] = {}
    for row in table.select(["identity", "in_cell", "volume_um3"]).to_pylist():
        identity = row["identity"]
        if identity and not row["in_cell"]:
            volumes[identity] = volumes.get(identity, 0.0) + row["volume_um3"]
    return volumes


def _compare_slices(
    block: ZBlock, _previous: None, regions: Volume, base: int, settings: TrackSettings
) -> Arrays:
    """Link the slices of a block with the next ones; also count the pixels of their islands.

    Returns:
        The columns of ``Links`` of all pairs, one pair after the other, and the number of links of
        each pair; the pixels of all islands, slice after slice, and the number of islands of each.
    """
    labels = regions.read(slice(block.start, block.read_stop))
    links = [
        link_slices(lower, upper, base, settings.window_px) for lower, upper in pairwise(labels)
    ]
    pixels = [_island_pixels(labels[n], base) for n in range(block.stop - block.start)]
    arrays = {}
    for column in Links._fields:
        arrays[column] = concatenate([getattr(link, column) for link in links])
    arrays["links"] = np.array([len(link.lower) for link in links], int)
    arrays["islands"] = np.array([len(counts) for counts in pixels], int)
    arrays["island_pixels"] = concatenate(pixels)
    return arrays


def _island_pixels(labels: NDArray[Any], base: int) -> NDArray[np.int64]:
    """Return the number of pixels of every island of a slice."""
    ids, counts = label_sizes(labels)
    return counts[ids > base]


def _read_links(
    folder: Path, blocks: Sequence[ZBlock]
) -> tuple[list[Links], list[NDArray[np.int64]]]:
    """Return the links of all pairs of slices, and the pixels of the islands of all slices."""
    links: list[Links] = []
    pixels: list[NDArray[np.int64]] = []
    for block in blocks:
        stored = link_arrays(folder, _chain_name(block), 0)
        arrays = {column: np.asarray(array[...]) for column, array in stored.items()}
        links += _split_links(arrays)
        pixels += np.split(arrays["island_pixels"], np.cumsum(arrays["islands"])[:-1])
    return links, pixels


def _split_links(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Links]:
    """Yield the links of each pair of slices of a block."""
    if not arrays["links"].size:
        return
    ends = np.cumsum(arrays["links"])[:-1]
    dtypes = (np.uint32, np.uint32, np.int64, bool, bool)
    columns = [
        np.split(arrays[column].astype(dtype), ends)
        for column, dtype in zip(Links._fields, dtypes, strict=True)
    ]
    for pair_columns in zip(*columns, strict=True):
        yield Links(*pair_columns)


def _chain_name(block: ZBlock) -> str:
    return f"slices-{block.start}"


def _identities_in(tracks: Tracks, block: ZBlock) -> list[NDArray[np.uint32]]:
    """Return the identities of the islands of a block, slice by slice."""
    return [tracks.identity[of_slice] for of_slice in tracks.of_slice[block.own]]


def _relabel_block(
    block: ZBlock, regions: Volume, base: int, first_new: int, identities: Sequence[Any]
) -> BlockResult:
    """Give the islands of a block their identities.

    The summary holds the areas of cells in pixels, and those of new cells before islands join them.
    """
    labels = regions.read(block.own)
    areas: list[dict[str, int]] = []
    new_areas: list[dict[str, int]] = []
    for number, identity in enumerate(identities):
        has_new_cells = first_new <= base
        new_areas.append(_areas_of(labels[number], first_new, base) if has_new_cells else {})
        labels[number] = relabel_islands(labels[number], identity, base)
        areas.append(_areas_of(labels[number], 0, base))
    path = "labels/" + regions.directory.name.removesuffix(REGIONS)
    return {path: labels}, {"areas": areas, "new_cells": new_areas}


def _areas_of(labels: NDArray[Any], first: int, last: int) -> dict[str, int]:
    """Return the pixels of the cells of a slice with ids from first to last, by their ids."""
    ids, pixels = label_sizes(labels)
    is_cell = (ids >= first) & (ids <= last)
    cell_ids, cell_pixels = ids[is_cell].tolist(), pixels[is_cell].tolist()
    return {str(cell): count for cell, count in zip(cell_ids, cell_pixels, strict=True)}


def _by_id(areas: Mapping[str, int]) -> dict[int, int]:
    """Return areas by ids that are numbers again, as JSON does not keep them."""
    return {int(cell): pixels for cell, pixels in areas.items()}


def _cell_areas(sample: Sample, stage_name: str) -> Iterator[dict[int, int]]:
    """Yield the areas of the cells of every slice: id -> pixels."""
    for block in finished(sample, stage_name):
        for areas in block["areas"]:
            yield _by_id(areas)


def _places_to_review(
    regions: Volume,
    labels: Volume,
    cells_summary: Mapping[str, Any],
    areas: Sequence[Mapping[int, int]],
) -> list[ReviewPlace]:
    """Return disagreements of ``cells`` and jumps of area in the result, the largest first."""
    voxel = regions.voxel_size
    pixel_um2 = voxel.y * voxel.x * 1e-6
    places = disagreement_places(
        cells_summary["disagreements"], cells_summary["labeled_slices"], pixel_um2
    )
    for z, cell, change_px in largest_area_jumps(areas, MAX_JUMPS):
        y, x = _deepest_change(labels, z, cell)
        places.append(ReviewPlace("jump", z, y, x, cell, 0, change_px * pixel_um2, 1))
    places.sort(key=_review_order)
    return places[:MAX_PLACES]


def _review_order(review_place: ReviewPlace) -> tuple[float, int, int, int]:
    """Return the sort key of a place to review: larger areas come first."""
    return -review_place.area_um2, review_place.z, review_place.first, review_place.second


def _deepest_change(labels: Volume, z: int, cell: int) -> tuple[int, int]:
    """Return the pixel (y, x) deepest in the area by which a cell differs from the slice before."""
    previous, current = labels.read(slice(z - 1, z + 1))
    changed = (previous == cell) != (current == cell)
    padded = np.pad(changed, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


def _summary_of_cells(sample: Sample, name: str) -> dict[str, Any]:
    """Return the summary of ``cells``: base, labeled slices, disagreements of every slice."""
    blocks = finished(sample, f"cells-{name}")
    disagreements = [
        slice_summary["disagreements"] for block in blocks for slice_summary in block["slices"]
    ]
    return {**blocks[0], "disagreements": disagreements}


def _needs(regions: Volume, output: VolumeSpec) -> Needs:
    """Estimate the memory of a block and the disk space of the result, in bytes."""
    _, y, x = regions.shape
    block = y * x * (4 * (regions.block_depth + 1) + 48)
    return Needs(
        block,
        output.nbytes // 16,
        smaller="import with a smaller --block-depth, or use fewer --workers",
    )
