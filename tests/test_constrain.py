"""Constraints: the most probable allowed combination, what is reported, and how it is undone."""

import shutil
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.errors import ResumeError, SampleError, SettingsError
from sparsem.labels.constrain import constrain, remove_constrained
from sparsem.labels.constraints import (
    ConstraintEffect,
    constrain_labels,
    find_conflicts,
    tabulate_conflicts,
)
from sparsem.labels.results import result_labels
from sparsem.labels.settings import ConstrainSettings
from sparsem.measure.measure import measure
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, files_in, kill_ten_times, put, voxels

RULES = ConstrainSettings()
NAMES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")
SHAPE = (6, 20, 24)


def noisy(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 256, shape).astype(np.uint8) for name in NAMES}


def constrained(
    probabilities: dict[str, NDArray[np.uint8]], in_cell: NDArray[np.bool_] | None
) -> tuple[dict[str, NDArray[np.bool_]], ConstraintEffect]:
    """Return the masks of the constrained labels of predictions, and the effect."""
    labels = {name: (voxels >= 128).astype(np.uint8) for name, voxels in probabilities.items()}
    effect = constrain_labels(labels, probabilities.get, in_cell, RULES)
    return {name: voxels > 0 for name, voxels in labels.items()}, effect


def is_allowed(state: set[str], in_cell: bool) -> bool:
    organelles = state & {"mitochondrion", "endosome", "lysosome"}
    return (
        ("nucleolus" not in state or "nucleus" in state)
        and not (organelles and "nucleus" in state)
        and len(organelles) <= 1
        and (in_cell or not organelles)
    )


def best_by_trying_all(probability: dict[str, int], in_cell: bool) -> float:
    """Return the log probability of the best allowed combination of independent structures."""
    p = {name: min(max(value, 0.25), 254.75) / 255 for name, value in probability.items()}
    every = chain.from_iterable(combinations(p, n) for n in range(len(p) + 1))
    allowed = [set(state) for state in every if is_allowed(set(state), in_cell)]
    return max(
        float(sum(np.log(p[name] if name in state else 1 - p[name]) for name in p))
        for state in allowed
    )


def test_the_most_probable_allowed_combination_wins() -> None:
    probabilities = {name: probability[0] for name, probability in noisy().items()}
    in_cell = np.random.default_rng(9).random(SHAPE[1:]) < 0.7
    masks, _ = constrained(probabilities, in_cell)
    for pixel in np.ndindex(*SHAPE[1:]):
        state = {name for name in NAMES if masks[name][pixel]}
        assert is_allowed(state, bool(in_cell[pixel])), (pixel, state)
        p = {
            name: min(max(int(probability[pixel]), 0.25), 254.75) / 255
            for name, probability in probabilities.items()
        }
        ours = sum(np.log(p[name] if name in state else 1 - p[name]) for name in p)
        assert ours == pytest.approx(
            best_by_trying_all(
                {name: int(probability[pixel]) for name, probability in probabilities.items()},
                bool(in_cell[pixel]),
            )
        )


def test_allowed_combinations_stay() -> None:
    probabilities = {name: np.zeros((4, 6), np.uint8) for name in NAMES}
    probabilities["nucleus"][:, :3] = 200
    probabilities["nucleolus"][1:3, 1] = 180
    probabilities["mitochondrion"][:, 4] = 140
    masks, _ = constrained(probabilities, np.ones((4, 6), bool))
    for name in NAMES:
        np.testing.assert_array_equal(masks[name], probabilities[name] >= 128)


def constrain_pixel(nucleolus: int, nucleus: int) -> tuple[bool, bool]:
    probabilities = {
        "nucleus": np.full((1, 1), nucleus, np.uint8),
        "nucleolus": np.full((1, 1), nucleolus, np.uint8),
    }
    masks, _ = constrained(probabilities, None)
    return bool(masks["nucleolus"][0, 0]), bool(masks["nucleus"][0, 0])


