"""Tests between groups of images, and correlations between metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sparsem.quality.image_metrics import METRICS, MeasuredImage
from sparsem.quality.settings import GroupStep
from sparsem.quality.statistics import (
    Correlation,
    Difference,
    group_difference,
    holm_correction,
    pearson_correlation,
    spearman_correlation,
)

FACTORS = ("protocol", "tissue", "microscope")
SIGNIFICANCE = 0.05  # a difference is significant below this p, corrected for all tests

Values = NDArray[np.float64]
GroupImages = Mapping[str, Sequence[MeasuredImage]]
# Metric -> group -> (n,) measurements.
GroupValues = Mapping[str, Mapping[str, Values]]


@dataclass(frozen=True)
class GroupTest:
    """The test of two groups that differ in one factor, by one metric.

    Attributes:
        metric: a key of ``METRICS``.
        groups: names of both.
        difference: between both.
        corrected: its p, corrected for all tests of the study.
    """

    metric: str
    groups: tuple[str, str]
    difference: Difference
    corrected: float


@dataclass(frozen=True)
class MetricCorrelation:
    """The correlation of two metrics over all measurements.

    Attributes:
        metrics: keys of ``METRICS``.
        pearson: linear correlation.
        spearman: rank correlation.
        corrected: p of both, corrected for all pairs of metrics of the study.
    """

    metrics: tuple[str, str]
    pearson: Correlation
    spearman: Correlation
    corrected: tuple[float, float]


def measurements_by_group(groups: GroupImages, by: str) -> GroupValues:
    """Return the measurements of all metrics that were measured in some image.

    Args:
        groups: name -> its images.
        by: the unit of measurement, ``image`` or ``tile``.

    Returns:
        Metric -> group -> (n,) measurements.
    """
    values = {}
    for metric in METRICS:
        by_group = {name: group_values(images, metric, by) for name, images in groups.items()}
        if any(np.isfinite(measurements).any() for measurements in by_group.values()):
            values[metric] = by_group
    return values


def group_values(images: Sequence[MeasuredImage], metric: str, by: str) -> Values:
    """Return the measurements (n,) of a metric in the images of a group."""
    if by == "image":
        return np.array([image.values[metric] for image in images], np.float64)
    tiles = [tile for image in images for tile in image.tiles]
    return np.array([tile.values[metric] for tile in tiles], np.float64)


def run_tests(values: GroupValues, groups: Sequence[GroupStep]) -> tuple[GroupTest, ...]:
    """Test every metric in all pairs of groups that differ in one factor."""
    pairs = _comparable_pairs(groups)
    tested = []
    for metric, by_group in values.items():
        for pair in pairs:
            difference = group_difference(by_group[pair[0]], by_group[pair[1]])
            tested.append((metric, pair, difference))
    corrected = holm_correction([difference.p for _, _, difference in tested])
    tests = []
    for (metric, pair, difference), p in zip(tested, corrected, strict=True):
        tests.append(GroupTest(metric, pair, difference, p))
    return tuple(tests)


def _comparable_pairs(groups: Sequence[GroupStep]) -> list[tuple[str, str]]:
    """Return the names of all pairs of groups that differ in one factor."""
    pairs = []
    for first, second in combinations(groups, 2):
        different_factors = sum(
            getattr(first, factor) != getattr(second, factor) for factor in FACTORS
        )
        if different_factors == 1:
            pairs.append((first.name, second.name))
    return pairs


def correlate_metrics(values: GroupValues) -> tuple[MetricCorrelation, ...]:
    """Correlate all pairs of metrics over all measurements."""
    pooled = {
        metric: np.concatenate(list(by_group.values())) for metric, by_group in values.items()
    }
    pairs = list(combinations(pooled, 2))
    linear = [pearson_correlation(pooled[first], pooled[second]) for first, second in pairs]
    ranked = [spearman_correlation(pooled[first], pooled[second]) for first, second in pairs]
    linear_p = holm_correction([correlation.p for correlation in linear])
    ranked_p = holm_correction([correlation.p for correlation in ranked])
    correlations = []
    for index, pair in enumerate(pairs):
        corrected = (linear_p[index], ranked_p[index])
        correlations.append(MetricCorrelation(pair, linear[index], ranked[index], corrected))
    return tuple(correlations)
