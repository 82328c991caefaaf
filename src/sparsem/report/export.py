"""The stage ``export``: files for other programs, with meshes, tables or voxels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
from pydantic import Field

from sparsem.errors import InputError, SampleError
from sparsem.io.writers import WRITERS, atomic_output, write_volume
from sparsem.progress import Meter
from sparsem.report.export_meshes import add_solid, new_scene, write_scene
from sparsem.report.export_voxels import exportable_names, voxels_to_export
from sparsem.report.layers import StructureLayer, read_layers, refuse_montage
from sparsem.report.scene3d.solids import Solid, solids_of, volume_box
from sparsem.settings import Settings, SliceNumbers, resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import FileResult

MESH_ENDINGS = (".glb", ".stl", ".obj")
TABLE_ENDINGS = (".csv", ".parquet")
# Formats whose label numbers have names, so that several structures fit into one file.
LABEL_MAP_ENDINGS = (".model", ".nrrd")


class ExportSettings(Settings):
    """Pixels of exported voxels, and resolution of exported meshes."""

    cells: str = Field("cells", description="name of the cells, which get a mesh each")
    onto: str | None = Field(
        None,
        description=(
            "move voxels onto the pixels of this image, such as raw, if alignment moved them"
        ),
    )
    slices: SliceNumbers = Field(
        (), description="write only these slices, in this order: 0,13,26 or 10-20"
    )
    max_mvoxels: float = Field(
        48,
        gt=0,
        description=(
            "million voxels from which a mesh is made; beyond that a coarser level is read"
        ),
    )
    triangles: int = Field(
        0, ge=0, description="approximate triangles per structure; 0 for no limit"
    )


def export(
    sample: Sample,
    names: str | Sequence[str],
    path: str | Path,
    settings: ExportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> FileResult:
    """Write a part of a sample for other programs; the ending of the file names the format.

    A unit of a mesh is 1 µm, and x, y, z point as in the stack.

    Args:
        sample: the sample to read.
        names: what to write, a name or several. For voxels (TIFF, NRRD, HDF5, MIB): a structure
            (constrained labels, if there are any), ``labels/NAME``, ``probabilities/NAME``,
            ``images/NAME``, ``truth/NAME``, ``annotations/NAME`` (its annotated slices) or
            ``raw``; for NRRD and MIB also several structures. For CSV and Parquet: a table. For
            meshes (GLB, STL, OBJ): one or more structures.
        path: NAME.tif, .nrrd, .seg.nrrd, .h5, .model, .csv, .parquet, .glb, .stl or .obj; it
            appears when it is complete.
        settings: pixels of voxels, and resolution of meshes.
        on: ``overwrite`` replaces a file, ``quiet`` shows no progress.

    Raises:
        InputError: the ending is not known, the file exists, or too many names are given.
        SampleError: the sample does not contain them, or they are empty.
    """
    settings = resolve_settings(ExportSettings, settings, changes)
    names = [names] if isinstance(names, str) else list(names)
    path = Path(path)
    ending = path.suffix.lower()
    _check_arguments(sample, names, path, settings, on)
    if ending in MESH_ENDINGS:
        file = _write_meshes(sample, names, path, settings, on)
    elif ending in TABLE_ENDINGS:
        file = _write_table(sample, names[0], path)
    else:
        voxels = voxels_to_export(sample, names, settings.onto, settings.slices, on.quiet)
        file = write_volume(voxels, path, on.overwrite, on.quiet)
    return FileResult(file, sample=sample, written=(str(file),))


def _check_arguments(
    sample: Sample, names: Sequence[str], path: Path, settings: ExportSettings, on: Execution
) -> None:
    """Raise an InputError if names, file and settings do not fit together."""
    ending = path.suffix.lower()
    if ending not in (*WRITERS, *TABLE_ENDINGS, *MESH_ENDINGS):
        known = ", ".join((*WRITERS, *TABLE_ENDINGS, *MESH_ENDINGS))
        raise InputError(
            "The ending of the file names its format; expected a name that ends in one of "
            f"{known}, got '{path.name}'."
        )
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    if ending not in (*MESH_ENDINGS, *LABEL_MAP_ENDINGS) and len(names) != 1:
        _refuse_number_of_names(sample, names, ending)
    if settings.onto is not None and ending not in WRITERS:
        raise InputError(f"--onto moves voxels, but a {ending} file has none; leave it out.")
    if settings.slices and ending not in WRITERS:
        raise InputError(f"--slices selects voxels, but a {ending} file has none; leave it out.")


def _refuse_number_of_names(sample: Sample, names: Sequence[str], ending: str) -> None:
    """Raise an InputError because a file holds one part of a sample, and not several or none."""
    if names:
        got = f"got {len(names)}: {', '.join(names)}"
    else:
        got = f"got none. Choose one of {', '.join(exportable_names(sample))}"
    raise InputError(f"A {ending} file holds one part of a sample; {got}.")


def _write_table(sample: Sample, name: str, path: Path) -> Path:
    """Write a table as CSV or Parquet."""
    table = sample.read_table(name)
    with atomic_output(path, overwrite=True) as unfinished:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, unfinished)
        else:
            pyarrow.parquet.write_table(table, unfinished)
    return path


def _write_meshes(
    sample: Sample, names: Sequence[str], path: Path, settings: ExportSettings, on: Execution
) -> Path:
    """Write the surfaces of structures into one file."""
    layers = _layers_with_labels(sample, names, settings)
    scene = new_scene()
    with Meter(f"export {path.name}", len(layers) + 1, quiet=on.quiet) as meter:
        for layer in layers:
            for solid in _solids(layer, settings):
                if len(solid.mesh.triangles):
                    name = f"{layer.name} {solid.name}" if layer.cells else solid.name
                    add_solid(scene, solid, name)
            meter.step(layer.name)
        if not scene.geometry:
            raise SampleError(
                f"There is nothing to write: {', '.join(names)} are empty in {sample.path.name}."
            )
        write_scene(scene, path, on.overwrite)
        meter.step()
    return path


def _layers_with_labels(
    sample: Sample, names: Sequence[str], settings: ExportSettings
) -> list[StructureLayer]:
    """Return the structures of a stack that have labels, at least one."""
    layers, problems = read_layers(sample, names, settings.cells, {})
    layers = [layer for layer in layers if layer.labels]
    if problems:
        raise SampleError(problems[0])
    if not layers:
        raise SampleError(f"{sample.path.name} has no labels; run 'sparsem predict' first.")
    for layer in layers:
        if layer.labels:
            refuse_montage(sample, layer.labels)
    return layers


def _solids(layer: StructureLayer, settings: ExportSettings) -> list[Solid]:
    """Return the meshes of a structure."""
    if layer.labels is None:
        return []
    box, max_voxels = volume_box(layer.labels), settings.max_mvoxels * 1e6
    return list(solids_of(layer, box, max_voxels, settings.triangles))
