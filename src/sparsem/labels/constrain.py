"""Biological constraints: nucleoli lie in nuclei; mitochondria, endosomes and lysosomes lie in cells, in no nucleus, and in no other.

Of all combinations of structures that a voxel may be, the most probable one is taken, the structures' probabilities being those of the
networks: the one with the largest sum of log odds. Where the predicted structures are an allowed combination already, nothing
changes. Arrays are (y, x); probabilities uint8, round(255 p).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.results import CONSTRAINED
from sparsem.settings import Settings, resolve_settings
from sparsem.store.sample import Sample, now
from sparsem.store.volume import FOREGROUND, Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, finished, forget

Mask = NDArray[np.bool_]
Probability = NDArray[np.uint8]


class StructureRoles(Settings):
    """Which structure plays which part."""

    nucleus: str = Field("nucleus", description="name of the nuclei")
    nucleolus: str = Field("nucleolus", description="name of the nucleoli: inside nuclei only")
    cytoplasm: tuple[str, ...] = Field(
        ("mitochondrion", "endosome", "lysosome"),
        description="a structure outside nuclei and inside cells only; repeat it for each",
    )


class ConstrainSettings(StructureRoles):
    """Which structure plays which part, and what is held to it."""

    cells: str = Field("cells", description="name of the cells")
    inside_cells: bool = Field(
        True, description="take away what lies in no cell; needs labels of cells"
    )


class ConstraintCounts(NamedTuple):
    """A rule and what it did in some voxels.

    Attributes:
        structure: the one that is taken away or kept.
        reason: what it may not be, in words.
        conflicts: voxels where the rule was broken.
        removed: of them, voxels that the structure lost.
    """

    structure: str
    reason: str
    conflicts: int
    removed: int


@dataclass(frozen=True)
class ConstrainSummary:
    """What ``constrain`` did.

    Attributes:
        rules: summed over the volume; a voxel that breaks two rules counts in both.
        before: voxels of each structure.
        after: the same, constrained.
    """

    rules: tuple[ConstraintCounts, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]


def allowed_combinations(names: Sequence[str], settings: ConstrainSettings) -> list[frozenset[str]]:
    """Combinations of the structures ``names`` that a voxel within a cell may be; the first one is nothing."""
    nuclear = frozenset({settings.nucleus, settings.nucleolus})
    nested = nuclear <= set(names)
    alone = [frozenset([name]) for name in names if not (nested and name == settings.nucleolus)]
    return [frozenset(), *alone, *([nuclear] if nested else [])]


def most_probable_masks(
    probabilities: Mapping[str, Probability], in_cell: Mask | None, settings: ConstrainSettings
) -> dict[str, Mask]:
    """The most probable allowed combination in every pixel, as one mask (y, x) a structure.

    Args:
        probabilities: of each structure, (y, x).
        in_cell: which pixels lie in a cell; None where cells are not known, or do not matter.
        settings: who may be where.
    """
    found = {name: one >= FOREGROUND for name, one in probabilities.items()}
    doubtful = np.nonzero(_broken(found, in_cell, settings))
    if not doubtful[0].size:
        return found
    odds = {name: _log_odds()[one[doubtful]] for name, one in probabilities.items()}
    outside = ~in_cell[doubtful] if in_cell is not None else np.zeros(doubtful[0].shape, bool)
    best, chosen = np.full(doubtful[0].shape, -np.inf), np.zeros(doubtful[0].shape, np.uint8)
    states = allowed_combinations(list(probabilities), settings)
    for number, state in enumerate(states):
        total = (
            np.sum([odds[name] for name in sorted(state)], axis=0)
            if state
            else np.zeros(best.shape)
        )
        if state & set(settings.cytoplasm):
            total = np.where(outside, -np.inf, total)
        better = total > best
        best[better], chosen[better] = total[better], number
    for name, mask in found.items():
        mask[doubtful] = np.array([name in state for state in states])[chosen]
    return found


def count_conflicts(
    before: Mapping[str, Mask],
    after: Mapping[str, Mask],
    in_cell: Mask | None,
    settings: ConstrainSettings,
) -> list[ConstraintCounts]:
    """Every rule with the pixels where it was broken before, and those of them that the structure lost."""
    broken = {(name, reason): mask for name, reason, mask in _rules(before, in_cell, settings)}
    return [
        ConstraintCounts(
            name, reason, int(mask.sum()), int((mask & before[name] & ~after[name]).sum())
        )
        for (name, reason), mask in broken.items()
    ]


def constrain(
    sample: Sample,
    settings: ConstrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ConstrainSummary:
    """Write ``labels/NAME-constrained`` for every structure that there is; ``labels/NAME`` stays as it was predicted.

    What comes later (measure, report, render, export) reads the constrained labels where there are any. ``remove_constrained`` takes them away
    again. ``tables/constrained`` tells what each rule did. Labels that differ from their probabilities, because somebody corrected
    them, and labels without probabilities weigh as much as the surest prediction.

    Raises:
        SampleError: none of the structures is there.
        ResumeError: there is another result, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(ConstrainSettings, settings, changes)
    names = [
        name
        for name in (settings.nucleus, settings.nucleolus, *settings.cytoplasm)
        if name in sample.names("labels")
    ]
    if not names:
        wanted = ", ".join((settings.nucleus, settings.nucleolus, *settings.cytoplasm))
        raise SampleError(
            f"{sample.path.name} has no labels of any of {wanted}; run 'sparsem predict {sample.path.name} MODEL' first."
        )
    labels = {name: sample.volume("labels", name) for name in names}
    predicted = set(sample.names("probabilities"))
    # Numbers of objects could not be given to voxels that a structure gains: numbered labels are certain, and only lose.
    weighed = {name: name in predicted and one.dtype == np.uint8 for name, one in labels.items()}
    volumes = {
        name: (one, sample.volume("probabilities", name) if weighed[name] else None)
        for name, one in labels.items()
    }
    cells = (
        sample.volume("labels", settings.cells)
        if settings.inside_cells and settings.cells in sample.names("labels")
        else None
    )
    inputs = {f"labels/{name}": one.fingerprint for name, one in labels.items()}
    inputs |= {f"labels/{settings.cells}": cells.fingerprint} if cells else {}
    first = next(iter(labels.values()))
    outputs = [
        one.like(_path(name), one.dtype, Kind.LABELS, one.made_on) for name, one in labels.items()
    ]
    pixels = first.shape[1] * first.shape[2]
    ram = pixels * (
        first.block_depth
        * (sum(3 * one.dtype.itemsize for one in labels.values()) + (4 if cells else 0))
        + 16 * len(names)
    )
    needs = Needs(
        ram,
        sum(one.nbytes for one in outputs) // 16,
        "import with a smaller --block-depth, or use fewer --workers",
    )
    with Stage(sample, "constrain", settings, inputs, outputs, on, needs) as stage:
        stage.map(_constrain_block, first.blocks(), volumes, cells, settings)
    for name in sample.names(
        "labels"
    ):  # of structures that an earlier run constrained, and this one does not
        if name.endswith(CONSTRAINED) and name.removesuffix(CONSTRAINED) not in names:
            _removed(sample, name)
    return _told(sample, first.voxel_size.volume_um3)


