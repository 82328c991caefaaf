"""The commands that import hand-labeled slices, and suggest which to label next."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import sparsem
from sparsem.annotation.settings import AnnotationSettings
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.geometry import evenly_spaced
from sparsem.segment.settings import SuggestSettings
from sparsem.store.names import REGIONS
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.store.sample import Sample

CELLS = "cells"  # the usual name of an annotation of cells
MAX_COVER = 0.6  # fraction of a slice above which a mask may be inverted
MAX_EXAMINED = 10  # labeled slices whose cover is reported


@command(AnnotationSettings)
def annotate_import_command(
    path: SamplePath,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="the structure, such as mitochondrion; or a set that --classes names",
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="a folder of masks with slice numbers in their names, or a labeled volume",
        ),
    ],
    *,
    settings: AnnotationSettings,
    on: Execution,
) -> Outcome:
    """Import hand-labeled slices. A slice that you did not label is unlabeled; it is not
    background.

    sparsem annotate import liver.zarr nucleus masks/nuclei
    sparsem annotate import liver.zarr set set.tif --slices 0,40 --classes nucleus=1 --classes er=2
    """
    from sparsem.annotation.labeled_slices import read_renumbering
    from sparsem.store.snapshot import read_attributes

    sample = sparsem.Sample.open(path)
    result = sparsem.import_annotation(sample, name, source, settings, on=on)
    record = read_attributes(sample.path / "annotations" / name)["sparsem"]
    slices, structures = result.slices, result.structures
    lines = [_structure_line(sample, structure, slices, record) for structure in structures]
    lines += _origin_lines(record.get("origin", {}))
    if not read_renumbering(sample, name).is_identity:
        lines.append(
            f"Numbers beyond 32 bits were replaced; tables/annotation_ids_{name} holds both"
        )
    is_numbering_guessed = settings.slices is None and settings.first_slice_number is None
    if is_numbering_guessed and _has_file_numbers(sample, slices):
        number = sample.image("raw").numbers[slices[0]]
        lines.append(
            f"Slices were found by the numbers of the stack's files: {number} is slice "
            f"{slices[0]}. If masks count slices from 0, use --first-slice-number 0."
        )
    listed = f" ({', '.join(structures)})" if list(structures) != [name] else ""
    return Outcome(
        [f"Wrote annotations/{name}{listed}, drawn on the image '{record['image']}'", *lines],
        _next_command(sample, in_shell(path), name),
        {
            "annotations": dict.fromkeys(structures, slices),
            "origin": record.get("origin", {}),
        },
    )


def _next_command(sample: "Sample", path: str, name: str) -> str:
    if f"{name}{REGIONS}" in sample.names("labels"):
        return f"sparsem cells {path} --overwrite"
    cells_option = f" --cells {name}" if name == CELLS else ""
    return f"sparsem train {path}{cells_option} --out model.safetensors"


@command(SuggestSettings, spread=True)
def annotate_suggest_command(
    path: SamplePath,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="the structure; everything annotated if not given"),
    ] = None,
    *,
    settings: SuggestSettings,
    on: Execution,
) -> Outcome:
    """Suggest the slices to label next: evenly spaced at first, then those of which a network is
    least certain.

    The second example uses networks of train --folds, NAME.fold1.safetensors and so on: slices on
    which they disagree are worth labeling.

    sparsem annotate suggest liver.zarr -n 7
    sparsem annotate suggest liver.zarr nucleus -n 4 --model a.safetensors --model b.safetensors
    """
    from sparsem.annotation.labeled_slices import annotated_structures

    sample = sparsem.Sample.open(path)
    suggestion = sparsem.suggest(sample, name, settings, on=on)
    is_annotated = any(name in (None, structure) for structure in annotated_structures(sample))
    add = " --add" if is_annotated else ""
    return Outcome(
        [f"Label next ({suggestion.criterion}): {_slices_with_files(sample, suggestion.z)}"],
        f"sparsem annotate import {in_shell(path)} {name or 'NAME'} MASKS{add}",
        {"slices": list(suggestion.z), "criterion": suggestion.criterion},
    )


def _structure_line(
    sample: "Sample", structure: str, slices: Sequence[int], record: Mapping[str, Any]
) -> str:
    cover = _cover_in_words(sample, structure)
    listed = _slices_with_files(sample, slices)
    return f"{structure}: {listed}, {cover}{_empty_in_words(record, structure)}"


def _has_file_numbers(sample: "Sample", slices: Sequence[int]) -> bool:
    """Return whether the stack's files have other numbers than the slices."""
    numbers = sample.image("raw").numbers
    return any(z < len(numbers) and numbers[z] != z for z in slices)


def _slices_with_files(sample: "Sample", slices: Sequence[int]) -> str:
    """Return slice numbers, and the numbers in the names of their files where these differ."""
    files = ""
    if _has_file_numbers(sample, slices):
        numbers = sample.image("raw").numbers
        listed = ", ".join(str(numbers[z]) if z < len(numbers) else "?" for z in slices)
        files = f"; in file names {listed}"
    return f"{_listed(slices)} (the first slice is 0{files})"


def _listed(slices: Sequence[int]) -> str:
    noun = "slice" if len(slices) == 1 else "slices"
    return f"{noun} {', '.join(map(str, slices))}"


def _cover_in_words(sample: "Sample", structure: str) -> str:
    """Return the fraction of the labeled slices that a structure covers, in words.

    It shows an inverted mask.
    """
    from sparsem.annotation.labeled_slices import read_annotation

    annotation = read_annotation(sample, structure)
    n_labeled = len(annotation.z)
    covers = []
    ids: set[int] = set()
    is_all_known = True
    for index in evenly_spaced(n_labeled, min(MAX_EXAMINED, n_labeled)):
        objects, known = annotation.objects(index)
        if known.any():
            covers.append(float(np.mean(objects[known] > 0)))
        ids |= set(np.unique(objects).tolist()) - {0}
        is_all_known &= bool(known.all())
    if not covers:
        return "no pixel of it is labeled"
    if len(covers) > 1:
        text = f"{min(covers):.1%} to {max(covers):.1%} of each"
    else:
        text = f"{covers[0]:.1%} of it"
    if not is_all_known:
        # Where little but the structure is labeled, the structure covers most of what is labeled.
        return f"{text}, of what is labeled there"
    is_mask = len(ids) == 1
    if is_mask and np.mean(covers) > MAX_COVER:
        return f"{text}; that is most of it: is the mask inverted?"
    return text


def _empty_in_words(record: Mapping[str, Any], structure: str) -> str:
    """Return the labeled slices without the structure, and those without a labeled pixel."""
    text = ""
    empty = record.get("empty", {}).get(structure, [])
    if empty:
        text += f"; nothing is drawn on {_listed(empty)}"
    unknown = record.get("unknown", [])
    if unknown:
        text += f"; no pixel is labeled on {_listed(unknown)}"
    return text


def _origin_lines(origin: Mapping[str, str]) -> list[str]:
    """Return which slices began as a prediction."""
    corrected = [int(z) for z, kind in origin.items() if kind == "corrected prediction"]
    if not corrected:
        return []
    return [f"Corrected predictions, on which scores are too high: {_listed(corrected)}"]
