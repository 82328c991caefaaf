"""Dense optical flow between slices (paper 3.3).

Farneback 2003 as in the paper, or dense inverse search (DIS, Kroeger et al. 2016).

Images are (y, x) uint8 or uint16. A flow is (h, w, 2) float32:
``flow[y, x] = (dx, dy)`` in pixels of its own grid, so that ``target`` sampled at
``(x + dx, y + dy)`` resembles ``source`` at ``(x, y)``. Its grid may be coarser than the image: one
flow pixel then stands for image height / h by image width / w pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.image.settings import FlowSettings
from sparsem.store.volume import Volume

Flow = NDArray[np.float32]

# OpenCV refuses smaller images for DIS, so their edges are repeated up to this size.
MIN_DIS_PX = 16


class PairFlow(NamedTuple):
    """The optical flow between a slice and the next one.

    Attributes:
        to_before: from every pixel of the next slice to the slice, (y, x, 2) float32.
        to_after: from every pixel of the slice to the next one, (y, x, 2) float32.
    """

    to_before: Flow
    to_after: Flow


class ComposedFlow(NamedTuple):
    """Flow across several slices, and its estimated error.

    Attributes:
        flow: (h, w, 2) to the slice that the labels come from.
        error: (h, w) float32, in flow pixels: the disagreement of forward and backward flow, summed
            over the steps.
    """

    flow: Flow
    error: NDArray[np.float32]


def gray_window(gray: NDArray[Any]) -> tuple[float, float] | None:
    """Return the gray levels between which 99 % of the pixels lie; None for 8 bit."""
    if gray.dtype == np.uint8:
        return None
    low, high = np.percentile(gray, (0.5, 99.5))
    return float(low), float(high)


def volume_window(image: Volume) -> tuple[float, float] | None:
    """Return ``gray_window`` of the coarsest level of an image."""
    if image.dtype == np.uint8:
        return None
    return gray_window(image.read(slice(None), image.levels - 1))


def reduce_to_grid(
    image: NDArray[Any], shape: tuple[int, int], window: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Reduce a slice to the resolution at which flow is computed, 8 bit, by area means.

    Args:
        image: (y, x), 8 bit; or more bits if a window is given.
        shape: (h, w) of the grid.
        window: gray levels that become 0 and 255. Use the same for all slices, since the flow would
            take a change of brightness for motion.
    """
    if window is not None:
        image = _to_8_bit(image, window)
    if shape == image.shape:
        return image
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _to_8_bit(image: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale gray levels linearly so that the window becomes 0..255; clip the others."""
    low, high = window
    fraction = (image.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray((np.clip(fraction, 0, 1) * 255).astype(np.uint8))


def flow_between(
    source: NDArray[np.uint8], target: NDArray[np.uint8], settings: FlowSettings = FlowSettings()
) -> Flow:
    """Estimate where every pixel of ``source`` lies in ``target``.

    Both are (h, w) and already on the grid of the flow.
    """
    if settings.flow == "dis":
        return _dis_flow(source, target)
    return _farneback_flow(source, target, settings)


def flows_between(
    images: Sequence[NDArray[Any]],
    settings: FlowSettings = FlowSettings(),
    window: tuple[float, float] | None = None,
) -> list[PairFlow]:
    """Return the flow between each slice and the next one.

    Args:
        images: (y, x) gray slices, consecutive.
        settings: how the flow is computed.
        window: gray levels that become 0 and 255; needed for more than 8 bit.
    """
    height, width = images[0].shape
    grid = settings.grid_shape((height, width))
    small = [reduce_to_grid(np.asarray(image), grid, window) for image in images]
    return [
        PairFlow(flow_between(after, before, settings), flow_between(before, after, settings))
        for before, after in pairwise(small)
    ]


def _dis_flow(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> Flow:
    """Estimate flow by dense inverse search; small images are padded to ``MIN_DIS_PX``."""
    height, width = source.shape
    padding = ((0, max(0, MIN_DIS_PX - height)), (0, max(0, MIN_DIS_PX - width)))
    padded_source = np.pad(source, padding, mode="edge")
    padded_target = np.pad(target, padding, mode="edge")
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = estimator.calc(padded_source, padded_target, None)  # type: ignore[call-overload]
    return np.asarray(flow[:height, :width], np.float32)


def _farneback_flow(
    source: NDArray[np.uint8], target: NDArray[np.uint8], settings: FlowSettings
) -> Flow:
    """Estimate flow by Farneback's polynomial expansion."""
    # Standard deviation of the Gaussian, as OpenCV advises for these neighborhoods.
    sigma = 1.1 if settings.flow_polynomial <= 5 else 1.5
    flow = cv2.calcOpticalFlowFarneback(  # type: ignore[call-overload]
        source,
        target,
        None,
        settings.flow_pyramid_scale,
        settings.flow_levels,
        settings.flow_window,
        settings.flow_iterations,
        settings.flow_polynomial,
        sigma,
        0,
    )
    return np.asarray(flow, np.float32)


def sample_along(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Sample (h, w) or (h, w, c) values at the positions that a flow of the same grid leads to.

    Interpolation is linear; beyond the border the values of the border are repeated.
    """
    sampled = remap_values(values, flow, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32)


def target_positions(flow: Flow) -> Flow:
    """Return the position (x, y) that every pixel's flow leads to, (h, w, 2)."""
    height, width = flow.shape[:2]
    positions = flow.copy()
    positions[..., 0] += np.arange(width, dtype=np.float32)
    positions[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return positions


def remap_values(values: NDArray[Any], flow: Flow, method: int, border: int) -> NDArray[Any]:
    """Sample values at the positions that a flow of the same grid leads to.

    Args:
        values: (h, w) or (h, w, c).
        flow: (h, w, 2).
        method: OpenCV's number of the interpolation, such as ``cv2.INTER_NEAREST``.
        border: OpenCV's number of the border mode, such as ``cv2.BORDER_CONSTANT``.
    """
    positions = target_positions(flow)
    remapped = cv2.remap(  # type: ignore[call-overload]
        values, positions, None, method, borderMode=border
    )
    return np.asarray(remapped)


def identity_flow(shape: tuple[int, int]) -> ComposedFlow:
    """Return the flow of a slice onto itself."""
    return ComposedFlow(np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32))


def compose_flow(step: Flow, back: Flow, previous: ComposedFlow) -> ComposedFlow:
    """Extend a composed flow by one slice.

    A single flow from the slice to the labeled one is stored, so that labels are resampled once and
    not at every slice in between.

    Args:
        step: flow from the slice to its neighbor.
        back: flow from the neighbor to the slice.
        previous: composed flow from the neighbor to the labeled slice.
    """
    flow = step + sample_along(previous.flow, step)
    error = inconsistency(step, back) + sample_along(previous.error, step)
    return ComposedFlow(flow, error)


def inconsistency(forward: Flow, backward: Flow) -> NDArray[np.float32]:
    """Return |f(p) + b(p + f(p))|, (h, w) in flow pixels: 0 where b leads back to p."""
    residual = forward + sample_along(backward, forward)
    return np.asarray(np.hypot(residual[..., 0], residual[..., 1]), np.float32)


def resize_flow(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """Interpolate a flow on another grid, in pixels of that grid."""
    height, width = shape
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    # Scaled before it is enlarged, which is linear.
    return np.asarray(
        cv2.resize(flow * scale, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )
