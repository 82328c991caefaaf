"""Counts and sizes of organelles, sample by sample, beside what is known of the samples: subtype, tissue, grade."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparsem.boxes.geometry import box_sizes
from sparsem.boxes.table_files import column_separator, read_text
from sparsem.boxes.tables import StoredBoxes, detected_box_structures, read_detected_boxes
from sparsem.errors import InputError, SampleError
from sparsem.settings import Settings, resolve_settings
from sparsem.store.sample import Sample

KEY = "sample"  # column of a table of metadata that names the samples


class CountSettings(Settings):
    """What is counted, and what is known of the samples."""

    structure: tuple[str, ...] = Field(
        (), description="what to count; repeat it; all that was found if not given"
    )
    metadata: str | None = Field(
        None, description="a .csv with a column 'sample' and others, such as subtype, tissue, grade"
    )


def read_metadata(path: str | Path) -> dict[str, dict[str, str]]:
    """What a CSV says of each sample, by its name without ending.

    Raises:
        InputError: it cannot be read, has no column ``sample`` or one that is counted, or names a sample twice.
    """
    text = read_text(Path(path))
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=column_separator(text)))
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be read as a table of samples ({error}); expected a .csv with a column '{KEY}'."
        ) from None
    if not rows or KEY not in rows[0]:
        raise InputError(
            f"{path} has no column '{KEY}'; expected a row a sample, such as sample,subtype,tissue,grade."
        )
    found: dict[str, dict[str, str]] = {}
    for line, row in enumerate(rows, 2):
        name = (row.pop(KEY) or "").removesuffix(".zarr")
        if not name or name in found or None in row:
            what = (
                "no sample"
                if not name
                else f"'{name}' a second time"
                if name in found
                else "more values than the header"
            )
            raise InputError(f"{path} has {what} in line {line}; expected a row a sample.")
        found[name] = {key: (value or "") for key, value in row.items()}
    return found


def count_boxes(
    samples: Sequence[Sample], settings: CountSettings | None = None, **changes: Any
) -> pa.Table:
    """A row a sample and structure: pictures, objects, objects a picture and a square millimeter, and their sizes in micrometers.

    Raises:
        SampleError: a sample has no boxes.
        InputError: the metadata cannot be read, or does not speak of a sample.
    """
    settings = resolve_settings(CountSettings, settings, changes)
    known = read_metadata(settings.metadata) if settings.metadata else {}
    rows: list[dict[str, Any]] = []
    for sample in samples:
        names = settings.structure or tuple(detected_box_structures(sample))
        if not names:
            raise SampleError(
                f"{sample.path.name} has no boxes; find some with 'sparsem detect predict {sample.path.name} MODEL'."
            )
        if known and sample.name not in known:
            raise InputError(
                f"{settings.metadata} says nothing of {sample.name}; it knows {', '.join(known)[:200]}."
            )
        of_it = {"sample": sample.name, **known.get(sample.name, {})}
        for name in names:
            counted = _counted(sample, name, read_detected_boxes(sample, name))
            twice = sorted(of_it.keys() & counted.keys())
            if twice:
                raise InputError(
                    f"{settings.metadata} has a column '{twice[0]}', as the counts have; give it another name."
                )
            rows.append({**of_it, **counted})
    return pa.Table.from_pylist(rows)


def _counted(sample: Sample, name: str, kept: StoredBoxes) -> Mapping[str, Any]:
    image, boxes = sample.image(kept.image), kept.counted()
    pixel = image.voxel_size
    extent = box_sizes(boxes.corners).astype(np.float64) * [pixel.x / 1000, pixel.y / 1000]
    area = sum(math.prod(image.size_of(z)) for z in kept.pictures) * pixel.x * pixel.y * 1e-12
    diameter = np.sqrt(extent.prod(axis=1))
    pictures = np.bincount(boxes.z, minlength=image.shape[0])[list(kept.pictures)]
    quartiles = np.percentile(diameter, (25, 50, 75)) if len(diameter) else np.full(3, np.nan)
    return {
        "structure": name,
        "pictures": len(kept.pictures),
        "objects": len(boxes),
        "objects_per_picture": float(pictures.mean()) if len(pictures) else None,
        "objects_per_picture_sd": float(pictures.std(ddof=1)) if len(pictures) > 1 else None,
        "objects_per_mm2": len(boxes) / area if area else None,
        **{
            f"diameter_um_{part}": float(one)
            for part, one in zip(("q25", "median", "q75"), quartiles, strict=True)
        },
        "width_um_mean": float(extent[:, 0].mean()) if len(extent) else None,
        "height_um_mean": float(extent[:, 1].mean()) if len(extent) else None,
        "elongation_mean": float((extent.max(axis=1) / extent.min(axis=1)).mean())
        if len(extent)
        else None,
    }
