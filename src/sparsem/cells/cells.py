"""The stage ``cells``: a network's interior and boundary, and a few labeled slices, become cells in every slice.

From every labeled slice labels travel up and down to its neighbors, slice by slice (``propagate``): the only sequential work, on
the flow's grid, every direction of every interval on its own. Each slice is then separated by itself and brought to full resolution.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem import __version__
from sparsem.annotation.labeled_slices import LabeledSlices, annotations_on, read_annotation
from sparsem.cells.disagreement import Place, doubt, nearer, places_of_doubt
from sparsem.cells.flow import on_grid
from sparsem.cells.intervals import Fronts, Leg, legs, seeds_of_nearest, slice_fingerprints, stored
from sparsem.cells.propagate import ByArrival, ByFlow, ByFrame, Carrier, CarrySettings, Front, View
from sparsem.cells.refine import enlarged, filled, refined, with_islands
from sparsem.cells.separate import CARRIED, WAYS, Evidence, Labels, Mask, separated
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import label_sizes, resample_labels
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, BlockResult, Stage

FOREGROUND = 128  # of probabilities on disk: round(255 p) for p >= 0.5
MOST_IDS = 65_000  # in one slice: OpenCV carries 16 bit
MOST_ISLANDS = 2**20  # in one slice
ID_STEP = 2**16  # islands are numbered from the next multiple of it
DTYPES = (np.uint32, np.uint8)  # of regions and doubt

Way = Literal["arrival", "per_frame", "selective", "mask_flow", "flow", "mask_border", "mask"]


class CellsSettings(CarrySettings):
    """How cells are separated."""

    cells: str = Field(
        "cells",
        description="the annotation of cells; the network's output is NAME-interior and NAME-boundary",
    )
    method: Way = Field(
        "arrival",
        description="how cells are told apart: arrival, or one of the six ways of Table 2",
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
        description="borders so near to the outline of all cells do not cut (the paper: 5 px)",
    )
    min_iou: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="a region keeps its cell's name if it overlaps that much with what flow brought of the cell",
    )
    min_island_nm2: float = Field(2500, ge=0, description="islands of a smaller area are dropped")
    fill_holes_um2: float = Field(
        1.0,
        ge=0,
        description="holes up to this area that a cell encloses in a slice are filled: organelles",
    )

    @property
    def name(self) -> str:
        """Of the result."""
        return self.out or self.cells


@dataclass(frozen=True)
class Job:
    """What is separated from what: a picklable handle for workers.

    Attributes:
        sample: with the annotation.
        image_name: of the image.
        image: for the flow.
        interior: probability, as the network wrote it.
        boundary: the same.
        settings: of the stage.
        grid: (h, w) of the flow.
        z: of the labeled slices.
        base: labels above it are islands.
        window: gray levels of the image that flow sees; None for all of 8 bit.
    """

    sample: Sample
    image_name: str
    image: Volume
    interior: Volume
    boundary: Volume
    settings: CellsSettings
    grid: tuple[int, int]
    z: tuple[int, ...]
    base: int
    window: tuple[float, float] | None = None

    @property
    def pixel_nm(self) -> float:
        """Edge of a grid pixel; of one that is not square the edge of a square of its area."""
        _, y, x = self.image.shape
        voxel = self.image.voxel_size
        return float(np.sqrt(voxel.y * y / self.grid[0] * voxel.x * x / self.grid[1]))

    @property
    def carrier(self) -> Carrier:
        """How labels are carried."""
        if self.settings.method == "arrival":
            return ByArrival(self.settings, self.image.voxel_size.z / self.pixel_nm)
        return (
            ByFrame(self.settings) if self.settings.method == "per_frame" else ByFlow(self.settings)
        )

    def views(self, slices: slice) -> list[View]:
        """Slices on the grid; one volume after the other, so that one is in memory at full resolution."""
        sources = ((self.image, self.window), (self.interior, None), (self.boundary, None))
        image, interior, boundary = (
            [on_grid(one, self.grid, window) for one in volume.read(slices)]
            for volume, window in sources
        )
        rim = self.settings.outline_margin_nm / self.pixel_nm
        odds = (
            (_unit(inside), _unit(edge)) for inside, edge in zip(interior, boundary, strict=True)
        )
        return [View(picture, *both, rim) for picture, both in zip(image, odds, strict=True)]

    def pixels_of(self, area_nm2: float) -> int:
        """How many pixels of the slice an area is."""
        return round(area_nm2 / (self.image.voxel_size.y * self.image.voxel_size.x))

    def labeled(self, index: int) -> tuple[Labels, Mask]:
        """Ids of a labeled slice, and where they are known, at full resolution."""
        return read_annotation(self.sample, self.settings.cells, self.image_name).objects(index)


def cells(
    sample: Sample, settings: CellsSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> list[str]:
    """Write ``labels/NAME-regions``: in every slice each cell under its annotated id, and every island under a number from 65,536.

    Where ids are that large, islands begin at the next multiple of it.

    Also ``probabilities/NAME-doubt``: where labels from the two sides disagree. ``track`` then joins islands to cells.

    After a labeled slice was corrected or added, ``on.overwrite`` does only the slices up to its labeled neighbors again; the others
    are copied.

    Args:
        sample: with an annotation of cells and what ``predict`` made of a model trained with ``cells``.
        settings: way, flow, seeds.
        on: how the work is spread; directions of intervals run in parallel, then blocks.

    Returns:
        The paths of the volumes in the sample.

    Raises:
        SampleError: no such annotation or probabilities, or the annotation belongs to another image.
        InputError: no labeled slice holds a cell, or ids that leave no room for islands.
        ResumeError: there is a result of other settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(CellsSettings, settings, changes)
    read_annotation(
        sample, settings.cells
    )  # a name that nobody annotated is told before what was not predicted
    interior, boundary = (
        _probability(sample, f"{settings.cells}-{what}") for what in ("interior", "boundary")
    )
    name = settings.image or sample.name_of_image(interior)
    image, annotations = annotations_on(sample, [settings.cells], name)
    if not all(sample.frame(one).is_same(sample.frame(image)) for one in (interior, boundary)):
        raise SampleError(
            f"The pixels of the image '{name}' of {sample.path.name} are not those of probabilities/{settings.cells}-interior; "
            "predict on that image (--image)."
        )
    annotation = annotations[settings.cells]
    prints, base = _fingerprints(annotation, settings.cells)
    z, n_slices, outputs = annotation.z, image.shape[0], _outputs(settings.name, image, name)
    job = Job(
        sample,
        name,
        image,
        interior,
        boundary,
        settings,
        settings.grid_of(image.shape[1:]),
        z,
        base,
        _window(image),
    )
    same = {
        "image": image.fingerprint,
        "interior": interior.fingerprint,
        "boundary": boundary.fingerprint,
    }
    inputs = {**same, "annotation": annotation.fingerprint}
    with Stage(
        sample, f"cells-{settings.name}", settings, inputs, outputs, on, _needs(job, outputs)
    ) as stage:
        all_slices = {
            **same,
            "version": __version__,
            "base": base,
            **settings.model_dump(mode="json"),
        }
        made_from = slice_fingerprints(z, prints, n_slices, all_slices)
        before = [one for block in stage.replaced() for one in block["slices"]]
        before = before if len(before) == n_slices else [{"made from": None}] * n_slices
        left = {z for block in stage.left(image.blocks()) for z in range(block.start, block.stop)}
        wanted = [
            n in left and old["made from"] != now
            for n, (old, now) in enumerate(zip(before, made_from, strict=True))
        ]
        chains = legs(z, n_slices, image.block_depth, wanted)
        fronts = Fronts(stage.chain(f"{stage.name}, labels travel", _carry, chains, job), chains)
        stage.map(
            _separate_block,
            image.blocks(),
            job,
            fronts,
            of_block=lambda block: (made_from[block.own], before[block.own]),
        )
    return [output.path for output in outputs]


