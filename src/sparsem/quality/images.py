"""Quality of single images from files: one row for each image and one for each tile.

The slices of a stack count as images. The metrics of an image are stored in the folder of the
results, so that an interrupted run resumes where it stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem import __version__
from sparsem.annotation.label_numbers import integer_labels
from sparsem.errors import InputError
from sparsem.io.gray_levels import GrayMapping, gray_mapping
from sparsem.io.readers.source import Source
from sparsem.preprocess.settings import DenoiseMethod
from sparsem.progress import Meter, print_note
from sparsem.quality.denoised_reference import denoise_series
from sparsem.quality.image_metrics import (
    ImageTile,
    MeasuredImage,
    Weights,
    measure_metrics,
    quality_tables,
)
from sparsem.quality.image_series import ImageSeries, open_images, read_gray, source_identity
from sparsem.quality.learned_metrics import find_weight_files
from sparsem.quality.resin import (
    Box,
    Resin,
    mask_from_boxes,
    mask_from_polygon,
    propose_resin,
    resin_overlay,
)
from sparsem.quality.settings import ImagesSettings
from sparsem.settings import resolve_settings
from sparsem.store.sample import save_table
from sparsem.store.volume import write_atomically
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import fingerprint_of


@dataclass(frozen=True)
class ImageQualityResult(StageResult):
    """The result of ``measure_image_quality``.

    Attributes:
        images: the measured images.
        files: the tables of images and of tiles, CSV.
    """

    images: tuple[MeasuredImage, ...]
    files: tuple[Path, Path]


def measure_image_quality(
    sources: Sequence[str | Path],
    folder: str | Path,
    settings: ImagesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ImageQualityResult:
    """Measure images, one after the other, and write the tables of their metrics.

    Only one image, its reference and its mask are in memory at a time.

    Args:
        sources: files of images or stacks, folders, or patterns.
        folder: in which the metrics are stored, with a rendering of the resin of each image, and
            denoised images if these are computed.
        settings: references, resin, tiles, weights.
        on: how denoising is distributed; ``quiet`` shows no progress.
        **changes: fields of the settings to replace.

    Raises:
        InputError: a file cannot be opened, is not a gray image, is constant or too small, holds
            NaN, or does not fit its reference or mask.
    """
    settings = resolve_settings(ImagesSettings, settings, changes)
    series = open_images(sources, settings)
    weights = available_weights(settings.weights, on)
    images = measure_series(series, Path(folder), settings, weights, on)
    tables = write_quality_tables(images, folder)
    return ImageQualityResult(tuple(images), tables, written=tuple(map(str, tables)))


def available_weights(folder: str | None, on: Execution) -> Weights:
    """Return the files of weights of trained metrics; missing ones are reported.

    Args:
        folder: in which they are searched; None for torch's own.
        on: ``quiet`` prints nothing.
    """
    weight_files = find_weight_files(Path(folder) if folder else None)
    for sentence in weight_files.missing:
        print_note(sentence, on.quiet)
    return weight_files.files


def measure_series(
    all_series: Sequence[ImageSeries],
    folder: Path,
    settings: ImagesSettings,
    weights: Weights,
    on: Execution,
) -> list[MeasuredImage]:
    """Measure images that are open, see ``measure_image_quality``."""
    dependencies = [_dependencies(series, settings, weights) for series in all_series]
    if settings.denoise:
        all_series = _denoise_all(all_series, folder, settings.denoise, on)
    measured = []
    n_images = sum(len(series.numbers) for series in all_series)
    with Meter("quality", n_images, quiet=on.quiet) as meter:
        for series, depends_on in zip(all_series, dependencies, strict=True):
            gray = gray_mapping(series.source)
            _print_note_on_range(series, gray, on.quiet)
            for z in series.numbers:
                fingerprint = fingerprint_of({"z": z, **depends_on})
                measured.append(
                    _measure_once(series, z, gray, folder, fingerprint, settings, weights)
                )
                meter.step()
    return measured


def _print_note_on_range(series: ImageSeries, gray: GrayMapping, quiet: bool) -> None:
    """Print that strengths depend on the range of gray levels, where these are mapped."""
    if not gray.unchanged:
        print_note(
            f"{series.name} holds {series.source.stack.dtype}: {gray}. Strengths are "
            "fractions of that range; compare them within this file only.",
            quiet,
        )


def _denoise_all(
    all_series: Sequence[ImageSeries], folder: Path, method: DenoiseMethod, on: Execution
) -> list[ImageSeries]:
    """Return all images with their denoised versions as reference."""
    denoised = []
    for number, series in enumerate(all_series, 1):
        print_note(f"denoising {series.name}, {number} of {len(all_series)}", on.quiet)
        path = folder / "denoised" / f"{series.name}.zarr"
        denoised.append(denoise_series(series, path, method, on))
    return denoised


def _dependencies(
    series: ImageSeries, settings: ImagesSettings, weights: Weights
) -> dict[str, Any]:
    """Return everything on which the metrics of a source's images depend."""
    sources = {"own": series.source, "reference": series.reference, "resin": series.mask}
    files = {name: source_identity(source) for name, source in sources.items() if source}
    stamps = {}
    for metric, paths in weights.items():
        stats = [path.stat() for path in paths]
        stamps[metric] = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    # Noise2Void is trained on all images of a source together.
    trained_together = list(series.numbers) if settings.denoise == "n2v" else []
    excluded = {"reference", "resin", "slices", "weights"}
    return {
        "files": files,
        "weights": stamps,
        "version": __version__,
        "together": trained_together,
        **settings.model_dump(mode="json", exclude=excluded),
    }


