"""Constraints: the most probable allowed combination against trying all of them, what is told, and the way back."""

import shutil
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.errors import ResumeError, SampleError
from sparsem.labels.constrain import (
    ConstrainSettings,
    constrain,
    count_conflicts,
    most_probable_masks,
    remove_constrained,
)
from sparsem.labels.results import result_labels
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, drawn, files_in, kill_ten_times, put, voxels

RULES = ConstrainSettings()
NAMES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")
SHAPE = (6, 20, 24)


def noisy(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 256, shape).astype(np.uint8) for name in NAMES}


def is_allowed(state: set[str], in_cell: bool) -> bool:
    organelles = state & {"mitochondrion", "endosome", "lysosome"}
    return (
        ("nucleolus" not in state or "nucleus" in state)
        and not (organelles and "nucleus" in state)
        and len(organelles) <= 1
        and (in_cell or not organelles)
    )


def by_trying(probability: dict[str, int], in_cell: bool) -> float:
    """Log probability of the best allowed combination, structures being independent."""
    p = {name: min(max(value, 0.25), 254.75) / 255 for name, value in probability.items()}
    every = chain.from_iterable(combinations(p, n) for n in range(len(p) + 1))
    allowed = [set(state) for state in every if is_allowed(set(state), in_cell)]
    return max(
        float(sum(np.log(p[name] if name in state else 1 - p[name]) for name in p))
        for state in allowed
    )


def test_the_most_probable_allowed_combination_wins() -> None:
    probabilities = {name: one[0] for name, one in noisy().items()}
    in_cell = np.random.default_rng(9).random(SHAPE[1:]) < 0.7
    found = most_probable_masks(probabilities, in_cell, RULES)
    for place in np.ndindex(*SHAPE[1:]):
        state = {name for name in NAMES if found[name][place]}
        assert is_allowed(state, bool(in_cell[place])), (place, state)
        p = {
            name: min(max(int(one[place]), 0.25), 254.75) / 255
            for name, one in probabilities.items()
        }
        ours = sum(np.log(p[name] if name in state else 1 - p[name]) for name in p)
        assert ours == pytest.approx(
            by_trying(
                {name: int(one[place]) for name, one in probabilities.items()}, bool(in_cell[place])
            )
        )


def test_what_breaks_no_rule_stays() -> None:
    probabilities = {name: np.zeros((4, 6), np.uint8) for name in NAMES}
    probabilities["nucleus"][:, :3] = 200
    probabilities["nucleolus"][1:3, 1] = 180
    probabilities["mitochondrion"][:, 4] = 140
    found = most_probable_masks(probabilities, np.ones((4, 6), bool), RULES)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], probabilities[name] >= 128)


def weighed(nucleolus: int, nucleus: int) -> tuple[bool, bool]:
    one = {
        "nucleus": np.full((1, 1), nucleus, np.uint8),
        "nucleolus": np.full((1, 1), nucleolus, np.uint8),
    }
    found = most_probable_masks(one, None, RULES)
    return bool(found["nucleolus"][0, 0]), bool(found["nucleus"][0, 0])


def test_a_nucleolus_outside_its_nucleus_extends_it_or_goes() -> None:
    assert weighed(nucleolus=230, nucleus=100) == (True, True)
    assert weighed(nucleolus=140, nucleus=20) == (False, False)
    alone = {"nucleolus": np.full((1, 1), 200, np.uint8)}
    assert most_probable_masks(alone, None, RULES)[
        "nucleolus"
    ].all()  # where nobody knows nuclei there is no rule


def test_rules_tell_conflicts_and_losses() -> None:
    before = {
        "nucleus": drawn("11..") > 0,
        "mitochondrion": drawn(".111") > 0,
        "lysosome": drawn("..1.") > 0,
    }
    after = {
        "nucleus": drawn("11..") > 0,
        "mitochondrion": drawn("..1.") > 0,
        "lysosome": drawn("....") > 0,
    }
    told = {
        (one.structure, one.reason): (one.conflicts, one.removed)
        for one in count_conflicts(before, after, drawn("111.") > 0, RULES)
    }
    assert told["mitochondrion", "in a nucleus"] == (1, 1)
    assert told["nucleus", "also mitochondrion"] == (1, 0)
    assert told["mitochondrion", "also lysosome"] == (1, 0)
    assert told["lysosome", "also mitochondrion"] == (1, 1)
    assert told["mitochondrion", "in no cell"] == (1, 1)
    assert told["lysosome", "in no cell"] == (0, 0)


def sample_of(path: Path, depth: int = 6, seed: int = 0) -> Sample:
    sample = Sample.create(path)
    put(sample, "", np.zeros(SHAPE, np.uint8), depth)
    for name, one in noisy(seed).items():
        put(sample, f"probabilities/{name}", one, depth)
        put(sample, f"labels/{name}", (one >= 128).astype(np.uint8), depth)
    put(
        sample,
        "labels/cells",
        np.random.default_rng(3).integers(0, 3, SHAPE).astype(np.uint32),
        depth,
    )
    return sample


