"""The stage ``quality``: what every slice of a stack is like, and which ones to look at."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import MIN_TILE, power_spectrum
from sparsem.image.stripes import stripes_by_direction
from sparsem.quality.flags import WINDOW, Light, Verdict, judged, stack_light
from sparsem.quality.fourier_ring import resolution_px, ring_correlation
from sparsem.quality.neighbors import Pair, SliceSummary, charging, compared, sketch_of, spacing
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

REACH = 2  # slices on either side that a slice is held against
CLEAR = 3.0  # median score of all slices from which a direction of stripes is one
CLEAR_ALONE = 6.0  # score of a slice by itself; clean slices of open stacks reach 4.5


class QualitySettings(Settings):
    """Which image is looked at."""

    image: str | None = Field(None, description="image to look at; the raw one if not given")


@dataclass(frozen=True)
class Quality:
    """What was found.

    Attributes:
        image: that was looked at.
        columns: (n,) of every measure.
        verdicts: of every slice.
        light: of the stack.
        stripes_degrees: along which stripes run, 0 along x and -90 along y; NaN without stripes.
    """

    image: str
    columns: dict[str, NDArray[np.float64]]
    verdicts: tuple[Verdict, ...]
    light: Light
    stripes_degrees: float

    def worst(self) -> list[tuple[int, Verdict]]:
        """Slices to look at, the red ones first."""
        found = [(z, one) for z, one in enumerate(self.verdicts) if one.light is not Light.GREEN]
        return sorted(found, key=lambda one: (one[1].light is not Light.RED, one[0]))

    def remarks(self) -> Counter[str]:
        """How many slices each remark was made of."""
        return Counter(remark for one in self.verdicts for remark in one.remarks)


def quality(
    sample: Sample, settings: QualitySettings | None = None, *, on: Execution = HERE, **changes: Any
) -> Quality:
    """Measure every slice, compare it with its neighbors, and write ``tables/quality_IMAGE``: a row a slice, with a light and why.

    Args:
        sample: its image is read block by block.
        settings: which image.
        on: how the work is spread.

    Raises:
        InputError: slices are smaller than 32 px.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(QualitySettings, settings, changes)
    name = settings.image or "raw"
    image = sample.image(name)
    if min(image.shape[1:]) < MIN_TILE:
        size = f"{image.shape[1]} x {image.shape[2]}"
        raise InputError(
            f"Slices of {sample.path.name} have {size} px; quality is told of {MIN_TILE} x {MIN_TILE} px and more."
        )
    plane = image.shape[1] * image.shape[2] * image.dtype.itemsize
    needs = Needs(
        plane * (image.block_depth + 2 * REACH + 4) + 300_000_000, smaller="use fewer --workers"
    )
    settings = changed(settings, {"image": name})
    with Stage(
        sample, f"quality-{name}", settings, {"image": image.fingerprint}, [], on, needs
    ) as stage:
        blocks = stage.map(_quality_block, image.blocks(halo=REACH), image)
    found = _whole([row for block in blocks for row in block["slices"]], image, name)
    sample.write_table(f"quality_{name}", _table(found, image))
    return found


def _quality_block(block: ZBlock, image: Volume) -> BlockResult:
    slices = image.read(block.read)
    sketches = [sketch_of(one) for one in slices]
    first = block.read.start
    pairs = [compared(one, other) for one, other in pairwise(sketches)]
    rows = [
        {**_of_slice(slices[z - first]), **_of_neighbors(sketches, pairs, z - first)}
        for z in range(block.start, block.stop)
    ]
    return {}, {"slices": [{key: _plain(value) for key, value in row.items()} for row in rows]}


def _plain(value: float | NDArray[np.float64]) -> Any:
    """As JSON has it: numbers that are none as null."""
    if isinstance(value, np.ndarray):
        return [float(f"{one:.6g}") for one in value]
    return None if np.isnan(value) else float(value)


def _of_slice(image: NDArray[Any]) -> dict[str, float | NDArray[np.float64]]:
    """Measures of one slice by itself."""
    spectrum, rings = power_spectrum(image), ring_correlation(image)
    top = np.iinfo(image.dtype).max
    seen = image[image > 0]
    found: dict[str, float | NDArray[np.float64]] = {
        name: float("nan") for name in ("noise", "contrast", "snr_db", "sharpness")
    }
    found |= {"stripe_variance": np.zeros(180), "stripe_score": np.zeros(180)}
    if spectrum is not None:
        texture, stripes = measure_signal_and_noise(spectrum), stripes_by_direction(spectrum)
        found |= {
            "noise": texture.noise,
            "contrast": texture.signal,
            "snr_db": texture.snr_db,
            "sharpness": texture.sharpness,
        }
        found |= {"stripe_variance": stripes.variance, "stripe_score": stripes.score}
    found["resolution_px"] = float("nan") if rings is None else resolution_px(rings)
    found["brightness"] = float(np.median(seen)) / top if seen.size else float("nan")
    found["saturated"] = np.count_nonzero(image == top) / seen.size if seen.size else float("nan")
    return found


