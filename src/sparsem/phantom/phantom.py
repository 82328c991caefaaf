"""A synthetic tumor volume with exact ground truth for every stage.

It contains cells that are similar and touch, nuclei with invaginations, nucleoli with
fenestrations, mitochondria, endosomes, lysosomes, and filopodia that leave the plane and return as
islands; then the faults of a microscope, each with its true value stored. Any slice can be drawn
without any other, so that a volume of any size is computed in bounded memory and is the same for
the same settings, whatever the block depth.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.phantom.anatomy import Anatomy, plan_anatomy
from sparsem.phantom.draw import STRUCTURES, Labels, SliceRenderer
from sparsem.phantom.random_fields import SmoothField, generator
from sparsem.phantom.settings import PhantomSettings
from sparsem.phantom.touching import view_margin, with_touching_mitochondria
from sparsem.phantom.true_contacts import contacts_table
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, VolumeSpec, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

BEAM_PX = 0.6  # spread of the beam, standard deviation
MID_GRAY = 128  # gray level that a change of contrast leaves unchanged
# Gray levels of a slice without tissue.
SMEAR_GRAY = 150
SMEAR_CONTRAST = 30
CHARGE_POINTS = 6  # random numbers along each axis, between which charge is interpolated

# Fraction of the slices that charge or are out of focus, where that is switched on.
FAULTY_FRACTION = 0.2
MIN_FAULT = 0.2  # strength of a fault in these slices, as a fraction of the maximum
JUMP_DIRECTION = np.array([0.8, -0.6])  # (y, x)
DRIFT_RETURN = 0.97  # fraction of the drift that is left in the next slice: drift returns to 0
FLICKER_JUMP_FRACTION = 0.04  # of the slices, whose brightness changes more
FLICKER_JUMP = 4.0  # by which factor
GRAY_PER_GAIN = 150  # gray levels of flicker that go with a contrast changed by a factor e
MITOCHONDRION = "mitochondrion"

Gray = NDArray[np.float32]
Floats = NDArray[np.float64]


class Faults(NamedTuple):
    """The true faults of every slice.

    Attributes:
        drift_nm: (n, 2) shift of the view, (y, x); the content moves in the opposite direction.
        gain: (n,) contrast.
        offset: (n,) brightness in gray levels.
        bad: (n,) whether a slice shows no tissue.
        charge: (n,) standard deviation of bright and dark patches, in gray levels; 0 in four of
            five slices.
        blur_px: (n,) standard deviation of the blur of slices that are out of focus; 0 in four of
            five slices.
    """

    drift_nm: Floats
    gain: Floats
    offset: Floats
    bad: NDArray[np.bool_]
    charge: Floats
    blur_px: Floats


def draw_faults(settings: PhantomSettings) -> Faults:
    """Draw the faults of all slices at random.

    Drift wanders and returns; brightness changes at random, and sometimes jumps.
    """
    n = settings.shape[0]
    random = generator(settings.seed, "flicker")
    jumps = np.where(random.random(n) < FLICKER_JUMP_FRACTION, FLICKER_JUMP, 1.0)
    offset = random.normal(0, settings.flicker, n) * jumps
    gain = np.exp(random.normal(0, settings.flicker / GRAY_PER_GAIN, n))
    return Faults(
        drift_nm=_draw_drift(settings),
        gain=gain,
        offset=offset,
        bad=_draw_bad_slices(settings),
        charge=_draw_strengths(settings.seed, "charging", n) * settings.charging,
        blur_px=_draw_strengths(settings.seed, "defocus", n) * settings.defocus,
    )


def _draw_drift(settings: PhantomSettings) -> Floats:
    """Return the shift of the view (n, 2), nm, with the jump in the middle."""
    n = settings.shape[0]
    steps = generator(settings.seed, "drift").normal(0, settings.drift_nm, (n, 2))
    drift = np.zeros((n, 2))
    for z in range(1, n):
        drift[z] = DRIFT_RETURN * drift[z - 1] + steps[z]
    halves = np.where(np.arange(n) < n // 2, -0.5, 0.5)[:, None]
    drift += settings.jump_nm * halves * JUMP_DIRECTION
    return drift


def _draw_bad_slices(settings: PhantomSettings) -> NDArray[np.bool_]:
    """Return (n,) which slices show no tissue."""
    n = settings.shape[0]
    # A bad slice at an end has neighbors on one side only, and could as well be cut off.
    inner = np.arange(1, n - 1)
    count = min(settings.bad_slices, len(inner))
    bad = np.zeros(n, bool)
    bad[generator(settings.seed, "bad").choice(inner, count, replace=False)] = True
    return bad


def _draw_strengths(seed: int, name: str, n: int) -> Floats:
    """Return (n,) the strength of a fault, 0..1; on average one slice in five has it."""
    random = generator(seed, name)
    is_faulty = random.random(n) < FAULTY_FRACTION
    return np.where(is_faulty, random.uniform(MIN_FAULT, 1, n), 0.0)


class PhantomSlice(NamedTuple):
    """One imaged slice (y, x) uint8, and the exact labels of everything in it."""

    image: NDArray[np.uint8]
    labels: dict[str, Labels]


class _Scene(NamedTuple):
    """Everything of a phantom that all slices have in common."""

    renderer: SliceRenderer
    faults: Faults
    stripes: SmoothField


@lru_cache(maxsize=2)
def _scene(settings: PhantomSettings) -> _Scene:
    """Return the scene of a phantom; ``block_depth`` of the settings has no effect."""
    faults = draw_faults(settings)
    voxel = VoxelSize.of(settings.voxel_nm)
    size = np.array(settings.shape) * np.array(voxel)
    margin = float(np.abs(faults.drift_nm).max()) + 4 * max(voxel)
    anatomy = plan_anatomy(settings.seed, size, settings.cells, max(voxel.y, voxel.x))
    renderer = _renderer(anatomy, settings, margin)
    stripes = renderer.random_field("curtains", 12 * voxel.z, float(size[1]), 2 * voxel.x)
    return _Scene(renderer, faults, stripes)


def _renderer(anatomy: Anatomy, settings: PhantomSettings, margin: float) -> SliceRenderer:
    """Return what draws the slices of an anatomy, with touching mitochondria if they are wanted."""
    voxel = VoxelSize.of(settings.voxel_nm)
    pixel = voxel.y, voxel.x
    if not settings.touching:
        return SliceRenderer(anatomy, settings.seed, pixel, margin)
    margin = max(margin, view_margin(anatomy))
    touching = with_touching_mitochondria(SliceRenderer(anatomy, settings.seed, pixel, margin))
    return SliceRenderer(touching, settings.seed, pixel, margin)


def phantom_slice(settings: PhantomSettings, z: int) -> PhantomSlice:
    """Return slice ``z`` of a phantom: image (y, x) uint8 and labels (y, x) uint32 by structure."""
    scene = _scene(changed(settings, {"block_depth": 1}))
    faults = scene.faults
    voxel = VoxelSize.of(settings.voxel_nm)
    _, rows, columns = settings.shape
    height = (z + 0.5) * voxel.z
    drift_y, drift_x = faults.drift_nm[z]
    y = _pixel_centers(rows, voxel.y) + drift_y
    x = _pixel_centers(columns, voxel.x) + drift_x
    drawn = scene.renderer.draw(height, y, x)
    if faults.bad[z]:
        gray = _smear(settings.seed, z, (rows, columns))
    else:
        gray = _blur(drawn.gray, float(faults.blur_px[z]))
        if settings.curtaining:
            gray += np.float32(settings.curtaining) * scene.stripes.at(height, y, x)
    gray = _apply_detector_faults(gray, settings, faults, z)
    image = np.clip(np.round(gray), 0, 255).astype(np.uint8)
    return PhantomSlice(image, drawn.labels)


def _pixel_centers(count: int, edge: float) -> Floats:
    """Return (count,) positions of the centers of pixels along an axis."""
    return np.asarray((np.arange(count) + 0.5) * edge, np.float64)


def _blur(gray: Gray, defocus_px: float) -> Gray:
    """Return gray levels as the beam resolves them, out of focus by so many px."""
    beam = math.hypot(BEAM_PX, defocus_px)
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), beam), np.float32)


def _apply_detector_faults(gray: Gray, settings: PhantomSettings, faults: Faults, z: int) -> Gray:
    """Return the gray levels of slice ``z`` with charge, flicker and noise."""
    if faults.charge[z]:
        gray += np.float32(faults.charge[z]) * _charge_patches(settings.seed, z, gray.shape)
    brightness = np.float32(MID_GRAY + faults.offset[z])
    gray = (gray - MID_GRAY) * np.float32(faults.gain[z]) + brightness
    if settings.noise:
        random = generator(settings.seed, "noise", z)
        gray += np.float32(settings.noise) * random.standard_normal(gray.shape, np.float32)
    return gray


def _smear(seed: int, z: int, shape: tuple[int, int]) -> Gray:
    """Return gray levels (y, x) of a slice that charging has ruined."""
    points = generator(seed, "smear", z).standard_normal((shape[0] // 16 + 2, 2), np.float32)
    smooth = cv2.resize(points, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return SMEAR_GRAY + SMEAR_CONTRAST * np.asarray(smooth, np.float32)


def _charge_patches(seed: int, z: int, shape: tuple[int, int]) -> Gray:
    """Return large bright and dark patches (y, x), as charge causes them.

    Their mean is 0, their standard deviation 1.
    """
    shape_of_points = (CHARGE_POINTS, CHARGE_POINTS)
    points = generator(seed, "charge", z).standard_normal(shape_of_points, np.float32)
    smooth = np.asarray(cv2.resize(points, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def phantom(
    path: str | Path,
    settings: PhantomSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Create a sample with a phantom as its raw image.

    ``truth/NAME`` holds the exact labels of cells, nucleus, nucleolus, mitochondrion, endosome and
    lysosome (uint32 ids; the parts of a cell carry its id, organelles the id of their cell times
    1000 plus a number), ``tables/phantom_slices`` the true drift, gain, offset, charge and blur of
    every slice, and ``tables/truth_contacts_mitochondrion`` the mitochondria that touch.

    Args:
        path: of the sample.
        settings: tissue and faults.
        on: how the work is distributed.
        **changes: fields of the settings to replace.

    Raises:
        ResumeError: the path holds another sample.
        ResourceError: the sample does not fit on the disk.
    """
    settings = resolve_settings(PhantomSettings, settings, changes)
    n_slices = settings.shape[0]
    depth = min(settings.block_depth, n_slices)
    specs = _volume_specs(settings, depth)
    sample = Sample.create(path)
    needs = _phantom_needs(settings, depth, specs)
    with Stage(sample, "phantom", settings, {}, specs, on, needs) as stage:
        stage.map(_phantom_block, z_blocks(n_slices, depth), settings)
    sample.write_table("phantom_slices", _faults_table(draw_faults(settings)))
    if settings.touching:
        _write_true_contacts(sample, depth)
    return sample


