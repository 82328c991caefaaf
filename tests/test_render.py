"""Meshes without seams, solids, renderings, videos and files for other programs."""

import importlib
import json
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh
from numpy.typing import NDArray
from PIL import Image

from sparsem.errors import InputError, SampleError
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.report.export import export as export_stage
from sparsem.report.layers import read_layers
from sparsem.report.mesh import Mesh, mesh_from_mask, simplify
from sparsem.report.scene3d.drawing import Rendering
from sparsem.report.scene3d.render import render as render_stage
from sparsem.report.scene3d.single_object import SingleObject, select_object_layers
from sparsem.report.scene3d.solids import Cut, solids_of, volume_box
from sparsem.report.settings import ExportSettings, RenderSettings
from sparsem.report.viewers import NEUROGLANCER, neuroglancer_state, viewers
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.bodies import body
from tests.conftest import copy_of
from tests.test_measure import VOXEL, ball, tissue_of

SMALL = RenderSettings(width=160, height=120, triangles=20_000)
AGAIN = Execution(overwrite=True, quiet=True)


def export(*arguments: Any, **options: Any) -> Path:
    return export_stage(*arguments, **options).file


def render(*arguments: Any, **options: Any) -> Path:
    return render_stage(*arguments, **options).file


def mesh_in_blocks(
    mask: NDArray[np.bool_], depth: int, voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Mesh:
    return mesh_from_mask(lambda first, last: mask[first:last], mask.shape, voxel, depth)


def volume_of(mesh: Mesh) -> float:
    """Return the volume inside the triangles, positive if they are counter-clockwise from outside."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]][:, ::-1] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def corners(mesh: Mesh) -> NDArray[np.float64]:
    """Return triangles as rows of coordinates, in an order that does not depend on the blocks."""
    sorted_corners = np.sort(
        np.round(mesh.vertices, 4)[mesh.triangles].view([("z", float), ("y", float), ("x", float)])[
            ..., 0
        ],
        axis=1,
    )
    flat = sorted_corners.view(float).reshape(len(sorted_corners), 9)
    return np.asarray(flat[np.lexsort(flat.T)])


@pytest.mark.parametrize("depth", [1, 4, 7, 100])
def test_meshes_of_blocks_have_no_seams(depth: int) -> None:
    mask = np.random.default_rng(0).random((21, 24, 25)) < 0.4
    mesh, whole = mesh_in_blocks(mask, depth), mesh_in_blocks(mask, 1000)
    edges = np.sort(mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, shared = np.unique(edges, axis=0, return_counts=True)
    assert (shared == 2).all()  # closed: every edge has a triangle on each side
    assert len(mesh.vertices) == len(whole.vertices)
    np.testing.assert_allclose(corners(mesh), corners(whole), atol=2e-4)


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)])
def test_a_mesh_lies_where_its_body_does(voxel: tuple[float, float, float]) -> None:
    across = 40.0 * voxel[0]
    ball_body = body("ball", across, voxel)
    mesh = mesh_in_blocks(ball_body.mask, 9, voxel)
    assert volume_of(mesh) == pytest.approx(ball_body.truth["volume_um3"], rel=0.02)
    middle = (np.argwhere(ball_body.mask).mean(axis=0) + 0.5) * voxel
    np.testing.assert_allclose(
        (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2, middle, atol=0.6 * voxel[0]
    )


def test_an_object_at_the_border_is_closed_and_an_empty_mask_has_no_mesh() -> None:
    mesh = mesh_in_blocks(np.ones((6, 7, 8), bool), 3)
    assert mesh.vertices.min() >= -0.2
    assert (mesh.vertices.max(axis=0) <= (6.2, 7.2, 8.2)).all()
    assert volume_of(mesh) == pytest.approx(6 * 7 * 8, rel=0.01)
    assert len(mesh_in_blocks(np.zeros((4, 5, 6), bool), 2).triangles) == 0


def test_objects_one_voxel_thin_have_a_surface() -> None:
    sheet, rod = np.ones((1, 30, 30), bool), np.zeros((9, 9, 30), bool)
    rod[4, 4, 3:27] = True
    assert volume_of(mesh_in_blocks(sheet, 4)) > 100
    assert mesh_in_blocks(rod, 4).vertices[:, 2].max() - mesh_in_blocks(rod, 4).vertices[
        :, 2
    ].min() == pytest.approx(24, abs=1)


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (5.0, 1.0, 2.0)])
def test_every_body_has_the_volume_of_its_voxels(voxel: tuple[float, float, float]) -> None:
    """Small cubes, sheets, rods and balls, one of them hollow: the volume that smoothing removes is restored."""
    bodies = [
        np.ones(shape, bool)
        for shape in (
            (1, 1, 1),
            (2, 2, 2),
            (3, 3, 3),
            (8, 8, 8),
            (1, 20, 20),
            (2, 20, 20),
            (1, 1, 20),
        )
    ]
    bodies.append(body("ball", 16.0, (1.0, 1.0, 1.0)).mask)
    hollow = body("ball", 16.0, (1.0, 1.0, 1.0)).mask.copy()
    middle = np.array(hollow.shape) // 2
    hollow[tuple(slice(center - 3, center + 3) for center in middle)] = False
    for mask in (*bodies, hollow):
        padded = np.pad(mask, 2)
        assert volume_of(mesh_in_blocks(padded, 5, voxel)) == pytest.approx(
            mask.sum() * np.prod(voxel), rel=0.01
        )
    together = np.zeros((30, 30, 60), bool)
    together[2:4, 2:22, 2:22] = True
    together[10:25, 5:20, 35:50] = True
    assert volume_of(mesh_in_blocks(together, 7, voxel)) == pytest.approx(
        together.sum() * np.prod(voxel), rel=0.01
    )


def test_simplified_meshes_keep_their_shape() -> None:
    mesh = mesh_in_blocks(body("torus", 60, (1, 1, 1)).mask, 100)
    fewer = simplify(mesh, 2000)
    assert len(fewer.triangles) <= 2000 < len(mesh.triangles)
    assert volume_of(fewer) == pytest.approx(volume_of(mesh), rel=0.02)
    assert simplify(fewer, 10_000) is fewer


@pytest.fixture(scope="module")
def tissue_with_cells(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return tissue_of(tmp_path_factory.mktemp("rendered") / "s.zarr")


def test_a_cut_removes_the_part_before_it(tissue_with_cells: Sample) -> None:
    layers, problems = read_layers(tissue_with_cells, ["nucleolus"], "cells", {})
    assert problems == []
    assert layers[0].labels is not None
    box = volume_box(layers[0].labels)
    (whole,) = solids_of(layers[0], box, 1e9, 0)
    (half,) = solids_of(layers[0], box, 1e9, 0, Cut("z", 9.5 / 19))
    assert half.mesh.vertices[:, 0].min() == pytest.approx(10 * 0.02, abs=0.012)
    assert volume_of(half.mesh) < 0.6 * volume_of(whole.mesh)
    assert whole.color == (213, 40, 30)


def test_every_cell_is_a_separate_solid(tissue_with_cells: Sample) -> None:
    (layer,), _ = read_layers(tissue_with_cells, ["cells"], "cells", {})
    assert layer.labels is not None
    solids = list(solids_of(layer, volume_box(layer.labels), 1e9, 3000))
    assert [solid.name for solid in solids] == ["7", "300", "70000"]
    assert len({solid.color for solid in solids}) == 3
    assert volume_of(solids[0].mesh) == pytest.approx(17 * 52 * 31 * VOXEL.volume_um3, rel=0.1)
    low = solids[1].mesh.vertices.min(axis=0)
    np.testing.assert_allclose(low, np.array([1, 4, 36]) * VOXEL / 1000, atol=0.012)


def test_stills_show_the_structures_in_their_colors(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    path = render(
        tissue_with_cells,
        tmp_path / "a.png",
        changed(SMALL, {"structures": ("nucleolus",)}),
    )
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert rgb.shape == (120, 160, 3)
    red = (rgb[..., 0] > rgb[..., 1] + 60) & (rgb[..., 0] > rgb[..., 2] + 60)
    assert 0.01 < red.mean() < 0.9
    assert (rgb[0] == 255).all()
    everything = np.asarray(
        Image.open(render(tissue_with_cells, tmp_path / "b.png", SMALL)).convert("RGB")
    )
    assert np.unique(everything.reshape(-1, 3), axis=0).shape[0] > 100


def test_a_single_object_is_drawn_close_up_and_cut(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    sample = copy_of(tissue_with_cells, tmp_path / "s.zarr")
    measure(sample, MeasureSettings(texture=False))
    near = changed(
        SMALL, {"structures": ("nucleus", "nucleolus"), "object": "nucleus=2", "cut": "z"}
    )
    assert render(sample, tmp_path / "a.png", near).exists()
    with pytest.raises(InputError, match="has no object 9; it has 2"):
        render(sample, tmp_path / "b.png", changed(near, {"object": "nucleus=9"}))
    rgb = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    render(
        sample,
        tmp_path / "whole.png",
        changed(near, {"structures": ("nucleus", "nucleolus", "mitochondrion")}),
    )
    same = np.asarray(Image.open(tmp_path / "whole.png").convert("RGB")).astype(int)
    assert np.abs(same - rgb).mean() < 3  # no mitochondrion lies in the nucleus, so none is drawn
    with pytest.raises(InputError, match="expects a number, or NAME=NUMBER"):
        render(sample, tmp_path / "b.png", changed(near, {"object": "nucleus"}))


def test_a_turntable_is_a_video(tissue_with_cells: Sample, tmp_path: Path) -> None:
    import cv2

    settings = changed(SMALL, {"structures": ("nucleus",), "seconds": 0.4, "frames_per_second": 10})
    video = cv2.VideoCapture(str(render(tissue_with_cells, tmp_path / "a.mp4", settings)))
    frames = []
    while True:
        is_read, frame = video.read()
        if not is_read:
            break
        frames.append(frame)
    assert len(frames) == 4
    assert frames[0].shape == (120, 160, 3)
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 0.2  # it turns


def test_a_video_of_one_frame_is_a_video(tissue_with_cells: Sample, tmp_path: Path) -> None:
    import cv2

    settings = changed(
        SMALL, {"structures": ("nucleus",), "seconds": 0.01, "frames_per_second": 10}
    )
    video = cv2.VideoCapture(str(render(tissue_with_cells, tmp_path / "a.mp4", settings)))
    is_read, frame = video.read()
    assert is_read
    assert frame.shape == (120, 160, 3)


def test_a_video_has_fewer_triangles_than_a_still(
    tissue_with_cells: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = importlib.import_module("sparsem.report.scene3d.render")
    counts: list[int] = []

    def count_triangles(rendering: Rendering, path: Path, *_: Any) -> None:
        counts.append(sum(len(solid.mesh.triangles) for _, solid in rendering.solids))
        path.touch()

    monkeypatch.setattr(stage, "draw_still", count_triangles)
    monkeypatch.setattr(stage, "draw_turntable", count_triangles)
    monkeypatch.setattr(stage, "VIDEO_TRIANGLES", 200)
    settings = changed(SMALL, {"structures": ("nucleus",), "triangles": None})
    render(tissue_with_cells, tmp_path / "still.png", settings)
    render(tissue_with_cells, tmp_path / "video.mp4", settings)
    render(tissue_with_cells, tmp_path / "full.mp4", changed(settings, {"triangles": 0}))
    still, video, full = counts
    assert 0 < video < still / 4
    assert full == still  # fewer than two million


def test_renderings_that_cannot_be_written_are_refused(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    (tmp_path / "existing.png").write_bytes(b"precious")
    for name, sentence in (
        ("a.jpg", "a still NAME.png or a turntable NAME.mp4"),
        ("existing.png", "exists; use --overwrite"),
    ):
        with pytest.raises(InputError, match=sentence):
            render(tissue_with_cells, tmp_path / name, SMALL)
    assert (tmp_path / "existing.png").read_bytes() == b"precious"
    with pytest.raises(SampleError, match="has no labels/lysosome"):
        render(
            tissue_with_cells,
            tmp_path / "a.png",
            changed(SMALL, {"structures": ("lysosome",)}),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["existing.png"]


@pytest.mark.parametrize("ending", ["glb", "stl", "obj"])
def test_exported_meshes_open_in_other_programs(
    tissue_with_cells: Sample, tmp_path: Path, ending: str
) -> None:
    import trimesh

    path = export(tissue_with_cells, ["nucleus", "nucleolus"], tmp_path / f"n.{ending}")
    loaded: Any = trimesh.load(path)
    parts = list(loaded.geometry.values()) if hasattr(loaded, "geometry") else [loaded]
    volume = sum(abs(part.volume) for part in parts)
    labels = [
        tissue_with_cells.volume("labels", name).read(slice(None))
        for name in ("nucleus", "nucleolus")
    ]
    assert volume == pytest.approx(
        sum(int(mask.sum()) for mask in labels) * VOXEL.volume_um3, rel=0.1
    )
    extents = (
        (np.argwhere(labels[0]).max(axis=0) - np.argwhere(labels[0]).min(axis=0) + 1)
        * np.array(VOXEL)
        / 1000
    )
    np.testing.assert_allclose(loaded.extents, extents[::-1], atol=0.02)  # x, y, z in µm
    if ending == "glb":
        assert sorted(loaded.geometry) == ["nucleolus", "nucleus"]


def test_tables_and_stacks_are_exported_too(tissue_with_cells: Sample, tmp_path: Path) -> None:
    assert (tmp_path / "t.csv") == export(tissue_with_cells, ["tracks_cells"], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text(encoding="utf-8").startswith('"track","identity"')
    assert export(tissue_with_cells, ["tracks_cells"], tmp_path / "t.parquet").exists()
    stack = export(tissue_with_cells, ["nucleus"], tmp_path / "n.tif")
    assert (tifffile.imread(stack) > 0).sum() == (
        ball((9, 30, 18), 125) | ball((9, 30, 50), 100)
    ).sum()
    for names, name, sentence in (
        (["nucleus"], "a.xyz", "The ending of the file names its format"),
        (["nucleus", "cells"], "a.tif", "holds one part of a sample; got 2"),
        ([], "a.tif", r"holds one part of a sample; got none\. Choose one of .*nucleus"),
        (["nucleus"], "n.tif", "exists; use --overwrite"),
        (["what/nucleus"], "b.tif", "is not part of a sample"),
    ):
        with pytest.raises(InputError, match=sentence):
            export(tissue_with_cells, names, tmp_path / name)
    with pytest.raises(SampleError, match="has no labels/lysosome"):
        export(tissue_with_cells, ["lysosome"], tmp_path / "l.glb", ExportSettings())


def test_viewers_open_the_image_and_all_results(tissue_with_cells: Sample, tmp_path: Path) -> None:
    sample = copy_of(tissue_with_cells, tmp_path / "a b.zarr")
    commands = viewers(sample)
    assert commands["napari"] == f'napari --plugin napari-ome-zarr "{sample.path}"'
    state = json.loads(urllib.parse.unquote(commands["neuroglancer"].removeprefix(NEUROGLANCER)))
    assert state == neuroglancer_state(sample)
    assert [layer["name"] for layer in state["layers"]] == [
        "raw",
        "cells",
        "mitochondrion",
        "nucleolus",
        "nucleus",
    ]
    for layer in state["layers"]:
        source = urllib.parse.unquote(
            layer["source"].removeprefix("zarr3://http://localhost:9000/")
        )
        assert (sample.path.parent / source / "zarr.json").exists()
    shutil.rmtree(sample.path)


def test_a_single_object_is_drawn_with_objects_inside_and_around_it(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    sample = copy_of(tissue_with_cells, tmp_path / "s.zarr")
    measure(sample, MeasureSettings(texture=False))
    tables = {
        name: sample.read_table(name).to_pydict()
        for name in ("nucleus", "nucleolus", "mitochondrion")
    }
    layers, _ = read_layers(sample, (), "cells", {})
    of_nucleus = {
        layer.name: layer.only
        for layer in select_object_layers(sample, layers, SingleObject("nucleus", 2), "cells")
    }
    held = [
        number
        for number, nucleus in zip(
            tables["nucleolus"]["object"], tables["nucleolus"]["nucleus"], strict=True
        )
        if nucleus == 2
    ]
    assert of_nucleus == {
        "cells": (tables["nucleus"]["cell"][1],),
        "nucleus": (2,),
        "nucleolus": tuple(held),
    }
    of_cell = {
        layer.name: layer.only
        for layer in select_object_layers(sample, layers, SingleObject("cells", 300), "cells")
    }
    inside = [
        number
        for number, cell in zip(
            tables["mitochondrion"]["object"], tables["mitochondrion"]["cell"], strict=True
        )
        if cell == 300
    ]
    assert of_cell["mitochondrion"] == tuple(inside)
    assert of_cell["cells"] == (300,)
    assert len(inside) == 2
    layer = next(
        layer
        for layer in select_object_layers(
            sample, layers, SingleObject("mitochondrion", inside[0]), "cells"
        )
        if layer.name == "mitochondrion"
    )
    assert layer.labels is not None
    (solid,) = solids_of(layer, volume_box(layer.labels), 1e9, 0)
    row = tables["mitochondrion"]["object"].index(inside[0])
    assert volume_of(solid.mesh) == pytest.approx(
        tables["mitochondrion"]["volume_um3"][row], rel=0.01
    )


def test_small_components_that_were_not_measured_are_not_exported(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    sample = copy_of(tissue_with_cells, tmp_path / "s.zarr")
    smallest = sorted(measured_volumes(sample, MeasureSettings(texture=False)))
    minimum = {"mitochondrion": (smallest[0] + smallest[1]) / 2}
    again = measured_volumes(sample, MeasureSettings(texture=False, min_volume_um3=minimum))
    assert sorted(again) == pytest.approx(smallest[1:])
    mask = tifffile.imread(export(sample, ["mitochondrion"], tmp_path / "a.tif"))
    assert mask.dtype == np.uint8
    assert mask.sum() * VOXEL.volume_um3 == pytest.approx(sum(again))
    everything = tifffile.imread(export(sample, ["labels/mitochondrion"], tmp_path / "b.tif"))
    assert everything.sum() * VOXEL.volume_um3 == pytest.approx(sum(smallest))
    mesh = trimesh.load_mesh(export(sample, ["mitochondrion"], tmp_path / "a.stl"))
    assert mesh.volume == pytest.approx(sum(again), rel=0.01)


def measured_volumes(sample: Sample, settings: MeasureSettings) -> list[float]:
    measure(sample, settings, on=AGAIN)
    return list(sample.read_table("mitochondrion")["volume_um3"].to_pylist())


def test_an_obj_has_its_colors_in_a_file_next_to_it(
    tissue_with_cells: Sample, tmp_path: Path
) -> None:
    path = export(tissue_with_cells, ["nucleus", "nucleolus"], tmp_path / "a.obj")
    named = [
        line.split()[1]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("mtllib")
    ]
    assert named == ["a.mtl"]
    colors = (tmp_path / "a.mtl").read_text(encoding="utf-8")
    used = {
        line.split()[1]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("usemtl")
    }
    assert used == {line.split()[1] for line in colors.splitlines() if line.startswith("newmtl")}
    assert len(used) == 2
    assert "http" not in path.read_text(encoding="utf-8") + colors
