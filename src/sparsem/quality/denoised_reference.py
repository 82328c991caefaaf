"""Denoised versions of images, with which these are compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.io.gray_levels import GrayMapping, gray_mapping
from sparsem.io.readers.open import open_source
from sparsem.preprocess.denoise import denoise
from sparsem.preprocess.settings import DenoiseMethod, DenoiseSettings
from sparsem.quality.image_series import ImageSeries, read_gray, source_identity
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, VolumeSpec, volume_spec
from sparsem.workflow.execution import Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

BLOCK_DEPTH = 4  # images in a block of images that are denoised together


def denoise_series(
    series: ImageSeries, path: Path, method: DenoiseMethod, on: Execution
) -> ImageSeries:
    """Denoise the images of a source together, by the stage ``denoise``.

    Args:
        series: the images.
        path: of a sample that is made from them; an earlier one is overwritten.
        method: of denoising.
        on: how the work is distributed. Progress is shown for Noise2Void only, which takes minutes.

    Returns:
        The same images, with their denoised versions as reference.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The sample holds nothing but copies and results: it may be overwritten.
    on = replace(on, overwrite=True, quiet=on.quiet or method != "n2v")
    sample = _copy_to_sample(series, path, on)
    name = denoise(sample, DenoiseSettings(method=method, image="raw"), on=on).image
    return replace(
        series,
        source=open_source(path),
        reference=open_source(path / "images" / name),
        is_consecutive=True,
    )


def _copy_to_sample(series: ImageSeries, path: Path, on: Execution) -> Sample:
    """Write images as the raw image of a sample."""
    sample = Sample.create(path)
    gray = gray_mapping(series.source)
    count = len(series.numbers)
    _, y, x = series.source.stack.shape
    depth = min(BLOCK_DEPTH, count)
    raw = _raw_spec((count, y, x), gray, depth)
    inputs = {
        "source": fingerprint_of({"files": source_identity(series.source)}),
        "slices": " ".join(map(str, series.numbers)),
        "gray levels": str(gray),
    }
    needs = Needs(3 * depth * y * x * series.source.stack.dtype.itemsize, raw.nbytes)
    with Stage(sample, "images", Settings(), inputs, [raw], on, needs) as stage:
        stage.map(_copy_block, z_blocks(count, depth), series, gray)
    return sample


def _raw_spec(shape: tuple[int, int, int], gray: GrayMapping, depth: int) -> VolumeSpec:
    """Return what is known of the raw image before it is written."""
    dtype = np.uint8 if gray.top == 255 else np.uint16
    # Lengths do not matter here, and single images seldom state their thickness.
    return volume_spec("", shape, dtype, Kind.IMAGE, VoxelSize(1, 1, 1), depth)


def _copy_block(block: ZBlock, series: ImageSeries, gray: GrayMapping) -> BlockResult:
    """Read the images of a block."""
    images = [read_gray(series.source, z, gray) for z in series.numbers[block.own]]
    return {"": np.stack(images)}, {}