def _measure_once(
    series: ImageSeries,
    z: int,
    gray: GrayMapping,
    folder: Path,
    fingerprint: str,
    settings: ImagesSettings,
    weights: Weights,
) -> MeasuredImage:
    """Return the metrics of an image, from an earlier run if nothing changed since.

    Raises:
        InputError: the image cannot be measured.
    """
    title = series.title(z)
    metrics_file = folder / "measured" / f"{title}.json"
    rendering = folder / "resin" / f"{title}.png"
    if metrics_file.exists() and rendering.exists():
        stored = json.loads(metrics_file.read_text(encoding="utf-8"))
        if stored["fingerprint"] == fingerprint:
            return _restore_image(stored["image"])
    try:
        measured, colors = _measure(series, z, gray, settings, weights)
    except InputError as error:
        raise InputError(f"{title}: {error}") from None
    _write_file(rendering, bytes(cv2.imencode(".png", colors[..., ::-1])[1]))
    record = {"fingerprint": fingerprint, "image": asdict(measured)}
    _write_file(metrics_file, json.dumps(record).encode())
    return measured


def _measure(
    series: ImageSeries, z: int, gray: GrayMapping, settings: ImagesSettings, weights: Weights
) -> tuple[MeasuredImage, NDArray[np.uint8]]:
    """Return the metrics of an image, and a rendering (y, x, 3) of its resin.

    Raises:
        InputError: the image cannot be measured.
    """
    position = series.position(z)
    image = read_gray(series.source, position, gray)
    reference = read_gray(series.reference, position, gray) if series.reference else None
    resin = _resin_of(image, series.mask, z, settings)
    values, tiles = measure_metrics(image, reference, resin, weights, settings.tile)
    measured = MeasuredImage(
        name=series.title(z),
        source=series.file,
        shape=(image.shape[0], image.shape[1]),
        values=values,
        tiles=tuple(tiles),
        resin_marked=not resin.is_proposal,
    )
    return measured, resin_overlay(image, resin)


def _write_file(path: Path, content: bytes) -> None:
    """Write a file, in a new folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _restore_image(stored: dict[str, Any]) -> MeasuredImage:
    """Return an image from its record."""
    tiles = [
        ImageTile(tile["top"], tile["left"], tuple(tile["edge"]), tile["values"])
        for tile in stored["tiles"]
    ]
    return MeasuredImage(
        name=stored["name"],
        source=stored["source"],
        shape=tuple(stored["shape"]),
        values=stored["values"],
        tiles=tuple(tiles),
        resin_marked=stored["resin_marked"],
    )


def _resin_of(image: NDArray[Any], mask: Source | None, z: int, settings: ImagesSettings) -> Resin:
    """Return the areas that are marked as resin, or else the most featureless squares."""
    shape = (image.shape[0], image.shape[1])
    if mask is not None:
        labels = integer_labels(np.asarray(mask.stack[z : z + 1])[0], f"the mask {mask.title}")
        return Resin((labels > 0,), is_proposal=False)
    if settings.box:
        return Resin((mask_from_boxes([Box(*settings.box)], shape),), is_proposal=False)
    if settings.polygon:
        y, x = settings.polygon[::2], settings.polygon[1::2]
        corners = list(zip(y, x, strict=True))
        return Resin((mask_from_polygon(corners, shape),), is_proposal=False)
    return propose_resin(image)


def write_quality_tables(images: Sequence[MeasuredImage], folder: str | Path) -> tuple[Path, Path]:
    """Write ``images.csv`` and ``tiles.csv`` (see ``quality_tables``), and return their paths."""
    image_table, tile_table = quality_tables(images)
    return (
        save_table(image_table, Path(folder) / "images.csv"),
        save_table(tile_table, Path(folder) / "tiles.csv"),
    )
