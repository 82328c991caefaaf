"""The 3D scene of a sample for the page: meshes of its structures at a level of the pyramid that a browser can hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsem.report.encode import packed_mesh
from sparsem.report.layers import Layer
from sparsem.report.scene3d.solids import solids_of, whole_box

STRUCTURE_VOXELS = 24e6  # of the level that is read
CELL_VOXELS = 3e6
AROUND = {
    "nucleus": "nucleolus"
}  # what lies around another structure, and is seen through where that is there


def scene(layers: Sequence[Layer], triangles: int) -> dict[str, Any]:
    """Meshes by structure, in one cube around the volume.

    Args:
        layers: structures; those without labels are left out.
        triangles: of the whole scene, about.
    """
    there = [one for one in layers if one.labels]
    if (
        not there
        or there[0].labels is None
        or there[0].labels.shape[0] == 1
        or there[0].labels.sizes
    ):  # a picture has no depth
        return {"size": [0, 0, 0], "structures": []}
    first = there[0].labels
    size = np.array(first.shape) * np.array(first.voxel_size) / 1000
    structures = []
    for one in there:
        if one.labels is None or one.labels.shape != first.shape:
            continue
        solids = solids_of(
            one,
            whole_box(one.labels),
            CELL_VOXELS if one.cells else STRUCTURE_VOXELS,
            triangles // len(there),
        )
        parts = [
            {
                "name": solid.name,
                "color": list(solid.color),
                **packed_mesh(solid.mesh, np.zeros(3), float(size.max())),
            }
            for solid in solids
            if len(solid.mesh.triangles)
        ]
        glass = 2 if one.cells else int(AROUND.get(one.name, "") in [other.name for other in there])
        structures.append({"name": one.name, "glass": glass, "parts": parts})
    return {"size": size.tolist(), "structures": structures}
