"""Memory of a network in training and prediction.

It is measured by running the network on tensors that have a shape but no content.
"""

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
from sparsem.models.device import (
    MAX_KEPT_BYTES,
    autocast,
    resolve_precision,
)
from sparsem.settings import Precision

# Copies of the weights in addition to themselves: their moving average, two moments of Adam.
LASTING_COPIES = 3
# More copies during an update: the gradient, and temporary tensors of Adam.
UPDATE_COPIES = 3
# Memory that kernels need, relative to their tensors (measured on a CPU, see benchmarks).
KERNEL_OVERHEAD = 1.25


class MemoryCounter(TorchDispatchMode):
    """Counter of the bytes of all tensors that are created, and of their peak.

    Attributes:
        live: bytes of the tensors that exist.
        peak: maximum of ``live`` so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that is not known yet, until it is freed."""
        key = storage._cdata
        if key in self._known:
            return
        n_bytes = storage.nbytes()
        self._known.add(key)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, n_bytes)

    def _free(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.live -= n_bytes


def training_bytes(
    recipes: Sequence[Recipe], batch: int, device: torch.device, precision: Precision
) -> int:
    """Return the peak memory of an update of networks that are trained together.

    It includes the weights of all networks and their copies. The networks compute one after the
    other, so that only the largest one keeps the activations of a batch until its backward pass.
    """
    lasting = 0
    temporary = []
    for recipe in recipes:
        weights, activations = _measured_bytes(recipe, batch, device, precision, training=True)
        lasting += (1 + LASTING_COPIES) * weights
        temporary.append(max(_with_overhead(activations, device), UPDATE_COPIES * weights))
    return lasting + max(temporary)


def prediction_bytes(recipe: Recipe, batch: int, device: torch.device, precision: Precision) -> int:
    """Return the bytes of the weights and the peak memory of a forward pass without gradients."""
    weights, activations = _measured_bytes(recipe, batch, device, precision, training=False)
    return weights + _with_overhead(activations, device)


def _with_overhead(tensor_bytes: int, device: torch.device) -> int:
    """Return the memory of a process with this many bytes of tensors.

    On a CPU, freed memory is kept for the next tensors (see ``keep_freed_memory``).
    """
    cached_bytes = min(MAX_KEPT_BYTES, tensor_bytes) if device.type == "cpu" else 0
    return int(KERNEL_OVERHEAD * tensor_bytes) + cached_bytes


def _measured_bytes(
    recipe: Recipe, batch: int, device: torch.device, precision: Precision, training: bool
) -> tuple[int, int]:
    """Return the bytes of the weights, and the peak of all other tensors."""
    # Resolved here, since tensors without content cannot be timed.
    resolved = resolve_precision(device, precision)
    return _run_without_content(
        recipe.architecture,
        recipe.width,
        len(recipe.structures),
        1 + 2 * recipe.adjacent_slices,
        recipe.input_px,
        batch,
        device,
        resolved,
        training,
    )


@lru_cache(maxsize=1000)  # folds and experiments train one network many times
def _run_without_content(
    architecture: str,
    width: int,
    outputs: int,
    inputs: int,
    input_px: int,
    batch: int,
    device: torch.device,
    precision: Precision,
    training: bool,
) -> tuple[int, int]:
    """Run a network on a batch of tensors without content; see ``_measured_bytes``."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        # Some networks read values of tensors while they are built, which fake ones do not have.
        with unset_fake_temporarily(), torch.device("meta"):
            network = build_network(architecture, width, outputs, input_px, inputs)
            network = network.to("meta")  # a library may have put a part of it on another device
        network = network.to_empty(device=device).train(training)
        weights = sum(
            parameter.numel() * parameter.element_size() for parameter in network.parameters()
        )
        images = torch.empty(batch, inputs, input_px, input_px, device=device)
        gradients = contextlib.nullcontext() if training else torch.no_grad()
        with MemoryCounter() as counter, gradients:
            with autocast(device, precision):
                logits = network(images)
            probability = logits.float().sigmoid()
            if training:
                probability.square().sum().backward()
    return weights, counter.peak
