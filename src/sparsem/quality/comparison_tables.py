"""Tables of the comparison of protocols."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.quality.compare import ProtocolComparison
from sparsem.quality.comparison_tests import GroupTest, GroupValues, MetricCorrelation
from sparsem.quality.image_metrics import METRICS, quality_tables
from sparsem.quality.statistics import Correlation, difference_columns


def comparison_tables(comparison: ProtocolComparison) -> dict[str, pa.Table]:
    """Return the tables ``images``, ``tiles``, ``groups``, ``tests`` and ``correlations``.

    The last three are missing if they are empty.
    """
    image_tables = []
    tile_tables = []
    for name, images in comparison.groups.items():
        image_table, tile_table = quality_tables(images)
        image_tables.append(_add_group_column(image_table, name))
        tile_tables.append(_add_group_column(tile_table, name))
    tables = {"images": pa.concat_tables(image_tables), "tiles": pa.concat_tables(tile_tables)}
    rows_by_table = {
        "groups": _group_rows(comparison.values),
        "tests": [_test_row(test) for test in comparison.tests],
        "correlations": [_correlation_row(pair) for pair in comparison.correlations],
    }
    for table_name, rows in rows_by_table.items():
        if rows:
            tables[table_name] = pa.Table.from_pylist(rows)
    return tables


def _add_group_column(table: pa.Table, group: str) -> pa.Table:
    """Return a table with the name of the group as its first column."""
    return table.add_column(0, "group", pa.array([group] * table.num_rows))


def _group_rows(values: GroupValues) -> list[Mapping[str, Any]]:
    """Return the summaries of all metrics in all groups."""
    rows = []
    for metric, by_group in values.items():
        for name, measurements in by_group.items():
            known = measurements[np.isfinite(measurements)]
            rows.append(_group_row(metric, name, known))
    return rows


def _group_row(metric: str, group: str, values: NDArray[np.float64]) -> Mapping[str, Any]:
    """Return the summary of a metric in a group; NaN where there are too few values."""
    lower_quartile = median = upper_quartile = mean = deviation = math.nan
    if len(values):
        lower_quartile, median, upper_quartile = np.percentile(values, (25, 50, 75))
        mean = values.mean()
    if len(values) > 1:
        deviation = values.std(ddof=1)
    return {
        "metric": METRICS[metric].name,
        "group": group,
        "n": len(values),
        "median": median,
        "lower_quartile": lower_quartile,
        "upper_quartile": upper_quartile,
        "mean": mean,
        "sd": deviation,
    }


def _test_row(test: GroupTest) -> dict[str, Any]:
    """Return the result of a test."""
    columns = difference_columns(test.groups, test.difference, test.corrected)
    return {"metric": METRICS[test.metric].name, **columns}


def _correlation_row(pair: MetricCorrelation) -> dict[str, Any]:
    """Return both correlations of a pair of metrics."""
    first, second = pair.metrics
    pearson_p, spearman_p = pair.corrected
    return {
        "metric": METRICS[first].name,
        "other_metric": METRICS[second].name,
        "n": pair.pearson.n,
        **_correlation_columns("pearson", pair.pearson, pearson_p),
        **_correlation_columns("spearman", pair.spearman, spearman_p),
    }


def _correlation_columns(
    name: str, correlation: Correlation, corrected_p: float
) -> dict[str, float]:
    """Return the columns of one correlation."""
    return {
        name: correlation.value,
        f"{name}_low": correlation.low,
        f"{name}_high": correlation.high,
        f"{name}_p": correlation.p,
        f"{name}_p_corrected": corrected_p,
    }