def _carry(leg: Leg, before: Arrays | None, job: Job) -> Arrays:
    """Labels cross a leg; beside the fronts, their state at its end is kept for the next one."""
    carrier, fronts = job.carrier, []
    state = (
        {name.removeprefix("state-"): array for name, array in before.items()}
        if before is not None
        else None
    )
    for view in job.views(slice(leg.start, leg.stop))[:: leg.step]:
        if state is None:
            labels, known = (resample_labels(one, job.grid) for one in job.labeled(leg.source))
            state = dict(carrier.begin(labels, known, view))
        else:
            state = dict(carrier.advance(state, view))
        fronts.append(carrier.front(state))
    return {
        **stored(fronts[:: leg.step]),
        **{f"state-{name}": array for name, array in (state or {}).items()},
    }


def _separate_block(
    block: ZBlock, job: Job, fronts: Fronts, slices: tuple[list[str], list[dict[str, Any]]]
) -> BlockResult:
    made_from, before = slices
    paths = [output.path for output in _outputs(job.settings.name, job.image, job.image_name)]
    kept = [old["made from"] == now for old, now in zip(before, made_from, strict=True)]
    if all(kept):  # nothing to separate: copied without a look at image and probabilities
        copies = {path: Volume(job.sample.path / path).read(block.own) for path in paths}
        return copies, {"slices": before, "base": job.base, "labeled": list(job.z)}
    masks = job.interior.read(block.own) >= FOREGROUND
    alone = (
        job.settings.method in WAYS and job.settings.method not in CARRIED
    )  # slices are separated one by one, not on the way
    views = job.views(block.own) if alone else [None] * len(masks)
    borders = job.boundary.read(block.own) >= FOREGROUND
    made = (
        [Volume(job.sample.path / path).read(block.own) for path in paths]
        if any(kept)
        else [np.empty(masks.shape, d) for d in DTYPES]
    )
    summary = list(before)
    for n, z in enumerate(range(block.start, block.stop)):
        if not kept[n]:
            made[0][n], made[1][n], places = _separate_slice(
                z, masks[n], borders[n], views[n], fronts.at(z), job
            )
            summary[n] = {"made from": made_from[n], "places": places}
    return dict(zip(paths, made, strict=True)), {
        "slices": summary,
        "base": job.base,
        "labeled": list(job.z),
    }


