"""Zarr, versions 2 and 3, and OME-Zarr, 0.4 and 0.5."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.missing import Index
from sparsem.io.readers.source import (
    DEFAULT_AXES,
    UNREADABLE,
    Selection,
    Source,
    default_axes,
    refuse_damaged_file,
    stack_layout,
)
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults, stated_length
from sparsem.io.readers.zarr_missing import missing_chunks


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return path.is_dir() and any(
        (path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")
    )


def open_zarr(path: Path, pick: Selection) -> Source:
    """A Zarr array as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "Zarr"):
        # The metadata of the array itself hold: consolidated ones are a copy that is not updated when an array grows.
        node = zarr.open(store=path, mode="r", use_consolidated=False)
    lengths: dict[str, StatedLength] = {}
    dataset, names = pick.dataset, ""
    if isinstance(node, zarr.Group):
        multiscale = _multiscale(node)
        if multiscale is not None and dataset in (None, *_levels(multiscale)):
            try:
                level = _levels(multiscale).index(dataset) if dataset is not None else 0
                dataset, lengths = (
                    str(multiscale["datasets"][level]["path"]),
                    _ngff_lengths(multiscale, level),
                )
                names = "".join(_name_of(axis) for axis in multiscale.get("axes", ())).upper()
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                raise InputError(
                    f"{path.name} has damaged OME-Zarr metadata ({error!r}); name its array with --dataset KEY."
                ) from None
        if dataset is None:
            with refuse_damaged_file(path, "Zarr"):
                keys = sorted(node.array_keys())
            if not keys:
                raise InputError(f"{path.name} holds no array; name the group within it that does.")
            if len(keys) > 1:
                raise InputError(
                    f"{path.name} holds the arrays {', '.join(keys)}; name one with --dataset KEY."
                )
            dataset = keys[0]
        with refuse_damaged_file(path, "Zarr"):
            if ".." in dataset or dataset not in node:
                raise InputError(_no_array(path, dataset, multiscale))
            node = node[dataset]
    if not isinstance(node, zarr.Array):
        raise InputError(
            f"'{dataset}' in {path.name} is a group, not an array; name an array with --dataset KEY."
        )
    if not 3 <= node.ndim <= len(DEFAULT_AXES) or not all(node.shape):
        raise InputError(
            f"{path.name} has the shape {node.shape}; expected one channel, (z, y, x)."
        )
    axes = names if len(names) == node.ndim else default_axes(node.shape)
    name = f"'{dataset}' in {path.name}" if dataset else path.name
    index, shape = stack_layout(axes, node.shape, pick, name)
    directory = path / (dataset or "")
    if getattr(node.dtype, "kind", "") not in "biuf":
        raise InputError(f"{name} holds {node.dtype}; expected real numbers.")
    with refuse_damaged_file(path, "Zarr"):
        missing = missing_chunks(node, directory, index, name)
    stack, faults = ZarrStack(node, index, shape), length_faults(lengths)
    return Source(
        stack,
        axis_lengths_nm(lengths),
        (directory,),
        part=pick.part,
        missing=missing,
        voxel_faults=faults,
        name=path.name,
    )


def _no_array(path: Path, dataset: str, multiscale: Mapping[str, Any] | None) -> str:
    """Why an array is not there, and what to do."""
    levels = _levels(multiscale) if multiscale is not None else []
    if dataset not in levels:
        return f"{path.name} has no array '{dataset}'."
    others = [level for level in levels if level != dataset and (path / level).is_dir()]
    coarser = f", or name a coarser level with --dataset {others[0]}" if others else ""
    return f"{path.name} has no array '{dataset}', although its OME-Zarr metadata name this level; copy it again{coarser}."


def _name_of(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, Mapping) else axis)


def _multiscale(group: "zarr.Group") -> Mapping[str, Any] | None:
    attributes: Any = group.attrs.asdict()
    multiscales: Any = attributes.get("ome", attributes).get(
        "multiscales"
    )  # 0.5 has the key "ome", 0.4 has not
    return (
        multiscales[0]
        if isinstance(multiscales, list) and multiscales and isinstance(multiscales[0], Mapping)
        else None
    )


def _levels(multiscale: Mapping[str, Any]) -> list[str]:
    datasets = multiscale.get("datasets", ())
    return (
        [str(one.get("path")) for one in datasets if isinstance(one, Mapping)]
        if isinstance(datasets, list)
        else []
    )


@dataclass(frozen=True)
class ZarrStack:
    """A Zarr array of (z, y, x), possibly behind other axes."""

    array: Any
    index: Index
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        kind: np.dtype[Any] = np.dtype(self.array.dtype)
        return kind.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        try:
            found = np.asarray(
                self.array[tuple(slices if one is None else one for one in self.index)], self.dtype
            )
        except UNREADABLE as error:
            raise InputError(
                f"Slices {slices.start} to {slices.stop} of {self.array.store_path} cannot be read ({error})."
            ) from None
        return found.reshape(-1, *self.shape[1:])


def _ngff_lengths(multiscale: Mapping[str, Any], level: int) -> dict[str, StatedLength]:
    """Edges of a voxel by axis: the scales of a level and of all levels together."""
    axes = multiscale.get("axes", [None])
    own = multiscale["datasets"][level].get("coordinateTransformations", ())
    steps = [*own, *multiscale.get("coordinateTransformations", ())]
    scales = [one["scale"] for one in steps if one.get("type") == "scale"]
    if not scales or not isinstance(axes[0], Mapping):
        return {}  # NGFF before 0.4 states no lengths
    edges = np.prod(np.asarray(scales, float), axis=0).tolist()
    return {
        str(axis["name"]).lower(): stated_length(
            edge, axis.get("unit"), f"{edge:g} {axis.get('unit')}"
        )
        for axis, edge in zip(axes, edges, strict=True)
    }
