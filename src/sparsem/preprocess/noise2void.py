"""Noise2Void (Krull et al. 2019): a network learns to tell a pixel from those around it, which know nothing of its noise.

Network, masked pixels and loss are CAREamics' (``pip install sparsem[denoise]``), its U-Net of depth 2 in the version that leaves no
checkerboard (N2V2, Hoeck et al. 2022), patches of 64 px.
What is ours: patches come from any array, a piece of a training goes on where the last one ended, to the bit on one machine, and a slice of
any size is denoised in tiles with the numbers of the whole. Slices are (y, x) uint8 or uint16; black, 0, is what no microscope has seen.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import nn

from sparsem.errors import InputError
from sparsem.image.black_areas import black_areas
from sparsem.models.device import Precision, autocast, keep_freed_memory

PATCH_PX = 64
MASKED = 1.5  # percent of a patch's pixels that are masked, as in the paper
TILE_PX, HALO_PX = (
    480,
    32,
)  # of what is denoised at once; a pixel's value depends on none farther off than the halo
STRIDE = 4  # px: the network halves a slice twice, so that tiles begin at multiples of it
RISE = 0.05  # part of the updates over which the learning rate rises; then it falls to nothing as a cosine

Patches = Callable[[np.random.Generator, int], NDArray[np.float32]]
State = Mapping[str, NDArray[np.uint8]]


def refuse_without_careamics() -> None:
    """Noise2Void is an extra.

    Raises:
        InputError: CAREamics is not installed.
    """
    if importlib.util.find_spec("careamics") is None:
        raise InputError(
            "Noise2Void needs CAREamics, which is not installed: pip install 'sparsem[denoise]'; or use --method nlm."
        )


def refuse_small(shape: Sequence[int]) -> None:
    """Slices must hold a patch.

    Raises:
        InputError: they do not.
    """
    if min(shape[-2:]) < PATCH_PX:
        size = " x ".join(map(str, shape[-2:]))
        raise InputError(
            f"Noise2Void learns from patches of {PATCH_PX} px, but slices have {size} px; use --method nlm."
        )


def new_network() -> nn.Module:
    """CAREamics' U-Net for Noise2Void, with random weights: (B, 1, y, x) in, the same out; y and x multiples of 4."""
    from careamics.config.architectures import UNetConfig
    from careamics.models.unet import UNet

    network = UNet(**UNetConfig(architecture="UNet", n2v2=True).model_dump())
    network.final_conv = InFull(network.final_conv)
    return network


class InFull(nn.Module):
    """A layer that computes in single precision whatever those before it do: a rounded answer would lose gray levels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shapes as the layer's."""
        with torch.autocast(x.device.type, enabled=False):
            found: torch.Tensor = self.layer(x.float())
        return found


def patches_of(boxes: Sequence[NDArray[Any]]) -> Patches:
    """Patches (B, 64, 64) float32 at random from boxes (z, y, x), turned and mirrored; mostly black ones only where nothing else is found.

    Raises:
        InputError: a box is smaller than a patch.
    """
    for box in boxes:
        refuse_small(box.shape)
    weights = np.array([box.size for box in boxes], np.float64)

    def draw(random: np.random.Generator, count: int) -> NDArray[np.float32]:
        return np.stack([_seen_patch(random, boxes, weights / weights.sum()) for _ in range(count)])

    return draw