def test_a_nucleolus_outside_its_nucleus_extends_it_or_is_removed() -> None:
    assert constrain_pixel(nucleolus=230, nucleus=100) == (True, True)
    assert constrain_pixel(nucleolus=140, nucleus=20) == (False, False)
    alone = {"nucleolus": np.full((1, 1), 200, np.uint8)}
    masks, _ = constrained(alone, None)
    assert masks["nucleolus"].all()  # without nuclei there is no constraint


def test_conflicts_and_losses_are_counted() -> None:
    """In each row of pixels the probabilities decide which structure loses."""
    probabilities = {
        "nucleus": np.array([[200, 250, 0, 0]], np.uint8),
        "mitochondrion": np.array([[0, 200, 240, 130]], np.uint8),
        "lysosome": np.array([[0, 0, 200, 0]], np.uint8),
    }
    in_cell = np.array([[True, True, True, False]])
    masks, effect = constrained(probabilities, in_cell)
    assert masks["nucleus"].tolist() == [[True, True, False, False]]
    assert masks["mitochondrion"].tolist() == [[False, False, True, False]]
    assert not masks["lysosome"].any()
    counts = {
        (rule.structure, rule.reason): (rule.conflicts, rule.removed) for rule in effect.rules
    }
    assert counts["mitochondrion", "in a nucleus"] == (1, 1)
    assert counts["nucleus", "also mitochondrion"] == (1, 0)
    assert counts["mitochondrion", "also lysosome"] == (1, 0)
    assert counts["lysosome", "also mitochondrion"] == (1, 1)
    assert counts["mitochondrion", "in no cell"] == (1, 1)
    assert counts["lysosome", "in no cell"] == (0, 0)
    assert effect.before == {"nucleus": 2, "mitochondrion": 3, "lysosome": 1}
    assert effect.after == {"nucleus": 2, "mitochondrion": 1, "lysosome": 0}


@pytest.mark.parametrize("has_cells", [False, True])
def test_effects_are_those_of_whole_masks(has_cells: bool) -> None:
    """The table of codes counts what a comparison of masks, voxel by voxel, counts."""
    probabilities = noisy(4)
    random = np.random.default_rng(5)
    in_cell = random.random(SHAPE) < 0.6 if has_cells else None
    before = {name: voxels >= 128 for name, voxels in probabilities.items()}
    after, effect = constrained(probabilities, in_cell)
    assert effect.before == {name: int(mask.sum()) for name, mask in before.items()}
    assert effect.after == {name: int(mask.sum()) for name, mask in after.items()}
    rules = {}
    for structure, reason, violated in find_conflicts(before, in_cell, RULES):
        removed = violated & before[structure] & ~after[structure]
        rules[structure, reason] = (int(violated.sum()), int(removed.sum()))
    assert {rule[:2]: rule[2:] for rule in effect.rules} == rules
    in_conflict = np.logical_or.reduce(
        [conflict.mask for conflict in find_conflicts(before, in_cell, RULES)]
    )
    for name in NAMES:
        np.testing.assert_array_equal(after[name][~in_conflict], before[name][~in_conflict])
    assert not any(conflict.mask.any() for conflict in find_conflicts(after, in_cell, RULES)), (
        "what is left is allowed"
    )


def test_numbers_stay_and_probabilities_are_read_where_needed() -> None:
    nuclei = np.array([[0, 7, 7, 9]], np.uint32)
    labels: dict[str, NDArray[Any]] = {
        "nucleus": nuclei.copy(),
        "mitochondrion": np.array([[1, 0, 0, 0]], np.uint8),
    }

    def refuse(name: str) -> None:
        raise AssertionError(name)

    constrain_labels(labels, refuse, None, RULES)
    np.testing.assert_array_equal(labels["nucleus"], nuclei)
    labels["mitochondrion"][0, 1] = 1
    probability = np.array([[200, 250, 0, 0]], np.uint8)
    constrain_labels(labels, {"mitochondrion": probability}.get, None, RULES)
    assert labels["nucleus"].tolist() == [[0, 7, 7, 9]]  # certain, as it has no probabilities
    assert labels["mitochondrion"].tolist() == [[1, 0, 0, 0]]


