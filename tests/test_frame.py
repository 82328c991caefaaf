"""Frames: slices carried from one to another, against scipy; chains of frames, there and back."""

from typing import Any

import cv2
import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from sparsem.store import transforms as frame_module
from sparsem.store.transforms import (
    UNMOVED,
    Motion,
    Transform,
    WarpedStack,
    compose,
    contains_pixels,
    invert,
    warp,
)

OBLIQUE = np.array([[0.98712, 0.06123, 3.3171], [-0.05231, 1.02417, -2.6313]])
SHIFTED = np.array([[1.0, 0.0, 4.25], [0.0, 1.0, -7.5]])


def picture(dtype: Any = np.uint8) -> NDArray[Any]:
    rows, columns = np.mgrid[:60, :80]
    made: NDArray[Any] = (120 + 50 * np.sin(rows / 7) + 60 * np.cos(columns / 9)).astype(dtype)
    return made


@pytest.mark.parametrize("motion", [UNMOVED, SHIFTED, OBLIQUE])
@pytest.mark.parametrize(
    ("how", "order", "off"), [("linear", 1, 1.5), ("cubic", 3, 2.5), ("nearest", 0, 0)]
)
def test_moved_is_what_scipy_says(motion: Motion, how: Any, order: int, off: float) -> None:
    image = picture()
    places = np.tensordot(motion[:, :2], np.mgrid[:50, :70], 1) + motion[:, 2, None, None]
    places = np.floor(places + 0.5) if how == "nearest" else places
    expected = scipy.ndimage.map_coordinates(
        image.astype(float), places, order=order, mode="nearest"
    )
    inner = np.all((places >= 3) & (places <= np.array([56, 76])[:, None, None]), axis=0)
    assert inner.mean() > 0.6
    assert np.abs(warp(image, motion, (50, 70), how).astype(float) - expected)[inner].max() <= off


@pytest.mark.parametrize("motion", [SHIFTED, OBLIQUE])
@pytest.mark.parametrize("how", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pieces_make_the_whole(
    monkeypatch: pytest.MonkeyPatch, motion: Motion, how: Any, dtype: Any
) -> None:
    image = picture(dtype)
    whole = warp(image, motion, (64, 90), how, outside=7)
    monkeypatch.setattr(frame_module, "PIECE_PX", 16)
    pieces = warp(image, motion, (64, 90), how, outside=7)
    assert (whole[:, -3:] == 7).any()
    assert np.abs(pieces.astype(int) - whole.astype(int)).max() <= (
        0 if how == "nearest" else 3
    )  # OpenCV's weights are in 32nds


@pytest.mark.parametrize(
    "shift", [(0.0, 0.0), (0.25, -0.5), (-7.75, 12.375), (3.0, -4.0), (61.5, 2), (200, 0)]
)
@pytest.mark.parametrize("how", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_shift_is_what_opencv_makes_of_the_same_matrix(
    shift: tuple[float, float], how: Any, dtype: Any
) -> None:
    image = picture(dtype) if dtype == np.uint8 else picture(np.uint16) * 200
    motion = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], float)
    ours = warp(image, motion, (64, 90), how, outside=7)
    matrix = np.array([[1, 0, shift[1]], [0, 1, shift[0]]], float)
    flags = frame_module.FLAGS[how] | cv2.WARP_INVERSE_MAP
    other = cv2.warpAffine(image, matrix, (90, 64), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    rows, columns = np.arange(64) + shift[0], np.arange(90) + shift[1]
    inside = np.outer((rows >= 0) & (rows <= 59), (columns >= 0) & (columns <= 79))
    assert (ours[~inside] == 7).all()
    limit = 1 if dtype == np.uint8 else 60
    assert np.abs(ours.astype(int) - np.asarray(other).astype(int))[inside].max(initial=0) <= limit


def test_labels_of_any_type_are_never_mixed() -> None:
    labels = (np.arange(30 * 40, dtype=np.uint32) + 2**31).reshape(30, 40)
    seen = warp(labels, OBLIQUE, (30, 40), "nearest", outside=2**32 - 1)
    assert set(np.unique(seen)) <= {*np.unique(labels), 2**32 - 1}
    assert np.array_equal(warp(labels, UNMOVED, (30, 40), "nearest"), labels)


def test_motions_join_and_come_back() -> None:
    point = np.array([3.0, 5.0, 1.0])
    both = compose(OBLIQUE, SHIFTED)
    assert both @ point == pytest.approx(OBLIQUE @ np.append(SHIFTED @ point, 1))
    assert compose(invert(both), both) == pytest.approx(UNMOVED)
    many = np.stack([OBLIQUE, SHIFTED])
    assert compose(invert(many), many) == pytest.approx(np.stack([UNMOVED, UNMOVED]))


def test_a_frame_sees_another() -> None:
    raw = Transform((2, 60, 80))
    aligned = Transform((2, 50, 70), np.stack([SHIFTED, OBLIQUE]))
    assert raw.is_same(Transform((2, 60, 80), np.stack([UNMOVED, UNMOVED])))
    assert not raw.is_same(aligned)
    assert raw.motions_from(aligned) == pytest.approx(aligned.motions())
    stack = np.stack([picture(), picture()[::-1]])
    seen = WarpedStack(stack, raw.motions_from(aligned), aligned.shape)
    assert seen[0:2].shape == aligned.shape
    assert np.array_equal(seen[1:2][0], warp(stack[1], OBLIQUE, (50, 70), "nearest"))
    assert seen[2:2].shape == (0, 50, 70)


def test_what_covers_what() -> None:
    shifted = np.repeat(SHIFTED[None], 3, axis=0)
    assert contains_pixels((3, 40, 50), (3, 40, 50), np.repeat(UNMOVED[None], 3, axis=0))
    assert not contains_pixels((3, 40, 50), (3, 40, 50), shifted)
    assert contains_pixels((3, 40, 50), (3, 35, 40), np.array([[[1, 0, 4.25], [0, 1, 9.75]]] * 3))
    assert not contains_pixels(
        (3, 40, 50),
        (3, 35, 40),
        np.array([[[1, 0, 4.25], [0, 1, 9.75]], [[1, 0, 6.0], [0, 1, 9.75]]]),
    )
    seen = warp(np.ones((40, 50), np.uint8), SHIFTED, (40, 50), "nearest")
    assert (seen == 0).any()
