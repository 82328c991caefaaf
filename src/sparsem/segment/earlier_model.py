"""Training that starts from an earlier model (``train --from``).

The network of the earlier model decides about architecture, width, tiles, adjacent slices and the
nm per pixel that it sees; other structures get new output layers.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sparsem.errors import InputError, SettingsError
from sparsem.geometry import VoxelSize
from sparsem.models.architectures import build_network, default_learning_rate
from sparsem.models.checkpoint import Recipe, load_tensors, read_recipe
from sparsem.models.transfer import RATE_FACTOR, take_over_weights
from sparsem.settings import changed
from sparsem.training.settings import TrainSettings, refuse_other_network

# Settings that are those of the earlier model.
NETWORK_FIELDS = ("architecture", "width", "input_px", "adjacent_slices")


def usual_learning_rate(architecture: str, settings: TrainSettings) -> float:
    """Return the maximum learning rate of an architecture, lower if it starts from a model."""
    rate = default_learning_rate(architecture)
    return rate * RATE_FACTOR if settings.from_model else rate


def earlier_recipe(settings: TrainSettings, structures: tuple[str, ...]) -> Recipe:
    """Return the recipe of a training that starts from an earlier model.

    Args:
        settings: settings of the training, with ``from_model``.
        structures: structures to train.

    Raises:
        InputError: there is no such model, or it detects boxes.
        SettingsError: settings state another network than that of the model, or ImageNet weights,
            or two networks that supervise each other, which must not begin as the same.
    """
    path = Path(settings.from_model or "")
    recipe = read_recipe(path)
    refuse_other_network(settings, {name: getattr(recipe, name) for name in NETWORK_FIELDS}, path)
    if settings.pretrained:
        raise SettingsError("A training starts from ImageNet weights or from --from, not both.")
    if settings.semi == "cps":
        raise SettingsError(
            "With --semi cps two different networks supervise each other, so they cannot both "
            "start from one model; use --semi mean-teacher, or leave out --from."
        )
    return replace(recipe, structures=structures, training={})


def with_network_of(recipe: Recipe, settings: TrainSettings, voxel: VoxelSize) -> TrainSettings:
    """Return settings whose network and nm per pixel are those of a recipe.

    Args:
        recipe: recipe of the network.
        settings: settings of the training.
        voxel: voxel size of the first sample.
    """
    context_px = round(recipe.input_px * recipe.factors(voxel)[0])
    network = {name: getattr(recipe, name) for name in NETWORK_FIELDS}
    return changed(settings, {**network, "context_px": max(16, context_px)})


def load_earlier_weights(network: nn.Module, recipe: Recipe, path: Path) -> None:
    """Load the weights of an earlier model into a network.

    Args:
        network: the network; changed in place.
        recipe: its recipe.
        path: the earlier model.

    Raises:
        InputError: there is no such model, or its weights do not fit.
    """
    tensors, _ = load_tensors(path)
    earlier = read_recipe(path)

    def build(n_structures: int) -> nn.Module:
        n_inputs = 1 + 2 * recipe.adjacent_slices
        return build_network(
            recipe.architecture, recipe.width, n_structures, recipe.input_px, n_inputs
        )

    take_over_weights(network, recipe.structures, tensors, earlier.structures, build, path)


def slices_of_earlier(settings: TrainSettings) -> dict[str, list[Any]]:
    """Return number and digest of the slices that the earlier model used, by their role."""
    used: dict[str, list[Any]] = {"trained": [], "validated": []}
    if settings.from_model:
        recorded = read_recipe(Path(settings.from_model)).training.get("slices") or {}
        for role in used:
            used[role] = list(recorded.get(role, ()))
    return used


def refuse_seen_slices(settings: TrainSettings, held_out: Mapping[str, str]) -> None:
    """Refuse to hold out slices that the earlier model was trained on: their Dice is too high.

    Args:
        settings: settings of the training.
        held_out: digest of every slice that is held out, and its name.

    Raises:
        InputError: there are such slices.
    """
    seen = {digest for _, digest in slices_of_earlier(settings)["trained"]}
    names = [name for digest, name in held_out.items() if digest in seen]
    if names:
        raise InputError(
            f"{Path(settings.from_model or '').name} was trained on the slice {names[0]}, so its "
            "Dice would be too high; hold out other slices, or none."
        )