def test_too_many_structures_are_refused() -> None:
    names = [f"organelle {number}" for number in range(16)]
    with pytest.raises(SettingsError, match="at most 15 structures; got 16"):
        tabulate_conflicts(names, True, RULES)


def sample_of(path: Path, depth: int = 6, seed: int = 0) -> Sample:
    sample = Sample.create(path)
    put(sample, "", np.zeros(SHAPE, np.uint8), depth)
    for name, probability in noisy(seed).items():
        put(sample, f"probabilities/{name}", probability, depth)
        put(sample, f"labels/{name}", (probability >= 128).astype(np.uint8), depth)
    put(
        sample,
        "labels/cells",
        np.random.default_rng(3).integers(0, 3, SHAPE).astype(np.uint32),
        depth,
    )
    return sample


def test_predicted_labels_stay_and_constrained_ones_can_be_removed(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    before = {name: voxels(sample.volume("labels", name)) for name in NAMES}
    summary = constrain(sample)
    for name in NAMES:
        made = result_labels(sample, name)
        assert made.directory.name == f"{name}-constrained"
        assert int(made.read(slice(None)).sum()) == summary.after[name]
        assert summary.before[name] == int(before[name][0].sum())
        np.testing.assert_array_equal(
            sample.volume("labels", name).read(slice(None)), before[name][0]
        )
    table = sample.read_table("constrained").to_pylist()
    row = next(
        row for row in table if (row["structure"], row["reason"]) == ("nucleolus", "outside nuclei")
    )
    outside = (before["nucleolus"][0] > 0) & (before["nucleus"][0] == 0)
    assert row["conflicts_voxels"] == outside.sum()
    assert row["conflicts_um3"] == pytest.approx(outside.sum() * 1e-6)
    for name in NAMES:  # every loss of a structure has a row
        lost = (before[name][0] > 0) & (result_labels(sample, name).read(slice(None)) == 0)
        rows = [row["removed_voxels"] for row in table if row["structure"] == name]
        assert max(rows) <= lost.sum() <= sum(rows)
    assert any(row["removed_voxels"] for row in table if row["structure"] == "nucleus")
    assert constrain(sample) == summary  # finished already, so the result is read
    assert set(remove_constrained(sample)) == {f"labels/{name}-constrained" for name in NAMES}
    assert result_labels(sample, "nucleus").directory.name == "nucleus"
    assert remove_constrained(sample) == []
    assert constrain(sample) == summary


def test_blocks_and_workers_do_not_change_the_result(tmp_path: Path) -> None:
    thin_blocks = sample_of(tmp_path / "1.zarr", depth=1)
    thick_blocks = sample_of(tmp_path / "4.zarr", depth=4)
    by_workers = constrain(thin_blocks, on=Execution(workers=2, quiet=True))
    assert replace(by_workers, sample=thick_blocks) == constrain(thick_blocks)
    for name in NAMES:
        np.testing.assert_array_equal(
            result_labels(thin_blocks, name).read(slice(None)),
            result_labels(thick_blocks, name).read(slice(None)),
        )


@pytest.mark.xdist_group("killing")
def test_killed_ten_times_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr", depth=1)
    other = copy_of(sample, tmp_path / "o.zarr")
    constrain(sample)
    assert kill_ten_times("constrain", {"sample": str(other.path), "seconds": 0.4}) > 2
    assert files_in(other.path) == files_in(sample.path)


def test_labels_that_changed_since_are_refused(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    constrain(sample)
    changed: NDArray[Any] = np.ones(SHAPE, np.uint8)
    put(sample, "labels/nucleus", changed)
    for name in ("nucleus", "mitochondrion"):  # constrained by the old nuclei
        with pytest.raises(
            SampleError,
            match=r"labels/nucleus of s.zarr has changed .* run 'sparsem constrain s\.zarr --overwrite'",
        ):
            result_labels(sample, name)
    with pytest.raises(ResumeError, match="--overwrite"):
        constrain(sample)


def shifted_image(sample: Sample) -> tuple[str, str]:
    """Add an aligned image whose slices are shifted; return its name and fingerprint."""
    shift = np.tile(np.array([[1.0, 0, 0], [0, 1, 2]]), (SHAPE[0], 1, 1))
    raw = sample.image("raw")
    image = np.zeros(SHAPE, np.uint8)
    aligned = put(sample, "images/aligned", image, made_on=("raw", raw.fingerprint), motions=shift)
    return "aligned", aligned.fingerprint


def test_labels_of_differently_aligned_images_are_refused(tmp_path: Path) -> None:
    """Voxels of equal indices show different positions, so that no constraint could hold."""
    sample = sample_of(tmp_path / "s.zarr")
    made_on = shifted_image(sample)
    nuclei = sample.volume("labels", "nucleus").read(slice(None))
    put(sample, "labels/nucleus", nuclei, made_on=made_on)
    sentence = (
        r"labels/nucleolus of s\.zarr belongs to the image 'raw', but labels/nucleus to "
        r"'aligned', which is aligned differently; predict all structures on one image"
    )
    with pytest.raises(SampleError, match=sentence):
        constrain(sample)
    with pytest.raises(SampleError, match="which is aligned differently; name structures that"):
        measure(sample, on=Execution(quiet=True))
    only_nuclei = sample.names("labels")
    assert not any(name.endswith("-constrained") for name in only_nuclei)


def test_probabilities_of_another_alignment_have_no_weight(tmp_path: Path) -> None:
    """Labels that were imported on one image may stand next to probabilities on another."""
    sample = sample_of(tmp_path / "s.zarr")
    made_on = shifted_image(sample)
    predicted = sample.volume("probabilities", "nucleus").read(slice(None))
    put(sample, "probabilities/nucleus", predicted, made_on=made_on)
    shutil.rmtree(sample.path / "probabilities" / "nucleolus")
    expected = copy_of(sample, tmp_path / "without.zarr")
    shutil.rmtree(expected.path / "probabilities" / "nucleus")
    for constrained in (sample, expected):
        constrain(constrained, RULES)
    for name in NAMES:
        np.testing.assert_array_equal(
            result_labels(sample, name).read(slice(None)),
            result_labels(expected, name).read(slice(None)),
        )


def test_missing_structures_are_named(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.zeros(SHAPE, np.uint8))
    with pytest.raises(
        SampleError,
        match=r"has no labels of any of nucleus, nucleolus, mitochondrion, endosome, lysosome; run 'sparsem predict s\.zarr MODEL'",
    ):
        constrain(sample)


def test_corrected_labels_are_certain(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr")
    corrected = sample.volume("labels", "mitochondrion").read(slice(None))
    corrected[:, :10] = 0
    corrected[:, 15:] = 1
    put(sample, "labels/mitochondrion", corrected)
    summary = constrain(sample, changed(RULES, {"inside_cells": False}))
    made = result_labels(sample, "mitochondrion").read(slice(None))
    assert not made[:, :10].any()
    p = noisy()
    sure = (p["mitochondrion"] < 128) & (
        p["nucleolus"] < 128
    )  # drawn by hand, in conflict with one structure at most
    for name in ("nucleus", "endosome", "lysosome"):
        sure &= p[name] < 255
    assert made[:, 15:][sure[:, 15:]].all()
    assert summary.before["mitochondrion"] == int(corrected.sum())


def test_object_numbers_stay_and_labels_without_probabilities_are_certain(tmp_path: Path) -> None:
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


def test_structures_that_are_no_longer_constrained_are_as_predicted(tmp_path: Path) -> None:
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
