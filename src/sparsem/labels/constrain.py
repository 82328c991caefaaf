"""The stage ``constrain``: labels in which structures contain each other as they may."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparsem.annotation.precedence import apply_to_structures
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.constraints import ConstraintCounts, Probability, constrain_labels
from sparsem.labels.results import require_same_pixels
from sparsem.labels.settings import ConstrainSettings
from sparsem.settings import resolve_settings
from sparsem.store.names import CONSTRAINED, OBJECTS
from sparsem.store.sample import Sample, now
from sparsem.store.volume import Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage, finished, forget


@dataclass(frozen=True)
class ConstrainSummary(StageResult):
    """The result of ``constrain``.

    Attributes:
        rules: effects of the constraints, summed over the volume; a voxel that violates two
            constraints counts in both.
        before: voxels of each structure as predicted.
        after: voxels of each structure after ``constrain``.
    """

    rules: tuple[ConstraintCounts, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]


def constrain(
    sample: Sample,
    settings: ConstrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ConstrainSummary:
    """Write ``labels/NAME-constrained`` for every structure; ``labels/NAME`` stays as predicted.

    Later stages (measure, report, render, export) read the constrained labels where they exist.
    ``remove_constrained`` removes them. ``tables/constrained`` holds the effect of each constraint.
    Labels without probabilities, and labels that differ from theirs because they were corrected,
    have the weight of the most certain prediction.

    Constraints apply to labels as they were computed. What a person drew takes precedence in the
    result, so constraints never remove it.

    Raises:
        SampleError: the sample has none of the structures, or they belong to images of different
            shape or alignment.
        ResumeError: the sample has another result, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(ConstrainSettings, settings, changes)
    labels = _read_structures(sample, settings)
    volumes = {name: (volume, _weights_of(sample, name, volume)) for name, volume in labels.items()}
    cells = _read_cells(sample, settings)
    read = {**labels, settings.cells: cells} if cells else labels
    advice = "predict all structures on one image, or leave cells out with --no-inside-cells"
    require_same_pixels(sample, read, advice)
    inputs = {f"labels/{name}": volume.fingerprint for name, volume in read.items()}
    outputs = [_constrained_volume(name, volume) for name, volume in labels.items()]
    needs = _needs(labels, cells, outputs)
    first = next(iter(labels.values()))
    with Stage(sample, "constrain", settings, inputs, outputs, on, needs) as stage:
        stage.map(_constrain_block, first.blocks(), volumes, cells, settings)
    _remove_others(sample, list(labels))
    apply_to_structures(sample, list(labels), on.quiet)
    return _summarize(sample, first.voxel_size.volume_um3)


def _read_cells(sample: Sample, settings: ConstrainSettings) -> Volume | None:
    """Return the labels of cells; None if there are none, or if they are not considered."""
    has_cells = settings.inside_cells and settings.cells in sample.names("labels")
    return sample.computed(settings.cells) if has_cells else None


def _constrained_volume(name: str, volume: Volume) -> VolumeSpec:
    """Return the volume of constrained labels, like the volume of the predicted ones."""
    return volume.like(_output_path(name), volume.dtype, Kind.LABELS, volume.made_on)


def remove_constrained(sample: Sample) -> list[str]:
    """Remove the constrained labels, so that the predicted ones count; return their paths."""
    with sample.locked():
        shutil.rmtree(sample.path / ".sparsem" / "work" / "constrain", ignore_errors=True)
        forget(sample, "constrain")
        names = sorted(folder.name for folder in (sample.path / "labels").glob(f"*{CONSTRAINED}"))
        removed = [f"labels/{name}" for name in names]
        for name in names:
            structure = name.removesuffix(CONSTRAINED)
            forget(sample, f"objects-{structure}")
            _remove_labels(sample, f"{structure}{OBJECTS}")  # numbered in the constrained labels
            _remove_labels(sample, name)
        sample.remove_table("constrained")
        sample.publish_names()
        sample.remember(
            {
                "stage": "release",
                "fingerprint": "",
                "settings": {},
                "outputs": [],
                "removed": removed,
                "finished": now(),
            }
        )
    return removed


def _read_structures(sample: Sample, settings: ConstrainSettings) -> dict[str, Volume]:
    """Return the labels of the structures that the sample has.

    Raises:
        SampleError: the sample has none of them.
    """
    names = [name for name in settings.structures if name in sample.names("labels")]
    if not names:
        raise SampleError(
            f"{sample.path.name} has no labels of any of {', '.join(settings.structures)}; run "
            f"'sparsem predict {sample.path.name} MODEL' first."
        )
    return {name: sample.computed(name) for name in names}