def _seen_patch(
    random: np.random.Generator, boxes: Sequence[NDArray[Any]], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    for _ in range(8):
        box = boxes[random.choice(len(boxes), p=weights)]
        z, y, x = (
            random.integers(length - size + 1)
            for length, size in zip(box.shape, (1, PATCH_PX, PATCH_PX), strict=True)
        )
        patch = box[z, y : y + PATCH_PX, x : x + PATCH_PX]
        if np.count_nonzero(patch) > 0.9 * patch.size:
            break
    turned = np.rot90(patch, int(random.integers(4)))
    return np.asarray(turned[:, ::-1] if random.integers(2) else turned, np.float32)


@dataclass(frozen=True)
class Course:
    """How a network learns.

    Attributes:
        updates: of the whole training.
        batch: patches an update.
        rate: the highest learning rate, of Adam.
        seed: of weights, patches and masked pixels.
        device: where it is computed.
        precision: and how precisely.
    """

    updates: int
    batch: int
    rate: float
    seed: int
    device: torch.device
    precision: Precision = "auto"


def learn(
    patches: Patches, before: State | None, updates: range, course: Course
) -> tuple[dict[str, NDArray[np.uint8]], float]:
    """A piece of a training.

    Args:
        patches: where they come from.
        before: what the piece before returned; None at the beginning.
        updates: which of the training's updates are done now.
        course: how.

    Returns:
        ``network`` (see ``load_network``) and ``adam``, both safetensors as bytes, and the mean loss, 1 for nothing learnt.
    """
    from careamics.config.algorithms.n2v_manipulation import N2VManipulateConfig
    from careamics.lightning.modules.n2v_utils import N2VManipulate
    from careamics.losses.n2v_losses import n2v_loss

    keep_freed_memory()
    random = np.random.default_rng([course.seed, updates.start])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        network = new_network()
    levels = (
        _levels(patches, random)
        if before is None
        else load(before["network"].tobytes())["levels"].numpy()
    )
    # So laid out it learns in three quarters of the time on a CPU.
    network = network.to(course.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), course.rate)
    if before is not None:
        _restore(network, optimizer, before)
    masking = N2VManipulateConfig(
        seed=1 + course.seed + updates.start, masked_pixel_percentage=MASKED, strategy="median"
    )
    mask = N2VManipulate(masking, device=str(course.device))
    losses = []
    for update in updates:
        for group in optimizer.param_groups:
            group["lr"] = course.rate * _part_of_rate(update, course.updates)
        gray = (patches(random, course.batch)[:, None] - levels[0]) / levels[1]
        masked, original, which = mask(torch.from_numpy(gray).to(course.device))
        with autocast(course.device, course.precision):
            found = network(masked)
        loss = n2v_loss(found, original, which)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return _kept(network, optimizer, levels), float(torch.stack(losses).mean())


def _levels(patches: Patches, random: np.random.Generator) -> NDArray[np.float32]:
    """Mean and standard deviation of the gray levels."""
    some = patches(random, 256)
    return np.array(
        [some.mean(dtype=np.float64), max(float(some.std(dtype=np.float64)), 1e-3)], np.float32
    )


def _part_of_rate(update: int, of: int) -> float:
    rise = max(1.0, RISE * of)
    return min(
        (update + 1) / rise,
        0.5 + 0.5 * math.cos(math.pi * max(0.0, update + 1 - rise) / max(1.0, of - rise)),
    )


def _kept(
    network: nn.Module, optimizer: torch.optim.Optimizer, levels: NDArray[np.float32]
) -> dict[str, NDArray[np.uint8]]:
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    moments = {
        f"{place}.{name}": value.detach().cpu().contiguous()
        for place, one in optimizer.state_dict()["state"].items()
        for name, value in one.items()
    }
    packed = {
        "network": save({**weights, "levels": torch.from_numpy(levels)}),
        "adam": save(moments),
    }
    return {name: np.frombuffer(content, np.uint8) for name, content in packed.items()}


def _restore(network: nn.Module, optimizer: torch.optim.Optimizer, before: State) -> None:
    weights = load(before["network"].tobytes())
    network.load_state_dict({name: value for name, value in weights.items() if name != "levels"})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load(before["adam"].tobytes()).items():
        place, _, what = name.partition(".")
        moments.setdefault(int(place), {})[what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def load_network(
    content: NDArray[np.uint8], device: torch.device
) -> tuple[nn.Module, tuple[float, float]]:
    """The network of a training (see ``learn``), ready to denoise, with mean and standard deviation of what it learnt from."""
    weights = load(content.tobytes())
    mean, spread = (float(value) for value in weights.pop("levels"))
    network = new_network()
    network.load_state_dict(weights)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return network, (mean, spread)


def denoised(
    image: NDArray[Any],
    network: nn.Module,
    levels: tuple[float, float],
    device: torch.device,
    precision: Precision = "auto",
) -> NDArray[Any]:
    """A slice without its noise, (y, x) of its own type; what is black stays black, and nothing else becomes it.

    Tiles overlap by what the network sees around a pixel, so that the numbers are those of the whole slice at once.
    """
    top = np.iinfo(image.dtype).max
    out = np.zeros_like(image)
    padded = np.pad(
        image, [(HALO_PX, HALO_PX + -length % STRIDE) for length in image.shape], mode="symmetric"
    )
    for y in range(0, image.shape[0], TILE_PX):
        for x in range(0, image.shape[1], TILE_PX):
            tile = padded[y : y + TILE_PX + 2 * HALO_PX, x : x + TILE_PX + 2 * HALO_PX]
            gray = (torch.from_numpy(tile.astype(np.float32)) - levels[0]) / levels[1]
            with torch.inference_mode(), autocast(device, precision):
                found = network(gray[None, None].to(device))[0, 0].cpu().numpy()
            place = out[y : y + TILE_PX, x : x + TILE_PX]
            inner = found[HALO_PX : HALO_PX + place.shape[0], HALO_PX : HALO_PX + place.shape[1]]
            place[...] = np.clip(np.round(inner * levels[1] + levels[0]), 1, top)
    out[black_areas(image)] = 0
    return out
