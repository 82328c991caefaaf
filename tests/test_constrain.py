"""Constraints: the most probable allowed combination, what is reported, and how it is undone."""

import shutil
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.errors import ResumeError, SampleError
from sparsem.labels.constrain import (
    constrain,
    count_conflicts,
    most_probable_masks,
    remove_constrained,
)
from sparsem.labels.results import result_labels
from sparsem.labels.settings import ConstrainSettings
from sparsem.measure.measure import measure
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
    masks = most_probable_masks(probabilities, in_cell, RULES)
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
    masks = most_probable_masks(probabilities, np.ones((4, 6), bool), RULES)
    for name in NAMES:
        np.testing.assert_array_equal(masks[name], probabilities[name] >= 128)


def constrain_pixel(nucleolus: int, nucleus: int) -> tuple[bool, bool]:
    probabilities = {
        "nucleus": np.full((1, 1), nucleus, np.uint8),
        "nucleolus": np.full((1, 1), nucleolus, np.uint8),
    }
    masks = most_probable_masks(probabilities, None, RULES)
    return bool(masks["nucleolus"][0, 0]), bool(masks["nucleus"][0, 0])


def test_a_nucleolus_outside_its_nucleus_extends_it_or_is_removed() -> None:
    assert constrain_pixel(nucleolus=230, nucleus=100) == (True, True)
    assert constrain_pixel(nucleolus=140, nucleus=20) == (False, False)
    alone = {"nucleolus": np.full((1, 1), 200, np.uint8)}
    assert most_probable_masks(alone, None, RULES)[
        "nucleolus"
    ].all()  # without nuclei there is no constraint


def test_conflicts_and_losses_are_counted() -> None:
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
    counts = {
        (rule.structure, rule.reason): (rule.conflicts, rule.removed)
        for rule in count_conflicts(before, after, drawn("111.") > 0, RULES)
    }
    assert counts["mitochondrion", "in a nucleus"] == (1, 1)
    assert counts["nucleus", "also mitochondrion"] == (1, 0)
    assert counts["mitochondrion", "also lysosome"] == (1, 0)
    assert counts["lysosome", "also mitochondrion"] == (1, 1)
    assert counts["mitochondrion", "in no cell"] == (1, 1)
    assert counts["lysosome", "in no cell"] == (0, 0)


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
