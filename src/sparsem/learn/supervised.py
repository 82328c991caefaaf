"""Supervised learning (paper 3.4, 5.1): one update, and the loop of them.

Batches (B, K, S, S) float32 and targets (B, C, S, S) uint8 (0, 1, 255 not known) are cut from a few labelled slices at the
network's scale. Nothing here depends on when a run was interrupted: a batch is a function of the seed and its number, and the
state that is saved holds the weights, their average and the optimiser's moments.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsem.annotations import UNKNOWN
from sparsem.errors import SettingsError
from sparsem.learn.losses import cross_entropy_loss, dice_loss, tanimoto_loss
from sparsem.learn.settings import TrainSettings
from sparsem.learn.slices import LearningSlice
from sparsem.models import begin_pretrained, usual_rate
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import autocast, keep_freed_memory
from sparsem.score.overlap import Overlap, overlap, pooled
from sparsem.tiles.context import TileGrid
from sparsem.tiles.sampling import Batch, Sampling, TileSampler
from sparsem.tiles.targets import edges_and_depths

B = TypeVar("B")

BEFORE_WARM = 10  # the running average of the weights follows closely at first: after n updates it spans about n / 10


@dataclass
class TrainingState:
    """Everything that an interrupted training needs to go on: weights, their average, the optimiser, how far it is."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Adam
    highest_rate: float
    update: int = 0
    best_dice: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def members(self) -> list["TrainingState"]:
        """The networks that are trained together: this one."""
        return [self]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        named |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, parameter in enumerate(self.network.parameters()):
            named |= {f"adam.{number}.{key}": value for key, value in self.optimiser.state[parameter].items()}
        return named

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up where a saved state left off."""
        self.network.load_state_dict(_under("network.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        self.best = _under("best.", tensors)
        moments = {number: _under(f"adam.{number}.", tensors) for number, _ in enumerate(self.network.parameters())}
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.update, self.best_dice = int(about["update"]), float(about["best_dices"][0])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Progress:
    """What an update reached: loss, soft Dice of the batch, and every now and then the Dice of the held-out slices."""

    update: int
    loss: float
    dice: float
    learning_rate: float
    validation: tuple[float, ...] = ()


def learning_rate_at(update: int, settings: TrainSettings, highest: float) -> float:
    """Of the ``update``-th update (from 0): a linear warm-up to about ``highest``, then a half cosine to 0 (or constant)."""
    if settings.schedule == "constant":
        return highest
    rise = min(1.0, (update + 1) / max(settings.warmup, 1))
    return highest * rise * 0.5 * (1 + math.cos(math.pi * update / settings.updates))


def start(recipe: Recipe, settings: TrainSettings, device: torch.device, seed: int | None = None) -> TrainingState:
    """A fresh network on ``device``; the same seed, that of the settings if not given, gives the same weights."""
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed if seed is None else seed)
        network = recipe.build()
        if settings.pretrained:
            begin_pretrained(network, recipe.model)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    highest = settings.learning_rate or usual_rate(recipe.model)
    optimiser = torch.optim.Adam(network.parameters(), highest, betas=(0.9, 0.999), eps=1e-7)
    return TrainingState(network, copy.deepcopy(network), optimiser, highest)


def logits_of(compute: Callable[[Tensor], Tensor], images: Tensor, settings: TrainSettings) -> Tensor:
    """(B, K, S, S) -> what a network, or a method of it, makes of them, float32, computed as precisely as the settings say."""
    with autocast(images.device, settings.precision):
        logits = compute(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


def has_heads(network: nn.Module, settings: TrainSettings) -> bool:
    """Whether it learns outlines and depths beside structures."""
    return hasattr(network, "all_heads") and settings.loss in (None, "tanimoto")


def labelled_loss(network: nn.Module, batch: Batch, settings: TrainSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """The loss of labelled tiles, and their Dice loss."""
    images, targets = (torch.from_numpy(array).to(device, non_blocking=True) for array in batch)
    compute: Any = network
    squared = settings.loss != "linear-dice"
    if has_heads(network, settings):
        logits = logits_of(compute.all_heads, images, settings)
        beside = torch.from_numpy(edges_and_depths(batch[1])).to(device, non_blocking=True)
        return tanimoto_loss(logits.sigmoid(), targets, beside), dice_loss(logits[:, : targets.shape[1]].sigmoid(), targets, squared)
    if hasattr(network, "each"):  # several that decide together have a loss each
        several = logits_of(compute.each, images, settings)
        loss = torch.stack([_loss(logits, targets, settings) for logits in several]).mean()
        return loss, dice_loss(compute.combined(several.detach()).sigmoid(), targets, squared)
    logits = logits_of(compute, images, settings)
    return _loss(logits, targets, settings), dice_loss(logits.detach().sigmoid(), targets, squared)


def _loss(logits: Tensor, targets: Tensor, settings: TrainSettings) -> Tensor:
    """Of (B, C, S, S), as the settings say."""
    if settings.loss == "tanimoto":
        return tanimoto_loss(logits.sigmoid(), targets)
    dice = dice_loss(logits.sigmoid(), targets, squared=settings.loss != "linear-dice")
    return dice + cross_entropy_loss(logits, targets) if settings.loss == "dice+cross-entropy" else dice


def move(state: TrainingState, loss: Tensor, settings: TrainSettings, clip: float | None) -> None:
    """One update of the weights down the gradient of a loss; their average follows."""
    state.optimiser.param_groups[0]["lr"] = learning_rate_at(state.update, settings, state.highest_rate)
    state.optimiser.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), clip)
    state.optimiser.step()
    _follow(state.average, state.network, min(settings.average, (1 + state.update) / (BEFORE_WARM + state.update)))
    state.update += 1


def step(state: TrainingState, batch: Batch, settings: TrainSettings, device: torch.device) -> tuple[float, float]:
    """One update from labelled tiles; returns the loss and the soft Dice of the batch."""
    state.network.train()
    loss, dice = labelled_loss(state.network, batch, settings, device)
    move(state, loss, settings, settings.clip)
    return float(loss.detach()), 1 - float(dice.detach())


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if slow.dtype.is_floating_point:
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


def fit(
    state: TrainingState,
    learn: Sequence[LearningSlice],
    validate: Sequence[LearningSlice],
    settings: TrainSettings,
    device: torch.device,
    least_px: float,
) -> Iterator[Progress]:
    """Train until ``settings.updates``, one yield an update; the caller may save ``state`` or stop between any two.

    Args:
        state: fresh or restored; changed in place.
        learn: slices to learn from.
        validate: slices held out; may be empty.
        settings: all but structures, image and file names.
        device: where the state is.
        least_px: pixels of a structure that a tile which must hold it has, at the network's scale.

    Raises:
        SettingsError: the loss is no longer a number.
    """
    sampler = sampler_of(learn, settings, least_px)
    yield from run(state, sampler.batch, lambda batch: step(state, batch, settings, device), validate, settings, device)


def sampler_of(learn: Sequence[LearningSlice], settings: TrainSettings, least_px: float) -> TileSampler:
    """Of the tiles of labelled slices that networks learn from."""
    how = Sampling(settings.see, settings.batch, settings.share, least_px, settings.grey, settings.seed)
    return TileSampler([each.image for each in learn], [each.target for each in learn], how)


class Course(Protocol):
    """What a training changes: how far it is, and the networks that are trained together."""

    @property
    def update(self) -> int: ...
    @property
    def members(self) -> list[TrainingState]: ...
    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up where a saved state left off."""


