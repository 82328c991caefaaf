"""Which labeled slices a training holds out, to choose its weights and to report their Dice."""

from collections.abc import Sequence

import numpy as np

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.errors import InputError, SettingsError
from sparsem.segment.training_slices import TrainingSlice
from sparsem.training.settings import TrainSettings


def validation_indices(
    slices: Sequence[TrainingSlice], structures: Sequence[str], settings: TrainSettings
) -> list[int]:
    """Return the places of the slices to hold out, ascending.

    Without ``validation_slices`` they are evenly spaced, away from the ends, among the slices that hold a structure: on others a Dice has
    no meaning.

    Raises:
        SettingsError: both ways of choosing are set.
        InputError: too few slices are left, a chosen slice is not labeled, or nothing is known on it, or a structure is on held-out slices
            alone.
    """
    if settings.n_validation_slices and settings.validation_slices:
        raise SettingsError(
            "--validation-slices names the slices that are held out, --n-validation-slices counts them; give one of the two."
        )
    places = (
        _named(slices, settings.validation_slices)
        if settings.validation_slices
        else _spaced(slices, settings.n_validation_slices)
    )
    require_training_slices(
        slices, structures, places, "label it on more slices, or hold out others"
    )
    return places


def spaced_positions(count: int, chosen: int) -> list[int]:
    """Return ``chosen`` of ``count`` places, evenly spaced and away from the ends."""
    return [int((2 * index + 1) * count / (2 * chosen)) for index in range(chosen)]


def _named(slices: Sequence[TrainingSlice], numbers: Sequence[int]) -> list[int]:
    """Return the places of slices by their numbers, in every sample that has them."""
    labeled = sorted({each.z for each in slices})
    for number in numbers:
        if number not in labeled:
            listed = ", ".join(map(str, labeled))
            raise InputError(
                f"Slice {number} of --validation-slices is not labeled; labeled are {listed}."
            )
    places = [place for place, each in enumerate(slices) if each.z in numbers]
    for place in places:
        if not (slices[place].target != UNKNOWN).any():
            raise InputError(
                f"Nothing is known on the held-out {slices[place].name}: all of its pixels are ignored; hold out another."
            )
    return places


def _spaced(slices: Sequence[TrainingSlice], count: int) -> list[int]:
    """Return the places of slices that hold a structure, evenly spaced."""
    if not count:
        return []
    if len(slices) <= count:
        raise InputError(
            f"{len(slices)} labeled slices are too few to hold out {count} of them for validation."
        )
    useful = [place for place, each in enumerate(slices) if (each.target == 1).any()]
    if len(useful) < count:
        raise InputError(
            f"Only {len(useful)} of {len(slices)} labeled slices hold a structure; they are too few to hold out {count}."
        )
    return [useful[place] for place in spaced_positions(len(useful), count)]


def require_training_slices(
    slices: Sequence[TrainingSlice], structures: Sequence[str], places: Sequence[int], advice: str
) -> None:
    """Refuse to hold out every slice that holds a structure.

    Args:
        slices: all labeled slices.
        structures: what is trained, in the order of the targets' channels.
        places: of the slices to hold out.
        advice: end of the message.

    Raises:
        InputError: the structure and the slices are named.
    """
    left = [each for place, each in enumerate(slices) if place not in places]
    for channel, structure in enumerate(structures):
        if not any(np.any(each.target[channel] == 1) for each in left):
            names = ", ".join(slices[place].name for place in places)
            raise InputError(
                f"Without the held-out {names} no labeled slice holds '{structure}'; {advice}."
            )
