"""Edits of the objects of a result: merge, split, delete, keep, relabel, fill, undo.

An edit is a correction: it is written to ``corrections/NAME``, takes precedence in ``labels/NAME``
now and after every later run, and can be undone. Only the chunks that hold the objects are read and
written (see ``object_index``).

The objects of a mask are those of ``labels/NAME-objects``, which ``measure`` numbers. Deleting and
filling changes the mask, and merging and splitting the numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.corrections import (
    UNCORRECTED,
    clear_corrections,
    new_edit,
    read_corrections,
    undo_corrections,
    write_corrections,
)
from sparsem.annotation.precedence import apply_while_locked, restore_labels
from sparsem.errors import InputError, SampleError
from sparsem.geometry import Box
from sparsem.labels.editing import Positions, fill_objects, replace_ids
from sparsem.labels.object_index import (
    ObjectIndex,
    object_index,
    renewed_index,
    stored_index,
)
from sparsem.labels.objects import current_objects
from sparsem.labels.results import result_labels
from sparsem.labels.settings import FillSettings, SplitSettings
from sparsem.labels.splitting import level_for, split_at_level, voxels_in
from sparsem.settings import resolve_settings
from sparsem.store.names import CONSTRAINED, INTERIOR, OBJECTS, base_name
from sparsem.store.patches import ChunkIndex, Patch, chunk_box, chunk_grid, chunks_in
from sparsem.store.sample import Sample
from sparsem.store.summary import list_first
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult

# Ids that edits create are larger, so that a later run does not give them to other objects.
DRAWN_IDS = 1_000_000
MAX_ID = UNCORRECTED - 2  # larger numbers stand for unlabeled pixels and background
BYTES_A_VOXEL = 40  # of a box in which an object is split or filled

Labels = NDArray[Any]


@dataclass(frozen=True)
class EditResult(StageResult):
    """The result of an edit.

    Attributes:
        title: what was done.
        ids: ids of the objects that the edit made or changed, if they still exist.
        voxels: number of voxels that changed.
    """

    title: str
    ids: tuple[int, ...] = ()
    voxels: int = 0


class _Target(NamedTuple):
    """The labels that an edit changes.

    Attributes:
        name: name of the labels whose numbers name the objects.
        labels: these labels.
        objects: where their objects are.
        mask: name of the mask that the objects belong to; empty if they belong to none.
    """

    name: str
    labels: Volume
    objects: ObjectIndex
    mask: str


def _target(sample: Sample, name: str, quiet: bool) -> _Target:
    """Return the labels in which the objects of a structure are numbered.

    Raises:
        SampleError: there are no labels of that name, or the objects of a mask are not numbered.
        InputError: the name is that of constrained labels.
    """
    if name.endswith(CONSTRAINED):
        raise InputError(f"Edit '{name.removesuffix(CONSTRAINED)}'; its constrained labels follow.")
    restore_labels(sample, name)
    labels = sample.volume("labels", name)
    sample.transform_of(labels)
    mask = ""
    if labels.dtype == np.uint8:
        labels = current_objects(sample, name, result_labels(sample, name))
        mask, name = name, f"{name}{OBJECTS}"
    return _Target(name, labels, object_index(sample, name, quiet), mask)


def merge(sample: Sample, name: str, ids: Sequence[int], *, on: Execution = HERE) -> EditResult:
    """Merge several objects of a result into one.

    It gets the smallest of their ids. Objects of a mask are numbered anew by every ``measure``, so
    there it gets an id above ``DRAWN_IDS``, which no other object ever has.

    Args:
        sample: sample with ``labels/NAME``.
        name: name of the result.
        ids: at least two objects.
        on: ``on.quiet`` shows no progress.

    Raises:
        InputError: fewer than two ids are given, or one does not exist.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    if len(set(ids)) < 2:
        raise InputError(f"Merging needs two objects or more; got {list_first(ids) or 'none'}.")
    target = _target(sample, name, on.quiet)
    target.objects.of(ids)
    merged = _new_id(target.objects) if target.mask else min(ids)
    title = f"merge {list_first(sorted(set(ids)))}"
    new_ids = dict.fromkeys(ids, merged)
    return _replace(sample, target, ids, new_ids, title, (merged,), on.quiet)


