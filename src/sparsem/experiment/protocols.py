"""Experiment that answers which protocol gives the best images.

The images of every group are measured, the groups are compared, and all results are put on one
page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsem.errors import InputError
from sparsem.io.patterns import find_files
from sparsem.quality.compare import ProtocolComparison, compare_groups
from sparsem.quality.comparison_tables import comparison_tables
from sparsem.quality.image_series import ImageSeries, open_images
from sparsem.quality.images import available_weights, measure_series
from sparsem.quality.settings import CompareSettings, GroupStep, ImagesSettings, read_comparison
from sparsem.report.comparison import comparison_page
from sparsem.store.sample import save_table
from sparsem.store.volume import write_atomically
from sparsem.workflow.execution import HERE, Execution


@dataclass(frozen=True)
class ComparedProtocols:
    """Result of a comparison of protocols.

    Attributes:
        comparison: values, tests and correlations of the groups.
        files: the page and the tables.
    """

    comparison: ProtocolComparison
    files: tuple[Path, ...]


def compare_protocols(path: str | Path, on: Execution = HERE) -> ComparedProtocols:
    """Measure and compare the images of a study.

    Writes ``comparison.html`` and tables as CSV into the folder of the study. Files of an earlier
    run are replaced; images that were measured before are not measured again.

    Args:
        path: the study.toml.
        on: how denoising is distributed, and whether progress is shown.

    Raises:
        SettingsError: the file is not a study.
        InputError: images of a group are missing, differ in size, or cannot be measured (see
            ``quality.images``).
    """
    path = Path(path).resolve()
    study = read_comparison(path)
    root = path.parent
    # All images are opened first, so that errors occur now rather than after hours of denoising.
    opened_groups = [_open_group(root, group, study) for group in study.group]
    weights = available_weights(str(root / study.weights) if study.weights else None, on)
    folder = root / study.out
    measurements = {}
    for group, (settings, planes) in zip(study.group, opened_groups, strict=True):
        try:
            measurements[group.name] = measure_series(
                planes, folder / group.folder, settings, weights, on
            )
        except InputError as error:
            raise InputError(f"[[group]] {group.name}: {error}") from None
    comparison = compare_groups(measurements, study)
    return _write_comparison(comparison, study, folder)


def _write_comparison(
    comparison: ProtocolComparison, study: CompareSettings, folder: Path
) -> ComparedProtocols:
    """Write the tables and the page of a comparison into the folder of the study."""
    tables = comparison_tables(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    files = [save_table(table, folder / f"{name}.csv") for name, table in tables.items()]
    page = folder / "comparison.html"
    write_atomically(page, comparison_page(comparison, study, tables, folder).encode())
    return ComparedProtocols(comparison, (page, *files))


def _open_group(
    root: Path, group: GroupStep, study: CompareSettings
) -> tuple[ImagesSettings, list[ImageSeries]]:
    """Open the images of a group; return them with the settings of their measurement."""
    settings = ImagesSettings(
        reference=_find_names(root, group.reference),
        denoise=study.denoise,
        resin=_find_names(root, group.resin),
        box=group.box,
        slices=group.slices,
        tile=study.tile,
    )
    try:
        planes = open_images(_find_names(root, group.images), settings)
        _refuse_unequal_sizes(planes, study)
    except InputError as error:
        raise InputError(f"[[group]] {group.name}: {error}") from None
    return settings, planes


def _find_names(root: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the files of paths and patterns as text."""
    return tuple(str(file) for file in find_files(root, patterns))


def _refuse_unequal_sizes(planes: Sequence[ImageSeries], study: CompareSettings) -> None:
    """Check that the images, or the tiles, that are compared have one size.

    Raises:
        InputError: they have not.
    """
    first = planes[0]
    first_shape = first.source.stack.shape[1:]
    for plane in planes:
        shape = plane.source.stack.shape[1:]
        if study.by == "image" and shape != first_shape:
            raise InputError(
                f"{first.name} has {_size_text(first_shape)} px, {plane.name} {_size_text(shape)}; "
                "images of a group must have one size. Crop them, put them into groups of their "
                'own, or compare tiles of one size with by = "tile".'
            )
        if study.by == "tile" and min(shape) < study.tile:
            raise InputError(
                f"{plane.name} has {_size_text(shape)} px, less than a tile of {study.tile} px; "
                f"set tile = {min(shape)} or less."
            )


def _size_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
