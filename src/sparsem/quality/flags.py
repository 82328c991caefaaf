"""Quality flags: a traffic light for every slice of a stack and for the stack, with reasons.

Strengths are fractions of the range of gray levels, 0 to 1. The limits were set by hand on phantoms
and open stacks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sparsem.image.running_median import running_median

WINDOW = 25  # slices of the running medians with which a slice is compared
# Distances from the slice before, in slices.
REPEATED = 0.5  # below: the slice repeats the one before
LOST = 1.7  # from here on a slice is lost in between
SEVERAL_LOST = 2.6  # from here on more than one slice is certainly lost
# Fraction of the usual similarity below which slices are similar by chance only, so that a distance
# is a lower bound.
CHANCE_FRACTION = 0.33
# Similarity from which a slice is the one before, however similar neighbors are; at 5 nm neighbors
# reach 0.95.
IDENTICAL = 0.99
WORSE_RESOLUTION = 1.05  # a resolution is worse from this multiple of the usual one
UNLIKE_FRACTION = 0.5  # of the usual similarity, below which a slice is unlike its neighbors
MANY_SLICES = 0.1  # fraction of slices of a light from which the stack has that light

Values = NDArray[np.float64]


class Light(StrEnum):
    """The traffic light of a slice or a stack."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


SEVERITY = {Light.GREEN: 0, Light.AMBER: 1, Light.RED: 2}


@dataclass(frozen=True)
class FlagLimits:
    """The limits of a measure from which a slice is amber or red.

    Attributes:
        measure: name of the column.
        strength: a function of values, their running median and the contrast, (n,) each, whose
            result is compared with the limits.
        amber: limit.
        red: limit.
        remark: the reason that is reported.
    """

    measure: str
    strength: Callable[[Values, Values, Values], Values]
    amber: float
    red: float
    remark: str


def _relative_fall(values: Values, median: Values, contrast: Values) -> Values:
    return 1 - values / median


def _relative_rise(values: Values, median: Values, contrast: Values) -> Values:
    return values / median - 1


def _log_change(values: Values, median: Values, contrast: Values) -> Values:
    return np.asarray(np.abs(np.log(values / median)))


def _absolute_change(values: Values, median: Values, contrast: Values) -> Values:
    return np.asarray(np.abs(values - median))


def _rise_over_contrast(values: Values, median: Values, contrast: Values) -> Values:
    return (values - median) / contrast


def _over_contrast(values: Values, median: Values, contrast: Values) -> Values:
    return values / contrast


def _negated(values: Values, median: Values, contrast: Values) -> Values:
    return -values


def _unchanged(values: Values, median: Values, contrast: Values) -> Values:
    return values


LIMITS = (
    FlagLimits("snr_db", _negated, -3.0, 3.0, "noisy"),
    FlagLimits("noise", _relative_rise, 0.4, 1.0, "noisier than the slices around"),
    FlagLimits("blur", _unchanged, 0.2, 0.4, "blurred"),
    FlagLimits("contrast", _log_change, 0.3, 0.7, "contrast jumps"),
    FlagLimits("brightness", _absolute_change, 0.05, 0.12, "brightness jumps"),
    FlagLimits("stripes", _over_contrast, 0.2, 0.4, "stripes"),
    FlagLimits("charging", _rise_over_contrast, 0.25, 0.6, "charged"),
    FlagLimits("saturated", _unchanged, 0.01, 0.05, "saturated"),
    FlagLimits("shift_fraction", _unchanged, 0.02, 0.1, "shifted"),
)


@dataclass(frozen=True)
class SliceFlag:
    """The traffic light of one slice.

    Attributes:
        light: green, amber or red.
        remarks: the reasons.
    """

    light: Light
    remarks: tuple[str, ...]


Finding = tuple[Light, str]


def flag_slices(columns: Mapping[str, Values]) -> list[SliceFlag]:
    """Return the flags of all slices of a stack.

    Args:
        columns: (n,) of every measure in ``LIMITS`` except ``blur``, and of ``sharpness``,
            ``resolution_px``, ``spacing``, ``similarity`` and ``second_similarity``; NaN where a
            value is not known, which changes no light.
    """
    findings = _findings_by_limits(columns)
    for z, neighbor_findings in enumerate(_findings_by_neighbors(columns)):
        findings[z] += neighbor_findings
    is_black = np.isnan(columns["brightness"])
    is_flat = (columns["contrast"] == 0) & (columns["noise"] == 0)
    flags = []
    for z, slice_findings in enumerate(findings):
        if is_black[z]:
            flags.append(SliceFlag(Light.RED, ("black",)))
        elif is_flat[z]:
            flags.append(SliceFlag(Light.RED, ("one gray level everywhere",)))
        else:
            flags.append(_flag_from_findings(slice_findings))
    return flags


