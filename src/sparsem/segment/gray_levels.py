"""Comparison of an image's gray levels with those that a network was trained on.

A network finds little in slices that are much darker, brighter or lower in contrast than those
that it was trained on.
"""

import numpy as np

from sparsem.models.checkpoint import Recipe
from sparsem.store.volume import Volume

N_SLICES = 3  # slices whose gray levels are compared
MAX_MEAN_SHIFT = 1.5  # largest shift of the mean without a note, in standard deviations
MAX_CONTRAST_RATIO = 2.5  # largest ratio of the standard deviations, either way, without a note
RESOLUTION_TOLERANCE = 1.01  # of the nm per pixel, when a pyramid level is selected


def gray_level_note(image: Volume, recipe: Recipe, model: str) -> str | None:
    """Return a note if the gray levels of an image differ much from the training slices'.

    Args:
        image: the image to predict; a few inner slices of it are read.
        recipe: recipe of the network.
        model: name of the network's file, for the note.
    """
    mean, std = _mean_and_std(image, _level_for(image, recipe))
    is_mean_close = abs(mean - recipe.mean) <= MAX_MEAN_SHIFT * recipe.std
    is_contrast_close = 1 / MAX_CONTRAST_RATIO < std / recipe.std < MAX_CONTRAST_RATIO
    if is_mean_close and is_contrast_close:
        return None
    return (
        f"Note: the gray levels of the image are {mean:.2f} ± {std:.2f} of their range, but "
        f"{model} was trained on {recipe.mean:.2f} ± {recipe.std:.2f} and may find little. "
        "Import with --intensity-range or use 'sparsem equalize', in the same way for both stacks."
    )


def _level_for(image: Volume, recipe: Recipe) -> int:
    """Return the coarsest pyramid level that is at least as fine as the network's scale."""
    max_y, max_x = (RESOLUTION_TOLERANCE * nm for nm in recipe.pixel_nm)
    fine_levels = []
    for level in range(image.levels):
        voxel = image.voxel_size_of(level)
        if voxel.y <= max_y and voxel.x <= max_x:
            fine_levels.append(level)
    return max(fine_levels, default=0)


def _mean_and_std(image: Volume, level: int) -> tuple[float, float]:
    """Return mean and standard deviation of a few slices, in 0..1 of the gray levels' range."""
    n_slices = image.level(level).shape[0]
    # Inner slices, since the ends of a stack are often its worst.
    numbers = {round((index + 1) * (n_slices - 1) / (N_SLICES + 1)) for index in range(N_SLICES)}
    planes = [image.read(slice(z, z + 1), level)[0, ::2, ::2] for z in sorted(numbers)]
    gray = np.stack(planes).astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return float(gray.mean()), float(gray.std())
