"""Corrections: the voxels of a result that a person changed, and their values.

``corrections/NAME`` is a sparse (z, y, x) uint32 array on the pixel grid and in the chunks of
``labels/NAME``: only chunks with a corrected voxel exist, and ``UNCORRECTED`` marks all other
voxels. It belongs to a named image, so corrections move with alignment as annotations do.

Every edit makes a new version, in which unchanged chunks are hard links; earlier versions are kept
under ``.sparsem/undo``, so that edits can be undone one by one, also after a restart.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.errors import SampleError
from sparsem.geometry import Box
from sparsem.store.patches import ChunkIndex, Patch, link_tree
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.store.transforms import Motion, WarpedStack
from sparsem.store.volume import Volume, put_in_place, write_group

UNCORRECTED = UNLABELED  # value of voxels that are not corrected
MAX_VERSIONS = 100  # versions that can be undone
VOXELS = "voxels"  # name of the array

Values = NDArray[np.uint32]


class Edit(NamedTuple):
    """A change of the corrections of a structure, which is undone as a whole.

    Attributes:
        number: later edits have larger numbers.
        title: what was done, such as ``merge 3, 7``.
    """

    number: int
    title: str


@dataclass(frozen=True)
class Corrections:
    """The corrected voxels of one result; reads like a numpy array (z, y, x) uint32.

    Attributes:
        directory: folder of the Zarr group.
    """

    directory: Path

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the group under ``sparsem``."""
        attributes: dict[str, Any] = read_attributes(self.directory)["sparsem"]
        return attributes

    @property
    def image(self) -> tuple[str, str]:
        """Name and fingerprint of the image on whose pixel grid the voxels are."""
        return self.attributes["image"], self.attributes["image_fingerprint"]

    @property
    def edit(self) -> Edit:
        """The edit that made this version."""
        return Edit(*self.attributes["edit"])

    @property
    def n_voxels(self) -> int:
        """Number of corrected voxels."""
        return sum(self.attributes["counts"].values())

    @cached_property
    def prints(self) -> dict[ChunkIndex, str]:
        """Chunks that hold corrected voxels, and the hashes of their values."""
        prints = self.attributes["prints"]
        return {index_of(key): value for key, value in prints.items()}

    @cached_property
    def _array(self) -> "zarr.Array[Any]":
        return zarr.open_array(store=self.directory / VOXELS, mode="r")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the result."""
        z, y, x = self._array.shape
        return z, y, x

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of a chunk."""
        z, y, x = self._array.chunks
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return np.dtype(np.uint32)

    @property
    def blocks(self) -> list[int]:
        """Numbers of the z-blocks that hold corrected voxels, ascending."""
        return sorted({block for block, _, _ in self.prints})

    def __getitem__(self, index: slice | Box) -> Values:
        """Return the values in a range of slices or in a box; ``UNCORRECTED`` elsewhere.

        Raises:
            SampleError: a chunk was lost.
        """
        box = (index, slice(None), slice(None)) if isinstance(index, slice) else index
        axes = [axis.indices(n) for axis, n in zip(box, self.shape, strict=True)]
        z, y, x = (slice(start, max(start, stop)) for start, stop, _ in axes)
        ranges = [
            range(axis.start // edge, -(-axis.stop // edge))
            for axis, edge in zip((z, y, x), self.chunks, strict=True)
        ]
        self.refuse_lost_chunks(product(*ranges))
        return np.asarray(self._array[z, y, x])

    def corrected_slices(self) -> list[int]:
        """Return the numbers of the slices with corrected voxels, ascending."""
        slices: set[int] = set()
        for chunk in self.prints:
            z, y, x = (
                slice(n * edge, (n + 1) * edge) for n, edge in zip(chunk, self.chunks, strict=True)
            )
            is_corrected = (self[z, y, x] != UNCORRECTED).any(axis=(1, 2))
            slices.update((z.start + np.flatnonzero(is_corrected)).tolist())
        return sorted(slices)

    def refuse_lost_chunks(self, chunks: Iterable[tuple[int, ...]]) -> None:
        """Check that those of some chunks that hold corrected voxels are on disk.

        Raises:
            SampleError: one is not.
        """
        for chunk in chunks:
            file = self.directory / VOXELS / self._array.metadata.encode_chunk_key(chunk)
            if chunk in self.prints and not file.is_file():
                raise SampleError(
                    f"{self.directory} has lost a chunk of its corrections: {file.name} is missing "
                    f"in {file.parent}. Copy it again from a backup, or remove the corrections "
                    "with 'sparsem remove'."
                )


def new_edit(sample: Sample, title: str) -> Edit:
    """Return an edit with a larger number than those of all earlier ones."""
    folder = sample.path / "corrections"
    versions = [Corrections(folder / name) for name in sample.names("corrections")]
    last_number = max((version.edit.number for version in versions), default=0)
    return Edit(max(last_number + 1, time.time_ns()), title)


def read_corrections(sample: Sample, name: str) -> Corrections | None:
    """Return ``corrections/NAME``; None if there never were any.

    They hold no voxel after all were removed by an edit, which can be undone.
    """
    if name not in sample.names("corrections"):
        return None
    return Corrections(sample.path / "corrections" / name)


def corrections_made_on(sample: Sample, image: str) -> list[str]:
    """Return the corrections that were made on a derived image of the sample, as it is now."""
    expected = (image, sample.volume("images", image).fingerprint)
    return [
        name
        for name in sample.names("corrections")
        if Corrections(sample.path / "corrections" / name).image == expected
    ]


def corrections_on(
    sample: Sample, corrections: Corrections, target: Volume
) -> Corrections | WarpedStack | None:
    """Return corrections on the pixel grid of a volume.

    None if their image was replaced or removed since: nothing shows where the voxels are then.
    """
    if not sample.has_image:  # a sample of labels only, which never move
        return corrections if corrections.shape == target.shape else None
    image, fingerprint = corrections.image
    try:
        source = sample.image(image)
    except SampleError:
        return None
    # Corrections of labels without an image name none; it may have been added since.
    is_same = fingerprint in ("", source.fingerprint)
    if not is_same or corrections.shape != source.shape:
        return None
    motions = _motions_between(sample, source, target)
    if motions is None:
        return corrections
    return WarpedStack(corrections, motions, target.shape, UNCORRECTED)


def _motions_between(sample: Sample, source: Volume, target: Volume) -> Motion | None:
    """Return motions from the pixels of a target to those of a source; None if they are equal."""
    source_grid = sample.transform_of(source)
    target_grid = sample.transform_of(target)
    if source_grid.is_same(target_grid):
        return None
    return source_grid.motions_from(target_grid)


def write_corrections(
    sample: Sample, name: str, target: Volume, patches: Iterable[Patch], edit: Edit
) -> Corrections:
    """Write a new version of ``corrections/NAME`` in which more voxels are corrected.

    Args:
        sample: sample to write to; the caller holds its lock.
        name: name of the labels.
        target: the labels that were corrected; corrections made on an image that is aligned
            differently are moved to their pixel grid.
        patches: chunks with values (z, y, x); voxels of ``UNCORRECTED`` stay as they were.
        edit: the change that this is.

    Returns:
        The new version.
    """
    restore_corrections(sample, name)
    current = read_corrections(sample, name)
    _write_version(sample, name, current, target, patches, edit)
    return Corrections(_final_folder(sample, name))


def clear_corrections(sample: Sample, name: str, target: Volume, edit: Edit) -> None:
    """Remove all corrections of a result; ``undo_corrections`` brings them back.

    The arguments are those of ``write_corrections``.
    """
    restore_corrections(sample, name)
    _write_version(sample, name, None, target, (), edit)


def _write_version(
    sample: Sample,
    name: str,
    current: Corrections | None,
    target: Volume,
    patches: Iterable[Patch],
    edit: Edit,
) -> None:
    """Write a version with the voxels of another one and those of patches, and publish it."""
    work = _work_folder(sample, name)
    shutil.rmtree(work, ignore_errors=True)
    prints, counts = _begin_version(sample, current, target, work)
    for chunk, values in patches:
        _write_values(work, chunk, values, prints, counts)
    _write_attributes(sample, work, target, prints, counts, edit)
    _publish(sample, name, work)


def _write_attributes(
    sample: Sample,
    work: Path,
    target: Volume,
    prints: dict[str, str],
    counts: dict[str, int],
    edit: Edit,
) -> None:
    """Write the group of a new version, after its chunks."""
    image = target.made_on or ("raw", _fingerprint_of_raw(sample))
    attributes = {
        "image": image[0],
        "image_fingerprint": image[1],
        "edit": list(edit),
        "prints": dict(sorted(prints.items())),
        "counts": dict(sorted(counts.items())),
    }
    write_group(work, {"sparsem": attributes})


def undo_corrections(sample: Sample, name: str) -> bool:
    """Restore the version of ``corrections/NAME`` before the last change.

    The caller holds the lock of the sample.

    Returns:
        False if there is none.
    """
    restore_corrections(sample, name)
    versions = _versions(sample, name)
    if not versions:
        return False
    final = _final_folder(sample, name)
    undone = _undone_folder(sample, name, versions[-1].name)
    undone.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.replace(final, undone)
    else:
        undone.mkdir()
    _take_version(sample, name, versions[-1])
    shutil.rmtree(undone)
    sample.publish_names()
    return True


def count_undoable(sample: Sample, name: str) -> int:
    """Return how many changes of ``corrections/NAME`` can be undone."""
    return len(_versions(sample, name))


def _take_version(sample: Sample, name: str, version: Path) -> None:
    """Put an earlier version in place; a folder without a group stands for no corrections."""
    final = _final_folder(sample, name)
    if (version / "zarr.json").exists():
        final.parent.mkdir(exist_ok=True)
        os.replace(version, final)
    else:
        version.rmdir()


def restore_corrections(sample: Sample, name: str) -> None:
    """Complete or take back a change that was killed between two renames.

    The caller holds the lock of the sample.
    """
    final = _final_folder(sample, name)
    replaced = _replaced_folder(sample, name)
    if replaced.exists():
        if final.exists():
            _keep_version(sample, name, replaced)
        else:
            os.replace(replaced, final)
    for undone in replaced.parent.glob(f"corrections-{name}-undone-*"):
        version = _undo_folder(sample, name) / undone.name.rpartition("-")[2]
        is_undone = not version.exists()
        if not is_undone and (undone / "zarr.json").exists():
            os.replace(undone, final)
        shutil.rmtree(undone, ignore_errors=True)


def _begin_version(
    sample: Sample, current: Corrections | None, target: Volume, work: Path
) -> tuple[dict[str, str], dict[str, int]]:
    """Make a new version with the voxels of the current one, on the pixel grid of the target.

    Returns:
        Hash and number of corrected voxels of every chunk.
    """
    if current is not None and current.chunks == target.snapshot.levels[0].chunks:
        moved = corrections_on(sample, current, target)
        if moved is current:
            current.refuse_lost_chunks(current.prints)
            link_tree(current.directory, work)
            attributes = current.attributes
            return dict(attributes["prints"]), dict(attributes["counts"])
    work.mkdir(parents=True)
    zarr.create_array(
        store=work / VOXELS,
        shape=target.shape,
        chunks=target.snapshot.levels[0].chunks,
        dtype=np.uint32,
        fill_value=UNCORRECTED,
        compressors=ZstdCodec(level=1),
        dimension_names=("z", "y", "x"),
        zarr_format=3,
    )
    prints: dict[str, str] = {}
    counts: dict[str, int] = {}
    if current is not None:
        for chunk, values in _moved_chunks(sample, current, target):
            _write_values(work, chunk, values, prints, counts)
    return prints, counts


def _moved_chunks(sample: Sample, current: Corrections, target: Volume) -> Iterator[Patch]:
    """Yield the chunks of corrections on the pixel grid of a target that is aligned differently.

    Raises:
        SampleError: the image that they were made on was replaced.
    """
    moved = corrections_on(sample, current, target)
    if moved is None:
        raise SampleError(
            f"The image '{current.image[0]}' was replaced after corrections/"
            f"{current.directory.name} were made on it, so they fit no image; remove them with "
            f"'sparsem remove {sample.path.name} corrections/{current.directory.name}' and correct "
            "again."
        )
    _, rows, columns = target.snapshot.levels[0].chunks
    _, height, width = target.shape
    depth = current.chunks[0]
    corrected = {z for n in current.blocks for z in range(n * depth, (n + 1) * depth)}
    for block in target.blocks():
        if corrected.isdisjoint(range(block.start, block.stop)):
            continue
        planes = moved[block.own]
        number = block.start // target.block_depth
        for i, j in product(range(-(-height // rows)), range(-(-width // columns))):
            y, x = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            yield (number, i, j), planes[:, y, x]


def _write_values(
    work: Path,
    chunk: ChunkIndex,
    values: Values,
    prints: dict[str, str],
    counts: dict[str, int],
) -> None:
    """Add values to those of a chunk, and write it as a new file; other versions share the old."""
    is_corrected = values != UNCORRECTED
    if not is_corrected.any():
        return
    array = zarr.open_array(store=work / VOXELS, mode="r+")
    key = _key_of(chunk)
    starts = [n * edge for n, edge in zip(chunk, array.chunks, strict=True)]
    z, y, x = (
        slice(start, start + length) for start, length in zip(starts, values.shape, strict=True)
    )
    if key in prints:
        values = np.where(is_corrected, values, np.asarray(array[z, y, x]))
    (work / VOXELS / array.metadata.encode_chunk_key(chunk)).unlink(missing_ok=True)
    array[z, y, x] = values
    n_corrected = int(np.count_nonzero(values != UNCORRECTED))
    content = np.ascontiguousarray(values, np.uint32).tobytes()
    prints[key] = hashlib.blake2b(content, digest_size=8).hexdigest()
    counts[key] = n_corrected


def _publish(sample: Sample, name: str, complete: Path) -> None:
    """Put a version in place and keep the one before it."""
    final = _final_folder(sample, name)
    replaced = _replaced_folder(sample, name)
    if final.exists():
        put_in_place(complete, final, replaced)
        _keep_version(sample, name, replaced)
    else:
        _next_version(sample, name).mkdir(parents=True)
        put_in_place(complete, final, replaced)
    sample.publish_names()


def _keep_version(sample: Sample, name: str, replaced: Path) -> None:
    """Keep a replaced version, so that the change can be undone; of many the last ones."""
    version = _next_version(sample, name)
    version.parent.mkdir(parents=True, exist_ok=True)
    os.replace(replaced, version)
    for outdated in _versions(sample, name)[:-MAX_VERSIONS]:
        shutil.rmtree(outdated)


def _versions(sample: Sample, name: str) -> list[Path]:
    """Return the folders of earlier versions, the oldest first."""
    return sorted(_undo_folder(sample, name).glob("[0-9]*"))


def _next_version(sample: Sample, name: str) -> Path:
    versions = _versions(sample, name)
    number = int(versions[-1].name) + 1 if versions else 0
    return _undo_folder(sample, name) / f"{number:08d}"


def forget_versions(sample: Sample, name: str) -> None:
    """Remove the earlier versions of corrections for good; the caller holds the sample's lock."""
    shutil.rmtree(_undo_folder(sample, name), ignore_errors=True)
    shutil.rmtree(_replaced_folder(sample, name), ignore_errors=True)


def _undo_folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "undo" / name


def _final_folder(sample: Sample, name: str) -> Path:
    return sample.path / "corrections" / name


def _work_folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"corrections-{name}"


def _replaced_folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"corrections-{name}-replaced"


def _undone_folder(sample: Sample, name: str, version: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"corrections-{name}-undone-{version}"


def _fingerprint_of_raw(sample: Sample) -> str:
    return sample.image("raw").fingerprint if sample.has_image else ""


def _key_of(chunk: ChunkIndex) -> str:
    return ".".join(map(str, chunk))


def index_of(key: str) -> ChunkIndex:
    """Return the chunk that a key such as ``3.0.12`` stands for."""
    z, y, x = map(int, key.split("."))
    return z, y, x
