"""The commands that bring something in, and the one that tells what is there. They load no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sparsem.annotation.importing import AnnotationSettings
from sparsem.annotation.importing import import_annotation as _import_annotation
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.labeled_slices import (
    annotated_structures,
    read_annotation,
    read_renumbering,
)
from sparsem.cli.options import (
    Outcome,
    SamplePath,
    command,
    in_shell,
    lengths_in_words,
    size_in_words,
)
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.labels.inventory import describe
from sparsem.labels.inventory import remove_pieces as _remove
from sparsem.phantom.phantom import PhantomSettings
from sparsem.phantom.phantom import phantom as _phantom
from sparsem.segment.suggest import SuggestSettings
from sparsem.segment.suggest import suggest as _suggest
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.workflow.execution import Execution

MOST_COVER = 0.6  # of a slice, by a mask
COVERED = 10  # slices that are looked at, of more that are labeled


@command(PhantomSettings, spread=True)
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")],
    *,
    settings: PhantomSettings,
    on: Execution,
) -> Outcome:
    """Make a synthetic tumor volume with exact truth, to try things on and to test.

    Example: sparsem phantom toy.zarr --shape 48 512 512 --voxel-nm 8 8 8 --cells 6 --seed 1
    """
    sample = _phantom(out, settings, on=on)
    truth = [f"truth/{name}" for name in sample.names("truth")]
    return Outcome(
        [f"Wrote {out} with {', '.join(truth)} and tables/phantom_slices"],
        f"sparsem info {in_shell(out)}",
        {"sample": sample.path, "truth": truth},
    )


@command(ImportSettings, spread=True)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="a stack of any format, a folder of slices, or a 'glob*.tif' in quotes",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--as-labels", help="SRC holds labels of every slice, of the structure of this name"
        ),
    ] = None,
    *,
    settings: ImportSettings,
    on: Execution,
) -> Outcome:
    """Bring a stack in: TIFF of any kind, a folder or glob of TIFF or PNG slices, MRC, HDF5, NRRD, NumPy, Zarr or OME-Zarr.

    Example: sparsem import slices/ liver.zarr --voxel-nm 8 4 4
    or, to measure what was found elsewhere, sparsem import mito.tif liver.zarr --as-labels mitochondrion
    """
    if labels:
        made = import_labels(out, labels, source, settings, on=on)
        kind = made.last_settings(f"import-{labels}")["input reading"]
        lies = (
            f", on the image '{made.name_of_image(made.volume('labels', labels))}'"
            if made.has_image
            else ""
        )
        lines = [f"Wrote {out}/labels/{labels} ({kind}{lies})"]
        if f"label_ids_{labels}" in made.tables:
            lines.append(
                f"Numbers beyond 32 bits were replaced; tables/label_ids_{labels} holds both"
            )
        return Outcome(
            lines,
            f"sparsem measure {in_shell(out)}",
            {"sample": made.path, "labels": labels, "reading": kind},
        )
    sample = import_stack(source, out, settings, on=on)
    image = sample.image("raw")
    count = min(7, image.shape[0] - len(image.repeated))
    if image.sizes:
        told = f"Wrote {out}: {image.shape[0]} pictures of up to {size_in_words(image.shape[1:])} px ({', '.join(image.names)})"
        data = {
            "sample": sample.path,
            "pictures": image.names,
            "sizes": image.sizes,
            "voxel_nm": list(image.voxel_size),
        }
        return Outcome([told], f"sparsem detect import {in_shell(out)} --source BOXES", data)
    made_sample = in_shell(out)
    return Outcome(
        [
            f"Wrote {out}: {size_in_words(image.shape)} voxels of {lengths_in_words(image.voxel_size)} nm"
        ],
        f"sparsem annotate suggest {made_sample} -n {count}; if slices drift or flicker, first sparsem align {made_sample} "
        f"and sparsem equalize {made_sample}",
        {"sample": sample.path, "shape": image.shape, "voxel_nm": list(image.voxel_size)},
    )


@command(AnnotationSettings)
def annotate_import(
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
    """Bring hand-labeled slices in. A slice that you did not label is not background: it is not known.

    Examples: sparsem annotate import liver.zarr nucleus masks/nuclei
    or sparsem annotate import liver.zarr organelles labels.tif --slices 0,40,80 --classes nucleus=1,2 --classes nucleolus=2
    """
    from sparsem.cells.settings import (
        CellsSettings,
    )  # loads what only the separation of cells needs

    sample = Sample.open(path)
    _import_annotation(sample, name, source, settings, on=on)
    about = read_attributes(sample.path / "annotations" / name)["sparsem"]
    found = {structure: tuple(about["z"]) for structure in about["classes"] or [name]}
    lines = [
        f"{structure}: {_slices_in_words(sample, z)}, {_cover_in_words(sample, structure)}{_empty_in_words(about, structure)}"
        for structure, z in found.items()
    ]
    origin = about.get("origin", {})
    lines += _origin_in_words(origin)
    if not read_renumbering(sample, name).is_identity:
        lines.append(
            f"Numbers beyond 32 bits were replaced; tables/annotation_ids_{name} holds both"
        )
    if (
        settings.slices is None
        and settings.first_slice_number is None
        and _is_numbered_otherwise(sample, about["z"])
    ):
        first = about["z"][0]
        number = sample.image("raw").numbers[first]
        lines.append(
            f"Taken by the numbers of the stack's files: {number} is slice {first}. If masks count slices: --first-slice-number 0"
        )
    separated = f"{name}-regions" in sample.names("labels")
    learn = f" --cells {name}" if name == CellsSettings().cells else ""
    again, first = (
        f"cells {in_shell(path)} --overwrite",
        f"train {in_shell(path)}{learn} --out model.safetensors",
    )
    following = f"sparsem {again if separated else first}"
    brought = f" ({', '.join(found)})" if list(found) != [name] else ""
    return Outcome(
        [f"Wrote annotations/{name}{brought}, drawn on the image '{about['image']}'", *lines],
        following,
        {"annotations": found, "origin": origin},
    )


@command(SuggestSettings, spread=True)
def annotate_suggest(
    path: SamplePath,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="the structure; everything annotated if not given"),
    ] = None,
    *,
    settings: SuggestSettings,
    on: Execution,
) -> Outcome:
    """Name the slices to label next: evenly spaced at first, then those of which a model is least sure.

    Examples: sparsem annotate suggest liver.zarr -n 7
    or, after train --folds 3, sparsem annotate suggest liver.zarr nucleus -n 4 --model m.fold1.safetensors --model m.fold2.safetensors
    """
    sample = Sample.open(path)
    labeled = [one for one in annotated_structures(sample) if name in (None, one)]
    found = _suggest(sample, name, settings, on=on)
    return Outcome(
        [f"Label next ({found.criterion}): {_slices_in_words(sample, found.z)}"],
        f"sparsem annotate import {in_shell(path)} {name or 'NAME'} MASKS{' --add' if labeled else ''}",
        {"slices": list(found.z), "criterion": found.criterion},
    )


def _is_numbered_otherwise(sample: Sample, z: Sequence[int]) -> bool:
    """Whether the stack's own files had other numbers than slices have."""
    of_files = sample.image("raw").numbers
    return any(one < len(of_files) and of_files[one] != one for one in z)


