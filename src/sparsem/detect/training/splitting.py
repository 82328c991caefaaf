"""Splitting annotated images into training, validation and test images.

Whole samples are held out (thesis 4.3.3: 80, 10 and 10 %), never tiles of an image: tiles of one
image, and neighboring slices of one stack, are similar, so a score on them would be too high.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from sparsem.errors import SettingsError
from sparsem.settings import parsed_slices


class ImageRole(StrEnum):
    """Purpose of an annotated image."""

    TRAIN = "train"
    VALIDATE = "validate"
    TEST = "test"
    EXCLUDE = "exclude"


class ImageId(NamedTuple):
    """An image: the name of its sample, and its slice index."""

    sample: str
    z: int

    def __str__(self) -> str:
        return f"{self.sample}:{self.z}"


# Fraction of the samples, or images, that is held out for each purpose.
HELD_OUT_FRACTIONS = {ImageRole.TEST: 0.1, ImageRole.VALIDATE: 0.1}
CHOICE = re.compile(r"(?P<sample>[^:]+)(:(?P<slices>\d[\d,-]*))?")


def named_images(images: Sequence[ImageId], choices: Sequence[str], option: str) -> set[ImageId]:
    """Return the images that choices such as ``S01``, ``S01:12`` and ``S01:12-40`` name.

    Raises:
        SettingsError: a choice is not understood, or names no annotated image.
    """
    named: set[ImageId] = set()
    for choice in choices:
        matches = _images_of_choice(images, choice, option)
        if not matches:
            known = ", ".join(dict.fromkeys(image.sample for image in images))
            raise SettingsError(
                f"{option} {choice} names no annotated image; {known} have annotated images."
            )
        named |= matches
    return named


def _images_of_choice(images: Sequence[ImageId], choice: str, option: str) -> set[ImageId]:
    """Return the images that one choice names; refuse a choice that is not understood."""
    parts = CHOICE.fullmatch(re.sub(r"\.zarr(?=:|$)", "", choice))
    if parts is None:
        raise SettingsError(
            f"{option} takes a sample, or its slices, such as S01, S01:12 or S01:12-40; got "
            f"'{choice}'."
        )
    matches = {image for image in images if image.sample == parts["sample"]}
    if parts["slices"] is None:
        return matches
    try:
        slices = set(parsed_slices(parts["slices"]))
    except ValueError as error:
        raise SettingsError(f"{option} {choice}: {error}.") from None
    return {image for image in matches if image.z in slices}


def split_images(
    images: Sequence[ImageId],
    unit: str,
    validation: set[ImageId],
    test: set[ImageId],
    excluded: set[ImageId],
    seed: int,
) -> dict[ImageId, ImageRole]:
    """Return the role of every annotated image.

    Args:
        images: all annotated images.
        unit: what is held out. ``sample``: a tenth of the samples, drawn at random, for validation
            and as many for testing. ``image``: the last tenth of the images, in their order, for
            testing, and the tenth before it for validation. ``none``: no image is held out.
        validation: images that are named for validation; if there are any, no others are held out
            for it.
        test: the same for testing.
        excluded: images that are left out of training, validation and testing.
        seed: seed of the draw.

    Raises:
        SettingsError: there are too few images to hold any out, or an image is named for two roles.
    """
    named = {
        ImageRole.VALIDATE: validation,
        ImageRole.TEST: test,
        ImageRole.EXCLUDE: excluded,
    }
    _refuse_double_roles(images, named)
    roles = dict.fromkeys(sorted(images), ImageRole.TRAIN)
    for role, own_images in named.items():
        roles |= dict.fromkeys(own_images, role)
    free = [image for image, role in roles.items() if role is ImageRole.TRAIN]
    missing = [role for role in (ImageRole.TEST, ImageRole.VALIDATE) if not named[role]]
    if unit != "none" and missing:
        roles |= _held_out(free, unit, missing, seed)
    if ImageRole.TRAIN not in roles.values():
        raise SettingsError(
            "Expected annotated images for training, but all are held out or excluded; hold out "
            "fewer."
        )
    return roles


def _refuse_double_roles(images: Sequence[ImageId], named: dict[ImageRole, set[ImageId]]) -> None:
    """Raise a SettingsError if an image is named for two roles."""
    for image in images:
        n_roles = sum(image in own_images for own_images in named.values())
        if n_roles > 1:
            raise SettingsError(
                f"The image {image} is named for two of --validation, --test and --exclude; name "
                "it for one."
            )


def _held_out(
    free: Sequence[ImageId], unit: str, missing: Sequence[ImageRole], seed: int
) -> dict[ImageId, ImageRole]:
    """Return the role of each image that is held out.

    Args:
        free: images that are not named for a role, in their order.
        unit: ``sample`` or ``image``.
        missing: roles that no image is named for.
        seed: seed of the draw of samples.
    """
    by_sample = unit == "sample"
    units = _ordered_samples(free, seed) if by_sample else list(free)
    if len(units) <= len(missing):
        raise SettingsError(_too_few(len(units), unit, missing))
    roles: dict[ImageId, ImageRole] = {}
    for role in missing:
        count = max(1, round(len(units) * HELD_OUT_FRACTIONS[role]))
        held_out = units[-count:]
        units = units[:-count]
        for image in free:
            if (image.sample if by_sample else image) in held_out:
                roles[image] = role
    return roles


def _ordered_samples(images: Sequence[ImageId], seed: int) -> list[str | ImageId]:
    """Return the names of the samples of some images, in random order."""
    names = list(dict.fromkeys(image.sample for image in images))
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order]


def _too_few(n_units: int, unit: str, missing: Sequence[ImageRole]) -> str:
    """Return the message that there are too few units to hold any out."""
    options = {ImageRole.VALIDATE: "--validation", ImageRole.TEST: "--test"}
    named = " and ".join(options[role] for role in reversed(missing))
    n_named = f"{n_units} annotated {unit}{'' if n_units == 1 else 's'}"
    by_image = "--split image (the last images are held out), or " if unit == "sample" else ""
    return (
        f"Cannot split {n_named} into training and held-out {unit}s; name images with {named}, or "
        f"use {by_image}--split none (only the images that you name are held out)."
    )
