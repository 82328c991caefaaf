"""How much memory a network takes, to learn and to predict: found by running it on tensors that have a shape and no content."""

import contextlib
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsem.models.checkpoint import Recipe
from sparsem.models.device import Precision, resolved

LASTING = 3  # copies of the weights beside themselves and their gradient: their running average, and two moments of Adam
STEP = 2  # more of them for the moment of an update


class Peak(TorchDispatchMode):
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


def training_bytes(recipe: Recipe, batch: int, device: torch.device, precision: Precision) -> int:
    """Bytes at the peak of an update: weights and what belongs to them, and what a network keeps of a batch until its backward pass."""
    weights, beside = _counted(recipe, batch, resolved(device, precision), learning=True)
    return (1 + LASTING) * weights + max(beside, (1 + STEP) * weights)


def prediction_bytes(recipe: Recipe, batch: int, device: torch.device, precision: Precision) -> int:
    """Bytes of the weights, and at the peak of a forward pass that nothing is learnt from."""
    return sum(_counted(recipe, batch, resolved(device, precision), learning=False))


def _counted(recipe: Recipe, batch: int, precision: Precision, learning: bool) -> tuple[int, int]:
    """Bytes of the weights, and the most that there are beside them."""
    with torch.device("meta"):
        network = recipe.build().to("meta").train(learning)  # some libraries make a part of it elsewhere
        weights = sum(parameter.numel() * 4 for parameter in network.parameters())
        images = torch.empty(batch, 1 + 2 * recipe.neighbours, recipe.see, recipe.see)
        if precision == "bfloat16":  # stands for mixed precision, which does not know tensors without content
            network, images = network.bfloat16(), images.bfloat16()
        with Peak() as count, contextlib.nullcontext() if learning else torch.no_grad():
            probability = network(images).float().sigmoid()
            if learning:
                probability.square().sum().backward()
    copies = weights // 2 if precision == "bfloat16" else 0  # of the weights, in mixed precision
    return weights, count.most + copies