def run(
    state: Course,
    draw: Callable[[int], B],
    update: Callable[[B], tuple[float, float]],
    validate: Sequence[LearningSlice],
    settings: TrainSettings,
    device: torch.device,
) -> Iterator[Progress]:
    """The loop of all trainings: batches are drawn a step ahead, in a thread; held-out slices choose each network's best weights.

    Raises:
        SettingsError: the loss is no longer a number.
    """
    with ThreadPoolExecutor(1) as ahead, torch.random.fork_rng(devices=[]):
        following = ahead.submit(draw, state.update)
        while state.update < settings.updates:
            batch = following.result()
            following = ahead.submit(draw, state.update + 1)
            torch.manual_seed(settings.seed * 1_000_003 + state.update)  # dropout too depends on nothing but the update
            loss, dice = update(batch)
            if not math.isfinite(loss):
                raise SettingsError(f"The training diverged at update {state.update}: the loss is {loss}. Try a lower --learning-rate.")
            due = validate and (state.update % settings.validate_every == 0 or state.update == settings.updates)
            found = [_validated(one, validate, settings, device) for one in state.members] if due else [()]
            rate = learning_rate_at(state.update - 1, settings, state.members[0].highest_rate)
            yield Progress(state.update, loss, dice, rate, max(found, key=_mean))


def _validated(state: TrainingState, validate: Sequence[LearningSlice], settings: TrainSettings, device: torch.device) -> tuple[float, ...]:
    """Dice of each structure on the held-out slices; the best weights are kept."""
    found = validation_dice(state.average, validate, settings, device)
    if _mean(found) > state.best_dice:
        state.best_dice = _mean(found)
        state.best = {name: tensor.detach().clone() for name, tensor in state.average.state_dict().items()}
    return found


def _mean(dice: Sequence[float]) -> float:
    """Of the structures that are known; 0 of none."""
    return float(np.mean([one for one in dice if not math.isnan(one)] or 0))


@torch.no_grad()
def validation_dice(
    network: nn.Module, slices: Sequence[LearningSlice], settings: TrainSettings, device: torch.device
) -> tuple[float, ...]:
    """Pooled Dice of each structure on whole slices at the network's scale, tile by tile; NaN where none of it is known."""
    network.eval()
    counts: list[list[Overlap]] = [[] for _ in range(slices[0].target.shape[0])]
    for each in slices:
        grid = TileGrid((each.image.shape[1], each.image.shape[2]), settings.see, overlap=0)
        with autocast(device, settings.precision):
            images = torch.from_numpy(grid.cut(each.image)).to(device)
            outputs = [
                network(batch.contiguous(memory_format=torch.channels_last)).float().sigmoid() for batch in images.split(settings.batch)
            ]
        probability = grid.blend(torch.cat(outputs).cpu().numpy())
        for structure, found in enumerate(counts):
            target = each.target[structure]
            found.append(overlap(probability[structure] >= 0.5, target == 1, target != UNKNOWN))
    return tuple(pooled(found).dice for found in counts)