def _of_neighbors(
    sketches: Sequence[SliceSummary], pairs: Sequence[Pair], own: int
) -> dict[str, float]:
    """Measures of a slice beside those around it, as far as there are any; ``pairs[k]`` is of the slices k and k + 1."""
    before = pairs[own - 1] if own else Pair(math.nan, math.nan, math.nan)
    second = compared(sketches[own - 2], sketches[own]).likeness if own >= 2 else math.nan
    around = [
        other
        for other in range(max(0, own - REACH), min(len(sketches), own + REACH + 1))
        if other != own
    ]
    cells = [
        sketches[other].cells
        for other in around
        if _same_place(pairs[min(own, other) : max(own, other)], sketches[own].cell_px)
    ]
    found = {
        "likeness": before.likeness,
        "second_likeness": second,
        "shift_y_px": before.y,
        "shift_x_px": before.x,
    }
    is_end = own in (
        0,
        len(sketches) - 1,
    )  # what changes along z would be taken for charge where there is one side alone
    return found | {"charging": math.nan if is_end else charging(sketches[own].cells, cells)}


def _same_place(between: Sequence[Pair], cell_px: int) -> bool:
    """Whether slices lie over each other within a cell; of those that are like nothing it is taken for granted."""
    y, x = (np.nansum([getattr(pair, axis) for pair in between]) for axis in ("y", "x"))
    return bool(np.hypot(y, x) < cell_px)


def _whole(rows: list[dict[str, Any]], image: Volume, name: str) -> Quality:
    """What all slices say together."""
    stripes = [
        np.array([row.pop(key) for row in rows], np.float64)
        for key in ("stripe_variance", "stripe_score")
    ]
    columns = {key: np.array([row[key] for row in rows], np.float64) for key in rows[0]}
    columns["stripes"], degrees = _stripes_of(*stripes)
    columns["spacing"] = spacing(columns["likeness"], columns["second_likeness"], WINDOW)
    columns["shift_part"] = np.hypot(
        columns["shift_y_px"] / image.shape[1], columns["shift_x_px"] / image.shape[2]
    )
    verdicts = judged(columns)
    return Quality(name, columns, tuple(verdicts), stack_light(verdicts), degrees)


def _stripes_of(
    variance: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return (n,) how strong stripes are in every slice, and their direction in degrees; zeros and NaN where there are none.

    Stripes in most slices show in the median, and are then measured everywhere; else slices count in which they are clear by themselves.

    Args:
        variance: (n, 180) of stripes along each direction.
        scores: (n, 180) by how many standard deviations they stand out.
    """
    common = np.median(scores, axis=0)
    if common.max() >= CLEAR:
        direction, chosen = int(common.argmax()), np.ones(len(scores), bool)
    else:
        alone = scores.max(axis=1) >= CLEAR_ALONE
        if not alone.any():
            return np.zeros(len(scores)), float("nan")
        direction = int(scores[alone].sum(axis=0).argmax())
        near = [(direction + turn) % 180 for turn in (-1, 0, 1)]
        chosen = scores[:, near].max(axis=1) >= CLEAR_ALONE
    return np.where(chosen, np.sqrt(variance[:, direction]), 0.0), direction - 90.0


def _table(found: Quality, image: Volume) -> pa.Table:
    """One row a slice; strengths are parts of the range of gray levels."""
    own, pixel = found.columns, image.voxel_size
    order = (
        "brightness",
        "contrast",
        "noise",
        "snr_db",
        "sharpness",
        "stripes",
        "charging",
        "saturated",
        "likeness",
        "spacing",
    )
    columns: dict[str, Any] = {
        "z": np.arange(len(found.verdicts)),
        **{name: own[name] for name in order},
    }
    columns["resolution_nm"] = own["resolution_px"] * np.sqrt(pixel.y * pixel.x)
    columns |= {
        "shift_y_nm": own["shift_y_px"] * pixel.y,
        "shift_x_nm": own["shift_x_px"] * pixel.x,
    }
    columns |= {
        "light": [one.light.value for one in found.verdicts],
        "remarks": ["; ".join(one.remarks) for one in found.verdicts],
    }
    return pa.table(columns)