def remove_constrained(sample: Sample) -> list[str]:
    """Take the constrained labels away; what was predicted is what counts again. Returns their paths."""
    with sample.locked():
        shutil.rmtree(sample.path / ".sparsem" / "work" / "constrain", ignore_errors=True)
        forget(sample, "constrain")
        names = sorted(folder.name for folder in (sample.path / "labels").glob(f"*{CONSTRAINED}"))
        removed = [f"labels/{name}" for name in names]
        for name in names:
            objects = f"{name.removesuffix(CONSTRAINED)}-objects"  # numbered in what goes away
            forget(sample, f"objects-{name.removesuffix(CONSTRAINED)}")
            _removed(sample, objects)
            _removed(sample, name)
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


def _constrain_block(
    block: ZBlock,
    volumes: Mapping[str, tuple[Volume, Volume | None]],
    cells: Volume | None,
    settings: ConstrainSettings,
) -> BlockResult:
    labels = {name: volume.read(block.own) for name, (volume, _) in volumes.items()}
    probabilities = {
        name: _weights(labels[name], None if p is None else p.read(block.own))
        for name, (_, p) in volumes.items()
    }
    inside = None if cells is None else cells.read(block.own) > 0
    made = {name: np.empty_like(one) for name, one in labels.items()}
    rules: dict[tuple[str, str], list[int]] = {}
    before, after = dict.fromkeys(volumes, 0), dict.fromkeys(volumes, 0)
    for z in range(block.stop - block.start):
        here, in_cell = (
            {name: one[z] for name, one in probabilities.items()},
            None if inside is None else inside[z],
        )
        old = {name: one >= FOREGROUND for name, one in here.items()}
        new = most_probable_masks(here, in_cell, settings)
        for name in volumes:
            made[name][z] = np.where(new[name], np.maximum(labels[name][z], 1), 0)
            before[name] += int(old[name].sum())
            after[name] += int(new[name].sum())
        for rule in count_conflicts(old, new, in_cell, settings):
            total = rules.setdefault((rule.structure, rule.reason), [0, 0])
            total[0] += rule.conflicts
            total[1] += rule.removed
    summary = {
        "rules": [[*key, *counts] for key, counts in rules.items()],
        "before": before,
        "after": after,
    }
    return {_path(name): one for name, one in made.items()}, summary


