"""The course of a training, whatever is learnt: one update after the other, the running average of the weights, when to validate.

Nothing here depends on when a run was interrupted: a batch is a function of the seed and its number, and the state that is saved holds
the weights, their average and the optimizer's moments.
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
from sparsem.training.settings import LoopSettings

B = TypeVar("B")

BEFORE_WARM = 10  # the running average of the weights follows closely at first: after n updates it spans about n / 10


@dataclass
class TrainingState:
    """Everything that an interrupted training needs to go on: weights, their average, the optimizer, how far it is.

    Attributes:
        network: that learns.
        average: of its weights.
        optimizer: its groups may say ``part``, what part of the learning rate is theirs.
        highest_rate: learning rate at its highest.
        update: how many were done.
        best_score: of held-out slices, so far.
        best: weights of the average that reached it.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    highest_rate: float
    update: int = 0
    best_score: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def beginning(
        cls, network: nn.Module, optimizer: torch.optim.Optimizer, highest_rate: float
    ) -> "TrainingState":
        """Of a fresh network."""
        return cls(network, copy.deepcopy(network), optimizer, highest_rate)

    @property
    def members(self) -> list["TrainingState"]:
        """The networks that are trained together: this one."""
        return [self]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""
        named = {f"network.{name}": tensor for name, tensor in network_state(self.network).items()}
        named |= {f"average.{name}": tensor for name, tensor in network_state(self.average).items()}
        named |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, parameter in enumerate(self._learning()):
            named |= {
                f"adam.{number}.{key}": value
                for key, value in self.optimizer.state[parameter].items()
            }
        return named

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up where a saved state left off."""
        for network, name in ((self.network, "network."), (self.average, "average.")):
            load_state(network, _under(name, tensors))
        self.best = _under("best.", tensors)
        moments = {
            number: _under(f"adam.{number}.", tensors) for number, _ in enumerate(self._learning())
        }
        known = {number: one for number, one in moments.items() if one}
        self.optimizer.load_state_dict(
            {"state": known, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.update, self.best_score = int(about["update"]), float(about["best_scores"][0])

    def _learning(self) -> list[nn.Parameter]:
        """The parameters in the optimizer's own order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class Progress:
    """What an update reached.

    Attributes:
        update: how many were done.
        loss: of it.
        learning_rate: of it.
        batch: what else is told of its batch, such as the soft Dice.
        validation: every now and then, the score of each structure on what is held out.
    """

    update: int
    loss: float
    learning_rate: float
    batch: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()


def learning_rate_at(update: int, settings: LoopSettings, highest: float) -> float:
    """Of the ``update``-th update (from 0): a linear warm-up to about ``highest``, then a half cosine to 0 (or constant)."""
    if settings.schedule == "constant":
        return highest
    rise = min(1.0, (update + 1) / max(settings.warmup, 1))
    return highest * rise * 0.5 * (1 + math.cos(math.pi * update / settings.updates))


def update_weights(
    state: TrainingState, loss: Tensor, settings: LoopSettings, clip: float | None
) -> None:
    """One update of the weights down the gradient of a loss; their average follows."""
    for group in state.optimizer.param_groups:
        group["lr"] = group.get("part", 1.0) * learning_rate_at(
            state.update, settings, state.highest_rate
        )
    state.optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), clip)
    state.optimizer.step()
    _follow(
        state.average,
        state.network,
        min(settings.ema, (1 + state.update) / (BEFORE_WARM + state.update)),
    )
    state.update += 1


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for slow, fast in zip(
        network_state(average).values(), network_state(network).values(), strict=True
    ):
        if slow.dtype.is_floating_point:
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


class ResumableTraining(Protocol):
    """What a training changes: how far it is, and the networks that are trained together."""

    @property
    def update(self) -> int: ...
    @property
    def members(self) -> list[TrainingState]: ...
    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up where a saved state left off."""


def run_updates(
    state: ResumableTraining,
    draw: Callable[[int], B],
    update: Callable[[B], tuple[float, ...]],
    scores: Callable[[nn.Module], tuple[float, ...]] | None,
    settings: LoopSettings,
    validate_every: int,
) -> Iterator[Progress]:
    """The loop of all trainings: batches are drawn a step ahead, in a thread; what is held out chooses each network's best weights.

    Args:
        state: fresh or restored; changed in place.
        draw: the batch of an update.
        update: learns from a batch; returns the loss, and what else is told of it.
        scores: of each structure, of a network, on what is held out; None where nothing is.
        settings: how many updates, and how fast.
        validate_every: updates between two looks at what is held out.

    Raises:
        SettingsError: the loss is no longer a number.
    """
    with ThreadPoolExecutor(1) as ahead, torch.random.fork_rng(devices=[]):
        following = ahead.submit(draw, state.update)
        while state.update < settings.updates:
            batch = following.result()
            following = ahead.submit(draw, state.update + 1)
            torch.manual_seed(
                settings.seed * 1_000_003 + state.update
            )  # dropout too depends on nothing but the update
            loss, *told = update(batch)
            if not math.isfinite(loss):
                raise SettingsError(
                    f"The training diverged at update {state.update}: the loss is {loss}. Try a lower --learning-rate."
                )
            due = scores and (
                state.update % validate_every == 0 or state.update == settings.updates
            )
            found = [_validated(one, scores) for one in state.members] if scores and due else [()]
            rate = learning_rate_at(state.update - 1, settings, state.members[0].highest_rate)
            yield Progress(state.update, loss, rate, tuple(told), max(found, key=mean_known))


def _validated(
    state: TrainingState, scores: Callable[[nn.Module], tuple[float, ...]]
) -> tuple[float, ...]:
    """Score of each structure on what is held out; the best weights are kept."""
    found = scores(state.average)
    if (
        mean_known(found) >= state.best_score
    ):  # of equals the one that learnt longer; where nothing is known that is the last
        state.best_score = mean_known(found)
        state.best = {
            name: tensor.detach().clone() for name, tensor in network_state(state.average).items()
        }
    return found


def mean_known(scores: Sequence[float]) -> float:
    """Of the structures that are known; 0 of none."""
    return float(np.mean([one for one in scores if not math.isnan(one)] or 0))
