"""Protocols, tissues and microscopes compared by the quality of their pictures (thesis, chapter 2): groups, tests, correlations."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import SettingsError
from sparsem.preprocess.denoise import DenoiseMethod
from sparsem.quality.full_reference import REFERENCE
from sparsem.quality.image_metrics import METRICS, Picture, tables
from sparsem.quality.statistics import (
    Correlation,
    Difference,
    difference,
    holm,
    least_p,
    pearson,
    spearman,
)
from sparsem.settings import Settings, SliceNumbers, parse, read_toml

FACTORS = ("protocol", "tissue", "microscope")
SURE = 0.05  # p, corrected for all tests, below which a difference is called one


class GroupStep(Settings):
    """[[group]]: pictures that were made alike. Paths are relative to the file."""

    protocol: str = Field(description="how the tissue was prepared")
    tissue: str = Field("", description="of what")
    microscope: str = Field("", description="with which")
    images: tuple[str, ...] = Field(
        min_length=1, description="files of pictures or stacks, or patterns such as bench/*.tif"
    )
    reference: tuple[str, ...] = Field(
        (), description="what they are compared with, one for each file, or a pattern"
    )
    resin: tuple[str, ...] = Field(
        (), description="masks of resin, one for each file, or a pattern"
    )
    box: tuple[int, int, int, int] | None = Field(
        None, description="rows and columns of resin: top left bottom right"
    )
    slices: SliceNumbers = Field(
        (), description="of stacks, the slices to look at; all if not given"
    )

    @property
    def name(self) -> str:
        """What it is called in figures and tables."""
        return " · ".join(one for one in (self.tissue, self.microscope, self.protocol) if one)

    @property
    def folder(self) -> str:
        """Where what was measured of it is kept, in the study's folder."""
        return re.sub(r"[^\w.-]+", "_", self.name).strip("_.") or "group"


class CompareSettings(Settings):
    """A study of protocols."""

    group: tuple[GroupStep, ...] = Field(
        min_length=1, description="pictures that were made alike; one [[group]] for each"
    )
    title: str = Field("Image quality by protocol", description="title of the page")
    out: str = Field("comparison", description="folder for page, figures and tables")
    denoise: DenoiseMethod | None = Field(
        None, description="compare each picture with itself denoised: nlm, or n2v as in the thesis"
    )
    by: Literal["image", "tile"] = Field(
        "image",
        description="what counts as one measurement; tiles of a picture are not independent",
    )
    tile: int = Field(1024, ge=64, description="edge of the tiles, px")
    weights: str | None = Field(
        None, description="folder with the files of BRISQUE and DISTS; torch's own if not given"
    )


@dataclass(frozen=True)
class Test:
    """Two groups that differ in one thing, by one metric.

    Attributes:
        metric: a key of ``METRICS``.
        groups: names of both.
        difference: what was found.
        corrected: its p, corrected for all tests of the study.
    """

    metric: str
    groups: tuple[str, str]
    difference: Difference
    corrected: float


@dataclass(frozen=True)
class Correlated:
    """Two metrics over all measurements, with p corrected for all pairs of the study."""

    metrics: tuple[str, str]
    pearson: Correlation
    spearman: Correlation
    corrected: tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """What a study found.

    Attributes:
        groups: name -> its pictures.
        values: metric -> group -> (n,) measurements; only metrics that were measured somewhere.
        tests: of all metrics and pairs of groups that differ in one of protocol, tissue and microscope.
        correlations: of all pairs of metrics.
        notices: what a reader should know.
        by: what counts as one measurement, ``picture`` or ``tile``.
    """

    groups: Mapping[str, Sequence[Picture]]
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    tests: tuple[Test, ...]
    correlations: tuple[Correlated, ...]
    notices: tuple[str, ...]
    by: str


