"""The stage ``denoise``: an image without its noise, by a network that learns on the sample itself, or without learning.

Slices are (y, x) uint8 or uint16; black, 0, is what no microscope has seen, and stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.geometry import ZBlock
from sparsem.models.device import Precision, choose_device, free_memory, resolve_precision
from sparsem.preprocess.noise2void import (
    Course,
    denoised,
    learn,
    load_network,
    patches_of,
    refuse_small,
    refuse_without_careamics,
)
from sparsem.preprocess.nonlocal_means import smoothed
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import CHUNK_YX, Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, BlockResult, Stage, earlier_setting, link_arrays

PIECE = 25  # updates between two saved states, and two signs of progress
BOXES = 8  # of the image, as large as its chunks usually are, that the patches of a piece come from
BOX = (16, CHUNK_YX, CHUNK_YX)
LIBRARIES = (
    1_500_000_000  # bytes: torch, CAREamics, a batch or a tile on its way through the network
)
ON_GPU = 1_000_000_000  # bytes: the same without the libraries
SMOOTHING = 60  # bytes a pixel of a slice that is smoothed without learning

Way = Literal["n2v", "nlm"]


class DenoiseSettings(Settings):
    """How noise is taken away."""

    method: Way = Field(
        "n2v",
        description="n2v: Noise2Void, a network that learns on the sample itself; nlm: non-local means, no learning",
    )
    updates: int = Field(1000, ge=1, description="n2v: weight updates")
    batch: int = Field(16, ge=1, description="n2v: patches an update")
    learning_rate: float = Field(1e-3, gt=0, description="n2v: of Adam, at its highest")
    seed: int = Field(0, ge=0, lt=2**31, description="n2v: of weights, patches and masked pixels")
    strength: float = Field(
        0.7,
        gt=0,
        description="nlm: patches so alike, in standard deviations of the noise, are taken for the same",
    )
    precision: Precision = Field(
        "auto", description="n2v: auto: bfloat16 where the processor computes it fast"
    )
    device: str = Field("auto", description="n2v: auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to denoise; the newest one if not given")
    out: str = Field("denoised", description="name of the image made")


@dataclass(frozen=True)
class Piece:
    """Updates of a training that are done together, and the boxes (z, y, x) of the image that they learn from."""

    updates: range
    boxes: tuple[tuple[slice, slice, slice], ...]


def denoise(
    sample: Sample, settings: DenoiseSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> str:
    """Write ``images/OUT``: the image without its noise. Coordinates stay: annotations made on the image hold for it.

    Noise2Void learns piece by piece from chunks of the image, and a piece that is done is not done again; then every block is denoised.

    Args:
        sample: its image is read block by block.
        settings: in which way.
        on: how the work is spread; a training goes on in this process, or on one worker of a scheduler.

    Returns:
        The name of the image.

    Raises:
        InputError: CAREamics is not installed, or slices are smaller than a patch.
        ResumeError: it was denoised otherwise, and ``on.overwrite`` is not set.
        SettingsError: there is no such device.
    """
    settings = resolve_settings(DenoiseSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image)
    image = sample.image(name)
    learns = settings.method == "n2v"
    if learns:
        refuse_without_careamics()
        refuse_small(image.shape)
    spec = image.like(f"images/{settings.out}", image.dtype, Kind.IMAGE, (name, image.fingerprint))
    plane = image.shape[1] * image.shape[2]
    ram = 3 * plane * image.dtype.itemsize * image.block_depth + (
        LIBRARIES if learns else SMOOTHING * plane
    )
    device = choose_device(settings.device) if learns else None
    if device:
        earlier = earlier_setting(sample, f"denoise-{settings.out}", "precision", on.overwrite)
        settings = changed(
            settings, {"precision": resolve_precision(device, settings.precision, earlier)}
        )
    gpu = (
        {"gpu": ON_GPU, "gpu_free": free_memory(device)} if device and device.type == "cuda" else {}
    )
    needs = Needs(
        ram, spec.nbytes, "import with a smaller --block-depth, or use fewer --workers", **gpu
    )
    lasting = _lasting(changed(settings, {"image": name}))
    with Stage(
        sample, f"denoise-{settings.out}", lasting, {"image": image.fingerprint}, [spec], on, needs
    ) as stage:
        pieces = _pieces(image, settings) if learns else []
        folder = stage.chain(
            f"{stage.name}, learning", _learn, {"n2v": pieces}, image, settings, here=True
        )
        network = (folder, len(pieces) - 1) if learns else None
        stage.map(_denoise_block, image.blocks(), image, spec.path, settings, network)
    return settings.out


def _lasting(settings: DenoiseSettings) -> DenoiseSettings:
    """Settings that change the result, as they turn out here; those of the other way are as they would be by themselves."""
    other = {
        "n2v": ("strength",),
        "nlm": ("updates", "batch", "learning_rate", "seed", "precision", "device"),
    }[settings.method]
    device = choose_device(settings.device if settings.method == "n2v" else "cpu")
    return changed(
        settings,
        {"device": device.type} | {key: DenoiseSettings.model_fields[key].default for key in other},
    )


def _pieces(image: Volume, settings: DenoiseSettings) -> list[Piece]:
    """The whole training; boxes are drawn at random, each as large as a chunk."""
    starts = range(0, settings.updates, PIECE)
    return [
        Piece(
            range(start, min(start + PIECE, settings.updates)),
            _boxes(image, np.random.default_rng([settings.seed, start, 1])),
        )
        for start in starts
    ]


def _boxes(image: Volume, random: np.random.Generator) -> tuple[tuple[slice, slice, slice], ...]:
    found = []
    for _ in range(BOXES):
        corners = [
            int(random.integers(-(-length // edge))) * edge
            for length, edge in zip(image.shape, BOX, strict=True)
        ]
        # A chunk at the border may hold less than a patch: what lies before it comes along.
        starts = [
            max(0, min(corner, length - edge))
            for corner, length, edge in zip(corners, image.shape, BOX, strict=True)
        ]
        z, y, x = (slice(start, start + edge) for start, edge in zip(starts, BOX, strict=True))
        found.append((z, y, x))
    return tuple(found)


def _learn(
    piece: Piece,
    before: Mapping[str, NDArray[Any]] | None,
    image: Volume,
    settings: DenoiseSettings,
) -> Arrays:
    patches = patches_of([image.kept(0)[box] for box in piece.boxes])
    state = (
        {name.removeprefix("state-"): array for name, array in before.items()} if before else None
    )
    device = choose_device(settings.device)
    course = Course(
        settings.updates,
        settings.batch,
        settings.learning_rate,
        settings.seed,
        device,
        settings.precision,
    )
    after, loss = learn(patches, state, piece.updates, course)
    kept = {"network": after["network"]} if piece.updates.stop == settings.updates else {}
    return (
        {f"state-{name}": array for name, array in after.items()}
        | kept
        | {"loss": np.array([loss])}
    )


def _denoise_block(
    block: ZBlock,
    image: Volume,
    path: str,
    settings: DenoiseSettings,
    network: tuple[Path, int] | None,
) -> BlockResult:
    slices = image.read(block.own)
    if network is None:
        return {path: np.stack([smoothed(one, settings.strength) for one in slices])}, {}
    device = choose_device(settings.device)
    weights, levels = load_network(
        np.asarray(link_arrays(network[0], "n2v", network[1])["network"][...]), device
    )
    return {
        path: np.stack(
            [denoised(one, weights, levels, device, settings.precision) for one in slices]
        )
    }, {}