def _slices_in_words(sample: Sample, z: Sequence[int]) -> str:
    """Slice numbers, and those in the names of their files where these are others."""
    of_files = sample.image("raw").numbers
    named = ", ".join(str(of_files[one]) if one < len(of_files) else "?" for one in z)
    files = f"; in file names {named}" if _is_numbered_otherwise(sample, z) else ""
    return f"{'slice' if len(z) == 1 else 'slices'} {', '.join(map(str, z))} (the first slice is 0{files})"


def _cover_in_words(sample: Sample, structure: str) -> str:
    """How much of the labeled slices a structure covers: an inverted mask shows here."""
    annotation = read_annotation(sample, structure)
    looked = evenly_spaced(len(annotation.z), min(COVERED, len(annotation.z)))
    parts, numbers, is_whole = [], set(), True
    for index in looked:
        objects, known = annotation.objects(index)
        parts += [float(np.mean(objects[known] > 0))] if known.any() else []
        numbers |= set(np.unique(objects).tolist()) - {0}
        is_whole &= bool(known.all())
    if not parts:
        return "nothing of it is known"
    told = (
        f"{min(parts):.1%} to {max(parts):.1%} of each"
        if len(parts) > 1
        else f"{parts[0]:.1%} of it"
    )
    if not is_whole:  # where next to nothing but the structure is labeled it covers most of that
        return f"{told}, of what is labeled there"
    return told + (
        "; that is most of it: is the mask inverted?"
        if len(numbers) == 1 and np.mean(parts) > MOST_COVER
        else ""
    )


