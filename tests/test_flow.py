"""Optical flow between slices: known motions, composition, consistency, and warped labels."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.cells.warp import compact_labels, warp_labels
from sparsem.image.flow import (
    compose_flow,
    flow_between,
    identity_flow,
    inconsistency,
    reduce_to_grid,
    sample_along,
    target_positions,
)
from sparsem.image.settings import FlowSettings
from tests.conftest import drawn


def texture(shape: tuple[int, int] = (120, 160), seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)), np.uint8)


def shifted(image: NDArray[Any], dy: float, dx: float) -> NDArray[Any]:
    """Move the content of an image down and right."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(
        image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def constant(shape: tuple[int, int], dx: float, dy: float) -> NDArray[np.float32]:
    return np.broadcast_to(np.array([dx, dy], np.float32), (*shape, 2)).copy()


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_a_known_shift_is_found(method: Any) -> None:
    image = texture()
    moved = shifted(image, dy=2, dx=-3)
    flow = flow_between(image, moved, FlowSettings(flow=method))[20:-20, 20:-20]
    assert np.median(flow[..., 0]) == pytest.approx(-3, abs=0.15)
    assert np.median(flow[..., 1]) == pytest.approx(2, abs=0.15)


def test_the_parameters_of_the_paper_work() -> None:
    paper = FlowSettings(flow_pyramid_scale=0.2, flow_levels=6, flow_window=30)
    image = texture()
    assert np.median(
        flow_between(image, shifted(image, 0, 2), paper)[20:-20, 20:-20, 0]
    ) == pytest.approx(2, abs=0.2)


def test_two_steps_composed_are_one_step_of_their_sum() -> None:
    shape = (40, 50)
    # The flow from the neighbor to the labeled slice is (2, 1); the step to the neighbor is (0.5,
    # -3).
    before = identity_flow(shape)._replace(flow=constant(shape, 2, 1))
    forward, backward = constant(shape, 0.5, -3), constant(shape, -0.5, 3)
    total = compose_flow(forward, backward, before)
    assert np.allclose(total.flow, [2.5, -2])
    assert np.allclose(total.error, 0)
    disagreeing = compose_flow(forward, constant(shape, -0.5, 7), total)
    assert np.allclose(disagreeing.error, 4)
    assert np.allclose(inconsistency(forward, backward), 0)


def test_composition_samples_the_far_flow_where_the_step_leads() -> None:
    far = np.zeros((8, 8, 2), np.float32)
    far[:, 4:, 0] = 3  # the right half of the neighbor comes from further right
    step = constant((8, 8), 2, 0)
    total = compose_flow(step, -step, identity_flow((8, 8))._replace(flow=far))
    assert total.flow[0, :, 0].tolist() == [2, 2, 5, 5, 5, 5, 5, 5]
    assert target_positions(step)[3, 2].tolist() == [4, 3]
    assert sample_along(far[..., 0], step)[0].tolist() == [0, 0, 3, 3, 3, 3, 3, 3]


def test_labels_follow_the_flow_whatever_their_ids() -> None:
    labels = drawn("..11..", "..11..", ".22...").astype(np.uint32) * 100_000
    moved = warp_labels(labels, constant((3, 6), 1, 0))
    assert (moved // 100_000).tolist() == drawn(".11...", ".11...", "22....").tolist()
    assert moved.dtype == np.uint32
    # Pixels from outside of the labeled slice are empty; its border is not repeated.
    assert (
        warp_labels(np.full((2, 4), 7, np.uint8), constant((2, 4), 2, 0)).tolist()
        == [[7, 7, 0, 0]] * 2
    )


def test_a_flow_on_a_coarser_grid_moves_by_as_much_more() -> None:
    labels = np.zeros((40, 40), np.uint16)
    labels[10:20, 20:30] = 5
    moved = warp_labels(labels, constant((10, 10), 2, -1))
    expected = np.zeros_like(labels)
    expected[14:24, 12:22] = 5
    assert np.array_equal(moved, expected)


def test_ids_are_numbered_beginning_with_background() -> None:
    for big in (9, 2**31):
        ids, small = compact_labels(np.array([[big, big, 3], [3, 0, big]], np.uint32))
        assert ids.tolist() == [0, 3, big]
        assert small.tolist() == [[2, 2, 1], [1, 0, 2]]
    assert compact_labels(np.ones((2, 2), np.uint8))[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="70001 ids in one slice"):
        compact_labels(np.arange(1, 70_001, dtype=np.uint32).reshape(1, -1))


def test_the_grid_brings_a_slice_to_two_megapixels() -> None:
    settings = FlowSettings()
    assert settings.grid_shape((4000, 6000)) == (1000, 1500)
    assert settings.grid_shape((1000, 1500)) == (1000, 1500)
    assert FlowSettings(flow_downsampling=3).grid_shape((10, 10)) == (3, 3)
    assert (
        reduce_to_grid(np.full((8, 8), 512, np.uint16), (2, 4), (0, 1024)).tolist()
        == [[127] * 4] * 2
    )  # 16 bit, in a window of gray levels
    assert reduce_to_grid(
        np.array([[0, 300, 400, 999]], np.uint16), (1, 4), (300, 400)
    ).tolist() == [[0, 0, 255, 255]]
