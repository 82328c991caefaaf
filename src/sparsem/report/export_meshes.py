"""Meshes as files for other programs: GLB, STL and OBJ."""

from pathlib import Path
from typing import Any

from sparsem.io.writers import atomic_output
from sparsem.report.scene3d.solids import Solid

OPAQUE = 255


def new_scene() -> Any:
    """Return an empty scene of trimesh."""
    import trimesh  # takes a second to load, and only meshes need it

    return trimesh.Scene()


def add_solid(scene: Any, solid: Solid, name: str) -> None:
    """Add a mesh (z, y, x) to a scene (x, y, z), with its color."""
    import trimesh

    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=(*solid.color, OPAQUE),
        metallicFactor=0.0,
        roughnessFactor=0.8,
        name=solid.name,
    )
    visual = trimesh.visual.TextureVisuals(material=material)
    vertices_xyz = solid.mesh.vertices[:, ::-1]
    mesh = trimesh.Trimesh(vertices_xyz, solid.mesh.triangles, process=False, visual=visual)
    scene.add_geometry(mesh, node_name=name, geom_name=name)


def write_scene(scene: Any, path: Path, overwrite: bool) -> None:
    """Write a scene in the format that the ending names.

    Raises:
        InputError: the file with the colors of an OBJ exists, and ``overwrite`` is not set.
    """
    ending = path.suffix.lower()
    if ending == ".obj":
        _write_obj(scene, path, overwrite)
        return
    content = scene.to_mesh() if ending == ".stl" else scene
    with atomic_output(path, overwrite=True) as unfinished:
        unfinished.write_bytes(content.export(file_type=ending.removeprefix(".")))


def _write_obj(scene: Any, path: Path, overwrite: bool) -> None:
    """Write Wavefront OBJ, and next to it the colors, which the format stores in another file."""
    from trimesh.exchange.obj import export_obj

    material_path = path.with_suffix(".mtl")
    text, files = export_obj(
        scene, return_texture=True, write_texture=False, mtl_name=material_path.name, header=None
    )
    for name, content in files.items():
        with atomic_output(path.with_name(name), overwrite) as unfinished:
            unfinished.write_bytes(content)
    with atomic_output(path, overwrite=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