def _empty_in_words(about: Mapping[str, Any], structure: str) -> str:
    """On which labeled slices nothing of a structure is drawn, and on which no pixel is labeled."""
    empty, unknown = about.get("empty", {}).get(structure, []), about.get("unknown", [])
    words = [
        (f"nothing is drawn on {_numbers_in_words(empty)}", empty),
        (f"no pixel is labeled on {_numbers_in_words(unknown)}", unknown),
    ]
    return "".join(f"; {text}" for text, z in words if z)


def _origin_in_words(origin: Mapping[str, str]) -> list[str]:
    """Which slices are no work of a hand alone."""
    copied = [int(z) for z, one in origin.items() if one == "corrected prediction"]
    return (
        [f"Corrected predictions, on which scores are too high: {_numbers_in_words(copied)}"]
        if copied
        else []
    )


def _numbers_in_words(z: Sequence[int]) -> str:
    return f"{'slice' if len(z) == 1 else 'slices'} {', '.join(map(str, z))}"


@command()
def info(path: SamplePath, *, on: Execution) -> Outcome:
    """Tell what a sample holds, and what was done to it."""
    data = describe(Sample.open(path))
    if data["montage"]:
        size = f"{len(data['montage'])} pictures of {lengths_in_words(data['voxel_nm'][1:])} nm a pixel"
        lines = [f"{path}: {size}, {data['dtype']}; {data['levels']} levels"]
        lines += [
            f"{z}: {one['name']}, {size_in_words(one['size'])}"
            for z, one in enumerate(data["montage"])
        ]
    else:
        size = f"{size_in_words(data['shape'])} voxels (z y x) of {lengths_in_words(data['voxel_nm'])} nm"
        lines = [
            f"{path}: {size}, {data['dtype']}",
            f"size: {lengths_in_words(data['size_um'])} um; {data['levels']} levels",
        ]
    if data["numbers"]:
        lines.append(
            f"slices: 0 to {len(data['numbers']) - 1}, from files numbered {data['numbers'][0]} to {data['numbers'][-1]}"
        )
    if data["repeated"]:
        lines.append(f"slices that stand in for lost ones: {', '.join(map(str, data['repeated']))}")
    for name, about in data["images"].items():
        newest = (
            "; the newest: commands read it unless told otherwise"
            if name == data["newest_image"]
            else ""
        )
        lines.append(
            f"images/{name}: {size_in_words(about['shape'])}, made from '{about['made_from']}'{newest}"
        )
    lines += [
        f"annotated: {name} on {len(z)} slices ({', '.join(map(str, z))})"
        for name, z in data["annotations"].items()
    ]
    lines += [
        f"{folder}: {', '.join(data[folder])}"
        for folder in ("probabilities", "labels", "truth", "tables")
        if data[folder]
    ]
    lines += [
        f"{one} was made on an image that was replaced since: make it again"
        for one in data["stale"]
    ]
    lines += [
        f"{one} is older than its annotation: train, predict, and make it again"
        for one in data["older"]
    ]
    lines += [
        f"{one} is of other labels, or another image, than those that count now: make it again"
        for one in data["outdated"]
    ]
    lines += [f"{entry['finished']}  {entry['stage']}" for entry in data["history"]]
    return Outcome(lines, data=data)


@command()
def remove(
    path: SamplePath,
    pieces: Annotated[
        list[str],
        typer.Argument(
            metavar="PIECE...", help="labels/NAME, annotations/NAME, images/NAME, tables/boxes_NAME"
        ),
    ],
    *,
    on: Execution,
) -> Outcome:
    """Take pieces of a sample away, for good: a structure under a wrong name, an image that nothing was made on.

    Example: sparsem remove liver.zarr annotations/nucelus
    """
    _remove(Sample.open(path), pieces)
    return Outcome(
        [f"Removed {path}/{piece}" for piece in pieces],
        f"sparsem info {in_shell(path)}",
        {"removed": pieces},
    )
