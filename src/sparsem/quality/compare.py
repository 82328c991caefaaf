"""Comparison of protocols, tissues and microscopes by image quality (thesis, chapter 2).

Images are grouped; groups that differ in one factor are tested, and all metrics are correlated.
"""

from dataclasses import dataclass

from sparsem.quality.comparison_notices import comparison_notices
from sparsem.quality.comparison_tests import (
    GroupImages,
    GroupTest,
    GroupValues,
    MetricCorrelation,
    correlate_metrics,
    measurements_by_group,
    run_tests,
)
from sparsem.quality.settings import CompareSettings


@dataclass(frozen=True)
class ProtocolComparison:
    """The results of a study.

    Attributes:
        groups: name -> its images.
        values: metric -> group -> (n,) measurements; only metrics that were measured in some image.
        tests: of all metrics and pairs of groups that differ in one of protocol, tissue and
            microscope.
        correlations: of all pairs of metrics.
        notices: sentences that a reader needs to judge the results.
        by: the unit of measurement, ``image`` or ``tile``.
    """

    groups: GroupImages
    values: GroupValues
    tests: tuple[GroupTest, ...]
    correlations: tuple[MetricCorrelation, ...]
    notices: tuple[str, ...]
    by: str


def compare_groups(groups: GroupImages, study: CompareSettings) -> ProtocolComparison:
    """Return tests and correlations of the metrics of all groups, with notices.

    Args:
        groups: name -> its images.
        study: its settings.
    """
    values = measurements_by_group(groups, study.by)
    tests = run_tests(values, study.group)
    return ProtocolComparison(
        groups=groups,
        values=values,
        tests=tests,
        correlations=correlate_metrics(values),
        notices=tuple(comparison_notices(groups, values, tests, study)),
        by=study.by,
    )
