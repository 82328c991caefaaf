"""What is measured of one object after the other, in a piece of the volume that holds it: texture, cavities, distances, protrusions.

Each function is one link of a stage: it reads its pieces and returns one row an object.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from sparsem.labels.overlaps import positions_in
from sparsem.measure.crops import Crop, crop_around, downsampling_factors
from sparsem.measure.features.distances import (
    depth_within,
    distance_to,
    half_edge,
    minimum_distances,
)
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.nucleolus import Fill, fill_cavities
from sparsem.measure.features.protrusions import find_protrusions
from sparsem.measure.features.texture import (
    TEXTURE_COLUMNS,
    GrayScale,
    TextureScale,
    texture_features,
)
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays

Floats = NDArray[np.float64]


class Textured(NamedTuple):
    """Objects that lie in one piece: where they are, and what texture is measured with."""

    labels: Volume
    image: Volume
    level: int
    found: Moments
    gray: GrayScale
    scale: TextureScale


class Cavities(NamedTuple):
    """Objects that lie in one piece, and how they are filled."""

    labels: Volume
    level: int
    found: Moments
    fill: Fill


class Depths(NamedTuple):
    """An object, and places in the volume whose depth in it is asked for: (n, 3) voxels."""

    labels: Volume
    level: int
    found: Moments
    places: Floats


class CellPiece(NamedTuple):
    """A cell, its nuclei, and the objects in it by structure."""

    cells: Volume
    level: int
    found: Moments
    nuclei: Volume | None
    organelles: Mapping[str, tuple[Volume, Moments]]
    protrusion_um: float


def textures(link: Textured, _before: None) -> Arrays:
    """Texture (n, columns) and pattern spectra (n, 2 sizes)."""
    whole, pieces = _pieces(link.labels, link.level, link.found)
    labels, image = whole.of(link.labels), whole.of(link.image)
    rows, spectra = [], []
    for number, piece in zip(link.found.ids, pieces, strict=True):
        inner = whole.inner(piece)
        values, spectrum = texture_features(
            image[inner], labels[inner] == number, link.gray, link.scale
        )
        rows.append([values[name] for name in TEXTURE_COLUMNS])
        spectra.append(spectrum)
    return {"texture": np.array(rows), "spectrum": np.array(spectra)}


def cavities(link: Cavities, _before: None) -> Arrays:
    """Voxels of the full resolution that the cavities of every object take, (n,)."""
    whole, pieces = _pieces(link.labels, link.level, link.found)
    labels, size = whole.of(link.labels), int(downsampling_factors(link.labels, link.level).prod())
    out = []
    for number, piece in zip(link.found.ids, pieces, strict=True):
        mask = labels[whole.inner(piece)] == number
        out.append((int(fill_cavities(mask, link.fill).sum()) - int(mask.sum())) * size)
    return {"cavities": np.array(out, np.int64)}


def depths(link: Depths, _before: None) -> Arrays:
    """How deep places lie below an object's surface, µm; 0 for one outside, NaN where the object has no surface: (n,).

    The surface passes half way between voxels inside and outside: half an edge is taken off.
    """
    piece = crop_around(link.labels, link.level, link.found.low[0], link.found.high[0], rim=1)
    edges = link.labels.voxel_size_of(link.level).micrometers
    depth = depth_within(piece.of(link.labels) == link.found.ids[0], edges)
    return {
        "depths": np.maximum(
            _sampled(depth, _in_piece(link.places, link.labels, piece)) - half_edge(edges), 0
        )
    }


def cell_measures(link: CellPiece, _before: None) -> Arrays:
    """Distances of a cell's organelles to its nuclei and to its membrane, µm, and its protrusions: (n, 3) length, volume, attached."""
    piece = crop_around(link.cells, link.level, link.found.low[0], link.found.high[0], rim=1)
    edges = link.cells.voxel_size_of(link.level).micrometers
    cell = piece.of(link.cells) == link.found.ids[0]
    to_membrane = depth_within(cell, edges)
    nucleus = cell & (piece.of(link.nuclei) > 0) if link.nuclei else None
    to_nucleus = distance_to(nucleus, edges) if nucleus is not None and nucleus.any() else None
    out: dict[str, NDArray[Any]] = {}
    for name, (volume, objects) in link.organelles.items():
        index = positions_in(objects.ids, piece.of(volume)).astype(np.uint32)
        places = _in_piece(objects.centroids, volume, piece)
        for what, field in (("nucleus", to_nucleus), ("membrane", to_membrane)):
            out[f"{name}.{what}"] = _nearest(index, len(objects.ids), field, places)
    found = find_protrusions(cell, edges, link.protrusion_um)
    return {
        **out,
        "protrusions": np.array(
            [[one.length, one.volume, one.attached] for one in found], float
        ).reshape(-1, 3),
    }


def _nearest(
    index: NDArray[np.uint32], count: int, field: NDArray[np.float32] | None, places: Floats
) -> Floats:
    """Smallest value of a field over each object; at its centroid for one that is too small for this level."""
    if field is None:
        return np.full(count, np.nan)
    found = minimum_distances(index, count, field)
    lost = ~np.isfinite(found)
    found[lost] = _sampled(field, places[lost])
    return np.where(np.isfinite(found), found, np.nan)


def _pieces(volume: Volume, level: int, found: Moments) -> tuple[Crop, list[Crop]]:
    """The piece that holds all objects, and those of each."""
    whole = crop_around(volume, level, found.low.min(axis=0), found.high.max(axis=0))
    return whole, [
        crop_around(volume, level, low, high)
        for low, high in zip(found.low, found.high, strict=True)
    ]


def _in_piece(places: Floats, volume: Volume, piece: Crop) -> Floats:
    """Places in voxels of the full resolution -> in voxels of a piece; a voxel's center has a whole number."""
    return np.asarray(
        (places + 0.5) / downsampling_factors(volume, piece.level) - 0.5 - np.array(piece.low),
        np.float64,
    )


def _sampled(field: NDArray[np.float32], places: Floats) -> Floats:
    if not np.isfinite(field).all():  # there is nothing to be far from, anywhere
        return np.full(len(places), np.nan)
    return np.asarray(map_coordinates(field, places.T, order=1, mode="nearest"), np.float64)
