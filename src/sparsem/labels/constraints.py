"""Biological constraints: which structures may contain each other.

Nucleoli are inside nuclei. Mitochondria, endosomes and lysosomes are inside cells, outside nuclei,
and do not overlap each other. Every voxel gets the most probable of the allowed combinations of
structures, which is the one with the largest sum of log odds of the networks' probabilities. Where
the predicted structures are an allowed combination, nothing changes. Probabilities are uint8,
round(255 p).

The structures of a voxel, and whether it is in a cell, are the bits of one number, its code. So one
table says for every code what is in conflict, and only voxels in conflict are looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.errors import SettingsError
from sparsem.labels.settings import ConstrainSettings
from sparsem.store.volume import FOREGROUND

MAX_STRUCTURES = 15  # bits of a code, less one for cells

Mask = NDArray[np.bool_]
Probability = NDArray[np.uint8]
Codes = NDArray[np.uint16]
ReadProbability = Callable[[str], Probability | None]


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
    """Voxels in which a structure violates a constraint.

    Attributes:
        structure: structure that the constraint applies to.
        reason: the conflict, in words.
        mask: which voxels are in conflict.
    """

    structure: str
    reason: str
    mask: Mask


class ConstraintEffect(NamedTuple):
    """The effect of the constraints on some voxels.

    Attributes:
        rules: the effect of each constraint; a voxel that violates two of them counts in both.
        before: voxels of each structure before.
        after: voxels of each structure after.
    """

    rules: tuple[ConstraintCounts, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]


def constrain_labels(
    labels: Mapping[str, NDArray[Any]],
    read_probability: ReadProbability,
    in_cell: Mask | None,
    settings: ConstrainSettings,
) -> ConstraintEffect:
    """Change labels to the most probable allowed combination of structures.

    Labels stay where nothing is in conflict. Voxels that a structure gains get the label 1.

    Args:
        labels: labels of each structure, contiguous, of one shape; changed in place.
        read_probability: returns the probabilities of a structure, of the shape of the labels, or
            None; it is called only if a voxel is in conflict. Labels without probabilities, and
            labels that differ from theirs, count as certain.
        in_cell: voxels inside cells; None where cells are unknown, or are not considered.
        settings: names of structures and the constraints that apply.

    Raises:
        SettingsError: there are too many structures.
    """
    names = list(labels)
    table = tabulate_conflicts(names, in_cell is not None, settings)
    codes = codes_of(list(labels.values()), in_cell)
    counts = _count_codes(codes, len(table.is_conflict))
    n_conflicts = int(counts[table.is_conflict].sum())
    voxels = _voxels_with_codes(codes, table.is_conflict, n_conflicts)
    masks = _constrained_at(voxels, labels, read_probability, in_cell, settings)
    effect = _effect_of(table, counts, codes[voxels], masks)
    for name in names:
        flat = labels[name].reshape(-1)
        flat[voxels] = _limit_to_mask(flat[voxels], masks[name])
    return effect


def _effect_of(
    table: "ConflictTable", counts: NDArray[np.int64], codes: Codes, masks: Mapping[str, Mask]
) -> ConstraintEffect:
    """Return the effect of the constraints.

    Args:
        table: what is in conflict.
        counts: voxels of every code.
        codes: codes of the voxels in conflict, (n,).
        masks: structures of these voxels after the constraints, (n,).
    """
    before, after, lost = {}, {}, {}
    for name, has in table.has.items():
        had = has[codes]
        lost[name] = had & ~masks[name]
        before[name] = int(counts[has].sum())
        after[name] = before[name] - int(had.sum()) + int(masks[name].sum())
    rules = {}  # a structure that settings name twice counts once
    for structure, reason, is_violated in table.conflicts:
        n_removed = int((is_violated[codes] & lost[structure]).sum())
        n_violated = int(counts[is_violated].sum())
        rules[structure, reason] = ConstraintCounts(structure, reason, n_violated, n_removed)
    return ConstraintEffect(tuple(rules.values()), before, after)


class ConflictTable(NamedTuple):
    """Conflicts of every code that a voxel may have.

    Attributes:
        has: structure -> which codes have it, (codes,).
        conflicts: every constraint, with the codes that violate it as mask, (codes,).
        is_conflict: which codes violate any, (codes,).
    """

    has: Mapping[str, Mask]
    conflicts: Sequence[Conflict]
    is_conflict: Mask


def tabulate_conflicts(
    names: Sequence[str], are_cells_known: bool, settings: ConstrainSettings
) -> ConflictTable:
    """Return what is in conflict for every code of structures ``names``.

    Raises:
        SettingsError: there are too many structures.
    """
    if len(names) > MAX_STRUCTURES:
        raise SettingsError(
            f"Constraints apply to at most {MAX_STRUCTURES} structures; got {len(names)}."
        )
    codes = np.arange(2 ** (len(names) + 1))
    has = {name: (codes >> bit) % 2 == 1 for bit, name in enumerate(names)}
    in_cell = (codes >> len(names)) % 2 == 1 if are_cells_known else None
    conflicts = find_conflicts(has, in_cell, settings)
    is_conflict = np.logical_or.reduce(
        [np.zeros(len(codes), bool), *(conflict.mask for conflict in conflicts)]
    )
    return ConflictTable(has, conflicts, is_conflict)


def codes_of(labels: Sequence[NDArray[Any]], in_cell: Mask | None) -> Codes:
    """Return the code of every voxel, (voxels,): bit ``n`` stands for structure ``n``.

    The bit after those of the structures stands for cells.
    """
    codes: Codes = np.zeros(labels[0].size, np.uint16)
    for bit, voxels in enumerate([*labels, *([] if in_cell is None else [in_cell])]):
        _add_bit(voxels.reshape(-1), np.uint16(1 << bit), codes)
    return codes


@compiled()
def _add_bit(voxels: Any, bit: Any, codes: Any) -> None:
    """Add a bit to the codes of the voxels that are not 0."""
    for index in range(len(voxels)):
        codes[index] |= bit * (voxels[index] != 0)


@compiled()
def _count_codes(codes: Any, n_codes: Any) -> Any:
    """Return the voxels of every code."""
    counts = np.zeros(n_codes, np.int64)
    for code in codes:
        counts[code] += 1
    return counts


@compiled()
def _voxels_with_codes(codes: Any, is_selected: Any, count: Any) -> Any:
    """Return the indices of the ``count`` voxels whose code is selected."""
    indices = np.empty(count, np.int64)
    n_selected = 0
    for index in range(len(codes)):
        if is_selected[codes[index]]:
            indices[n_selected] = index
            n_selected += 1
    return indices


def _constrained_at(
    voxels: NDArray[np.int64],
    labels: Mapping[str, NDArray[Any]],
    read_probability: ReadProbability,
    in_cell: Mask | None,
    settings: ConstrainSettings,
) -> dict[str, Mask]:
    """Return for every structure which of some voxels have it, in the most probable combination."""
    if not voxels.size:
        return {name: np.zeros(0, bool) for name in labels}
    weights = {
        name: _weights(of_structure.reshape(-1), read_probability(name), voxels)
        for name, of_structure in labels.items()
    }
    outside = np.zeros(voxels.size, bool) if in_cell is None else ~in_cell.reshape(-1)[voxels]
    return most_probable_masks(weights, outside, settings)


def most_probable_masks(
    probabilities: Mapping[str, Probability], outside: Mask, settings: ConstrainSettings
) -> dict[str, Mask]:
    """Return for every structure which voxels have it, in the most probable allowed combination.

    Args:
        probabilities: of each structure, (n,).
        outside: (n,) voxels outside cells, where no structure of the cytoplasm is allowed.
        settings: names of structures and the constraints that apply.
    """
    allowed = allowed_combinations(list(probabilities), settings)
    log_odds_of_byte = _log_odds()
    log_odds = {name: log_odds_of_byte[voxels] for name, voxels in probabilities.items()}
    best = _best_combinations(allowed, log_odds, outside, settings)
    masks = {}
    for name in probabilities:
        is_member = np.array([name in combination for combination in allowed])
        masks[name] = is_member[best]
    return masks


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


def _best_combinations(
    allowed: Sequence[frozenset[str]],
    log_odds: Mapping[str, NDArray[np.float64]],
    outside: Mask,
    settings: ConstrainSettings,
) -> NDArray[np.uint8]:
    """Return the position in ``allowed`` of the most probable combination of n voxels, (n,).

    Args:
        allowed: allowed combinations of structures.
        log_odds: log odds of each structure, (n,).
        outside: (n,) voxels outside cells, where no structure of the cytoplasm is allowed.
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


def _log_odds() -> NDArray[np.float64]:
    """Return the log odds of every uint8 probability.

    0 and 255 stand for probabilities that are a quarter of a step from certainty.
    """
    p = np.clip(np.arange(256.0), 0.25, 254.75) / 255
    return np.asarray(np.log(p / (1 - p)))


def _weights(
    labels: NDArray[Any], probability: Probability | None, voxels: NDArray[np.int64]
) -> Probability:
    """Return probabilities of some voxels as predicted; 0 or 255 where labels differ from them."""
    inside = labels[voxels] > 0
    certain = np.where(inside, np.uint8(255), np.uint8(0))
    if probability is None:
        return certain
    predicted = probability.reshape(-1)[voxels]
    return np.where(inside == (predicted >= FOREGROUND), predicted, certain)


def _limit_to_mask(labels: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Return the labels inside a mask, 1 where they are 0, and 0 outside."""
    return np.where(mask, np.maximum(labels, 1), 0)