def _weights(labels: NDArray[Any], probability: Probability | None) -> Probability:
    """Probabilities as predicted; where labels say otherwise, the surest ones."""
    inside = labels > 0
    certain = np.where(inside, 255, 0).astype(np.uint8)
    return (
        certain
        if probability is None
        else np.where(inside == (probability >= FOREGROUND), probability, certain)
    )


def _removed(sample: Sample, name: str) -> None:
    """Take a label volume away: it is no volume from the first step on, whatever happens."""
    folder = sample.path / "labels" / name
    (folder / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _told(sample: Sample, voxel_um3: float) -> ConstrainSummary:
    """The sum over all blocks, which is also written as a table."""
    blocks = finished(sample, "constrain")
    rules: dict[tuple[str, str], tuple[int, int]] = {}
    for structure, reason, conflicts, removed in (
        rule for block in blocks for rule in block["rules"]
    ):
        old = rules.get((structure, reason), (0, 0))
        rules[structure, reason] = (old[0] + conflicts, old[1] + removed)
    found = tuple(ConstraintCounts(*key, *counts) for key, counts in rules.items())
    sums = [
        {name: sum(block[when][name] for block in blocks) for name in blocks[0][when]}
        for when in ("before", "after")
    ]
    columns: dict[str, Any] = {
        name: [getattr(rule, name) for rule in found] for name in ("structure", "reason")
    }
    columns |= {
        f"{name}_voxels": [getattr(rule, name) for rule in found]
        for name in ("conflicts", "removed")
    }
    columns |= {
        f"{name}_um3": [getattr(rule, name) * voxel_um3 for rule in found]
        for name in ("conflicts", "removed")
    }
    columns |= {
        f"{when}_um3": [one[rule.structure] * voxel_um3 for rule in found]
        for when, one in zip(("before", "after"), sums, strict=True)
    }
    sample.write_table("constrained", pa.table(columns))
    return ConstrainSummary(found, *sums)


def _rules(
    found: Mapping[str, Mask], in_cell: Mask | None, settings: ConstrainSettings
) -> list[tuple[str, str, Mask]]:
    """(structure, reason, where the rule is broken)."""
    nuclear = [name for name in (settings.nucleus, settings.nucleolus) if name in found]
    others = [name for name in settings.cytoplasm if name in found]
    rules = []
    if len(nuclear) == 2:
        rules.append(
            (
                settings.nucleolus,
                "outside nuclei",
                found[settings.nucleolus] & ~found[settings.nucleus],
            )
        )
    rules += [
        (name, f"in a {where}", found[name] & found[where]) for name in others for where in nuclear
    ]
    rules += [
        (where, f"also {name}", found[name] & found[where]) for name in others for where in nuclear
    ]  # either may lose them
    rules += [
        (one, f"also {other}", found[one] & found[other])
        for pair in combinations(others, 2)
        for one, other in (pair, pair[::-1])
    ]
    if in_cell is not None:
        rules += [(name, "in no cell", found[name] & ~in_cell) for name in others]
    return rules


def _broken(found: Mapping[str, Mask], in_cell: Mask | None, settings: ConstrainSettings) -> Mask:
    first = next(iter(found.values()))
    broken = [mask for _, _, mask in _rules(found, in_cell, settings)]
    return np.asarray(np.logical_or.reduce([np.zeros(first.shape, bool), *broken]))


def _log_odds() -> NDArray[np.float64]:
    """Of every uint8 probability; 0 and 255 stand for a quarter of a step from certainty."""
    p = np.clip(np.arange(256.0), 0.25, 254.75) / 255
    return np.asarray(np.log(p / (1 - p)))


def _path(name: str) -> str:
    return f"labels/{name}{CONSTRAINED}"