def relabel(sample: Sample, name: str, old: int, new: int, *, on: Execution = HERE) -> EditResult:
    """Give an object of a result another id, which no object has.

    Raises:
        InputError: ``old`` does not exist, or ``new`` does, or it is no valid id.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    target = _target(sample, name, on.quiet)
    target.objects.of([old])
    if not 0 < new <= MAX_ID:
        raise InputError(f"An id is an integer from 1 to {MAX_ID}; got {new}.")
    if new in target.objects.ids:
        raise InputError(
            f"There is an object {new} already; merge {old} with it, or use another id."
        )
    title = f"relabel {old} as {new}"
    return _replace(sample, target, [old], {old: new}, title, (new,), on.quiet)


def delete(sample: Sample, name: str, ids: Sequence[int], *, on: Execution = HERE) -> EditResult:
    """Make objects of a result background.

    Raises:
        InputError: an id does not exist.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    target = _target(sample, name, on.quiet)
    target.objects.of(ids)
    title = f"delete {list_first(sorted(set(ids)))}"
    return _replace(sample, target, ids, dict.fromkeys(ids, 0), title, (), on.quiet)


def keep(sample: Sample, name: str, ids: Sequence[int], *, on: Execution = HERE) -> EditResult:
    """Make everything but some objects of a result background.

    Raises:
        InputError: an id does not exist.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    target = _target(sample, name, on.quiet)
    target.objects.of(ids)
    kept_ids = np.array(sorted(set(ids)), np.uint32)
    title = f"keep {list_first(kept_ids.tolist())}"

    def patches_of(volume: Volume) -> Iterator[Patch]:
        for chunk in np.ndindex(*chunk_grid(volume)):
            box = chunk_box(volume, chunk)
            before = volume.lazy()[box]
            if before.any():
                is_kept = np.isin(target.labels.lazy()[box], kept_ids)
                yield from _patch(chunk, before, np.where(is_kept, before, 0))

    def patches() -> Iterator[Patch]:
        return patches_of(target.labels)

    def mask_patches() -> Iterator[Patch]:  # small components, too, which have no number
        return patches_of(sample.volume("labels", target.mask))

    return _edit(sample, target, patches, title, tuple(ids), on.quiet, mask_patches)


def fill(
    sample: Sample,
    name: str,
    ids: Sequence[int],
    settings: FillSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> EditResult:
    """Fill the cavities of objects of a result; other objects in a cavity stay.

    Args:
        sample: sample with ``labels/NAME``.
        name: name of the result.
        ids: objects.
        settings: which holes are filled.
        on: ``on.quiet`` shows no progress.
        changes: fields of the settings, by name.

    Raises:
        InputError: an id does not exist.
        ResourceError: an object does not fit into memory.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    slice_by_slice = resolve_settings(FillSettings, settings, changes).slice_by_slice
    target = _target(sample, name, on.quiet)
    title = f"fill {list_first(sorted(set(ids)))}"
    boxes = [target.objects.box_of([object_id]) for object_id in ids]
    _check_memory(sample, max(map(voxels_in, boxes)))

    def patches() -> Iterator[Patch]:
        for object_id, box in zip(ids, boxes, strict=True):
            before = target.labels.lazy()[box]
            after = fill_objects(before, [object_id], slice_by_slice)
            yield from _patches_of_box(target.labels, box, before, after)

    return _edit(sample, target, patches, title, tuple(ids), on.quiet, lambda: _as_mask(patches()))


