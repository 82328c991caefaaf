"""The stage ``measure``: one tidy table a structure, one row an object; and one of the cells, one row a cell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError, SettingsError
from sparsem.geometry import evenly_spaced
from sparsem.labels.objects import number_objects
from sparsem.labels.overlaps import positions_in
from sparsem.labels.results import result_labels
from sparsem.measure.cell_columns import (
    distance_columns,
    organelle_columns,
    protrusion_columns,
    protrusion_table,
    unassigned,
)
from sparsem.measure.crops import (
    crop_groups,
    finest_level_within,
    level_nearest_to,
    near_isotropic_level,
)
from sparsem.measure.features.nucleolus import proximity_to_membrane
from sparsem.measure.features.outline import outline_columns
from sparsem.measure.features.shape import shape_columns
from sparsem.measure.features.texture import TEXTURE_COLUMNS, GrayScale, TextureScale
from sparsem.measure.passes import (
    Read,
    Sums,
    Surfaces,
    batches_of_hulls,
    halo,
    hull_voxels,
    main_containers,
    summed,
    sums,
    surfaces,
    surfaces_summed,
)
from sparsem.measure.pieces import (
    Cavities,
    CellPiece,
    Depths,
    Textured,
    cavities,
    cell_measures,
    depths,
    textures,
)
from sparsem.measure.settings import MeasureSettings, result_names
from sparsem.measure.tables import (
    MeasuredStructure,
    SmallComponents,
    forget_incomplete_result,
    measured_tables,
    write_measure_tables,
)
from sparsem.settings import nearest, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Stage, link_arrays

Volumes = dict[str, Volume]

SAMPLED_SLICES, SAMPLED_VOXELS = (
    16,
    4_000_000,
)  # by which the range of gray levels of more than 8 bit is found
CELL_ARRAYS = 4  # a cell has so many times the arrays of another object in memory, and so a smaller part of the budget
# Tables and columns that are made here: a structure of one of these names would be overwritten.
RESERVED = (
    "measured",
    "dictionary",
    "protrusions",
    "protrusion",
    "longest_protrusion",
    "cytoplasm",
    "nucleoli",
    "constrained",
)


class _Links:
    """What the links of a chain returned, opened when it is asked for: ten thousand open groups would fill the memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Read:
        return link_arrays(self.folder, name, 0)


