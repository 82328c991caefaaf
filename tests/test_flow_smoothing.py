"""Probabilities smoothed across thick slices, along the optical flow."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.image.flow import (
    Flow,
    PairFlow,
    flows_between,
    remap_values,
    resize_flow,
)
from sparsem.segment import flow_smoothing
from sparsem.segment.flow_smoothing import FLOW, smooth_along_flow
from sparsem.segment.predict import predict
from sparsem.segment.z_smoothing import Smoothing, smooth_slices, smoothing_of_stack
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import put, random_model

SMOOTHING = Smoothing(1.0, along_flow=True)
ACROSS = Smoothing(1.0)
THICK = VoxelSize(50, 16, 16)


def cloudy(shape: tuple[int, ...], seed: int, blur: float = 3) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in noise])
    return np.asarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)), np.uint8)


def some_flows(n: int, grid: tuple[int, int], seed: int = 3) -> list[PairFlow]:
    """Smooth flows of a few pixels, also out of the image."""
    random = np.random.default_rng(seed)

    def flow() -> Flow:
        planes = random.normal(size=(*grid, 2)).astype(np.float32)
        smooth = cv2.GaussianBlur(planes, (0, 0), 6)
        return np.asarray(5 * smooth / smooth.std(), np.float32)

    return [PairFlow(flow(), flow()) for _ in range(n)]


def plainly_smoothed(
    volume: NDArray[np.uint8], flows: list[PairFlow], smoothing: Smoothing
) -> NDArray[np.float64]:
    """Compute in floating point, slice by slice, with flow of full resolution."""
    before, own, after = smoothing.weights() / 2**16
    means = []
    for z, plane in enumerate(volume.astype(np.float32)):
        below, above = plane, plane
        if z > 0:
            below = carried(volume[z - 1], flows[z - 1].to_before)
        if z + 1 < len(volume):
            above = carried(volume[z + 1], flows[z].to_after)
        means.append(before * below + own * plane + after * above)
    return np.array(means)


def carried(plane: NDArray[np.uint8], flow: Flow) -> NDArray[np.float32]:
    fine = resize_flow(flow, plane.shape)
    values = plane.astype(np.float32)
    return remap_values(values, fine, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


@pytest.mark.parametrize(("grid", "tolerance"), [((90, 120), 0.75), ((30, 40), 1.5)])
def test_it_is_the_plain_mean_along_composed_flow(grid: Any, tolerance: float) -> None:
    volume, flows = cloudy((6, 90, 120), 1), some_flows(5, grid)
    (smooth,) = smooth_along_flow([volume], slice(0, 6), flows, SMOOTHING)
    plain = plainly_smoothed(volume, flows, SMOOTHING)
    difference = np.abs(smooth - plain)
    # Samples are rounded, and so is their mean.
    assert np.percentile(difference, 99) < tolerance
    assert difference.max() < 4 * tolerance
    assert np.abs(smooth_slices(volume, slice(0, 6), ACROSS) - plain).max() > 20


def test_without_motion_it_is_the_mean_across_slices() -> None:
    volume = cloudy((5, 40, 50), 2, 0.8)
    still = np.zeros((40, 50, 2), np.float32)
    (smooth,) = smooth_along_flow([volume], slice(1, 4), [PairFlow(still, still)] * 4, SMOOTHING)
    np.testing.assert_array_equal(smooth, smooth_slices(volume, slice(1, 4), SMOOTHING))


def test_slices_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes, flows = [cloudy((4, 90, 120), seed) for seed in (4, 5)], some_flows(3, (90, 120))
    whole = smooth_along_flow(volumes, slice(0, 4), flows, SMOOTHING)
    monkeypatch.setattr(flow_smoothing, "TILE_PX", 32)
    parts = smooth_along_flow(volumes, slice(0, 4), flows, SMOOTHING)
    # Positions are rounded to 32 bits within a part.
    assert np.abs(np.array(parts, int) - np.array(whole, int)).max() <= 1


def test_slices_of_more_pixels_in_a_row_than_opencv_samples() -> None:
    volume = cloudy((2, 3, 40_000), 6, 1)
    flow = np.full((1, 10_000, 2), (2, 0), np.float32)  # 8 pixels of the slices to the right
    (smooth,) = smooth_along_flow([volume], slice(0, 1), [PairFlow(-flow, flow)], SMOOTHING)
    first, second = volume[0, :, :-8].astype(float), volume[1, :, 8:].astype(float)
    weights = SMOOTHING.weights() / 2**16
    share = weights[: SMOOTHING.reach + 1].sum()
    assert np.abs(smooth[0, :, :-8] - (share * first + (1 - share) * second)).max() < 1


def test_a_moving_object_that_one_slice_misses_is_restored() -> None:
    """It moves by more than its width: the mean across slices does not know of it."""
    texture = cloudy((1, 120, 260), 7, 2)[0]
    images = [texture[:, 60 - 9 * z : 240 - 9 * z] for z in range(5)]
    volume = np.full((5, 120, 180), 20, np.uint8)
    for z in range(5):
        volume[z, 50:70, 60 + 9 * z : 68 + 9 * z] = 240
    volume[2] = 115  # nowhere decided
    (along,) = smooth_along_flow([volume], slice(2, 3), flows_between(images, FLOW), SMOOTHING)
    true = np.zeros((120, 180), bool)
    true[50:70, 78:86] = True
    mask = along[0] >= 128
    assert (mask & true).sum() / (mask | true).sum() > 0.8
    assert not (smooth_slices(volume, slice(2, 3), ACROSS)[0, true] >= 128).any()


def test_the_distance_of_slices_decides() -> None:
    assert smoothing_of_stack(25, 50) == Smoothing(1, along_flow=True)
    assert smoothing_of_stack(25, 25) == Smoothing(1)
    assert smoothing_of_stack(25, 5) == Smoothing(5)


@pytest.mark.parametrize(("depth", "workers"), [(3, 0), (11, 0), (4, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_predictions_of_thick_slices_whatever_the_blocks_and_workers(
    tmp_path: Path, depth: int, workers: int, dtype: Any
) -> None:
    gray = cloudy((11, 70, 80), 8).astype(dtype) * (1 if dtype == np.uint8 else 200)
    torch.manual_seed(4)
    model = random_model(tmp_path / "model.safetensors", width=4)
    rough, sample = (Sample.create(tmp_path / f"{name}.zarr") for name in ("rough", "smooth"))
    put(rough, "", gray, 5, THICK)
    predict(rough, model, precision="float32", z_smoothing_nm=0)
    put(sample, "", gray, depth, THICK)
    predict(sample, model, on=Execution(workers=workers, quiet=True), precision="float32")
    volume = np.asarray(rough.volume("probabilities", "nucleus").read(slice(None)))
    window = None if dtype == np.uint8 else tuple(np.percentile(gray, (0.5, 99.5)))
    flows = flows_between(list(gray), FLOW, window)
    (expected,) = smooth_along_flow([volume], slice(0, 11), flows, SMOOTHING)
    smooth = np.asarray(sample.volume("probabilities", "nucleus").read(slice(None)))
    np.testing.assert_array_equal(smooth, expected)
    assert np.abs(smooth.astype(int) - volume).max() > 2
