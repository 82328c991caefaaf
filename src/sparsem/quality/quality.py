"""The stage ``quality``: measures of every slice of a stack, and which slices to review."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import MIN_TILE, power_spectrum
from sparsem.image.stripes import stripes_by_direction
from sparsem.quality.flags import WINDOW, Light, SliceFlag, flag_slices, stack_light
from sparsem.quality.fourier_ring import resolution_px, ring_correlation
from sparsem.quality.neighbors import (
    SlicePair,
    SliceSummary,
    charging,
    compare_slices,
    spacing,
    summarize_slice,
)
from sparsem.quality.settings import QualitySettings
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage

REACH = 2  # slices on either side with which a slice is compared
MIN_MEDIAN_SCORE = 3.0  # of all slices, from which stripes have a direction
# Score of a single slice from which it has stripes; clean slices of open stacks reach 4.5.
MIN_SINGLE_SCORE = 6.0
LIBRARY_BYTES = 300_000_000

# Measures in the order of the columns of the table.
TABLE_COLUMNS = (
    "brightness",
    "contrast",
    "noise",
    "snr_db",
    "sharpness",
    "stripes",
    "charging",
    "saturated",
    "similarity",
    "spacing",
)
STRIPE_KEYS = ("stripe_variance", "stripe_score")

Floats = NDArray[np.float64]
Measures = dict[str, float | Floats]


@dataclass(frozen=True)
class Quality(StageResult):
    """The quality of a stack.

    Attributes:
        image: name of the image that was measured.
        columns: (n,) of every measure.
        flags: of every slice.
        light: of the stack.
        stripes_degrees: direction along which stripes run, 0 along x and -90 along y; NaN without
            stripes.
    """

    image: str
    columns: dict[str, Floats]
    flags: tuple[SliceFlag, ...]
    light: Light
    stripes_degrees: float

    def slices_to_review(self) -> list[tuple[int, SliceFlag]]:
        """Return number and flag of the slices that are not green, the red ones first."""
        flagged = [(z, flag) for z, flag in enumerate(self.flags) if flag.light is not Light.GREEN]
        return sorted(flagged, key=lambda entry: (entry[1].light is not Light.RED, entry[0]))


def quality(
    sample: Sample, settings: QualitySettings | None = None, *, on: Execution = HERE, **changes: Any
) -> Quality:
    """Measure every slice, compare it with its neighbors, and write ``tables/quality_IMAGE``.

    The table has a row for each slice, with a light and the reasons.

    Args:
        sample: its image is read block by block.
        settings: the image.
        on: how the work is distributed.
        **changes: fields of the settings to replace.

    Raises:
        InputError: slices are smaller than 32 px.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(QualitySettings, settings, changes)
    name = settings.image or "raw"
    image = sample.image(name)
    _check_slice_size(sample, image)
    settings = changed(settings, {"image": name})
    inputs = {"image": image.fingerprint}
    needs = _quality_needs(image)
    with Stage(sample, f"quality-{name}", settings, inputs, [], on, needs) as stage:
        summaries = stage.map(_quality_block, image.blocks(halo=REACH), image)
    rows = [row for summary in summaries for row in summary["slices"]]
    result = _stack_quality(rows, image, name)
    sample.write_table(f"quality_{name}", _quality_table(result, image))
    written = (f"tables/quality_{name}",)
    return replace(result, sample=sample, written=written)


def _check_slice_size(sample: Sample, image: Volume) -> None:
    """Check that slices are large enough to be measured.

    Raises:
        InputError: they are smaller than 32 px.
    """
    _, height, width = image.shape
    if min(height, width) < MIN_TILE:
        raise InputError(
            f"Slices of {sample.path.name} have {height} x {width} px; expected at least "
            f"{MIN_TILE} x {MIN_TILE} px to measure their quality."
        )


def _quality_needs(image: Volume) -> Needs:
    """Return the memory for a block, the slices around it, and a slice that is measured."""
    _, height, width = image.shape
    slice_bytes = height * width * image.dtype.itemsize
    slices_in_memory = image.block_depth + 2 * REACH + 4
    return Needs(slice_bytes * slices_in_memory + LIBRARY_BYTES, smaller="use fewer --workers")


def _quality_block(block: ZBlock, image: Volume) -> BlockResult:
    """Measure the slices of a block."""
    slices = image.read(block.read)
    first = block.read.start
    summaries = [summarize_slice(voxels) for voxels in slices]
    pairs = [compare_slices(summary, following) for summary, following in pairwise(summaries)]
    rows = []
    for z in range(block.start, block.stop):
        measures = _measure_slice(slices[z - first])
        measures |= _compare_with_neighbors(summaries, pairs, z - first)
        rows.append({key: _to_json(value) for key, value in measures.items()})
    return {}, {"slices": rows}


def _to_json(value: float | Floats) -> Any:
    """Return a measure as JSON has it: NaN as null, arrays as lists of six digits."""
    if isinstance(value, np.ndarray):
        return [float(f"{number:.6g}") for number in value]
    return None if np.isnan(value) else float(value)


def _measure_slice(image: NDArray[Any]) -> Measures:
    """Return the measures of one slice by itself."""
    measures = _spectrum_measures(image)
    rings = ring_correlation(image)
    measures["resolution_px"] = math.nan if rings is None else resolution_px(rings)
    return measures | _gray_level_measures(image)