def test_the_stage_writes_beside_what_was_predicted_and_can_be_taken_back(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    before = {name: voxels(sample.volume("labels", name)) for name in NAMES}
    found = constrain(sample)
    for name in NAMES:
        made = result_labels(sample, name)
        assert made.directory.name == f"{name}-constrained"
        assert int(made.read(slice(None)).sum()) == found.after[name]
        assert found.before[name] == int(before[name][0].sum())
        np.testing.assert_array_equal(
            sample.volume("labels", name).read(slice(None)), before[name][0]
        )
    table = sample.read_table("constrained").to_pylist()
    row = next(
        one for one in table if (one["structure"], one["reason"]) == ("nucleolus", "outside nuclei")
    )
    outside = (before["nucleolus"][0] > 0) & (before["nucleus"][0] == 0)
    assert row["conflicts_voxels"] == outside.sum()
    assert row["conflicts_um3"] == pytest.approx(outside.sum() * 1e-6)
    for name in NAMES:  # whatever a structure lost has a row
        lost = (before[name][0] > 0) & (result_labels(sample, name).read(slice(None)) == 0)
        rows = [one["removed_voxels"] for one in table if one["structure"] == name]
        assert max(rows) <= lost.sum() <= sum(rows)
    assert any(one["removed_voxels"] for one in table if one["structure"] == "nucleus")
    assert constrain(sample) == found  # done already, told again
    assert set(remove_constrained(sample)) == {f"labels/{name}-constrained" for name in NAMES}
    assert result_labels(sample, "nucleus").directory.name == "nucleus"
    assert remove_constrained(sample) == []
    assert constrain(sample) == found


def test_blocks_and_workers_do_not_matter(tmp_path: Path) -> None:
    one = sample_of(tmp_path / "1.zarr", depth=1)
    other = sample_of(tmp_path / "4.zarr", depth=4)
    assert constrain(one, on=Execution(workers=2, quiet=True)) == constrain(other)
    for name in NAMES:
        np.testing.assert_array_equal(
            result_labels(one, name).read(slice(None)), result_labels(other, name).read(slice(None))
        )


@pytest.mark.xdist_group("killing")
def test_killed_ten_times_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr", depth=1)
    other = copy_of(sample, tmp_path / "o.zarr")
    constrain(sample)
    assert kill_ten_times("constrain", {"sample": str(other.path), "seconds": 0.4}) > 2
    assert files_in(other.path) == files_in(sample.path)


def test_what_changed_since_is_refused_and_says_so(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    constrain(sample)
    changed: NDArray[Any] = np.ones(SHAPE, np.uint8)
    put(sample, "labels/nucleus", changed)
    for name in ("nucleus", "mitochondrion"):  # which was cut to the old nuclei
        with pytest.raises(
            SampleError,
            match=r"labels/nucleus of s.zarr has changed .* run 'sparsem constrain s\.zarr --overwrite'",
        ):
            result_labels(sample, name)
    with pytest.raises(ResumeError, match="--overwrite"):
        constrain(sample)


def test_missing_pieces_are_named(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.zeros(SHAPE, np.uint8))
    with pytest.raises(
        SampleError,
        match=r"has no labels of any of nucleus, nucleolus, mitochondrion, endosome, lysosome; run 'sparsem predict s\.zarr MODEL'",
    ):
        constrain(sample)


def test_what_somebody_corrected_is_certain(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    corrected = sample.volume("labels", "mitochondrion").read(slice(None))
    corrected[:, :10] = 0
    corrected[:, 15:] = 1
    put(sample, "labels/mitochondrion", corrected)
    found = constrain(sample, changed(RULES, {"inside_cells": False}))
    made = result_labels(sample, "mitochondrion").read(slice(None))
    assert not made[:, :10].any()
    p = noisy()
    sure = (p["mitochondrion"] < 128) & (
        p["nucleolus"] < 128
    )  # drawn by hand, against one other structure at most
    for name in ("nucleus", "endosome", "lysosome"):
        sure &= p[name] < 255
    assert made[:, 15:][sure[:, 15:]].all()
    assert found.before["mitochondrion"] == int(corrected.sum())


def test_numbers_stay_and_labels_without_probabilities_are_certain(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    nuclei = np.zeros(SHAPE, np.uint32)
    nuclei[:, 2:9, 2:9], nuclei[:, 12:18, 2:9] = 7, 70_000
    organelles = np.zeros(SHAPE, np.uint32)
    organelles[:, 5:15, 5:12] = 3
    put(sample, "labels/nucleus", nuclei)
    put(sample, "labels/mitochondrion", organelles)
    constrain(sample)
    np.testing.assert_array_equal(result_labels(sample, "nucleus").read(slice(None)), nuclei)
    np.testing.assert_array_equal(
        result_labels(sample, "mitochondrion").read(slice(None)),
        np.where(nuclei > 0, 0, organelles),
    )


def test_structures_that_are_no_longer_constrained_are_free(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    constrain(sample)
    constrain(
        sample,
        changed(RULES, {"cytoplasm": ("mitochondrion",)}),
        on=Execution(overwrite=True, quiet=True),
    )
    assert result_labels(sample, "lysosome").directory.name == "lysosome"
    assert result_labels(sample, "mitochondrion").directory.name == "mitochondrion-constrained"


def test_undo_after_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr", depth=1)
    constrain(sample)
    expected = {name: result_labels(sample, name).read(slice(None)) for name in NAMES}
    shutil.rmtree(sample.path / "labels" / "nucleus-constrained")
    (sample.path / "labels" / "nucleolus-constrained" / "zarr.json").unlink()
    (sample.path / ".sparsem" / "work" / "constrain" / "0" / "done").mkdir(parents=True)
    remove_constrained(sample)
    assert not [name for name in sample.names("labels") if "-" in name]
    constrain(sample)
    for name in NAMES:
        np.testing.assert_array_equal(result_labels(sample, name).read(slice(None)), expected[name])
