"""The stage ``track``: islands get the identity of their cell, and a list says where to look."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.cells.linking import Links, Tracks, links, renamed, resolve, without_fragments
from sparsem.cells.review import ReviewPlace, area_jumps, disagreements
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import label_sizes
from sparsem.settings import Settings, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, BlockResult, Stage, finished, link_arrays

PLACES = 100  # rows of the list of where to look
JUMPS = 20  # of them at most are jumps of area: each is looked up in two slices


class TrackSettings(Settings):
    """How islands are followed."""

    cells: str = Field("cells", description="name of the result of cells; also that of the result")
    min_volume_um3: float = Field(
        0.02,
        ge=0,
        description="objects that never meet an annotated cell, and are smaller, are left out of the result",
    )
    window_px: int = Field(
        512,
        ge=8,
        description="edge of the square around an island in which it is compared with other regions",
    )


@dataclass(frozen=True)
class Tracked:
    """What ``track`` found.

    Attributes:
        cells: how many of the annotated ones are in the result.
        islands: tracks of islands.
        unassigned: objects that never meet an annotated cell, by their identity: volume in cubic micrometers.
        left_out: how many others were smaller than the minimum.
        left_out_um3: their volume.
        look: where to look, the largest area first.
    """

    cells: int
    islands: int
    unassigned: Mapping[int, float]
    left_out: int
    left_out_um3: float
    look: tuple[ReviewPlace, ...]


def track(
    sample: Sample, settings: TrackSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> Tracked:
    """Write ``labels/NAME``: every cell with its protrusions under one identity; what meets no cell under identities above all ids.

    Objects that meet no annotated cell are fragments, or cells that were not annotated: small ones are left out, and reported.

    Also ``tables/tracks_NAME``, one row a track of islands; ``tables/links_NAME``, one row a pair of overlapping regions of
    neighboring slices of which one is an island, so that splits and mergers are all there; ``tables/look_NAME``, where to look.

    Args:
        sample: with ``labels/NAME-regions``, as ``cells`` writes it.
        settings: which, and the window.
        on: how the work is spread; pairs of slices are compared in parallel, the graph is resolved here.

    Raises:
        SampleError: there are no such regions.
        ResumeError: there is a result of other regions or settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(TrackSettings, settings, changes)
    name = settings.cells
    if f"{name}-regions" not in sample.names("labels"):
        raise SampleError(
            f"{sample.path.name} has no labels/{name}-regions; run 'sparsem cells {sample.path.name}' first."
        )
    regions = sample.volume("labels", f"{name}-regions")
    made = _made_by_cells(sample, name)
    base = int(made["base"])
    output = regions.like(f"labels/{name}", np.uint32, Kind.LABELS, regions.made_on)
    needs = _needs(regions, output)
    with Stage(
        sample, f"track-{name}", settings, {"regions": regions.fingerprint}, [output], on, needs
    ) as stage:
        if not stage.finished:
            blocks = regions.blocks(halo=1)
            singly = {_name_of(block): [block] for block in blocks}
            compared = stage.chain(
                f"{stage.name}, slices compared", _compared, singly, regions, base, settings
            )
            pairs, pixels = _links_in(compared, blocks)
            min_voxels = settings.min_volume_um3 / regions.voxel_size.volume_um3
            every = resolve(pairs, [len(one) for one in pixels], base)
            tracks, left_out = without_fragments(every, pixels, base, min_voxels)
            stage.map(
                _name_block,
                regions.blocks(),
                regions,
                base,
                of_block=partial(_identities_in, tracks),
            )
            stage.forget()
            notes = {
                "left_out": len(left_out),
                "left_out_um3": sum(left_out) * regions.voxel_size.volume_um3,
            }
            table = track_table(tracks, pixels, regions, base)
            sample.write_table(
                f"tracks_{name}", table.replace_schema_metadata({"sparsem": json.dumps(notes)})
            )
            sample.write_table(f"links_{name}", link_table(pairs, tracks, base))
    areas = [
        {int(cell): pixels for cell, pixels in one.items()}
        for block in finished(sample, stage.name)
        for one in block["areas"]
    ]
    look = _look(regions, sample.volume("labels", name), made, areas)
    sample.write_table(f"look_{name}", look_table(look))
    found, notes = sample.read_table(f"tracks_{name}"), sample.table_notes(f"tracks_{name}")
    unassigned: dict[int, float] = {}
    for row in found.select(["identity", "volume_um3"]).to_pylist():
        if row["identity"] > base:
            unassigned[row["identity"]] = unassigned.get(row["identity"], 0.0) + row["volume_um3"]
    count = len({cell for one in areas for cell in one})
    return Tracked(
        count,
        found.num_rows,
        unassigned,
        int(notes["left_out"]),
        float(notes["left_out_um3"]),
        tuple(look),
    )


def track_table(
    tracks: Tracks, pixels: Sequence[NDArray[np.int64]], regions: Volume, base: int
) -> pa.Table:
    """One row a track of islands: its identity (0 if it was left out), where it runs, how large it is, and whether it belongs to a cell.

    Args:
        tracks: what ``resolve`` found.
        pixels: of every island, slice by slice.
        regions: for the voxel size.
        base: identities above it are those of no cell.
    """
    count = len(tracks.identity)
    first, last = np.full(count, len(pixels)), np.full(count, -1)
    slices, voxels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for z, (of_slice, islands) in enumerate(zip(tracks.of_slice, pixels, strict=True)):
        first[of_slice] = np.minimum(first[of_slice], z)
        last[of_slice] = z
        slices[np.unique(of_slice)] += 1
        np.add.at(voxels, of_slice, islands)
    in_cell = (tracks.identity > 0) & (tracks.identity <= base)
    columns = {
        "track": np.arange(count),
        "identity": tracks.identity,
        "in_cell": in_cell,
        "first_z": first,
        "last_z": last,
    }
    return pa.table(
        {
            **columns,
            "slices": slices,
            "voxels": voxels,
            "volume_um3": voxels * regions.voxel_size.volume_um3,
        }
    )


