"""The commands that make a sample: of a stack, or a synthetic one. They load no network."""

from pathlib import Path
from typing import Annotated, Any

import typer

import sparsem
from sparsem.cli.format import in_shell, lengths_in_words, size_in_words
from sparsem.cli.options import Outcome, command
from sparsem.io.settings import ImportSettings
from sparsem.phantom.settings import PhantomSettings
from sparsem.workflow.execution import Execution

N_SUGGESTED = 7  # slices to label first, as in the papers

Output = Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")]


@command(PhantomSettings, spread=True)
def phantom_command(out: Output, *, settings: PhantomSettings, on: Execution) -> Outcome:
    """Make a synthetic tumor volume with exact ground truth, for trials and tests.

    sparsem phantom toy.zarr --shape 48 512 512 --voxel-nm 8 8 8 --cells 6 --seed 1
    """
    sample = sparsem.phantom(out, settings, on=on)
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
    sample = sparsem.import_stack(source, out, settings, on=on)
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
    sample = sparsem.import_labels(out, name, source, settings, on=on)
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