def read_comparison(path: str | Path) -> CompareSettings:
    """Read and check a study of protocols.

    Raises:
        SettingsError: it cannot be read, has an unknown key or a value out of range, or two groups are called the same.
    """
    path = Path(path)
    study = parse(CompareSettings, read_toml(path), path.name)
    names = [one.folder.casefold() for one in study.group]
    if twice := [one.name for one in study.group if names.count(one.folder.casefold()) > 1]:
        raise SettingsError(
            f"{path.name}: two groups are '{twice[0]}'; put their pictures into one, or tell them apart by tissue or microscope."
        )
    if study.denoise and any(one.reference for one in study.group):
        raise SettingsError(
            f"{path.name}: pictures are compared with a reference, or with themselves by denoise; give one of them."
        )
    return study


def compared(groups: Mapping[str, Sequence[Picture]], study: CompareSettings) -> Compared:
    """Tests and correlations of what was measured."""
    every = {
        name: {metric: _values(found, metric, study.by) for metric in METRICS}
        for name, found in groups.items()
    }
    known = [
        metric
        for metric in METRICS
        if any(np.isfinite(one[metric]).any() for one in every.values())
    ]
    values = {metric: {name: one[metric] for name, one in every.items()} for metric in known}
    tests = _tests(values, study.group)
    notices = [*_of_numbers(groups, study, tests), *_of_resin(groups), *_unmeasured(values, study)]
    return Compared(groups, values, tests, _correlations(values), tuple(notices), study.by)


def _values(found: Sequence[Picture], metric: str, by: str) -> NDArray[np.float64]:
    if by == "image":
        return np.array([one.values[metric] for one in found], np.float64)
    return np.array([tile.values[metric] for one in found for tile in one.tiles], np.float64)


def _tests(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]], groups: Sequence[GroupStep]
) -> tuple[Test, ...]:
    pairs = [
        (one.name, other.name)
        for one, other in combinations(groups, 2)
        if sum(getattr(one, factor) != getattr(other, factor) for factor in FACTORS) == 1
    ]
    found = [
        (metric, pair, difference(own[pair[0]], own[pair[1]]))
        for metric, own in values.items()
        for pair in pairs
    ]
    corrected = holm([one.p for _, _, one in found])
    return tuple(Test(*one, p) for one, p in zip(found, corrected, strict=True))