def link_table(pairs: Sequence[Links], tracks: Tracks, base: int) -> pa.Table:
    """One row a pair of overlapping regions of slice ``z`` and the next of which one is an island; ``used`` says that it is followed."""
    z = np.repeat(np.arange(len(pairs)), [len(one.lower) for one in pairs])
    columns: dict[str, Any] = {"z": z}
    for side, shift in (("lower", 0), ("upper", 1)):
        regions = [getattr(one, side) for one in pairs]
        names = [
            renamed(region, tracks.identity[of], base)
            for region, of in zip(regions, tracks.of_slice[shift:], strict=False)
        ]  # pairs and slices run out together
        columns |= {f"{side}_region": _joined(regions), f"{side}_identity": _joined(names)}
    used = [one.continues | one.goes_over for one in pairs]
    return pa.table(
        {**columns, "shared_px": _joined([one.pixels for one in pairs]), "used": _joined(used)}
    )


def look_table(look: Sequence[ReviewPlace]) -> pa.Table:
    """One row a place, the one that is worth most first."""
    columns = {name: [getattr(one, name) for one in look] for name in ReviewPlace._fields}
    return pa.table({"rank": np.arange(1, len(look) + 1), **columns})


def _compared(
    block: ZBlock, _before: None, regions: Volume, base: int, settings: TrackSettings
) -> Arrays:
    """Links of the block's slices and the next ones, pair after pair, and the islands' pixels, slice after slice."""
    labels = regions.read(slice(block.start, block.read_stop))
    found = [links(lower, upper, base, settings.window_px) for lower, upper in pairwise(labels)]
    own = [label_sizes(one) for one in labels[: block.stop - block.start]]
    pixels = [counts[ids > base] for ids, counts in own]
    columns = {name: _joined([getattr(one, name) for one in found]) for name in Links._fields}
    counts = {
        "links": np.array([len(one.lower) for one in found], int),
        "islands": np.array([len(one) for one in pixels], int),
    }
    return {**columns, **counts, "island_pixels": _joined(pixels)}


def _links_in(
    folder: Path, blocks: Sequence[ZBlock]
) -> tuple[list[Links], list[NDArray[np.int64]]]:
    """The links of all pairs of slices, and the pixels of the islands of all slices."""
    pairs: list[Links] = []
    pixels: list[NDArray[np.int64]] = []
    kinds = (np.uint32, np.uint32, np.int64, bool, bool)
    for block in blocks:
        arrays = {
            name: np.asarray(array[...])
            for name, array in link_arrays(folder, _name_of(block), 0).items()
        }
        ends = np.cumsum(arrays["links"])[:-1]
        columns = [
            np.split(arrays[name].astype(kind), ends)
            for name, kind in zip(Links._fields, kinds, strict=True)
        ]
        pairs += [Links(*one) for one in zip(*columns, strict=True)] if arrays["links"].size else []
        pixels += np.split(arrays["island_pixels"], np.cumsum(arrays["islands"])[:-1])
    return pairs, pixels


def _name_of(block: ZBlock) -> str:
    return f"slices-{block.start}"


def _identities_in(tracks: Tracks, block: ZBlock) -> list[NDArray[np.uint32]]:
    """Of the islands of a block's slices."""
    return [tracks.identity[one] for one in tracks.of_slice[block.own]]


def _name_block(
    block: ZBlock, regions: Volume, base: int, identities: Sequence[Any]
) -> BlockResult:
    labels = regions.read(block.own)
    areas: list[dict[str, int]] = []
    for number, identity in enumerate(identities):
        labels[number] = renamed(labels[number], identity, base)
        ids, pixels = (side.tolist() for side in label_sizes(labels[number]))
        areas.append(
            {str(cell): count for cell, count in zip(ids, pixels, strict=True) if cell <= base}
        )
    path = "labels/" + regions.directory.name.removesuffix("-regions")
    return {path: labels}, {"areas": areas}


def _look(
    regions: Volume, named: Volume, made: dict[str, Any], areas: Sequence[dict[int, int]]
) -> list[ReviewPlace]:
    """Disagreements that ``cells`` saw, and jumps of area in the result, the largest first."""
    voxel = regions.voxel_size
    pixel_um2 = voxel.y * voxel.x * 1e-6
    found = disagreements(made["places"], made["labeled"], pixel_um2)
    for z, cell, change in area_jumps(areas, JUMPS):
        before, after = (one == cell for one in named.read(slice(z - 1, z + 1)))
        changed = np.pad(before != after, 1).astype(np.uint8)
        depth = cv2.distanceTransform(changed, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        found.append(ReviewPlace("jump", z, int(y), int(x), cell, 0, change * pixel_um2, 1))
    return sorted(found, key=lambda one: (-one.area_um2, one.z, one.first, one.second))[:PLACES]


def _made_by_cells(sample: Sample, name: str) -> dict[str, Any]:
    """What ``cells`` left beside the regions: the largest id, the labeled slices, the places of doubt."""
    blocks = finished(sample, f"cells-{name}")
    return {**blocks[0], "places": [one["places"] for block in blocks for one in block["slices"]]}


def _joined(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _needs(regions: Volume, output: VolumeSpec) -> Needs:
    _, y, x = regions.shape
    block = y * x * (4 * (regions.block_depth + 1) + 48)
    return Needs(
        block,
        output.nbytes // 16,
        smaller="import with a smaller --block-depth, or use fewer --workers",
    )