Separated = tuple[NDArray[np.uint32], NDArray[np.uint8], list[Place]]


def _separate_slice(
    z: int,
    mask: Mask,
    border: Mask,
    view: View | None,
    fronts: dict[int, tuple[int, Front]],
    job: Job,
) -> Separated:
    """Regions and doubt of one slice at full resolution, and its places of doubt in pixels of the slice."""
    below, above = (fronts[step if step in fronts else -step][1] for step in (1, -1))
    shape, speck = (mask.shape[0], mask.shape[1]), job.pixels_of(job.settings.min_island_nm2)
    if z in job.z:
        labels, known = job.labeled(job.z.index(z))
        labels = np.where(known, labels, refined(below.labels, mask & ~known))
        return (
            with_islands(labels, mask & ~known, job.base, speck, border),
            np.zeros(shape, np.uint8),
            [],
        )
    labels = nearer(below, above).labels
    if view is not None:
        seeds = seeds_of_nearest(fronts, z, job.z)
        labels = separated(
            job.settings.method,
            Evidence(view.interior, view.boundary, labels, seeds, view.rim),
            job.settings.min_iou,
        )
    if job.settings.method == "flow":
        mask = enlarged(labels, shape) > 0
    regions = filled(
        with_islands(refined(labels, mask), mask, job.base, speck, border),
        job.pixels_of(1e6 * job.settings.fill_holes_um2),
    )
    in_cells = resample_labels(mask, job.grid)
    doubtful = np.round(255 * doubt(below, above) * in_cells).astype(np.uint8)
    scale = [full / small for full, small in zip(shape, job.grid, strict=True)]
    places = [place.enlarged(*scale) for place in places_of_doubt(below, above, in_cells)]
    return regions, resample_labels(doubtful, shape), places


def _probability(sample: Sample, name: str) -> Volume:
    if name not in sample.names("probabilities"):
        cells = name.rpartition("-")[0]
        raise SampleError(
            f"{sample.path.name} has no probabilities/{name}; train with --cells {cells} and predict with that model before cells."
        )
    return sample.volume("probabilities", name)


def _window(image: Volume) -> tuple[float, float] | None:
    """Where almost all gray levels lie, judged by the coarsest level; 8 bit is taken as it is."""
    if image.dtype == np.uint8:
        return None
    low, high = np.percentile(image.read(slice(None), image.levels - 1), (0.5, 99.5))
    return float(low), float(high)


def _fingerprints(annotation: LabeledSlices, name: str) -> tuple[list[str], int]:
    """Of the labeled slices one by one, and a number that no id exceeds; a new cell more does not change it."""
    prints, largest = [], 0
    for index, z in enumerate(annotation.z):
        labels, known = annotation.objects(index)
        largest = max(largest, int(labels.max(initial=0)))
        count = len(label_sizes(labels)[0])
        if count > MOST_IDS:
            raise InputError(
                f"Slice {z} of '{name}' holds {count} cells; at most {MOST_IDS} in one slice can be told apart."
            )
        prints.append(
            hashlib.blake2b(
                labels.tobytes() + np.packbits(known).tobytes(), digest_size=16
            ).hexdigest()
        )
    if not largest:
        raise InputError(
            f"No labeled slice of '{name}' holds a cell: check the annotation, --classes and --ignore."
        )
    if largest > 2**32 - MOST_ISLANDS:
        raise InputError(
            f"'{name}' has the id {largest}; ids up to {2**32 - MOST_ISLANDS} leave room for islands. Renumber the cells."
        )
    return prints, (largest // ID_STEP + 1) * ID_STEP - 1


def _outputs(name: str, image: Volume, image_name: str) -> tuple[VolumeSpec, VolumeSpec]:
    made_on = (image_name, image.fingerprint)
    regions = image.like(f"labels/{name}-regions", DTYPES[0], Kind.LABELS, made_on)
    return regions, image.like(f"probabilities/{name}-doubt", DTYPES[1], Kind.PROBABILITY, made_on)


def _needs(job: Job, outputs: Sequence[VolumeSpec]) -> Needs:
    n, y, x = job.image.shape
    small = job.grid[0] * job.grid[1]
    block = job.image.block_depth * (y * x * 8 + small * 24) + y * x * 40 + small * 200
    disk = outputs[0].nbytes // 16 + outputs[1].nbytes // 8 + 2 * n * small * 3
    return Needs(
        ram=block, disk=disk, smaller="import with a smaller --block-depth, or use fewer --workers"
    )


def _unit(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    return probability.astype(np.float32) / np.float32(255)
