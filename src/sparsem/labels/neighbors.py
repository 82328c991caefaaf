"""Neighbors along one axis of a volume (z, y, x)."""

Index = tuple[slice, ...]


def neighbor_slices(axis: int) -> tuple[Index, Index]:
    """Return the indices of all voxels but the last along an axis, and of all but the first.

    Voxels at the same position of ``volume[lower]`` and ``volume[upper]`` are neighbors.
    """
    lower: list[slice] = [slice(None)] * 3
    upper: list[slice] = [slice(None)] * 3
    lower[axis] = slice(None, -1)
    upper[axis] = slice(1, None)
    return tuple(lower), tuple(upper)
