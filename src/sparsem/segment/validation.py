"""Held-out slices: labeled slices that select the best weights and whose Dice is reported."""

from collections.abc import Sequence

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.errors import InputError, SettingsError
from sparsem.segment.training_slices import TrainingSlice
from sparsem.training.settings import TrainSettings


def validation_indices(
    slices: Sequence[TrainingSlice], structures: Sequence[str], settings: TrainSettings
) -> list[int]:
    """Return the indices of the slices to hold out, ascending.

    Without ``validation_slices`` they are evenly spaced, away from the ends, among the slices that
    contain a structure: on other slices a Dice has no meaning.

    Args:
        slices: all labeled slices.
        structures: the structures to train, in the order of the targets' channels.
        settings: ``n_validation_slices`` and ``validation_slices`` are used.

    Raises:
        SettingsError: both settings are given.
        InputError: too few slices remain, a selected slice is not labeled or has no known pixel,
            or a structure occurs on held-out slices only.
    """
    if settings.n_validation_slices and settings.validation_slices:
        raise SettingsError(
            "--validation-slices names the held-out slices, and --n-validation-slices counts "
            "them; give one of the two."
        )
    if settings.validation_slices:
        indices = _indices_of(slices, settings.validation_slices)
    else:
        indices = _spaced_indices(slices, settings.n_validation_slices)
    advice = "label it on more slices, or hold out others"
    require_training_slices(slices, structures, indices, advice)
    return indices


def spaced_positions(count: int, n: int) -> list[int]:
    """Return ``n`` of the positions 0 to ``count`` - 1, evenly spaced and away from the ends."""
    return [int((2 * index + 1) * count / (2 * n)) for index in range(n)]


def _indices_of(slices: Sequence[TrainingSlice], numbers: Sequence[int]) -> list[int]:
    """Return the indices of slices by their numbers, in every sample that has them."""
    labeled_numbers = sorted({labeled.z for labeled in slices})
    for number in numbers:
        if number not in labeled_numbers:
            listed = ", ".join(map(str, labeled_numbers))
            raise InputError(
                f"Slice {number} of --validation-slices is not labeled; labeled are {listed}."
            )
    indices = [index for index, labeled in enumerate(slices) if labeled.z in numbers]
    for index in indices:
        if not (slices[index].target != UNKNOWN).any():
            raise InputError(
                f"The held-out {slices[index].name} has no known pixel: all of its pixels are "
                "ignored. Hold out another slice."
            )
    return indices


def _spaced_indices(slices: Sequence[TrainingSlice], count: int) -> list[int]:
    """Return the indices of ``count`` evenly spaced slices that contain a structure."""
    if not count:
        return []
    if len(slices) <= count:
        raise InputError(
            f"{len(slices)} labeled slices are too few to hold out {count} of them for validation."
        )
    usable = [index for index, labeled in enumerate(slices) if (labeled.target == 1).any()]
    if len(usable) < count:
        raise InputError(
            f"Only {len(usable)} of {len(slices)} labeled slices contain a structure; "
            f"they are too few to hold out {count}."
        )
    return [usable[position] for position in spaced_positions(len(usable), count)]


def require_training_slices(
    slices: Sequence[TrainingSlice],
    structures: Sequence[str],
    held_out: Sequence[int],
    advice: str,
) -> None:
    """Refuse to hold out every slice that contains a structure.

    A structure that is on no slice at all is not refused: objects need not touch.

    Args:
        slices: all labeled slices.
        structures: the structures to train, in the order of the targets' channels.
        held_out: indices of the slices to hold out.
        advice: end of the error message.

    Raises:
        InputError: a structure is left on no slice; the message names it and the held-out slices.
    """
    training = [index for index in range(len(slices)) if index not in held_out]
    for channel, structure in enumerate(structures):
        has_structure = [bool((labeled.target[channel] == 1).any()) for labeled in slices]
        if any(has_structure) and not any(has_structure[index] for index in training):
            names = ", ".join(slices[index].name for index in held_out)
            raise InputError(
                f"Without the held-out {names} no labeled slice contains '{structure}'; {advice}."
            )
