"""The training loop of all networks: updates, the moving average of the weights, validation.

Nothing here depends on when a run was interrupted: a batch is a function of the seed and of its
number, and the saved state holds the weights, their moving average and the optimizer's moments.
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

from sparsem.errors import SettingsError
from sparsem.models.checkpoint import load_state, network_state
from sparsem.training.processes import mean_of_all
from sparsem.training.settings import LoopSettings

B = TypeVar("B")

# The moving average follows the weights closely at first: after n updates it spans about n / 10.
EMA_RAMP = 10


@dataclass
class TrainingState:
    """The state from which an interrupted training continues: weights, optimizer, progress.

    Attributes:
        network: the network that is trained.
        average: the network with the moving average of its weights.
        optimizers: each of its own parameters; a group of them may hold ``part``, a factor of
            their learning rate.
        highest_rate: maximum learning rate.
        update: number of updates done.
        best_score: best mean score of the held-out slices so far.
        best: weights of the moving average that reached it.
    """

    network: nn.Module
    average: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    highest_rate: float
    update: int = 0
    best_score: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def beginning(
        cls,
        network: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        highest_rate: float,
    ) -> "TrainingState":
        """Return the state of a network that has not been trained yet."""
        return cls(network, copy.deepcopy(network), optimizers, highest_rate)

    @property
    def members(self) -> list["TrainingState"]:
        """The networks that are trained together: only this one."""
        return [self]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state under flat names."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in network_state(self.network).items():
            tensors[f"network.{name}"] = tensor
        for name, tensor in network_state(self.average).items():
            tensors[f"average.{name}"] = tensor
        for name, tensor in self.best.items():
            tensors[f"best.{name}"] = tensor
        for index, optimizer in enumerate(self.optimizers):
            for number, parameter in enumerate(_parameters_of(optimizer)):
                for key, moment in optimizer.state[parameter].items():
                    tensors[f"optimizer.{index}.{number}.{key}"] = moment
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Load a saved state.

        Args:
            tensors: tensors as ``tensors`` returned them.
            about: ``update`` and ``best_scores``, as ``TrainingFiles.save`` recorded them.
        """
        load_state(self.network, _select("network.", tensors))
        load_state(self.average, _select("average.", tensors))
        self.best = _select("best.", tensors)
        for index, optimizer in enumerate(self.optimizers):
            _restore_moments(optimizer, _select(f"optimizer.{index}.", tensors))
        self.update = int(about["update"])
        self.best_score = float(about["best_scores"][0])


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the saved moments of an optimizer."""
    moments: dict[int, dict[str, Tensor]] = {}
    for number, _ in enumerate(_parameters_of(optimizer)):
        moments_of_parameter = _select(f"{number}.", tensors)
        if moments_of_parameter:
            moments[number] = moments_of_parameter
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with a prefix, under their names without it."""
    selected: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            selected[name.removeprefix(prefix)] = tensor
    return selected


@dataclass(frozen=True)
class Progress:
    """Result of one update.

    Attributes:
        update: number of updates done.
        loss: loss of this update.
        learning_rate: learning rate of this update.
        batch: other values of the batch, such as the soft Dice.
        validation: score of each structure on the held-out slices; empty without a validation.
    """

    update: int
    loss: float
    learning_rate: float
    batch: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()


def learning_rate_at(update: int, settings: LoopSettings, highest: float) -> float:
    """Return the learning rate of an update, counted from 0.

    It rises in a linear warm-up to about ``highest`` and falls along a half cosine to 0; with a
    constant schedule it is always ``highest``.
    """
    if settings.schedule == "constant":
        return highest
    warmup = min(1.0, (update + 1) / max(settings.warmup, 1))
    return highest * warmup * 0.5 * (1 + math.cos(math.pi * update / settings.updates))


def update_weights(
    state: TrainingState, loss: Tensor, settings: LoopSettings, max_grad_norm: float | None
) -> None:
    """Update the weights once along the gradient of a loss, and then their moving average."""
    learning_rate = learning_rate_at(state.update, settings, state.highest_rate)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = group.get("part", 1.0) * learning_rate
    loss.backward()
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), max_grad_norm)
    for optimizer in state.optimizers:
        optimizer.step()
    decay = min(settings.ema, (1 + state.update) / (EMA_RAMP + state.update))
    _update_average(state.average, state.network, decay)
    state.update += 1


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights toward those of the network; copy integers such as counters."""
    averaged_tensors = network_state(average).values()
    current_tensors = network_state(network).values()
    for averaged, current in zip(averaged_tensors, current_tensors, strict=True):
        if averaged.dtype.is_floating_point:
            averaged.lerp_(current, 1 - decay)
        else:
            averaged.copy_(current)


class ResumableTraining(Protocol):
    """State of one or more networks that are trained together, which can be saved and restored."""

    @property
    def update(self) -> int: ...
    @property
    def members(self) -> list[TrainingState]: ...
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state under flat names."""

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Load a saved state."""


def run_updates(
    state: ResumableTraining,
    draw: Callable[[int], B],
    update: Callable[[B], tuple[float, ...]],
    scores: Callable[[nn.Module], tuple[float, ...]] | None,
    settings: LoopSettings,
    validate_every: int,
) -> Iterator[Progress]:
    """Run the updates that are left, and yield the result of each.

    Batches are drawn one update ahead, in a thread. The held-out slices select the best weights of
    each network.

    Args:
        state: fresh or restored; changed in place.
        draw: returns the batch of an update.
        update: trains on a batch; returns the loss and other values of the batch.
        scores: returns the score of each structure that a network reaches on the held-out slices;
            None if no slice is held out.
        settings: number of updates, learning rate, seed.
        validate_every: updates between two validations.

    Raises:
        SettingsError: the loss is not finite.
    """
    with ThreadPoolExecutor(1) as thread, torch.random.fork_rng(devices=[]):
        next_batch = thread.submit(draw, state.update)
        while state.update < settings.updates:
            batch = next_batch.result()
            next_batch = thread.submit(draw, state.update + 1)
            # Dropout too must depend on nothing but the number of the update.
            torch.manual_seed(settings.seed * 1_000_003 + state.update)
            loss, *batch_values = mean_of_all(update(batch))
            if not math.isfinite(loss):
                raise SettingsError(
                    f"The training diverged at update {state.update}: the loss is {loss}. "
                    "Try a lower --learning-rate."
                )
            validation: tuple[float, ...] = ()
            is_last = state.update == settings.updates
            if scores and (is_last or state.update % validate_every == 0):
                candidates = [_validate(member, scores) for member in state.members]
                validation = max(candidates, key=mean_known)
            highest_rate = state.members[0].highest_rate
            rate = learning_rate_at(state.update - 1, settings, highest_rate)
            yield Progress(state.update, loss, rate, tuple(batch_values), validation)


def _validate(
    state: TrainingState, scores: Callable[[nn.Module], tuple[float, ...]]
) -> tuple[float, ...]:
    """Return the score of each structure on the held-out slices; keep the weights if the best."""
    validation = scores(state.average)
    mean_score = mean_known(validation)
    # Of equal scores the later weights count; if no score is known, these are the last.
    if mean_score >= state.best_score:
        state.best_score = mean_score
        state.best = {
            name: tensor.detach().clone() for name, tensor in network_state(state.average).items()
        }
    return validation


def mean_known(scores: Sequence[float]) -> float:
    """Return the mean of the scores that are not NaN; 0 if there are none."""
    known = [score for score in scores if not math.isnan(score)]
    return float(np.mean(known or 0))