def _correlations(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> tuple[Correlated, ...]:
    every = {metric: np.concatenate(list(own.values())) for metric, own in values.items()}
    pairs = list(combinations(every, 2))
    linear, ranked = (
        [way(every[one], every[other]) for one, other in pairs] for way in (pearson, spearman)
    )
    corrected = [holm([one.p for one in way]) for way in (linear, ranked)]
    return tuple(
        Correlated(*each)
        for each in zip(pairs, linear, ranked, zip(*corrected, strict=True), strict=True)
    )


def _of_numbers(
    groups: Mapping[str, Sequence[Picture]], study: CompareSettings, tests: Sequence[Test]
) -> Iterator[str]:
    """What to know before believing a p."""
    for name, found in groups.items():
        count, files = len(_values(found, "noise", study.by)), len({one.source for one in found})
        if count < 2:
            yield f"'{name}' is one {study.by}: it has no spread, and no difference from it is tested."
        elif study.by == "image" and files < count:
            yield (
                f"'{name}' is {count} slices of {files} {'stack' if files == 1 else 'files'}: slices of a stack are not independent, so "
                "that p values and intervals are too good."
            )
    if study.by == "tile":
        yield "Tiles of one picture are not independent: p values and intervals are too good."
    made = [one for one in tests if not math.isnan(one.difference.p)]
    least = min((least_p(n) for n in {one.difference.n for one in made}), default=0.0)
    if least * len(made) > SURE:
        yield (
            f"No difference can be significant here: the smallest p that groups so small can reach is {least:.2g}, and {len(made)} tests "
            "were made."
        )


def _of_resin(groups: Mapping[str, Sequence[Picture]]) -> Iterator[str]:
    kinds = [one.resin for found in groups.values() for one in found]
    if proposed := kinds.count("proposed"):
        yield (
            f"Nobody marked resin in {proposed} of {len(kinds)} pictures: there, noise in resin is that of the most featureless squares, a "
            "proposal; look at the folders named resin."
        )
    doubtful = [one.name for found in groups.values() for one in found if one.is_resin_doubtful]
    if doubtful:
        yield (
            f"What was marked as resin varies more than twice as much as noise does in {len(doubtful)} of {len(kinds)} pictures: is it "
            "resin?"
        )
    if none := kinds.count("none"):
        yield f"Nobody marked resin in {none} of {len(kinds)} pictures, and nothing in them is as featureless as resin."


def _unmeasured(values: Mapping[str, Any], study: CompareSettings) -> Iterator[str]:
    """Metrics that no picture has, and why."""
    compared = study.denoise or any(one.reference for one in study.group)
    absent = [metric for metric in METRICS if metric not in values]
    without = [METRICS[metric].name for metric in absent if metric in REFERENCE]
    if without and not compared:
        yield f"Not measured: {', '.join(without)}; they need a reference, or denoise."
    elif without:
        yield f"Not measured: {', '.join(without)}; the pictures are too small for it."
    learnt = [
        METRICS[metric].name
        for metric in absent
        if metric == "brisque" or (metric == "dists" and compared)
    ]
    if learnt:
        yield f"Not measured: {', '.join(learnt)}; the files that they were learnt with are not at hand (weights)."


def comparison_tables(found: Compared) -> dict[str, pa.Table]:
    """``pictures``, ``tiles``, ``groups``, ``tests`` and ``correlations``."""
    whole, parts = zip(*(tables(one) for one in found.groups.values()), strict=True)
    named = [
        pa.concat_tables(
            [
                one.add_column(0, "group", pa.array([name] * one.num_rows))
                for name, one in zip(found.groups, each, strict=True)
            ]
        )
        for each in (whole, parts)
    ]
    rows = [
        (metric, name, values[np.isfinite(values)])
        for metric, own in found.values.items()
        for name, values in own.items()
    ]
    groups = [_summary(*row) for row in rows]
    tests = [_test_row(one) for one in found.tests]
    correlations = [_correlation_row(one) for one in found.correlations]
    return {
        "pictures": named[0],
        "tiles": named[1],
        **{
            name: pa.Table.from_pylist(each)
            for name, each in (("groups", groups), ("tests", tests), ("correlations", correlations))
            if each
        },
    }


def _summary(metric: str, group: str, values: NDArray[np.float64]) -> dict[str, Any]:
    quartiles = np.percentile(values, (25, 50, 75)) if len(values) else np.full(3, np.nan)
    numbers = {
        "n": len(values),
        "median": quartiles[1],
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[2],
    }
    moments = {
        "mean": values.mean() if len(values) else math.nan,
        "sd": values.std(ddof=1) if len(values) > 1 else math.nan,
    }
    return {"metric": METRICS[metric].name, "group": group, **numbers, **moments}


def _test_row(one: Test) -> dict[str, Any]:
    found = one.difference
    return {
        "metric": METRICS[one.metric].name,
        "group": one.groups[0],
        "other_group": one.groups[1],
        "n": found.n[0],
        "other_n": found.n[1],
        "median": found.medians[0],
        "other_median": found.medians[1],
        "cliffs_delta": found.delta,
        "p": found.p,
        "p_corrected": one.corrected,
    }


def _correlation_row(one: Correlated) -> dict[str, Any]:
    row: dict[str, Any] = {
        "metric": METRICS[one.metrics[0]].name,
        "other_metric": METRICS[one.metrics[1]].name,
        "n": one.pearson.n,
    }
    for name, own, corrected in zip(
        ("pearson", "spearman"), (one.pearson, one.spearman), one.corrected, strict=True
    ):
        row |= {
            name: own.value,
            f"{name}_low": own.low,
            f"{name}_high": own.high,
            f"{name}_p": own.p,
            f"{name}_p_corrected": corrected,
        }
    return row
