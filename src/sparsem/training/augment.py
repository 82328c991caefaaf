"""Augmentation: arrays in, arrays out; every random draw comes from the generator passed in.

A tile is a pair: the image (K, y, x) float32, standardized, a slice in the middle of its K - 1
adjacent slices; and the target (C, y, x) uint8.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Tile = tuple[NDArray[np.float32], NDArray[np.uint8]]


def flip_and_rotate(tile: Tile, random: np.random.Generator) -> Tile:
    """Apply one of the eight flips and quarter turns to a square tile.

    The adjacent slices above and below are swapped half of the time.
    """
    image, target = tile
    quarter_turns = int(random.integers(4))
    is_flipped = random.random() < 0.5
    if is_flipped:
        image = image[..., ::-1]
        target = target[..., ::-1]
    if len(image) > 1 and random.random() < 0.5:
        image = image[::-1]
    rotated_image = np.rot90(image, quarter_turns, axes=(1, 2))
    rotated_target = np.rot90(target, quarter_turns, axes=(1, 2))
    return rotated_image, rotated_target


def vary_intensity(
    image: NDArray[np.float32], random: np.random.Generator, strength: float
) -> NDArray[np.float32]:
    """Change brightness and contrast, and sometimes add noise or blur.

    The slices of one stack differ in the same ways. ``strength`` is the range of the brightness
    shift in standard deviations of the image; the other changes are proportional to it.
    """
    gain = np.exp(random.uniform(-strength, strength))
    shift = random.uniform(-strength, strength)
    image = (image * np.float32(gain) + np.float32(shift)).astype(np.float32)
    if random.random() < 0.3:
        noise = random.standard_normal(image.shape, np.float32)
        image = image + noise * np.float32(random.uniform(0, strength))
    if random.random() < 0.2:
        sigma = random.uniform(0.4, 0.4 + 3 * strength)
        blurred = [cv2.GaussianBlur(np.ascontiguousarray(plane), (0, 0), sigma) for plane in image]
        image = np.stack(blurred)
    return image
