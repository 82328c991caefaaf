"""Images of bright discs and dark squares with boxes, on which detectors are trained in seconds."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes
from sparsem.boxes.tables import write_annotated_boxes
from sparsem.geometry import VoxelSize, z_blocks
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import HERE
from sparsem.workflow.stage import Stage

NAMES = ("disc", "square")
APART = 4  # px between objects

SpotImage = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int16]]


def spot_image(
    seed: int, shape: tuple[int, int], count: int = 7, edge: tuple[int, int] = (14, 30)
) -> SpotImage:
    """Gray (y, x), corners (n, 4) and kinds (n,) of objects that do not touch."""
    random = np.random.default_rng(seed)
    gray = random.normal(128, 8, shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    corners: list[tuple[int, int, int, int]] = []
    kinds = []
    for number in range(count * 10):
        size = int(random.integers(*edge))
        top, left = (int(random.integers(0, length - size)) for length in shape)
        box = (left, top, left + size, top + size)
        if len(corners) == count or any(_touch(box, neighbor) for neighbor in corners):
            continue
        kind = number % 2
        area = (slice(top, top + size), slice(left, left + size))
        if kind == 0:
            middle = (size - 1) / 2
            gray[area][np.hypot(y[area] - top - middle, x[area] - left - middle) <= size / 2] = 220
        else:
            gray[area] = 40
        corners.append(box)
        kinds.append(kind)
    return (
        np.clip(gray, 1, 255).astype(np.uint8),
        np.array(corners, np.float32).reshape(-1, 4),
        np.array(kinds, np.int16),
    )


def _touch(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return all(
        first[axis] < second[axis + 2] + APART and second[axis] < first[axis + 2] + APART
        for axis in (0, 1)
    )


def sample_of(
    path: Path, shape: tuple[int, int, int], seed: int = 0, annotate: bool = True, count: int = 7
) -> tuple[Sample, Boxes]:
    """Return a sample of such images, and the boxes in it."""
    images = [spot_image(seed * 1000 + z, shape[1:], count) for z in range(shape[0])]
    sample = Sample.create(path)
    spec = volume_spec("", shape, np.uint8, Kind.IMAGE, VoxelSize(50, 10, 10), 2)
    voxels = np.stack([gray for gray, _, _ in images])
    with Stage(sample, "import", Settings(), {"seed": str(seed)}, [spec], HERE) as stage:
        stage.map(lambda block: ({"": voxels[block.own]}, {}), z_blocks(shape[0], 2))
    z = np.concatenate([np.full(len(kind), number) for number, (_, _, kind) in enumerate(images)])
    boxes = Boxes.from_arrays(
        NAMES,
        z,
        np.concatenate([kind for _, _, kind in images]),
        np.concatenate([corners for _, corners, _ in images]),
    )
    if annotate:
        for name in NAMES:
            write_annotated_boxes(
                sample, boxes.of_structure(name), range(shape[0]), "raw", overwrite=False
            )
    return sample, boxes
