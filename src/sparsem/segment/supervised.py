"""Supervised training (paper 3.4, 5.1): one update, and the loop of updates.

Batches (B, K, S, S) float32 and targets (B, C, S, S) uint8 (0, 1, 255 not known) are cut from a
few labeled slices at the network's scale.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.geometry import evenly_spaced
from sparsem.models.architectures import default_optimizer, load_pretrained_weights
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import autocast, keep_freed_memory
from sparsem.models.quantization import Ranges, measure_ranges
from sparsem.score.overlap import MaskOverlap, mask_overlap, pool_slices
from sparsem.segment.earlier_model import load_earlier_weights, usual_learning_rate
from sparsem.segment.losses import cross_entropy_loss, dice_loss, tanimoto_loss
from sparsem.segment.sampling import Batch, Sampling, TileSampler
from sparsem.segment.targets import outlines_and_distances
from sparsem.segment.tiles import TileGrid
from sparsem.segment.training_slices import TrainingSlice
from sparsem.settings import Optimizer
from sparsem.training.loop import Progress, TrainingState, run_updates, update_weights
from sparsem.training.muon import Muon, kernels_of
from sparsem.training.processes import own_part, with_mean_gradients
from sparsem.training.settings import TrainSettings

CALIBRATION_TILES = 64


def start_network(
    recipe: Recipe, settings: TrainSettings, device: torch.device, seed: int | None = None
) -> TrainingState:
    """Return the initial state of a network on a device.

    The same seed gives the same weights; without one it is that of the settings.
    """
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed if seed is None else seed)
        network = recipe.build()
        if settings.pretrained:
            load_pretrained_weights(network, recipe.architecture)
    if settings.from_model:
        load_earlier_weights(network, recipe, Path(settings.from_model))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate = settings.learning_rate or usual_learning_rate(recipe.architecture, settings)
    optimizer = settings.optimizer or default_optimizer(recipe.architecture)
    return TrainingState.beginning(network, _optimizers(network, optimizer, rate), rate)


def _optimizers(network: nn.Module, name: Optimizer, rate: float) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a network: Adam, and Muon for the kernels that it can train."""
    kernels = kernels_of(network) if name == "muon" else []
    of_muon = set(map(id, kernels))
    rest = [parameter for parameter in network.parameters() if id(parameter) not in of_muon]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(rest, rate, betas=(0.9, 0.999), eps=1e-7)
    ]
    if kernels:
        optimizers.append(Muon(kernels, rate))
    return optimizers


