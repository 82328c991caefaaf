"""A synthetic tumor volume with exact truth for every stage.

Cells that look alike and touch, nuclei with invaginations, nucleoli with fenestrations, mitochondria, endosomes, lysosomes,
and filopodia that leave the plane and come back as islands; then the faults of a microscope, each with its true value kept.
Any slice can be drawn without any other, so a volume of any size is made in bounded memory and is the same for the same
settings, whatever the block depth.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.phantom.anatomy import plan
from sparsem.phantom.draw import STRUCTURES, Artist, Labels
from sparsem.phantom.noise import SmoothField, generator
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

BEAM_PX = 0.6  # spread of the beam, standard deviation
FAULTY = 0.2  # part of the slices that charge or are out of focus, where that is switched on
JUMP_DIRECTION = np.array([0.8, -0.6])  # (y, x)


class PhantomSettings(Settings):
    """What tissue, and what a microscope does to it. A fault of 0 is switched off."""

    shape: tuple[int, int, int] = Field((48, 512, 512), description="voxels z y x")
    voxel_nm: tuple[float, float, float] = Field((8, 8, 8), description="voxel size z y x in nm")
    cells: int = Field(6, ge=1, description="about how many whole cells lie in the volume")
    seed: int = Field(1, ge=0, lt=2**32, description="same seed, same volume")
    noise: float = Field(9.0, ge=0, description="detector noise, standard deviation in gray levels")
    drift_nm: float = Field(
        2.0, ge=0, description="stage drift from slice to slice, standard deviation in nm"
    )
    flicker: float = Field(
        3.0,
        ge=0,
        description="brightness change from slice to slice, standard deviation in gray levels",
    )
    curtaining: float = Field(
        2.5, ge=0, description="vertical stripes of the ion beam, standard deviation in gray levels"
    )
    charging: float = Field(
        0.0,
        ge=0,
        description="slices that charge: bright and dark patches, standard deviation in gray levels at most",
    )
    defocus: float = Field(
        0.0, ge=0, description="slices out of focus: blur, standard deviation in px at most"
    )
    jump_nm: float = Field(
        0.0, ge=0, description="one jump of the stage, in the middle of the stack, in nm"
    )
    bad_slices: int = Field(
        0, ge=0, description="slices that charge has ruined: nothing of the tissue is left in them"
    )
    block_depth: int = Field(16, ge=1, description="slices a z-block; does not change the volume")

    @field_validator("shape")
    @classmethod
    def _not_empty(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(shape) < 1 or min(shape[1:]) < 32:
            raise ValueError("at least 1 slice of 32 x 32 voxels is needed")
        return shape


class Faults(NamedTuple):
    """The true faults of every slice.

    Attributes:
        drift_nm: (n, 2) by how far the view lies off, (y, x); content moves the other way.
        gain: (n,) contrast.
        offset: (n,) brightness in gray levels.
        bad: (n,) whether nothing of the tissue is left.
        charge: (n,) standard deviation of bright and dark patches, in gray levels; of four slices in five 0.
        blur_px: (n,) standard deviation of the blur of those that are out of focus; of four slices in five 0.
    """

    drift_nm: NDArray[np.float64]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    bad: NDArray[np.bool_]
    charge: NDArray[np.float64]
    blur_px: NDArray[np.float64]


def faults_of(settings: PhantomSettings) -> Faults:
    """Draw the faults of all slices: drift wanders and returns, brightness changes at random and now and then jumps."""
    n = settings.shape[0]
    steps = generator(settings.seed, "drift").normal(0, settings.drift_nm, (n, 2))
    drift = np.zeros((n, 2))
    for z in range(1, n):
        drift[z] = 0.97 * drift[z - 1] + steps[z]
    halves = np.where(np.arange(n) < n // 2, -0.5, 0.5)[:, None]
    drift += settings.jump_nm * halves * JUMP_DIRECTION
    random = generator(settings.seed, "flicker")
    jumps = np.where(random.random(n) < 0.04, 4.0, 1.0)
    offset = random.normal(0, settings.flicker, n) * jumps
    gain = np.exp(random.normal(0, settings.flicker / 150, n))
    bad = np.zeros(n, bool)
    inner = np.arange(
        1, n - 1
    )  # a bad slice at an end has neighbors on one side only, and could as well be cut off
    bad[
        generator(settings.seed, "bad").choice(
            inner, min(settings.bad_slices, len(inner)), replace=False
        )
    ] = True
    charge, blur = (
        _in_some(settings.seed, name, n) * most
        for name, most in (("charging", settings.charging), ("defocus", settings.defocus))
    )
    return Faults(drift, gain, offset, bad, charge, blur)


def _in_some(seed: int, name: str, n: int) -> NDArray[np.float64]:
    """(n,) how strong a fault is in every slice, 0..1: one slice in five has it, on average."""
    random = generator(seed, name)
    return np.where(random.random(n) < FAULTY, random.uniform(0.2, 1, n), 0.0)


def _patches(seed: int, z: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """(y, x) large bright and dark patches of mean 0 and standard deviation 1, as charge leaves them."""
    points = generator(seed, "charge", z).standard_normal((6, 6), np.float32)
    smooth = np.asarray(cv2.resize(points, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


class PhantomSlice(NamedTuple):
    """One imaged slice (y, x) uint8, and the exact labels of everything in it."""

    image: NDArray[np.uint8]
    labels: dict[str, Labels]


@lru_cache(maxsize=2)
def _artist(settings: PhantomSettings) -> tuple[Artist, Faults, SmoothField]:
    faults, voxel = faults_of(settings), VoxelSize.of(settings.voxel_nm)
    size = np.array(settings.shape) * np.array(voxel)
    margin = float(np.abs(faults.drift_nm).max()) + 4 * max(voxel)
    anatomy = plan(settings.seed, size, settings.cells, max(voxel.y, voxel.x))
    artist = Artist(anatomy, settings.seed, (voxel.y, voxel.x), margin)
    stripes = artist.field("curtains", 12 * voxel.z, float(size[1]), 2 * voxel.x)
    return artist, faults, stripes


def phantom_slice(settings: PhantomSettings, z: int) -> PhantomSlice:
    """Slice ``z`` of a phantom: image (y, x) uint8 and labels (y, x) uint32 by structure."""
    artist, faults, stripes = _artist(changed(settings, {"block_depth": 1}))
    voxel = VoxelSize.of(settings.voxel_nm)
    _, rows, columns = settings.shape
    height = (z + 0.5) * voxel.z
    y = (np.arange(rows) + 0.5) * voxel.y + faults.drift_nm[z, 0]
    x = (np.arange(columns) + 0.5) * voxel.x + faults.drift_nm[z, 1]
    drawing = artist.draw(height, y, x)
    beam = math.hypot(BEAM_PX, faults.blur_px[z])
    gray = np.asarray(cv2.GaussianBlur(drawing.gray, (0, 0), beam), np.float32)
    if faults.bad[z]:
        smear = generator(settings.seed, "smear", z).standard_normal(
            (settings.shape[1] // 16 + 2, 2), np.float32
        )
        gray = 150 + 30 * np.asarray(
            cv2.resize(smear, gray.shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32
        )
    if settings.curtaining and not faults.bad[z]:
        gray += np.float32(settings.curtaining) * stripes.at(height, y, x)
    if faults.charge[z]:
        gray += np.float32(faults.charge[z]) * _patches(settings.seed, z, gray.shape)
    gray = (gray - 128) * np.float32(faults.gain[z]) + np.float32(128 + faults.offset[z])
    if settings.noise:
        gray += np.float32(settings.noise) * generator(settings.seed, "noise", z).standard_normal(
            gray.shape, np.float32
        )
    return PhantomSlice(np.clip(np.round(gray), 0, 255).astype(np.uint8), drawing.labels)


def phantom(
    path: str | Path,
    settings: PhantomSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Make a sample with a phantom as its raw image.

    ``truth/NAME`` holds the exact labels of cells, nucleus, nucleolus, mitochondrion, endosome and lysosome (uint32 ids; the
    parts of a cell carry its id, organelles the id of their cell times 1000 plus a number), ``tables/phantom_slices`` the true
    drift, gain, offset, charge and blur of every slice.

    Raises:
        ResumeError: the path holds another sample.
        ResourceError: it does not fit onto the disk.
    """
    settings = resolve_settings(PhantomSettings, settings, changes)
    voxel, depth = VoxelSize.of(settings.voxel_nm), min(settings.block_depth, settings.shape[0])
    raw = volume_spec("", settings.shape, np.uint8, Kind.IMAGE, voxel, depth)
    truth = [
        volume_spec(f"truth/{name}", settings.shape, np.uint32, Kind.LABELS, voxel, depth)
        for name in STRUCTURES
    ]
    pixels = settings.shape[1] * settings.shape[2]
    needs = Needs(
        ram=pixels * (depth * 26 + 160),
        disk=raw.nbytes + truth[0].nbytes // 8,
        smaller="a smaller --block-depth needs less",
    )
    sample = Sample.create(path)
    with Stage(sample, "phantom", settings, {}, [raw, *truth], on, needs) as stage:
        stage.map(_phantom_block, z_blocks(settings.shape[0], depth), settings)
    faults = faults_of(settings)
    columns: dict[str, NDArray[Any]] = {
        "z": np.arange(settings.shape[0]),
        "drift_y_nm": faults.drift_nm[:, 0],
        "drift_x_nm": faults.drift_nm[:, 1],
    }
    columns |= {"gain": faults.gain, "offset_gray": faults.offset, "bad": faults.bad}
    columns |= {"charge_gray": faults.charge, "blur_px": faults.blur_px}
    sample.write_table("phantom_slices", pa.table(columns))
    return sample


def _phantom_block(block: ZBlock, settings: PhantomSettings) -> BlockResult:
    slices = [phantom_slice(settings, z) for z in range(block.start, block.stop)]
    arrays = {
        f"truth/{name}": np.stack([one.labels[name] for one in slices]) for name in STRUCTURES
    }
    return {"": np.stack([one.image for one in slices]), **arrays}, {}
