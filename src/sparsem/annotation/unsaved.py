"""Painted slices that could not be saved yet: they wait in the sample, without its lock.

``.sparsem/unsaved/NAME/ZZZZZZ.npz`` holds the labels of a slice as they are to be stored, the image
that they were drawn on, and how they came about.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import Origin
from sparsem.store.sample import Sample

FOLDER = "unsaved"


class UnsavedSlice(NamedTuple):
    """A painted slice.

    Attributes:
        labels: (y, x) uint32 as they are to be stored.
        image: name of the image that they were drawn on.
        image_fingerprint: fingerprint of that image.
        origin: how the labels came about.
    """

    labels: NDArray[np.uint32]
    image: str
    image_fingerprint: str
    origin: Origin


def unsaved_names(sample: Sample) -> list[str]:
    """Return the names of the annotations of which slices wait."""
    files = (sample.path / ".sparsem" / FOLDER).glob("*/*.npz")
    return sorted({file.parent.name for file in files})


def unsaved_slices(sample: Sample, name: str) -> dict[int, UnsavedSlice]:
    """Return the slices of an annotation that an earlier session could not save."""
    slices = {}
    for file in sorted(_folder(sample, name).glob("*.npz")):
        with np.load(file, allow_pickle=False) as content:
            origin: Origin = content["origin"].item()
            image, fingerprint = content["image"].tolist()
            slices[int(file.stem)] = UnsavedSlice(content["labels"], image, fingerprint, origin)
    return slices


def put_aside(sample: Sample, name: str, z: int, unsaved: UnsavedSlice) -> None:
    """Write a slice next to the annotation, in one step."""
    file = _file(sample, name, z)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    with unfinished.open("wb") as handle:
        np.savez_compressed(
            handle,
            labels=unsaved.labels,
            image=np.array([unsaved.image, unsaved.image_fingerprint]),
            origin=np.array(unsaved.origin),
        )
    os.replace(unfinished, file)


def forget_unsaved(sample: Sample, name: str, z: int) -> None:
    """Remove a slice that was saved."""
    _file(sample, name, z).unlink(missing_ok=True)


def _folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / FOLDER / name


def _file(sample: Sample, name: str, z: int) -> Path:
    return _folder(sample, name) / f"{z:06d}.npz"