def compute_logits(
    compute: Callable[[Tensor], Tensor], images: Tensor, settings: TrainSettings
) -> Tensor:
    """Return the output of a network, or of one of its methods, as float32.

    Images (B, K, S, S) are computed with the precision of the settings.
    """
    with autocast(images.device, settings.precision):
        logits = compute(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


def trains_all_heads(network: nn.Module, settings: TrainSettings) -> bool:
    """Return True if the network is trained on outlines and distances too."""
    return hasattr(network, "all_heads") and settings.loss in (None, "tanimoto")


def labeled_loss(
    network: nn.Module, batch: Batch, settings: TrainSettings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the loss of labeled tiles, and their Dice loss, which is only reported."""
    images, targets = (torch.from_numpy(array).to(device, non_blocking=True) for array in batch)
    compute: Any = network
    if trains_all_heads(network, settings):
        logits = compute_logits(compute.all_heads, images, settings)
        loss = _loss_of_heads(logits, targets, batch[1], device)
        structure_logits = logits[:, : targets.shape[1]]
        return loss, _reported_loss(structure_logits.sigmoid(), targets, settings)
    if hasattr(network, "each"):  # several outputs are combined, and each has its own loss
        outputs = compute_logits(compute.each, images, settings)
        loss = torch.stack([_loss(logits, targets, settings) for logits in outputs]).mean()
        probability = compute.combined(outputs.detach()).sigmoid()
        return loss, _reported_loss(probability, targets, settings)
    logits = compute_logits(compute, images, settings)
    loss = _loss(logits, targets, settings)
    return loss, _reported_loss(logits.detach().sigmoid(), targets, settings)


def _reported_loss(probability: Tensor, targets: Tensor, settings: TrainSettings) -> Tensor:
    """Return the Dice loss of labeled tiles, of the kind that the settings name."""
    squared = settings.loss != "linear-dice"
    return dice_loss(probability, targets, squared)


def _loss_of_heads(
    logits: Tensor, targets: Tensor, masks: NDArray[np.uint8], device: torch.device
) -> Tensor:
    """Return the loss of a network that predicts structures, their outlines and distances."""
    head_targets = torch.from_numpy(outlines_and_distances(masks))
    head_targets = head_targets.to(device, non_blocking=True)
    return tanimoto_loss(logits.sigmoid(), targets, head_targets)


def _loss(logits: Tensor, targets: Tensor, settings: TrainSettings) -> Tensor:
    """Return the loss of the settings for logits (B, C, S, S)."""
    if settings.loss == "tanimoto":
        return tanimoto_loss(logits.sigmoid(), targets)
    dice = dice_loss(logits.sigmoid(), targets, squared=settings.loss != "linear-dice")
    if settings.loss == "dice+cross-entropy":
        return dice + cross_entropy_loss(logits, targets)
    return dice


class LabeledLoss(nn.Module):
    """The loss of a network on labeled tiles, as a module that several processes can share."""

    def __init__(self, network: nn.Module, settings: TrainSettings, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._settings = settings
        self._device = device

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute ``labeled_loss``."""
        return labeled_loss(self.network, batch, self._settings, self._device)


def train_step(
    state: TrainingState, compute_loss: nn.Module, batch: Batch, settings: TrainSettings
) -> tuple[float, float]:
    """Update the weights once on labeled tiles; return the loss and the soft Dice of the batch.

    Args:
        state: state of the training; changed in place.
        compute_loss: ``LabeledLoss`` of its network.
        batch: images and targets.
        settings: settings of the training.
    """
    state.network.train()
    loss, dice = compute_loss(batch)
    update_weights(state, loss, settings, settings.max_grad_norm)
    return float(loss.detach()), 1 - float(dice.detach())


def fit(
    state: TrainingState,
    training: Sequence[TrainingSlice],
    validation: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
    min_foreground_px: float,
) -> Iterator[Progress]:
    """Train until ``settings.updates``, and yield the result of each update.

    The caller may save ``state`` or stop between any two updates.

    Args:
        state: fresh or restored; changed in place.
        training: slices to train on.
        validation: slices held out; may be empty.
        settings: all but structures, image and file names are used.
        device: device of the state.
        min_foreground_px: minimum pixels of a structure in a tile that must contain it, at the
            network's scale.

    Raises:
        SettingsError: the loss is not finite.
    """
    sampler = build_sampler(training, settings, min_foreground_px)
    compute_loss = with_mean_gradients(LabeledLoss(state.network, settings, device))
    yield from run_updates(
        state,
        lambda update: _own_tiles(sampler.batch(update)),
        lambda batch: train_step(state, compute_loss, batch, settings),
        validation_scorer(validation, settings, device),
        settings,
        settings.validate_every,
    )


def _own_tiles(batch: Batch) -> Batch:
    """Return the tiles of a batch that this process computes: all, if there is only one process."""
    images, targets = batch
    part = own_part(len(images))
    return images[part], targets[part]


def validation_scorer(
    validation: Sequence[TrainingSlice], settings: TrainSettings, device: torch.device
) -> Callable[[nn.Module], tuple[float, ...]] | None:
    """Return a function that measures a network's Dice on held-out slices; None without any."""
    if not validation:
        return None
    return lambda network: validation_dice(network, validation, settings, device)


def build_sampler(
    training: Sequence[TrainingSlice], settings: TrainSettings, min_foreground_px: float
) -> TileSampler:
    """Return the sampler of tiles of labeled slices."""
    rules = Sampling(
        tile=settings.input_px,
        batch=settings.batch,
        foreground_fraction=settings.foreground_fraction,
        min_foreground_px=min_foreground_px,
        intensity_augmentation=settings.intensity_augmentation,
        seed=settings.seed,
    )
    images = [labeled.image for labeled in training]
    targets = [labeled.target for labeled in training]
    return TileSampler(images, targets, rules)


@torch.no_grad()
def validation_dice(
    network: nn.Module,
    slices: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
) -> tuple[float, ...]:
    """Return the Dice of each structure, pooled over whole slices at the network's scale.

    Slices are predicted tile by tile, without overlap. The Dice is NaN for a structure that is
    known nowhere.
    """
    network.eval()
    n_structures = slices[0].target.shape[0]
    overlaps: list[list[MaskOverlap]] = [[] for _ in range(n_structures)]
    for labeled in slices:
        probability = _predict_without_overlap(network, labeled.image, settings, device)
        for structure in range(n_structures):
            target = labeled.target[structure]
            predicted = probability[structure] >= 0.5
            overlaps[structure].append(mask_overlap(predicted, target == 1, target != UNKNOWN))
    return tuple(pool_slices(of_structure).dice for of_structure in overlaps)


def measured_ranges(
    network: nn.Module, slices: Sequence[TrainingSlice], settings: TrainSettings
) -> Ranges:
    """Return the ranges by which a network on the CPU is computed in 8 bits, see ``quantization``.

    They are those of evenly spaced tiles of labeled slices, ``CALIBRATION_TILES`` in all.
    """
    tiles_per_slice = -(-CALIBRATION_TILES // len(slices))
    network = network.eval()

    def batches() -> Iterator[Tensor]:
        for labeled in slices:
            _, height, width = labeled.image.shape
            grid = TileGrid((height, width), settings.input_px, overlap=0)
            tiles = grid.cut(labeled.image)
            selected = evenly_spaced(len(tiles), min(tiles_per_slice, len(tiles)))
            yield from torch.from_numpy(tiles[list(selected)]).split(settings.batch)

    return measure_ranges(network, batches())


def _predict_without_overlap(
    network: nn.Module, image: NDArray[np.float32], settings: TrainSettings, device: torch.device
) -> NDArray[np.float32]:
    """Return the probabilities (C, y, x) of a slice (K, y, x), predicted tile by tile."""
    _, height, width = image.shape
    grid = TileGrid((height, width), settings.input_px, overlap=0)
    outputs = []
    with autocast(device, settings.precision):
        images = torch.from_numpy(grid.cut(image)).to(device)
        for batch in images.split(settings.batch):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
            outputs.append(logits.float().sigmoid())
    return grid.blend(torch.cat(outputs).cpu().numpy())
