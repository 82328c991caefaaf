"""Dense optical flow between slices, and labels carried along it (paper 3.3; Farneback 2003; Kroeger et al. 2016).

Images are (y, x) uint8 or uint16, labels (y, x) unsigned integers. A flow is (h, w, 2) float32: ``flow[y, x] = (dx, dy)`` in
pixels of its own grid, so that ``there`` sampled at ``(x + dx, y + dy)`` looks like ``here`` at ``(x, y)``. Its grid may be
coarser than the image: one flow pixel then stands for image height / h by image width / w pixels.
"""

from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.settings import Settings

Flow = NDArray[np.float32]
Labels = NDArray[Any]

GRID_PX = 2_000_000  # a slice of 24 Mpx is then looked at at a quarter of its resolution, forty times faster
LEAST_DIS_PX = 16  # smaller pictures are continued: OpenCV refuses them


class FlowSettings(Settings):
    """How optical flow is found."""

    flow: Literal["farneback", "dis"] = Field(
        "farneback", description="optical flow: farneback as in the paper, or dis"
    )
    flow_downsampling: int | None = Field(
        None,
        ge=1,
        description="edge of a flow pixel in slice pixels; by default as few as bring a slice to 2 Mpx",
    )
    flow_pyramid_scale: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="of one level of the flow's pyramid to the one below; the paper: 0.2",
    )
    flow_levels: int = Field(4, ge=1, description="of the pyramid; the paper: 6")
    flow_window: int = Field(15, ge=3, description="flow pixels that are averaged; the paper: 30")
    flow_iterations: int = Field(3, ge=1, description="on every level")
    flow_polynomial: int = Field(
        5,
        ge=5,
        description="pixels that the polynomial is fitted to; more than 5 also take a wider Gaussian",
    )

    def grid_of(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the flow between slices of ``shape``."""
        grid = self.flow_downsampling or next(
            2**power for power in range(16) if shape[0] * shape[1] <= GRID_PX * 4**power
        )
        return max(1, round(shape[0] / grid)), max(1, round(shape[1] / grid))


class ComposedFlow(NamedTuple):
    """Where pixels come from, several slices away: the composed flow, and how far it can be trusted.

    Attributes:
        flow: (h, w, 2) to the slice that the labels are from.
        error: (h, w) float32, flow pixels: what forward and backward flow disagreed about on the way, added up.
    """

    flow: Flow
    error: NDArray[np.float32]


def on_grid(
    image: NDArray[Any], shape: tuple[int, int], window: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """A slice at the resolution at which flow is computed, 8 bit, by area means.

    Args:
        image: (y, x), 8 bit, or more with a window.
        shape: (h, w) of the grid.
        window: gray levels that become 0 and 255; the same for all slices, or flow sees brightness move.
    """
    if window is not None:
        low, high = window
        image = (
            np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
        ).astype(np.uint8)
    return (
        image
        if shape == image.shape
        else np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    )


def flow_between(
    here: NDArray[np.uint8], there: NDArray[np.uint8], settings: FlowSettings = FlowSettings()
) -> Flow:
    """Where every pixel of ``here`` lies in ``there``; both (h, w) and on the flow's grid already."""
    if settings.flow == "dis":
        short = [max(0, LEAST_DIS_PX - length) for length in here.shape]
        height, width = here.shape
        here, there = (
            np.pad(one, ((0, short[0]), (0, short[1])), mode="edge") for one in (here, there)
        )
        estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        padded_flow = estimator.calc(here, there, None)  # type: ignore[call-overload]
        flow = padded_flow[:height, :width]
    else:
        sigma = 1.1 if settings.flow_polynomial <= 5 else 1.5  # as OpenCV advises for these sizes
        scales = (
            settings.flow_pyramid_scale,
            settings.flow_levels,
            settings.flow_window,
            settings.flow_iterations,
            settings.flow_polynomial,
        )
        flow = cv2.calcOpticalFlowFarneback(here, there, None, *scales, sigma, 0)  # type: ignore[call-overload]
    return np.asarray(flow, np.float32)


def sampled(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """(h, w) or (h, w, c) values at the places where a flow of the same grid leads, linear in between, the border continued."""
    return np.asarray(remapped(values, flow, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE), np.float32)


def places(flow: Flow) -> Flow:
    """(x, y) where every pixel's flow leads."""
    height, width = flow.shape[:2]
    where = flow.copy()
    where[..., 0] += np.arange(width, dtype=np.float32)
    where[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return where


def remapped(values: NDArray[Any], flow: Flow, method: int, border: int) -> NDArray[Any]:
    """Values of a picture where a flow of the same grid leads, by OpenCV's interpolation and border of that number."""
    return np.asarray(cv2.remap(values, places(flow), None, method, borderMode=border))  # type: ignore[call-overload]


def stay(shape: tuple[int, int]) -> ComposedFlow:
    """The flow of a slice onto itself."""
    return ComposedFlow(np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32))


def composed(step: Flow, back: Flow, before: ComposedFlow) -> ComposedFlow:
    """One slice further: ``step`` leads to the neighbor and ``back`` from it; ``before`` leads on from the neighbor.

    One flow from the slice to the labeled one is kept, so that labels are resampled once and not at every slice between.
    """
    flow = step + sampled(before.flow, step)
    return ComposedFlow(flow, inconsistency(step, back) + sampled(before.error, step))


def inconsistency(forward: Flow, backward: Flow) -> NDArray[np.float32]:
    """|f(p) + b(p + f(p))|, flow pixels: 0 where the way there and back ends where it began."""
    there_and_back = forward + sampled(backward, forward)
    return np.asarray(np.hypot(there_and_back[..., 0], there_and_back[..., 1]), np.float32)


def warped(labels: Labels, flow: Flow) -> Labels:
    """Labels (y, x) of the slice that ``flow`` leads to, carried to where it starts; nearest, 0 from outside of the slice.

    Any ids: they are numbered through for OpenCV, which samples 16 bit and no more.
    """
    height, width = labels.shape
    if flow.shape[:2] != labels.shape:
        scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
        flow = (
            np.asarray(
                cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
            )
            * scale
        )
    ids, small = numbered(labels)
    return np.asarray(ids[remapped(small, flow, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)])


def numbered(labels: Labels) -> tuple[Labels, NDArray[np.uint16]]:
    """The ids of a slice, 0 the first of them, and the slice with their numbers in place of the ids.

    Raises:
        ValueError: more than 65,535 ids in one slice.
    """
    changes = (
        np.concatenate([[0], np.flatnonzero(np.diff(labels.ravel())) + 1])
        if labels.size
        else np.empty(0, int)
    )
    ids = np.union1d(np.zeros(1, labels.dtype), labels.ravel()[changes])
    if len(ids) > 2**16:
        raise ValueError(f"{len(ids)} ids in one slice; expected at most 65,536")
    if ids[-1] < 2**24:
        table = np.zeros(int(ids[-1]) + 1, np.uint16)
        table[ids] = np.arange(len(ids), dtype=np.uint16)
        return ids, table[labels]
    return ids, np.searchsorted(ids, labels).astype(np.uint16)
