"""Checkpoints: one .safetensors file with the weights and all that is needed to use them.

No file is a pickle.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsem.errors import InputError, SparsemError
from sparsem.geometry import VoxelSize
from sparsem.models.architectures import build_network
from sparsem.models.quantization import Ranges
from sparsem.store.names import checked_name

N = TypeVar("N", bound=nn.Module)

FORMAT = 1
HOW_TO_MAKE = "'sparsem train' and 'sparsem detect train' write one"
# What a damaged file may raise while a network is built from it.
DAMAGE_ERRORS = (TypeError, KeyError, ValueError, AttributeError, RuntimeError, SparsemError)
# One metadata key, since safetensors writes several in an order that changes from run to run.
KEY = "sparsem"


@dataclass(frozen=True)
class Recipe:
    """Description of a network: how to build and use it.

    Attributes:
        architecture: name in ``ARCHITECTURES``.
        width: feature maps of its first level.
        structures: structure of each output channel.
        input_px: edge of its tiles, px.
        pixel_nm: (y, x) nm of a pixel at the network's scale.
        mean: mean gray level of the training slices, in 0..1 of the range.
        std: standard deviation of their gray levels, in the same unit.
        adjacent_slices: slices above and below the one that it segments, which it also sees.
        training: settings, samples and slices of its training, and the scores that it reached.
        ranges: ranges of the inputs of its convolutions on the labeled slices, by which they are
            computed in 8 bits; empty if they were not measured.
    """

    architecture: str
    width: int
    structures: tuple[str, ...]
    input_px: int
    pixel_nm: tuple[float, float]
    mean: float
    std: float
    adjacent_slices: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)

    def factors(self, voxel: VoxelSize) -> tuple[float, float]:
        """Return the slice pixels per network pixel (y, x).

        The network then sees the nm per pixel that it was trained on.
        """
        return self.pixel_nm[0] / voxel.y, self.pixel_nm[1] / voxel.x

    def build(self) -> nn.Module:
        """Build the network with random weights."""
        return build_network(
            self.architecture,
            self.width,
            len(self.structures),
            self.input_px,
            inputs=1 + 2 * self.adjacent_slices,
        )


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON record to a safetensors file in one step."""
    unfinished = path.with_name(f".{path.name}.partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The file gets the permissions of any new file; those of the library are for its owner only.
    unfinished.touch()
    permissions = unfinished.stat().st_mode
    record = json.dumps({"format": FORMAT, **about}, sort_keys=True)
    save_file(contiguous, unfinished, metadata={KEY: record})
    unfinished.chmod(permissions)
    os.replace(unfinished, path)


def load_tensors(
    path: Path, names: Collection[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Args:
        path: the file.
        names: names of the tensors to read; all if None.

    Returns:
        The tensors and the record.

    Raises:
        InputError: there is no such file, or it is not a file of sparsem.
    """
    if not path.is_file():
        raise InputError(f"There is no model file {path}; {HOW_TO_MAKE}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            stored = file.keys()  # the handle itself cannot be iterated over
            requested = [name for name in stored if names is None or name in names]
            tensors = {name: file.get_tensor(name) for name in requested}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path.name} is not a sparsem model, or is damaged ({type(error).__name__}); "
            f"{HOW_TO_MAKE}."
        ) from None
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise InputError(
            f"{path.name} was written by another version of sparsem; expected format {FORMAT}."
        )
    return tensors, about


def file_digest(path: Path) -> str:
    """Return a hash of the content of a model file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network by name.

    A tensor that several parts share, and that has several names, is under the first of them.
    """
    first_names: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        first_names.setdefault(id(tensor), name)
    names = set(first_names.values())
    return {name: tensor for name, tensor in network.state_dict().items() if name in names}


def load_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load into a network what ``network_state`` returned for a network of the same kind.

    Raises:
        RuntimeError: a tensor is missing, is unknown, or has another shape.
    """
    missing_names, unknown = network.load_state_dict(tensors, strict=False)
    # A shared tensor is not missing under its other names.
    missing = sorted(set(missing_names) & set(network_state(network)))
    if missing or unknown:
        problems = []
        if missing:
            problems.append(f"the tensor {missing[0]} is missing")
        if unknown:
            problems.append(f"the tensor {unknown[0]} is unknown")
        raise RuntimeError(" and ".join(problems))


def build_with_weights(path: Path, build: Callable[[], N], tensors: Mapping[str, Tensor]) -> N:
    """Return a network with its weights, in evaluation mode on the CPU.

    Args:
        path: path of the file, for error messages.
        build: builds the network of the file's recipe.
        tensors: the tensors of the file.

    Raises:
        InputError: there is no such network, or the weights do not fit or are not finite.
    """
    try:
        network = build()
        load_state(network, tensors)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("it holds weights that are not numbers")
    except DAMAGE_ERRORS as error:
        raise InputError(f"{path.name} is damaged: {str(error).splitlines()[0]}") from None
    network.eval()
    return network


def save_checkpoint(path: Path, network: nn.Module, recipe: Recipe) -> None:
    """Write a network and its recipe to ``path`` in one step."""
    save_tensors(path, network_state(network), asdict(recipe))


def load_checkpoint(path: Path) -> tuple[nn.Module, Recipe]:
    """Read a network, in evaluation mode on the CPU, and its recipe.

    Raises:
        InputError: there is no such file, it is not a checkpoint of sparsem, or the weights do not
            fit the recipe.
    """
    tensors, about = load_tensors(path)
    recipe = _parse_recipe(path, about)
    return build_with_weights(path, recipe.build, tensors), recipe


def read_recipe(path: Path) -> Recipe:
    """Read the recipe only; no weights are read.

    Raises:
        InputError: there is no such file, or it is not a checkpoint of sparsem.
    """
    _, about = load_tensors(path, names=())
    return _parse_recipe(path, about)


def _parse_recipe(path: Path, about: dict[str, Any]) -> Recipe:
    """Return the recipe of a segmentation network.

    Raises:
        InputError: the file holds a detector, or is damaged.
    """
    if "detector" in about:
        raise InputError(
            f"{path.name} predicts boxes and not pixels; use it with 'sparsem detect predict'."
        )
    try:
        return _validated_recipe(about)
    except DAMAGE_ERRORS as error:
        raise InputError(f"{path.name} is damaged: {str(error).splitlines()[0]}") from None


def _validated_recipe(about: dict[str, Any]) -> Recipe:
    """Return a recipe from the record of a file, which may hold anything.

    Raises:
        ValueError: a value is out of range; other errors of ``DAMAGE_ERRORS`` as they come.
    """
    structures = tuple(about["structures"])
    pixel_nm = tuple(about["pixel_nm"])
    ranges = {layer: (low, high) for layer, (low, high) in about.get("ranges", {}).items()}
    recipe = Recipe(**{**about, "structures": structures, "pixel_nm": pixel_nm, "ranges": ranges})
    y, x = recipe.pixel_nm
    positive = [*VoxelSize.of((1, y, x)), float(recipe.std), float(recipe.width)]
    positive.append(float(recipe.input_px))
    limits = [limit for pair in ranges.values() for limit in pair]
    is_finite = all(map(math.isfinite, [*positive, recipe.mean, *limits]))
    if not recipe.structures or not is_finite or min(positive) <= 0 or recipe.adjacent_slices < 0:
        raise ValueError("a value of its recipe is out of range")
    for structure in recipe.structures:
        checked_name(structure)  # it becomes the name of a folder
    dict(recipe.training)
    return recipe
