"""Zarr, versions 2 and 3, and OME-Zarr, 0.4 and 0.5."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import (
    DEFAULT_AXES,
    Index,
    default_axes,
    index_of_slices,
    stack_layout,
)
from sparsem.io.readers.damage import UNREADABLE, refuse_damaged_file
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import Source
from sparsem.io.readers.units import (
    StatedLength,
    axis_lengths_nm,
    length_faults,
    stated_length,
)
from sparsem.io.readers.zarr_missing import missing_chunks

METADATA_FILES = ("zarr.json", ".zgroup", ".zarray")


class _Level(NamedTuple):
    """Axes and voxel lengths of an array, as OME-Zarr metadata state them.

    Attributes:
        axes: a letter an axis; empty if they have no names.
        lengths: edges of a voxel by axis; empty if they are not stated.
    """

    axes: str
    lengths: Mapping[str, StatedLength]


class _ArrayChoice(NamedTuple):
    """The array of a Zarr to read.

    Attributes:
        node: the array, or a group that was selected by mistake.
        key: of the array in its group; None if it is not in a group.
        level: what the metadata state about it.
    """

    node: Any
    key: str | None
    level: _Level


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return path.is_dir() and any((path / name).exists() for name in METADATA_FILES)


def open_zarr(path: Path, selection: Selection) -> Source:
    """Open a Zarr array as a stack; see ``open_source``."""
    node, key, level = _choose_array(path, selection)
    _refuse_other_nodes(node, key, path)
    axes = level.axes if len(level.axes) == node.ndim else default_axes(node.shape)
    name = f"'{key}' in {path.name}" if key else path.name
    index, shape = stack_layout(axes, node.shape, selection, name)
    if getattr(node.dtype, "kind", "") not in "biuf":
        raise InputError(f"{name} holds {node.dtype}; expected real numbers.")
    directory = path / (key or "")
    with refuse_damaged_file(path, "Zarr"):
        missing = missing_chunks(node, directory, index, name)
    return Source(
        ZarrStack(node, index, shape),
        axis_lengths_nm(level.lengths),
        (directory,),
        part=selection.part,
        missing=missing,
        voxel_faults=length_faults(level.lengths),
        name=path.name,
    )


def _refuse_other_nodes(node: Any, key: str | None, path: Path) -> None:
    """Raise an InputError if a node is no array, or has too few axes, too many, or empty ones."""
    if not isinstance(node, zarr.Array):
        raise InputError(
            f"'{key}' in {path.name} is a group, not an array; name an array with --dataset KEY."
        )
    if not 3 <= node.ndim <= len(DEFAULT_AXES) or not all(node.shape):
        raise InputError(
            f"{path.name} has the shape {node.shape}; expected one channel, (z, y, x)."
        )


def _choose_array(path: Path, selection: Selection) -> _ArrayChoice:
    """Return the selected array, the first level of an OME-Zarr, or the only array.

    The metadata of the array itself are read: consolidated ones are a copy that is not updated
    when an array grows.
    """
    with refuse_damaged_file(path, "Zarr"):
        node = zarr.open(store=path, mode="r", use_consolidated=False)
    if not isinstance(node, zarr.Group):
        return _ArrayChoice(node, selection.dataset, _Level("", {}))
    multiscale = _multiscale(node)
    key = selection.dataset
    level = _Level("", {})
    if multiscale is not None and key in (None, *_level_keys(multiscale)):
        key, level = _choose_level(multiscale, key, path)
    if key is None:
        key = _only_key(node, path)
    with refuse_damaged_file(path, "Zarr"):
        if ".." in key or key not in node:
            raise InputError(_no_array_error(path, key, multiscale))
        array = node[key]
    return _ArrayChoice(array, key, level)


def _choose_level(multiscale: Mapping[str, Any], key: str | None, path: Path) -> tuple[str, _Level]:
    """Return the key and the description of a level of an OME-Zarr, by default of the first.

    Raises:
        InputError: the metadata are damaged.
    """
    try:
        number = 0 if key is None else _level_keys(multiscale).index(key)
        level_key = str(multiscale["datasets"][number]["path"])
        return level_key, _describe_level(multiscale, number)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path.name} has damaged OME-Zarr metadata ({error!r}); "
            "name its array with --dataset KEY."
        ) from None


def _only_key(group: "zarr.Group", path: Path) -> str:
    """Return the key of the only array of a group."""
    with refuse_damaged_file(path, "Zarr"):
        keys = sorted(group.array_keys())
    if not keys:
        raise InputError(f"{path.name} holds no array; name the group within it that does.")
    if len(keys) > 1:
        raise InputError(
            f"{path.name} holds the arrays {', '.join(keys)}; name one with --dataset KEY."
        )
    return keys[0]


def _no_array_error(path: Path, key: str, multiscale: Mapping[str, Any] | None) -> str:
    """Return why an array is missing, and what to do."""
    levels = _level_keys(multiscale) if multiscale is not None else []
    if key not in levels:
        return f"{path.name} has no array '{key}'."
    present = [level for level in levels if level != key and (path / level).is_dir()]
    coarser = f", or name a coarser level with --dataset {present[0]}" if present else ""
    return (
        f"{path.name} has no array '{key}', although its OME-Zarr metadata name this level; "
        f"copy it again{coarser}."
    )


def _describe_level(multiscale: Mapping[str, Any], number: int) -> _Level:
    """Return what OME-Zarr metadata state about a level, by its number."""
    lengths = _ngff_lengths(multiscale, number)
    axes = "".join(_axis_name(axis) for axis in multiscale.get("axes", ())).upper()
    return _Level(axes, lengths)


def _axis_name(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, Mapping) else axis)


def _multiscale(group: "zarr.Group") -> Mapping[str, Any] | None:
    """Return the OME-Zarr metadata of a group; None if it has none."""
    attributes: Any = group.attrs.asdict()
    ome = attributes.get("ome", attributes)  # 0.5 has the key "ome", 0.4 has not
    multiscales: Any = ome.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales:
        return None
    first = multiscales[0]
    return first if isinstance(first, Mapping) else None


def _level_keys(multiscale: Mapping[str, Any]) -> list[str]:
    """Return the keys of the levels, from fine to coarse."""
    datasets = multiscale.get("datasets", ())
    if not isinstance(datasets, list):
        return []
    return [str(dataset.get("path")) for dataset in datasets if isinstance(dataset, Mapping)]


def _ngff_lengths(multiscale: Mapping[str, Any], level: int) -> dict[str, StatedLength]:
    """Return the edges of a voxel by axis: the scale of a level times that of all levels."""
    axes = multiscale.get("axes", [None])
    scales = _scales_of(multiscale, level)
    if not scales or not isinstance(axes[0], Mapping):
        return {}  # NGFF before 0.4 states no lengths
    edges = np.prod(np.asarray(scales, float), axis=0).tolist()
    lengths = {}
    for axis, edge in zip(axes, edges, strict=True):
        unit = axis.get("unit")
        lengths[str(axis["name"]).lower()] = stated_length(edge, unit, f"{edge:g} {unit}")
    return lengths


def _scales_of(multiscale: Mapping[str, Any], level: int) -> list[Any]:
    """Return the scale of a level, and that of all levels."""
    level_transforms = multiscale["datasets"][level].get("coordinateTransformations", ())
    transforms = [*level_transforms, *multiscale.get("coordinateTransformations", ())]
    return [transform["scale"] for transform in transforms if transform.get("type") == "scale"]


@dataclass(frozen=True)
class ZarrStack:
    """A Zarr array of (z, y, x), or a part of an array with more axes.

    Attributes:
        array: the Zarr array.
        index: the position of the stack in it.
        shape: (z, y, x).
    """

    array: Any
    index: Index
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, in native byte order."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        try:
            voxels = np.asarray(self.array[index_of_slices(self.index, slices)], self.dtype)
        except UNREADABLE as error:
            raise InputError(
                f"Slices {slices.start} to {slices.stop} of {self.array.store_path} "
                f"cannot be read ({error})."
            ) from None
        return voxels.reshape(-1, *self.shape[1:])
