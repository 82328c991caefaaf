"""The commands that train networks and predict with them.

Stages are called as names of ``sparsem``, which imports them then: help must not load torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import sparsem
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.extras import require
from sparsem.segment.settings import PredictSettings
from sparsem.store.names import BOUNDARY
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution


@command(TrainSettings)
def train_command(
    samples: Annotated[
        list[Path], typer.Argument(metavar="SAMPLE...", help="one or more annotated samples")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="MODEL", help="the model to write, NAME.safetensors")
    ],
    *,
    settings: TrainSettings,
    on: Execution,
) -> Outcome:
    """Train a segmentation network on the labeled slices. It can be stopped any time; the same
    command resumes.

    With --folds, it also estimates the Dice to expect on unlabeled slices.

    sparsem train liver.zarr --structure nucleus,nucleolus --out liver.safetensors
    sparsem train liver.zarr --structure nucleus --folds 5 --out liver.safetensors
    """
    require("train")
    from sparsem.cli.score_format import cross_validation_line, validation_lines
    from sparsem.training.files import log_path
    from sparsem.training.processes import training_processes

    result = sparsem.train([sparsem.Sample.open(path) for path in samples], out, settings, on=on)
    if not training_processes().is_first:
        return Outcome([])
    recipe = result.recipe
    n_slices = len(recipe.training["trained_on"])
    noun = "slice" if n_slices == 1 else "slices"
    lines = [
        f"Wrote {out}: {', '.join(recipe.structures)}, trained on {n_slices} {noun}",
        *validation_lines(recipe),
        f"Wrote {log_path(out)}",
        *map(cross_validation_line, result.validations),
    ]
    data = {
        "model": out,
        "structures": recipe.structures,
        "training": recipe.training,
        "folds": {validation.structure: validation.dice for validation in result.validations},
    }
    return Outcome(lines, f"sparsem predict {in_shell(samples[0])} {in_shell(out)}", data)


@command(PredictSettings, spread=True)
def predict_command(
    path: SamplePath,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="models that train wrote; of several the mean counts"
        ),
    ],
    *,
    settings: PredictSettings,
    on: Execution,
) -> Outcome:
    """Predict the structures in every slice. It can be stopped any time; the same command resumes.

    Of several models, such as two folds, the mean counts, and a map shows where they disagree.

    sparsem predict liver.zarr liver.safetensors
    sparsem predict liver.zarr liver.fold1.safetensors liver.fold2.safetensors
    sparsem predict liver.zarr liver.safetensors --views 3
    """
    require("train")
    sample = sparsem.Sample.open(path)
    volumes = sparsem.predict(sample, models, settings, on=on).written
    image = sample.name_of_image(sample.volume(*volumes[0].split("/")))
    lines = [f"Wrote {path}/{volume}, of the image '{image}'" for volume in volumes]
    data = {"sample": sample.path, "volumes": volumes}
    return Outcome(lines, _next_command(in_shell(path), volumes), data)


def _next_command(path: str, volumes: Sequence[str]) -> str:
    names = [volume.rpartition("/")[2] for volume in volumes]
    with_boundary = [name.removesuffix(BOUNDARY) for name in names if name.endswith(BOUNDARY)]
    for name in with_boundary:
        if name in names:
            return f"sparsem objects {path} {name}"
        return f"sparsem cells {path} --cells {name}"
    return f"sparsem export {path} {names[0]} {names[0]}.tif"
