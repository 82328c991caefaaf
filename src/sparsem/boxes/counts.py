"""Counts and sizes of objects in boxes, sample by sample, with metadata of the samples.

Metadata are, for instance, the subtype, tissue or grade of each sample.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.boxes.geometry import box_sizes
from sparsem.boxes.settings import CountSettings
from sparsem.boxes.table_files import column_separator, read_text
from sparsem.boxes.tables import StoredBoxes, detected_box_structures, read_detected_boxes
from sparsem.errors import InputError, SampleError
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample, as_samples, sample_names_of
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

SAMPLE_COLUMN = "sample"  # column of a table of metadata that names the samples


def read_metadata(path: str | Path) -> dict[str, dict[str, str]]:
    """Return the columns of a CSV by the name of the sample, without its ending.

    Raises:
        InputError: the file cannot be read, has no column ``sample``, or has a row without a
            sample, with a sample that was named before, or with too many values.
    """
    rows = _rows_of_metadata(path)
    metadata: dict[str, dict[str, str]] = {}
    for line, row in enumerate(rows, 2):
        name = (row.pop(SAMPLE_COLUMN) or "").removesuffix(".zarr")
        fault = ""
        if not name:
            fault = "no sample"
        elif name in metadata:
            fault = f"'{name}' a second time"
        elif None in row:
            fault = "more values than the header"
        if fault:
            raise InputError(
                f"{path} has {fault} in line {line}; expected one row for each sample."
            )
        metadata[name] = {key: (value or "") for key, value in row.items()}
    return metadata


def _rows_of_metadata(path: str | Path) -> list[dict[Any, Any]]:
    """Return the rows of a CSV with a column ``sample``; values beyond the header have key None."""
    text = read_text(Path(path))
    try:
        lines = io.StringIO(text, newline="")
        rows = list(csv.DictReader(lines, delimiter=column_separator(text)))
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be read as a table of samples ({error}); expected a .csv with a column "
            f"'{SAMPLE_COLUMN}'."
        ) from None
    if not rows or SAMPLE_COLUMN not in rows[0]:
        raise InputError(
            f"{path} has no column '{SAMPLE_COLUMN}'; expected one row for each sample, such as "
            "sample,subtype,tissue,grade."
        )
    return rows


@dataclass(frozen=True)
class CountResult(StageResult):
    """The result of ``count_boxes``.

    Attributes:
        counts: one row for each sample and structure.
    """

    counts: pa.Table


def count_boxes(
    sample: Sample | Sequence[Sample],
    settings: CountSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> CountResult:
    """Return a table of the objects in boxes, with a row for each sample and structure.

    Its columns are the metadata of the sample, the number of images, of objects, of objects per
    image and per square millimeter, and the sizes of the objects in µm.

    Raises:
        SampleError: a sample has no boxes.
        InputError: the metadata cannot be read, lack a sample, or have a column of the counts.
    """
    settings = resolve_settings(CountSettings, settings, changes)
    metadata = read_metadata(settings.metadata) if settings.metadata else {}
    rows: list[dict[str, Any]] = []
    samples = as_samples(sample)
    sample_names = sample_names_of(samples)
    for sample, sample_name in zip(samples, sample_names, strict=True):
        structures = _structures_to_count(sample, settings)
        if metadata and sample_name not in metadata:
            raise InputError(
                f"{settings.metadata} has no row for {sample_name}; it has rows for "
                f"{', '.join(metadata)[:200]}."
            )
        sample_columns = {"sample": sample_name, **metadata.get(sample_name, {})}
        for structure in structures:
            counts = _counts_of(sample, structure, read_detected_boxes(sample, structure))
            _refuse_common_columns(sample_columns, counts, settings)
            rows.append({**sample_columns, **counts})
    return CountResult(pa.Table.from_pylist(rows))


def _refuse_common_columns(
    metadata: Mapping[str, str], counts: Mapping[str, Any], settings: CountSettings
) -> None:
    """Raise an InputError if metadata have a column of the counts."""
    common = sorted(metadata.keys() & counts.keys())
    if common:
        raise InputError(
            f"{settings.metadata} has a column '{common[0]}', as the counts have; give it another "
            "name."
        )


def _structures_to_count(sample: Sample, settings: CountSettings) -> tuple[str, ...]:
    """Return the structures of the settings, or all detected ones; refuse a sample without any."""
    structures = settings.structures or tuple(detected_box_structures(sample))
    if not structures:
        raise SampleError(
            f"{sample.path.name} has no boxes; find some with 'sparsem detect predict "
            f"{sample.path.name} MODEL'."
        )
    return structures


def _counts_of(sample: Sample, structure: str, stored: StoredBoxes) -> dict[str, Any]:
    """Return the columns of one sample and structure."""
    image = sample.image(stored.image)
    boxes = stored.counted()
    pixel = image.voxel_size
    area_mm2 = _area_mm2(image, stored.slices)
    per_image = np.bincount(boxes.z, minlength=image.shape[0])[list(stored.slices)]
    size_um = box_sizes(boxes.corners).astype(np.float64) * [pixel.x / 1000, pixel.y / 1000]
    return {
        "structure": structure,
        "images": len(stored.slices),
        "objects": len(boxes),
        **_columns_per_image(per_image),
        "objects_per_mm2": len(boxes) / area_mm2 if area_mm2 else None,
        **_size_columns(size_um),
    }


def _area_mm2(image: Volume, slices: Sequence[int]) -> float:
    """Return the area of some slices, mm²."""
    n_pixels = sum(math.prod(image.size_of(z)) for z in slices)
    return n_pixels * image.voxel_size.x * image.voxel_size.y * 1e-12


def _columns_per_image(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Return mean and standard deviation of the number of objects in an image."""
    return {
        "objects_per_image": float(counts.mean()) if len(counts) else None,
        "objects_per_image_sd": float(counts.std(ddof=1)) if len(counts) > 1 else None,
    }


def _size_columns(size_um: NDArray[np.float64]) -> dict[str, float | None]:
    """Return quartiles of the diameter, and means of width, height and elongation.

    Args:
        size_um: (N, 2) width and height in µm.
    """
    diameter = np.sqrt(size_um.prod(axis=1))
    quartiles = np.full(3, np.nan)
    if len(diameter):
        quartiles = np.percentile(diameter, (25, 50, 75))
    return {
        "diameter_um_q25": float(quartiles[0]),
        "diameter_um_median": float(quartiles[1]),
        "diameter_um_q75": float(quartiles[2]),
        **_mean_columns(size_um),
    }


def _mean_columns(size_um: NDArray[np.float64]) -> dict[str, float | None]:
    """Return means of width, height and elongation; None without any object."""
    if not len(size_um):
        return dict.fromkeys(("width_um_mean", "height_um_mean", "elongation_mean"))
    elongation = size_um.max(axis=1) / size_um.min(axis=1)
    return {
        "width_um_mean": float(size_um[:, 0].mean()),
        "height_um_mean": float(size_um[:, 1].mean()),
        "elongation_mean": float(elongation.mean()),
    }