def _write_true_contacts(sample: Sample, depth: int) -> None:
    """Write the table of the mitochondria that touch."""
    truth = sample.volume("truth", MITOCHONDRION)
    slabs = (truth.read(slice(max(0, z - 1), z + depth)) for z in range(0, truth.shape[0], depth))
    table = contacts_table(slabs, truth.voxel_size)
    sample.write_table(f"truth_contacts_{MITOCHONDRION}", table)


def _volume_specs(settings: PhantomSettings, depth: int) -> list[VolumeSpec]:
    """Return what is written: the raw image, and the labels of every structure."""
    voxel = VoxelSize.of(settings.voxel_nm)
    specs = [volume_spec("", settings.shape, np.uint8, Kind.IMAGE, voxel, depth)]
    for name in STRUCTURES:
        path = f"truth/{name}"
        specs.append(volume_spec(path, settings.shape, np.uint32, Kind.LABELS, voxel, depth))
    return specs


def _phantom_needs(settings: PhantomSettings, depth: int, specs: Sequence[VolumeSpec]) -> Needs:
    """Return the memory for a block, and the disk for the image and its compressed labels."""
    _, height, width = settings.shape
    raw, labels = specs[:2]
    return Needs(
        ram=height * width * (depth * 26 + 160),
        disk=raw.nbytes + labels.nbytes // 8,
        smaller="a smaller --block-depth needs less",
    )


def _phantom_block(block: ZBlock, settings: PhantomSettings) -> BlockResult:
    """Draw the slices of a block."""
    slices = [phantom_slice(settings, z) for z in range(block.start, block.stop)]
    arrays: dict[str, NDArray[Any]] = {"": np.stack([drawn.image for drawn in slices])}
    for name in STRUCTURES:
        arrays[f"truth/{name}"] = np.stack([drawn.labels[name] for drawn in slices])
    return arrays, {}


def _faults_table(faults: Faults) -> pa.Table:
    """Return a row for each slice with its true faults."""
    columns: dict[str, NDArray[Any]] = {
        "z": np.arange(len(faults.gain)),
        "drift_y_nm": faults.drift_nm[:, 0],
        "drift_x_nm": faults.drift_nm[:, 1],
        "gain": faults.gain,
        "offset_gray": faults.offset,
        "bad": faults.bad,
        "charge_gray": faults.charge,
        "blur_px": faults.blur_px,
    }
    return pa.table(columns)
