"""Training: it converges, is reproducible, and can be interrupted at any time."""

import csv
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from filelock import FileLock

import sparsem.segment.network_training
import sparsem.segment.supervised
import sparsem.segment.training_memory
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, ResourceError, ResumeError, SampleError, SettingsError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.checkpoint import load_checkpoint, load_tensors, read_recipe
from sparsem.segment.live import Target, train_live
from sparsem.segment.live_folder import LiveFolder
from sparsem.segment.losses import dice_loss
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.training_job import prepare_training
from sparsem.segment.training_memory import training_needs
from sparsem.segment.training_slices import TrainingSlice, read_training_slices
from sparsem.segment.validation import spaced_positions, validation_indices
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.files import log_path
from sparsem.training.loop import learning_rate_at
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from tests.conftest import LABELED, QUICK, kill_ten_times, truth_of

AGAIN = Execution(overwrite=True, quiet=True)


def quick(**changes: Any) -> TrainSettings:
    return changed(QUICK, changes)


def log_of(out: Path) -> list[dict[str, str]]:
    with log_path(out).open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_converges_and_reports_its_scores(tissue: Sample, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    settings = quick(
        structures=("nucleolus",),
        width=8,
        updates=60,
        batch=4,
        optimizer="adam",  # in so few updates Muon reaches 0.5
        learning_rate=3e-3,
        ema=0.9,
        n_validation_slices=1,
        validate_every=20,
    )
    recipe = train_network([tissue], out, settings)
    assert recipe == read_recipe(out)
    assert recipe.structures == ("nucleolus",)
    assert recipe.training["held_out"] == ["tissue 9"]
    assert recipe.training["trained_on"] == ["tissue 0", "tissue 18"]
    assert recipe.training["validation_dice"] > 0.6  # all foreground would reach 0.2
    assert recipe.pixel_nm == (40, 40)  # 64 px of 20 nm seen at 32
    rows = log_of(out)
    assert [int(row["update"]) for row in rows] == list(range(1, 61))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    scores = [
        float(row["validation_dice_nucleolus"]) for row in rows if row["validation_dice_nucleolus"]
    ]
    assert len(scores) == 3
    assert recipe.training["validation_dice"] == pytest.approx(max(scores), abs=1e-4)
    assert read_recipe(tmp_path / "m.last.safetensors").training["weights"] == "last"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "m.last.safetensors",
        "m.safetensors",
        "m.training.csv",
    ]


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int, error: type[BaseException]) -> None:
    """Make the next training end by an error after some updates."""
    whole = sparsem.segment.supervised.fit

    def part(*arguments: Any) -> Any:
        for number, progress in enumerate(whole(*arguments), 1):
            yield progress
            if number == updates:
                raise error

    monkeypatch.setattr(sparsem.segment.network_training, "fit", part)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_resumed_training_ends_with_the_same_weights(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    settings = quick(n_validation_slices=1, validate_every=4)
    train_network([tissue], tmp_path / "whole.safetensors", settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 5, error)
        with pytest.raises(error):
            train_network([tissue], tmp_path / "m.safetensors", settings)
    assert not (tmp_path / "m.safetensors").exists()
    train_network([tissue], tmp_path / "m.safetensors", settings)
    for ending in (".safetensors", ".last.safetensors"):
        assert (tmp_path / f"m{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    without_time = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in log_of(tmp_path / f"{n}.safetensors")
        ]
        for n in ("m", "whole")
    ]
    assert without_time[0] == without_time[1]


