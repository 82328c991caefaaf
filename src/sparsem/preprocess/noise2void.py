"""Noise2Void (Krull et al. 2019): a network is trained to predict a pixel from those around it.

These contain no information about the noise of the pixel, so that the prediction is free of it.
Network, masked pixels and loss are those of CAREamics (``pip install sparsem[denoise]``): its U-Net
of depth 2 in the version that leaves no checkerboard pattern (N2V2, Hoeck et al. 2022), patches of
64 px. Added here: patches come from any array; a part of a training continues where the last one
ended, to the bit on one machine; and a slice of any size is denoised in tiles with the same numbers
as the whole slice. Slices are (y, x) uint8 or uint16; black, 0, is what the microscope did not
image.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import nn

from sparsem.errors import InputError
from sparsem.image.black_areas import black_areas
from sparsem.models.device import autocast, keep_freed_memory
from sparsem.settings import Precision

PATCH_PX = 64
MASKED_PERCENT = 1.5  # of the pixels of a patch, as in the paper
TILE_PX = 480  # edge of what is denoised at once
HALO_PX = 32  # around a tile; the value of a pixel depends on no pixel farther away
STRIDE = 4  # px: the network halves a slice twice, so that tiles begin at multiples of it
# Fraction of the updates over which the learning rate rises; then it falls to zero as a cosine.
WARMUP_FRACTION = 0.05
PATCHES_FOR_LEVELS = 256  # of which the mean and standard deviation of gray levels are measured
MAX_DRAWS = 8  # of a patch that is not mostly black
MIN_IMAGED_FRACTION = 0.9  # of a patch, unless none is found in so many draws

Patches = Callable[[np.random.Generator, int], NDArray[np.float32]]
State = Mapping[str, NDArray[np.uint8]]


def require_careamics() -> None:
    """Check that CAREamics, an optional dependency, is installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("careamics") is None:
        raise InputError(
            'Noise2Void needs CAREamics, which is not installed: pip install "sparsem[denoise]"; '
            "or use --method nlm."
        )


def require_patch_size(shape: Sequence[int]) -> None:
    """Check that slices are at least as large as a patch.

    Args:
        shape: (..., y, x).

    Raises:
        InputError: they are smaller.
    """
    if min(shape[-2:]) < PATCH_PX:
        size = " x ".join(map(str, shape[-2:]))
        raise InputError(
            f"Noise2Void is trained on patches of {PATCH_PX} px, but slices have {size} px; "
            "use --method nlm."
        )


def new_network() -> nn.Module:
    """Return CAREamics' U-Net for Noise2Void with random weights.

    It maps (B, 1, y, x) to the same shape; y and x are multiples of 4.
    """
    from careamics.config.architectures import UNetConfig
    from careamics.models.unet import UNet

    network = UNet(**UNetConfig(architecture="UNet", n2v2=True).model_dump())
    network.final_conv = FullPrecision(network.final_conv)
    return network


class FullPrecision(nn.Module):
    """A layer that computes in single precision, whatever the layers before it do.

    A rounded output would lose gray levels.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer; shapes are those of the layer."""
        with torch.autocast(x.device.type, enabled=False):
            output: torch.Tensor = self.layer(x.float())
        return output


def patch_sampler(boxes: Sequence[NDArray[Any]]) -> Patches:
    """Return a function that draws patches at random from boxes of an image.

    Patches are rotated and mirrored at random. Patches that are mostly black are returned only
    where several draws find no other.

    Args:
        boxes: (z, y, x) each.

    Returns:
        A function of a random generator and a number, which returns patches (B, 64, 64) float32.

    Raises:
        InputError: a box is smaller than a patch.
    """
    for box in boxes:
        require_patch_size(box.shape)
    sizes = np.array([box.size for box in boxes], np.float64)

    def draw(random: np.random.Generator, count: int) -> NDArray[np.float32]:
        return np.stack([_draw_patch(random, boxes, sizes / sizes.sum()) for _ in range(count)])

    return draw


