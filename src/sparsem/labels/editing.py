"""Editing of numbered objects: merge, split, delete, keep, relabel, fill. Arrays in, arrays out.

Labels are (z, y, x) integers, 0 is background. Every function returns a new array of the same type
and leaves its input as it is. Ids that are not in the labels are refused, since a command that
changes nothing is a mistake.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects
from skimage.segmentation import watershed

from sparsem.errors import InputError
from sparsem.labels.distance_transform import distances_inside
from sparsem.labels.overlaps import positions_in
from sparsem.store.summary import list_first

Labels = NDArray[Any]
Positions = Sequence[Sequence[int]]


def replace_ids(labels: Labels, new_ids: Mapping[int, int]) -> Labels:
    """Return labels in which objects have other ids; ids that do not occur are ignored."""
    old = np.array(sorted(new_ids), np.int64)
    new = np.array([0, *(new_ids[number] for number in old.tolist())], labels.dtype)
    positions = positions_in(old, labels)
    return np.where(positions > 0, new[positions], labels)


def merge_objects(labels: Labels, ids: Sequence[int]) -> Labels:
    """Give several objects one id, the smallest of theirs.

    Raises:
        InputError: fewer than two ids are given, or one is not in the labels.
    """
    if len(set(ids)) < 2:
        raise InputError(f"Merging needs two objects or more; got {list_first(ids)}.")
    _require_ids(labels, ids)
    return replace_ids(labels, dict.fromkeys(ids, min(ids)))


def delete_objects(labels: Labels, ids: Sequence[int]) -> Labels:
    """Make objects background.

    Raises:
        InputError: an id is not in the labels.
    """
    _require_ids(labels, ids)
    return replace_ids(labels, dict.fromkeys(ids, 0))


def keep_objects(labels: Labels, ids: Sequence[int]) -> Labels:
    """Make everything but some objects background.

    Raises:
        InputError: an id is not in the labels.
    """
    _require_ids(labels, ids)
    return np.where(np.isin(labels, ids), labels, np.zeros((), labels.dtype))


def relabel_object(labels: Labels, old: int, new: int) -> Labels:
    """Give an object another id, which no object has.

    Raises:
        InputError: ``old`` is not in the labels, or ``new`` is, or it is no valid id.
    """
    _require_ids(labels, [old])
    if not 0 < new <= np.iinfo(labels.dtype).max:
        raise InputError(f"An id is an integer from 1 to {np.iinfo(labels.dtype).max}; got {new}.")
    if (labels == new).any():
        raise InputError(
            f"There is an object {new} already; merge {old} with it, or use another id."
        )
    return replace_ids(labels, {old: new})


def fill_objects(labels: Labels, ids: Sequence[int], slice_by_slice: bool = False) -> Labels:
    """Fill the cavities of objects, which they enclose on all sides.

    Only background is filled: other objects inside a cavity stay.

    Args:
        labels: (z, y, x).
        ids: the objects to fill.
        slice_by_slice: also fill holes that are enclosed in a slice, and open above or below.

    Raises:
        InputError: an id is not in the labels.
    """
    _require_ids(labels, ids)
    filled = labels.copy()
    for object_id in ids:
        box = _box_of(labels, object_id)
        inside = labels[box] == object_id
        if slice_by_slice:
            solid = np.stack([binary_fill_holes(plane) for plane in inside])
        else:
            solid = binary_fill_holes(inside)
        part = filled[box]
        part[solid & (part == 0)] = object_id
    return filled


def split_object(
    labels: Labels,
    object_id: int,
    first: Positions,
    second: Positions,
    probability: NDArray[np.uint8] | None = None,
    voxel_nm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Labels:
    """Split an object in two, where it is least probable, or else where it is narrowest.

    The object is flooded from seeds on either side, from the most probable voxels to the least
    probable ones; among equally probable ones, and without probabilities, from the deepest voxels
    on. Parts that no seed reaches keep the id.

    Args:
        labels: (z, y, x).
        object_id: the object.
        first: voxels (z, y, x) of the part that keeps the id: a point, or those of a drawn line.
        second: voxels of the part that gets a new id, the next after the largest.
        probability: (z, y, x) round(255 p) of the structure; None if it is not known.
        voxel_nm: voxel size, for depths.

    Raises:
        InputError: a seed lies outside of the object, the parts share a seed, or no new id is left.
    """
    _require_ids(labels, [object_id])
    new_id = int(labels.max()) + 1
    if new_id > np.iinfo(labels.dtype).max:
        raise InputError(f"There is no free id above {new_id - 1} in labels of {labels.dtype}.")
    box = _box_of(labels, object_id)
    corner = [axis.start for axis in box]
    parts = split_mask(
        labels[box] == object_id,
        first,
        second,
        None if probability is None else probability[box],
        voxel_nm,
        corner,
    )
    result = labels.copy()
    result[box][parts == 2] = new_id
    return result


def split_mask(
    inside: NDArray[np.bool_],
    first: Positions | NDArray[np.int64],
    second: Positions | NDArray[np.int64],
    probability: NDArray[np.uint8] | None = None,
    voxel_nm: Sequence[float] = (1.0, 1.0, 1.0),
    corner: Sequence[int] = (0, 0, 0),
) -> NDArray[np.uint8]:
    """Return the parts 1 and 2 of a mask (z, y, x) that floods from two sets of seeds reach.

    0 is outside of the mask, or reached by no flood. The arguments are those of ``split_object``,
    for the mask of one object; ``corner`` is the position of the mask in the labels.

    Raises:
        InputError: a seed lies outside of the mask, or the parts share a seed.
    """
    seeds = [np.reshape(positions, (-1, 3)).astype(np.int64) for positions in (first, second)]
    _check_seeds(inside, seeds[0], seeds[1], corner)
    markers = np.zeros(inside.shape, np.int32)
    for marker, positions in enumerate(seeds, 1):
        markers[tuple((positions - corner).T)] = marker
    height = _flood_height(inside, probability, voxel_nm)
    return np.asarray(watershed(height, markers, mask=inside), np.uint8)


def _flood_height(
    inside: NDArray[np.bool_], probability: NDArray[np.uint8] | None, voxel_nm: Sequence[float]
) -> NDArray[np.float32]:
    """Return the height of every voxel for flooding: probable and deep voxels are low."""
    depth = distances_inside(inside, voxel_nm, closed=True)
    relative_depth = depth / max(float(depth.max()), 1e-9)  # 0..1, less than a step of 1 / 255
    if probability is None:
        return np.asarray(-relative_depth, np.float32)
    return np.asarray(255.0 - probability - 0.5 * relative_depth, np.float32)


def _check_seeds(
    inside: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    corner: Sequence[int],
) -> None:
    """Check that the seeds (n, 3) of both parts lie in a mask, and differ."""
    if not len(first) or not len(second):
        raise InputError("A split needs at least one voxel on either side.")
    positions = np.concatenate([first, second])
    in_box = positions - corner
    is_inside = np.all((in_box >= 0) & (in_box < inside.shape), axis=1)
    within = in_box[is_inside]
    is_inside[is_inside] = inside[within[:, 0], within[:, 1], within[:, 2]]
    if not is_inside.all():
        z, y, x = positions[~is_inside][0].tolist()
        raise InputError(f"The voxel {z}, {y}, {x} (z, y, x) does not lie in the object.")
    shared = set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))
    if shared:
        raise InputError(f"The voxel {', '.join(map(str, min(shared)))} is a seed of both parts.")


def _box_of(labels: Labels, object_id: int) -> tuple[slice, ...]:
    """Return the bounding box of an object."""
    box: tuple[slice, ...] = find_objects((labels == object_id).astype(np.uint8))[0]
    return box


def _require_ids(labels: Labels, ids: Sequence[int]) -> None:
    """Check that all ids are in the labels.

    Raises:
        InputError: one is not, or is 0, the background.
    """
    missing = sorted(set(ids) - set(np.unique(labels).tolist())) + [0] * (0 in ids)
    if missing or not len(ids):
        raise InputError(f"The labels have no object {list_first(missing) or '(none was given)'}.")
