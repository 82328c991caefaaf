"""Biological constraints: which structures may contain each other.

Nucleoli are inside nuclei. Mitochondria, endosomes and lysosomes are inside cells, outside nuclei,
and do not overlap each other. Every voxel gets the most probable of the allowed combinations of
structures, which is the one with the largest sum of log odds of the networks' probabilities. Where
the predicted structures are an allowed combination, nothing changes. Arrays are (y, x);
probabilities are uint8, round(255 p).
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.precedence import apply_to_structures
from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.results import require_same_pixels
from sparsem.labels.settings import ConstrainSettings
from sparsem.settings import resolve_settings
from sparsem.store.names import CONSTRAINED, OBJECTS
from sparsem.store.sample import Sample, now
from sparsem.store.volume import FOREGROUND, Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage, finished, forget

Mask = NDArray[np.bool_]
Probability = NDArray[np.uint8]


class ConstraintCounts(NamedTuple):
    """A constraint, and its effect on some voxels.

    Attributes:
        structure: structure that the constraint applies to.
        reason: the conflict, in words.
        conflicts: voxels in conflict.
        removed: those of them that the structure lost.
    """

    structure: str
    reason: str
    conflicts: int
    removed: int


class Conflict(NamedTuple):
    """Pixels in which a structure violates a constraint.

    Attributes:
        structure: structure that the constraint applies to.
        reason: the conflict, in words.
        mask: (y, x) pixels in conflict.
    """

    structure: str
    reason: str
    mask: Mask


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


# Compute: the most probable allowed combination, and conflicts.


def allowed_combinations(names: Sequence[str], settings: ConstrainSettings) -> list[frozenset[str]]:
    """Return the combinations of structures that a voxel inside a cell may have.

    The first one is the empty combination: background.
    """
    nucleolus_in_nucleus = frozenset({settings.nucleus, settings.nucleolus})
    has_both = nucleolus_in_nucleus <= set(names)
    allowed: list[frozenset[str]] = [frozenset()]
    alone = [name for name in names if not (has_both and name == settings.nucleolus)]
    allowed += [frozenset([name]) for name in alone]
    if has_both:
        allowed.append(nucleolus_in_nucleus)
    return allowed


def most_probable_masks(
    probabilities: Mapping[str, Probability], in_cell: Mask | None, settings: ConstrainSettings
) -> dict[str, Mask]:
    """Return the most probable allowed combination of every pixel, as one mask (y, x) a structure.

    Args:
        probabilities: of each structure, (y, x).
        in_cell: pixels inside cells; None where cells are unknown, or are not considered.
        settings: names of structures and the constraints that apply.
    """
    masks = {name: probability >= FOREGROUND for name, probability in probabilities.items()}
    in_conflict = np.nonzero(_any_conflict(masks, in_cell, settings))
    n_pixels = in_conflict[0].size
    if not n_pixels:
        return masks
    log_odds = _log_odds_at(in_conflict, probabilities)
    outside = np.zeros(n_pixels, bool) if in_cell is None else ~in_cell[in_conflict]
    allowed = allowed_combinations(list(probabilities), settings)
    best = _best_combinations(allowed, log_odds, outside, settings)
    for name, mask in masks.items():
        is_member = np.array([name in combination for combination in allowed])
        mask[in_conflict] = is_member[best]
    return masks


def _log_odds_at(
    pixels: tuple[NDArray[np.intp], ...], probabilities: Mapping[str, Probability]
) -> dict[str, NDArray[np.float64]]:
    """Return the log odds of every structure at some pixels, (n,) each."""
    log_odds_of_byte = _log_odds()
    return {
        name: log_odds_of_byte[probability[pixels]] for name, probability in probabilities.items()
    }


def _best_combinations(
    allowed: Sequence[frozenset[str]],
    log_odds: Mapping[str, NDArray[np.float64]],
    outside: Mask,
    settings: ConstrainSettings,
) -> NDArray[np.uint8]:
    """Return the position in ``allowed`` of the most probable combination of n pixels, (n,).

    Args:
        allowed: allowed combinations of structures.
        log_odds: log odds of each structure, (n,).
        outside: (n,) pixels outside cells, where no structure of the cytoplasm is allowed.
        settings: names of structures.
    """
    highest = np.full(len(outside), -np.inf)
    best = np.zeros(len(outside), np.uint8)
    for number, combination in enumerate(allowed):
        total = _total_log_odds(combination, log_odds, len(outside))
        if combination & set(settings.cytoplasm):
            total = np.where(outside, -np.inf, total)
        is_better = total > highest
        highest[is_better] = total[is_better]
        best[is_better] = number
    return best


def _total_log_odds(
    combination: frozenset[str], log_odds: Mapping[str, NDArray[np.float64]], n_pixels: int
) -> NDArray[np.float64]:
    """Return the sum of the log odds of all structures of a combination, (n,)."""
    if not combination:
        return np.zeros(n_pixels)
    total: NDArray[np.float64] = np.sum([log_odds[name] for name in sorted(combination)], axis=0)
    return total


def count_conflicts(
    before: Mapping[str, Mask],
    after: Mapping[str, Mask],
    in_cell: Mask | None,
    settings: ConstrainSettings,
) -> list[ConstraintCounts]:
    """Return for every constraint its pixels in conflict, and how many the structure lost."""
    masks = {
        (conflict.structure, conflict.reason): conflict.mask
        for conflict in find_conflicts(before, in_cell, settings)
    }  # a structure that settings name twice counts once
    counts = []
    for (structure, reason), mask in masks.items():
        removed = mask & before[structure] & ~after[structure]
        counts.append(ConstraintCounts(structure, reason, int(mask.sum()), int(removed.sum())))
    return counts


def find_conflicts(
    masks: Mapping[str, Mask], in_cell: Mask | None, settings: ConstrainSettings
) -> list[Conflict]:
    """Return every constraint on the given structures, with the pixels that violate it.

    Where an organelle overlaps a nucleus or another organelle, either may lose the pixels, so both
    have a constraint.
    """
    organelles = [name for name in settings.cytoplasm if name in masks]
    conflicts = _nuclear_conflicts(masks, organelles, settings)
    for first, second in combinations(organelles, 2):
        shared = masks[first] & masks[second]
        conflicts.append(Conflict(first, f"also {second}", shared))
        conflicts.append(Conflict(second, f"also {first}", shared))
    if in_cell is not None:
        for organelle in organelles:
            outside = masks[organelle] & ~in_cell
            conflicts.append(Conflict(organelle, "in no cell", outside))
    return conflicts


def _nuclear_conflicts(
    masks: Mapping[str, Mask], organelles: Sequence[str], settings: ConstrainSettings
) -> list[Conflict]:
    """Return the constraints on nucleoli, and on organelles where nuclei or nucleoli are."""
    nuclear = [name for name in (settings.nucleus, settings.nucleolus) if name in masks]
    conflicts = []
    if len(nuclear) == 2:
        outside = masks[settings.nucleolus] & ~masks[settings.nucleus]
        conflicts.append(Conflict(settings.nucleolus, "outside nuclei", outside))
    pairs = [(organelle, name) for organelle in organelles for name in nuclear]
    conflicts += [
        Conflict(organelle, f"in a {name}", masks[organelle] & masks[name])
        for organelle, name in pairs
    ]
    conflicts += [
        Conflict(name, f"also {organelle}", masks[organelle] & masks[name])
        for organelle, name in pairs
    ]
    return conflicts


def _any_conflict(
    masks: Mapping[str, Mask], in_cell: Mask | None, settings: ConstrainSettings
) -> Mask:
    shape = next(iter(masks.values())).shape
    conflicts = [conflict.mask for conflict in find_conflicts(masks, in_cell, settings)]
    return np.asarray(np.logical_or.reduce([np.zeros(shape, bool), *conflicts]))


def _log_odds() -> NDArray[np.float64]:
    """Return the log odds of every uint8 probability.

    0 and 255 stand for probabilities that are a quarter of a step from certainty.
    """
    p = np.clip(np.arange(256.0), 0.25, 254.75) / 255
    return np.asarray(np.log(p / (1 - p)))


# The stage.


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
    labels, weights = _read_block(block, volumes)
    in_cell = None if cells is None else cells.read(block.own) > 0
    constrained = {name: np.empty_like(voxels) for name, voxels in labels.items()}
    counts = _BlockCounts.of_structures(volumes)
    for z in range(block.stop - block.start):
        slice_weights = {name: voxels[z] for name, voxels in weights.items()}
        slice_in_cell = None if in_cell is None else in_cell[z]
        masks = _constrain_slice(slice_weights, slice_in_cell, settings, counts)
        for name, mask in masks.items():
            constrained[name][z] = _limit_to_mask(labels[name][z], mask)
    outputs = {_output_path(name): voxels for name, voxels in constrained.items()}
    return outputs, counts.summary()


def _limit_to_mask(labels: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Return the labels inside a mask, 1 where they are 0, and 0 outside."""
    return np.where(mask, np.maximum(labels, 1), 0)


