"""Comparison of groups of samples by their measures: tests, effect sizes, and values.

The unit of statistics is a sample, or a cell: objects of one cell, and cells of one sample, are not
independent, so that a test of all objects finds differences that are not there (Lazic 2010).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import InputError, SettingsError
from sparsem.io.patterns import find_files
from sparsem.measure.dictionary import TEXTURE_DESCRIPTIONS, describe_column, feature_columns
from sparsem.measure.joined_columns import joined_table
from sparsem.measure.settings import ComparisonSettings
from sparsem.measure.statistics import cut_columns, cut_objects, medians_of_cells
from sparsem.quality.comparison_notices import notices_on_power
from sparsem.quality.statistics import (
    Difference,
    difference_columns,
    group_difference,
    holm_correction,
)
from sparsem.settings import parse, read_toml
from sparsem.store.sample import Sample, names_of_paths, refuse_repeated_samples, save_table
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

Floats = NDArray[np.float64]
Measure = tuple[str, str]  # structure, and column of its table
Samples = Mapping[tuple[str, str], Sample]  # (group, name of the sample) -> sample

OBJECTS = "objects"  # the number of objects in a sample, next to the columns of its table


class MeasureTest(NamedTuple):
    """The test of two groups by one measure.

    Attributes:
        structure: name of the structure.
        measure: column of its table.
        groups: names of both groups.
        difference: the test.
        corrected: its p, corrected for all tests of the comparison by Holm's method.
    """

    structure: str
    measure: str
    groups: tuple[str, str]
    difference: Difference
    corrected: float


class Value(NamedTuple):
    """The number of one sample or cell.

    Attributes:
        group: name of the group.
        sample: name of the sample.
        structure: name of the structure.
        measure: column of its table.
        value: the number.
    """

    group: str
    sample: str
    structure: str
    measure: str
    value: float


@dataclass(frozen=True)
class ComparedSamples(StageResult):
    """The result of ``compare``.

    Attributes:
        by: the unit of statistics, ``sample`` or ``cell``.
        values: all values that were compared.
        tests: of all measures and pairs of groups.
        notices: sentences that a reader needs to judge the tests.
    """

    by: str = "sample"
    values: tuple[Value, ...] = ()
    tests: tuple[MeasureTest, ...] = ()
    notices: tuple[str, ...] = ()


def compare(path: str | Path, *, on: Execution = HERE) -> ComparedSamples:
    """Compare groups of measured samples, and write ``values.csv`` and ``tests.csv``.

    Every pair of groups is tested in every measure by the rank sum test of Mann and Whitney; the
    effect size is Cliff's delta, and p is corrected for all tests (Holm 1979).

    Args:
        path: a TOML file with the groups, see ``ComparisonSettings``.
        on: ``overwrite`` replaces tables of an earlier comparison.

    Raises:
        SettingsError: the file is not such a comparison.
        InputError: a sample is missing, was not measured or belongs to two groups, no structure is
            in all samples, cells are compared that a sample lacks, or tables exist.
    """
    path = Path(path).resolve()
    settings = _read_settings(path)
    files = tuple(path.parent / settings.out / name for name in ("values.csv", "tests.csv"))
    _refuse_existing(files, on)
    samples = _open_samples(path.parent, settings)
    structures = _common_structures(samples, settings)
    unlike = [name for name in structures if len(_texture_voxels(samples, name)) > 1]
    values = tuple(_values_of_samples(samples, structures, unlike, settings))
    _refuse_unknown_measures(values, settings)
    tests = _run_tests(values, [group.name for group in settings.group])
    notices = (
        *_notices(samples, unlike, settings, tests),
        *_notices_on_missing_values(samples, structures, values),
    )
    written = tuple(map(str, files))
    files[0].parent.mkdir(parents=True, exist_ok=True)
    save_table(_values_table(values), files[0])
    save_table(_tests_table(tests), files[1])
    return ComparedSamples(settings.by, values, tests, notices, written=written)


def _read_settings(path: Path) -> ComparisonSettings:
    settings = parse(ComparisonSettings, read_toml(path), path.name)
    names = [group.name for group in settings.group]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{path.name}: two groups are '{name}'; combine their samples.")
    return settings


def _refuse_existing(files: Sequence[Path], on: Execution) -> None:
    for file in files:
        if file.exists() and not on.overwrite:
            raise InputError(f"{file} exists; use --overwrite to replace it.")


def _open_samples(root: Path, settings: ComparisonSettings) -> Samples:
    """Open all samples, each of which was measured and belongs to one group."""
    paths = {group.name: find_files(root, group.samples) for group in settings.group}
    every_path = [path for of_group in paths.values() for path in of_group]
    refuse_repeated_samples(every_path)
    names = iter(names_of_paths(every_path))
    samples = {}
    for group, of_group in paths.items():
        for path in of_group:
            sample = Sample.open(path)
            if "measured" not in sample.tables:
                raise InputError(f"{path} was not measured; run 'sparsem measure {path}' first.")
            samples[group, next(names)] = sample
    return samples


def _common_structures(samples: Samples, settings: ComparisonSettings) -> list[str]:
    """Return the structures to compare, which every sample has."""
    measured = [
        sample.read_table("measured")["structure"].to_pylist() for sample in samples.values()
    ]
    wanted = settings.structures or tuple(dict.fromkeys(measured[0]))
    common = [name for name in wanted if all(name in names for names in measured)]
    missing = [name for name in settings.structures if name not in common]
    if missing or not common:
        what = f"'{missing[0]}' was" if missing else "no structure was"
        listed = sorted({name for names in measured for name in names})
        raise InputError(
            f"To compare samples, a structure must be measured in each of them, but {what} not "
            f"measured in all {len(samples)}. Measured in some: {', '.join(listed)}."
        )
    return common


def _values_of_samples(
    samples: Samples,
    structures: Sequence[str],
    unlike: Sequence[str],
    settings: ComparisonSettings,
) -> Iterator[Value]:
    """Yield the values of all measures that can be compared.

    The textures of the structures in ``unlike`` were measured with voxels of different sizes.
    """
    for name in structures:
        for (group, sample_name), sample in samples.items():
            for measure, numbers in _numbers_of(sample, name, settings):
                if name not in unlike or measure not in TEXTURE_DESCRIPTIONS:
                    for number in numbers.tolist():
                        yield Value(group, sample_name, name, measure, number)


def _numbers_of(
    sample: Sample, name: str, settings: ComparisonSettings
) -> Iterator[tuple[str, Floats]]:
    """Yield every measure of a structure with the values of the sample, or of its cells."""
    table = joined_table(sample, name)
    columns = table.column_names
    if settings.by == "cell" and "cell" not in columns:
        raise InputError(
            f"{name} of {sample.path} was measured without cells, so cells cannot be compared. "
            "Measure cells, leave this structure out, or use by = 'sample'."
        )
    if settings.by == "sample" and _is_wanted(OBJECTS, settings):
        yield OBJECTS, np.array([table.num_rows], float)
    for column in feature_columns(columns):
        if _is_wanted(column, settings):
            yield column, _numbers_in(table, column, settings)


def _numbers_in(table: pa.Table, column: str, settings: ComparisonSettings) -> Floats:
    """Return the numbers of a column: one of the sample, or one of each cell."""
    numbers = table[column].to_numpy().astype(np.float64)
    is_counted = np.isfinite(numbers)
    if not settings.cut:
        is_counted &= ~cut_objects(cut_columns(table), column, len(numbers))
    known: Floats = numbers[is_counted]
    if settings.by == "sample":
        return np.array([np.median(known)] if len(known) else [], float)
    if "object" in table.column_names:
        return medians_of_cells(known, table["cell"].to_numpy()[is_counted])
    return known  # in the table of cells, each row is one cell


def _is_wanted(measure: str, settings: ComparisonSettings) -> bool:
    return not settings.measures or measure in settings.measures


def _refuse_unknown_measures(values: Sequence[Value], settings: ComparisonSettings) -> None:
    known = {value.measure for value in values}
    for measure in settings.measures:
        if measure not in known:
            raise InputError(
                f"There are no values of '{measure}' to compare. Measures are the columns of "
                "numbers in the tables of 'sparsem measure', such as volume_um3, and 'objects'. "
                "Objects that the border cuts count only with cut = true."
            )


def _texture_voxels(samples: Samples, name: str) -> set[float]:
    """Return the edges of the voxels with which the texture of a structure was measured, nm."""
    edges: set[float] = set()
    for sample in samples.values():
        table = sample.read_table(name)
        if "texture_voxel_nm" in table.column_names:
            edges |= set(table["texture_voxel_nm"].to_pylist())
    return edges


def _run_tests(values: Sequence[Value], groups: Sequence[str]) -> tuple[MeasureTest, ...]:
    """Test every pair of groups in every measure that varies."""
    tested = []
    for measure, of_groups in _numbers_by_group(values).items():
        for first, second in combinations(groups, 2):
            pair = (np.array(of_groups[name], float) for name in (first, second))
            tested.append((measure, (first, second), group_difference(*pair)))
    corrected = holm_correction([difference.p for _, _, difference in tested])
    return tuple(
        MeasureTest(*measure, pair, difference, p)
        for (measure, pair, difference), p in zip(tested, corrected, strict=True)
    )


def _numbers_by_group(values: Sequence[Value]) -> dict[Measure, dict[str, list[float]]]:
    """Return the numbers of every measure by group; none where a group has no value."""
    numbers: dict[Measure, dict[str, list[float]]] = {}
    for value in values:
        of_measure = numbers.setdefault((value.structure, value.measure), defaultdict(list))
        of_measure[value.group].append(value.value)
    return numbers


def _notices(
    samples: Samples,
    unlike: Sequence[str],
    settings: ComparisonSettings,
    tests: Sequence[MeasureTest],
) -> Iterator[str]:
    """Yield sentences that a reader needs to judge the tests."""
    if settings.by == "cell":
        yield (
            "Cells of one sample are not independent: p values are too small. Compare samples for "
            "a test that others can repeat."
        )
    else:
        counts = Counter(group for group, _ in samples)
        for group, count in counts.items():
            if count == 1:
                yield f"'{group}' is one sample: differences from it are not tested."
    for name in unlike:
        yield (
            f"Texture of {name} is not compared: it was measured with voxels of different sizes; "
            "set --texture-nm of 'measure'."
        )
    yield from notices_on_power([test.difference for test in tests])


def _notices_on_missing_values(
    samples: Samples, structures: Sequence[str], values: Sequence[Value]
) -> Iterator[str]:
    """Yield a sentence on every structure of which some samples have no object that counts."""
    with_values = {
        (value.structure, value.group, value.sample) for value in values if value.measure != OBJECTS
    }
    for name in structures:
        without = [sample for group, sample in samples if (name, group, sample) not in with_values]
        if without:
            yield (
                f"{name}: {len(without)} of {len(samples)} samples ({', '.join(without)}) have no "
                "object that counts: the border cuts all of them, or they lie in no cell. With "
                "cut = true, objects that the border cuts count, too."
            )


def _values_table(values: Sequence[Value]) -> pa.Table:
    """Return one row for each value."""
    return pa.table({field: [getattr(value, field) for value in values] for field in Value._fields})


def _tests_table(tests: Sequence[MeasureTest]) -> pa.Table:
    """Return one row for each test."""
    return pa.Table.from_pylist([_test_row(test) for test in tests])


def _test_row(test: MeasureTest) -> dict[str, Any]:
    """Return a test as a row; numbers that could not be computed are empty."""
    description = describe_column(test.measure)
    row = {
        "structure": test.structure,
        "measure": test.measure,
        "unit": description.unit if description else "",
        **difference_columns(test.groups, test.difference, test.corrected),
    }
    return {name: None if value != value else value for name, value in row.items()}