def _weights_of(sample: Sample, name: str, labels: Volume) -> Volume | None:
    """Return the probabilities of a mask; None if there are none.

    Voxels that a structure gains could not be assigned to an object. So numbered labels are
    certain, and only lose voxels.
    """
    if name not in sample.names("probabilities") or labels.dtype != np.uint8:
        return None
    probabilities = sample.volume("probabilities", name)
    if sample.is_stale("probabilities", name):
        return None
    # Labels that were imported later may belong to another image.
    has_same_pixels = sample.transform_of(probabilities).is_same(sample.transform_of(labels))
    return probabilities if has_same_pixels else None


def _needs(
    labels: Mapping[str, Volume], cells: Volume | None, outputs: Sequence[VolumeSpec]
) -> Needs:
    """Return what it takes to constrain labels."""
    return Needs(
        _required_memory(labels, cells),
        sum(output.nbytes for output in outputs) // 16,
        "import with a smaller --block-depth, or use fewer --workers",
    )


def _required_memory(labels: Mapping[str, Volume], cells: Volume | None) -> int:
    """Return the bytes that a block needs."""
    first = next(iter(labels.values()))
    pixels = first.shape[1] * first.shape[2]
    bytes_a_voxel = sum(3 * volume.dtype.itemsize for volume in labels.values())
    if cells:
        bytes_a_voxel += 4
    return pixels * (first.block_depth * bytes_a_voxel + 16 * len(labels))


def _remove_others(sample: Sample, names: Sequence[str]) -> None:
    """Remove constrained labels of structures that an earlier run constrained, but not this one."""
    for name in sample.names("labels"):
        if name.endswith(CONSTRAINED) and name.removesuffix(CONSTRAINED) not in names:
            _remove_labels(sample, name)


def _constrain_block(
    block: ZBlock,
    volumes: Mapping[str, tuple[Volume, Volume | None]],
    cells: Volume | None,
    settings: ConstrainSettings,
) -> BlockResult:
    labels = {name: volume.read(block.own) for name, (volume, _) in volumes.items()}
    in_cell = None if cells is None else cells.read(block.own) > 0

    def read_probability(name: str) -> Probability | None:
        probabilities = volumes[name][1]
        return None if probabilities is None else probabilities.read(block.own)

    result = constrain_labels(labels, read_probability, in_cell, settings)
    outputs = {_output_path(name): voxels for name, voxels in labels.items()}
    return outputs, {
        "rules": [list(rule) for rule in result.rules],
        "before": dict(result.before),
        "after": dict(result.after),
    }


def _remove_labels(sample: Sample, name: str) -> None:
    """Remove a label volume; a removal that is killed leaves no volume either."""
    folder = sample.path / "labels" / name
    (folder / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _summarize(sample: Sample, voxel_um3: float) -> ConstrainSummary:
    """Return the sum over all blocks, and write it as a table."""
    blocks = finished(sample, "constrain")
    rules = _sum_rules(blocks)
    before = _sum_voxels(blocks, "before")
    after = _sum_voxels(blocks, "after")
    sample.write_table("constrained", _table_of_rules(rules, before, after, voxel_um3))
    volumes = [f"labels/{name}{CONSTRAINED}" for name in before]
    written = (*volumes, "tables/constrained")
    return ConstrainSummary(rules, before, after, sample=sample, written=written)


def _table_of_rules(
    rules: Sequence[ConstraintCounts],
    before: Mapping[str, int],
    after: Mapping[str, int],
    voxel_um3: float,
) -> pa.Table:
    """Return one row for each constraint, with its effect in voxels and in µm³."""
    columns: dict[str, Any] = {
        "structure": [rule.structure for rule in rules],
        "reason": [rule.reason for rule in rules],
        "conflicts_voxels": [rule.conflicts for rule in rules],
        "removed_voxels": [rule.removed for rule in rules],
        "conflicts_um3": [rule.conflicts * voxel_um3 for rule in rules],
        "removed_um3": [rule.removed * voxel_um3 for rule in rules],
        "before_um3": [before[rule.structure] * voxel_um3 for rule in rules],
        "after_um3": [after[rule.structure] * voxel_um3 for rule in rules],
    }
    return pa.table(columns)


def _sum_rules(blocks: Sequence[Mapping[str, Any]]) -> tuple[ConstraintCounts, ...]:
    """Return the effects of the constraints in all blocks."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for block in blocks:
        for structure, reason, conflicts, removed in block["rules"]:
            total = totals.get((structure, reason), (0, 0))
            totals[structure, reason] = (total[0] + conflicts, total[1] + removed)
    return tuple(ConstraintCounts(*rule, *counts) for rule, counts in totals.items())


def _sum_voxels(blocks: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    """Return the voxels of each structure in all blocks."""
    return {name: sum(block[key][name] for block in blocks) for name in blocks[0][key]}


def _output_path(name: str) -> str:
    return f"labels/{name}{CONSTRAINED}"
