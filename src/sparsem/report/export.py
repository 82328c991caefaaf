"""What other programs open: meshes, tables, and the commands and links by which viewers open the sample as it lies."""

import json
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import InputError, SampleError
from sparsem.io.writers import WRITERS, atomic_output, write_volume
from sparsem.measure.settings import result_names
from sparsem.progress import Meter
from sparsem.report.layers import layers_of
from sparsem.report.pieces import named_piece, pieces_of
from sparsem.report.scene3d.solids import Solid, solids_of, whole_box
from sparsem.settings import Settings, SliceNumbers, resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution

MESHES = (".glb", ".stl", ".obj")
TABLES = (".csv", ".parquet")
LABEL_MAPS = (
    ".model",
    ".nrrd",
)  # whose numbers have names, so that several structures fit into one file
NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"


class ExportSettings(Settings):
    """On whose pixels, and how meshes are made."""

    cells: str = Field("cells", description="name of the cells: a mesh of its own for each")
    onto: str | None = Field(
        None,
        description="carry voxels onto the pixels of this image, such as raw, if alignment moved them",
    )
    slices: SliceNumbers = Field(
        (), description="write only these slices, in this order: 0,13,26 or 10-20"
    )
    max_mvoxels: float = Field(
        48,
        gt=0,
        description="million voxels a mesh is made from; beyond that a coarser level is read",
    )
    triangles: int = Field(0, ge=0, description="triangles a structure, about; 0 for all")


