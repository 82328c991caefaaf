"""Precedence: what a person drew counts more than what was computed.

In ``labels/NAME`` every voxel has the value that was corrected by hand, else that of a hand-labeled
slice, else the computed one. The labels as they were computed stay in ``.sparsem/computed/NAME``;
their unchanged chunks are shared with ``labels/NAME`` by hard links. After the last correction and
annotation is removed, the computed labels are moved back.

Hand-labeled slices take precedence in what networks predict and in tracked cells, whose ids are
those of the annotation; also in ``NAME-constrained``. In other labels, such as imported ones, the
numbers of an annotation have no meaning, so only corrections do.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.corrections import (
    UNCORRECTED,
    corrections_on,
    index_of,
    read_corrections,
    restore_corrections,
)
from sparsem.annotation.labeled_slices import (
    LabeledSlices,
    annotated_structures,
    annotation_names,
    read_annotation,
)
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.progress import print_note
from sparsem.store.names import CONSTRAINED, OBJECTS
from sparsem.store.patches import (
    ChunkIndex,
    Patch,
    box_of_row,
    chunk_box,
    chunk_grid,
    link_tree,
    replace_chunks,
    rows_of_chunks,
)
from sparsem.store.sample import Sample, now
from sparsem.store.snapshot import read_attributes
from sparsem.store.volume import Volume, write_group

STAGE = "precedence-"  # beginning of the names of its entries in the history
# Stages whose labels have the numbers of an annotation, or are masks.
FOLLOWS_ANNOTATION = ("predict-", "track-", "constrain")
WAIT_S = 60.0  # for another run that writes to the sample

Voxels = NDArray[Any]


@dataclass(frozen=True)
class Drawing:
    """Labels and corrections that a person drew, on the pixel grid of a result.

    Attributes:
        annotation: hand-labeled slices; None if there are none that count.
        corrections: corrected values (z, y, x); None if there are none.
        is_moved: the corrections were made on an image that is aligned differently.
        record: hashes of all of it, as JSON.
        notes: what does not count, and why.
    """

    annotation: LabeledSlices | None
    corrections: Any
    is_moved: bool
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """True if nothing was drawn."""
        return self.annotation is None and self.corrections is None


def read_drawing(sample: Sample, name: str) -> Drawing:
    """Return what a person drew in ``labels/NAME``.

    Raises:
        SampleError: there are no such labels, or their image was replaced.
    """
    labels = sample.computed(name)
    sample.transform_of(labels)
    structure = name.removesuffix(CONSTRAINED)
    record: dict[str, Any] = {"annotation": {}, "corrections": {}}
    notes = []
    annotation = None
    if structure in annotated_structures(sample) and _has_annotated_numbers(sample, name):
        annotation = _annotation_on(sample, structure, sample.name_of_image(labels))
        if annotation is None:
            notes.append(_outdated_note(sample, name, "annotations"))
        else:
            record["annotation"] = _annotation_record(annotation)
    corrections = None
    is_moved = False
    stored = read_corrections(sample, structure)
    if stored is not None and stored.n_voxels:
        corrections = corrections_on(sample, stored, labels)
        is_moved = corrections is not stored or stored.chunks != labels.snapshot.levels[0].chunks
        if corrections is None:
            notes.append(_outdated_note(sample, name, "corrections"))
        else:
            record["corrections"] = {
                "image": list(stored.image),
                "moved": is_moved,
                "depth": stored.chunks[0],
                "prints": stored.attributes["prints"],
            }
            record["corrected_voxels"] = stored.n_voxels
    return Drawing(annotation, corrections, is_moved, record, tuple(notes))


def _has_annotated_numbers(sample: Sample, name: str) -> bool:
    """Return True if the numbers of labels are those of an annotation, or they are a mask."""
    path = f"labels/{name}"
    for entry in reversed(sample.history()):
        if path in entry["outputs"] and not entry["stage"].startswith(STAGE):
            return str(entry["stage"]).startswith(FOLLOWS_ANNOTATION)
    return False


def _annotation_on(sample: Sample, structure: str, image: str) -> LabeledSlices | None:
    """Return the labeled slices of a structure on an image; None if theirs was replaced."""
    try:
        return read_annotation(sample, structure, image)
    except SampleError:
        return None


def _outdated_note(sample: Sample, name: str, folder: str) -> str:
    structure = name.removesuffix(CONSTRAINED)
    return (
        f"Note: {folder}/{structure} of {sample.path.name} was drawn on an image that was replaced "
        f"since; it does not count in labels/{name}."
    )


def _annotation_record(annotation: LabeledSlices) -> dict[str, str]:
    """Return a hash for every labeled slice, which changes with its labels and their meaning."""
    meaning = repr((annotation.ids, annotation.ignore, annotation.background))
    is_moved = " on " in annotation.fingerprint
    grid = annotation.fingerprint.partition(" on ")[2] if is_moved else ""
    prints = annotation.slice_fingerprints or (annotation.fingerprint,) * len(annotation.z)
    return {
        str(z): _hash(f"{meaning} {grid} {slice_print}")
        for z, slice_print in zip(annotation.z, prints, strict=True)
    }


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def known_voxels(drawing: Drawing, block: ZBlock) -> NDArray[np.bool_] | None:
    """Return which voxels (z, y, x) of a block a person drew; None if there are none."""
    planes = _labeled_planes(drawing.annotation, block)
    corrected = None
    if drawing.corrections is not None:
        corrected = drawing.corrections[block.own] != UNCORRECTED
    if not planes and (corrected is None or not corrected.any()):
        return None
    if corrected is None:
        _, plane = next(iter(planes.values()))
        corrected = np.zeros((block.stop - block.start, *plane.shape), bool)
    for z, (_, known) in planes.items():
        corrected[z - block.start] |= known
    return corrected


def is_precedence_current(sample: Sample, name: str) -> bool:
    """Return True if ``labels/NAME`` holds everything that a person drew, and nothing else."""
    labels = sample.volume("labels", name)
    drawing = read_drawing(sample, name)
    if labels.snapshot.computed is None:
        return drawing.is_empty
    return labels.fingerprint == _fingerprint(sample.computed(name), drawing)


def _fingerprint(computed: Volume, drawing: Drawing) -> str:
    text = json.dumps([computed.fingerprint, drawing.record], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def apply_precedence(sample: Sample, name: str, quiet: bool = False) -> list[ChunkIndex]:
    """Write into ``labels/NAME`` what a person drew, and restore what was removed.

    Only chunks that change are written. A killed run leaves the labels as they were.

    Args:
        sample: sample with ``labels/NAME``; nothing happens without them.
        name: name of the labels.
        quiet: print no notes.

    Returns:
        The chunks of the full resolution that may have changed.

    Raises:
        SampleError: another run writes to the sample.
    """
    # A window saves strokes at any time; a stage of hours must not end because of that.
    with sample.locked(wait_s=WAIT_S):
        return apply_while_locked(sample, name, quiet)


def apply_while_locked(sample: Sample, name: str, quiet: bool = False) -> list[ChunkIndex]:
    """Do what ``apply_precedence`` does; the caller holds the lock of the sample."""
    _restore(sample, name)
    restore_corrections(sample, name.removesuffix(CONSTRAINED))
    if name not in sample.names("labels") or sample.is_stale("labels", name):
        return []
    drawing = read_drawing(sample, name)
    for note in drawing.notes:
        print_note(note, quiet)
    labels = sample.volume("labels", name)
    if drawing.is_empty:
        return _move_computed_back(sample, labels)
    computed = sample.computed(name)
    if labels.fingerprint == _fingerprint(computed, drawing):
        return []
    return _write_labels(sample, labels, computed, drawing)


def apply_annotation(sample: Sample, annotation: str, quiet: bool = False) -> None:
    """Write the slices of ``annotations/NAME`` into the labels of its structures.

    Raises:
        SampleError: another run writes to the sample; this does not wait for it.
    """
    structures = [
        structure for structure, name in annotation_names(sample).items() if name == annotation
    ]
    with sample.locked():
        structures_while_locked(sample, structures, quiet)


def apply_to_structures(
    sample: Sample, structures: Sequence[str], quiet: bool = False
) -> dict[str, list[ChunkIndex]]:
    """Write what a person drew into the labels of structures, also the constrained ones.

    Returns:
        Names of the labels that changed, with the chunks that may have changed.
    """
    if not structures:
        return {}
    with sample.locked(wait_s=WAIT_S):
        return structures_while_locked(sample, structures, quiet)


def structures_while_locked(
    sample: Sample, structures: Sequence[str], quiet: bool = False
) -> dict[str, list[ChunkIndex]]:
    """Do what ``apply_to_structures`` does; the caller holds the lock of the sample."""
    changed = {}
    for structure in structures:
        for name in (structure, f"{structure}{CONSTRAINED}"):
            chunks = apply_while_locked(sample, name, quiet)
            if chunks:
                changed[name] = chunks
    return changed


def _move_computed_back(sample: Sample, labels: Volume) -> list[ChunkIndex]:
    """Restore the computed labels after everything drawn was removed."""
    name = labels.directory.name
    if labels.snapshot.computed is None:
        shutil.rmtree(sample.computed_folder(name), ignore_errors=True)  # of replaced labels
        return []
    nothing: dict[str, Any] = {"annotation": {}, "corrections": {}}
    changed = _changed_chunks(labels, nothing, _record_of(labels))
    _replace_labels(sample, name, sample.computed_folder(name))
    _remember(sample, name, sample.volume("labels", name), None)
    return [chunk for chunks in changed.values() for chunk in chunks]


def _write_labels(
    sample: Sample, labels: Volume, computed: Volume, drawing: Drawing
) -> list[ChunkIndex]:
    """Write labels in which the drawing takes precedence, and put them in place."""
    name = labels.directory.name
    work = _work_folder(sample, name)
    shutil.rmtree(work, ignore_errors=True)
    previous = _record_of(labels)
    link_tree(labels.directory, work)
    target = Volume(work)
    candidates = _changed_chunks(computed, drawing.record, previous)
    mask = _mask_of_objects(sample, name, computed)
    replaced = replace_chunks(work, _patches(computed, target, drawing, candidates, mask))
    attributes = read_attributes(computed.directory)
    record = attributes.setdefault("sparsem", {"complete": False})
    record["computed"] = computed.fingerprint
    record["fingerprint"] = _fingerprint(computed, drawing)
    record["drawn"] = dict(drawing.record)
    write_group(work, attributes)
    if labels.snapshot.computed is None:
        _keep_computed(sample, labels)
    _replace_labels(sample, name, work)
    _remember(sample, name, computed, drawing)
    return replaced


def _mask_of_objects(sample: Sample, name: str, objects: Volume) -> Volume | None:
    """Return the mask of ``labels/NAME-objects``; None for other labels."""
    mask_name = name.removesuffix(OBJECTS)
    if mask_name == name or mask_name not in sample.names("labels"):
        return None
    mask = sample.volume("labels", mask_name)
    return mask if mask.shape == objects.shape else None


def _record_of(labels: Volume) -> dict[str, Any]:
    """Return what labels hold that a person drew; empty for labels as computed."""
    record: dict[str, Any] = read_attributes(labels.directory).get("sparsem", {}).get("drawn", {})
    return record


def _changed_chunks(
    computed: Volume, record: Mapping[str, Any], previous: Mapping[str, Any]
) -> dict[int, list[ChunkIndex]]:
    """Return the chunks whose labels may change, by the number of their z-block.

    These are the chunks of which corrections changed; of z-blocks in which a labeled slice changed,
    or corrections that lie in other chunks than the labels, all chunks.

    Args:
        computed: labels as computed.
        record: what a person drew, see ``Drawing``.
        previous: what the labels on disk hold of it.
    """
    slices = _changed_keys(record["annotation"], previous.get("annotation", {}))
    whole_blocks = {int(z) // computed.block_depth for z in slices}
    corrections, earlier = record["corrections"], previous.get("corrections", {})
    is_same_grid = all(
        corrections.get(key, value) == value for key, value in earlier.items() if key != "prints"
    )
    is_aligned = not corrections.get("moved") and not earlier.get("moved") and is_same_grid
    keys = _changed_keys(corrections.get("prints", {}), earlier.get("prints", {}))
    changed: dict[int, list[ChunkIndex]] = {}
    if is_aligned:
        for chunk in map(index_of, keys):
            changed.setdefault(chunk[0], []).append(chunk)
    elif not is_same_grid:
        whole_blocks |= _blocks_of(corrections, computed) | _blocks_of(earlier, computed)
    else:
        whole_blocks |= _blocks_of({**earlier, **corrections, "prints": keys}, computed)
    for block in whole_blocks:
        _, rows, columns = chunk_grid(computed)
        changed[block] = [(block, row, column) for row, column in np.ndindex(rows, columns)]
    return {block: sorted(changed[block]) for block in sorted(changed)}


def _blocks_of(corrections: Mapping[str, Any], computed: Volume) -> set[int]:
    """Return the z-blocks of labels that share slices with chunks of corrections."""
    blocks: set[int] = set()
    depth = corrections.get("depth", 0)
    for number, _, _ in map(index_of, corrections.get("prints", ())):
        start, stop = number * depth, min((number + 1) * depth, computed.shape[0])
        blocks.update(
            n for n, block in enumerate(computed.blocks()) if _overlap(block, start, stop)
        )
    return blocks


def _overlap(block: ZBlock, start: int, stop: int) -> bool:
    """Return True if a block shares slices with start to stop, exclusive."""
    return block.start < stop and start < block.stop


def _changed_keys(present: Mapping[str, str], previous: Mapping[str, str]) -> set[str]:
    """Return the keys whose values differ between two mappings."""
    return {key for key in {*present, *previous} if present.get(key) != previous.get(key)}


def _patches(
    computed: Volume,
    target: Volume,
    drawing: Drawing,
    candidates: Mapping[int, list[ChunkIndex]],
    mask: Volume | None,
) -> Iterator[Patch]:
    """Yield the chunks of the target whose voxels differ from those of the rules.

    ``mask`` is the mask that the objects of the target belong to; None if there is none.
    """
    blocks = computed.blocks()
    for number, chunks in candidates.items():
        block = blocks[number]
        planes = _labeled_planes(drawing.annotation, block)
        moved = _moved_corrections(drawing, block)
        for row in rows_of_chunks(chunks):
            z, y, x = box_of_row(computed, row)
            voxels = computed.lazy()[z, y, x]
            for index, (labels, known) in planes.items():
                _set_known(voxels[index - block.start], labels[y, x], known[y, x])
            if drawing.corrections is not None:
                values = drawing.corrections[z, y, x] if moved is None else moved[:, y, x]
                known = values != UNCORRECTED
                if mask is not None:  # numbers of objects mean nothing where the mask ends
                    known &= (values == 0) | (voxels > 0) | (mask.lazy()[z, y, x] > 0)
                _set_known(voxels, values, known)
            present = target.lazy()[z, y, x]
            for chunk in row:
                columns = chunk_box(computed, chunk)[2]
                part = np.s_[..., columns.start - x.start : columns.stop - x.start]
                if not np.array_equal(voxels[part], present[part]):
                    yield chunk, voxels[part]


def _set_known(voxels: Voxels, values: Voxels, known: NDArray[np.bool_]) -> None:
    """Set the known voxels to values; in a mask every value except 0 is 1.

    Raises:
        SampleError: a value does not fit the type of the labels.
    """
    drawn = values[known]
    if voxels.dtype == np.uint8:  # the type of masks
        drawn = drawn > 0
    elif drawn.size and int(drawn.max()) > np.iinfo(voxels.dtype).max:
        raise SampleError(
            f"The number {int(drawn.max())} does not fit into labels of {voxels.dtype}; import "
            "them again with sparsem, which stores 32 bits."
        )
    voxels[known] = drawn


def _labeled_planes(
    annotation: LabeledSlices | None, block: ZBlock
) -> dict[int, tuple[Voxels, NDArray[np.bool_]]]:
    """Return the labels of the labeled slices of a block, and where they are known."""
    if annotation is None:
        return {}
    return {
        z: annotation.objects(index)
        for index, z in enumerate(annotation.z)
        if block.start <= z < block.stop
    }


def _moved_corrections(drawing: Drawing, block: ZBlock) -> Voxels | None:
    """Return the corrections of a block if they lie in other chunks than the labels."""
    if drawing.corrections is None or not drawing.is_moved:
        return None
    planes: Voxels = drawing.corrections[block.own]
    return planes


def _keep_computed(sample: Sample, labels: Volume) -> None:
    """Keep the labels as they were computed."""
    name = labels.directory.name
    computed_folder = sample.computed_folder(name)
    computed_folder.parent.mkdir(parents=True, exist_ok=True)
    copy = _work_folder(sample, f"{name}-computed")
    shutil.rmtree(copy, ignore_errors=True)
    link_tree(labels.directory, copy)
    shutil.rmtree(computed_folder, ignore_errors=True)
    os.replace(copy, computed_folder)


def _replace_labels(sample: Sample, name: str, complete: Path) -> None:
    final = sample.path / "labels" / name
    replaced = _work_folder(sample, f"{name}-replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    os.replace(final, replaced)
    os.replace(complete, final)
    shutil.rmtree(replaced)


def restore_labels(sample: Sample, structure: str) -> None:
    """Restore labels and corrections of a structure after a run was killed while it wrote them.

    Raises:
        SampleError: another run writes to the sample.
    """
    with sample.locked():
        restore_corrections(sample, structure)
        for name in (structure, f"{structure}{CONSTRAINED}", f"{structure}{OBJECTS}"):
            _restore(sample, name)


def _restore(sample: Sample, name: str) -> None:
    """Restore labels whose replacement was killed between its two renames."""
    final = sample.path / "labels" / name
    replaced = _work_folder(sample, f"{name}-replaced")
    if replaced.exists() and not final.exists():
        os.replace(replaced, final)
    shutil.rmtree(replaced, ignore_errors=True)


def _work_folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"{STAGE}{name}"


def _remember(sample: Sample, name: str, computed: Volume, drawing: Drawing | None) -> None:
    """Record in the history how many slices are labeled, and how many voxels are corrected."""
    record = drawing.record if drawing else {}
    labels = sample.volume("labels", name)
    settings = {
        "input labels": computed.fingerprint,
        "labeled_slices": len(record.get("annotation", ())),
        "corrected_voxels": record.get("corrected_voxels", 0),
    }
    sample.remember(
        {
            "stage": f"{STAGE}{name}",
            "fingerprint": labels.fingerprint,
            "settings": settings,
            "outputs": [f"labels/{name}"],
            "finished": now(),
        }
    )
