"""The stage ``skeletons``: center lines of the objects of a structure, and their lengths and radii.

Every object is thinned in a crop of its own, so no result depends on the blocks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.labels.objects import numbered_objects
from sparsem.measure.crops import crop_groups, crops_around
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.skeleton import (
    COUNT_COLUMNS,
    SKELETON_COLUMNS,
    Skeleton,
    skeleton_numbers,
    skeleton_of,
)
from sparsem.measure.joined_columns import renew_statistics
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.moments_pass import sum_voxels
from sparsem.measure.settings import MeasureSettings, SkeletonSettings
from sparsem.measure.structures import MeasuredStructure, level_in_budget
from sparsem.measure.tables import with_nulls
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, Stage

BYTES_PER_VOXEL = 60  # of a crop: distances, cubes, lines

Floats = NDArray[np.float64]

OBJECT_COLUMNS = ("object", *SKELETON_COLUMNS)
LINE_COLUMNS = ("object", "branch", "z_um", "y_um", "x_um", "radius_um")


@dataclass(frozen=True)
class SkeletonsResult(StageResult):
    """The result of ``skeletons``.

    Attributes:
        objects: number of objects.
        length_um: length of all skeletons.
        level: level of the pyramid at which objects were thinned.
    """

    objects: int
    length_um: float
    level: int


class SkeletonLink(NamedTuple):
    """Objects that are read in one crop."""

    labels: Volume
    level: int
    moments: Moments


def skeletons(
    sample: Sample,
    name: str,
    settings: SkeletonSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> SkeletonsResult:
    """Measure the skeleton of every object of a structure.

    Writes ``tables/skeletons_NAME``, one row for each object: the length of its center lines, the
    number of branches, ends and branch points, the tortuosity (length of open branches over the
    distance of their ends), and the smallest and the mean radius along the lines. Writes
    ``tables/skeleton_lines_NAME``, one row for each point of a line. See ``features.skeleton``.

    Args:
        sample: sample with labels of the structure; a mask needs numbered objects, see ``objects``.
        name: name of the structure.
        settings: the largest object that is thinned at full resolution.
        on: how the work is distributed.
        changes: fields of the settings, by name.

    Raises:
        SampleError: there are no such labels or objects, or they are those of separate images.
        ResumeError: there are skeletons of other labels or settings, and ``on.overwrite`` is not
            set.
    """
    settings = resolve_settings(SkeletonSettings, settings, changes)
    labels = numbered_objects(sample, name)
    if labels.sizes:
        raise SampleError(
            f"{sample.path.name} holds separate images, which have no depth; skeletons are "
            "computed in a stack."
        )
    needs = Needs(
        int(settings.max_mvoxels * 1e6) * BYTES_PER_VOXEL,
        smaller="use a smaller --max-mvoxels, or fewer --workers",
    )
    inputs = {"labels": labels.fingerprint}
    with Stage(sample, f"skeletons-{name}", settings, inputs, [], on, needs) as stage:
        if not stage.finished:
            rows, lines, level = _measure_all(stage, name, labels, settings)
            stage.forget()
            _write_tables(sample, name, rows, lines, level)
    renew_statistics(sample)
    return _summary(sample, name)


def _measure_all(
    stage: Stage, name: str, labels: Volume, settings: SkeletonSettings
) -> tuple[Floats, Floats, int]:
    """Return the rows of both tables, ascending by object, and the level of the pyramid."""
    budget = MeasureSettings(max_mvoxels=settings.max_mvoxels)
    structure = sum_voxels(stage, {name: labels}, budget)[name]
    level = level_in_budget(structure, budget)
    links = _links(structure, level)
    results = run_links(stage, "skeletons", thin_objects, links)
    rows = _in_order(results, links, "rows", len(OBJECT_COLUMNS))
    return rows, _in_order(results, links, "lines", len(LINE_COLUMNS)), level


def _links(structure: MeasuredStructure, level: int) -> dict[str, SkeletonLink]:
    """Return the groups of objects that are read together, by name."""
    moments, volume = structure.moments, structure.volume
    groups = crop_groups(volume, level, moments.low, moments.high)
    return {
        f"skeletons.{number}": SkeletonLink(volume, level, moments.select(group))
        for number, group in enumerate(groups)
    }


def _in_order(
    results: LinkResults, links: dict[str, SkeletonLink], name: str, columns: int
) -> Floats:
    """Return the rows of all links, ascending by object."""
    rows = np.concatenate([np.empty((0, columns)), *(results.array(link, name) for link in links)])
    return np.asarray(rows[np.argsort(rows[:, 0], kind="stable")])


def thin_objects(link: SkeletonLink, _previous: None) -> Arrays:
    """Measure the skeletons of the objects of a link.

    Returns:
        ``rows``, (objects, 8) and ``lines``, (points, 6): the columns of the two tables.
    """
    moments = link.moments
    outer, crops = crops_around(link.labels, link.level, moments.low, moments.high)
    labels = outer.read(link.labels)
    voxel = link.labels.voxel_size_of(link.level).micrometers
    rows = [np.empty((0, len(OBJECT_COLUMNS)))]
    lines = [np.empty((0, len(LINE_COLUMNS)))]
    for number, crop in zip(moments.ids.tolist(), crops, strict=True):
        skeleton = skeleton_of(labels[outer.slices_of(crop)] == number, voxel)
        rows.append(np.append(number, skeleton_numbers(skeleton))[None])
        lines += _lines_of_object(number, skeleton, np.array(crop.low) * voxel)
    return {"rows": np.concatenate(rows), "lines": np.concatenate(lines)}


def _lines_of_object(number: int, skeleton: Skeleton, corner: Floats) -> list[Floats]:
    """Return the points of every branch (n, 6), from the corner of the volume."""
    lines = []
    for branch_number, branch in enumerate(skeleton.branches, 1):
        numbers = np.tile([number, branch_number], (len(branch.points), 1))
        lines.append(np.column_stack([numbers, branch.points + corner, branch.radii]))
    return lines


def _write_tables(sample: Sample, name: str, rows: Floats, lines: Floats, level: int) -> None:
    """Write the table of objects and the table of lines."""
    whole = ("object", "branch", *COUNT_COLUMNS)
    for prefix, names, values in (
        ("skeletons", OBJECT_COLUMNS, rows),
        ("skeleton_lines", LINE_COLUMNS, lines),
    ):
        columns = {}
        for column, numbers in zip(names, values.T, strict=True):
            is_whole = column in whole
            columns[column] = with_nulls(numbers.astype(np.int64) if is_whole else numbers)
        if prefix == "skeletons":
            columns["level"] = np.full(len(rows), level)
        sample.write_table(f"{prefix}_{name}", pa.table(columns))


def _summary(sample: Sample, name: str) -> SkeletonsResult:
    """Return the result from the table that is in the sample."""
    table = sample.read_table(f"skeletons_{name}")
    levels = table["level"].to_pylist()
    return SkeletonsResult(
        sample=sample,
        written=(f"tables/skeletons_{name}", f"tables/skeleton_lines_{name}"),
        objects=table.num_rows,
        length_um=float(table["skeleton_length_um"].to_numpy().sum()),
        level=levels[0] if levels else 0,
    )