def split(
    sample: Sample,
    name: str,
    object_id: int,
    first: Positions,
    second: Positions,
    settings: SplitSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> EditResult:
    """Split an object of a result in two, in 3D, along its weakest probability.

    The object is flooded from both sets of seeds, see ``editing.split_object``. The second part
    gets a new id above ``DRAWN_IDS``.

    Args:
        sample: sample with ``labels/NAME``.
        name: name of the result.
        object_id: the object.
        first: voxels (z, y, x) of the part that keeps the id: a point, or those of a drawn line.
        second: voxels of the other part.
        settings: probabilities, and voxels that are split at once.
        on: ``on.quiet`` shows no progress.
        changes: fields of the settings, by name.

    Raises:
        InputError: the object does not exist, or a seed lies outside of it.
        ResourceError: the object does not fit into memory.
        SampleError: there are no labels of that name, or another run writes to the sample.
    """
    settings = resolve_settings(SplitSettings, settings, changes)
    target = _target(sample, name, on.quiet)
    box = target.objects.box_of([object_id])
    _check_seeds(target.labels, object_id, [*first, *second])
    new_id = _new_id(target.objects)
    level = level_for(target.labels, box, settings.max_mvoxels * 1e6)
    probability = _probability(sample, target, settings.probability)
    parts = split_at_level(target.labels, object_id, (first, second), probability, box, level)

    def patches() -> Iterator[Patch]:
        for chunk in target.objects.chunks_of([object_id]):
            chunk_voxels = chunk_box(target.labels, chunk)
            before = target.labels.lazy()[chunk_voxels]
            in_second = parts.at(chunk_voxels) == 2
            after = np.where((before == object_id) & in_second, new_id, before)
            yield from _patch(chunk, before, after)

    ids = (object_id, new_id)
    return _edit(sample, target, patches, f"split {object_id}", ids, on.quiet)


def undo(sample: Sample, name: str, *, on: Execution = HERE) -> EditResult:
    """Undo the last edit or correction of a result.

    Raises:
        SampleError: there is nothing to undo, or another run writes to the sample.
    """
    restore_labels(sample, name)
    names = [f"{name}{OBJECTS}", name]
    stored = {each: read_corrections(sample, each) for each in names}
    edits = {each: version.edit for each, version in stored.items() if version is not None}
    if not edits:
        raise SampleError(f"{sample.path.name} has no corrections of '{name}' to undo.")
    last = max(edits.values())
    undone = [each for each, edit in edits.items() if edit.number == last.number]
    with sample.locked():
        was_possible = [undo_corrections(sample, each) for each in undone]
        if not any(was_possible):
            raise SampleError(f"No earlier corrections of '{name}' are kept in {sample.path.name}.")
        _apply(sample, undone, on.quiet)
    written = tuple(f"labels/{each}" for each in undone)
    return EditResult(sample=sample, written=written, title=f"undo {last.title}")


def clear(sample: Sample, name: str, *, on: Execution = HERE) -> EditResult:
    """Remove all corrections of a result, which restores what was computed.

    ``undo`` brings them back.

    Raises:
        SampleError: there are none, or another run writes to the sample.
    """
    names = []
    for each in (name, f"{name}{OBJECTS}"):
        corrections = read_corrections(sample, each)
        if corrections is not None and corrections.n_voxels:
            names.append(each)
    if not names:
        raise SampleError(f"{sample.path.name} has no corrections of '{name}'.")
    with sample.locked():
        edit = new_edit(sample, f"clear {name}")
        for each in names:
            clear_corrections(sample, each, sample.volume("labels", each), edit)
        _apply(sample, names, on.quiet)
    written = tuple(f"labels/{each}" for each in names)
    return EditResult(sample=sample, written=written, title=edit.title)


# How an edit is written.


def _new_id(index: ObjectIndex) -> int:
    """Return the id of a new object.

    Raises:
        InputError: no id is left.
    """
    new_id = max(index.max_id, DRAWN_IDS) + 1
    if new_id > MAX_ID:
        raise InputError(f"There is no free id above {index.max_id}; renumber the objects.")
    return new_id


def _replace(
    sample: Sample,
    target: _Target,
    ids: Sequence[int],
    new_ids: Mapping[int, int],
    title: str,
    results: tuple[int, ...],
    quiet: bool,
) -> EditResult:
    """Give objects other ids, chunk by chunk."""

    def patches() -> Iterator[Patch]:
        for chunk in target.objects.chunks_of(ids):
            before = target.labels.lazy()[chunk_box(target.labels, chunk)]
            yield from _patch(chunk, before, replace_ids(before, new_ids))

    if 0 not in new_ids.values():
        return _edit(sample, target, patches, title, results, quiet)
    return _edit(sample, target, patches, title, results, quiet, lambda: _as_mask(patches()))


def _patch(chunk: ChunkIndex, before: Labels, after: Labels) -> Iterator[Patch]:
    """Yield the voxels of a chunk that an edit changes; nothing if there are none."""
    is_changed = before != after
    if is_changed.any():
        yield chunk, np.where(is_changed, after.astype(np.uint32), np.uint32(UNCORRECTED))


def _patches_of_box(labels: Volume, box: Box, before: Labels, after: Labels) -> Iterator[Patch]:
    """Yield the voxels that an edit changes in a box, chunk by chunk."""
    changed = np.where(before != after, after.astype(np.uint32), np.uint32(UNCORRECTED))
    for chunk in chunks_in(labels, box):
        chunk_voxels = chunk_box(labels, chunk)
        values = np.full([axis.stop - axis.start for axis in chunk_voxels], UNCORRECTED, np.uint32)
        in_chunk, in_box = [], []
        for axis, box_axis in zip(chunk_voxels, box, strict=True):
            start, stop = max(axis.start, box_axis.start), min(axis.stop, box_axis.stop)
            in_chunk.append(slice(start - axis.start, stop - axis.start))
            in_box.append(slice(start - box_axis.start, stop - box_axis.start))
        values[tuple(in_chunk)] = changed[tuple(in_box)]
        if (values != UNCORRECTED).any():
            yield chunk, values


def _edit(
    sample: Sample,
    target: _Target,
    patches: Callable[[], Iterator[Patch]],
    title: str,
    ids: tuple[int, ...],
    quiet: bool,
    mask_patches: Callable[[], Iterator[Patch]] | None = None,
) -> EditResult:
    """Write an edit to the corrections, and apply it.

    Args:
        sample: sample to write to.
        target: labels that are changed.
        patches: yields the corrected values of chunks.
        title: what is done.
        ids: ids of the resulting objects.
        quiet: print no notes.
        mask_patches: the same for the mask that the objects belong to, if they appear or vanish.
    """
    names = [target.name]
    voxels = 0

    def counted() -> Iterator[Patch]:
        nonlocal voxels
        for chunk, values in patches():
            voxels += int(np.count_nonzero(values != UNCORRECTED))
            yield chunk, values

    with sample.locked():
        if sample.volume("labels", target.name).fingerprint != target.labels.fingerprint:
            raise SampleError(
                f"labels/{target.name} of {sample.path.name} changed while this was prepared; "
                "nothing was edited, so do it again."
            )
        edit = new_edit(sample, title)
        write_corrections(sample, target.name, target.labels, counted(), edit)
        if target.mask and mask_patches:
            mask = sample.volume("labels", target.mask)
            write_corrections(sample, target.mask, mask, mask_patches(), edit)
            names.append(target.mask)
        _apply(sample, names, quiet)
    written = tuple(f"labels/{name}" for name in names)
    return EditResult(sample=sample, written=written, title=title, ids=ids, voxels=voxels)


def _as_mask(patches: Iterable[Patch]) -> Iterator[Patch]:
    """Yield patches of numbered objects as those of their mask."""
    for chunk, values in patches:
        is_object = (values > 0).astype(np.uint32)
        yield chunk, np.where(values == UNCORRECTED, values, is_object)


def _apply(sample: Sample, names: Sequence[str], quiet: bool) -> None:
    """Apply corrections to labels, and renew the index of their objects.

    The caller holds the lock of the sample.
    """
    masks_first = sorted(names, key=lambda name: name.endswith(OBJECTS))
    for name in masks_first:  # the objects of a mask lie within it
        index = stored_index(sample, name)
        changed = apply_while_locked(sample, name, quiet)
        if index is not None:
            renewed_index(sample, name, index, changed)
        constrained = f"{name}{CONSTRAINED}"
        if constrained in sample.names("labels"):
            apply_while_locked(sample, constrained, quiet)


def _check_memory(sample: Sample, voxels: int) -> None:
    """Raise a ResourceError if a box does not fit into memory."""
    needs = Needs(
        ram=voxels * BYTES_A_VOXEL, smaller="the object is too large to be filled at once"
    )
    needs.check(sample.path, 1)


def _check_seeds(labels: Volume, object_id: int, seeds: Sequence[Sequence[int]]) -> None:
    """Check that seeds lie in an object.

    Raises:
        InputError: one does not; it is named.
    """
    for z, y, x in seeds:
        is_inside = all(0 <= n < length for n, length in zip((z, y, x), labels.shape, strict=True))
        label = int(labels.lazy()[z, y, x]) if is_inside else 0
        if label != object_id:
            content = f"it lies in object {label}" if label else "it lies in no object"
            raise InputError(
                f"The voxel {z}, {y}, {x} (z, y, x) does not lie in object {object_id}: {content}."
            )


def _probability(sample: Sample, target: _Target, name: str | None) -> Volume | None:
    """Return the probabilities along which an object is split; None if there are none.

    Raises:
        SampleError: they are named and do not exist, or have other pixels than the labels.
    """
    names = sample.names("probabilities")
    structure = base_name(target.name)
    if name is None:
        usual = (structure, f"{structure}{INTERIOR}")
        name = next((each for each in usual if each in names), None)
        if name is None or sample.is_stale("probabilities", name):
            return None
        volume = sample.volume("probabilities", name)
        return volume if _has_pixels_of(sample, volume, target.labels) else None
    volume = sample.volume("probabilities", name)
    if not _has_pixels_of(sample, volume, target.labels):
        raise SampleError(
            f"probabilities/{name} of {sample.path.name} has other pixels than "
            f"labels/{target.name}."
        )
    return volume


def _has_pixels_of(sample: Sample, volume: Volume, labels: Volume) -> bool:
    """Return True if a volume and labels show the same position in every voxel and level."""
    is_same_grid = sample.transform_of(volume).is_same(sample.transform_of(labels))
    return is_same_grid and volume.levels == labels.levels
