"""The phantom: the same for the same seed, exact, streamed, and true to biology."""

from pathlib import Path

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from sparsem.errors import ResumeError, SettingsError
from sparsem.geometry import VoxelSize
from sparsem.phantom.phantom import draw_faults, phantom, phantom_slice
from sparsem.phantom.random_fields import SmoothField, spline_weights
from sparsem.phantom.settings import PhantomSettings
from sparsem.phantom.true_contacts import contacts_table
from sparsem.settings import changed, parse
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import TISSUE, files_in, voxels

ORGANELLES = ("mitochondrion", "endosome", "lysosome")


@pytest.mark.parametrize(("depth", "workers"), [(1, 0), (16, 0), (7, 2)])
def test_block_depth_and_workers_change_nothing(
    tissue: Sample, tmp_path: Path, depth: int, workers: int
) -> None:
    result = phantom(
        tmp_path / "p.zarr",
        changed(TISSUE, {"block_depth": depth}),
        on=Execution(workers=workers, quiet=True),
    )
    for name in ("cells", "nucleus", "endosome"):
        expected = voxels(tissue.volume("truth", name))
        assert all(
            np.array_equal(a, b)
            for a, b in zip(voxels(result.volume("truth", name)), expected, strict=True)
        )
    assert np.array_equal(
        result.image("raw").read(slice(None)), tissue.image("raw").read(slice(None))
    )
    if depth == 7:
        assert files_in(result.path / "0") == files_in(tissue.path / "0")


def test_another_seed_is_another_tissue(tissue: Sample) -> None:
    result = phantom_slice(changed(TISSUE, {"seed": 6}), 3)
    assert (result.labels["nucleus"] > 0).mean() > 0
    assert not np.array_equal(
        result.labels["cells"], tissue.volume("truth", "cells").read(slice(3, 4))[0]
    )


def truth(sample: Sample) -> dict[str, np.ndarray]:
    return {name: sample.volume("truth", name).read(slice(None)) for name in sample.names("truth")}


