"""Shape of objects in separate images, compared with formulas and an independent library."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from skimage.measure import regionprops

from sparsem.geometry import z_blocks
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.measure.dictionary import describe_column
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import Stage

QUIET = Execution(quiet=True)
PLAIN = MeasureSettings(texture=False)
NM = 10.0


def drawn(
    shape: tuple[int, int], center: tuple[float, float], half: tuple[float, float], degrees: float
) -> NDArray[np.bool_]:
    """Draw an ellipse."""
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array(center)[:, None, None]
    angle = np.deg2rad(degrees)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.asarray((u / half[0]) ** 2 + (v / half[1]) ** 2 <= 1)


def montage(folder: Path, images: dict[str, NDArray[np.uint32]], dtype: type = np.uint32) -> Sample:
    """Import images as a montage, and draw labels on each."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, labels in images.items():
        gray = random.integers(1, 255, labels.shape).astype(np.uint8)
        tifffile.imwrite(folder / "images" / f"{name}.tif", gray, photometric="minisblack")
    sample = import_stack(
        folder / "images",
        folder / "m.zarr",
        ImportSettings(voxel_nm=(50, NM, NM), montage=True),
        on=QUIET,
    )
    image = sample.image()
    whole: NDArray[np.uint32] = np.zeros(image.shape, dtype)
    for z, name in enumerate(sorted(images)):
        labels = images[name]
        whole[z, : labels.shape[0], : labels.shape[1]] = labels
    with Stage(
        sample,
        "draw",
        Settings(),
        {},
        [image.like("labels/thing", dtype, Kind.LABELS, ("raw", image.fingerprint))],
        QUIET,
    ) as stage:
        stage.map(lambda block: ({"labels/thing": whole[block.own]}, {}), z_blocks(len(whole), 1))
    return sample


def column(sample: Sample, name: str) -> NDArray[np.float64]:
    return np.asarray(sample.read_table("thing")[name].to_numpy(), np.float64)


@pytest.mark.parametrize(
    ("half", "degrees"), [((40, 40), 0), ((60, 30), 0), ((60, 30), 35), ((50, 20), 70)]
)
def test_ellipses_equal_their_formulas(
    tmp_path: Path, half: tuple[float, float], degrees: float
) -> None:
    mask = drawn((160, 180), (80.3, 90.6), half, degrees)
    sample = montage(tmp_path, {"a": mask.astype(np.uint32)})
    measure(sample, PLAIN, on=QUIET)
    a, b = half[0] * NM / 1000, half[1] * NM / 1000
    h = ((a - b) / (a + b)) ** 2
    perimeter = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan
    truth = {
        "area_um2": np.pi * a * b,
        "perimeter_um": perimeter,
        "circle_diameter_um": 2 * np.sqrt(a * b),
        "ellipse_major_um": 2 * a,
        "ellipse_minor_um": 2 * b,
        "elongation": a / b,
        "circularity": 4 * np.pi * np.pi * a * b / perimeter**2,
        "solidity": 1.0,
    }
    for name, value in truth.items():
        assert column(sample, name)[0] == pytest.approx(
            value, rel=0.02 if name == "circularity" else 0.01
        ), name


def test_shapes_equal_those_of_an_independent_library(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = np.zeros((200, 220), np.uint32)
    for number in range(1, 6):
        center, half = random.uniform(45, 155, 2), random.uniform(8, 40, 2)
        labels[
            drawn(labels.shape, (center[0], center[1]), (half[0], half[1]), random.uniform(0, 180))
        ] = number
    sample = montage(tmp_path, {"a": labels})
    measure(sample, PLAIN, on=QUIET)
    theirs, um = regionprops(labels.astype(np.int64)), NM / 1000
    for name, ours, unit in (
        ("area", "area_um2", um**2),
        ("equivalent_diameter_area", "circle_diameter_um", um),
        ("extent", "box_fill", 1),
    ):
        np.testing.assert_allclose(
            column(sample, ours),
            [getattr(region, name) * unit for region in theirs],
            rtol=1e-6,
            err_msg=name,
        )
    for name, ours in (
        ("axis_major_length", "ellipse_major_um"),
        ("axis_minor_length", "ellipse_minor_um"),
    ):
        # To the library, pixels are points without extent.
        points = np.sqrt(column(sample, ours) ** 2 - 16 / 12 * um**2)
        np.testing.assert_allclose(
            points, [getattr(region, name) * um for region in theirs], rtol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(
        column(sample, "perimeter_um"),
        [region.perimeter_crofton * um for region in theirs],
        rtol=0.03,
    )
    for name in sample.read_table("thing").column_names:
        assert describe_column(name), name


def test_other_images_change_nothing(tmp_path: Path) -> None:
    """Use images of several sizes, with objects above each other."""
    random = np.random.default_rng(2)
    images = {}
    for name, shape in (("a", (90, 120)), ("b", (140, 100)), ("c", (70, 70))):
        labels = np.zeros(shape, np.uint32)
        for number in range(1, 5):
            center = random.uniform(0, 70, 2)
            labels[drawn(shape, (center[0], center[1]), (18, 9), random.uniform(0, 180))] = number
        images[name] = labels
    offset = {name: 10 * number for number, name in enumerate(images)}
    numbered = {
        name: np.where(labels > 0, labels + offset[name], 0).astype(np.uint32)
        for name, labels in images.items()
    }
    together = montage(tmp_path / "all", numbered)
    measure(together, PLAIN, on=Execution(workers=2, quiet=True))
    table = together.read_table("thing").to_pylist()
    for z, (name, labels) in enumerate(numbered.items()):
        alone = montage(tmp_path / name, {name: labels})
        measure(alone, PLAIN, on=QUIET)
        rows = alone.read_table("thing").to_pylist()
        assert [{**row, "image": z} for row in rows] == [row for row in table if row["image"] == z]
        for row in rows:
            pixels = np.argwhere(labels == row["object"])
            at_start = (pixels == 0).any()
            at_end = (pixels == np.array(labels.shape) - 1).any()
            assert row["cut_by_edge"] == bool(at_start or at_end)
    (summary,) = together.read_table("measured").to_pylist()
    area = sum(labels.size for labels in images.values())
    assert summary["area_fraction"] == pytest.approx(
        sum((labels > 0).sum() for labels in images.values()) / area
    )
    assert "volume_um3" not in summary


def test_a_mask_of_a_montage_is_split_image_by_image(tmp_path: Path) -> None:
    mask = drawn((60, 60), (30, 30), (12, 12), 0).astype(np.uint32)
    sample = montage(tmp_path, {"a": mask, "b": mask, "c": mask}, np.uint8)
    assert measure(sample, PLAIN, on=QUIET).objects == {"thing": 3}


def test_texture_does_not_depend_on_other_images(tmp_path: Path) -> None:
    mask = drawn((60, 60), (30, 30), (20, 20), 0).astype(np.uint32)
    values = []
    for name, images in (
        ("alone", {"a": mask}),
        ("with_another", {"a": mask, "b": np.zeros_like(mask)}),
    ):
        sample = montage(tmp_path / name, images)
        measure(sample, MeasureSettings(spectrum_sizes=3, gray_range=(0, 256)), on=QUIET)
        (row,) = sample.read_table("thing").to_pylist()
        assert row["texture_level"] == 0
        assert row["texture_voxel_nm"] == NM
        values.append(row)
    assert values[0] == values[1]
