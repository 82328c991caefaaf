"""Axes of the arrays in files, and the position of a (z, y, x) stack in an array of more axes."""

from collections.abc import Mapping, Sequence

from sparsem.errors import InputError
from sparsem.io.readers.selection import Selection

# The position of a stack in an array, one entry an axis: None is z, a slice is y or x, a number
# is the selected position on another axis.
Index = tuple[int | slice | None, ...]
FULL_AXIS = slice(None)

DEFAULT_AXES = "TCZYX"  # of an array without named axes; shorter arrays have the last of these
MAX_CHANNELS = 4  # in the last axis of an array without named axes


def default_axes(shape: Sequence[int]) -> str:
    """Return a letter for each axis of an array without named axes.

    A short last axis holds channels.
    """
    channels_last = len(shape) >= 3 and shape[-1] <= MAX_CHANNELS
    if len(shape) == 3 and min(shape[:2]) <= MAX_CHANNELS:
        channels_last = False  # as likely a few slices of a tiny stack
    axes = "TZYXC" if channels_last else DEFAULT_AXES
    return axes[-len(shape) :]


def index_of_slices(index: Index, slices: slice) -> tuple[int | slice, ...]:
    """Return the NumPy index of some slices of a stack, in the array that holds the stack."""
    return tuple(slices if position is None else position for position in index)


def stack_layout(
    axes: str, shape: Sequence[int], selection: Selection, name: str
) -> tuple[Index, tuple[int, int, int]]:
    """Locate a stack in an array of more axes.

    Args:
        axes: a letter an axis: T, C, Z, Y, X; I and Q are pages without a stated meaning. C may
            also be the last axis.
        shape: of the array.
        selection: the channel and the time to read, where there are several.
        name: of the file, for messages.

    Returns:
        The index of the stack in the array, and the shape (z, y, x) of the stack.

    Raises:
        InputError: a color image; several channels, times or other axes, and none was selected.
    """
    _refuse_color_axes(axes, shape, selection, name)
    if axes.removesuffix("C")[-2:] != "YX" or not all(shape):
        raise InputError(
            f"{name} has {_lengths(axes, shape)}; expected slices (y, x) one after the other."
        )
    y_axis = axes.index("YX")
    selected = _selected_positions(axes, shape, selection, name)
    used_axes = {y_axis, y_axis + 1, *selected}
    free_axes = [axis for axis in range(len(axes)) if axis not in used_axes]
    long_axes = [axis for axis in free_axes if shape[axis] > 1]
    _refuse_several_stacks(axes, shape, long_axes, name)
    z_axis = _z_axis(axes, free_axes, long_axes)
    depth = 1 if z_axis is None else shape[z_axis]
    index = _index_of_stack(len(axes), y_axis, z_axis, selected)
    return index, (depth, shape[y_axis], shape[y_axis + 1])


def _index_of_stack(
    n_axes: int, y_axis: int, z_axis: int | None, selected: Mapping[int, int]
) -> Index:
    """Return the position of a stack on all axes; 0 on those that are neither z nor selected."""
    index: list[int | slice | None] = [selected.get(axis, 0) for axis in range(n_axes)]
    index[y_axis] = FULL_AXIS
    index[y_axis + 1] = FULL_AXIS
    if z_axis is not None:
        index[z_axis] = None
    return tuple(index)


def _lengths(axes: str, shape: Sequence[int]) -> str:
    return f"the axes {axes} {tuple(shape)}"


def _refuse_color_axes(axes: str, shape: Sequence[int], selection: Selection, name: str) -> None:
    """Refuse an array with an axis of color samples."""
    if "S" not in axes:
        return
    advice = "convert it to gray first"
    if selection.labels:
        advice = "export its numbers of classes or objects instead"
    raise InputError(
        f"{name} is a color image ({axes} {tuple(shape)}); {advice}, or, if these are slices, "
        "save it as such (tifffile: photometric='minisblack')."
    )


def _refuse_several_stacks(
    axes: str, shape: Sequence[int], long_axes: Sequence[int], name: str
) -> None:
    """Refuse an array in which more than one axis could hold slices."""
    names = "".join(axes[axis] for axis in long_axes)
    lengths = _lengths(axes, shape)
    if "C" in names:
        raise InputError(
            f"{name} has {lengths}; expected one channel, "
            "or --channel with its number (the first is 0)."
        )
    if "T" in names and len(long_axes) > 1:
        raise InputError(
            f"{name} has {lengths}; expected one time, or --time with its number (the first is 0)."
        )
    if len(long_axes) > 1:
        raise InputError(f"{name} has {lengths}; expected one channel, (z, y, x).")


def _z_axis(axes: str, free_axes: Sequence[int], long_axes: Sequence[int]) -> int | None:
    """Return the axis along which slices lie; None if the array is a single slice.

    ImageJ calls many stacks a time series: the only long axis is z, whatever its name.
    """
    neither_channel_nor_time = [axis for axis in free_axes if axes[axis] not in "CT"]
    candidates = [*long_axes, *neither_channel_nor_time, *reversed(free_axes)]
    return candidates[0] if candidates else None


def _selected_positions(
    axes: str, shape: Sequence[int], selection: Selection, name: str
) -> dict[int, int]:
    """Return the selected channel and time by the number of their axis."""
    positions: dict[int, int] = {}
    choices = (("C", "channel", selection.channel), ("T", "time", selection.time))
    for letter, axis_name, number in choices:
        if number is None:
            continue
        length = shape[axes.index(letter)] if letter in axes else 1
        if not 0 <= number < length:
            available = f"only 0 to {length - 1}" if length > 1 else "only one, 0"
            raise InputError(
                f"{name} has {_lengths(axes, shape)}; "
                f"there is no {axis_name} {number}, {available}."
            )
        if letter in axes:
            positions[axes.index(letter)] = number
    return positions
