"""The stage ``export``: files for other programs, with meshes, tables or voxels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet

from sparsem.errors import InputError
from sparsem.io.writers import WRITERS, atomic_output, write_volume
from sparsem.report.export_meshes import ExportResult, write_meshes
from sparsem.report.export_voxels import exportable_names, voxels_to_export
from sparsem.report.settings import ExportSettings
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution

MESH_ENDINGS = (".glb", ".stl", ".obj")
TABLE_ENDINGS = (".csv", ".parquet")
# Formats whose label numbers have names, so that several structures fit into one file.
LABEL_MAP_ENDINGS = (".model", ".nrrd")


def export(
    sample: Sample,
    names: str | Sequence[str],
    path: str | Path,
    settings: ExportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ExportResult:
    """Write a part of a sample for other programs; the ending of the file names the format.

    Numbered objects and cells have one mesh and one color each; a mesh encloses the volume of the
    voxels of its object, within 1 %. A unit of a mesh is 1 µm, and x, y, z point as in the stack.

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
        return write_meshes(sample, names, path, settings, on)
    if ending in TABLE_ENDINGS:
        file = _write_table(sample, names[0], path)
    else:
        voxels = voxels_to_export(sample, names, settings.onto, settings.slices, on.quiet)
        file = write_volume(voxels, path, on.overwrite, on.quiet)
    return ExportResult(file, sample=sample, written=(str(file),))


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
    _check_object(names, path, settings)


def _check_object(names: Sequence[str], path: Path, settings: ExportSettings) -> None:
    """Raise an InputError if a single object is selected, but not of one structure as a mesh."""
    is_one_mesh = path.suffix.lower() in MESH_ENDINGS and len(names) == 1
    if settings.object is not None and not is_one_mesh:
        raise InputError(
            "--object selects one mesh; expected one structure and a .glb, .stl or .obj file, got "
            f"{', '.join(names) or 'no structure'} and {path.name}."
        )


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