@dataclass(frozen=True)
class MeasureSummary:
    """What ``measure`` wrote.

    Attributes:
        objects: how many of each structure.
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

    Writes ``tables/NAME`` for each structure (units are in the names of the columns), ``tables/pattern_NAME`` (pattern spectra),
    ``tables/protrusions``, ``tables/measured`` (one row a structure) and ``tables/dictionary`` (what every column means).
    Masks are split into connected objects first (``labels/NAME-objects``); labels that number objects are taken as they are.

    Of pictures, which no depth connects (``import --montage``), objects have an area and an outline in place of a volume and a surface,
    and nothing is measured of what holds what.

    Shape is measured at full resolution, whatever the size of an object; texture, cavities, distances and protrusions at the level of
    the pyramid at which the largest object of the structure fits the budget, which the row tells.

    Raises:
        SampleError: nothing to measure; a structure is missing, or differs from the others in shape or voxel size.
        ResumeError: there are tables of other labels or settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(MeasureSettings, settings, changes)
    labels = _counting(sample, settings)
    image = _image(sample, settings, next(iter(labels.values())))
    inputs = {f"labels/{name}": volume.fingerprint for name, volume in labels.items()}
    inputs |= {"image": image.fingerprint} if image else {}
    forget_incomplete_result(sample)
    Stage(
        sample, "measure", settings, inputs, [], on
    ).refuse_other()  # before objects are numbered anew
    volumes, specks = _numbered(sample, labels, settings, on)
    with Stage(sample, "measure", settings, inputs, [], on, _needs(volumes, settings)) as stage:
        if not stage.finished:
            objects = _shapes(stage, volumes, settings)
            pictures = any(
                one.volume.sizes for one in objects.values()
            )  # in which nothing is around or within another in depth
            if not pictures:
                _nuclear(stage, objects, settings)
            if image:
                _textured(stage, objects, image, settings)
            protruding = None if pictures else _cellular(stage, objects, settings)
            stage.forget()
            write_measure_tables(sample, objects, specks, protruding, settings, labels)
    summary = sample.read_table("measured")
    names = summary["structure"].to_pylist()
    return MeasureSummary(
        dict(zip(names, summary["objects"].to_pylist(), strict=True)),
        tuple(measured_tables(sample)),
        summary,
    )


def _counting(sample: Sample, settings: MeasureSettings) -> Volumes:
    """The labels of every structure that is to be measured, the cells last."""
    names = list(settings.structure) or result_names(sample, settings.cells)
    if not names:
        raise SampleError(
            f"{sample.path.name} has no labels to measure; run 'sparsem predict' first, or 'sparsem detect masks' where there are boxes."
        )
    for name in names:
        if name in RESERVED:
            raise SampleError(
                f"A structure cannot be called '{name}': tables and columns of that name mean something else; rename it."
            )
    unknown = [name for name in settings.min_volume_um3 if name not in names]
    if unknown:
        raise SettingsError(
            f"min_volume_um3 names '{unknown[0]}', which is not measured{nearest(unknown[0], names)}"
        )
    labels = {
        name: result_labels(sample, name)
        for name in sorted(names, key=lambda name: name == settings.cells)
    }
    first, one = next(iter(labels.items()))
    for name, volume in labels.items():
        for what in ("shape", "voxel_size"):
            if getattr(volume, what) != getattr(one, what):
                raise SampleError(
                    f"labels/{name} of {sample.path.name} has the {what.replace('_', ' ')} {tuple(getattr(volume, what))}, but "
                    f"labels/{first} {tuple(getattr(one, what))}; name those that belong together with --structure."
                )
    return labels


def _numbered(
    sample: Sample, labels: Volumes, settings: MeasureSettings, on: Execution
) -> tuple[Volumes, dict[str, SmallComponents]]:
    """Numbered objects of every structure."""
    volumes: Volumes = {}
    specks: dict[str, SmallComponents] = {}
    for name, volume in labels.items():
        if (
            volume.dtype == np.uint8 and name != settings.cells
        ):  # a mask: objects are numbered in 32 bit
            least = max(
                settings.min_voxels,
                math.ceil(settings.min_volume_um3.get(name, 0) / volume.voxel_size.volume_um3),
            )
            volumes[name], count, voxels = number_objects(sample, name, volume, least, on)
            specks[name] = SmallComponents(count, voxels)
        else:
            volumes[name], specks[name] = volume, SmallComponents(0, 0)
    return volumes, specks


def _image(sample: Sample, settings: MeasureSettings, labels: Volume) -> Volume | None:
    """The image whose texture is measured; None where there is none, or none is asked for."""
    if not settings.texture or not sample.has_image:
        return None
    name = settings.image or sample.name_of_image(labels)
    image = sample.image(name)
    if image.shape != labels.shape:
        raise SampleError(
            f"The image {name} of {sample.path.name} has the shape {image.shape}, but its labels have {labels.shape}; name the image "
            "that they were made from with --image, or use --no-texture."
        )
    return image


def _each(
    stage: Stage, title: str, function: Any, links: Mapping[str, Any], *arguments: Any
) -> "_Links":
    """Run ``function`` on every link, in parallel; what each returned, read when it is asked for."""
    folder = stage.chain(
        f"{stage.name}, {title}",
        function,
        {name: [link] for name, link in links.items()},
        *arguments,
    )
    return _Links(folder)


def _shapes(
    stage: Stage, volumes: Volumes, settings: MeasureSettings
) -> dict[str, MeasuredStructure]:
    """Sums, surfaces and hulls of the objects of every structure, by two passes over the blocks."""
    holding = {
        name: volumes[name] for name in (settings.cells, settings.nucleus) if name in volumes
    }
    blocks = {
        (name, block.start): (volume, block)
        for name, volume in volumes.items()
        for block in volume.blocks()
    }
    links = {
        f"sums.{name}.{start}": Sums(
            volume, block, {one: other for one, other in holding.items() if one != name}
        )
        for (name, start), (volume, block) in blocks.items()
    }
    read = _each(stage, "voxels", sums, links)
    made: dict[str, MeasuredStructure] = {}
    for name, volume in volumes.items():
        within = [one for one in holding if one != name]
        found, shared = summed(
            (read[f"sums.{name}.{block.start}"] for block in volume.blocks()), within
        )
        made[name] = MeasuredStructure(volume, found, shared)
    bounds = {}
    for name, one in made.items():
        for block in one.volume.blocks(halo(one.volume.voxel_size)):
            bounds[f"surface.{name}.{block.start}"] = Surfaces(
                one.volume, block, one.found.ids, one.found.centroids
            )
    read = _each(stage, "surfaces", surfaces, bounds)
    batches, convex = (
        {},
        {name: np.zeros(len(one.found.ids), np.int64) for name, one in made.items()},
    )
    for name, one in made.items():
        names = [f"surface.{name}.{block.start}" for block in one.volume.blocks()]
        for number, batch in enumerate(batches_of_hulls(one.found, one.volume.blocks(), names)):
            batches[f"hulls.{name}.{number}"] = name, *batch
    counted = _each(
        stage,
        "hulls",
        hull_voxels,
        {key: batch for key, (_, _, batch) in batches.items()},
        read.folder,
    )
    for key, (name, chosen, _) in batches.items():
        convex[name][chosen] = np.asarray(counted[key]["voxels"][...])
    for name, one in made.items():
        surface = surfaces_summed(
            (read[f"surface.{name}.{block.start}"] for block in one.volume.blocks()), one.found.ids
        )
        depth, *plane = one.volume.shape
        planes = np.array(one.volume.sizes or [plane] * depth, np.int64)[
            one.found.low[:, 0]
        ]  # a picture may be smaller than another
        ends = np.column_stack([np.full(len(planes), depth), planes])
        columns = outline_columns if one.volume.sizes else shape_columns
        one.columns = columns(one.found, surface, convex[name], ends, one.volume.voxel_size)
    return made


def _level(one: MeasuredStructure, settings: MeasureSettings, arrays: int = 1) -> int:
    """The finest level at which the largest object fits the budget."""
    return finest_level_within(
        one.volume, one.found.low, one.found.high, int(settings.max_mvoxels * 1e6 / arrays)
    )


def _nuclear(
    stage: Stage, objects: Mapping[str, MeasuredStructure], settings: MeasureSettings
) -> None:
    """Cavities of nucleoli, and where they lie in their nuclei."""
    if settings.nucleolus not in objects:
        return
    nucleoli = objects[settings.nucleolus]
    level, volume = _level(nucleoli, settings), nucleoli.volume
    chosen = crop_groups(volume, level, nucleoli.found.low, nucleoli.found.high)
    links = {
        f"cavities.{k}": Cavities(volume, level, nucleoli.found.of(some), settings.fill)
        for k, some in enumerate(chosen)
    }
    read = _each(stage, "cavities", cavities, links)
    hollow = np.zeros(len(nucleoli.found.ids))
    for k, some in enumerate(chosen):
        hollow[some] = (
            np.asarray(read[f"cavities.{k}"]["cavities"][...]) * volume.voxel_size.volume_um3
        )
    whole = nucleoli.columns["volume_um3"] + hollow
    nucleoli.columns |= {
        "filled_volume_um3": whole,
        "fenestrated_percent": 100 * hollow / whole,
        "solidity_filled": np.minimum(whole / nucleoli.columns["convex_volume_um3"], 1),
        "fill_level": np.full(len(whole), level),
    }
    if settings.nucleus in objects:
        _in_nuclei(stage, nucleoli, objects[settings.nucleus], settings)


def _in_nuclei(
    stage: Stage, nucleoli: MeasuredStructure, nuclei: MeasuredStructure, settings: MeasureSettings
) -> None:
    """Which nucleus holds each nucleolus, and how far from its membrane."""
    owner, _ = main_containers(
        nucleoli.shared[settings.nucleus], nucleoli.found.ids, nucleoli.found.voxels
    )
    level, centers = _level(nuclei, settings), nucleoli.found.centroids
    of = {int(number): np.flatnonzero(owner == number) for number in np.unique(owner[owner > 0])}
    place = {number: int(np.searchsorted(nuclei.found.ids, number)) for number in of}
    links = {
        f"depths.{number}": Depths(
            nuclei.volume, level, nuclei.found.of(np.array([place[number]])), centers[some]
        )
        for number, some in of.items()
    }
    read = _each(stage, "nucleoli in nuclei", depths, links)
    depth, proximity = np.full(len(owner), np.nan), np.full(len(owner), np.nan)
    edges = np.array(nuclei.volume.voxel_size.micrometers)
    for number, some in of.items():
        depth[some] = np.asarray(read[f"depths.{number}"]["depths"][...])
        middle = nuclei.found.centroids[place[number]] * edges
        proximity[some] = [
            proximity_to_membrane(middle, centers[one] * edges, float(depth[one])) for one in some
        ]
    cut = np.concatenate([[False], nuclei.columns["cut_by_edge"]])[
        positions_in(nuclei.found.ids, owner)
    ]
    nucleoli.columns |= {
        "nucleus": owner,
        "nucleus_cut_by_edge": cut,
        "membrane_level": np.full(len(owner), level),
        "centroid_to_membrane_um": depth,
        "proximity_to_membrane": proximity,
    }
    counts, volume = (np.zeros(len(nuclei.found.ids), kind) for kind in (np.int64, np.float64))
    for number, some in of.items():
        counts[place[number]], volume[place[number]] = (
            len(some),
            nucleoli.columns["volume_um3"][some].sum(),
        )
    nuclei.columns |= {"nucleoli": counts, "nucleoli_volume_um3": volume}


def _textured(
    stage: Stage, objects: Mapping[str, MeasuredStructure], image: Volume, settings: MeasureSettings
) -> None:
    """Texture of all structures but cells."""
    gray = _gray_scale(image, settings)
    chosen: dict[str, tuple[MeasuredStructure, int, float, list[Any]]] = {}
    links = {}
    for name, one in objects.items():
        if name == settings.cells or not len(one.found.ids):
            continue
        wanted = (
            level_nearest_to(one.volume, settings.texture_nm)
            if settings.texture_nm
            else near_isotropic_level(one.volume)
        )
        level = max(wanted, _level(one, settings))
        voxel = one.volume.voxel_size_of(level)
        step = settings.spectrum_step_nm or max(voxel)
        scale = TextureScale(
            voxel,
            settings.glcm_nm or max(voxel),
            settings.spectrum_sizes,
            step,
            settings.spectrum_element,
        )
        together = crop_groups(one.volume, level, one.found.low, one.found.high)
        chosen[name] = one, level, step, together
        one.notes["texture"] = {"level": level, **scale._asdict(), "gray": gray._asdict()}
        for k, some in enumerate(together):
            links[f"texture.{name}.{k}"] = Textured(
                one.volume, image, level, one.found.of(some), gray, scale
            )
    read = _each(stage, "texture", textures, links)
    for name, (one, level, step, together) in chosen.items():
        values = np.full((len(one.found.ids), len(TEXTURE_COLUMNS)), np.nan)
        spectra = np.full((len(one.found.ids), 2 * settings.spectrum_sizes), np.nan)
        for k, some in enumerate(together):
            values[some] = np.asarray(read[f"texture.{name}.{k}"]["texture"][...])
            spectra[some] = np.asarray(read[f"texture.{name}.{k}"]["spectrum"][...])
        one.columns |= {column: values[:, k] for k, column in enumerate(TEXTURE_COLUMNS)} | {
            "texture_level": np.full(len(values), level),
            "texture_voxel_nm": np.full(len(values), max(one.volume.voxel_size_of(level))),
        }
        one.spectra = spectra, step


def _gray_scale(image: Volume, settings: MeasureSettings) -> GrayScale:
    if settings.gray_range:
        low, high = settings.gray_range
    elif image.dtype == np.uint8:
        low, high = 0.0, 256.0
    else:
        low, high = (float(one) for one in np.percentile(_some(image), (0.1, 99.9)))
        high = max(high, low + 1e-6)
    return GrayScale(low, high, settings.gray_levels)


def _some(image: Volume) -> NDArray[Any]:
    """Numbers of evenly spread voxels of the full resolution; coarser levels are averages, and know less of the extremes."""
    slices = evenly_spaced(image.shape[0], min(image.shape[0], SAMPLED_SLICES))
    step = max(1, math.isqrt(image.shape[1] * image.shape[2] * len(slices) // SAMPLED_VOXELS))
    return np.concatenate([image.read(slice(z, z + 1))[0, ::step, ::step].ravel() for z in slices])


def _owned(
    cells: MeasuredStructure, organelles: Mapping[str, MeasuredStructure], name_of_cells: str
) -> None:
    """Which cell every organelle belongs to, and what every cell holds."""
    ids, voxel_um3 = cells.found.ids, cells.volume.voxel_size.volume_um3
    for name, one in organelles.items():
        shared = one.shared[name_of_cells]
        owner, share = main_containers(
            shared, one.found.ids, one.found.voxels, np.setdiff1d(shared.second, ids)
        )
        one.columns |= {"cell": owner, "cell_share": share}
        cells.columns |= organelle_columns(
            name, owner, shared, ids, cells.columns["volume_um3"], voxel_um3
        )


def _cellular(
    stage: Stage, objects: Mapping[str, MeasuredStructure], settings: MeasureSettings
) -> pa.Table | None:
    """Whose every organelle is, what is in every cell, distances, and protrusions, whose table is returned."""
    if settings.cells not in objects:
        return None
    cells = objects[settings.cells]
    ids = cells.found.ids
    organelles = {name: one for name, one in objects.items() if name != settings.cells}
    _owned(cells, organelles, settings.cells)
    if settings.nucleus in objects:
        cells.columns["cytoplasm_volume_um3"] = (
            cells.columns["volume_um3"] - cells.columns[f"{settings.nucleus}_volume_um3"]
        )
    level = _level(cells, settings, CELL_ARRAYS)
    nuclei = objects[settings.nucleus].volume if settings.nucleus in objects else None
    free = {
        name: one
        for name, one in organelles.items()
        if name not in (settings.nucleus, settings.nucleolus)
    }
    links = {}
    for k, cell in enumerate(ids):
        held = {
            name: (one.volume, one.found.of(one.columns["cell"] == cell))
            for name, one in free.items()
        }
        links[f"cell.{cell}"] = CellPiece(
            cells.volume,
            level,
            cells.found.of(np.array([k])),
            nuclei,
            held,
            settings.protrusion_nm / 1000,
        )
    read = _each(stage, "cells", cell_measures, links)
    for one in free.values():
        empty = np.full(len(one.found.ids), np.nan)
        one.columns |= {"distance_to_nucleus_um": empty, "distance_to_membrane_um": empty.copy()}
        one.columns["distance_level"] = np.full(len(one.found.ids), level)
        cut = np.concatenate([[False], cells.columns["cut_by_edge"]])
        one.columns["cell_cut_by_edge"] = cut[positions_in(ids, one.columns["cell"])]
    found = []
    for cell in ids:
        arrays = read[f"cell.{cell}"]
        for name, one in free.items():
            for what in ("nucleus", "membrane"):
                one.columns[f"distance_to_{what}_um"][one.columns["cell"] == cell] = np.asarray(
                    arrays[f"{name}.{what}"][...]
                )
        found.append(np.asarray(arrays["protrusions"][...]).reshape(-1, 3))
    for name, one in free.items():
        distances = {
            f"distance_to_{what}_um": one.columns[f"distance_to_{what}_um"]
            for what in ("nucleus", "membrane")
        }
        cells.columns |= distance_columns(name, one.columns["cell"], distances, ids)
    cells.columns |= protrusion_columns(found) | {"distance_level": np.full(len(ids), level)}
    cells.columns["cell"] = cells.columns.pop("object")
    cells.columns["annotated"] = ~np.isin(ids, unassigned(stage.sample, settings.cells))
    return protrusion_table(ids, found)


def _needs(volumes: Volumes, settings: MeasureSettings) -> Needs:
    one = next(iter(volumes.values()))
    depth, y, x = one.block_depth + 2 * halo(one.voxel_size), *one.shape[1:]
    ram = max(depth * y * x * 12, int(settings.max_mvoxels * 1e6) * 30)
    return Needs(
        ram,
        smaller="use a smaller --max-mvoxels, fewer --workers, or import with a smaller --block-depth",
    )
