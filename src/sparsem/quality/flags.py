"""Which slices to look at, and why: a light for every slice of a stack, and for the stack.

Strengths are parts of the range of gray levels, 0..1; the limits are ours, set by hand on phantoms
and open stacks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sparsem.image.running_median import running_median

WINDOW = 25  # slices of the running medians that a slice is held against
SAME, LOST = (
    0.5,
    1.7,
)  # distance from the slice before, in slices: less is a repeated one, more a lost one
APART = 2.6  # more than one is lost for certain
SATURATED = 0.33  # part of the usual similarity below which slices are similar by chance, and a distance is the least that it may be
THE_SAME = 0.99  # likeness from which a slice is the one before, however alike neighbors are; at 5 nm these reach 0.95
WORSE = 1.05  # times the usual resolution
UNLIKE = 0.5  # part of the usual likeness below which a slice is like none of its neighbors
MANY = 0.1  # part of the slices of one light that gives it to the stack

Values = NDArray[np.float64]


class Light(StrEnum):
    """Of a slice or a stack."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True)
class Rule:
    """When a measure turns the light.

    Attributes:
        measure: a column.
        of: (values, their running median, contrast) -> what is held against the limits.
        amber: from here on.
        red: from here on.
        remark: what it means.
    """

    measure: str
    of: Callable[[Values, Values, Values], Values]
    amber: float
    red: float
    remark: str


def _fall(values: Values, middle: Values, contrast: Values) -> Values:
    return 1 - values / middle


def _rise(values: Values, middle: Values, contrast: Values) -> Values:
    return values / middle - 1


def _change(values: Values, middle: Values, contrast: Values) -> Values:
    return np.asarray(np.abs(np.log(values / middle)))


def _difference(values: Values, middle: Values, contrast: Values) -> Values:
    return np.asarray(np.abs(values - middle))


def _rise_beside_contrast(values: Values, middle: Values, contrast: Values) -> Values:
    return (values - middle) / contrast


def _beside_contrast(values: Values, middle: Values, contrast: Values) -> Values:
    return values / contrast


def _lack(values: Values, middle: Values, contrast: Values) -> Values:
    return -values


def _itself(values: Values, middle: Values, contrast: Values) -> Values:
    return values


RULES = (
    Rule("snr_db", _lack, -3.0, 3.0, "noisy"),
    Rule("noise", _rise, 0.4, 1.0, "noisier than the slices around"),
    Rule("blur", _itself, 0.2, 0.4, "blurred"),
    Rule("contrast", _change, 0.3, 0.7, "contrast jumps"),
    Rule("brightness", _difference, 0.05, 0.12, "brightness jumps"),
    Rule("stripes", _beside_contrast, 0.2, 0.4, "stripes"),
    Rule("charging", _rise_beside_contrast, 0.25, 0.6, "charged"),
    Rule("saturated", _itself, 0.01, 0.05, "saturated"),
    Rule("shift_part", _itself, 0.02, 0.1, "shifted"),
)


@dataclass(frozen=True)
class Verdict:
    """Of one slice.

    Attributes:
        light: green, amber or red.
        remarks: why.
    """

    light: Light
    remarks: tuple[str, ...]


def judged(columns: Mapping[str, Values]) -> list[Verdict]:
    """Verdicts over all slices of a stack.

    Args:
        columns: (n,) of every measure that ``RULES`` name but ``blur``, of ``sharpness``, ``resolution_px``, ``spacing``, ``likeness`` and
            ``second_likeness``; NaN where there is none, which turns no light.
    """
    count = len(columns["brightness"])
    told: list[list[tuple[Light, str]]] = [[] for _ in range(count)]
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = {**columns, "blur": blur(columns["sharpness"], columns["resolution_px"])}
        for rule in RULES:
            values = columns[rule.measure]
            found = rule.of(values, usual(values), columns["contrast"])
            for z in np.flatnonzero(found >= rule.amber):
                told[z].append((Light.RED if found[z] >= rule.red else Light.AMBER, rule.remark))
    alone = unlike(columns["likeness"], columns["second_likeness"])
    for z in np.flatnonzero(alone):
        told[z].append((Light.RED, "unlike its neighbors"))
    same = columns["likeness"] >= THE_SAME
    for z in np.flatnonzero(same):
        told[z].append((Light.RED, "repeats the slice before"))
    near_alone = alone | np.roll(alone, 1) | same
    with np.errstate(invalid="ignore"):
        is_saturated = columns["likeness"] < SATURATED * usual(columns["likeness"])
    for place, distance in enumerate(columns["spacing"]):
        if not near_alone[place]:
            told[place].extend(_of_distance(float(distance), bool(is_saturated[place])))
    empty = np.isnan(columns["brightness"])
    flat = (columns["contrast"] == 0) & (columns["noise"] == 0)
    nothing = {
        int(z): ("black",) if empty[z] else ("one gray level everywhere",)
        for z in np.flatnonzero(empty | flat)
    }
    return [
        Verdict(Light.RED, nothing[z]) if z in nothing else _verdict(one)
        for z, one in enumerate(told)
    ]


def blur(sharpness: Values, resolution_px: Values) -> Values:
    """(n,) by how much of the usual a slice is less sharp; half of it where the resolution is no worse: large smooth things do that."""
    fall, worse = (
        _fall(sharpness, usual(sharpness), sharpness),
        resolution_px > WORSE * usual(resolution_px),
    )
    return np.where(worse, fall, fall / 2)


def _verdict(told: Sequence[tuple[Light, str]]) -> Verdict:
    order = list(Light)
    light = max((one for one, _ in told), key=order.index, default=Light.GREEN)
    return Verdict(light, tuple(remark for _, remark in told))


def _of_distance(distance: float, is_saturated: bool) -> list[tuple[Light, str]]:
    if distance < SAME:
        return [(Light.RED, "repeats the slice before")]
    if distance >= APART:
        bound = "at least" if is_saturated else "about"
        return [(Light.RED, f"{bound} {round(distance) - 1} slices lost before it")]
    return [(Light.AMBER, "a slice lost before it")] if distance >= LOST else []


def unlike(next_likeness: Values, second_likeness: Values) -> NDArray[np.bool_]:
    """(n,) whether a slice is like neither neighbor, while these are like each other."""
    near, far = (usual(values) for values in (next_likeness, second_likeness))
    after, across = (np.append(values[1:], np.nan) for values in (next_likeness, second_likeness))
    with np.errstate(invalid="ignore"):
        found = (next_likeness < UNLIKE * near) & (after < UNLIKE * near) & (across >= UNLIKE * far)
    return np.asarray(found)


def stack_light(verdicts: Sequence[Verdict]) -> Light:
    """Red or amber where many slices are, and amber where any is not green."""
    for light in (Light.RED, Light.AMBER):
        worse = [
            one for one in verdicts if list(Light).index(one.light) >= list(Light).index(light)
        ]
        if len(worse) > MANY * len(verdicts):
            return light
    return Light.GREEN if all(one.light is Light.GREEN for one in verdicts) else Light.AMBER


def usual(values: Values) -> Values:
    """(n,) running medians over the slices around."""
    return running_median(values[:, None], WINDOW)[:, 0]
