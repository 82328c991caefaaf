"""The commands that show and remove the content of a sample."""

from pathlib import Path
from typing import Annotated, Any

import typer

import sparsem
from sparsem.cli.format import in_shell, lengths_in_words, size_in_words
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.workflow.execution import Execution


@command()
def info_command(path: SamplePath, *, on: Execution) -> Outcome:
    """Show what a sample contains, and how it was made.

    sparsem info liver.zarr
    """
    from sparsem.labels.inventory import describe

    data = describe(sparsem.Sample.open(path))
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
    sparsem.remove(sparsem.Sample.open(path), pieces)
    lines = [f"Removed {path}/{piece}" for piece in pieces]
    return Outcome(lines, f"sparsem info {in_shell(path)}", {"removed": pieces})
