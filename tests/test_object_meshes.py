"""One mesh and one color for each object, with the volume that the table states."""

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from sparsem.errors import InputError, SampleError
from sparsem.geometry import VoxelSize
from sparsem.labels.object_index import object_boxes
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.report.export import export
from sparsem.report.layers import read_layers, with_object_meshes
from sparsem.report.mesh import enclosed_volume, simplify_to_volume, surface_of
from sparsem.report.plots.colors import cell_color
from sparsem.report.scene3d.render import render
from sparsem.report.scene3d.solids import _coarse_enough, full_solids, solids_of, volume_box
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, put
from tests.test_measure import tissue_of

AGAIN = Execution(overwrite=True, quiet=True)
SMALL: dict[str, Any] = {"width": 160, "height": 120, "triangles": 20_000}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = tissue_of(tmp_path_factory.mktemp("measured") / "s.zarr")
    measure(sample, MeasureSettings(texture=False))
    return sample


def meshes_of(file: Path) -> dict[str, Any]:
    scene: Any = trimesh.load(file)
    return dict(scene.geometry)


@pytest.mark.parametrize("triangles", [None, 0, 500])
def test_meshes_have_the_volumes_of_the_table(
    measured: Sample, tmp_path: Path, triangles: int | None
) -> None:
    names = ["mitochondrion", "nucleus", "cells"]
    result = export(measured, names, tmp_path / "all.glb", triangles=triangles)
    meshes = meshes_of(result.file)
    assert result.meshes == len(meshes)
    assert result.triangles == sum(len(mesh.faces) for mesh in meshes.values())
    for name in names:
        table = measured.read_table(name).to_pydict()
        numbers = table["cell"] if name == "cells" else table["object"]
        for number, volume in zip(numbers, table["volume_um3"], strict=True):
            mesh = meshes[f"{name} {number}"]
            assert mesh.volume == pytest.approx(volume, rel=0.01)
            linear = mesh.visual.material.baseColorFactor[:3] / 255  # as glTF states
            gamma = np.where(linear <= 0.0031, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
            np.testing.assert_allclose(255 * gamma, cell_color(number), atol=3)


def test_a_simplified_file_says_so(measured: Sample, tmp_path: Path) -> None:
    full = export(measured, "cells", tmp_path / "full.glb", triangles=0)
    assert full.simplification == ""
    few = export(measured, "cells", tmp_path / "few.glb", triangles=300)
    assert few.simplification.startswith(f"Simplified from {full.triangles} to {few.triangles} ")
    assert few.simplification.encode() in few.file.read_bytes()
    text = export(measured, "cells", tmp_path / "few.obj", triangles=300)
    assert text.simplification in text.file.read_text(encoding="utf-8")
    binary = export(measured, "cells", tmp_path / "few.stl", triangles=300)
    assert binary.file.read_bytes()[:80] == binary.simplification.encode()[:80]
    assert len(trimesh.load_mesh(binary.file).faces) == binary.triangles


def test_a_limit_below_the_number_of_structures_is_a_limit(
    measured: Sample, tmp_path: Path
) -> None:
    full = export(measured, ["cells", "nucleus"], tmp_path / "full.glb", triangles=0)
    few = export(measured, ["cells", "nucleus"], tmp_path / "few.glb", triangles=1)
    assert few.triangles < full.triangles / 4


@pytest.mark.parametrize("seed", range(6))
def test_few_triangles_enclose_the_volume_of_a_thin_curved_object(seed: int) -> None:
    """Twelve triangles cannot; there are as many as it takes."""
    random = np.random.default_rng(seed)
    points = 30 + np.cumsum(random.normal(0, 4, (8, 3)), axis=0)
    grid = np.moveaxis(np.indices((60, 60, 60)), 0, -1)
    mask = np.zeros((60, 60, 60), bool)
    for start, end in pairwise(points):
        for fraction in np.linspace(0, 1, 12):
            center = start + fraction * (end - start)
            mask |= ((grid - center) ** 2).sum(axis=-1) <= 9
    surface = surface_of(mask, (1.0, 1.0, 1.0))
    volume = float(mask.sum())
    simple = simplify_to_volume(surface, 12, volume, (1.0, 1.0, 1.0))
    assert enclosed_volume(simple) == pytest.approx(volume, rel=0.01)
    assert len(simple.triangles) < len(surface.triangles) / 4


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A sample of 600 objects of many triangles, which touch."""
    sample = Sample.create(tmp_path_factory.mktemp("crowded") / "c.zarr")
    edge = 12
    z, y, x = np.meshgrid(*(np.arange(n * edge) for n in (3, 10, 20)), indexing="ij")
    numbers = (1 + (z // edge) * 200 + (y // edge) * 20 + x // edge).astype(np.uint32)
    corner = (z % edge < 2 + numbers % 5) & (y % edge < 2 + numbers % 7) & (x % edge < 6)
    labels = np.pad(np.where(corner, 0, numbers), ((0, 0), (0, 0), (0, 400)))
    put(sample, "", np.zeros(labels.shape, np.uint8), 16, VoxelSize(10, 10, 10))
    put(sample, "labels/mitochondrion", labels, 16, VoxelSize(10, 10, 10))
    return sample


def objects_of(sample: Sample) -> NDArray[np.int64]:
    return object_boxes(sample.volume("labels", "mitochondrion").read(slice(None)))


def test_the_default_file_can_be_sent_by_mail(crowded: Sample, tmp_path: Path) -> None:
    result = export(crowded, "mitochondrion", tmp_path / "m.glb")
    assert result.meshes == 600
    assert 500_000 < result.file.stat().st_size < 5_000_000
    assert result.simplification
    meshes = meshes_of(result.file)
    for number, *_, voxels in objects_of(crowded).tolist():
        assert meshes[f"mitochondrion {number}"].volume == pytest.approx(voxels * 1e-6, rel=0.01)


def test_large_objects_keep_their_volume_at_a_coarser_level(crowded: Sample) -> None:
    labels, objects = crowded.volume("labels", "mitochondrion"), objects_of(crowded)[:3]
    assert labels.levels > 1
    full, coarse = (list(full_solids(labels, objects, voxels, 0)) for voxels in (1e6, 300))
    for fine, rough, voxels in zip(full, coarse, objects[:, 7], strict=True):
        assert rough.n_full_triangles < fine.n_full_triangles
        for solid in (fine, rough):
            mesh = trimesh.Trimesh(solid.mesh.vertices[:, ::-1], solid.mesh.triangles)
            assert mesh.volume == pytest.approx(voxels * 1e-6, rel=0.01)


def test_one_object_is_exported_alone(measured: Sample, tmp_path: Path) -> None:
    table = measured.read_table("mitochondrion").to_pydict()
    number, volume = table["object"][1], table["volume_um3"][1]
    result = export(measured, "mitochondrion", tmp_path / "one.stl", object=number)
    assert trimesh.load_mesh(result.file).volume == pytest.approx(volume, rel=0.01)
    with pytest.raises(InputError, match="no object 900 among"):
        export(measured, "mitochondrion", tmp_path / "x.glb", object=900)
    for names, name in ((["nucleus", "cells"], "x.glb"), (["nucleus"], "x.tif")):
        with pytest.raises(InputError, match="--object selects one mesh; expected one structure"):
            export(measured, names, tmp_path / name, object=1)
    assert not list(tmp_path.glob("*x.*"))


def test_one_object_is_drawn_alone(measured: Sample, tmp_path: Path) -> None:
    image = render(
        measured, tmp_path / "one.png", structures=("nucleus",), object="2", **SMALL
    ).file
    rgb = np.asarray(Image.open(image).convert("RGB")).astype(int)
    yellow = (rgb[..., 0] > rgb[..., 2] + 60) & (rgb[..., 1] > rgb[..., 2] + 60)
    assert yellow.mean() > 0.1
    with pytest.raises(InputError, match="--object 2 draws one object of one structure"):
        render(measured, tmp_path / "x.png", object="2", **SMALL)
    with pytest.raises(InputError, match="no object 90 among 2 objects"):
        render(measured, tmp_path / "x.png", structures=("nucleus",), object="90", **SMALL)


def test_objects_without_numbers_have_one_mesh_and_no_single_one(tmp_path: Path) -> None:
    sample = tissue_of(tmp_path / "s.zarr")
    assert sample.volume("labels", "nucleus").dtype == np.uint8
    assert list(meshes_of(export(sample, "nucleus", tmp_path / "n.glb").file)) == ["nucleus"]
    with pytest.raises(SampleError, match="have no numbers yet; run 'sparsem objects"):
        export(sample, "nucleus", tmp_path / "x.glb", object=1)
    with pytest.raises(SampleError, match="have no numbers yet; run 'sparsem objects"):
        render(sample, tmp_path / "x.png", structures=("nucleus",), object="1", **SMALL)


def test_objects_are_drawn_in_their_own_colors(measured: Sample, tmp_path: Path) -> None:
    layers, _ = read_layers(measured, ["nucleus"], "cells", {})
    (layer,) = with_object_meshes(layers)
    assert layer.labels is not None
    solids = list(solids_of(layer, volume_box(layer.labels), 1e9, 0))
    assert [(solid.name, solid.color) for solid in solids] == [
        ("1", cell_color(1)),
        ("2", cell_color(2)),
    ]
    file = render(
        measured, tmp_path / "a.png", structures=("nucleus",), object_colors=True, **SMALL
    ).file
    rgb = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3).astype(float)
    saturated = rgb[rgb.max(axis=1) - rgb.min(axis=1) > 60]
    hues = {tuple(np.round(pixel / pixel.max(), 1)) for pixel in saturated}
    assert len(hues) > 1


def test_a_sample_that_cannot_be_written_is_exported(measured: Sample, tmp_path: Path) -> None:
    """The index of the objects is kept in the sample where that is possible."""
    sample = copy_of(measured, tmp_path / "s.zarr")
    index = sample.path / ".sparsem" / "objects"
    shutil.rmtree(index, ignore_errors=True)
    index.parent.mkdir(exist_ok=True)
    index.write_text("a file where a folder is needed", encoding="utf-8")
    assert export(sample, "mitochondrion", tmp_path / "m.glb").meshes > 1
    program = [sys.executable, "-m", "sparsem", "export", str(sample.path), "mitochondrion"]
    done = subprocess.run(
        [*program, "-o", str(tmp_path / "again.glb"), "--triangles", "60"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Simplified from" in done.stdout


def test_large_objects_of_a_page_are_meshed_from_larger_voxels(tmp_path: Path) -> None:
    """Ball and fiber: few triangles, the place and the volume of the object, nothing lost."""
    sample = Sample.create(tmp_path / "s.zarr")
    z, y, x = np.indices((60, 90, 90))
    labels = np.zeros((60, 90, 90), np.uint32)
    labels[(z - 30) ** 2 + (y - 40) ** 2 + (x - 40) ** 2 <= 25**2] = 1
    labels[31, 80, 5:85] = 2
    put(sample, "", np.zeros(labels.shape, np.uint8), 16, VoxelSize(10, 10, 10))
    put(sample, "labels/mitochondrion", labels, 16, VoxelSize(10, 10, 10))
    layers, _ = read_layers(sample, ["mitochondrion"], "cells", {}, [])
    (layer,) = with_object_meshes(layers)
    box = volume_box(sample.volume("labels", "mitochondrion"))
    full = list(solids_of(layer, box, 1e9, 0))
    few = list(solids_of(layer, box, 1e9, 400))
    for complete, rough, number in zip(full, few, (1, 2), strict=True):
        assert rough.n_full_triangles <= complete.n_full_triangles / (3 if number == 1 else 1)
        assert len(rough.mesh.triangles) < complete.n_full_triangles / 4
        volume = (labels == number).sum() * 1e-6
        assert enclosed_volume(rough.mesh) == pytest.approx(volume, rel=0.01)
        for side in (np.min, np.max):
            corner = side(rough.mesh.vertices, axis=0)
            assert corner == pytest.approx(side(complete.mesh.vertices, axis=0), abs=0.015)


def test_voxels_of_a_page_become_larger_along_fine_axes_first() -> None:
    mask = np.ones((8, 60, 60), bool)
    coarse, edges = _coarse_enough(mask, (0.05, 0.01, 0.01), 300)
    assert edges[0] == 0.05
    assert edges[1] == edges[2] == 0.02
    assert coarse.shape[0] == 8
    assert coarse.sum() * np.prod(edges) == pytest.approx(mask.sum() * 0.05e-4)
    same, _ = _coarse_enough(mask, (0.05, 0.01, 0.01), 0)
    assert same is mask