def export(
    sample: Sample,
    names: Sequence[str],
    path: str | Path,
    settings: ExportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Path:
    """Write a piece of a sample for other programs; the ending of the file says how.

    Args:
        sample: as it is.
        names: for voxels (TIFF, NRRD, HDF5, MIB) a structure (constrained, if it was), ``labels/NAME``, ``probabilities/NAME``,
            ``images/NAME``, ``truth/NAME``, ``annotations/NAME`` (its annotated slices) or ``raw``, for NRRD and MIB also several
            structures; for CSV and Parquet a table; for meshes (GLB, STL, OBJ) one or more structures.
        path: NAME.tif, .nrrd, .seg.nrrd, .h5, .model, .csv, .parquet, .glb, .stl or .obj; it appears when it is complete.
        settings: on whose pixels; how meshes are made: a unit of theirs is 1 µm, and x, y, z lie as in the stack.
        on: ``overwrite`` replaces a file.

    Raises:
        InputError: the ending is not known, the file exists, or too many names are given.
        SampleError: there is no such piece, or it is empty.
    """
    settings = resolve_settings(ExportSettings, settings, changes)
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (*WRITERS, *TABLES, *MESHES):
        known = ", ".join((*WRITERS, *TABLES, *MESHES))
        raise InputError(
            f"'{path.name}' does not say what to write; expected a name that ends in one of {known}."
        )
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    if ending not in (*MESHES, *LABEL_MAPS) and len(names) != 1:
        got = (
            f"got {len(names)}: {', '.join(names)}"
            if names
            else f"none was named. There are {', '.join(pieces_of(sample))}"
        )
        raise InputError(f"A {ending} holds one piece of a sample; {got}.")
    if settings.onto is not None and ending not in WRITERS:
        raise InputError(f"--onto moves voxels; a {ending} has none.")
    if settings.slices and ending not in WRITERS:
        raise InputError(f"--slices chooses voxels; a {ending} has none.")
    if ending in MESHES:
        return _write_meshes(sample, names, path, settings, on)
    if ending in TABLES:
        return _write_table(sample, names[0], path)
    piece = named_piece(sample, names, settings.onto, settings.slices, on.quiet)
    return write_volume(piece, path, on.overwrite, on.quiet)


def viewers(sample: Sample, cells: str = "cells") -> dict[str, str]:
    """By program, what opens the sample as it lies: a command for napari, a command and a link for Neuroglancer."""
    return {
        "napari": f'napari --plugin napari-ome-zarr "{sample.path}"',
        "neuroglancer server": f'npx http-server "{sample.path.parent}" --cors -p 9000',
        "neuroglancer": NEUROGLANCER
        + urllib.parse.quote(json.dumps(neuroglancer_state(sample, cells)), safe=""),
    }


def neuroglancer_state(
    sample: Sample, cells: str, server: str = "http://localhost:9000"
) -> dict[str, Any]:
    """The state by which Neuroglancer shows the image and all results, where ``server`` gives out the folder of the sample."""
    root = f"zarr3://{server}/{urllib.parse.quote(sample.path.name)}"
    there = sample.names("labels")
    numbered = [
        f"{name}-objects" if f"{name}-objects" in there else name
        for name in result_names(sample, cells)
    ]
    labels = [
        {"type": "segmentation", "name": name, "source": f"{root}/labels/{name}"}
        for name in numbered
    ]
    return {
        "layers": [{"type": "image", "name": "raw", "source": root}, *labels],
        "layout": "4panel",
    }


def _write_table(sample: Sample, name: str, path: Path) -> Path:
    table = sample.read_table(name)
    with atomic_output(path, overwrite=True) as unfinished:
        (pyarrow.csv.write_csv if path.suffix.lower() == ".csv" else pyarrow.parquet.write_table)(
            table, unfinished
        )
    return path


def _write_meshes(
    sample: Sample, names: Sequence[str], path: Path, settings: ExportSettings, on: Execution
) -> Path:
    layers, problems = layers_of(sample, names, settings.cells, {})
    there = [one for one in layers if one.labels]
    if problems or not there:
        raise SampleError(
            problems[0]
            if problems
            else f"{sample.path.name} has no labels; run 'sparsem predict' first."
        )
    import trimesh  # takes a second to load, and only meshes need it

    scene, solids = trimesh.Scene(), 0
    with Meter(f"export {path.name}", len(there) + 1, quiet=on.quiet) as meter:
        for one in there:
            if one.labels is None:
                continue
            for solid in solids_of(
                one, whole_box(one.labels), settings.max_mvoxels * 1e6, settings.triangles
            ):
                if len(solid.mesh.triangles):
                    name = f"{one.name} {solid.name}" if one.cells else solid.name
                    scene.add_geometry(_trimesh(solid), node_name=name, geom_name=name)
                    solids += 1
            meter.step(one.name)
        if not solids:
            raise SampleError(
                f"There is nothing to write: {', '.join(names)} are empty in {sample.path.name}."
            )
        if path.suffix.lower() == ".obj":
            _write_obj(scene, path, on)
        else:
            whole = scene.to_mesh() if path.suffix.lower() == ".stl" else scene
            with atomic_output(path, overwrite=True) as unfinished:
                unfinished.write_bytes(whole.export(file_type=path.suffix.lower()[1:]))
        meter.step()
    return path


def _write_obj(scene: Any, path: Path, on: Execution) -> None:
    """Write a scene as Wavefront OBJ, and beside it the colors, which the format keeps in a file of their own."""
    from trimesh.exchange.obj import export_obj

    colors = path.with_suffix(".mtl")
    text, files = export_obj(
        scene, return_texture=True, write_texture=False, mtl_name=colors.name, header=None
    )
    for name, content in files.items():
        with atomic_output(path.with_name(name), on.overwrite) as unfinished:
            unfinished.write_bytes(content)
    with atomic_output(path, overwrite=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _trimesh(solid: Solid) -> Any:
    import trimesh

    vertices: NDArray[np.float64] = solid.mesh.vertices[:, ::-1]  # x, y, z
    color = (*solid.color, 255)
    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=color, metallicFactor=0.0, roughnessFactor=0.8, name=solid.name
    )
    visual = trimesh.visual.TextureVisuals(material=material)
    return trimesh.Trimesh(vertices, solid.mesh.triangles, process=False, visual=visual)
