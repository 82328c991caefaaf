"""The commands that learn, find, and compare with a truth."""

from pathlib import Path
from typing import Annotated

import typer

from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.cli.scores import promise_line, score_data, score_lines
from sparsem.execution import Execution
from sparsem.experiment.cells import ExperimentSettings
from sparsem.experiment.cells import cells_compared as _experiment
from sparsem.experiment.slices import SlicesSettings, slices_compared
from sparsem.learn.folds import train_and_promise
from sparsem.learn.supervised import TrainSettings
from sparsem.predict import PredictSettings
from sparsem.predict import predict as _predict
from sparsem.score.against import ScoreSettings
from sparsem.score.against import score as _score
from sparsem.store.sample import Sample


@command(TrainSettings)
def train(
    samples: Annotated[list[Path], typer.Argument(metavar="SAMPLE...", help="one or more annotated samples")],
    out: Annotated[Path, typer.Option("--out", help="the model to write, NAME.safetensors")],
    *,
    settings: TrainSettings,
    on: Execution,
) -> Outcome:
    """Teach a network the structures from the labelled slices. Stop it any time; the same command goes on.

    Examples: sparsem train liver.zarr --structure nucleus --structure nucleolus --out liver.safetensors
    or, to know what Dice to expect on slices that nobody labelled, with --folds 5 besides
    """
    opened = [Sample.open(path) for path in samples]
    recipe, promises = train_and_promise(opened, out, settings, on)
    held = recipe.training["held out"]
    told = f"; Dice {recipe.training['validation dice']:.3f} on the held-out {', '.join(held)}" if held else ""
    lines = [
        f"Wrote {out}: knows {', '.join(recipe.structures)} from {len(recipe.training['learnt from'])} slices{told}",
        f"Wrote {out.with_suffix('.csv')}",
        *map(promise_line, promises),
    ]
    return Outcome(
        lines,
        f"sparsem predict {samples[0]} {out}",
        {
            "model": out,
            "structures": recipe.structures,
            "training": recipe.training,
            "folds": {one.structure: one.dice for one in promises},
        },
    )


@command(PredictSettings, spread=True)
def predict(
    path: SamplePath,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="what train wrote")],
    *,
    settings: PredictSettings,
    on: Execution,
) -> Outcome:
    """Find the structures in every slice. Stop it any time; the same command goes on.

    Example: sparsem predict liver.zarr liver.safetensors
    """
    sample = Sample.open(path)
    written = _predict(sample, model, settings, on)
    name = written[0].rsplit("/", 1)[-1]
    read = sample.name_of_image(sample.volume(*written[0].split("/")))
    of_cells = [one.removesuffix("-boundary").rsplit("/", 1)[-1] for one in written if one.endswith("-boundary")]
    return Outcome(
        [f"Wrote {path}/{volume}, of the image '{read}'" for volume in written],
        f"sparsem cells {path} --cells {of_cells[0]}" if of_cells else f"sparsem export {path} {name} {name}.tif",
        {"sample": sample.path, "volumes": written},
    )


@command(ExperimentSettings, spread=True)
def experiment_cells(
    path: SamplePath,
    truth: Annotated[str | None, typer.Argument(metavar="[TRUTH]", help="a labelled volume; the sample's own truth if not given")] = None,
    *,
    settings: ExperimentSettings,
    on: Execution,
) -> Outcome:
    """Run every way of separating cells, track, score on the slices that nobody labelled, and print them side by side (Table 2).

    Example: sparsem experiment cells tumour.zarr all_cells.tif --least-voxels 5000
    """
    rows = _experiment(Sample.open(path), truth, settings, on)
    head = ("way", "Dice of cells", "ARAND 3D", "VOI split", "VOI merge", "PQ 3D", "AP50 3D", "ARAND 2D")
    keys = ("dice_cells", "arand_3d", "voi_split_3d", "voi_merge_3d", "pq_3d", "ap50_3d", "arand_2d")
    lines = ["  ".join(f"{word:>13}" for word in head)]
    for way, numbers in rows.items():
        values = ("--" if numbers[key] is None else f"{numbers[key]:.3f}" for key in keys)
        lines.append("  ".join(f"{word:>13}" for word in (way, *values)))
    return Outcome([*lines, f"Wrote {path}/tables/experiment_{settings.cells}.parquet and .csv"], data=rows)


@command(SlicesSettings, spread=True)
def experiment_slices(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure, labelled on many slices")],
    truth: Annotated[str | None, typer.Argument(metavar="[TRUTH]", help="labels of every slice; else the labelled that are left")] = None,
    folder: Annotated[Path, typer.Option("--folder", help="for networks and figures")] = Path("experiment"),
    *,
    settings: SlicesSettings,
    on: Execution,
) -> Outcome:
    """How many slices must be labelled? Train on some of them, again and again, and measure on the others (figure 2 of the paper).

    Example: sparsem experiment slices liver.zarr nucleus --labelled 7 --labelled 15 --repeats 3
    """
    found = slices_compared(Sample.open(path), name, folder, truth, settings, on)
    lines = [f"{'labelled':>9}{'tile px':>9}{'mean Dice':>11}{'spread':>9}"]
    summary = found.summary()
    for (labelled, tile), (mean, spread) in summary.items():
        lines.append(f"{labelled:>9}{tile:>9}{mean:>11.3f}{'--' if spread != spread else f'{spread:.3f}':>9}")
    lines += [f"Wrote {file}" for file in found.files]
    lines.append(f"Wrote {path}/tables/experiment_slices_{name}.parquet and .csv")
    rows = [{"labelled": one.labelled, "tile_px": one.tile, "repeat": one.repeat, "dice_3d": one.dice} for one in found.runs]
    return Outcome(lines, data={"runs": rows, "files": found.files})


@command(ScoreSettings, spread=True)
def score(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Annotated[str | None, typer.Argument(metavar="[TRUTH]", help="a labelled volume; the sample's own truth if not given")] = None,
    *,
    settings: ScoreSettings,
    on: Execution,
) -> Outcome:
    """Compare labels with truth: Dice, precision and recall a slice, averaged, and in 3D.

    Example: sparsem score liver.zarr nucleus all_nuclei.tif
    """
    found = _score(Sample.open(path), name, truth, settings, on)
    lines = [*score_lines({name: found}), f"Wrote {path}/tables/scores_{name}.parquet and .csv"]
    lines += [f"Wrote {path}/tables/dice_{name}.parquet and .csv"] if found.cells else []
    return Outcome(lines, data={name: score_data(found)})
