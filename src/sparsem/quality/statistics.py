"""What differences and correlations of few numbers are worth: intervals, tests, and their correction for being many.

Numbers are (n,) float64; those that are NaN in either of two are left out of both.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
MOST_EXACT, MOST_WAYS = 10_000, 20_000
LEAST = 4  # pairs: an interval of a correlation has n - 3 in its denominator

Values = NDArray[np.float64]


class Correlation(NamedTuple):
    """Of two measures; NaN where there are fewer than four pairs, or one of the two does not change.

    Attributes:
        n: pairs.
        value: -1..1.
        low: of the 95 % confidence interval.
        high: of the same.
        p: that it is 0 in truth.
    """

    n: int
    value: float
    low: float
    high: float
    p: float


class Difference(NamedTuple):
    """Of two groups.

    Attributes:
        n: numbers of the one and of the other.
        medians: of the one and of the other; NaN of none.
        delta: Cliff's delta, -1..1: how much oftener a number of the second is larger than one of the first than smaller.
        p: that both are the same, by the rank sum test of Mann and Whitney; NaN with fewer than two in a group.
    """

    n: tuple[int, int]
    medians: tuple[float, float]
    delta: float
    p: float


def pearson(one: Values, other: Values) -> Correlation:
    """Linear correlation, with Fisher's interval."""
    one, other = _both(one, other)
    if not _varies(one, other):
        return Correlation(len(one), np.nan, np.nan, np.nan, np.nan)
    found = stats.pearsonr(one, other)
    low, high = found.confidence_interval(CONFIDENCE)
    return Correlation(
        len(one), float(found.statistic), float(low), float(high), float(found.pvalue)
    )


def spearman(one: Values, other: Values) -> Correlation:
    """Rank correlation, with the interval of Bonett and Wright (2000): Fisher's, wider by the factor 1 + rho^2 / 2 of the variance."""
    one, other = _both(one, other)
    if not _varies(one, other):
        return Correlation(len(one), np.nan, np.nan, np.nan, np.nan)
    found = stats.spearmanr(one, other)
    rho = float(found.statistic)
    middle = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15))
    half = stats.norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    return Correlation(
        len(one),
        rho,
        float(np.tanh(middle - half)),
        float(np.tanh(middle + half)),
        float(found.pvalue),
    )


def _both(one: Values, other: Values) -> tuple[Values, Values]:
    known = np.isfinite(one) & np.isfinite(other)
    return one[known], other[known]


def _varies(one: Values, other: Values) -> bool:
    return len(one) >= LEAST and bool(np.ptp(one) > 0 and np.ptp(other) > 0)


def difference(one: Values, other: Values) -> Difference:
    """Two groups beside each other."""
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    medians = tuple(float(np.median(each)) if len(each) else float("nan") for each in (one, other))
    delta, p = float("nan"), float("nan")
    if len(one) and len(other):
        found = stats.mannwhitneyu(one, other, method=_way(one, other))
        delta = float(1 - 2 * found.statistic / (len(one) * len(other)))
        p = float(found.pvalue) if min(len(one), len(other)) >= 2 else float("nan")
    return Difference((len(one), len(other)), (medians[0], medians[1]), delta, p)


def _way(one: Values, other: Values) -> Any:
    """Exact as long as that is quick; with ties by all ways to share the numbers while these can be counted; else by the normal law."""
    together = np.concatenate([one, other])
    if min(len(one), len(other)) < 2:
        return "asymptotic"  # of which only the statistic is used
    if len(np.unique(together)) == len(together):
        return "exact" if len(one) * len(other) <= MOST_EXACT else "asymptotic"
    ways = math.comb(len(together), len(one)) if len(together) <= 60 else MOST_WAYS + 1
    return stats.PermutationMethod(n_resamples=MOST_WAYS) if ways <= MOST_WAYS else "asymptotic"


def least_p(n: tuple[int, int]) -> float:
    """The smallest p that two groups of so many numbers can come to: all of the one are larger than all of the other."""
    return difference(np.arange(n[0], dtype=np.float64), n[0] + np.arange(n[1], dtype=np.float64)).p


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for being many (Holm 1979): with these, one false alarm in all is as likely as p says; NaN stay, and do not count."""
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    out = np.full(len(values), np.nan)
    out[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return [float(one) for one in out]
