"""Texture of the objects of every structure but the cells, crop by crop."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import evenly_spaced
from sparsem.measure.crops import (
    crop_around,
    crop_groups,
    level_nearest_to,
    near_isotropic_level,
)
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.texture import (
    TEXTURE_COLUMNS,
    GrayScale,
    TextureScale,
    texture_features,
)
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import MeasuredStructure, level_in_budget
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Slices, and voxels of them, from which the range of gray levels of more than 8 bit is estimated.
SAMPLED_SLICES = 16
SAMPLED_VOXELS = 4_000_000
# The range of gray levels of more than 8 bit.
RANGE_PERCENTILES = (0.1, 99.9)


class TextureLink(NamedTuple):
    """Objects that are read in one crop, and the scales by which their texture is measured."""

    labels: Volume
    image: Volume
    level: int
    moments: Moments
    gray: GrayScale
    scale: TextureScale


class TexturePlan(NamedTuple):
    """The measurement of the texture of a structure.

    Attributes:
        structure: objects to measure.
        level: level of the pyramid; one for all objects.
        scale: lengths that texture depends on.
        groups: indices of the objects that are read in one crop.
    """

    structure: MeasuredStructure
    level: int
    scale: TextureScale
    groups: list[Ints]


def measure_textures(
    stage: Stage,
    structures: Mapping[str, MeasuredStructure],
    image: Volume,
    settings: MeasureSettings,
) -> None:
    """Add the texture of the objects of all structures but the cells to the columns."""
    gray = _gray_scale(image, settings)
    plans = {}
    links: dict[str, TextureLink] = {}
    for name, structure in structures.items():
        if name != settings.cells and structure.count:
            plan = _plan_texture(structure, settings)
            plans[name] = plan
            links |= _links_of(name, plan, image, gray)
            structure.notes["texture"] = _texture_notes(plan, gray)
    results = run_links(stage, "texture", crop_textures, links)
    for name, plan in plans.items():
        _add_columns(results, name, plan)


def _texture_notes(plan: TexturePlan, gray: GrayScale) -> dict[str, Any]:
    """Return level, lengths and gray levels for the metadata of a table."""
    return {"level": plan.level, **plan.scale._asdict(), "gray": gray._asdict()}


def _links_of(
    name: str, plan: TexturePlan, image: Volume, gray: GrayScale
) -> dict[str, TextureLink]:
    """Return the links of a structure, one for each group of objects."""
    links = {}
    for k, group in enumerate(plan.groups):
        moments = plan.structure.moments.select(group)
        link = TextureLink(plan.structure.volume, image, plan.level, moments, gray, plan.scale)
        links[_link_name(name, k)] = link
    return links


def crop_textures(link: TextureLink, _previous: None) -> Arrays:
    """Measure the texture of every object of a link.

    Returns:
        ``texture``, (n, columns); and the pattern spectra ``spectrum``, (n, 2 sizes).
    """
    moments = link.moments
    rows = []
    spectra = []
    for number, low, high in zip(moments.ids, moments.low, moments.high, strict=True):
        crop = crop_around(link.labels, link.level, low, high)
        mask = crop.read(link.labels) == number
        values, spectrum = texture_features(crop.read(link.image), mask, link.gray, link.scale)
        rows.append([values[name] for name in TEXTURE_COLUMNS])
        spectra.append(spectrum)
    return {"texture": np.array(rows), "spectrum": np.array(spectra)}


def _link_name(structure: str, group_number: int) -> str:
    """Return the name of the link of a group of objects."""
    return f"texture.{structure}.{group_number}"


def _plan_texture(structure: MeasuredStructure, settings: MeasureSettings) -> TexturePlan:
    """Choose the level and the lengths of the texture of a structure."""
    volume, moments = structure.volume, structure.moments
    if settings.texture_nm:
        preferred_level = level_nearest_to(volume, settings.texture_nm)
    else:
        preferred_level = near_isotropic_level(volume)
    level = max(preferred_level, level_in_budget(structure, settings))
    voxel = volume.voxel_size_of(level)
    scale = TextureScale(
        voxel,
        distance_nm=settings.glcm_nm or max(voxel),
        sizes=settings.spectrum_sizes,
        step_nm=settings.spectrum_step_nm or max(voxel),
        element=settings.spectrum_element,
    )
    return TexturePlan(
        structure, level, scale, crop_groups(volume, level, moments.low, moments.high)
    )


def _add_columns(results: LinkResults, name: str, plan: TexturePlan) -> None:
    """Add the results of all links of a structure to its columns and spectra."""
    structure = plan.structure
    values, spectra = _textures_of_all(results, name, plan)
    columns = structure.columns
    columns |= dict(zip(TEXTURE_COLUMNS, values.T, strict=True))
    longest_edge = max(structure.volume.voxel_size_of(plan.level))
    columns["texture_level"] = np.full(structure.count, plan.level)
    columns["texture_voxel_nm"] = np.full(structure.count, longest_edge)
    structure.spectra = (spectra, plan.scale.step_nm)


def _textures_of_all(results: LinkResults, name: str, plan: TexturePlan) -> tuple[Floats, Floats]:
    """Return the textures (n, columns) and the spectra (n, 2 sizes) of a structure's objects."""
    n_objects = plan.structure.count
    values = np.full((n_objects, len(TEXTURE_COLUMNS)), np.nan)
    spectra = np.full((n_objects, 2 * plan.scale.sizes), np.nan)
    for k, group in enumerate(plan.groups):
        arrays = results.arrays(_link_name(name, k))
        values[group] = arrays["texture"]
        spectra[group] = arrays["spectrum"]
    return values, spectra


def _gray_scale(image: Volume, settings: MeasureSettings) -> GrayScale:
    """Return the gray levels of the settings, over a given or estimated range of the image."""
    if settings.gray_range:
        low, high = settings.gray_range
    elif image.dtype == np.uint8:
        low, high = 0.0, 256.0
    else:
        percentiles = np.percentile(_sample_values(image), RANGE_PERCENTILES)
        low = float(percentiles[0])
        high = max(float(percentiles[1]), low + 1e-6)
    return GrayScale(low, high, settings.gray_levels)


def _sample_values(image: Volume) -> NDArray[Any]:
    """Return the values of evenly spread voxels of the full resolution.

    Coarser levels are averages, in which the extremes are missing.
    """
    depth, height, width = image.shape
    slices = evenly_spaced(depth, min(depth, SAMPLED_SLICES))
    step = max(1, math.isqrt(height * width * len(slices) // SAMPLED_VOXELS))
    samples = [image.read(slice(z, z + 1))[0, ::step, ::step].ravel() for z in slices]
    return np.concatenate(samples)