def test_every_structure_is_present_and_lies_where_it_belongs(tissue: Sample) -> None:
    volumes = truth(tissue)
    assert all((labels > 0).any() for labels in volumes.values())
    nucleus, cells = volumes["nucleus"], volumes["cells"]
    assert np.array_equal(
        nucleus[nucleus > 0], cells[nucleus > 0]
    )  # a nucleus carries the number of its cell
    inside = volumes["nucleolus"] > 0
    assert (nucleus[inside] == volumes["nucleolus"][inside] // 1000).all()
    for name in ORGANELLES:
        is_organelle = volumes[name] > 0
        assert (cells[is_organelle] == volumes[name][is_organelle] // 1000).all()
        assert not (nucleus[is_organelle] > 0).any()
    kinds = sum((volumes[name] > 0).astype(int) for name in ORGANELLES)
    assert kinds.max() == 1  # type: ignore[union-attr]


def test_neighbors_touch_and_have_similar_brightness(tissue: Sample) -> None:
    cells, image = truth(tissue)["cells"], tissue.image("raw").read(slice(None)).astype(float)
    is_boundary = (
        (cells[:, :, 1:] != cells[:, :, :-1]) & (cells[:, :, 1:] > 0) & (cells[:, :, :-1] > 0)
    )
    assert is_boundary.sum() > 100
    free = (cells > 0) & (
        sum((truth(tissue)[name] > 0).astype(int) for name in ("nucleus", *ORGANELLES)) == 0
    )
    means = [
        image[free & (cells == cell)].mean()
        for cell in np.unique(cells[free])
        if (free & (cells == cell)).sum() > 2000
    ]
    assert len(means) >= 3
    assert np.ptp(means) < image[free].std()  # brightness does not separate them


def test_nuclei_are_concave_and_nucleoli_have_holes() -> None:
    settings = PhantomSettings(shape=(6, 320, 320), voxel_nm=(40, 12, 12), cells=3, seed=1)
    slices = [phantom_slice(settings, z).labels for z in range(6)]
    holes = [
        ndimage.binary_fill_holes(labels["nucleolus"] > 0) & (labels["nucleolus"] == 0)
        for labels in slices
    ]
    assert sum(hole.sum() for hole in holes) > 20
    from skimage.measure import regionprops

    solidity = [
        region.solidity
        for labels in slices
        for region in regionprops(labels["nucleus"].astype(int))
        if region.area > 500
    ]
    assert min(solidity) < 0.93


def test_filopodia_come_back_as_islands() -> None:
    settings = PhantomSettings(shape=(12, 256, 256), voxel_nm=(16, 16, 16), cells=5, seed=2)
    islands = 0
    for z in range(0, 12, 4):
        cells = phantom_slice(settings, z).labels["cells"]
        for cell in np.unique(cells[cells > 0]):
            islands += int(ndimage.label(cells == cell)[1]) - 1
    assert islands >= 3


def test_each_fault_can_be_switched_off_and_its_truth_is_kept(tmp_path: Path) -> None:
    clean = PhantomSettings(
        shape=(6, 64, 64),
        voxel_nm=(20, 20, 20),
        cells=2,
        noise=0,
        drift_nm=0,
        flicker=0,
        curtaining=0,
    )
    faults = draw_faults(clean)
    assert not faults.drift_nm.any()
    assert (faults.gain == 1).all()
    assert not faults.offset.any()
    plain = phantom_slice(clean, 2).image.astype(float)
    noisy = phantom_slice(changed(clean, {"noise": 9}), 2).image - plain
    assert noisy.std() == pytest.approx(9, rel=0.1)
    striped = phantom_slice(changed(clean, {"curtaining": 6}), 2).image - plain
    assert (
        striped.mean(axis=0).std() > 10 * striped.mean(axis=1).std()
    )  # stripes run down the slice
    many = {"shape": (40, 64, 64)}
    charged, blurred = (
        changed(clean, many | {fault: strength})
        for fault, strength in (("charging", 30), ("defocus", 4))
    )
    charge, blur = draw_faults(charged).charge, draw_faults(blurred).blur_px
    assert 2 <= np.count_nonzero(charge) <= 16
    assert charge.max() <= 30
    for z in (int(charge.argmax()), int(charge.argmin())):
        patches = (
            phantom_slice(charged, z).image.astype(float)
            - phantom_slice(changed(clean, many), z).image
        )
        assert patches.std() == pytest.approx(charge[z], rel=0.2)
    fine = [
        np.diff(phantom_slice(settings, int(blur.argmax())).image.astype(float)).std()
        for settings in (blurred, changed(clean, many))
    ]
    assert fine[0] < 0.6 * fine[1]
    bright = changed(clean, {"flicker": 8})
    sample = phantom(tmp_path / "p.zarr", bright)
    table = sample.read_table("phantom_slices")
    assert np.allclose(table["offset_gray"], draw_faults(bright).offset)
    measured = sample.image("raw").read(slice(None)).mean(axis=(1, 2)) - phantom_mean(clean)
    assert np.corrcoef(measured, table["offset_gray"])[0, 1] > 0.98


def phantom_mean(settings: PhantomSettings) -> np.ndarray:
    return np.array([phantom_slice(settings, z).image.mean() for z in range(settings.shape[0])])


def test_drift_moves_truth_and_image_together() -> None:
    still = PhantomSettings(
        shape=(8, 96, 96),
        voxel_nm=(10, 10, 10),
        cells=2,
        noise=0,
        drift_nm=0,
        flicker=0,
        curtaining=0,
        seed=3,
    )
    moved = changed(still, {"drift_nm": 25.0})
    faults = draw_faults(moved)
    z = int(np.abs(faults.drift_nm).sum(axis=1).argmax())
    dy, dx = (faults.drift_nm[z] / 10).round().astype(int)
    a, b = (
        phantom_slice(still, z).labels["nucleus"] > 0,
        phantom_slice(moved, z).labels["nucleus"] > 0,
    )
    shifted = np.roll(a, (-dy, -dx), axis=(0, 1))
    core = (slice(20, -20), slice(20, -20))
    assert (shifted[core] & b[core]).sum() / (shifted[core] | b[core]).sum() > (
        a[core] & b[core]
    ).sum() / (a[core] | b[core]).sum()


def test_a_phantom_of_other_settings_is_refused(tissue: Sample) -> None:
    with pytest.raises(ResumeError, match="cells: 3 -> 4"):
        phantom(tissue.path, changed(TISSUE, {"cells": 4}))
    with pytest.raises(SettingsError, match="at least 1 slice of 32 x 32"):
        parse(PhantomSettings, {"shape": (1, 4, 64)}, "command line")


def test_a_field_has_unit_variance_and_any_slice_alone() -> None:
    field = SmoothField(1, "x", (30, 20, 20), (4000, 4000), 10)
    axis = np.arange(0, 4000, 10.0)
    values = np.stack([field.at(z, axis, axis) for z in (5, 200, 410, 1000)])
    assert values.std() == pytest.approx(1, abs=0.05)
    assert abs(values.mean()) < 0.05
    alone = SmoothField(1, "x", (30, 20, 20), (4000, 4000), 10).at(410, axis, axis)
    assert np.array_equal(values[2], alone)
    _, weights = spline_weights(np.linspace(-3, 3, 50))
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_touching_mitochondria_are_connected_and_touch(tmp_path: Path) -> None:
    settings = changed(TISSUE, {"touching": True, "shape": (24, 160, 160), "block_depth": 5})
    sample = phantom(tmp_path / "p.zarr", settings, on=Execution(quiet=True))
    volumes = truth(sample)
    labels = volumes["mitochondrion"]
    numbers = np.unique(labels[labels > 0])
    # Few are cut in two by the border; many touch another one.
    parts = cc3d.connected_components(labels, connectivity=26)
    assert parts.max() <= 1.15 * len(numbers)
    mask_parts = cc3d.connected_components((labels > 0).astype(np.uint8), connectivity=26)
    assert mask_parts.max() < 0.8 * len(numbers)
    is_organelle = labels > 0
    assert (volumes["cells"][is_organelle] == labels[is_organelle] // 1000).all()
    assert not (volumes["nucleus"][is_organelle] > 0).any()
    # A slice can be drawn without any other.
    alone = phantom_slice(changed(settings, {"block_depth": 1}), 7)
    assert np.array_equal(alone.labels["mitochondrion"], labels[7])
    # A membrane separates two that touch: it is darker than what lies on either side.
    image = sample.image("raw").read(slice(None)).astype(float)
    first, second = labels[:, :, :-1], labels[:, :, 1:]
    is_contact = (first != second) & (first > 0) & (second > 0)
    at_contact = (image[:, :, :-1][is_contact].mean() + image[:, :, 1:][is_contact].mean()) / 2
    assert is_contact.sum() > 30
    assert at_contact < image[is_organelle].mean() - 10


def test_true_contacts_are_those_of_the_labels(tmp_path: Path) -> None:
    settings = changed(TISSUE, {"touching": True, "shape": (24, 160, 160), "block_depth": 5})
    sample = phantom(tmp_path / "s.zarr", settings)
    table = sample.read_table("truth_contacts_mitochondrion").to_pydict()
    labels = sample.volume("truth", "mitochondrion").read(slice(None)).astype(int)
    faces: dict[tuple[int, int], int] = {}
    for axis in range(3):
        along = np.moveaxis(labels, axis, 0)
        for a, b in zip(along[:-1].ravel(), along[1:].ravel(), strict=True):
            if a != b and a and b:
                pair = (min(a, b), max(a, b))
                faces[pair] = faces.get(pair, 0) + 1
    pairs = list(zip(table["first"], table["second"], strict=True))
    assert pairs == sorted(faces)
    assert len(pairs) > 3
    assert table["faces"] == [faces[pair] for pair in pairs]
    face_um2 = 20 * 20 * 1e-6
    for area, count in zip(table["area_um2"], table["faces"], strict=True):
        assert 0 < area <= count * face_um2 * 1.0001


@pytest.mark.parametrize("depth", [1, 7, 60])
def test_the_area_of_a_tilted_contact_is_exact(depth: int) -> None:
    """Two bodies meet in a plane between two opposite edges of a cube, and in one across z."""
    z, y, _ = np.indices((60, 60, 60))
    tilted = np.where(y + z < 60, 1, 2).astype(np.uint32)
    across = np.where(z < 30, 5, 3).astype(np.uint32)
    for labels, pair, area in (
        (tilted, (1, 2), 60 * 60 * np.hypot(8, 10) * 10),
        (across, (3, 5), 60 * 60 * 10 * 10),
    ):
        slabs = (labels[max(0, start - 1) : start + depth] for start in range(0, 60, depth))
        table = contacts_table(slabs, VoxelSize(8, 10, 10)).to_pydict()
        assert (table["first"], table["second"]) == ([pair[0]], [pair[1]])
        assert table["area_um2"] == pytest.approx([area * 1e-6], rel=0.02)


def test_without_touching_nothing_changes(tissue: Sample) -> None:
    drawn = phantom_slice(changed(TISSUE, {"touching": False}), 4)
    expected = tissue.volume("truth", "mitochondrion").read(slice(4, 5))[0]
    assert np.array_equal(drawn.labels["mitochondrion"], expected)
