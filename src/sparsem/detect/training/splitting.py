"""Which annotated pictures are learnt from, which are held out to choose and to calibrate, and which are never touched before scoring.

Whole samples are held out (thesis 4.3.3: 80, 10 and 10 %), never tiles of a picture: tiles of one picture, and slices of one stack that lie
beside each other, look alike, and a score on them promises too much.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from sparsem.errors import SettingsError
from sparsem.settings import parsed_slices


class ImageRole(StrEnum):
    """What an annotated picture is for."""

    LEARN = "learn"
    VALIDATE = "validate"
    TEST = "test"
    EXCLUDE = "exclude"


class ImageId(NamedTuple):
    """A picture: the name of its sample, and its slice."""

    sample: str
    z: int

    def __str__(self) -> str:
        return f"{self.sample}:{self.z}"


HELD_OUT_FRACTIONS = (
    0.1,
    0.1,
)  # of the samples, or pictures: held out for validation, and for the test
CHOICE = re.compile(r"(?P<sample>[^:]+)(:(?P<slices>\d[\d,-]*))?")


def named_images(places: Sequence[ImageId], choices: Sequence[str], option: str) -> set[ImageId]:
    """The pictures that choices such as ``S01``, ``S01:12`` and ``S01:12-40`` name.

    Raises:
        SettingsError: one is not understood, or names no annotated picture.
    """
    found: set[ImageId] = set()
    for choice in choices:
        parts = CHOICE.fullmatch(re.sub(r"\.zarr(?=:|$)", "", choice))
        if parts is None:
            raise SettingsError(
                f"{option} takes a sample, or its slices, such as S01, S01:12 or S01:12-40; got '{choice}'."
            )
        own = {place for place in places if place.sample == parts["sample"]}
        if parts["slices"] is not None:
            try:
                slices = set(parsed_slices(parts["slices"]))
            except ValueError as error:
                raise SettingsError(f"{option} {choice}: {error}.") from None
            own = {place for place in own if place.z in slices}
        if not own:
            known = ", ".join(dict.fromkeys(place.sample for place in places))
            raise SettingsError(
                f"{option} {choice} names no annotated picture; there are some in {known}."
            )
        found |= own
    return found


def split_images(
    places: Sequence[ImageId],
    by: str,
    validation: set[ImageId],
    test: set[ImageId],
    left: set[ImageId],
    seed: int,
) -> dict[ImageId, ImageRole]:
    """What every annotated picture is for.

    Args:
        places: all of them.
        by: ``sample``: a tenth of the samples each, drawn at random, is held out for validation and for the test; ``picture``: the last
            tenth of the pictures, in their order, is the test, and the tenth before it is for validation; ``none``: nothing is held out.
        validation: pictures that are for validation whatever is drawn; if there are any, no others are drawn for it.
        test: as ``validation``, for the test.
        left: pictures that are for nothing.
        seed: of the draw.

    Raises:
        SettingsError: there are too few to hold any out, or a picture is to be for two things.
    """
    if twice := [
        place for place in places if (place in validation) + (place in test) + (place in left) > 1
    ]:
        raise SettingsError(
            f"The picture {twice[0]} is named for two of validation, test and leave; name it for one."
        )
    roles = dict.fromkeys(sorted(places), ImageRole.LEARN)
    named = {ImageRole.VALIDATE: validation, ImageRole.TEST: test, ImageRole.EXCLUDE: left}
    for role, own in named.items():
        roles |= dict.fromkeys(own, role)
    wanted = [
        role for role in (ImageRole.TEST, ImageRole.VALIDATE) if not named[role] and by != "none"
    ]
    free = [place for place, role in roles.items() if role is ImageRole.LEARN]
    units = list(dict.fromkeys(place.sample for place in free)) if by == "sample" else free
    if wanted and len(units) <= len(wanted):
        missing = " and ".join(
            "--test" if role is ImageRole.TEST else "--validation" for role in reversed(wanted)
        )
        pictures = "--split picture (the last pictures are held out), or " if by == "sample" else ""
        raise SettingsError(
            f"{len(units)} annotated {by}{'s' if len(units) != 1 else ''} cannot be parted in learning and what is held out; name pictures "
            f"with {missing}, or use {pictures}--split none (only what you name is held out)."
        )
    if by == "sample":
        units = [units[place] for place in np.random.default_rng(seed).permutation(len(units))]
    for role in wanted:
        count = max(1, round(len(units) * HELD_OUT_FRACTIONS[role is ImageRole.TEST]))
        held, units = units[-count:], units[:-count]
        roles |= {
            place: role for place in free if (place.sample if by == "sample" else place) in held
        }
    if ImageRole.LEARN not in roles.values():
        raise SettingsError(
            "All annotated pictures are held out or left; leave some to learn from."
        )
    return roles
