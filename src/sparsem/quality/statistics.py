"""Correlations of metrics and differences between groups: intervals, tests, multiple testing.

Values are (n,) float64; pairs in which either value is NaN are left out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
MAX_EXACT_PAIRS = 10_000  # pairs of values for which the exact rank sum test is fast
MAX_PERMUTATIONS = 20_000
MAX_COUNTED_VALUES = 60  # of more values the permutations are not counted: there are too many
MIN_PAIRS = 4  # an interval of a correlation has n - 3 in its denominator
MIN_GROUP = 2  # values; a single value has no spread

Values = NDArray[np.float64]


class Correlation(NamedTuple):
    """The correlation of two measures.

    It is NaN where there are fewer than four pairs, or one of the measures does not change.

    Attributes:
        n: number of pairs.
        value: -1..1.
        low: lower end of the 95 % confidence interval.
        high: upper end of the interval.
        p: probability of such a value if both are uncorrelated.
    """

    n: int
    value: float
    low: float
    high: float
    p: float


class Difference(NamedTuple):
    """The difference between two groups.

    Attributes:
        n: number of values in each group.
        medians: of each group; NaN for an empty group.
        delta: Cliff's delta, -1..1: how much more often a value of the second group is larger than
            one of the first group than it is smaller.
        p: probability of such a difference if both groups are equal, by the rank sum test of Mann
            and Whitney; NaN with fewer than two values in a group.
    """

    n: tuple[int, int]
    medians: tuple[float, float]
    delta: float
    p: float


def pearson_correlation(first: Values, second: Values) -> Correlation:
    """Return the linear correlation, with Fisher's interval."""
    first, second = _known_pairs(first, second)
    if not _can_correlate(first, second):
        return Correlation(len(first), np.nan, np.nan, np.nan, np.nan)
    result = stats.pearsonr(first, second)
    low, high = result.confidence_interval(CONFIDENCE)
    return Correlation(
        n=len(first),
        value=float(result.statistic),
        low=float(low),
        high=float(high),
        p=float(result.pvalue),
    )


def spearman_correlation(first: Values, second: Values) -> Correlation:
    """Return the rank correlation, with the interval of Bonett and Wright (2000).

    The interval is Fisher's with a variance that is larger by the factor 1 + rho^2 / 2.
    """
    first, second = _known_pairs(first, second)
    if not _can_correlate(first, second):
        return Correlation(len(first), np.nan, np.nan, np.nan, np.nan)
    result = stats.spearmanr(first, second)
    rho = float(result.statistic)
    low, high = _bonett_wright_interval(rho, len(first))
    return Correlation(n=len(first), value=rho, low=low, high=high, p=float(result.pvalue))


def _bonett_wright_interval(rho: float, n: int) -> tuple[float, float]:
    """Return the confidence interval of a rank correlation of ``n`` pairs."""
    center = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15))
    standard_error = np.sqrt((1 + rho**2 / 2) / (n - 3))
    half_width = stats.norm.ppf(0.5 + CONFIDENCE / 2) * standard_error
    return float(np.tanh(center - half_width)), float(np.tanh(center + half_width))


def _known_pairs(first: Values, second: Values) -> tuple[Values, Values]:
    """Return the pairs of which both values are known."""
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]


def _can_correlate(first: Values, second: Values) -> bool:
    """Return whether there are enough pairs, and both measures change."""
    return len(first) >= MIN_PAIRS and bool(np.ptp(first) > 0 and np.ptp(second) > 0)


def group_difference(first: Values, second: Values) -> Difference:
    """Return the difference between two groups."""
    first = first[np.isfinite(first)]
    second = second[np.isfinite(second)]
    delta = p = float("nan")
    if len(first) and len(second):
        result = stats.mannwhitneyu(first, second, method=_test_method(first, second))
        delta = float(1 - 2 * result.statistic / (len(first) * len(second)))
        if min(len(first), len(second)) >= MIN_GROUP:
            p = float(result.pvalue)
    return Difference(
        n=(len(first), len(second)), medians=(_median(first), _median(second)), delta=delta, p=p
    )


def difference_columns(
    groups: tuple[str, str], difference: Difference, corrected: float
) -> dict[str, Any]:
    """Return the difference between two groups as the columns of a table."""
    return {
        "group": groups[0],
        "other_group": groups[1],
        "n": difference.n[0],
        "other_n": difference.n[1],
        "median": difference.medians[0],
        "other_median": difference.medians[1],
        "cliffs_delta": difference.delta,
        "p": difference.p,
        "p_corrected": corrected,
    }


def _median(values: Values) -> float:
    """Return the median; NaN for no values."""
    return float(np.median(values)) if len(values) else float("nan")


def _test_method(first: Values, second: Values) -> Any:
    """Return how the p value of the rank sum test is computed.

    It is exact as long as that is fast; with ties by all permutations while they can be counted;
    else by the normal approximation.
    """
    pooled = np.concatenate([first, second])
    if min(len(first), len(second)) < MIN_GROUP:
        return "asymptotic"  # only the statistic is used
    has_ties = len(np.unique(pooled)) < len(pooled)
    if not has_ties:
        return "exact" if len(first) * len(second) <= MAX_EXACT_PAIRS else "asymptotic"
    if len(pooled) > MAX_COUNTED_VALUES:
        return "asymptotic"
    if math.comb(len(pooled), len(first)) > MAX_PERMUTATIONS:
        return "asymptotic"
    return stats.PermutationMethod(n_resamples=MAX_PERMUTATIONS)


def smallest_p(n: tuple[int, int]) -> float:
    """Return the smallest p value that two groups of so many values can reach.

    All values of one group are then larger than all of the other.
    """
    first = np.arange(n[0], dtype=np.float64)
    second = n[0] + np.arange(n[1], dtype=np.float64)
    return group_difference(first, second).p


def holm_correction(p: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple testing (Holm 1979).

    The corrected value bounds the probability of a single false positive among all tests. NaN stay
    NaN, and do not count as tests.
    """
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in corrected]
