"""Augmentation: arrays in, arrays out, every draw from the generator that is passed in.

A tile is a pair: image (K, y, x) float32, standardized, the slice in the middle of its K - 1 neighbors; target (C, y, x) uint8.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Tile = tuple[NDArray[np.float32], NDArray[np.uint8]]


def flip_and_rotate(tile: Tile, random: np.random.Generator) -> Tile:
    """One of the eight flips and quarter turns of a square tile; neighbors above and below change places half of the time."""
    image, target = tile
    turns, mirror = int(random.integers(4)), random.random() < 0.5
    if mirror:
        image, target = image[..., ::-1], target[..., ::-1]
    if len(image) > 1 and random.random() < 0.5:
        image = image[::-1]
    return np.rot90(image, turns, axes=(1, 2)), np.rot90(target, turns, axes=(1, 2))


def vary_intensity(
    image: NDArray[np.float32], random: np.random.Generator, strength: float
) -> NDArray[np.float32]:
    """Other brightness and contrast, and now and then noise or blur, as slices of one stack differ in them.

    ``strength`` is the range of the brightness shift in standard deviations of the image; the rest is in proportion.
    """
    gain, shift = np.exp(random.uniform(-strength, strength)), random.uniform(-strength, strength)
    image = (image * np.float32(gain) + np.float32(shift)).astype(np.float32)
    if random.random() < 0.3:
        noise = random.standard_normal(image.shape, np.float32)
        image = image + noise * np.float32(random.uniform(0, strength))
    if random.random() < 0.2:
        sigma = random.uniform(0.4, 0.4 + 3 * strength)
        image = np.stack(
            [cv2.GaussianBlur(np.ascontiguousarray(one), (0, 0), sigma) for one in image]
        )
    return image
