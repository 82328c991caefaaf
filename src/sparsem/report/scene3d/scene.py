"""The 3D scene of a sample on the page: meshes at a resolution that a browser can hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sparsem.report.encode import encode_mesh
from sparsem.report.layers import StructureLayer
from sparsem.report.scene3d.lines import encode_skeletons
from sparsem.report.scene3d.solids import solids_of, volume_box
from sparsem.store.volume import Volume

# Voxels from which meshes are made; a coarser level of the pyramid is read if there are more.
MAX_STRUCTURE_VOXELS = 24e6
MAX_CELL_VOXELS = 3e6

# Structure -> the structure inside it. The outer one is transparent if the inner one is shown.
INNER_STRUCTURE = {"nucleus": "nucleolus"}

# Transparency of a structure in the scene; higher values are drawn later and are fainter.
OPAQUE, OUTER, OUTERMOST = 0, 1, 2


def encode_scene(
    layers: Sequence[StructureLayer], n_triangles: int, tables: Mapping[str, pa.Table]
) -> dict[str, Any]:
    """Return the meshes of structures in one cube around the volume, and their skeletons.

    Args:
        layers: structures; those without labels, or with another shape than the first, are left
            out.
        n_triangles: approximate number of triangles of the whole scene.
        tables: name -> table; those of skeletons are read.

    Returns:
        ``size``, the edges (z, y, x) of the volume in µm; ``structures``, a list of dictionaries
        with ``name``, ``color``, null for cells, ``transparency`` (0 to 2), ``parts``, encoded as
        ``encode.encode_mesh`` states with the ``number`` of their object, 0 for a whole structure,
        and ``skeletons``, see ``encode.encode_lines``, null without any.
    """
    volumes = [(layer, layer.labels) for layer in layers if layer.labels is not None]
    if not volumes or not _has_depth(volumes[0][1]):
        return {"size": [0, 0, 0], "structures": []}
    names = [layer.name for layer, _ in volumes]
    first = volumes[0][1]
    size_um = np.array(first.shape) * np.array(first.voxel_size) / 1000
    cube_um = float(size_um.max())
    structures = []
    for layer, labels in volumes:
        if labels.shape != first.shape:
            continue
        structure = {
            "name": layer.name,
            "color": None if layer.cells else list(layer.color),
            "transparency": _transparency(layer, names),
            "parts": _encode_parts(layer, labels, n_triangles // len(volumes), cube_um),
            "skeletons": _encode_skeletons(layer.name, tables, cube_um),
        }
        structures.append(structure)
    return {"size": size_um.tolist(), "structures": structures}


def _has_depth(volume: Volume) -> bool:
    """Return whether a volume is a stack of more than one slice, and no montage of images."""
    return volume.shape[0] > 1 and not volume.sizes


def _transparency(layer: StructureLayer, names: Sequence[str]) -> int:
    """Return the transparency of a structure among those that are shown."""
    if layer.cells:
        return OUTERMOST
    return OUTER if INNER_STRUCTURE.get(layer.name) in names else OPAQUE


def _encode_parts(
    layer: StructureLayer, labels: Volume, n_triangles: int, cube_um: float
) -> list[dict[str, Any]]:
    """Return the meshes of a structure with their names and colors."""
    max_voxels = MAX_CELL_VOXELS if layer.cells else MAX_STRUCTURE_VOXELS
    parts = []
    for solid in solids_of(layer, volume_box(labels), max_voxels, n_triangles):
        if len(solid.mesh.triangles):
            number = int(solid.name) if layer.separate else 0
            parts.append({"number": number, **encode_mesh(solid.mesh, cube_um)})
    return parts


def _encode_skeletons(
    name: str, tables: Mapping[str, pa.Table], cube_um: float
) -> dict[str, Any] | None:
    """Return the skeletons of a structure as lines; None if there are none."""
    table = tables.get(f"skeleton_lines_{name}")
    return encode_skeletons(table, cube_um) if table is not None and table.num_rows else None
