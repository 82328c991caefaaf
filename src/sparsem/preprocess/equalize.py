"""Even brightness: every slice's gray levels through a curve of their own (paper 3.2), or locally (CLAHE).

Slices are (y, x) uint8 or uint16. Black, 0, is what no microscope has seen (the rim that alignment leaves): it takes no part and stays.
A curve is an array of 256 or 65,536 gray levels, by gray level.
"""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.image.running_median import running_median
from sparsem.preprocess.clahe import locally_equalized
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

Way = Literal["flicker", "histogram", "clahe", "reference", "standard"]
Curve = NDArray[np.unsignedinteger[Any]]
Counts = NDArray[np.int64]

RANKS = np.concatenate(
    [[0.002], np.linspace(0.01, 0.99, 50), [0.998]]
)  # of the gray levels by which slices are compared
STANDARD_MEAN, STANDARD_SPREAD = 0.5, 1 / 6  # of the range of gray levels


class EqualizeSettings(Settings):
    """How gray levels are evened out."""

    method: Way = Field(
        "flicker",
        description="flicker: to the running median of the slices around; histogram: all levels equally often (the paper); clahe: so "
        "locally; reference: as in one slice; standard: the whole stack to one mean and spread",
    )
    window: int = Field(
        25,
        ge=3,
        description="flicker: slices of the running median; of an even number the next odd one",
    )
    reference: int | None = Field(
        None, ge=0, description="reference: the slice to match; the middle one if not given"
    )
    clip_limit: float = Field(2.0, gt=0, description="clahe: by how much contrast may grow")
    tile_nm: float = Field(
        2_000, gt=0, description="clahe: edge of the squares that are equalized on their own"
    )
    image: str | None = Field(None, description="image to even out; the newest one if not given")
    out: str = Field("equalized", description="name of the image made")


def counts_of(image: NDArray[Any]) -> Counts:
    """How often each gray level occurs (256 or 65,536,); black does not count."""
    found = np.bincount(image.ravel(), minlength=_levels(image.dtype))
    found[0] = 0
    return found


def _levels(dtype: np.dtype[Any]) -> int:
    return 1 << (8 * dtype.itemsize)


def quantiles(counts: Counts) -> NDArray[np.float64]:
    """Gray levels (52,) at ``RANKS``, between whole ones where many pixels share one; NaN of a slice that is all black."""
    total = np.cumsum(counts)
    if not total[-1]:
        return np.full(len(RANKS), np.nan)
    occupied = np.nonzero(counts)[0]
    middle = (total[occupied] - counts[occupied] / 2) / total[
        -1
    ]  # rank of the middle of each level
    levels: NDArray[np.float64] = np.interp(RANKS, middle, occupied)
    return levels


def equalizing(counts: Counts, dtype: np.dtype[Any]) -> Curve:
    """The curve after which all gray levels are equally often: the cumulative histogram (paper 3.2; Gonzalez & Woods 3.3)."""
    total = np.cumsum(counts)
    share = total / max(int(total[-1]), 1)
    return _curve(1 + share * (len(counts) - 2), dtype)


def matching(own: NDArray[np.float64], wanted: NDArray[np.float64], dtype: np.dtype[Any]) -> Curve:
    """The curve that brings a slice with the quantiles ``own`` to those ``wanted``; beyond them it goes on with the slope between."""
    levels = np.arange(_levels(dtype))
    if np.isnan(own).any() or np.isnan(wanted).any():
        return levels.astype(dtype)
    own = np.maximum.accumulate(own + np.arange(len(own)) * 1e-9)
    curve = np.interp(levels, own, wanted)
    slope = (wanted[-1] - wanted[0]) / max(own[-1] - own[0], 1e-6)
    low, high = levels < own[0], levels > own[-1]
    curve[low] = wanted[0] + (levels[low] - own[0]) * slope
    curve[high] = wanted[-1] + (levels[high] - own[-1]) * slope
    return _curve(curve, dtype)


def _curve(values: NDArray[np.float64], dtype: np.dtype[Any]) -> Curve:
    """Whole gray levels; 0 stays 0, and nothing else becomes it."""
    curve = np.clip(np.round(values), 1, len(values) - 1).astype(dtype)
    curve[0] = 0
    return curve


