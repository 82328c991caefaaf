"""A file of meshes for other programs: GLB, STL or OBJ."""

from pathlib import Path
from typing import Any

from sparsem.io.writers import atomic_output
from sparsem.report.plots.colors import css_color
from sparsem.report.scene3d.solids import Solid

OPAQUE = 255


class MeshFile:
    """Meshes (z, y, x) with their names and colors, to be written as one file (x, y, z).

    Attributes:
        n_meshes: number of meshes.
        n_triangles: number of their triangles.
        n_full_triangles: number of their triangles before they were simplified.
    """

    def __init__(self) -> None:
        import trimesh  # takes a second to load, and only meshes need it

        self._scene = trimesh.Scene()
        self.n_meshes = 0
        self.n_triangles = 0
        self.n_full_triangles = 0

    def add(self, solid: Solid, name: str) -> None:
        """Add a mesh with its color, unless it is empty."""
        import trimesh

        if not len(solid.mesh.triangles):
            return
        color = css_color(solid.color)
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=(*solid.color, OPAQUE),
            metallicFactor=0.0,
            roughnessFactor=0.8,
            name=color,  # meshes of one color share a material
        )
        visual = trimesh.visual.TextureVisuals(material=material)
        vertices_xyz = solid.mesh.vertices[:, ::-1]
        mesh = trimesh.Trimesh(vertices_xyz, solid.mesh.triangles, process=False, visual=visual)
        self._scene.add_geometry(mesh, node_name=name, geom_name=name)
        self.n_meshes += 1
        self.n_triangles += len(solid.mesh.triangles)
        self.n_full_triangles += solid.n_full_triangles

    def write(self, path: Path, comment: str, overwrite: bool) -> None:
        """Write the meshes in the format that the ending names.

        Args:
            path: the file, which is replaced.
            comment: a sentence that GLB and OBJ carry; empty for none.
            overwrite: whether the file with the colors of an OBJ may be replaced.

        Raises:
            InputError: the file with the colors of an OBJ exists and may not be replaced.
        """
        ending = path.suffix.lower()
        if ending == ".obj":
            _write_obj(self._scene, path, comment, overwrite)
            return
        if comment:
            self._scene.metadata["comment"] = comment
        content = self._scene.to_mesh() if ending == ".stl" else self._scene
        with atomic_output(path, overwrite=True) as unfinished:
            unfinished.write_bytes(content.export(file_type=ending.removeprefix(".")))


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
