"""What to expect on slices that nobody labelled: trainings that leave some of the labelled ones out."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparsem.errors import InputError
from sparsem.execution import HERE, Execution
from sparsem.learn.supervised import TrainSettings
from sparsem.learn.train import job_of, train_job
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically


@dataclass(frozen=True)
class Promise:
    """The Dice to expect on slices that nobody labelled, from trainings that did not see some of those labelled.

    Attributes:
        structure: what was learnt.
        dice: of the held-out slices of each fold, pooled over a fold's slices.
    """

    structure: str
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over folds."""
        return float(np.mean(self.dice))

    @property
    def spread(self) -> float:
        """Standard deviation over folds; NaN of one."""
        return float(np.std(self.dice, ddof=1)) if len(self.dice) > 1 else math.nan


def fold_path(out: Path, number: int) -> Path:
    """Where the model of a fold, counted from 1, lies beside ``out``."""
    return out.with_name(f"{out.stem}.fold{number}.safetensors")


def cross_validate(
    samples: Sequence[Sample], out: str | Path, settings: TrainSettings = TrainSettings(), on: Execution = HERE
) -> list[Promise]:
    """Train ``settings.folds`` networks, each without every k-th labelled slice, and measure each on the slices it did not see.

    Beside ``out`` (NAME.safetensors) lie NAME.fold1.safetensors, ..., which predict as any other model, and NAME.folds.csv. Each is
    resumed on its own. No weights are chosen by the held-out slices: the last count. The promise is rather too low than too high,
    since each network has seen fewer slices than the one trained on all.

    Args:
        samples: with annotations of every structure.
        out: the checkpoint of the training on all slices, which is not written here.
        on: ``overwrite`` and ``quiet`` are used.
        settings: with ``folds`` of at least 2.

    Returns:
        One promise a structure.

    Raises:
        InputError: fewer labelled slices than folds, or fewer than two folds.
        Whatever ``train`` raises.
    """
    out, folds = Path(out), settings.folds
    whole = job_of(samples, out, settings.model_copy(update={"validation_slices": 0}))
    if not 2 <= folds <= len(whole.slices):
        raise InputError(f"--folds takes 2 to {len(whole.slices)}, the number of labelled slices; got {folds}.")
    found: dict[str, list[float]] = {name: [] for name in whole.structures}
    for number in range(folds):
        aside = list(range(number, len(whole.slices), folds))
        # Measured once, at the end: so the best weights are the last.
        last_only = settings.model_copy(update={"validation_slices": len(aside), "validate_every": settings.updates})
        inputs = whole.inputs | {"fold": f"{number + 1} of {folds}"}
        recipe = train_job(replace(whole, out=fold_path(out, number + 1), settings=last_only, inputs=inputs), aside, on)
        fold_path(out, number + 1).with_suffix(".last.safetensors").unlink(missing_ok=True)  # the same weights
        for name, dice in recipe.training["validation dice by structure"].items():
            found[name].append(float(dice))
    promises = [Promise(name, tuple(dice)) for name, dice in found.items() if dice]
    text = io.StringIO()
    csv.writer(text).writerows([["structure", "mean", "spread", *(f"fold{n + 1}" for n in range(folds))]])
    for one in promises:
        csv.writer(text).writerow([one.structure, *(f"{value:.4f}" for value in (one.mean, one.spread, *one.dice))])
    write_atomically(out.with_name(f"{out.stem}.folds.csv"), text.getvalue().encode())
    return promises
