"""The commands that correct a result: labels of another program, and edits of objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sparsem
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.errors import InputError
from sparsem.labels.settings import CorrectSettings, FillSettings, SplitSettings
from sparsem.store.summary import list_first
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.labels.edit import EditResult

ResultName = Annotated[str, typer.Argument(metavar="NAME", help="the result, such as cells")]
ObjectIds = Annotated[list[int], typer.Argument(metavar="ID...", help="numbers of objects")]
ObjectId = Annotated[int, typer.Argument(metavar="ID", help="number of the object")]


@command(CorrectSettings)
def correct_command(
    path: SamplePath,
    name: ResultName,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SRC",
            help="a labeled volume, a folder of masks or a slice, with the numbers of the result; "
            "if not given, what was drawn before is applied again",
        ),
    ] = None,
    *,
    settings: CorrectSettings,
    on: Execution,
) -> Outcome:
    """Import labels of a result that were corrected in another program. Voxels that differ take
    precedence, now and after every later run.

    sparsem correct tumor.zarr cells corrected.tif --slices 10,11
    sparsem correct tumor.zarr nucleus crop.tif --box 0:24,100:400,200:600
    """
    result = sparsem.correct(sparsem.Sample.open(path), name, source, settings, on=on)
    lines = [f"Wrote {path}/{volume}" for volume in result.written]
    if result.voxels:
        slices = list_first(result.slices)
        lines.append(f"Corrected {result.voxels} voxels of {name}, in slices {slices}")
    lines.append(f"{result.total_voxels} voxels of {name} are corrected in all")
    data = {
        "written": result.written,
        "slices": result.slices,
        "voxels": result.voxels,
        "total_voxels": result.total_voxels,
    }
    return Outcome(lines, f"sparsem measure {in_shell(path)} --overwrite", data)


def _outcome(path: Path, name: str, result: "EditResult") -> Outcome:
    """Return what an edit changed."""
    lines = [f"{result.title}: {result.voxels} voxels changed"] if result.voxels else [result.title]
    if result.ids:
        noun = "object" if len(result.ids) == 1 else "objects"
        lines[0] += f"; {noun} {list_first(result.ids)}"
    lines += [f"Wrote {path}/{volume}" for volume in result.written]
    following = f"sparsem edit undo {in_shell(path)} {name}"
    data = {
        "title": result.title,
        "ids": result.ids,
        "voxels": result.voxels,
        "written": result.written,
    }
    return Outcome(lines, following, data)


@command()
def edit_merge_command(
    path: SamplePath, name: ResultName, ids: ObjectIds, *, on: Execution
) -> Outcome:
    """Merge objects into one, which gets the smallest of their numbers.

    sparsem edit merge tumor.zarr cells 3 7
    """
    return _outcome(path, name, sparsem.edit.merge(sparsem.Sample.open(path), name, ids, on=on))


@command(SplitSettings)
def edit_split_command(
    path: SamplePath,
    name: ResultName,
    object_id: ObjectId,
    *,
    first: Annotated[
        list[str],
        typer.Option(
            metavar="Z,Y,X", help="a voxel of the part that keeps the number; repeat it for several"
        ),
    ],
    second: Annotated[
        list[str],
        typer.Option(metavar="Z,Y,X", help="a voxel of the other part; repeat it for several"),
    ],
    settings: SplitSettings,
    on: Execution,
) -> Outcome:
    """Split an object in two, in 3D, along its weakest probability.

    sparsem edit split tumor.zarr cells 3 --first 10,200,310 --second 14,260,330
    """
    seeds = [[_position(text) for text in part] for part in (first, second)]
    result = sparsem.edit.split(
        sparsem.Sample.open(path), name, object_id, seeds[0], seeds[1], settings, on=on
    )
    return _outcome(path, name, result)


def _position(text: str) -> Sequence[int]:
    """Return a voxel (z, y, x).

    Raises:
        InputError: the text is not three whole numbers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise InputError(f"A voxel is three whole numbers Z,Y,X, such as 10,200,310; got '{text}'.")
    return [int(part) for part in parts]


@command()
def edit_delete_command(
    path: SamplePath, name: ResultName, ids: ObjectIds, *, on: Execution
) -> Outcome:
    """Delete objects: they become background.

    sparsem edit delete tumor.zarr cells 12 40
    """
    return _outcome(path, name, sparsem.edit.delete(sparsem.Sample.open(path), name, ids, on=on))


@command()
def edit_keep_command(
    path: SamplePath, name: ResultName, ids: ObjectIds, *, on: Execution
) -> Outcome:
    """Keep only some objects: all others become background.

    sparsem edit keep tumor.zarr cells 1 2 3
    """
    return _outcome(path, name, sparsem.edit.keep(sparsem.Sample.open(path), name, ids, on=on))


@command()
def edit_relabel_command(
    path: SamplePath,
    name: ResultName,
    old: Annotated[int, typer.Argument(metavar="OLD", help="number of the object")],
    new: Annotated[int, typer.Argument(metavar="NEW", help="its new number, which none has")],
    *,
    on: Execution,
) -> Outcome:
    """Give an object another number.

    sparsem edit relabel tumor.zarr cells 65540 12
    """
    return _outcome(
        path, name, sparsem.edit.relabel(sparsem.Sample.open(path), name, old, new, on=on)
    )


@command(FillSettings)
def edit_fill_command(
    path: SamplePath, name: ResultName, ids: ObjectIds, *, settings: FillSettings, on: Execution
) -> Outcome:
    """Fill the cavities of objects.

    sparsem edit fill tumor.zarr cells 3 --slice-by-slice
    """
    return _outcome(
        path, name, sparsem.edit.fill(sparsem.Sample.open(path), name, ids, settings, on=on)
    )


@command()
def edit_undo_command(path: SamplePath, name: ResultName, *, on: Execution) -> Outcome:
    """Undo the last edit of a result.

    Repeat it for the edits before. Corrections of another program are edits, too.

    sparsem edit undo tumor.zarr cells
    """
    return _outcome(path, name, sparsem.edit.undo(sparsem.Sample.open(path), name, on=on))


@command()
def edit_clear_command(path: SamplePath, name: ResultName, *, on: Execution) -> Outcome:
    """Remove all corrections of a result.

    This restores what was computed, and the labeled slices. It can be undone.

    sparsem edit clear tumor.zarr cells
    """
    return _outcome(path, name, sparsem.edit.clear(sparsem.Sample.open(path), name, on=on))