def _draw_patch(
    random: np.random.Generator, boxes: Sequence[NDArray[Any]], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return one patch (64, 64) float32."""
    for _ in range(MAX_DRAWS):
        box = boxes[random.choice(len(boxes), p=weights)]
        patch = _random_crop(random, box)
        if np.count_nonzero(patch) > MIN_IMAGED_FRACTION * patch.size:
            break
    rotated = np.rot90(patch, int(random.integers(4)))
    return np.asarray(rotated[:, ::-1] if random.integers(2) else rotated, np.float32)


def _random_crop(random: np.random.Generator, box: NDArray[Any]) -> NDArray[Any]:
    """Return a patch (64, 64) at a random position of a box; z is drawn first, then y and x."""
    depth, height, width = box.shape
    z = random.integers(depth)
    y = random.integers(height - PATCH_PX + 1)
    x = random.integers(width - PATCH_PX + 1)
    return box[z, y : y + PATCH_PX, x : x + PATCH_PX]


@dataclass(frozen=True)
class DenoiserTraining:
    """Parameters of the training of a network.

    Attributes:
        updates: of the whole training.
        batch: patches for each update.
        learning_rate: the highest one, of Adam.
        seed: of weights, patches and masked pixels.
        device: on which it is computed.
        precision: with which it is computed.
    """

    updates: int
    batch: int
    learning_rate: float
    seed: int
    device: torch.device
    precision: Precision = "auto"


def train_part(
    patches: Patches, previous: State | None, updates: range, training: DenoiserTraining
) -> tuple[dict[str, NDArray[np.uint8]], float]:
    """Compute one part of a training.

    Args:
        patches: a function that draws them.
        previous: the state that the part before returned; None at the beginning.
        updates: numbers of the updates of this part.
        training: parameters of the whole training.

    Returns:
        The state, that is ``network`` (see ``load_network``) and ``adam``, both safetensors as
        bytes; and the mean loss, which is 1 for an untrained network.
    """
    keep_freed_memory()
    random = np.random.default_rng([training.seed, updates.start])
    network = _seeded_network(training.seed)
    levels = _measure_levels(patches, random) if previous is None else _stored_levels(previous)
    # With channels last, the training takes three quarters of the time on a CPU.
    network = _channels_last(network, training.device).train()
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
    if previous is not None:
        _restore_state(network, optimizer, previous)
    mask_pixels = _pixel_masking(training, updates.start)
    losses = []
    for update in updates:
        rate_factor = _rate_factor(update, training.updates)
        _set_learning_rate(optimizer, training.learning_rate * rate_factor)
        gray = (patches(random, training.batch)[:, None] - levels[0]) / levels[1]
        batch = mask_pixels(torch.from_numpy(gray).to(training.device))
        losses.append(_update_weights(network, optimizer, batch, training))
    return _pack_state(network, optimizer, levels), float(torch.stack(losses).mean())


def _seeded_network(seed: int) -> nn.Module:
    """Return a new network whose random weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_network()


def _pixel_masking(training: DenoiserTraining, first_update: int) -> Any:
    """Return CAREamics' function that masks pixels of a batch, from this update on."""
    from careamics.config.algorithms.n2v_manipulation import N2VManipulateConfig
    from careamics.lightning.modules.n2v_utils import N2VManipulate

    config = N2VManipulateConfig(
        seed=1 + training.seed + first_update,
        masked_pixel_percentage=MASKED_PERCENT,
        strategy="median",
    )
    return N2VManipulate(config, device=str(training.device))


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _update_weights(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[torch.Tensor],
    training: DenoiserTraining,
) -> torch.Tensor:
    """Update the weights once, by a batch of masked patches, original patches and masks.

    Return the loss before the update.
    """
    from careamics.losses.n2v_losses import n2v_loss

    masked, original, mask = batch
    with autocast(training.device, training.precision):
        predicted = network(masked)
    loss: torch.Tensor = n2v_loss(predicted, original, mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network on a device, with its weights in the order of channels last."""
    layout = torch.channels_last
    return network.to(device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def _measure_levels(patches: Patches, random: np.random.Generator) -> NDArray[np.float32]:
    """Return mean and standard deviation of the gray levels, (2,)."""
    sample = patches(random, PATCHES_FOR_LEVELS)
    mean = sample.mean(dtype=np.float64)
    deviation = max(float(sample.std(dtype=np.float64)), 1e-3)
    return np.array([mean, deviation], np.float32)


def _stored_levels(state: State) -> NDArray[np.float32]:
    """Return the levels that ``_measure_levels`` returned at the beginning of the training."""
    levels: NDArray[np.float32] = load(state["network"].tobytes())["levels"].numpy()
    return levels


def _rate_factor(update: int, updates: int) -> float:
    """Return the learning rate of an update as a fraction of the highest one."""
    warmup = max(1.0, WARMUP_FRACTION * updates)
    decay_updates = max(1.0, updates - warmup)
    decay_angle = math.pi * max(0.0, update + 1 - warmup) / decay_updates
    return min((update + 1) / warmup, 0.5 + 0.5 * math.cos(decay_angle))


def _pack_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, levels: NDArray[np.float32]
) -> dict[str, NDArray[np.uint8]]:
    """Return network and optimizer as bytes."""
    weights = {name: _on_cpu(value) for name, value in network.state_dict().items()}
    weights["levels"] = torch.from_numpy(levels)
    moments = {}
    for parameter, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            moments[f"{parameter}.{name}"] = _on_cpu(value)
    return {
        "network": np.frombuffer(save(weights), np.uint8),
        "adam": np.frombuffer(save(moments), np.uint8),
    }


def _on_cpu(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor as it can be saved: on the CPU, contiguous, without its gradient."""
    return value.detach().cpu().contiguous()


def _restore_state(network: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load what ``_pack_state`` returned."""
    weights = load(state["network"].tobytes())
    del weights["levels"]
    network.load_state_dict(weights)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load(state["adam"].tobytes()).items():
        parameter, _, name = key.partition(".")
        moments.setdefault(int(parameter), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def load_network(
    content: NDArray[np.uint8], device: torch.device
) -> tuple[nn.Module, tuple[float, float]]:
    """Return the network of a training, ready to denoise.

    Args:
        content: ``network`` of the state (see ``train_part``).
        device: on which it is to compute.

    Returns:
        The network, and mean and standard deviation of the gray levels that it was trained on.
    """
    weights = load(content.tobytes())
    mean, deviation = (float(value) for value in weights.pop("levels"))
    network = new_network()
    network.load_state_dict(weights)
    return _channels_last(network, device).eval(), (mean, deviation)


def denoise_slice(
    image: NDArray[Any],
    network: nn.Module,
    levels: tuple[float, float],
    device: torch.device,
    precision: Precision = "auto",
) -> NDArray[Any]:
    """Return a slice without its noise, (y, x) of the same type.

    Black areas stay black, and no other pixel becomes black. Tiles overlap by the distance from
    which the network uses pixels, so that the numbers are those of the whole slice at once.

    Args:
        image: (y, x) uint8 or uint16.
        network: see ``load_network``.
        levels: mean and standard deviation of the gray levels that it was trained on.
        device: on which the network computes.
        precision: with which it computes.
    """
    denoised = np.zeros_like(image)
    padding = [(HALO_PX, HALO_PX + -length % STRIDE) for length in image.shape]
    padded = np.pad(image, padding, mode="symmetric")
    padded_edge = TILE_PX + 2 * HALO_PX
    mean, deviation = levels
    for y, x in _tile_corners(image.shape):
        tile = padded[y : y + padded_edge, x : x + padded_edge]
        gray = (torch.from_numpy(tile.astype(np.float32)) - mean) / deviation
        predicted = _predict(gray, network, device, precision)
        target = denoised[y : y + TILE_PX, x : x + TILE_PX]
        height, width = target.shape
        inner = predicted[HALO_PX : HALO_PX + height, HALO_PX : HALO_PX + width]
        _round_into(target, inner * deviation + mean)
    denoised[black_areas(image)] = 0
    return denoised


def _tile_corners(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the corner (y, x) of every tile of a slice."""
    height, width = shape
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            yield y, x


def _predict(
    gray: torch.Tensor, network: nn.Module, device: torch.device, precision: Precision
) -> NDArray[np.float32]:
    """Return what the network predicts of a tile (y, x) of standardized gray levels."""
    with torch.inference_mode(), autocast(device, precision):
        predicted = network(gray[None, None].to(device))
    return np.asarray(predicted[0, 0].cpu().numpy())


def _round_into(target: NDArray[Any], gray: NDArray[np.float32]) -> None:
    """Write rounded gray levels into a part of a slice; none becomes black."""
    top = np.iinfo(target.dtype).max
    target[...] = np.clip(np.round(gray), 1, top)
