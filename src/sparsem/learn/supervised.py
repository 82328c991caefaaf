"""Supervised learning (paper 3.4, 5.1): one update, and the loop of them.

Batches (B, K, S, S) float32 and targets (B, C, S, S) uint8 (0, 1, 255 not known) are cut from a few labelled slices at the
network's scale. Nothing here depends on when a run was interrupted: a batch is a function of the seed and its number, and the
state that is saved holds the weights, their average and the optimiser's moments.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from sparsem.annotations import UNKNOWN
from sparsem.errors import SettingsError
from sparsem.learn.losses import cross_entropy_loss, dice_loss
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import Precision, autocast, keep_freed_memory
from sparsem.score.overlap import Overlap, overlap, pooled
from sparsem.settings import Settings
from sparsem.tiles.context import TileGrid
from sparsem.tiles.sampling import Batch, Sampling, TileSampler

BEFORE_WARM = 10  # the running average of the weights follows closely at first: after n updates it spans about n / 10


class LearnSettings(Settings):
    """How a network learns. The paper's own numbers: width 64, tile 2048 seen at 512, learning rate 1e-4 constant, 5000 updates."""

    model: str = Field("resunet", description="architecture: resunet or unet")
    width: int = Field(16, ge=1, description="feature maps of the network's first level")
    read: int = Field(256, ge=16, le=16384, description="edge of a tile in the image, px: the context")
    see: int = Field(128, ge=16, le=4096, description="edge at which the network sees it, px")
    neighbours: int = Field(0, ge=0, le=8, description="slices above and below that the network sees too; they help at boundaries")
    batch: int = Field(5, ge=1, description="tiles an update")
    updates: int = Field(2000, ge=1, description="weight updates")
    learning_rate: float = Field(2e-3, gt=0, description="of Adam, at its highest")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine: a warm-up, then down to 0")
    warmup: int = Field(50, ge=0, description="updates over which the learning rate rises")
    loss: Literal["dice", "linear-dice", "dice+cross-entropy"] = Field("dice", description="dice: squared, as the paper's equation 2")
    average: float = Field(0.99, ge=0, lt=1, description="running average of the weights, which is what is saved; 0 takes the last")
    share: float = Field(0.8, ge=0, le=1, description="part of each batch that must hold a structure")
    least_px: int = Field(100, ge=0, description="how many pixels of it, at full resolution")
    grey: float = Field(0.25, ge=0, le=2, description="grey-level augmentation in standard deviations; 0 for none")
    precision: Precision = Field("auto", description="auto: bfloat16 where the processor computes it fast")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, tiles and augmentation")
    image: str | None = Field(None, description="image to learn from; the newest one if not given: annotations move along")
    save_every_s: float = Field(30, ge=0, description="seconds between two saved states of an unfinished training")


class TrainSettings(LearnSettings):
    """What a network learns, from which slices, and how."""

    structure: tuple[str, ...] = Field(
        (), description="what to learn; repeat it for several in one model; all that is annotated if not given"
    )
    cells: str | None = Field(
        None, description="an annotation of objects that touch: its NAME-interior and NAME-boundary are learnt, beside any --structure"
    )
    boundary_nm: float | None = Field(None, gt=0, description="width of the boundary of --cells; three pixels of the network if not given")
    slices: tuple[int, ...] = Field((), description="learn from these of the labelled slices only; from all of them if not given")
    folds: int = Field(
        0, ge=0, description="train so many times more, each time without some labelled slices, and tell the Dice that is reached there"
    )
    validation_slices: int = Field(0, ge=0, description="labelled slices held out to choose the best weights and to tell their Dice")
    validate_every: int = Field(100, ge=1, description="updates between two validations")


@dataclass(frozen=True)
class LearningSlice:
    """One labelled slice as the network meets it.

    Attributes:
        image: (K, y, x) float32, standardised: the slice in the middle of its neighbours.
        target: (C, y, x) uint8: 0, 1, or 255 where not known.
        sample: its name.
        z: slice number.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    sample: str
    z: int

    @property
    def name(self) -> str:
        """Sample and slice number."""
        return f"{self.sample} {self.z}"


@dataclass
class TrainingState:
    """Everything that an interrupted training needs to go on: weights, their average, the optimiser, how far it is."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Adam
    update: int = 0
    best_dice: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)

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
        self.update, self.best_dice = int(about["update"]), float(about["best_dice"])


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


def learning_rate_at(update: int, settings: TrainSettings) -> float:
    """Of the ``update``-th update (from 0): a linear warm-up, then a half cosine to 0 (or constant)."""
    if settings.schedule == "constant":
        return settings.learning_rate
    rise = min(1.0, (update + 1) / max(settings.warmup, 1))
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * update / settings.updates))


def start(recipe: Recipe, settings: TrainSettings, device: torch.device) -> TrainingState:
    """A fresh network on ``device``; the same seed gives the same weights."""
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = recipe.build()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate, betas=(0.9, 0.999), eps=1e-7)
    return TrainingState(network, copy.deepcopy(network), optimiser)


def step(state: TrainingState, batch: Batch, settings: TrainSettings, device: torch.device) -> tuple[float, float]:
    """One update of the weights; returns the loss and the soft Dice of the batch."""
    images, targets = (torch.from_numpy(array).to(device, non_blocking=True) for array in batch)
    state.network.train()
    with autocast(device, settings.precision):
        logits = state.network(images.contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    dice = dice_loss(logits.sigmoid(), targets, squared=settings.loss != "linear-dice")
    loss = dice + cross_entropy_loss(logits, targets) if settings.loss == "dice+cross-entropy" else dice
    state.optimiser.param_groups[0]["lr"] = learning_rate_at(state.update, settings)
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    _follow(state.average, state.network, min(settings.average, (1 + state.update) / (BEFORE_WARM + state.update)))
    state.update += 1
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
    how = Sampling(settings.see, settings.batch, settings.share, least_px, settings.grey, settings.seed)
    sampler = TileSampler([each.image for each in learn], [each.target for each in learn], how)
    with ThreadPoolExecutor(1) as ahead, torch.random.fork_rng(devices=[]):
        following = ahead.submit(sampler.batch, state.update)
        while state.update < settings.updates:
            batch = following.result()
            following = ahead.submit(sampler.batch, state.update + 1)
            torch.manual_seed(settings.seed * 1_000_003 + state.update)  # dropout too depends on nothing but the update
            loss, dice = step(state, batch, settings, device)
            if not math.isfinite(loss):
                raise SettingsError(f"The training diverged at update {state.update}: the loss is {loss}. Try a lower --learning-rate.")
            due = validate and (state.update % settings.validate_every == 0 or state.update == settings.updates)
            validation = validation_dice(state.average, validate, settings, device) if due else ()
            known = [dice for dice in validation if not math.isnan(dice)]
            if validation and float(np.mean(known or 0)) > state.best_dice:
                state.best_dice = float(np.mean(known or 0))
                state.best = {name: tensor.detach().clone() for name, tensor in state.average.state_dict().items()}
            yield Progress(state.update, loss, dice, learning_rate_at(state.update - 1, settings), validation)


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