def _findings_by_limits(columns: Mapping[str, Values]) -> list[list[Finding]]:
    """Return what ``LIMITS`` find in every slice."""
    findings: list[list[Finding]] = [[] for _ in columns["brightness"]]
    with np.errstate(invalid="ignore", divide="ignore"):
        blur = blur_strength(columns["sharpness"], columns["resolution_px"])
        columns = {**columns, "blur": blur}
        for limits in LIMITS:
            values = columns[limits.measure]
            strength = limits.strength(values, median_around(values), columns["contrast"])
            for z in np.flatnonzero(strength >= limits.amber):
                light = Light.RED if strength[z] >= limits.red else Light.AMBER
                findings[z].append((light, limits.remark))
    return findings


def _findings_by_neighbors(columns: Mapping[str, Values]) -> list[list[Finding]]:
    """Return what the similarity and the distance to the slice before show of every slice."""
    similarity = columns["similarity"]
    is_unlike = unlike_neighbors(similarity, columns["second_similarity"])
    is_repeated = similarity >= IDENTICAL
    # No distance is reported next to a slice that is unlike its neighbors.
    has_distance = ~(is_unlike | np.roll(is_unlike, 1) | is_repeated)
    with np.errstate(invalid="ignore"):
        is_lower_bound = similarity < CHANCE_FRACTION * median_around(similarity)
    findings: list[list[Finding]] = [[] for _ in similarity]
    for z in np.flatnonzero(is_unlike):
        findings[z].append((Light.RED, "unlike its neighbors"))
    for z in np.flatnonzero(is_repeated):
        findings[z].append((Light.RED, "repeats the slice before"))
    for z in np.flatnonzero(has_distance):
        distance = float(columns["spacing"][z])
        findings[z] += _findings_of_distance(distance, bool(is_lower_bound[z]))
    return findings


def _findings_of_distance(distance: float, is_lower_bound: bool) -> list[Finding]:
    """Return whether the distance from the slice before shows repeated or lost slices."""
    if distance < REPEATED:
        return [(Light.RED, "repeats the slice before")]
    if distance >= SEVERAL_LOST:
        bound = "at least" if is_lower_bound else "about"
        return [(Light.RED, f"{bound} {round(distance) - 1} slices lost before it")]
    if distance >= LOST:
        return [(Light.AMBER, "a slice lost before it")]
    return []


def _flag_from_findings(findings: Sequence[Finding]) -> SliceFlag:
    """Return the most severe light, and all remarks."""
    lights = [light for light, _ in findings]
    light = max(lights, key=SEVERITY.__getitem__, default=Light.GREEN)
    return SliceFlag(light, tuple(remark for _, remark in findings))


def blur_strength(sharpness: Values, resolution_px: Values) -> Values:
    """Return (n,) by which fraction a slice is less sharp than usual.

    The fraction is halved where the resolution is not worse than usual: large smooth objects reduce
    the sharpness alone.
    """
    fall = _relative_fall(sharpness, median_around(sharpness), sharpness)
    is_worse = resolution_px > WORSE_RESOLUTION * median_around(resolution_px)
    return np.where(is_worse, fall, fall / 2)


def unlike_neighbors(similarity: Values, second_similarity: Values) -> NDArray[np.bool_]:
    """Return (n,) whether a slice is unlike both neighbors, while these are similar.

    Args:
        similarity: (n,) of each slice to the one before.
        second_similarity: (n,) of each slice to the second one before.
    """
    usual = median_around(similarity)
    usual_second = median_around(second_similarity)
    to_next = np.append(similarity[1:], np.nan)
    across = np.append(second_similarity[1:], np.nan)
    with np.errstate(invalid="ignore"):
        is_unlike_both = (similarity < UNLIKE_FRACTION * usual) & (
            to_next < UNLIKE_FRACTION * usual
        )
        are_neighbors_similar = across >= UNLIKE_FRACTION * usual_second
    return np.asarray(is_unlike_both & are_neighbors_similar)


def stack_light(flags: Sequence[SliceFlag]) -> Light:
    """Return red or amber where many slices are, and amber where any slice is not green."""
    for light in (Light.RED, Light.AMBER):
        count = sum(SEVERITY[flag.light] >= SEVERITY[light] for flag in flags)
        if count > MANY_SLICES * len(flags):
            return light
    if all(flag.light is Light.GREEN for flag in flags):
        return Light.GREEN
    return Light.AMBER


def median_around(values: Values) -> Values:
    """Return (n,) running medians over the slices around each slice."""
    return running_median(values[:, None], WINDOW)[:, 0]
