"""Semi-supervised training: the ramp, boxes, teachers, resuming, and the files written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparsem.segment.network_training
from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.models.checkpoint import load_tensors, read_recipe
from sparsem.segment.network_training import train_network
from sparsem.segment.semi_supervised import (
    MixedSampler,
    Ramp,
    draw_boxes,
    fit_with_unlabeled,
    start_joint_networks,
    step_with_unlabeled,
)
from sparsem.segment.training_job import prepare_training
from sparsem.segment.training_slices import read_training_slices, read_unlabeled_slices
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from tests.conftest import LABELED, QUICK, copy_of

CPU = torch.device("cpu")


def quick(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate(
        QUICK.model_dump()
        | {"semi": "cps", "unlabeled_slices": 5, "ramp": (0.2, 0.5), "batch": 3}
        | changes
    )


def sampler_for(sample: Sample, settings: TrainSettings) -> MixedSampler:
    slices, recipe, _ = read_training_slices([sample], ("nucleus",), settings)
    free, _ = read_unlabeled_slices([sample], slices, recipe, settings)
    return MixedSampler(slices, free, settings, 4.0, Ramp(2.0, 6.0, 1.0))


def test_the_weight_rises_linearly() -> None:
    ramp = Ramp(10.0, 20.0, 0.5)
    assert [ramp.at(update) for update in (0, 10, 12, 15, 20, 900)] == pytest.approx(
        [0, 0, 0.1, 0.25, 0.5, 0.5]
    )
    assert Ramp(0.0, 0.0, 1.0).at(0) == 1.0


def test_boxes_are_a_quarter_to_a_half_of_the_tile() -> None:
    boxes = draw_boxes(300, 64, np.random.default_rng(0))
    area = boxes.mean(axis=(1, 2, 3))
    assert area.min() > 0.23
    assert area.max() < 0.53
    assert area.std() > 0.05
    for box in boxes[:, 0]:
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # one rectangle
        assert 0.4 < (np.ptp(rows) + 1) / (np.ptp(columns) + 1) < 2.5


def test_a_batch_contains_the_structure_and_is_reproducible(tissue: Sample) -> None:
    settings = quick(intensity_augmentation=0.0)
    sampler = sampler_for(tissue, settings)
    assert sampler.batch(2).images.size == 0  # the weight is still 0: nothing is drawn
    batch, repeated, next_batch = (
        sampler.batch(4),
        sampler_for(tissue, settings).batch(4),
        sampler.batch(5),
    )
    pairs: list[Any] = list(
        zip((*batch.labeled, *batch[1:]), (*repeated.labeled, *repeated[1:]), strict=True)
    )
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert not np.array_equal(batch.images, next_batch.images)
    assert batch.images.shape == (3, 1, 32, 32)
    before = np.roll(batch.images, 1, axis=0)
    assert np.array_equal(batch.mixed, np.where(batch.boxes, before, batch.images))
    assert batch.truth.shape == (3, 1, 32, 32)
    whole = (
        sampler_for(tissue, quick(intensity_augmentation=0.0, cutmix=False))
        .batch(4)
        .truth.reshape(3, -1)
    )
    assert sorted((whole == UNKNOWN).mean(axis=1)) == [
        0,
        0,
        1,
    ]  # of three tiles two contain the structure and its ground truth
    plain = sampler_for(tissue, quick(intensity_augmentation=0.0, cutmix=False)).batch(4)
    assert np.array_equal(plain.mixed, plain.images)


def test_each_network_is_trained_on_the_masks_of_the_other(tissue: Sample) -> None:
    """Compared by hand with the gradient of the first network.

    It is that of its loss on labeled tiles, and of the Dice loss against the mask of the second
    network, mixed like the tiles.
    """
    settings = quick(precision="float32", ema=0.0, max_grad_norm=1e9)
    _, recipe, _ = read_training_slices([tissue], ("nucleus",), settings)
    pair, alone = (
        start_joint_networks(recipe, settings, CPU),
        start_joint_networks(recipe, settings, CPU),
    )
    assert not torch.equal(
        next(pair.members[0].network.parameters()), next(pair.members[1].network.parameters())
    )
    batch = sampler_for(tissue, settings).batch(6)
    step_with_unlabeled(pair, batch, 0.7, settings, CPU)
    first, second = (member.network.train() for member in alone.members)
    images, boxes, mixed = (
        torch.from_numpy(batch.images),
        torch.from_numpy(batch.boxes),
        torch.from_numpy(batch.mixed),
    )
    with torch.no_grad():
        first(images)  # batch normalization sees them
        mask = (second(images).sigmoid() > 0.5).float()
    mask = torch.where(boxes, mask.roll(1, 0), mask)
    truth = torch.from_numpy(batch.truth)
    assert 0 < (truth != UNKNOWN).float().mean() < 1  # tiles of labeled slices and of others
    mask = torch.where(truth == UNKNOWN, mask, (truth == 1).float())
    labeled, target = (torch.from_numpy(array) for array in batch.labeled)

    def soft_dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 1 - (2 * (p * t).sum() + 1) / ((p * p).sum() + t.sum() + 1)

    loss = soft_dice(first(labeled).sigmoid(), (target == 1).float()) + 0.7 * soft_dice(
        first(mixed).sigmoid(), mask
    )
    loss.backward()
    for moved, expected in zip(
        pair.members[0].network.parameters(), first.parameters(), strict=True
    ):
        assert moved.grad is not None
        assert expected.grad is not None
        assert torch.allclose(moved.grad, expected.grad, atol=1e-5)


def test_a_mean_teacher_trains_one_network(tissue: Sample) -> None:
    settings = quick(semi="mean-teacher")
    slices, recipe, _ = read_training_slices([tissue], ("nucleus",), settings)
    free, _ = read_unlabeled_slices([tissue], slices, recipe, settings)
    state = start_joint_networks(recipe, settings, CPU)
    assert len(state.members) == 1
    losses = [
        progress.loss
        for progress in fit_with_unlabeled(state, slices, free, [], settings, CPU, 4.0)
    ]
    assert len(losses) == settings.updates
    assert np.isfinite(losses).all()
    assert state.update == settings.updates


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    whole = fit_with_unlabeled

    def part(*arguments: Any) -> Any:
        for number, progress in enumerate(whole(*arguments), 1):
            yield progress
            if number == updates:
                raise KeyboardInterrupt

    monkeypatch.setattr(sparsem.segment.network_training, "fit_with_unlabeled", part)


@pytest.mark.parametrize("semi", ["cps", "mean-teacher"])
def test_a_resumed_training_ends_with_the_same_weights(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, semi: Any
) -> None:
    settings = quick(semi=semi, n_validation_slices=1, validate_every=4, save_second=semi == "cps")
    train_network([tissue], tmp_path / "whole.safetensors", settings)
    for updates in (2, 7):  # before and after the weight rises
        with monkeypatch.context() as patch:
            stop_after(patch, updates)
            with pytest.raises(KeyboardInterrupt):
                train_network([tissue], tmp_path / "m.safetensors", settings)
    train_network([tissue], tmp_path / "m.safetensors", settings)
    written = sorted(file.name for file in tmp_path.glob("m.*"))
    second = ["m.second.last.safetensors", "m.second.safetensors"] if semi == "cps" else []
    assert written == ["m.last.safetensors", "m.safetensors", *second, "m.training.csv"]
    for name in (file_name for file_name in written if file_name.endswith("safetensors")):
        assert (tmp_path / name).read_bytes() == (
            tmp_path / name.replace("m.", "whole.", 1)
        ).read_bytes(), name


def test_the_better_network_is_written_whatever_its_architecture(
    tissue: Sample, tmp_path: Path
) -> None:
    settings = quick(
        second_architecture="unet", n_validation_slices=1, validate_every=4, save_second=True
    )
    recipe = train_network([tissue], tmp_path / "m.safetensors", settings)
    second_recipe = read_recipe(tmp_path / "m.second.safetensors")
    assert {recipe.architecture, second_recipe.architecture} == {"resunet", "unet"}
    assert recipe.training["validation_dice"] >= second_recipe.training["validation_dice"]
    load_tensors(tmp_path / "m.safetensors")
    with pytest.raises(ResumeError, match="was trained with other settings"):
        train_network(
            [tissue], tmp_path / "m.safetensors", changed(settings, {"unlabeled_weight": 0.5})
        )


def test_unlabeled_slices_are_evenly_spaced_and_none_is_labeled(
    tissue: Sample, own_tissue: Sample
) -> None:
    settings = quick(unlabeled_slices=6)
    slices, recipe, _ = read_training_slices([tissue], ("nucleus",), settings)
    unlabeled, inputs = read_unlabeled_slices([tissue], slices, recipe, settings)
    assert len(unlabeled) == 6
    assert unlabeled[0].shape == slices[0].image.shape
    labeled = {each.image.tobytes() for each in slices}
    assert not [image for image in unlabeled if image.tobytes() in labeled]
    assert inputs == {"unlabeled 1": tissue.image().fingerprint}
    more, inputs = read_unlabeled_slices(
        [tissue],
        slices,
        recipe,
        quick(unlabeled_slices=6, unlabeled_sample=(str(own_tissue.path),)),
    )
    assert len(more) == 6
    assert sorted(inputs) == ["unlabeled 1", "unlabeled 2"]
    with pytest.raises(SampleError, match=r"There is no sample at none\.zarr"):
        read_unlabeled_slices([tissue], slices, recipe, quick(unlabeled_sample=("none.zarr",)))
    everything = [
        each.__class__(each.image, each.target, tissue.name, z)
        for each in slices[:1]
        for z in range(19)
    ]
    with pytest.raises(
        InputError, match="Every slice is labeled, and --semi needs unlabeled slices"
    ):
        read_unlabeled_slices([tissue], everything, recipe, settings)


def test_another_unlabeled_image_is_another_training(tissue: Sample, tmp_path: Path) -> None:
    unlabeled_sample = copy_of(tissue, tmp_path / "other.zarr")
    first = prepare_training([tissue], tmp_path / "m.safetensors", quick())
    second = prepare_training(
        [tissue], tmp_path / "m.safetensors", quick(unlabeled_sample=(str(unlabeled_sample.path),))
    )
    assert first.inputs != second.inputs
    assert len(first.slices) == len(LABELED)
    assert Execution().quiet is False
