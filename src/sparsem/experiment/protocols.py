"""A study of protocols: measures the pictures of every group, compares the groups, and puts all of it on one page."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsem.errors import InputError
from sparsem.io.readers.file_names import natural_key
from sparsem.quality.compare import (
    Compared,
    CompareSettings,
    GroupStep,
    compared,
    comparison_tables,
    read_comparison,
)
from sparsem.quality.images import ImagesSettings, Planes, measure_planes, planes_of, weights_of
from sparsem.report.comparison import comparison_page
from sparsem.store.sample import save_table
from sparsem.store.volume import write_atomically
from sparsem.workflow.execution import HERE, Execution


@dataclass(frozen=True)
class Comparison:
    """What a study found, and the files that tell it."""

    found: Compared
    files: tuple[Path, ...]


def compare_protocols(path: str | Path, on: Execution = HERE) -> Comparison:
    """Measure and compare the pictures of a study, and write into its folder ``comparison.html`` and tables as CSV.

    Files of an earlier run are replaced; what was measured before is not measured again.

    Args:
        path: the study.toml.
        on: how denoising is spread, and whether progress is shown.

    Raises:
        SettingsError: the file is not a study.
        InputError: pictures of a group are missing, differ in size, or cannot be measured (see ``quality.pictures``).
    """
    path = Path(path).resolve()
    study, here = read_comparison(path), path.parent
    opened = [
        _opened(here, one, study) for one in study.group
    ]  # what is wrong is found now rather than after hours of denoising
    weights, folder = (
        weights_of(str(here / study.weights) if study.weights else None, on),
        here / study.out,
    )
    groups = {}
    for one, (settings, planes) in zip(study.group, opened, strict=True):
        try:
            groups[one.name] = measure_planes(planes, folder / one.folder, settings, weights, on)
        except InputError as error:
            raise InputError(f"[[group]] {one.name}: {error}") from None
    found = compared(groups, study)
    tables = comparison_tables(found)
    folder.mkdir(parents=True, exist_ok=True)
    files = [save_table(table, folder / f"{name}.csv") for name, table in tables.items()]
    page = folder / "comparison.html"
    write_atomically(page, comparison_page(found, study, tables, folder).encode())
    return Comparison(found, (page, *files))


def _opened(
    here: Path, group: GroupStep, study: CompareSettings
) -> tuple[ImagesSettings, list[Planes]]:
    """The pictures of a group, and how they are measured."""
    settings = ImagesSettings(
        reference=tuple(_files(here, group.reference)),
        denoise=study.denoise,
        resin=tuple(_files(here, group.resin)),
        box=group.box,
        slices=group.slices,
        tile=study.tile,
    )
    try:
        planes = planes_of(_files(here, group.images), settings)
        _refuse_unequal(planes, study)
    except InputError as error:
        raise InputError(f"[[group]] {group.name}: {error}") from None
    return settings, planes


def _files(here: Path, given: Sequence[str]) -> list[str]:
    """Files of paths and patterns, in the order of their numbers within a pattern."""
    found: list[str] = []
    for one in given:
        is_pattern = any(mark in one for mark in "*?[") and not (here / one).exists()
        matches = sorted(glob.glob(one, root_dir=here), key=natural_key) if is_pattern else [one]  # noqa: PTH207  # its folder is none
        if not matches:
            raise InputError(f"No file matches {one} in {here}.")
        found += [str(here / match) for match in matches]
    if missing := [one for one in found if not Path(one).exists()]:
        raise InputError(f"There is no file {missing[0]}.")
    return found


def _refuse_unequal(planes: Sequence[Planes], study: CompareSettings) -> None:
    """Pictures, or tiles, that are compared are of one size."""
    first = planes[0]
    for one in planes:
        shapes = [each.source.stack.shape[1:] for each in (first, one)]
        sizes = [" x ".join(map(str, shape)) for shape in shapes]
        if study.by == "image" and shapes[0] != shapes[1]:
            raise InputError(
                f"{first.name} has {sizes[0]} px, {one.name} {sizes[1]}; pictures of a group are of one size. Crop them, put them into "
                'groups of their own, or compare tiles of one size with by = "tile".'
            )
        if study.by == "tile" and min(shapes[1]) < study.tile:
            raise InputError(
                f"{one.name} has {sizes[1]} px, less than a tile; tiles are of one size: set tile = {min(shapes[1])} or less."
            )