def _read_block(
    block: ZBlock, volumes: Mapping[str, tuple[Volume, Volume | None]]
) -> tuple[dict[str, NDArray[Any]], dict[str, Probability]]:
    """Return the labels and the weights of every structure in a block."""
    labels: dict[str, NDArray[Any]] = {}
    weights: dict[str, Probability] = {}
    for name, (volume, probabilities) in volumes.items():
        labels[name] = volume.read(block.own)
        predicted = None if probabilities is None else probabilities.read(block.own)
        weights[name] = _weights(labels[name], predicted)
    return labels, weights


@dataclass
class _BlockCounts:
    """Running counts over the slices of a block.

    Attributes:
        rules: (structure, reason) -> voxels in conflict, and those that were removed.
        before: voxels of each structure as predicted.
        after: voxels of each structure after ``constrain``.
    """

    rules: dict[tuple[str, str], list[int]]
    before: dict[str, int]
    after: dict[str, int]

    @classmethod
    def of_structures(cls, names: Iterable[str]) -> "_BlockCounts":
        """Return counts of nothing yet."""
        return cls({}, dict.fromkeys(names, 0), dict.fromkeys(names, 0))

    def add_masks(self, old_masks: Mapping[str, Mask], new_masks: Mapping[str, Mask]) -> None:
        """Add the voxels of each structure in a slice."""
        for name in self.before:
            self.before[name] += int(old_masks[name].sum())
            self.after[name] += int(new_masks[name].sum())

    def add_rules(self, rules: Sequence[ConstraintCounts]) -> None:
        """Add the effects of the constraints in a slice."""
        for rule in rules:
            total = self.rules.setdefault((rule.structure, rule.reason), [0, 0])
            total[0] += rule.conflicts
            total[1] += rule.removed

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        rules = [[*rule, *counts] for rule, counts in self.rules.items()]
        return {"rules": rules, "before": self.before, "after": self.after}


def _constrain_slice(
    weights: Mapping[str, Probability],
    in_cell: Mask | None,
    settings: ConstrainSettings,
    counts: _BlockCounts,
) -> dict[str, Mask]:
    """Return the constrained masks of a slice, and count what changes in it."""
    old_masks = {name: pixels >= FOREGROUND for name, pixels in weights.items()}
    new_masks = most_probable_masks(weights, in_cell, settings)
    counts.add_masks(old_masks, new_masks)
    counts.add_rules(count_conflicts(old_masks, new_masks, in_cell, settings))
    return new_masks


def _weights(labels: NDArray[Any], probability: Probability | None) -> Probability:
    """Return probabilities as predicted; 0 or 255 where labels differ from them."""
    inside = labels > 0
    certain = np.where(inside, 255, 0).astype(np.uint8)
    if probability is None:
        return certain
    return np.where(inside == (probability >= FOREGROUND), probability, certain)


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
