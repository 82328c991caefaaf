"""What to expect on slices that nobody labeled: trainings that leave some of the labeled ones out."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.errors import InputError
from sparsem.models.checkpoint import Recipe
from sparsem.segment.train import TrainingJob, prepare_training, run_training, train
from sparsem.segment.validation import require_training_slices
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution


@dataclass(frozen=True)
class CrossValidation:
    """The Dice to expect on slices that nobody labeled, from trainings that did not see some of those labeled.

    Attributes:
        structure: what was learnt.
        dice: of the held-out slices of each fold, pooled over a fold's slices, at the network's scale; NaN where a fold holds out no
            slice on which the structure is annotated.
    """

    structure: str
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over folds."""
        return float(np.nanmean(self.dice))

    @property
    def spread(self) -> float:
        """Standard deviation over folds; NaN of one."""
        known = [dice for dice in self.dice if not math.isnan(dice)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def fold_path(out: Path, number: int) -> Path:
    """Where the model of a fold, counted from 1, lies beside ``out``."""
    return out.with_name(f"{out.stem}.fold{number}.safetensors")


def split_into_folds(
    slices: Sequence[tuple[str, int]], depths: Mapping[str, int], folds: int
) -> list[list[int]]:
    """Which labeled slices each fold leaves out.

    A slice beside one that was learnt from says nothing of slices that nobody labeled. So labeled slices that lie closer than such slices
    usually do (half of the distance that all labeled ones would have if they lay evenly) are left out together; where that leaves fewer
    groups than folds, each fold leaves out neighboring ones.

    Args:
        slices: sample and number of every labeled slice.
        depths: slices of every sample.
        folds: how many.

    Returns:
        Places in ``slices``, for each fold.
    """
    places = sorted(range(len(slices)), key=lambda place: slices[place])
    groups: list[list[int]] = []
    for place in places:
        sample, z = slices[place]
        near = depths[sample] / (2 * sum(one == sample for one, _ in slices))
        before = slices[groups[-1][-1]] if groups else None
        if before is not None and before[0] == sample and z - before[1] < near:
            groups[-1].append(place)
        else:
            groups.append([place])
    if len(groups) < folds:
        return [part.tolist() for part in np.array_split(places, folds)]
    return [
        sorted(place for group in groups[number::folds] for place in group)
        for number in range(folds)
    ]


def train_and_cross_validate(
    samples: Sequence[Sample],
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> tuple[Recipe, list[CrossValidation]]:
    """``train``, and with ``settings.folds`` the Dice to expect of it (``cross_validate``), which is refused before anything is trained."""
    settings = resolve_settings(TrainSettings, settings, changes)
    if settings.folds:
        _planned(samples, Path(out), settings)
    recipe = train(samples, out, settings, on=on)
    return recipe, cross_validate(samples, out, settings, on) if settings.folds else []


def _planned(
    samples: Sequence[Sample], out: Path, settings: TrainSettings
) -> tuple[TrainingJob, list[list[int]]]:
    """The training on all slices, and which slices each fold leaves out."""
    whole = prepare_training(
        samples,
        out,
        changed(settings, {"n_validation_slices": 0, "validation_slices": ()}),
    )
    if not 2 <= settings.folds <= len(whole.slices):
        raise InputError(
            f"--folds takes 2 to {len(whole.slices)}, the number of labeled slices; got {settings.folds}."
        )
    depths = {sample.name: sample.image().shape[0] for sample in samples}
    parts = split_into_folds(
        [(each.sample, each.z) for each in whole.slices], depths, settings.folds
    )
    for aside in parts:
        require_training_slices(
            whole.slices, whole.structures, aside, "label it on more slices, or use more --folds"
        )
    return whole, parts


def cross_validate(
    samples: Sequence[Sample],
    out: str | Path,
    settings: TrainSettings = TrainSettings(),
    on: Execution = HERE,
) -> list[CrossValidation]:
    """Train ``settings.folds`` networks, each without a part of the labeled slices, and measure each on the slices it did not see.

    Beside ``out`` (NAME.safetensors) lie NAME.fold1.safetensors, ..., which predict as any other model, and NAME.folds.csv. Each is
    resumed on its own. No weights are chosen by the held-out slices: the last count. Dice is measured at the network's scale.

    Args:
        samples: with annotations of every structure.
        out: the checkpoint of the training on all slices, which is not written here.
        on: ``overwrite`` and ``quiet`` are used.
        settings: with ``folds`` of at least 2.

    Returns:
        One promise a structure.

    Raises:
        InputError: fewer labeled slices than folds, fewer than two folds, or a fold that would learn a structure from no slice.
        Whatever ``train`` raises.
    """
    out, folds = Path(out), settings.folds
    whole, parts = _planned(samples, out, settings)
    found: dict[str, list[float]] = {name: [] for name in whole.structures}
    for number, aside in enumerate(parts):
        # Measured once, at the end: so the best weights are the last.
        last_only = changed(
            settings, {"n_validation_slices": len(aside), "validate_every": settings.updates}
        )
        inputs = whole.inputs | {"fold": f"{number + 1} of {folds}"}
        recipe = run_training(
            replace(whole, out=fold_path(out, number + 1), settings=last_only, inputs=inputs),
            aside,
            on,
        )
        fold_path(out, number + 1).with_suffix(".last.safetensors").unlink(
            missing_ok=True
        )  # the same weights
        known = recipe.training["validation_dice_by_structure"]
        for name, dice in found.items():
            dice.append(float(known.get(name, math.nan)))
    promises = [CrossValidation(name, tuple(dice)) for name, dice in found.items()]
    text = io.StringIO()
    csv.writer(text).writerows(
        [["structure", "mean", "spread", *(f"fold{n + 1}" for n in range(folds))]]
    )
    for one in promises:
        csv.writer(text).writerow(
            [
                one.structure,
                *(
                    "" if math.isnan(value) else f"{value:.4f}"
                    for value in (one.mean, one.spread, *one.dice)
                ),
            ]
        )
    write_atomically(out.with_name(f"{out.stem}.folds.csv"), text.getvalue().encode())
    return promises
