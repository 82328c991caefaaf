"""A checkpoint: one .safetensors file that holds the weights and all that is needed to use them. No pickle anywhere."""

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
from sparsem.store.names import checked_name

N = TypeVar("N", bound=nn.Module)

FORMAT = 1
MADE_BY = "'sparsem train' and 'sparsem detect train' make one"
DAMAGE_ERRORS = (TypeError, KeyError, ValueError, AttributeError, RuntimeError, SparsemError)
KEY = "sparsem"  # one metadata key: safetensors writes several in an order that changes from run to run


@dataclass(frozen=True)
class Recipe:
    """How to use a network.

    Attributes:
        architecture: name in ARCHITECTURES.
        width: feature maps of its first level.
        structures: what each output channel is.
        input_px: edge of the tiles that it sees, px.
        pixel_nm: (y, x) nm of a pixel at the network's scale.
        mean: of the training slices' gray levels, in 0..1 of their range.
        std: of them.
        adjacent_slices: slices above and below that it sees beside the one that it segments.
        training: settings, samples and slices that it was trained with, and the scores that it reached.
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

    def factors(self, voxel: VoxelSize) -> tuple[float, float]:
        """Slice pixels per network pixel (y, x), so that the network sees the nm per pixel that it learnt."""
        return self.pixel_nm[0] / voxel.y, self.pixel_nm[1] / voxel.x

    def build(self) -> nn.Module:
        """The network with random weights."""
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
    unfinished.touch()  # with the rights of any new file: the library would let its owner alone read it
    rights = unfinished.stat().st_mode
    save_file(
        contiguous,
        unfinished,
        metadata={KEY: json.dumps({"format": FORMAT, **about}, sort_keys=True)},
    )
    unfinished.chmod(rights)
    os.replace(unfinished, path)


def load_tensors(
    path: Path, names: Collection[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: the tensors, or only those named, and the record.

    Raises:
        InputError: no such file, or not one of ours.
    """
    if not path.is_file():
        raise InputError(f"There is no model file {path}; {MADE_BY}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            stored = file.keys()  # the handle itself cannot be iterated over
            wanted = [name for name in stored if names is None or name in names]
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path.name} is not a sparsem model, or is damaged ({type(error).__name__}); {MADE_BY}."
        ) from None
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise InputError(
            f"{path.name} was written by another version of sparsem; expected format {FORMAT}."
        )
    return tensors, about


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network by name; one that has several names, because parts share it, comes under the first."""
    first: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    names = set(first.values())
    return {name: tensor for name, tensor in network.state_dict().items() if name in names}


def load_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``network_state`` told of a network of the same kind.

    Raises:
        RuntimeError: a tensor is missing, is not known, or has another shape.
    """
    lost, unknown = network.load_state_dict(tensors, strict=False)
    missing = sorted(set(lost) & set(network_state(network)))
    if missing or unknown:
        raise RuntimeError(
            f"it lacks {', '.join(missing[:1]) or 'nothing'}, and has {', '.join(unknown[:1]) or 'nothing'} that is not known"
        )


def build_with_weights(path: Path, build: Callable[[], N], tensors: Mapping[str, Tensor]) -> N:
    """A network with its weights, in evaluation mode on the CPU.

    Args:
        path: of the file, as faults are told.
        build: the network that the file's recipe tells of.
        tensors: of the file.

    Raises:
        InputError: there is no such network, or the weights do not fit it or are no numbers.
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
    """A network in evaluation mode on the CPU, and its recipe.

    Raises:
        InputError: no such file, not one of ours, or its weights do not fit its recipe.
    """
    tensors, about = load_tensors(path)
    recipe = _checked(path, about)
    return build_with_weights(path, recipe.build, tensors), recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe alone; no weights are read.

    Raises:
        InputError: no such file, or not one of ours.
    """
    return _checked(path, load_tensors(path, names=())[1])


def _checked(path: Path, about: dict[str, Any]) -> Recipe:
    """The recipe of a network for pixels; another kind of file that is ours is told as such."""
    if "detector" in about:
        raise InputError(
            f"{path.name} finds boxes and not pixels; use it with 'sparsem detect predict'."
        )
    try:
        return _recipe(about)
    except DAMAGE_ERRORS as error:
        raise InputError(f"{path.name} is damaged: {str(error).splitlines()[0]}") from None


def _recipe(about: dict[str, Any]) -> Recipe:
    """A recipe from what a file says of itself, which may be anything."""
    recipe = Recipe(
        **{**about, "structures": tuple(about["structures"]), "pixel_nm": tuple(about["pixel_nm"])}
    )
    y, x = recipe.pixel_nm
    sizes = [
        *VoxelSize.of((1, y, x)),
        float(recipe.std),
        float(recipe.width),
        float(recipe.input_px),
    ]
    if (
        not recipe.structures
        or not all(map(math.isfinite, [*sizes, recipe.mean]))
        or min(sizes) <= 0
        or recipe.adjacent_slices < 0
    ):
        raise ValueError("its recipe makes no sense")
    for structure in recipe.structures:
        checked_name(structure)  # it becomes a folder
    dict(recipe.training)
    return recipe
