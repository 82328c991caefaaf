"""A file of meshes for other programs: GLB, STL or OBJ."""

from pathlib import Path
from typing import Any

import numpy as np

from sparsem.io.writers import atomic_output
from sparsem.report.plots.colors import RGB, css_color
from sparsem.report.scene3d.solids import Solid

OPAQUE = 255
STL_HEADER = 80  # bytes


class MeshFile:
    """Meshes (z, y, x) with their names and colors, to be written as one file (x, y, z).

    Args:
        path: the file; its ending names the format.

    Attributes:
        n_meshes: number of meshes.
        n_triangles: number of their triangles.
        n_full_triangles: number of their triangles before they were simplified.
    """

    def __init__(self, path: Path) -> None:
        import trimesh  # takes a second to load, and only meshes need it

        self._path = path
        self._ending = path.suffix.lower()
        self._scene = trimesh.Scene()
        self.n_meshes = 0
        self.n_triangles = 0
        self.n_full_triangles = 0

    def add(self, solid: Solid, name: str) -> None:
        """Add a mesh with its color, unless it is empty."""
        import trimesh

        if not len(solid.mesh.triangles):
            return
        color = _linear(solid.color) if self._ending == ".glb" else solid.color
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=(*color, OPAQUE),
            metallicFactor=0.0,
            roughnessFactor=0.8,
            name=css_color(solid.color),  # meshes of one color share a material
        )
        visual = trimesh.visual.TextureVisuals(material=material)
        vertices_xyz = solid.mesh.vertices[:, ::-1]
        mesh = trimesh.Trimesh(vertices_xyz, solid.mesh.triangles, process=False, visual=visual)
        self._scene.add_geometry(mesh, node_name=name, geom_name=name)
        self.n_meshes += 1
        self.n_triangles += len(solid.mesh.triangles)
        self.n_full_triangles += solid.n_full_triangles

    def write(self, comment: str, overwrite: bool) -> None:
        """Write the file, which is replaced.

        Args:
            comment: a sentence that the file carries; empty for none.
            overwrite: whether the file with the colors of an OBJ may be replaced.

        Raises:
            InputError: the file with the colors of an OBJ exists and may not be replaced.
        """
        if self._ending == ".obj":
            _write_obj(self._scene, self._path, comment, overwrite)
            return
        if self._ending == ".stl":
            content = self._scene.to_mesh().export(file_type="stl")
            content = comment.encode("ascii")[:STL_HEADER].ljust(STL_HEADER) + content[STL_HEADER:]
        else:
            self._scene.metadata.update({"comment": comment} if comment else {})
            content = self._scene.export(file_type="glb")
        with atomic_output(self._path, overwrite=True) as unfinished:
            unfinished.write_bytes(content)


def _linear(color: RGB) -> RGB:
    """Return a color as glTF stores it: linear, where CSS and images have the sRGB curve."""
    fractions = np.array(color) / 255
    low, high = fractions / 12.92, ((fractions + 0.055) / 1.055) ** 2.4
    red, green, blue = np.round(255 * np.where(fractions <= 0.04045, low, high)).astype(int)
    return int(red), int(green), int(blue)


def _write_obj(scene: Any, path: Path, comment: str, overwrite: bool) -> None:
    """Write Wavefront OBJ, and next to it the colors, which the format stores in another file."""
    from trimesh.exchange.obj import export_obj

    material_path = path.with_suffix(".mtl")
    text, files = export_obj(
        scene,
        return_texture=True,
        write_texture=False,
        mtl_name=material_path.name,
        header=comment or None,
    )
    for name, content in files.items():
        with atomic_output(path.with_name(name), overwrite) as unfinished:
            unfinished.write_bytes(content)
    with atomic_output(path, overwrite=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
