"""Single steps on arrays, without a sample: for notebooks, and for users who need one step only.

Images are (z, y, x) uint8 or uint16; labels are (z, y, x) integers, 0 is background. Voxel sizes
are plain tuples (z, y, x) in nm. Each array passes through a temporary sample on disk, so the
results are exactly those of the stages, and keyword arguments are the settings of the stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.settings import Settings
from sparsem.store.names import BOUNDARY, INTERIOR
from sparsem.store.sample import Sample
from sparsem.store.views import table_for_users
from sparsem.store.volume import FOREGROUND, Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

__all__ = [
    "AlignedImages",
    "align",
    "contacts",
    "equalize",
    "measure",
    "predict",
    "quality",
    "score",
    "separate_cells",
    "separate_objects",
    "skeletons",
    "track",
]

CELLS = "cells"
STRUCTURE = "object"
PARTNER = "partner"
BLOCK_DEPTH = 16
QUIET = Execution(quiet=True)

Image = NDArray[np.uint8] | NDArray[np.uint16]
Labels = NDArray[Any]
VoxelSize = tuple[float, float, float]


class AlignedImages(NamedTuple):
    """An aligned stack.

    Attributes:
        images: (z, y, x) of the dtype of the input, cut to what all slices show.
        motions: (z, 2, 3) float64, from the pixels (y, x, 1) of ``images`` to those of the input.
    """

    images: Image
    motions: NDArray[np.float64]


def align(images: Image, voxel_nm: VoxelSize = (1, 1, 1), **changes: Any) -> AlignedImages:
    """Register every slice to the slices before it; see ``sparsem.align``.

    Args:
        images: (z, y, x) uint8 or uint16.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``align``, for instance ``motion="rigid"``.

    Raises:
        InputError: there is only one slice, or slices are too small.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> tissue = np.random.default_rng(1).integers(0, 255, (96, 96)).astype(np.uint8)
    >>> stack = np.stack([tissue, np.roll(tissue, 3, axis=0), np.roll(tissue, 6, axis=0)])
    >>> aligned = arrays.align(stack)
    >>> np.rint(np.diff(aligned.motions[:, 0, 2])).astype(int).tolist()
    [3, 3]
    """
    from sparsem.preprocess.align import align as align_stage

    with _sample_of(images, voxel_nm) as sample:
        alignment = align_stage(sample, on=QUIET, **changes)
        return AlignedImages(sample.images[alignment.image][...], alignment.motions)


def equalize(images: Image, voxel_nm: VoxelSize = (1, 1, 1), **changes: Any) -> Image:
    """Return images with equalized brightness; see ``sparsem.equalize``.

    Args:
        images: (z, y, x) uint8 or uint16.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``equalize``, for instance ``method="clahe"``.

    Returns:
        (z, y, x) of the dtype of the input.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> tissue = np.random.default_rng(1).integers(60, 120, (5, 64, 64)).astype(np.uint8)
    >>> tissue[2] += 40
    >>> means = arrays.equalize(tissue).mean(axis=(1, 2))
    >>> bool(np.ptp(means) < 2)
    True
    """
    from sparsem.preprocess.equalize import equalize as equalize_stage

    with _sample_of(images, voxel_nm) as sample:
        equalized = equalize_stage(sample, on=QUIET, **changes)
        return _image(sample.images[equalized.image][...])


def predict(
    images: Image, checkpoint: str | Path, voxel_nm: VoxelSize, **changes: Any
) -> dict[str, NDArray[np.uint8]]:
    """Predict the structures of a trained network; see ``sparsem.predict``.

    Args:
        images: (z, y, x) uint8 or uint16.
        checkpoint: a model that ``sparsem.train`` wrote.
        voxel_nm: voxel size (z, y, x) in nm, to which the network is scaled.
        **changes: settings of ``predict``, for instance ``device="cuda"``.

    Returns:
        Structure to its probability map (z, y, x) uint8, round(255 p): foreground from 128 on.

    Raises:
        InputError: the checkpoint is missing or damaged.
        MissingExtraError: torch is not installed.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> images = np.zeros((2, 64, 64), np.uint8)
    >>> probabilities = arrays.predict(images, checkpoint, (8, 8, 8))
    >>> {name: array.shape for name, array in probabilities.items()}
    {'nucleus': (2, 64, 64)}
    """
    from sparsem.segment.predict import predict as predict_stage

    with _sample_of(images, voxel_nm) as sample:
        predict_stage(sample, checkpoint, on=QUIET, **changes)
        return {name: volume[...] for name, volume in sample.probabilities.items()}


def separate_cells(
    interior: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    annotated: Mapping[int, Labels],
    images: Image | None = None,
    voxel_nm: VoxelSize = (1, 1, 1),
    **changes: Any,
) -> NDArray[np.uint32]:
    """Separate cells in every slice, and assign their protrusions.

    See ``sparsem.cells`` and ``sparsem.track``.

    Args:
        interior: (z, y, x) uint8, round(255 p) of the interior of cells.
        boundary: (z, y, x) uint8, round(255 p) of the boundaries between cells.
        annotated: index of a labeled slice to its labels (y, x), one number a cell.
        images: (z, y, x) for the optical flow between slices; ``interior`` if not given.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``cells``, for instance ``method="mask_flow"``.

    Returns:
        (z, y, x) uint32: the annotated number of each cell, protrusions included; objects that
        meet no annotated cell
        have larger numbers.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> first = np.zeros((64, 64), np.uint16)
    >>> first[8:56, 8:31], first[8:56, 33:56] = 1, 2
    >>> interior = np.repeat((first > 0)[None] * np.uint8(255), 5, axis=0)
    >>> boundary = np.repeat((first == 0)[None] * np.uint8(255), 5, axis=0)
    >>> cells = arrays.separate_cells(interior, boundary, {0: first}, voxel_nm=(20, 20, 20))
    >>> np.unique(cells[4]).tolist()
    [0, 1, 2]
    """
    from sparsem.cells.cells import cells as cells_stage
    from sparsem.cells.track import track as track_stage

    with _sample_of(interior if images is None else images, voxel_nm) as sample:
        _write_probability(sample, f"{CELLS}{INTERIOR}", interior)
        _write_probability(sample, f"{CELLS}{BOUNDARY}", boundary)
        slices = sorted(annotated)
        write_annotation(sample, CELLS, slices, (annotated[z] for z in slices))
        cells_stage(sample, on=QUIET, **changes)
        track_stage(sample, on=QUIET)
        labels: NDArray[np.uint32] = sample.labels[CELLS][...]
        return labels


def separate_objects(
    probability: NDArray[np.uint8],
    boundary: NDArray[np.uint8],
    voxel_nm: VoxelSize = (1, 1, 1),
    **changes: Any,
) -> NDArray[np.uint32]:
    """Number the objects of a structure; see ``sparsem.objects``.

    Args:
        probability: (z, y, x) uint8, round(255 p) of the structure: foreground from 128 on.
        boundary: (z, y, x) uint8, round(255 p) of the boundary between objects.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``objects``, for instance ``boundary_threshold=0.3``.

    Returns:
        (z, y, x) uint32: numbers of the objects from 1 on.

    Raises:
        InputError: the arrays differ in shape, or are not uint8.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> probability = np.zeros((8, 16, 33), np.uint8)
    >>> probability[1:7, 3:13, 2:31] = 255
    >>> boundary = np.zeros_like(probability)
    >>> boundary[:, :, 15:18] = 255
    >>> int(arrays.separate_objects(probability, boundary).max())
    2
    """
    from sparsem.labels.objects import objects as objects_stage

    _require_shape(probability.shape, boundary, "boundary")
    for name, array in (("probability", probability), ("boundary", boundary)):
        if array.dtype != np.uint8:
            raise InputError(f"{name} has to be uint8, round(255 p), but it is {array.dtype}.")
    mask = (probability >= FOREGROUND).astype(np.uint8)
    with _labels_sample(mask, voxel_nm, probability) as sample:
        _write_probability(sample, STRUCTURE, probability)
        _write_probability(sample, f"{STRUCTURE}{BOUNDARY}", boundary)
        result = objects_stage(sample, STRUCTURE, on=QUIET, **changes)
        labels: NDArray[np.uint32] = result.labels.read(slice(None))
        return labels


def track(
    regions: Labels,
    n_cells: int,
    voxel_nm: VoxelSize = (1, 1, 1),
    *,
    window_px: int = 512,
    min_volume_um3: float = 0.0,
) -> NDArray[np.uint32]:
    """Join regions of neighboring slices, and assign islands to their cells (paper 3.3).

    Args:
        regions: (z, y, x) integers. 1 to ``n_cells`` are cells, which have the same number in every
            slice. Larger numbers are islands, which are numbered in each slice on their own.
        n_cells: largest number of a cell.
        voxel_nm: voxel size (z, y, x) in nm.
        window_px: edge of the square around an island in which it is compared with other regions.
        min_volume_um3: objects that meet no cell and are smaller are removed.

    Returns:
        (z, y, x) uint32: every island has the number of its cell; objects that meet no cell have
        numbers above ``n_cells``.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> regions = np.zeros((3, 8, 8), np.uint32)
    >>> regions[0, 2:6, 2:6] = 1
    >>> regions[1, 2:6, 2:4], regions[2, 2:6, 2:4] = 1, 5
    >>> arrays.track(regions, 1)[2].max().item()
    1
    """
    from sparsem.cells.linking import (
        link_slices,
        relabel_islands,
        remove_fragments,
        resolve_tracks,
    )

    numbered, islands, pixels = _number_islands(np.asarray(regions, np.uint32), n_cells)
    links = [link_slices(lower, upper, n_cells, window_px) for lower, upper in pairwise(numbered)]
    tracks = resolve_tracks(links, islands, n_cells)
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    tracks, _ = remove_fragments(tracks, pixels, n_cells, min_volume_um3 / voxel_um3)
    relabeled = [
        relabel_islands(plane, tracks.identity[of_slice], n_cells)
        for plane, of_slice in zip(numbered, tracks.of_slice, strict=True)
    ]
    return np.stack(relabeled)


def measure(
    labels: Labels, voxel_nm: VoxelSize, images: Image | None = None, **changes: Any
) -> Any:
    """Measure every object; see ``sparsem.measure``.

    Args:
        labels: (z, y, x). A mask (one number except 0) is split into connected objects; other
            numbers are objects.
        voxel_nm: voxel size (z, y, x) in nm.
        images: (z, y, x) for the texture; without it no texture is measured.
        **changes: settings of ``measure``.

    Returns:
        One row per object, units in the column names: a pandas.DataFrame, or a pyarrow.Table where
            pandas is not
        installed.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> labels = np.zeros((12, 12, 12), np.uint16)
    >>> labels[2:8, 2:8, 2:8] = 7
    >>> labels[9:12, 9:12, 9:12] = 9
    >>> table = arrays.measure(labels, (100, 100, 100))
    >>> [round(float(volume), 3) for volume in table["volume_um3"]]
    [0.216, 0.027]
    """
    from sparsem.measure.measure import measure as measure_stage

    with _labels_sample(labels, voxel_nm, images) as sample:
        changes.setdefault("texture", images is not None)
        measure_stage(sample, on=QUIET, **changes)
        return table_for_users(sample.read_table(STRUCTURE))


def contacts(
    first: Labels, second: Labels | None = None, voxel_nm: VoxelSize = (1, 1, 1), **changes: Any
) -> Any:
    """Measure the contacts of the objects of two structures; see ``sparsem.contacts``.

    Args:
        first: (z, y, x). A mask is split into connected objects; other numbers are objects.
        second: (z, y, x); contacts between the objects of ``first`` if not given.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``contacts``, for instance ``distance_nm=20``.

    Returns:
        One row per pair of objects in contact, units in the column names: a pandas.DataFrame, or a
        pyarrow.Table where pandas is not installed.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> labels = np.zeros((30, 30, 40), np.uint16)
    >>> labels[5:25, 5:25, 2:18], labels[5:25, 5:25, 20:36] = 1, 2
    >>> table = arrays.contacts(labels, voxel_nm=(10, 10, 10))
    >>> (len(table["first"]), round(float(table["min_distance_nm"][0])))
    (1, 20)
    """
    from sparsem.measure.contacts import contacts as contacts_stage

    if second is not None:
        _require_shape(first.shape, second, "second")
    with _labels_sample(first, voxel_nm, None) as sample:
        names = [STRUCTURE]
        if second is not None:
            _import_array(sample.path, PARTNER, second, voxel_nm)
            names.append(PARTNER)
        for name in names:
            _number_masks(sample, name)
        contacts_stage(sample, names[0], names[-1], on=QUIET, **changes)
        table = sample.read_table(f"contacts_{names[0]}_{names[-1]}")
        for column, name in zip(("first", "second"), (names[0], names[-1]), strict=True):
            table = _with_given_numbers(sample, name, table, column)
        return table_for_users(table)


def skeletons(labels: Labels, voxel_nm: VoxelSize = (1, 1, 1), **changes: Any) -> tuple[Any, Any]:
    """Measure the skeleton of every object; see ``sparsem.skeletons``.

    Args:
        labels: (z, y, x). A mask is split into connected objects; other numbers are objects.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``skeletons``.

    Returns:
        A table of one row per object, and one of one row per point of a center line; each is a
        pandas.DataFrame, or a pyarrow.Table where pandas is not installed.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> labels = np.zeros((20, 20, 60), np.uint16)
    >>> labels[6:14, 6:14, 5:55], labels[0, 0, 0] = 3, 9
    >>> table, lines = arrays.skeletons(labels, (100, 100, 100))
    >>> (int(table["object"][0]), int(table["branches"][0]), int(table["ends"][0]))
    (3, 1, 2)
    """
    from sparsem.measure.skeletons import skeletons as skeletons_stage

    with _labels_sample(labels, voxel_nm, None) as sample:
        _number_masks(sample, STRUCTURE)
        skeletons_stage(sample, STRUCTURE, on=QUIET, **changes)
        tables = [
            _with_given_numbers(sample, STRUCTURE, sample.read_table(name), "object")
            for name in (f"skeletons_{STRUCTURE}", f"skeleton_lines_{STRUCTURE}")
        ]
        objects, lines = map(table_for_users, tables)
        return objects, lines


def score(
    labels: Labels,
    truth: Labels,
    voxel_nm: VoxelSize = (1, 1, 1),
    slices: Sequence[int] | str = "all",
    **changes: Any,
) -> dict[str, float | None]:
    """Compare labels with ground truth; see ``sparsem.score``.

    Args:
        labels: (z, y, x).
        truth: (z, y, x).
        voxel_nm: voxel size (z, y, x) in nm.
        slices: the slices that the ground truth labels: indices, ``"non-empty"`` or ``"all"``.
        **changes: settings of ``score``, for instance ``instances=True``.

    Returns:
        Dice, precision and recall of all voxels (``dice_3d``, ...), the mean Dice of the slices
        (``dice_slices``), and with
        ``instances=True`` the scores of objects.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> truth = np.zeros((2, 8, 8), np.uint8)
    >>> truth[:, 2:6, 2:6] = 1
    >>> labels = truth.copy()
    >>> labels[:, 4:6] = 0
    >>> round(arrays.score(labels, truth)["dice_3d"], 3)
    0.667
    """
    from sparsem.score.score import score as score_stage

    with _labels_sample(labels, voxel_nm, None) as sample:
        truth_file = sample.path.parent / "truth.npy"
        np.save(truth_file, truth)
        listed = slices if isinstance(slices, str) else ",".join(map(str, slices))
        scores = score_stage(sample, STRUCTURE, truth_file, on=QUIET, slices=listed, **changes)
        return scores.summary(None) | scores.of_cells(None)


def quality(images: Image, voxel_nm: VoxelSize = (1, 1, 1), **changes: Any) -> Any:
    """Measure noise, sharpness, stripes and other properties of every slice.

    See ``sparsem.quality``.

    Args:
        images: (z, y, x) uint8 or uint16.
        voxel_nm: voxel size (z, y, x) in nm.
        **changes: settings of ``quality``.

    Returns:
        One row per slice: a pandas.DataFrame, or a pyarrow.Table where pandas is not installed.

    >>> import numpy as np
    >>> from sparsem import arrays
    >>> images = np.random.default_rng(1).normal(128, 20, (4, 128, 128)).astype(np.uint8)
    >>> len(arrays.quality(images)["noise"])
    4
    """
    from sparsem.quality.quality import quality as quality_stage

    with _sample_of(images, voxel_nm) as sample:
        quality_stage(sample, on=QUIET, **changes)
        return table_for_users(sample.read_table("quality_raw"))


def _require_shape(shape: tuple[int, ...], array: NDArray[Any], name: str) -> None:
    """Check that an array has a shape.

    Raises:
        InputError: it has another one.
    """
    if array.shape != shape:
        raise InputError(f"'{name}' has the shape {array.shape}, but the first array has {shape}.")


def _with_given_numbers(sample: Sample, name: str, table: pa.Table, column: str) -> pa.Table:
    """Return a table with the numbers that objects had in the given array.

    Numbers that do not fit into 32 bits were replaced at import.
    """
    renumbering = f"label_ids_{name}"
    if renumbering not in sample.tables:
        return table
    numbers = sample.read_table(renumbering)
    given = dict(zip(numbers["id"].to_pylist(), numbers["file_id"].to_pylist(), strict=True))
    values = [given[number] for number in table[column].to_pylist()]
    index = table.column_names.index(column)
    return table.set_column(index, column, pa.array(values, pa.uint64()))


def _image(array: NDArray[Any]) -> Image:
    return array


@contextmanager
def _sample_of(images: Image, voxel_nm: VoxelSize) -> Iterator[Sample]:
    """Yield a temporary sample with an array as its raw image."""
    with TemporaryDirectory(prefix="sparsem-") as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images)
        settings = ImportSettings(voxel_nm=voxel_nm, block_depth=BLOCK_DEPTH)
        yield import_stack(file, Path(folder) / "sample.zarr", settings, on=QUIET)


@contextmanager
def _labels_sample(labels: Labels, voxel_nm: VoxelSize, images: Image | None) -> Iterator[Sample]:
    """Yield a temporary sample with an array as labels, and another as its raw image."""
    with TemporaryDirectory(prefix="sparsem-") as folder:
        path = Path(folder) / "sample.zarr"
        if images is not None:
            settings = ImportSettings(voxel_nm=voxel_nm, block_depth=BLOCK_DEPTH)
            np.save(Path(folder) / "images.npy", images)
            import_stack(Path(folder) / "images.npy", path, settings, on=QUIET)
        yield _import_array(path, STRUCTURE, labels, voxel_nm)


def _import_array(path: Path, name: str, labels: Labels, voxel_nm: VoxelSize) -> Sample:
    """Import an array as labels of a sample."""
    file = path.parent / f"{name}.npy"
    np.save(file, labels)
    settings = ImportSettings(voxel_nm=voxel_nm, block_depth=BLOCK_DEPTH)
    return import_labels(path, name, file, settings, on=QUIET)


def _number_masks(sample: Sample, name: str) -> None:
    """Number the connected objects of labels that are a mask."""
    from sparsem.labels.objects import objects as objects_stage

    if sample.volume("labels", name).dtype == np.uint8:
        objects_stage(sample, name, min_voxels=1, on=QUIET)


def _write_probability(sample: Sample, name: str, probabilities: NDArray[np.uint8]) -> None:
    """Write an array as ``probabilities/NAME``."""
    image = sample.image("raw")
    path = f"probabilities/{name}"
    file = sample.path.parent / f"{name}.npy"
    np.save(file, np.asarray(probabilities, np.uint8))
    made_on = ("raw", image.fingerprint)
    spec = volume_spec(
        path,
        image.shape,
        np.uint8,
        Kind.PROBABILITY,
        image.voxel_size,
        image.block_depth,
        made_on,
    )
    with Stage(sample, f"write-{name}", Settings(), {"image": made_on[1]}, [spec], QUIET) as stage:
        stage.map(_block_of_file, image.blocks(), file, path)


def _block_of_file(block: ZBlock, file: Path, path: str) -> BlockResult:
    array = np.load(file, mmap_mode="r")
    return {path: np.ascontiguousarray(array[block.own])}, {}


def _number_islands(
    regions: NDArray[np.uint32], n_cells: int
) -> tuple[list[NDArray[np.uint32]], list[int], list[NDArray[np.int64]]]:
    """Number the islands of each slice consecutively from ``n_cells + 1``.

    Also return their number and pixels.
    """
    planes = []
    counts = []
    pixels = []
    for plane in regions:
        islands = np.unique(plane[plane > n_cells])
        numbers = np.searchsorted(islands, plane).astype(np.uint32) + np.uint32(n_cells + 1)
        numbered = np.where(plane > n_cells, numbers, plane)
        planes.append(numbered)
        counts.append(len(islands))
        positions = np.searchsorted(islands, plane[plane > n_cells])
        pixels.append(np.bincount(positions, minlength=len(islands)).astype(np.int64))
    return planes, counts, pixels
