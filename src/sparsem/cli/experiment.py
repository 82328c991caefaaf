"""The commands that answer a question by measuring. A module of their own: they draw, and what draws takes a second to load."""

from pathlib import Path
from typing import Annotated

import typer

from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.experiment.cells import CellMethodsSettings, compare_cell_methods
from sparsem.experiment.models import ModelsSettings, compare_models, markdown
from sparsem.experiment.slices import SlicesSettings, compare_slice_counts
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

Truth = Annotated[
    str | None,
    typer.Argument(metavar="[TRUTH]", help="labels of every slice; else the labeled that are left"),
]


@command(CellMethodsSettings, spread=True)
def experiment_cells(
    path: SamplePath,
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRUTH]", help="a labeled volume; the sample's own truth if not given"
        ),
    ] = None,
    *,
    settings: CellMethodsSettings,
    on: Execution,
) -> Outcome:
    """Run every way of separating cells, track, score on the slices that nobody labeled, and print them side by side (Table 2).

    Example: sparsem experiment cells tumor.zarr all_cells.tif --min-voxels 5000
    """
    rows = compare_cell_methods(Sample.open(path), truth, settings, on=on)
    head = (
        "way",
        "Dice of cells",
        "ARAND 3D",
        "VOI split",
        "VOI merge",
        "PQ 3D",
        "AP50 3D",
        "ARAND 2D",
    )
    keys = (
        "dice_cells",
        "arand_3d",
        "voi_split_3d",
        "voi_merge_3d",
        "pq_3d",
        "ap50_3d",
        "arand_2d",
    )
    lines = ["  ".join(f"{word:>13}" for word in head)]
    for way, numbers in rows.items():
        values = ("--" if numbers[key] is None else f"{numbers[key]:.3f}" for key in keys)
        lines.append("  ".join(f"{word:>13}" for word in (way, *values)))
    return Outcome(
        [*lines, f"Wrote {path}/tables/experiment_{settings.cells}.parquet and .csv"], data=rows
    )


@command(SlicesSettings, spread=True)
def experiment_slices(
    path: SamplePath,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="the structure, labeled on many slices")
    ],
    truth: Truth = None,
    folder: Annotated[Path, typer.Option("--folder", help="for networks and figures")] = Path(
        "experiment"
    ),
    *,
    settings: SlicesSettings,
    on: Execution,
) -> Outcome:
    """How many slices must be labeled? Train on some of them, again and again, and measure on the others (figure 2 of the paper).

    Example: sparsem experiment slices liver.zarr nucleus --n-slices 7 --n-slices 15 --repeats 3
    """
    found = compare_slice_counts(Sample.open(path), name, folder, truth, settings, on=on)
    lines = [f"{'labeled':>9}{'tile px':>9}{'mean Dice':>11}{'spread':>9}"]
    summary = found.summary()
    for (labeled, tile), (mean, spread) in summary.items():
        lines.append(
            f"{labeled:>9}{tile:>9}{mean:>11.3f}{'--' if spread != spread else f'{spread:.3f}':>9}"
        )
    lines += [f"Wrote {file}" for file in found.files]
    lines.append(f"Wrote {path}/tables/experiment_slices_{name}.parquet and .csv")
    rows = [
        {"labeled": run.n_slices, "tile_px": run.tile_px, "repeat": run.repeat, "dice_3d": run.dice}
        for run in found.runs
    ]
    return Outcome(lines, data={"runs": rows, "files": found.files})


@command(ModelsSettings, spread=True)
def experiment_models(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Truth = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="for networks, the table and the figure")
    ] = Path("experiment"),
    *,
    settings: ModelsSettings,
    on: Execution,
) -> Outcome:
    """Which network? Train several on the same labeled slices, with and without unlabeled ones, and measure them on the others.

    Example: sparsem experiment models liver.zarr nucleus --networks resunet --networks unet++ --networks resunet+cps --n-slices 7 --minutes 10
    """
    found = compare_models(Sample.open(path), name, folder, truth, settings, on=on)
    lines = [*markdown(found).splitlines(), *(f"Wrote {file}" for file in found.files)]
    lines.append(f"Wrote {path}/tables/experiment_models_{name}.parquet and .csv")
    rows = [
        {
            "network": run.network,
            "labeled": run.n_slices,
            "dice_3d": run.dice,
            "training_s": run.seconds,
        }
        for run in found.runs
    ]
    return Outcome(lines, data={"trainings": rows, "files": found.files})
