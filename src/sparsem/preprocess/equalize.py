"""The stage ``equalize``: even brightness along a stack.

Every slice's gray levels go through a curve of their own (paper 3.2), or through local ones
(CLAHE). Slices are (y, x) uint8 or uint16. Black, 0, is what the microscope did not image (the rim
that alignment leaves): it is left out and stays black.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.image.running_median import running_median
from sparsem.preprocess.clahe import equalize_locally
from sparsem.preprocess.gray_curves import (
    apply_curve,
    build_equalization_curve,
    build_matching_curve,
    gray_histogram,
    gray_level_count,
    gray_quantiles,
)
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import ImageResult
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

Floats = NDArray[np.float64]

# Method standard: mean and standard deviation, as fractions of the range of gray levels.
STANDARD_MEAN = 0.5
STANDARD_DEVIATION = 1 / 6


def equalize(
    sample: Sample,
    settings: EqualizeSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ImageResult:
    """Write ``images/OUT``, the image with even brightness.

    Pixels keep their positions: annotations made on the image hold for it.

    Args:
        sample: its image is read block by block, twice.
        settings: the method and its parameters.
        on: how the work is distributed.
        **changes: fields of the settings to replace.

    Returns:
        The name of the image.

    Raises:
        InputError: the reference slice does not exist or is black.
        ResumeError: the image was equalized with other settings, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(EqualizeSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image)
    image = sample.image(name)
    _check_reference(image, settings)
    settings = changed(settings, {"image": name})
    quantiles = _matched_quantiles(sample, image, settings, on)
    inputs = {"image": image.fingerprint}
    if quantiles is not None:
        inputs["curves"] = fingerprint_of({"curves": quantiles.tolist()})
    spec = image.like(f"images/{settings.out}", image.dtype, Kind.IMAGE, (name, image.fingerprint))
    ram = _plane_bytes(image) * (3 * image.block_depth + 4)
    smaller = "import with a smaller --block-depth, or use fewer --workers"
    needs = Needs(ram, spec.nbytes, smaller)
    with Stage(sample, f"equalize-{settings.out}", settings, inputs, [spec], on, needs) as stage:
        stage.map(
            _equalize_block,
            image.blocks(),
            image,
            spec.path,
            settings,
            of_block=lambda block: None if quantiles is None else quantiles[block.own],
        )
    written = (f"images/{settings.out}",)
    return ImageResult(settings.out, sample=sample, written=written)


def _plane_bytes(image: Volume) -> int:
    """Return the bytes of one slice."""
    return image.shape[1] * image.shape[2] * image.dtype.itemsize


def _check_reference(image: Volume, settings: EqualizeSettings) -> None:
    """Check that the reference slice exists.

    Raises:
        InputError: it does not.
    """
    if settings.method != "reference" or settings.reference is None:
        return
    last = image.shape[0] - 1
    if settings.reference > last:
        raise InputError(
            f"There is no slice {settings.reference} to match: the image has slices 0 to {last}."
        )


def _matched_quantiles(
    sample: Sample, image: Volume, settings: EqualizeSettings, on: Execution
) -> Floats | None:
    """Return the quantiles of every slice, and those that it is brought to.

    Returns:
        (n, 2, ranks); None if the method needs no other slice than the one that is equalized.
    """
    if settings.method in ("histogram", "clahe"):
        return None
    source = _measure_quantiles(sample, image, settings.out, on)
    return np.stack([source, _target_quantiles(source, image, settings)], axis=1)


def _measure_quantiles(sample: Sample, image: Volume, out: str, on: Execution) -> Floats:
    """Return the quantiles (n, ranks) of every slice, by a stage of its own."""
    ram = _plane_bytes(image) * (2 * image.block_depth + 9)
    needs = Needs(ram=ram, smaller="use fewer --workers")
    recorded = EqualizeSettings(out=out)  # quantiles depend on none of the settings
    inputs = {"image": image.fingerprint}
    with Stage(sample, f"levels-{out}", recorded, inputs, [], on, needs) as stage:
        summaries = stage.map(_quantiles_block, image.blocks(), image)
    rows = [levels for summary in summaries for levels in summary["quantiles"]]
    return np.array(rows, np.float64).reshape(image.shape[0], -1)


def _target_quantiles(source: Floats, image: Volume, settings: EqualizeSettings) -> Floats:
    """Return the quantiles (n, ranks) that each slice is brought to.

    Raises:
        InputError: the reference slice is black.
    """
    if settings.method == "flicker":
        return running_median(source, settings.window)
    if settings.method == "reference":
        target = _reference_quantiles(source, settings.reference)
        return np.repeat(target[None], len(source), axis=0)
    return _standard_quantiles(source, gray_level_count(image.dtype) - 1)


def _reference_quantiles(source: Floats, reference: int | None) -> Floats:
    """Return the quantiles (ranks,) of a slice; of the middle slice by default.

    Raises:
        InputError: the slice is black.
    """
    number = len(source) // 2 if reference is None else reference
    if np.isnan(source[number]).any():
        raise InputError(f"Slice {number} is all black; give another --reference.")
    return np.asarray(source[number])


def _standard_quantiles(source: Floats, top: int) -> Floats:
    """Return quantiles (n, ranks) of the standard mean and deviation; ``top`` is the highest level.

    All slices are changed in the same way.
    """
    # The ranks are evenly spaced except at both ends: their mean is about that of the pixels.
    mean = float(np.nanmean(source))
    deviation = float(np.nanstd(source))
    standardized = (source - mean) / max(deviation, 1e-6)
    return standardized * STANDARD_DEVIATION * top + STANDARD_MEAN * top


def _quantiles_block(block: ZBlock, image: Volume) -> BlockResult:
    """Measure the quantiles of the slices of a block; NaN is stored as null."""
    rows = []
    for voxels in image.read(block.own):
        levels = gray_quantiles(gray_histogram(voxels)).tolist()
        rows.append([None if np.isnan(level) else level for level in levels])
    return {}, {"quantiles": rows}


def _equalize_block(
    block: ZBlock,
    image: Volume,
    path: str,
    settings: EqualizeSettings,
    quantiles: Floats | None,
) -> BlockResult:
    """Equalize the slices of a block.

    Args:
        block: of slices.
        image: is read.
        path: of the equalized image in the sample.
        settings: the method and its parameters.
        quantiles: (slices, 2, ranks) of the block, or None.
    """
    slices = image.read(block.own)
    if settings.method == "clahe":
        tile_px = [max(1, round(settings.tile_nm / edge)) for edge in image.voxel_size[1:]]
        equalized = [equalize_locally(voxels, settings.clip_limit, tile_px) for voxels in slices]
    elif quantiles is None:
        equalized = [_equalize_histogram(voxels) for voxels in slices]
    else:
        equalized = [
            _match_quantiles(voxels, source, target)
            for voxels, (source, target) in zip(slices, quantiles, strict=True)
        ]
    return {path: np.stack(equalized)}, {}


def _equalize_histogram(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return a slice in which all gray levels are equally frequent."""
    curve = build_equalization_curve(gray_histogram(voxels), voxels.dtype)
    return apply_curve(voxels, curve)


def _match_quantiles(voxels: NDArray[Any], source: Floats, target: Floats) -> NDArray[Any]:
    """Return a slice whose quantiles ``source`` are brought to those of ``target``."""
    curve = build_matching_curve(source, target, voxels.dtype)
    return apply_curve(voxels, curve)
