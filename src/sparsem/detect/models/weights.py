"""Initial weights of detectors: tensors from files, and nothing else that is in them."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth")


def hash_weights(path: Path) -> str:
    """Return a hash of a file, or of all files of weights in a folder."""
    files = [path]
    if not path.is_file():
        files = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_ENDINGS)
    content = hashlib.blake2b(digest_size=16)
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors, .pth or .bin file; no code in it is run.

    Raises:
        ValueError: the file holds anything but the weights of one network.
        OSError: the file is missing.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    if not file.exists():
        raise FileNotFoundError(f"there is no {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # For files with anything but tensors, torch raises errors of almost any class.
    except Exception as error:
        raise ValueError(f"{file.name} holds no weights ({type(error).__name__})") from None
    is_state = isinstance(state, dict) and all(
        isinstance(value, Tensor) for value in state.values()
    )
    if not is_state:
        raise ValueError("it holds something else than the weights of one network")
    return dict(state)


def load_except(network: nn.Module, state: dict[str, Tensor], *new: str) -> None:
    """Load weights into a network, except those of layers that are trained anew.

    Args:
        network: changed in place.
        state: weights by name.
        new: beginnings of names. Weights of the first are never loaded, those of the others only
            where their shape fits.

    Raises:
        ValueError: other weights are missing, or have another shape.
    """
    own_state = network.state_dict()
    fitting = _fitting_weights(own_state, state, new[0])
    required = [
        name
        for name in own_state
        if not name.startswith(new) and not name.endswith("num_batches_tracked")
    ]
    missing = [name for name in required if name not in fitting]
    if missing:
        raise ValueError(
            f"they lack {missing[0]} and {len(missing) - 1} more, or have them in another shape"
        )
    network.load_state_dict(fitting, strict=False)


def _fitting_weights(
    own_state: dict[str, Tensor], state: dict[str, Tensor], never: str
) -> dict[str, Tensor]:
    """Return the weights that a network has in the same shape; those of ``never`` are left out."""
    fitting = {}
    for name, value in state.items():
        is_known = name in own_state and value.shape == own_state[name].shape
        if is_known and not name.startswith(never):
            fitting[name] = value
    return fitting
