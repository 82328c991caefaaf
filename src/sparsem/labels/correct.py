"""The stage ``correct``: labels that were corrected in another program come back into the sample.

Voxels of the file that differ from ``labels/NAME`` become corrections, which take precedence now
and after every later run. Voxels that are equal stay what they are: computed, drawn or corrected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.annotation.corrections import (
    UNCORRECTED,
    new_edit,
    read_corrections,
    write_corrections,
)
from sparsem.annotation.ground_truth import GroundTruth, read_ground_truth
from sparsem.annotation.precedence import restore_labels, structures_while_locked
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.labels.object_index import renewed_index, stored_index
from sparsem.labels.settings import CorrectSettings
from sparsem.progress import Meter, print_note
from sparsem.settings import resolve_settings
from sparsem.store.names import CONSTRAINED
from sparsem.store.patches import Patch, chunk_box, chunk_grid
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult


@dataclass(frozen=True)
class CorrectResult(StageResult):
    """The result of ``correct``.

    Attributes:
        slices: numbers of the slices in which voxels were corrected by this call.
        voxels: number of these voxels.
        total_voxels: number of all corrected voxels.
    """

    slices: tuple[int, ...]
    voxels: int
    total_voxels: int


def correct(
    sample: Sample,
    name: str,
    source: str | Path | None = None,
    settings: CorrectSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> CorrectResult:
    """Import corrected labels of a result into ``corrections/NAME``.

    Args:
        sample: sample with ``labels/NAME``.
        name: name of the result.
        source: a labeled volume, a folder of masks or a single slice, with the numbers of
            ``labels/NAME``, such as ``export`` writes them. If None, what was drawn before is
            applied again, which an interrupted run may have left undone.
        settings: corrected slices and parts, meaning of the numbers.
        on: ``on.quiet`` shows no progress.
        changes: fields of the settings, by name.

    Returns:
        The corrected slices, and the number of corrected voxels.

    Raises:
        SampleError: there are no labels of that name, or another run writes to the sample.
        InputError: the file cannot be read, has another shape, or does not show which slices are
            corrected.
    """
    settings = resolve_settings(CorrectSettings, settings, changes)
    structure = name.removesuffix(CONSTRAINED)
    restore_labels(sample, structure)
    labels = sample.volume("labels", structure)
    sample.transform_of(labels)
    changed_slices: list[int] = []
    voxels = 0
    corrected = None
    if source is not None:
        corrected = _read_source(sample, structure, labels, source, settings)
    with sample.locked():
        if corrected is not None and source is not None:
            edit = new_edit(sample, f"correct {structure} from {Path(source).name}")
            patches = _patches(labels, corrected, on.quiet)
            first = next(patches, None)
            if first is None:
                print_note(
                    f"Note: {source} equals labels/{structure}; nothing is corrected.", on.quiet
                )
            else:
                counted = _Counter(first, patches)
                write_corrections(sample, structure, labels, counted, edit)
                changed_slices, voxels = sorted(counted.slices), counted.voxels
        index = stored_index(sample, structure)
        written = structures_while_locked(sample, [structure], on.quiet)
        if index is not None:
            renewed_index(sample, structure, index, written.get(structure, []))
    corrections = read_corrections(sample, structure)
    return CorrectResult(
        sample=sample,
        written=tuple(f"labels/{changed}" for changed in written),
        slices=tuple(changed_slices),
        voxels=voxels,
        total_voxels=corrections.n_voxels if corrections else 0,
    )


def _read_source(
    sample: Sample,
    name: str,
    labels: Volume,
    source: str | Path,
    settings: CorrectSettings,
) -> GroundTruth:
    """Return the corrected labels on the pixel grid of the result; unlabeled where none are.

    Raises:
        InputError: see ``correct``; or numbers exceed 32 bits.
    """
    is_mask = labels.dtype == np.uint8
    own_image = sample.name_of_image(labels)
    if settings.image not in (None, "raw", own_image):
        raise InputError(
            f"labels/{name} was made on the image '{own_image}'; corrections have its pixels, or "
            f"those of the raw image, but --image is '{settings.image}'."
        )
    has_own_pixels = settings.image != "raw"
    corrected = read_ground_truth(
        sample, name, labels, source, settings, not is_mask, has_target_pixels=has_own_pixels
    )
    if not is_mask and not corrected.renumbering.is_identity:
        raise InputError(
            f"{source} has numbers beyond 32 bits, which labels/{name} cannot hold; correct what "
            "'sparsem export' writes."
        )
    return corrected


class _Counter:
    """Patches that are counted while they pass.

    Attributes:
        slices: numbers of the slices with corrected voxels.
        voxels: number of corrected voxels.
    """

    def __init__(self, first: tuple[ZBlock, Patch], others: Iterator[tuple[ZBlock, Patch]]) -> None:
        self._first = first
        self._others = others
        self.slices: set[int] = set()
        self.voxels = 0

    def __iter__(self) -> Iterator[Patch]:
        yield self._count(*self._first)
        for block, patch in self._others:
            yield self._count(block, patch)

    def _count(self, block: ZBlock, patch: Patch) -> Patch:
        pixels = np.count_nonzero(patch[1] != UNCORRECTED, axis=(1, 2))
        self.slices.update((block.start + np.flatnonzero(pixels)).tolist())
        self.voxels += int(pixels.sum())
        return patch


def _patches(labels: Volume, corrected: GroundTruth, quiet: bool) -> Iterator[tuple[ZBlock, Patch]]:
    """Yield the chunks in which corrected labels differ from those of the result."""
    blocks = labels.blocks()
    corrected_slices = set(corrected.z)
    needed = [b for b in blocks if not corrected_slices.isdisjoint(range(b.start, b.stop))]
    _, rows, columns = chunk_grid(labels)
    with Meter("comparison with labels", len(needed), 0, quiet) as meter:
        for block in needed:
            values = np.asarray(corrected.stack[block.own])
            if labels.dtype == np.uint8:
                values = np.where(values == UNCORRECTED, values, values > 0).astype(np.uint32)
            number = block.start // labels.block_depth
            for row, column in np.ndindex(rows, columns):
                chunk = (number, row, column)
                z, y, x = chunk_box(labels, chunk)
                in_chunk = values[:, y, x]
                is_same = (in_chunk == labels.lazy()[z, y, x]) | (in_chunk == UNCORRECTED)
                if not is_same.all():
                    yield block, (chunk, np.where(is_same, np.uint32(UNCORRECTED), in_chunk))
            meter.step()
