"""The commands that import data, and those that show and remove the content of a sample.

They load no network.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsem.annotation.label_volumes import import_labels
from sparsem.cli.format import in_shell, lengths_in_words, size_in_words
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.labels.inventory import describe, remove_pieces
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

N_SUGGESTED = 7  # slices to label first, as in the papers

Output = Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")]


@command(PhantomSettings, spread=True)
def phantom_command(out: Output, *, settings: PhantomSettings, on: Execution) -> Outcome:
    """Make a synthetic tumor volume with exact ground truth, for trials and tests.

    sparsem phantom toy.zarr --shape 48 512 512 --voxel-nm 8 8 8 --cells 6 --seed 1
    """
    sample = phantom(out, settings, on=on)
    truth = [f"truth/{name}" for name in sample.names("truth")]
    return Outcome(
        [f"Wrote {out} with {', '.join(truth)} and tables/phantom_slices"],
        f"sparsem info {in_shell(out)}",
        {"sample": sample.path, "truth": truth},
    )


@command(ImportSettings, spread=True)
def import_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="a stack of any format, a folder of slices, or a 'glob*.tif' in quotes",
        ),
    ],
    out: Output,
    labels: Annotated[
        str | None,
        typer.Option(
            "--as-labels",
            metavar="NAME",
            help="SRC holds labels of every slice, of the structure of this name",
        ),
    ] = None,
    *,
    settings: ImportSettings,
    on: Execution,
) -> Outcome:
    """Import a stack: TIFF of any kind, a folder or glob of TIFF or PNG slices, MRC, HDF5, NRRD,
    NumPy, Zarr or OME-Zarr.

    With --as-labels, import labels of every slice that another program made, to measure and show
    them.

    sparsem import slices/ liver.zarr --voxel-nm 8 4 4
    sparsem import mito.tif liver.zarr --as-labels mitochondrion
    """
    if labels:
        return _import_labels(source, out, labels, settings, on)
    sample = import_stack(source, out, settings, on=on)
    image = sample.image("raw")
    data: dict[str, Any] = {"sample": sample.path, "voxel_nm": list(image.voxel_size)}
    if image.sizes:
        size = f"{image.shape[0]} images of up to {size_in_words(image.shape[1:])} px"
        data |= {"images": image.names, "sizes": image.sizes}
        return Outcome(
            [f"Wrote {out}: {size} ({', '.join(image.names)})"],
            f"sparsem detect import {in_shell(out)} --source BOXES",
            data,
        )
    size = f"{size_in_words(image.shape)} voxels of {lengths_in_words(image.voxel_size)} nm"
    n_suggested = min(N_SUGGESTED, image.shape[0] - len(image.repeated))
    path = in_shell(out)
    following = (
        f"sparsem annotate suggest {path} -n {n_suggested}; "
        f"if slices drift or flicker, first sparsem align {path} and sparsem equalize {path}"
    )
    return Outcome([f"Wrote {out}: {size}"], following, data | {"shape": image.shape})


def _import_labels(
    source: str, out: Path, name: str, settings: ImportSettings, on: Execution
) -> Outcome:
    sample = import_labels(out, name, source, settings, on=on)
    kind = sample.last_settings(f"import-{name}")["input reading"]
    position = ""
    if sample.has_image:
        image = sample.name_of_image(sample.volume("labels", name))
        position = f", on the image '{image}'"
    lines = [f"Wrote {out}/labels/{name} ({kind}{position})"]
    if f"label_ids_{name}" in sample.tables:
        lines.append(f"Numbers beyond 32 bits were replaced; tables/label_ids_{name} holds both")
    data = {"sample": sample.path, "labels": name, "reading": kind}
    return Outcome(lines, f"sparsem measure {in_shell(out)}", data)


@command()
def info_command(path: SamplePath, *, on: Execution) -> Outcome:
    """Show what a sample contains, and how it was made.

    sparsem info liver.zarr
    """
    data = describe(Sample.open(path))
    lines = [
        *_size_lines(path, data),
        *_image_lines(data),
        *_content_lines(data),
        *_outdated_lines(data),
    ]
    lines += [f"{entry['finished']}  {entry['stage']}" for entry in data["history"]]
    return Outcome(lines, data=data)


def _size_lines(path: Path, data: dict[str, Any]) -> list[str]:
    """Return size and voxel size of a stack, or the images of a montage."""
    dtype = data["dtype"]
    if data["montage"]:
        nm = lengths_in_words(data["voxel_nm"][1:])
        n_images = len(data["montage"])
        lines = [
            f"{path}: {n_images} images of {nm} nm per pixel, {dtype}; {data['levels']} levels"
        ]
        for z, image in enumerate(data["montage"]):
            lines.append(f"{z}: {image['name']}, {size_in_words(image['size'])}")
        return lines
    voxels = f"{size_in_words(data['shape'])} voxels (z y x)"
    return [
        f"{path}: {voxels} of {lengths_in_words(data['voxel_nm'])} nm, {dtype}",
        f"size: {lengths_in_words(data['size_um'])} um; {data['levels']} levels",
    ]


def _image_lines(data: dict[str, Any]) -> list[str]:
    """Return file numbers, repeated slices and derived images."""
    lines = []
    numbers = data["numbers"]
    if numbers:
        files = f"files numbered {numbers[0]} to {numbers[-1]}"
        lines.append(f"slices: 0 to {len(numbers) - 1}, from {files}")
    if data["repeated"]:
        repeated = ", ".join(map(str, data["repeated"]))
        lines.append(f"slices that stand in for lost ones: {repeated}")
    for name, image in data["images"].items():
        is_newest = name == data["newest_image"]
        newest = "; the newest: commands read it by default" if is_newest else ""
        source = f"made from '{image['made_from']}'"
        lines.append(f"images/{name}: {size_in_words(image['shape'])}, {source}{newest}")
    return lines


def _content_lines(data: dict[str, Any]) -> list[str]:
    """Return annotations, volumes and tables."""
    lines = []
    for name, slices in data["annotations"].items():
        listed = ", ".join(map(str, slices))
        lines.append(f"annotated: {name} on {len(slices)} slices ({listed})")
    for name, n_voxels in data["corrections"].items():
        lines.append(f"corrected: {n_voxels} voxels of {name}")
    for folder in ("probabilities", "labels", "truth", "tables"):
        if data[folder]:
            lines.append(f"{folder}: {', '.join(data[folder])}")
    return lines


def _outdated_lines(data: dict[str, Any]) -> list[str]:
    """Return what should be computed again."""
    lines = [
        f"{name} was made on an image that was replaced since: compute it again"
        for name in data["stale"]
    ]
    lines += [
        f"{name} is older than its annotation: train, predict, and compute it again"
        for name in data["older"]
    ]
    lines += [
        f"{name} was computed from labels, or an image, that were replaced since: compute it again"
        for name in data["outdated"]
    ]
    return lines


@command()
def remove_command(
    path: SamplePath,
    pieces: Annotated[
        list[str],
        typer.Argument(
            metavar="PIECE...",
            help="labels/NAME, annotations/NAME, corrections/NAME, images/NAME, tables/boxes_NAME",
        ),
    ],
    *,
    on: Execution,
) -> Outcome:
    """Remove parts of a sample for good: a structure under a wrong name, an image that nothing was
    made on.

    sparsem remove liver.zarr annotations/nucelus
    """
    remove_pieces(Sample.open(path), pieces)
    lines = [f"Removed {path}/{piece}" for piece in pieces]
    return Outcome(lines, f"sparsem info {in_shell(path)}", {"removed": pieces})