def _spectrum_measures(image: NDArray[Any]) -> Measures:
    """Return signal, noise and stripes of a slice; NaN and zeros where it has no spectrum."""
    spectrum = power_spectrum(image)
    if spectrum is None:
        measures: Measures = dict.fromkeys(("noise", "contrast", "snr_db", "sharpness"), math.nan)
        return measures | {key: np.zeros(180) for key in STRIPE_KEYS}
    strengths = measure_signal_and_noise(spectrum)
    stripes = stripes_by_direction(spectrum)
    return {
        "noise": strengths.noise,
        "contrast": strengths.signal,
        "snr_db": strengths.snr_db,
        "sharpness": strengths.sharpness,
        "stripe_variance": stripes.variance,
        "stripe_score": stripes.score,
    }


def _gray_level_measures(image: NDArray[Any]) -> Measures:
    """Return brightness and saturation of what was imaged; NaN for a black slice."""
    top = np.iinfo(image.dtype).max
    imaged = image[image > 0]
    if not imaged.size:
        return {"brightness": math.nan, "saturated": math.nan}
    return {
        "brightness": float(np.median(imaged)) / top,
        "saturated": np.count_nonzero(image == top) / imaged.size,
    }


def _compare_with_neighbors(
    summaries: Sequence[SliceSummary], pairs: Sequence[SlicePair], position: int
) -> dict[str, float]:
    """Return the measures of a slice compared with those around it; NaN at the ends.

    Args:
        summaries: of the slices of a block and those around it.
        pairs: entry k compares the slices k and k + 1.
        position: of the slice among ``summaries``.
    """
    before = SlicePair(math.nan, math.nan, math.nan)
    if position >= 1:
        before = pairs[position - 1]
    second_similarity = math.nan
    if position >= 2:
        comparison = compare_slices(summaries[position - 2], summaries[position])
        second_similarity = comparison.similarity
    return {
        "similarity": before.similarity,
        "second_similarity": second_similarity,
        "shift_y_px": before.y,
        "shift_x_px": before.x,
        "charging": _measure_charging(summaries, pairs, position),
    }


def _measure_charging(
    summaries: Sequence[SliceSummary], pairs: Sequence[SlicePair], position: int
) -> float:
    """Return the charging of a slice; NaN for the first and the last slice.

    With neighbors on one side only, a change along z would be taken for charging.
    """
    if position in (0, len(summaries) - 1):
        return math.nan
    summary = summaries[position]
    cells_around = []
    for neighbor in range(max(0, position - REACH), min(len(summaries), position + REACH + 1)):
        pairs_between = pairs[min(position, neighbor) : max(position, neighbor)]
        if neighbor != position and _are_in_place(pairs_between, summary.cell_px):
            cells_around.append(summaries[neighbor].cells)
    return charging(summary.cells, cells_around)


def _are_in_place(pairs_between: Sequence[SlicePair], cell_px: int) -> bool:
    """Return whether two slices are shifted by less than a cell.

    Slices between them that are not similar count as not shifted.
    """
    y = np.nansum([pair.y for pair in pairs_between])
    x = np.nansum([pair.x for pair in pairs_between])
    return bool(np.hypot(y, x) < cell_px)


def _stack_quality(rows: list[dict[str, Any]], image: Volume, name: str) -> Quality:
    """Return the quality of a stack from the measures of all its slices."""
    columns = _columns(rows)
    variance, scores = (columns.pop(key) for key in STRIPE_KEYS)
    columns["stripes"], degrees = _measure_stripes(variance, scores)
    columns["spacing"] = spacing(columns["similarity"], columns["second_similarity"], WINDOW)
    _, height, width = image.shape
    columns["shift_fraction"] = np.hypot(
        columns["shift_y_px"] / height, columns["shift_x_px"] / width
    )
    flags = flag_slices(columns)
    return Quality(name, columns, tuple(flags), stack_light(flags), degrees)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Return every measure of all slices; null becomes NaN."""
    columns = {}
    for key in rows[0]:
        columns[key] = np.array([row[key] for row in rows], np.float64)
    return columns


def _measure_stripes(variance: Floats, scores: Floats) -> tuple[Floats, float]:
    """Return the strength of stripes in every slice, and their direction.

    Stripes in most slices show in the median, and are then measured in all slices; otherwise only
    slices count in which stripes are clear on their own.

    Args:
        variance: (n, 180) of stripes along each direction.
        scores: (n, 180) number of standard deviations by which they stand out.

    Returns:
        (n,) standard deviations, and degrees; zeros and NaN without stripes.
    """
    median_scores = np.median(scores, axis=0)
    if median_scores.max() >= MIN_MEDIAN_SCORE:
        direction = int(median_scores.argmax())
        return np.sqrt(variance[:, direction]), direction - 90.0
    is_clear = scores.max(axis=1) >= MIN_SINGLE_SCORE
    if not is_clear.any():
        return np.zeros(len(scores)), math.nan
    direction = int(scores[is_clear].sum(axis=0).argmax())
    near_directions = [(direction + turn) % 180 for turn in (-1, 0, 1)]
    is_striped = scores[:, near_directions].max(axis=1) >= MIN_SINGLE_SCORE
    strength = np.where(is_striped, np.sqrt(variance[:, direction]), 0.0)
    return strength, direction - 90.0


def _quality_table(result: Quality, image: Volume) -> pa.Table:
    """Return a row for each slice; strengths are fractions of the range of gray levels."""
    measures, pixel = result.columns, image.voxel_size
    columns: dict[str, Any] = {"z": np.arange(len(result.flags))}
    for name in TABLE_COLUMNS:
        columns[name] = measures[name]
    columns["resolution_nm"] = measures["resolution_px"] * np.sqrt(pixel.y * pixel.x)
    columns["shift_y_nm"] = measures["shift_y_px"] * pixel.y
    columns["shift_x_nm"] = measures["shift_x_px"] * pixel.x
    columns["light"] = [flag.light.value for flag in result.flags]
    columns["remarks"] = ["; ".join(flag.remarks) for flag in result.flags]
    return pa.table(columns)