def test_an_interrupt_in_the_middle_of_an_update_changes_nothing(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_network([tissue], tmp_path / "whole.safetensors", QUICK)
    calls = itertools.count()

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 6:
            # after the forward pass: batch normalization is updated, weights are not
            raise KeyboardInterrupt
        return dice_loss(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(sparsem.segment.supervised, "dice_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_network([tissue], tmp_path / "m.safetensors", QUICK)
    train_network([tissue], tmp_path / "m.safetensors", QUICK)
    assert (tmp_path / "m.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()


def test_16_bit_images_are_trained_on_like_8_bit(tissue: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "raw.tif",
        tissue.image().read(slice(None)).astype(np.uint16) * 257,
        photometric="minisblack",
    )
    deep = import_stack(
        tmp_path / "raw.tif", tmp_path / "deep.zarr", ImportSettings(voxel_nm=(20, 20, 20))
    )
    write_annotation(deep, "nucleus", LABELED, truth_of(tissue, "nucleus", LABELED))
    slices_16_bit, slices_8_bit = (
        read_training_slices([sample], ("nucleus",), QUICK)[0] for sample in (deep, tissue)
    )
    for a, b in zip(slices_16_bit, slices_8_bit, strict=True):
        np.testing.assert_allclose(a.image, b.image, atol=1e-4)


def test_labels_of_a_replaced_image_are_refused(own_tissue: Sample, tmp_path: Path) -> None:
    image = own_tissue.image("raw").read(slice(None))
    tifffile.imwrite(tmp_path / "other.tif", image[:, ::-1], photometric="minisblack")
    import_stack(
        tmp_path / "other.tif", own_tissue.path, ImportSettings(voxel_nm=(20, 20, 20)), on=AGAIN
    )
    with pytest.raises(
        SampleError, match="was replaced after 'nucleus' was annotated; import its labels again"
    ):
        train_network([own_tissue], tmp_path / "m.safetensors", QUICK)


def test_a_structure_without_a_pixel_is_refused(own_tissue: Sample, tmp_path: Path) -> None:
    write_annotation(own_tissue, "ghost", (3,), [np.zeros((96, 128), np.uint8)])
    with pytest.raises(
        InputError,
        match="No labeled slice contains a pixel of 'ghost': check its masks, --classes and --ignore",
    ):
        train_network([own_tissue], tmp_path / "m.safetensors", quick(structures=("ghost",)))


def test_a_refusal_names_the_slices_with_other_labels(own_tissue: Sample, tmp_path: Path) -> None:
    out, settings = tmp_path / "m.safetensors", quick(updates=1)
    train_network([own_tissue], out, settings)
    labels = truth_of(own_tissue, "nucleus", LABELED)
    write_annotation(
        own_tissue, "nucleus", LABELED, [labels[0], 0 * labels[1], labels[2]], overwrite=True
    )
    with pytest.raises(
        ResumeError,
        match=r"was trained with other settings \(other labels of nucleus 1 on slice 9\)\. Use --overwrite",
    ):
        train_network([own_tissue], out, settings)


def test_a_structure_without_validation_labels_has_no_score(
    own_tissue: Sample, tmp_path: Path
) -> None:
    write_annotation(own_tissue, "partial", (0, 18), truth_of(own_tissue, "nucleolus", (0, 18)))
    settings = quick(
        structures=("nucleus", "partial"), updates=2, n_validation_slices=1, validate_every=1
    )
    train_network([own_tissue], tmp_path / "m.safetensors", settings)
    assert [row["validation_dice_partial"] for row in log_of(tmp_path / "m.safetensors")] == [
        "",
        "",
    ]
    assert all(row["validation_dice_nucleus"] for row in log_of(tmp_path / "m.safetensors"))


def test_weights_depend_on_the_seed_only(tissue: Sample, tmp_path: Path) -> None:
    weights = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_network([tissue], tmp_path / f"{name}.safetensors", quick(seed=seed, updates=3))
        weights[name] = load_tensors(tmp_path / f"{name}.safetensors")[0]
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert not all(torch.equal(weights["a"][key], weights["c"][key]) for key in weights["a"])


def test_a_finished_training_is_kept_and_other_settings_are_refused(
    tissue: Sample, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    train_network([tissue], out, quick(updates=2))
    before = out.stat().st_mtime_ns
    train_network(
        [tissue], out, quick(updates=2, checkpoint_every_s=99, device="cpu")
    )  # neither changes a weight
    assert out.stat().st_mtime_ns == before
    with pytest.raises(
        ResumeError,
        match=r"m.safetensors exists and was trained with other settings \(updates: 2 -> 3\)\. Use --overwrite",
    ):
        train_network([tissue], out, quick(updates=3))
    train_network([tissue], out, quick(updates=3), on=AGAIN)
    assert read_recipe(out).training["record"]["updates"] == 3


def test_an_unfinished_training_of_other_settings_is_refused(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.safetensors"
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_network([tissue], out, quick(updates=2))
    with pytest.raises(
        ResumeError, match=r"holds an unfinished training with other settings \(seed: 0 -> 4\)"
    ):
        train_network([tissue], out, quick(updates=2, seed=4))
    train_network([tissue], out, quick(updates=2, seed=4), on=AGAIN)
    assert not (tmp_path / "m.state.safetensors").exists()


def test_ignored_pixels_are_unknown(own_tissue: Sample) -> None:
    labels = [
        np.where(mask > 0, 1, 0).astype(np.uint8)
        for mask in truth_of(own_tissue, "nucleus", LABELED)
    ]
    for mask in labels:
        mask[:, 60:] = 9
    write_annotation(own_tissue, "half", LABELED, labels, ignore=9)
    slices, _, _ = read_training_slices([own_tissue], ("half",), QUICK)
    for each in slices:
        assert (each.target[0][:, 30:] == UNKNOWN).all()
        assert set(np.unique(each.target[0][:, :30])) <= {0, 1}


def test_a_slice_without_annotation_is_not_background(own_tissue: Sample) -> None:
    write_annotation(own_tissue, "partial", (9,), truth_of(own_tissue, "nucleus", (9,)))
    slices, _, _ = read_training_slices([own_tissue], ("nucleus", "partial"), QUICK)
    assert [each.name for each in slices] == ["own 0", "own 9", "own 18"]
    for each in slices:
        assert set(np.unique(each.target[0])) <= {0, 1}
        assert set(np.unique(each.target[1])) <= ({0, 1} if each.name == "own 9" else {255})
    pixels = np.concatenate([each.image.ravel() for each in slices])
    assert (pixels.mean(), pixels.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))


def test_one_model_is_trained_on_two_samples(
    tissue: Sample, own_tissue: Sample, tmp_path: Path
) -> None:
    recipe = train_network([tissue, own_tissue], tmp_path / "m.safetensors", quick(updates=2))
    assert recipe.training["trained_on"] == [
        "tissue 0",
        "tissue 9",
        "tissue 18",
        "own 0",
        "own 9",
        "own 18",
    ]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"structures": ("nuclei",)},
            SampleError,
            "no annotation of 'nuclei'; did you mean 'nucleus'",
        ),
        ({"architecture": "unet3"}, SettingsError, "no model 'unet3'; did you mean 'unet'"),
        ({"input_px": 40}, SettingsError, "multiple of 16 and at least 32; got 40"),
        ({"n_validation_slices": 3}, InputError, "3 labeled slices are too few to hold out 3"),
        (
            {"structures": ("nucleus", "nucleus")},
            InputError,
            "A sample or a structure was named twice",
        ),
        (
            {"structures": ("cells",), "cells": "cells"},
            InputError,
            "'cells' is named by --cells and by --structure or --objects",
        ),
        ({"device": "cuda:77"}, SettingsError, "--device cuda:77 cannot be used"),
    ],
)
def test_invalid_trainings_are_refused(
    tissue: Sample, tmp_path: Path, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        train_network([tissue], tmp_path / "m.safetensors", quick(**changes))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"A model is written as NAME.safetensors; got '.*m.pt'"):
        train_network([tissue], tmp_path / "m.pt", QUICK)


def test_too_little_memory_is_refused_and_fitting_settings_are_named(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ResourceError,
        match=r"needs .* GB of memory, and .* GB are free; --batch \d+ fits, with \d+\.\d GB",
    ):
        train_network([tissue], tmp_path / "m.safetensors", quick(batch=10**6))
    assert list(tmp_path.iterdir()) == []
    for changes, named in (
        ({"batch": 4, "input_px": 128}, "--batch 2 fits"),
        ({"batch": 1, "input_px": 256}, "--input-px 128 fits"),
        ({"batch": 1, "input_px": 32}, "no --batch and no --input-px fits"),
        ({"batch": 4, "input_px": 128, "semi": "cps"}, "--batch 2 fits"),
    ):
        job = prepare_training([tissue], tmp_path / "m.safetensors", quick(**changes))
        needs = training_needs(job)
        assert needs.smaller == ""
        with monkeypatch.context() as patch:
            patch.setattr(
                sparsem.segment.training_memory, "free_memory", lambda _, most=needs.ram: most - 1
            )
            assert training_needs(job).smaller.startswith(named)


def test_held_out_slices_are_away_from_the_ends() -> None:
    assert spaced_positions(7, 1) == [3]
    assert spaced_positions(15, 2) == [3, 11]
    assert spaced_positions(7, 0) == []


def slices_of(*targets: int) -> list[TrainingSlice]:
    """Labeled slices with one value everywhere: 0, 1, or 255 for unknown."""
    image = np.zeros((1, 2, 2), np.float32)
    return [
        TrainingSlice(image, np.full((1, 2, 2), value, np.uint8), "w", 10 * position)
        for position, value in enumerate(targets)
    ]


def test_slices_without_known_pixels_are_not_held_out() -> None:
    slices = slices_of(1, 255, 0, 1, 1)
    assert validation_indices(slices, ["n"], TrainSettings(n_validation_slices=1)) == [3]
    assert validation_indices(slices, ["n"], TrainSettings(validation_slices=(20, 30))) == [2, 3]
    with pytest.raises(
        InputError, match="The held-out w 10 has no known pixel: all of its pixels are ignored"
    ):
        validation_indices(slices, ["n"], TrainSettings(validation_slices=(10,)))
    with pytest.raises(
        InputError,
        match="Slice 7 of --validation-slices is not labeled; labeled are 0, 10, 20, 30, 40",
    ):
        validation_indices(slices, ["n"], TrainSettings(validation_slices=(7,)))
    with pytest.raises(
        InputError,
        match="Only 1 of 3 labeled slices contain a structure; they are too few to hold out 2",
    ):
        validation_indices(slices_of(1, 255, 0), ["n"], TrainSettings(n_validation_slices=2))
    with pytest.raises(InputError, match="Without the held-out w 0 no labeled slice contains 'n'"):
        validation_indices(slices_of(1, 0, 0), ["n"], TrainSettings(n_validation_slices=1))
    with pytest.raises(SettingsError, match="give one of the two"):
        validation_indices(
            slices, ["n"], TrainSettings(n_validation_slices=1, validation_slices=(30,))
        )


def test_the_learning_rate_rises_and_falls() -> None:
    settings = TrainSettings(updates=100, warmup=10)
    rates = [learning_rate_at(update, settings, 1.0) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert 0.95 < max(rates) <= 1
    assert rates.index(max(rates)) == 9
    assert rates[-1] < 1e-3
    assert learning_rate_at(70, changed(settings, {"schedule": "constant"}), 1.0) == 1


def test_a_damaged_model_can_be_trained_anew(tissue: Sample, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"half a mod")
    with pytest.raises(InputError, match="is not a sparsem model, or is damaged"):
        train_network([tissue], path, quick())
    train_network([tissue], path, quick(), on=Execution(overwrite=True, quiet=True))
    assert read_recipe(path).structures == ("nucleus",)


def test_killed_at_ten_random_moments_the_weights_are_the_same(
    tissue: Sample, tmp_path: Path
) -> None:
    # The default precision is measured, and two trainings may measure different ones.
    settings = quick(
        width=8,
        updates=25,
        batch=4,
        n_validation_slices=1,
        validate_every=5,
        precision="float32",
    )
    started = time.monotonic()
    train_network([tissue], tmp_path / "whole.safetensors", settings)
    seconds = 0.5 * (time.monotonic() - started)
    out = tmp_path / "m.safetensors"
    given = {
        "sample": str(tissue.path),
        "out": str(out),
        "settings": settings.model_dump(mode="json"),
        "seconds": seconds,
    }
    assert kill_ten_times("train", given) > 0
    for ending in (".safetensors", ".last.safetensors"):
        assert (
            out.with_suffix(ending).read_bytes()
            == (tmp_path / "whole.safetensors").with_suffix(ending).read_bytes()
        )


def test_real_tissue_in_a_minute(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Three labeled slices of real FIB-SEM and 80 updates are enough for most mitochondria."""
    folder = real_data("epfl_fibsem_mitochondria")
    sample = import_stack(
        folder / "raw.tif", tmp_path / "epfl.zarr", ImportSettings(voxel_nm=(5, 5, 5))
    )
    import_annotation(
        sample,
        "mitochondrion",
        folder / "labels_mitochondria.tif",
        AnnotationSettings(slices="0,20,40,60"),
    )
    settings = TrainSettings(
        width=8,
        context_px=512,
        input_px=128,
        updates=80,
        warmup=10,
        learning_rate=3e-3,
        n_validation_slices=1,
        validate_every=80,
    )
    assert (
        train_network([sample], tmp_path / "m.safetensors", settings).training["validation_dice"]
        > 0.55
    )


def test_two_trainings_of_one_model_at_once_are_refused(tissue: Sample, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with (
        FileLock(out.with_suffix(".lock")),
        pytest.raises(ResumeError, match=r"Another run is training m\.safetensors"),
    ):
        train_network([tissue], out, QUICK)
    train_network([tissue], out, QUICK)
    assert not out.with_suffix(".lock").exists()


def test_a_network_with_adjacent_slices_trains_and_predicts(
    tissue: Sample, own_tissue: Sample, tmp_path: Path
) -> None:
    recipe = train_network(
        [tissue], tmp_path / "m.safetensors", quick(adjacent_slices=1, n_validation_slices=1)
    )
    assert recipe.adjacent_slices == 1
    slices, _, _ = read_training_slices([tissue], ("nucleus",), quick(adjacent_slices=1))
    alone, _, _ = read_training_slices([tissue], ("nucleus",), quick())
    assert [each.image.shape[0] for each in slices] == [3, 3, 3]
    first = slices[0].image  # the first slice is repeated, since there is none above it
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])
    assert np.corrcoef(first[1].ravel(), alone[0].image.ravel())[0, 1] == pytest.approx(1)
    predict(own_tissue, tmp_path / "m.safetensors")
    assert own_tissue.names("labels") == ["nucleus"]


@pytest.mark.parametrize("target", ["mask", "objects"])
def test_live_training_of_a_mask_and_of_touching_organelles(
    own_tissue: Sample, target: Target
) -> None:
    name = "mitochondrion"
    folder = LiveFolder.of(own_tissue, name)
    folder.request(3, "run")
    changes: dict[str, Any] = {
        "updates": 6,
        "round_updates": 3,
        "width": 4,
        "context_px": 64,
        "input_px": 32,
    }
    status = train_live(own_tissue, name, target=target, **changes)
    assert (status.state, status.update, status.preview) == ("stopped", 6, 3)
    _, recipe = load_checkpoint(folder.model)
    assert recipe.structures == ((name,) if target == "mask" else (name, f"{name}-boundary"))
    assert folder.read_preview().shape == own_tissue.image().shape[1:]
