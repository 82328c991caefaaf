"""The commands of experiments: questions that are answered by measuring."""

import math
from pathlib import Path
from typing import Annotated

import typer

import sparsem
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.experiment.settings import CellMethodsSettings, ModelsSettings, SlicesSettings
from sparsem.workflow.execution import Execution

MISSING = "--"

# Heading of a column of the table of methods -> key of the score.
METHOD_COLUMNS = {
    "Dice of cells": "dice_cells",
    "ARAND 3D": "arand_3d",
    "VOI split": "voi_split_3d",
    "VOI merge": "voi_merge_3d",
    "PQ 3D": "pq_3d",
    "AP50 3D": "ap50_3d",
    "ARAND 2D": "arand_2d",
}
WIDTH = 13

Truth = Annotated[
    str | None,
    typer.Argument(
        metavar="[TRUTH]", help="labels of every slice; else the labeled slices that are left"
    ),
]
Folder = Annotated[
    Path, typer.Option("--folder", metavar="FOLDER", help="for networks, tables and figures")
]


@command(CellMethodsSettings, spread=True)
def experiment_cells_command(
    path: SamplePath,
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRUTH]", help="a labeled volume; the sample's own ground truth if not given"
        ),
    ] = None,
    *,
    settings: CellMethodsSettings,
    on: Execution,
) -> Outcome:
    """Compare all methods that separate cells: run each, track, and score on the unlabeled slices
    (Table 2 of the paper).

    sparsem experiment cells tumor.zarr all_cells.tif --min-voxels 5000
    """
    from sparsem.experiment.cells import compare_cell_methods

    rows = compare_cell_methods(sparsem.Sample.open(path), truth, settings, on=on)
    headings = ("method", *METHOD_COLUMNS)
    lines = ["  ".join(f"{heading:>{WIDTH}}" for heading in headings)]
    for method, scores in rows.items():
        values = [_three_digits(scores[key]) for key in METHOD_COLUMNS.values()]
        lines.append("  ".join(f"{text:>{WIDTH}}" for text in (method, *values)))
    lines.append(f"Wrote {path}/tables/experiment_{settings.cells}.parquet and .csv")
    return Outcome(lines, data=rows)


@command(SlicesSettings, spread=True)
def experiment_slices_command(
    path: SamplePath,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="the structure, labeled on many slices")
    ],
    truth: Truth = None,
    folder: Folder = Path("experiment"),
    *,
    settings: SlicesSettings,
    on: Execution,
) -> Outcome:
    """Measure how many slices must be labeled: train on some, several times, and score on the
    others (figure 2 of the paper).

    sparsem experiment slices liver.zarr nucleus --n-slices 7 --n-slices 15 --repeats 3
    """
    from sparsem.experiment.slices import compare_slice_counts

    curve = compare_slice_counts(sparsem.Sample.open(path), name, folder, truth, settings, on=on)
    lines = [f"{'labeled':>9}{'tile px':>9}{'mean Dice':>11}{'spread':>9}"]
    for (n_slices, tile_px), (mean, spread) in curve.summary().items():
        lines.append(f"{n_slices:>9}{tile_px:>9}{mean:>11.3f}{_three_digits(spread):>9}")
    lines += [f"Wrote {file}" for file in curve.files]
    lines.append(f"Wrote {path}/tables/experiment_slices_{name}.parquet and .csv")
    rows = [
        {
            "labeled": run.n_slices,
            "tile_px": run.tile_px,
            "repeat": run.repeat,
            "dice_3d": run.dice,
        }
        for run in curve.runs
    ]
    return Outcome(lines, data={"runs": rows, "files": curve.files})


@command(ModelsSettings, spread=True)
def experiment_models_command(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Truth = None,
    folder: Folder = Path("experiment"),
    *,
    settings: ModelsSettings,
    on: Execution,
) -> Outcome:
    """Compare networks: train several on the same labeled slices, with and without unlabeled ones,
    and score on the others.

    sparsem experiment models liver.zarr nucleus --networks resunet --networks unet --minutes 10
    """
    from sparsem.experiment.models import compare_models, markdown

    comparison = compare_models(sparsem.Sample.open(path), name, folder, truth, settings, on=on)
    lines = [*markdown(comparison).splitlines(), *(f"Wrote {file}" for file in comparison.files)]
    lines.append(f"Wrote {path}/tables/experiment_models_{name}.parquet and .csv")
    rows = [
        {
            "network": run.network,
            "labeled": run.n_slices,
            "dice_3d": run.dice,
            "training_s": run.seconds,
        }
        for run in comparison.runs
    ]
    return Outcome(lines, data={"trainings": rows, "files": comparison.files})


def _three_digits(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}"
