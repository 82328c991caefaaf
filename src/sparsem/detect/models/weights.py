"""Weights that detectors begin with: tensors from files, and nothing else that is in them."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def hash_weights(path: Path) -> str:
    """Of a file, or of all files of weights in a folder."""
    files = (
        [path]
        if path.is_file()
        else sorted(one for one in path.iterdir() if one.suffix in (".safetensors", ".bin", ".pth"))
    )
    content = hashlib.blake2b(digest_size=16)
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pth or .bin file; nothing else in it is run.

    Raises:
        ValueError: it holds anything but the weights of one network.
        OSError: it is not there.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    if not file.exists():
        raise FileNotFoundError(f"there is no {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # of anything but tensors, and of files that are none, it raises almost anything
        raise ValueError(f"{file.name} holds no weights ({type(error).__name__})") from None
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError("it holds something else than the weights of one network")
    return dict(state)


def load_except(network: nn.Module, state: dict[str, Tensor], *new: str) -> None:
    """Load all weights but those whose names begin with the first of ``new``, and of the others where their shape fits.

    Raises:
        ValueError: others are missing, or have another shape.
    """
    own = network.state_dict()
    fits = {
        name: value
        for name, value in state.items()
        if name in own and value.shape == own[name].shape and not name.startswith(new[0])
    }
    lost = [
        name
        for name in own
        if name not in fits
        and not name.startswith(new)
        and not name.endswith("num_batches_tracked")
    ]
    if lost:
        raise ValueError(
            f"they lack {lost[0]} and {len(lost) - 1} more, or have them in another shape"
        )
    network.load_state_dict(fits, strict=False)
