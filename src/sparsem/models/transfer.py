"""Weights of an earlier network as the beginning of another training.

All layers are taken over. Structures that the earlier network knows keep their output layers, by
their names; other structures get new ones.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsem.errors import InputError
from sparsem.models.checkpoint import load_state, network_state

# Factor of the usual learning rate. Smaller steps keep more of the earlier model; they cost little:
# 300 updates from an EPFL model on 3 slices of VNC reached a Dice of 0.90 at the usual rate, 0.89
# at 0.3 and 0.86 at 0.1 of it (benchmarks/from_model.py).
RATE_FACTOR = 0.3

Build = Callable[[int], nn.Module]  # builds a network for a number of structures


def take_over_weights(
    network: nn.Module,
    structures: Sequence[str],
    earlier: Mapping[str, Tensor],
    earlier_structures: Sequence[str],
    build: Build,
    path: Path,
    nameless: Sequence[str] = (),
) -> None:
    """Load the weights of an earlier network into a new one.

    Args:
        network: the new network, with random weights; changed in place.
        structures: structure of each of its outputs.
        earlier: tensors of the earlier network by name.
        earlier_structures: structure of each of its outputs.
        build: builds a network like the new one, for any number of structures.
        path: file of the earlier network, for messages.
        nameless: beginnings of the names of tensors whose outputs stand for no structure, although
            their number is that of the structures; they keep their order.

    Raises:
        InputError: a tensor of the earlier network is missing, or has another shape.
    """
    of_outputs = _axes_of_outputs(build)
    tensors = {}
    for name, new in network_state(network).items():
        if name not in earlier:
            raise InputError(f"{path.name} does not fit: it has no tensor '{name}'.")
        old = earlier[name]
        axes = of_outputs.get(name, ())
        if not _shapes_fit(new, old, axes):
            raise InputError(
                f"{path.name} does not fit: its tensor '{name}' has the shape {tuple(old.shape)}, "
                f"expected {tuple(new.shape)}."
            )
        is_nameless = name.startswith(tuple(nameless))
        new_names = range(len(structures)) if is_nameless else structures
        old_names = range(len(earlier_structures)) if is_nameless else earlier_structures
        tensors[name] = _joined(new, old, axes, new_names, old_names)
    load_state(network, tensors)


def _axes_of_outputs(build: Build) -> dict[str, tuple[int, ...]]:
    """Return the axes of every tensor whose lengths are multiples of the number of structures."""
    with torch.device("meta"):
        two, three = network_state(build(2)), network_state(build(3))
    axes = {}
    for name, tensor in two.items():
        differing = [
            axis
            for axis, (a, b) in enumerate(zip(tensor.shape, three[name].shape, strict=True))
            if a != b
        ]
        if differing:
            axes[name] = tuple(differing)
    return axes


def _shapes_fit(new: Tensor, old: Tensor, axes: Sequence[int]) -> bool:
    """Return True if two tensors have the same shape but for the axes of outputs."""
    if new.ndim != old.ndim:
        return False
    lengths = enumerate(zip(new.shape, old.shape, strict=True))
    return all(a == b or axis in axes for axis, (a, b) in lengths)


def _joined(
    new: Tensor,
    old: Tensor,
    axes: Sequence[int],
    structures: Sequence[str | int],
    earlier_structures: Sequence[str | int],
) -> Tensor:
    """Return the old tensor, with new values for structures that it does not know."""
    if not axes:
        return old
    # Along such an axis, structures follow each other within every group of outputs.
    known = [name for name in structures if name in earlier_structures]
    to_index = [structures.index(name) for name in known]
    from_index = [earlier_structures.index(name) for name in known]
    joined = new.detach().clone()
    targets, sources = [], []
    for axis in range(new.ndim):
        if axis in axes:
            targets.append(_positions(new.shape[axis], len(structures), to_index))
            sources.append(_positions(old.shape[axis], len(earlier_structures), from_index))
        else:
            targets.append(torch.arange(new.shape[axis]))
            sources.append(torch.arange(new.shape[axis]))
    joined[torch.meshgrid(*targets, indexing="ij")] = old[
        torch.meshgrid(*sources, indexing="ij")
    ].to(joined.dtype)
    return joined


def _positions(length: int, n_structures: int, indices: Sequence[int]) -> Tensor:
    """Return the positions of some structures along an axis of several groups of outputs."""
    groups = torch.arange(length // n_structures)[:, None]
    return (groups * n_structures + torch.tensor(indices, dtype=torch.int64)).reshape(-1)
