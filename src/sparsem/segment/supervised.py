"""Supervised learning (paper 3.4, 5.1): one update, and the loop of them.

Batches (B, K, S, S) float32 and targets (B, C, S, S) uint8 (0, 1, 255 not known) are cut from a few labeled slices at the
network's scale.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.models.architectures import default_learning_rate, load_pretrained_weights
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import autocast, keep_freed_memory
from sparsem.score.overlap import MaskOverlap, mask_overlap, pool_slices
from sparsem.segment.losses import cross_entropy_loss, dice_loss, tanimoto_loss
from sparsem.segment.sampling import Batch, Sampling, TileSampler
from sparsem.segment.targets import outlines_and_distances
from sparsem.segment.tiles import TileGrid
from sparsem.segment.training_slices import TrainingSlice
from sparsem.training.loop import Progress, TrainingState, run_updates, update_weights
from sparsem.training.settings import TrainSettings


def start_network(
    recipe: Recipe, settings: TrainSettings, device: torch.device, seed: int | None = None
) -> TrainingState:
    """A fresh network on ``device``; the same seed, that of the settings if not given, gives the same weights."""
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed if seed is None else seed)
        network = recipe.build()
        if settings.pretrained:
            load_pretrained_weights(network, recipe.architecture)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    highest = settings.learning_rate or default_learning_rate(recipe.architecture)
    optimizer = torch.optim.Adam(network.parameters(), highest, betas=(0.9, 0.999), eps=1e-7)
    return TrainingState.beginning(network, optimizer, highest)


def compute_logits(
    compute: Callable[[Tensor], Tensor], images: Tensor, settings: TrainSettings
) -> Tensor:
    """(B, K, S, S) -> what a network, or a method of it, makes of them, float32, computed as precisely as the settings say."""
    with autocast(images.device, settings.precision):
        logits = compute(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


def trains_all_heads(network: nn.Module, settings: TrainSettings) -> bool:
    """Whether it learns outlines and depths beside structures."""
    return hasattr(network, "all_heads") and settings.loss in (None, "tanimoto")


def labeled_loss(
    network: nn.Module, batch: Batch, settings: TrainSettings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The loss of labeled tiles, and their Dice loss."""
    images, targets = (torch.from_numpy(array).to(device, non_blocking=True) for array in batch)
    compute: Any = network
    squared = settings.loss != "linear-dice"
    if trains_all_heads(network, settings):
        logits = compute_logits(compute.all_heads, images, settings)
        beside = torch.from_numpy(outlines_and_distances(batch[1])).to(device, non_blocking=True)
        return tanimoto_loss(logits.sigmoid(), targets, beside), dice_loss(
            logits[:, : targets.shape[1]].sigmoid(), targets, squared
        )
    if hasattr(network, "each"):  # several that decide together have a loss each
        several = compute_logits(compute.each, images, settings)
        loss = torch.stack([_loss(logits, targets, settings) for logits in several]).mean()
        return loss, dice_loss(compute.combined(several.detach()).sigmoid(), targets, squared)
    logits = compute_logits(compute, images, settings)
    return _loss(logits, targets, settings), dice_loss(logits.detach().sigmoid(), targets, squared)


def _loss(logits: Tensor, targets: Tensor, settings: TrainSettings) -> Tensor:
    """Of (B, C, S, S), as the settings say."""
    if settings.loss == "tanimoto":
        return tanimoto_loss(logits.sigmoid(), targets)
    dice = dice_loss(logits.sigmoid(), targets, squared=settings.loss != "linear-dice")
    return (
        dice + cross_entropy_loss(logits, targets)
        if settings.loss == "dice+cross-entropy"
        else dice
    )


def train_step(
    state: TrainingState, batch: Batch, settings: TrainSettings, device: torch.device
) -> tuple[float, float]:
    """One update from labeled tiles; returns the loss and the soft Dice of the batch."""
    state.network.train()
    loss, dice = labeled_loss(state.network, batch, settings, device)
    update_weights(state, loss, settings, settings.max_grad_norm)
    return float(loss.detach()), 1 - float(dice.detach())


def fit(
    state: TrainingState,
    learn: Sequence[TrainingSlice],
    validate: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
    min_foreground_px: float,
) -> Iterator[Progress]:
    """Train until ``settings.updates``, one yield an update; the caller may save ``state`` or stop between any two.

    Args:
        state: fresh or restored; changed in place.
        learn: slices to learn from.
        validate: slices held out; may be empty.
        settings: all but structures, image and file names.
        device: where the state is.
        min_foreground_px: pixels of a structure that a tile which must hold it has, at the network's scale.

    Raises:
        SettingsError: the loss is no longer a number.
    """
    sampler = build_sampler(learn, settings, min_foreground_px)
    scores = validation_scorer(validate, settings, device)
    yield from run_updates(
        state,
        sampler.batch,
        lambda batch: train_step(state, batch, settings, device),
        scores,
        settings,
        settings.validate_every,
    )


def validation_scorer(
    validate: Sequence[TrainingSlice], settings: TrainSettings, device: torch.device
) -> Callable[[nn.Module], tuple[float, ...]] | None:
    """What tells a network's Dice on held-out slices; None where there are none."""
    return (
        (lambda network: validation_dice(network, validate, settings, device)) if validate else None
    )


def build_sampler(
    learn: Sequence[TrainingSlice], settings: TrainSettings, min_foreground_px: float
) -> TileSampler:
    """Of the tiles of labeled slices that networks learn from."""
    how = Sampling(
        settings.input_px,
        settings.batch,
        settings.foreground_fraction,
        min_foreground_px,
        settings.intensity_augmentation,
        settings.seed,
    )
    return TileSampler([each.image for each in learn], [each.target for each in learn], how)


@torch.no_grad()
def validation_dice(
    network: nn.Module,
    slices: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
) -> tuple[float, ...]:
    """Pooled Dice of each structure on whole slices at the network's scale, tile by tile; NaN where none of it is known."""
    network.eval()
    counts: list[list[MaskOverlap]] = [[] for _ in range(slices[0].target.shape[0])]
    for each in slices:
        grid = TileGrid((each.image.shape[1], each.image.shape[2]), settings.input_px, overlap=0)
        with autocast(device, settings.precision):
            images = torch.from_numpy(grid.cut(each.image)).to(device)
            outputs = [
                network(batch.contiguous(memory_format=torch.channels_last)).float().sigmoid()
                for batch in images.split(settings.batch)
            ]
        probability = grid.blend(torch.cat(outputs).cpu().numpy())
        for structure, found in enumerate(counts):
            target = each.target[structure]
            found.append(
                mask_overlap(probability[structure] >= 0.5, target == 1, target != UNKNOWN)
            )
    return tuple(pool_slices(found).dice for found in counts)