def equalize(
    sample: Sample,
    settings: EqualizeSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> str:
    """Write ``images/OUT``: the image with its brightness evened out. Coordinates stay: annotations made on the image hold for it.

    Args:
        sample: its image is read block by block, twice.
        settings: in which way.
        on: how the work is spread.

    Returns:
        The name of the image.

    Raises:
        InputError: there is no such reference slice.
        ResumeError: it was evened out otherwise, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(EqualizeSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image)
    image = sample.image(name)
    _refuse_no_reference(image, settings)
    settings = changed(settings, {"image": name})
    curves = _curves(sample, image, settings, on)
    spec = image.like(f"images/{settings.out}", image.dtype, Kind.IMAGE, (name, image.fingerprint))
    inputs = {"image": image.fingerprint} | (
        {"curves": fingerprint_of({"curves": curves.tolist()})} if curves is not None else {}
    )
    plane = image.shape[1] * image.shape[2] * image.dtype.itemsize
    needs = Needs(
        plane * (3 * image.block_depth + 4),
        spec.nbytes,
        "import with a smaller --block-depth, or use fewer --workers",
    )
    with Stage(sample, f"equalize-{settings.out}", settings, inputs, [spec], on, needs) as stage:
        stage.map(
            _equalize_block,
            image.blocks(),
            image,
            spec.path,
            settings,
            of_block=lambda block: None if curves is None else curves[block.own],
        )
    return settings.out


def _refuse_no_reference(image: Volume, settings: EqualizeSettings) -> None:
    if (
        settings.method == "reference"
        and settings.reference is not None
        and settings.reference >= image.shape[0]
    ):
        raise InputError(
            f"There is no slice {settings.reference} to match: the image has slices 0 to {image.shape[0] - 1}."
        )


def _curves(
    sample: Sample, image: Volume, settings: EqualizeSettings, on: Execution
) -> NDArray[np.float64] | None:
    """(n, 2, ranks): quantiles of every slice and those they are brought to; None where a slice needs no other."""
    if settings.method in ("histogram", "clahe"):
        return None
    inputs = {"image": image.fingerprint}
    plane = image.shape[1] * image.shape[2] * image.dtype.itemsize
    ram = Needs(ram=plane * (2 * image.block_depth + 9), smaller="use fewer --workers")
    how = EqualizeSettings(out=settings.out)  # quantiles depend on none of the settings
    with Stage(sample, f"levels-{settings.out}", how, inputs, [], on, ram) as stage:
        blocks = stage.map(_quantiles_block, image.blocks(), image)
    own = np.array(
        [levels for block in blocks for levels in block["quantiles"]], np.float64
    ).reshape(image.shape[0], -1)
    return np.stack([own, _wanted(own, image, settings)], axis=1)


def _wanted(
    own: NDArray[np.float64], image: Volume, settings: EqualizeSettings
) -> NDArray[np.float64]:
    """(n, ranks) quantiles that each slice is brought to."""
    if settings.method == "flicker":
        return running_median(own, settings.window)
    if settings.method == "reference":
        number = image.shape[0] // 2 if settings.reference is None else settings.reference
        if np.isnan(own[number]).any():
            raise InputError(f"Slice {number} is all black; give another --reference.")
        return np.repeat(own[number][None], len(own), axis=0)
    top = _levels(image.dtype) - 1
    mean, spread = (
        float(np.nanmean(own)),
        float(np.nanstd(own)),
    )  # ranks are evenly spaced but for the two ends
    return (own - mean) / max(spread, 1e-6) * STANDARD_SPREAD * top + STANDARD_MEAN * top


def _quantiles_block(block: ZBlock, image: Volume) -> BlockResult:
    found = [quantiles(counts_of(one)) for one in image.read(block.own)]
    return {}, {
        "quantiles": [
            [None if np.isnan(level) else level for level in levels.tolist()] for levels in found
        ]
    }


def _equalize_block(
    block: ZBlock,
    image: Volume,
    path: str,
    settings: EqualizeSettings,
    curves: NDArray[np.float64] | None,
) -> BlockResult:
    slices = image.read(block.own)
    if settings.method == "clahe":
        tile_px = [max(1, round(settings.tile_nm / edge)) for edge in image.voxel_size[1:]]
        out = [locally_equalized(one, settings.clip_limit, tile_px) for one in slices]
    else:
        chosen: Sequence[Any] = [None] * len(slices) if curves is None else list(curves)
        out = [
            through(one, _curve_of(one, curve)) for one, curve in zip(slices, chosen, strict=True)
        ]
    return {path: np.stack(out)}, {}


def _curve_of(image: NDArray[Any], curve: NDArray[np.float64] | None) -> Curve:
    return (
        equalizing(counts_of(image), image.dtype)
        if curve is None
        else matching(curve[0], curve[1], image.dtype)
    )


def through(image: NDArray[Any], curve: Curve) -> NDArray[Any]:
    """Every pixel (y, x) through a curve."""
    return np.asarray(cv2.LUT(image, curve)) if image.dtype == np.uint8 else curve[image]
