"""The commands that learn, find, and compare with a truth."""

from pathlib import Path
from typing import Annotated

import typer

from sparsem.cli.options import Outcome, SamplePath, command, in_shell
from sparsem.cli.score_format import promise_line, score_data, score_lines, validation_lines
from sparsem.preprocess.denoise import DenoiseSettings
from sparsem.preprocess.denoise import denoise as _denoise
from sparsem.score.score import ScoreSettings
from sparsem.score.score import score as _score
from sparsem.segment.cross_validation import train_and_cross_validate
from sparsem.segment.predict import PredictSettings
from sparsem.segment.predict import predict as _predict
from sparsem.store.sample import Sample
from sparsem.training.files import log_path
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution


@command(TrainSettings)
def train(
    samples: Annotated[
        list[Path], typer.Argument(metavar="SAMPLE...", help="one or more annotated samples")
    ],
    out: Annotated[Path, typer.Option("--out", help="the model to write, NAME.safetensors")],
    *,
    settings: TrainSettings,
    on: Execution,
) -> Outcome:
    """Teach a network the structures from the labeled slices. Stop it any time; the same command goes on.

    Examples: sparsem train liver.zarr --structure nucleus --structure nucleolus --out liver.safetensors
    or, to know what Dice to expect on slices that nobody labeled, with --folds 5 besides
    """
    opened = [Sample.open(path) for path in samples]
    recipe, promises = train_and_cross_validate(opened, out, settings, on=on)
    count = len(recipe.training["trained_on"])
    lines = [
        f"Wrote {out}: {', '.join(recipe.structures)}, trained on {count} {'slice' if count == 1 else 'slices'}",
        *validation_lines(recipe),
        f"Wrote {log_path(out)}",
        *map(promise_line, promises),
    ]
    return Outcome(
        lines,
        f"sparsem predict {in_shell(samples[0])} {in_shell(out)}",
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
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="what train wrote; of several models the mean counts"
        ),
    ],
    *,
    settings: PredictSettings,
    on: Execution,
) -> Outcome:
    """Find the structures in every slice. Stop it any time; the same command goes on.

    Examples: sparsem predict liver.zarr liver.safetensors
    or, the mean of what two folds say, and where they contradict each other, with liver.fold1.safetensors liver.fold2.safetensors
    """
    sample = Sample.open(path)
    written = _predict(sample, models, settings, on=on)
    name = written[0].rsplit("/", 1)[-1]
    read = sample.name_of_image(sample.volume(*written[0].split("/")))
    of_cells = [
        one.removesuffix("-boundary").rsplit("/", 1)[-1]
        for one in written
        if one.endswith("-boundary")
    ]
    return Outcome(
        [f"Wrote {path}/{volume}, of the image '{read}'" for volume in written],
        f"sparsem cells {in_shell(path)} --cells {of_cells[0]}"
        if of_cells
        else f"sparsem export {in_shell(path)} {name} {name}.tif",
        {"sample": sample.path, "volumes": written},
    )


@command(ScoreSettings, spread=True)
def score(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRUTH]", help="a labeled volume; the sample's own truth if not given"
        ),
    ] = None,
    *,
    settings: ScoreSettings,
    on: Execution,
) -> Outcome:
    """Compare labels with truth: Dice, precision and recall a slice, averaged, and in 3D.

    Example: sparsem score liver.zarr nucleus all_nuclei.tif
    """
    found = _score(Sample.open(path), name, truth, settings, on=on)
    lines = [*score_lines({name: found}), f"Wrote {path}/tables/scores_{name}.parquet and .csv"]
    lines += [f"Wrote {path}/tables/dice_{name}.parquet and .csv"] if found.cells else []
    return Outcome(lines, data={name: score_data(found)})


@command(DenoiseSettings, spread=True)
def denoise(path: SamplePath, *, settings: DenoiseSettings, on: Execution) -> Outcome:
    """Take the noise away. The image it is made from stays; later stages read the denoised one, unless --image names another.

    Examples: sparsem denoise liver.zarr
    or sparsem denoise liver.zarr --method nlm --image raw --out smooth
    """
    sample = Sample.open(path)
    name = _denoise(sample, settings, on=on)
    following = f"sparsem quality {in_shell(path)} --image {name}"
    return Outcome(
        [f"Wrote {path}/images/{name}"], following, {"sample": sample.path, "image": name}
    )
