"""Side views: slices across y and x, predicted by a network that was trained on slices across z.

Where two objects touch parallel to the slices, no slice shows a boundary between them, but slices
across y and x do. Where voxels are about as long as wide, such a slice looks like any other.

The volume is divided into slabs across z, which do not depend on the blocks: a slab is the middle
of a tile of the network, whose margins are its context above and below. Every strip of a slab is
predicted independently of all others. A view is smooth within its slices and rough across them, so
that it is smoothed across them before the views are combined.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.models.checkpoint import Recipe
from sparsem.segment.ensemble import predict_voxels
from sparsem.segment.inference import quantize_probability
from sparsem.segment.settings import PredictSettings
from sparsem.store.names import BOUNDARY
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage, link_arrays

STRIP = 256  # rows or columns that are predicted at once, at most
STRIP_VOXELS = 2**27  # of a slab; narrower strips are predicted where tiles span many slices
# A side view of voxels that are longer than this multiple of a pixel is too blurred.
MAX_ELONGATION = 2.0
AXES = ("y", "x")  # that side views are across
WEIGHTS = (1, 4, 6, 4, 1)  # binomial filter across the slices of a side view
REACH = 2  # slices of the filter on either side

Bytes = NDArray[np.uint8]


class SideStrip(NamedTuple):
    """Slices across y or x in a slab.

    Attributes:
        axis: y or x.
        slab: own slices of the slab, and those that the network sees.
        start: first row or column.
        stop: last row or column plus one.
    """

    axis: str
    slab: ZBlock
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of the results of the strip."""
        return f"{self.axis}-{self.slab.start}-{self.start}"


class SideViews(NamedTuple):
    """The predicted side views of a volume, on disk.

    Attributes:
        folder: folder of the results of all strips.
        strips: the strips.
    """

    folder: Path
    strips: Sequence[SideStrip]

    def read(self, axis: str, block: ZBlock, out: Bytes) -> None:
        """Write the probabilities of a block, (structures, z, y, x), into an array."""
        for strip in self.strips:
            first = max(strip.slab.start, block.start)
            stop = min(strip.slab.stop, block.stop)
            if strip.axis != axis or first >= stop:
                continue
            stored = link_arrays(self.folder, strip.name, 0)["probabilities"]
            part = np.asarray(stored[first - strip.slab.start : stop - strip.slab.start])
            slices = out[:, first - block.start : stop - block.start]
            across = slice(strip.start, strip.stop)
            box = (..., across, slice(None)) if axis == "y" else (..., across)
            slices[box] = part.swapaxes(0, 1)


def require_side_views(sample: Sample, image: Volume) -> None:
    """Check that slices across y and x look like slices across z.

    Raises:
        SampleError: they do not, or the image is no stack.
    """
    voxel = image.voxel_size
    if image.sizes:
        raise SampleError(
            f"{sample.path.name} holds separate images, which have no side views; leave out "
            "--views 3."
        )
    ratio = voxel.z / min(voxel.y, voxel.x)
    if not 1 / MAX_ELONGATION <= ratio <= MAX_ELONGATION:
        edges = " x ".join(f"{edge:g}" for edge in voxel)
        raise SampleError(
            "--views 3 needs voxels that are about as long as wide, so that the network recognizes "
            f"slices across y and x; those of {sample.path.name} are {edges} nm (z y x). Leave it "
            "out."
        )


def predict_side_views(
    stage: Stage,
    image: Volume,
    models: Sequence[Path],
    recipes: Sequence[Recipe],
    settings: PredictSettings,
) -> SideViews:
    """Predict slices across y and x, strip by strip, and keep them until the stage ends.

    Args:
        stage: the stage that combines the views.
        image: the image.
        models: checkpoints with the same structures.
        recipes: their recipes.
        settings: settings of the prediction.
    """
    strips = side_strips(image, recipes, settings)
    chains = {strip.name: [strip] for strip in strips}
    title = f"{stage.name}, side views"
    folder = stage.chain(title, predict_strip, chains, image, models, recipes, settings)
    return SideViews(folder, strips)


def side_strips(
    image: Volume, recipes: Sequence[Recipe], settings: PredictSettings
) -> list[SideStrip]:
    """Return the strips of both side views."""
    tile = _tile_slices(image.voxel_size, recipes)
    margin = round(settings.overlap * tile / 2)
    step = max(1, tile - 2 * margin)
    strips = []
    for block in z_blocks(image.shape[0], step):
        read_start = block.start - margin
        slab = block._replace(read_start=read_start, read_stop=read_start + tile)
        for axis, length in zip(AXES, image.shape[1:], strict=True):
            parts = z_blocks(length, _strip_width(image, tile))
            strips += [SideStrip(axis, slab, part.start, part.stop) for part in parts]
    return strips


