"""How much memory a network takes, to learn and to predict: found by running it on tensors that have a shape and no content."""

import contextlib
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsem.models.architectures import build_network
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import KEPT, Precision, autocast, resolve_precision

LASTING = (
    3  # copies of the weights beside themselves: their running average, and two moments of Adam
)
STEP = 3  # more of them for the moment of an update: their gradient, and what Adam works with
WORKING = 1.25  # what kernels work with beside their tensors (measured on a CPU, see benchmarks)


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, and the most that there were at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def training_bytes(
    recipes: Sequence[Recipe], batch: int, device: torch.device, precision: Precision
) -> int:
    """Bytes at the peak of an update of networks that learn together, one after the other.

    The weights of all and what belongs to them, and what the largest keeps of a batch until its backward pass.
    """
    counted = [_counted(recipe, batch, device, precision, learning=True) for recipe in recipes]
    lasting = (1 + LASTING) * sum(weights for weights, _ in counted)
    return lasting + max(
        max(_with_working(beside, device), STEP * weights) for weights, beside in counted
    )


def prediction_bytes(recipe: Recipe, batch: int, device: torch.device, precision: Precision) -> int:
    """Bytes of the weights, and at the peak of a forward pass that nothing is learnt from."""
    weights, beside = _counted(recipe, batch, device, precision, learning=False)
    return weights + _with_working(beside, device)


def _with_working(tensors: int, device: torch.device) -> int:
    """Bytes that a process holds for so many of tensors; on a CPU freed memory is kept for the next ones."""
    return int(WORKING * tensors) + (min(KEPT, tensors) if device.type == "cpu" else 0)


def _counted(
    recipe: Recipe, batch: int, device: torch.device, precision: Precision, learning: bool
) -> tuple[int, int]:
    """Bytes of the weights, and the most that there are beside them."""
    outputs, inputs = len(recipe.structures), 1 + 2 * recipe.adjacent_slices
    computed = resolve_precision(device, precision)  # tensors without content cannot be timed
    return _looked_at(
        recipe.architecture,
        recipe.width,
        outputs,
        inputs,
        recipe.input_px,
        batch,
        device,
        computed,
        learning,
    )


@lru_cache(maxsize=1000)  # folds and experiments train one network many times
def _looked_at(
    model: str,
    width: int,
    outputs: int,
    inputs: int,
    see: int,
    batch: int,
    device: torch.device,
    precision: Precision,
    learning: bool,
) -> tuple[int, int]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        with (
            unset_fake_temporarily(),
            torch.device("meta"),
        ):  # some networks look at numbers while they are built
            network = build_network(model, width, outputs, see, inputs).to(
                "meta"
            )  # a library may have made a part of it elsewhere
        network = network.to_empty(device=device).train(learning)
        weights = sum(
            parameter.numel() * parameter.element_size() for parameter in network.parameters()
        )
        images = torch.empty(batch, inputs, see, see, device=device)
        with MemoryCounter() as count, contextlib.nullcontext() if learning else torch.no_grad():
            with autocast(device, precision):
                logits = network(images)
            probability = logits.float().sigmoid()
            if learning:
                probability.square().sum().backward()
    return weights, count.most
