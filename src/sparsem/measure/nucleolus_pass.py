"""Nucleoli: their cavities, the nucleus that contains each, and the distance to its membrane."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import positions_in
from sparsem.measure.containment import contents_of, main_containers
from sparsem.measure.crops import (
    batches_of_objects,
    crop_around,
    crop_groups,
    crops_around,
    downsampling_factors,
    positions_in_crop,
)
from sparsem.measure.features.distances import depths_at, half_edge
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.nucleolus import fill_cavities, proximity_to_membrane
from sparsem.measure.links import run_links
from sparsem.measure.settings import Fill, MeasureSettings
from sparsem.measure.structures import MeasuredStructure, level_in_budget
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CavitiesLink(NamedTuple):
    """Objects that are read in one crop, and the method by which they are filled."""

    labels: Volume
    level: int
    moments: Moments
    fill: Fill


class DepthsLink(NamedTuple):
    """Objects, and positions in the volume, (n, 3) voxels, whose depth in each is measured."""

    labels: Volume
    level: int
    moments: Moments
    positions: Sequence[Floats]


class NucleusContent(NamedTuple):
    """A nucleus that contains nucleoli.

    Attributes:
        nucleus: index of the nucleus.
        nucleoli: indices of its nucleoli, (n,).
    """

    nucleus: int
    nucleoli: Ints


def measure_nucleoli(
    stage: Stage, structures: Mapping[str, MeasuredStructure], settings: MeasureSettings
) -> None:
    """Add the cavities of nucleoli, and their positions in their nuclei, to the columns."""
    if settings.nucleolus not in structures:
        return
    nucleoli = structures[settings.nucleolus]
    _add_cavities(stage, nucleoli, settings)
    if settings.nucleus in structures:
        _add_positions(stage, nucleoli, structures[settings.nucleus], settings)


def cavity_voxels(link: CavitiesLink, _previous: None) -> Arrays:
    """Measure the cavities of every object of a link.

    Returns:
        ``cavities``, (n,), in voxels of the full resolution.
    """
    moments = link.moments
    outer, crops = crops_around(link.labels, link.level, moments.low, moments.high)
    labels = outer.read(link.labels)
    voxel_count = int(downsampling_factors(link.labels, link.level).prod())
    cavities = []
    for number, crop in zip(moments.ids, crops, strict=True):
        mask = labels[outer.slices_of(crop)] == number
        filled_voxels = int(fill_cavities(mask, link.fill).sum())
        cavities.append((filled_voxels - int(mask.sum())) * voxel_count)
    return {"cavities": np.array(cavities, np.int64)}


def depths_below_surface(link: DepthsLink, _previous: None) -> Arrays:
    """Measure the depth of positions below the surface of each object of a link.

    The surface passes halfway between voxels inside and outside: half an edge is subtracted.

    Returns:
        ``depths``, (n,), µm, of the positions in all objects; 0 for a position outside, NaN if the
        object has no surface.
    """
    edges = link.labels.voxel_size_of(link.level).micrometers
    depths = [np.empty(0)]
    moments = link.moments
    objects = zip(moments.ids, moments.low, moments.high, link.positions, strict=True)
    for number, low, high, positions in objects:
        crop = crop_around(link.labels, link.level, low, high, margin=1)
        mask = crop.read(link.labels) == number
        depths.append(depths_at(mask, edges, positions_in_crop(positions, link.labels, crop)))
    return {"depths": np.maximum(np.concatenate(depths) - half_edge(edges), 0)}


def _add_cavities(stage: Stage, nucleoli: MeasuredStructure, settings: MeasureSettings) -> None:
    """Add the volume of cavities, and the measures that follow from it, to the columns."""
    level = level_in_budget(nucleoli, settings)
    voxels = _cavity_voxels_of_all(stage, nucleoli, level, settings)
    cavities = voxels * nucleoli.volume.voxel_size.volume_um3
    filled = nucleoli.columns["volume_um3"] + cavities
    nucleoli.columns |= {
        "filled_volume_um3": filled,
        "fenestrated_percent": 100 * cavities / filled,
        "solidity_filled": np.minimum(filled / nucleoli.columns["convex_volume_um3"], 1),
        "fill_level": np.full(nucleoli.count, level),
    }


def _cavity_voxels_of_all(
    stage: Stage, nucleoli: MeasuredStructure, level: int, settings: MeasureSettings
) -> Ints:
    """Return the voxels of the cavities of every nucleolus, (n,), at full resolution."""
    moments, volume = nucleoli.moments, nucleoli.volume
    groups = crop_groups(volume, level, moments.low, moments.high)
    links = {
        f"cavities.{k}": CavitiesLink(volume, level, moments.select(group), settings.fill)
        for k, group in enumerate(groups)
    }
    results = run_links(stage, "cavities", cavity_voxels, links)
    voxels = np.zeros(nucleoli.count, np.int64)
    for k, group in enumerate(groups):
        voxels[group] = results.array(f"cavities.{k}", "cavities")
    return voxels


def _add_positions(
    stage: Stage, nucleoli: MeasuredStructure, nuclei: MeasuredStructure, settings: MeasureSettings
) -> None:
    """Add the nucleus of every nucleolus, and its distance to the membrane, to the columns."""
    overlaps = nucleoli.overlaps[settings.nucleus]
    owners, _ = main_containers(overlaps, nucleoli.ids, nucleoli.moments.voxels)
    contents = _nucleus_contents(owners, nuclei)
    level = level_in_budget(nuclei, settings)
    depths = _depths_in_nuclei(stage, nucleoli, nuclei, contents, level)
    is_cut = np.concatenate([[False], nuclei.columns["cut_by_edge"]])
    nucleoli.columns |= {
        "nucleus": owners,
        "nucleus_cut_by_edge": is_cut[positions_in(nuclei.ids, owners)],
        "membrane_level": np.full(nucleoli.count, level),
        "centroid_to_membrane_um": depths,
        "proximity_to_membrane": _proximities(nucleoli, nuclei, contents, depths),
    }
    _add_contents(nuclei, nucleoli, contents)


def _add_contents(
    nuclei: MeasuredStructure, nucleoli: MeasuredStructure, contents: list[NucleusContent]
) -> None:
    """Add the number and the volume of the nucleoli of every nucleus to the columns."""
    counts = np.zeros(nuclei.count, np.int64)
    volumes = np.zeros(nuclei.count, np.float64)
    for nucleus, indices in contents:
        counts[nucleus] = len(indices)
        volumes[nucleus] = nucleoli.columns["volume_um3"][indices].sum()
    nuclei.columns |= {"nucleoli": counts, "nucleoli_volume_um3": volumes}


def _nucleus_contents(
    owners: NDArray[np.uint32], nuclei: MeasuredStructure
) -> list[NucleusContent]:
    """Return the nuclei that contain nucleoli, from the nucleus of each nucleolus, 0 for none."""
    contents = enumerate(contents_of(nuclei.ids, owners))
    return [NucleusContent(nucleus, nucleoli) for nucleus, nucleoli in contents if len(nucleoli)]


def _depths_in_nuclei(
    stage: Stage,
    nucleoli: MeasuredStructure,
    nuclei: MeasuredStructure,
    contents: list[NucleusContent],
    level: int,
) -> Floats:
    """Return the distance of every nucleolus' centroid to the surface of its nucleus, (n,), µm."""
    centroids = nucleoli.moments.centroids
    containing = nuclei.moments.select(np.array([nucleus for nucleus, _ in contents], np.int64))
    batches = batches_of_objects(nuclei.volume, level, containing.low, containing.high)
    links = {}
    for number, batch in enumerate(batches):
        positions = [centroids[contents[index].nucleoli] for index in batch]
        link = DepthsLink(nuclei.volume, level, containing.select(batch), positions)
        links[f"depths.{number}"] = link
    results = run_links(stage, "nucleoli in nuclei", depths_below_surface, links)
    depths = np.full(nucleoli.count, np.nan)
    for number, batch in enumerate(batches):
        indices = np.concatenate([contents[index].nucleoli for index in batch])
        depths[indices] = results.array(f"depths.{number}", "depths")
    return depths


def _proximities(
    nucleoli: MeasuredStructure,
    nuclei: MeasuredStructure,
    contents: list[NucleusContent],
    depths: Floats,
) -> Floats:
    """Return the proximity of every nucleolus to the membrane of its nucleus, (n,)."""
    edges = np.array(nuclei.volume.voxel_size.micrometers)
    nucleus_centroids = nuclei.moments.centroids * edges
    centroids = nucleoli.moments.centroids * edges
    proximities = np.full(nucleoli.count, np.nan)
    for nucleus, indices in contents:
        for index in indices:
            proximities[index] = proximity_to_membrane(
                nucleus_centroids[nucleus], centroids[index], float(depths[index])
            )
    return proximities