def _strip_width(image: Volume, tile: int) -> int:
    """Return the rows or columns of a strip; they change the memory, not the result."""
    return min(STRIP, max(1, STRIP_VOXELS // (tile * max(image.shape[1:]))))


def _tile_slices(voxel: VoxelSize, recipes: Sequence[Recipe]) -> int:
    """Return how many slices a tile of the smallest network spans in a side view."""
    spans = [recipe.input_px * recipe.factors(_side_voxel(voxel, "y"))[0] for recipe in recipes]
    return max(2, int(min(spans)))


def _side_voxel(voxel: VoxelSize, axis: str) -> VoxelSize:
    """Return the edges of voxels whose slices are across an axis: its rows are along z."""
    if axis == "y":
        return VoxelSize(voxel.y, voxel.z, voxel.x)
    return VoxelSize(voxel.x, voxel.z, voxel.y)


def predict_strip(
    strip: SideStrip,
    _previous: None,
    image: Volume,
    models: Sequence[Path],
    recipes: Sequence[Recipe],
    settings: PredictSettings,
) -> Arrays:
    """Predict the slices of a strip.

    Returns:
        ``probabilities``, (z, structures, y, x) uint8, of the own slices of its slab.
    """
    n_slices = image.shape[1 + AXES.index(strip.axis)]
    first, stop = max(0, strip.start - REACH), min(n_slices, strip.stop + REACH)
    halo = max(recipe.adjacent_slices for recipe in recipes)
    read_start = max(0, first - halo)
    voxels = _read_slices(image, strip, read_start, stop + halo)
    voxel = _side_voxel(image.voxel_size, strip.axis)
    predicted = slice(first - read_start, stop - read_start)
    _, predictions = predict_voxels(voxels, voxel, models, (), settings, predicted)
    inner = strip.slab.inner
    slices = [quantize_probability(prediction.mean[:, inner]) for prediction in predictions]
    positions = range(strip.start - first, strip.stop - first)
    smooth = [_smooth_across(slices, position, n_slices - first) for position in positions]
    return {"probabilities": _as_volume(smooth, strip.axis)}


def _as_volume(slices: Sequence[Bytes], axis: str) -> Bytes:
    """Return (z, structures, y, x) from slices (structures, z, other axis) across an axis."""
    order = (2, 1, 0, 3) if axis == "y" else (2, 1, 3, 0)
    return np.ascontiguousarray(np.stack(slices).transpose(order))


def _smooth_across(slices: Sequence[Bytes], position: int, stop: int) -> Bytes:
    """Return a slice, smoothed with its neighbors; beyond the first and last slice these repeat.

    Args:
        slices: consecutive slices, whose first may be that of the volume.
        position: of the slice.
        stop: position after the last slice of the volume.
    """
    total = np.zeros(slices[0].shape, np.uint16)
    for step, weight in enumerate(WEIGHTS, -REACH):
        total += weight * slices[min(max(position + step, 0), stop - 1)].astype(np.uint16)
    return ((total + 8) // 16).astype(np.uint8)


def _read_slices(image: Volume, strip: SideStrip, first: int, stop: int) -> NDArray[Any]:
    """Return slices across the axis of a strip, (slice, z, other axis), from ``first`` on.

    They end at the border of the volume, and before ``stop``. Beyond the first and the last slice
    of the stack they continue by reflection.
    """
    slab = strip.slab
    low, high = max(0, slab.read_start), min(image.shape[0], slab.read_stop)
    missing = (low - slab.read_start, slab.read_stop - high)
    stack = image.lazy()
    in_y = strip.axis == "y"
    voxels = stack[low:high, first:stop] if in_y else stack[low:high, :, first:stop]
    padded = np.pad(voxels, (missing, (0, 0), (0, 0)), mode="reflect")
    return np.ascontiguousarray(np.moveaxis(padded, 1 if in_y else 2, 0))


def combine_views(structures: Sequence[str], views: Sequence[Bytes]) -> Bytes:
    """Return the probabilities of structures from those of three views, (structures, z, y, x).

    A probability is the mean of the views. The boundary between objects or cells is where any
    view shows it: it is the largest.

    Args:
        structures: names of the structures.
        views: probabilities (structures, z, y, x) of slices across z, y and x.
    """
    total = np.zeros(views[0].shape, np.uint16)
    for view in views:
        total += view
    combined = ((total + 1) // 3).astype(np.uint8)
    for channel, name in enumerate(structures):
        if name.endswith(BOUNDARY):
            np.maximum.reduce([view[channel] for view in views], out=combined[channel])
    return combined


def side_view_bytes(
    image: Volume, recipes: Sequence[Recipe], settings: PredictSettings
) -> tuple[int, int]:
    """Return the memory of a strip or of the side views of a block, and their space on disk."""
    depth, height, width = image.shape
    n_structures = len(recipes[0].structures)
    tile = _tile_slices(image.voxel_size, recipes)
    # A strip: the image padded and turned; its predictions, smooth, joined and turned.
    strip_voxels = tile * (_strip_width(image, tile) + 2 * REACH) * max(height, width)
    strip = strip_voxels * (3 * image.dtype.itemsize + 4 * n_structures)
    block = 2 * image.block_depth * height * width * n_structures
    return max(strip, block), depth * height * width * n_structures
