"""The window, with the real napari: events go through the canvas of a viewer on a display."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from sparsem.annotation.labeled_slices import annotated_structures, read_annotation
from sparsem.annotation.writing import write_slice
from sparsem.cells.cells import cells
from sparsem.cells.track import track
from sparsem.cli.app import app
from sparsem.labels.edit import merge
from sparsem.labels.editing import delete_objects, merge_objects
from sparsem.measure.measure import measure
from sparsem.review.accepted import accepted_places
from sparsem.store.sample import Sample
from sparsem.viewer.reader import napari_get_reader
from sparsem.workflow.execution import Execution

from .conftest import put
from .test_cells import tissue_of_depth
from .test_corrections import computed, whole
from .window_tools import (
    close,
    display,
    double_click,
    drag,
    hover,
    open_sample,
    press_key,
    spin,
    wait_for,
)

pytest.importorskip("napari", reason="the window needs the extra 'napari'")
if "PYTEST_XDIST_WORKER" in os.environ:
    pytest.skip("runs in a process of its own (test_window_process.py)", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # of napari, vispy and Qt

QUIET = Execution(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def _display() -> Iterator[None]:
    with display() as is_there:
        if not is_there:
            pytest.skip("the window needs a display: set DISPLAY, or install Xvfb")
        yield


@pytest.fixture
def window(own_tissue: Sample) -> Iterator[tuple[Any, Any, Sample]]:
    viewer, dock = open_sample(own_tissue.path)
    yield viewer, dock, own_tissue
    close(viewer, dock)


def _stroke(
    window: tuple[Any, Any, Sample], start: tuple[float, float], stop: tuple[float, float]
) -> None:
    viewer, dock, _ = window
    drag(viewer, start, stop)
    painted = dock.label_page.painted()
    wait_for(lambda: not painted.unsaved)


def test_a_stroke_is_on_disk_and_can_be_undone(window: tuple[Any, Any, Sample]) -> None:
    _, dock, sample = window
    page = dock.label_page
    page.name.setCurrentText("lysosome")
    dock.canvas.go_to(5)
    page.paint()
    _stroke(window, (0.4, 0.4), (0.6, 0.6))
    annotation = read_annotation(sample, "lysosome")
    first, known = annotation.objects(0)
    assert annotation.z == (5,)
    assert first.sum() > 50
    assert known.sum() == first.sum()  # nothing is known where nobody painted
    page.paint_background()
    _stroke(window, (0.4, 0.6), (0.6, 0.4))
    second, known = read_annotation(sample, "lysosome").objects(0)
    assert 0 < second.sum() < first.sum()  # painted over where the strokes cross
    assert known.sum() > first.sum()
    page.undo()
    wait_for(lambda: not page.painted().unsaved)
    np.testing.assert_array_equal(read_annotation(sample, "lysosome").objects(0)[0], first)
    page.label_whole_slice()
    wait_for(lambda: not page.painted().unsaved)
    assert read_annotation(sample, "lysosome").objects(0)[1].all()


def test_only_annotations_can_be_painted_in(own_tissue: Sample) -> None:
    computed(own_tissue, "nucleus", np.ones(own_tissue.image("raw").shape, np.uint8))
    viewer, dock = open_sample(own_tissue.path)
    labels = dock.canvas.layer("labels", "nucleus")
    annotation = dock.canvas.layer("annotation", "nucleus")
    assert not labels.editable
    viewer.layers.selection.active = labels
    before = whole(own_tissue, "nucleus")
    labels.mode = "paint"
    drag(viewer, (0.4, 0.4), (0.6, 0.6))
    np.testing.assert_array_equal(whole(own_tissue, "nucleus"), before)
    assert annotation.data.shape == own_tissue.image("raw").shape
    assert tuple(annotation.scale) == (20, 20, 20)
    close(viewer, dock)


def test_strokes_survive_a_kill(own_tissue: Sample) -> None:
    command = [sys.executable, "-m", "tests.window_tools", str(own_tissue.path)]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        second = int(process.stdout.readline())
        process.kill()
    annotation = read_annotation(own_tissue, "lysosome")
    assert set(annotation.z) >= {first, second}
    viewer, dock = open_sample(own_tissue.path)
    dock.label_page.name.setCurrentText("lysosome")
    painted = dock.label_page.painted()
    assert (painted.plane(second) == 1).sum() > 50
    close(viewer, dock)


def test_live_training_follows_the_brush(window: tuple[Any, Any, Sample]) -> None:
    viewer, dock, sample = window
    page, train = dock.label_page, dock.train_page
    page.name.setCurrentText("nucleus")
    train.form.set_value("width", 4)
    train.form.set_value("context_px", 64)
    train.form.set_value("input_px", 32)
    train.form.set_value("round_updates", 5)
    dock.canvas.go_to(5)
    train.start()
    wait_for(lambda: train.status.preview == 5, 180)
    first = train.status
    assert first.slices == [0, 9, 18]
    wait_for(lambda: dock.canvas.layer("preview", "nucleus") is not None, 5)
    wait_for(lambda: train.status.preview_update > first.preview_update, 120)
    before = dock.canvas.layer("preview", "nucleus").data.copy()
    page.paint()
    _stroke(window, (0.4, 0.4), (0.6, 0.6))
    wait_for(lambda: 5 in train.status.slices, 120)
    known = train.status.preview_update
    wait_for(lambda: train.status.preview_update > known, 120)
    wait_for(lambda: (dock.canvas.layer("preview", "nucleus").data != before).any(), 120)
    assert [z for z, _ in train.status.dice] == [5]  # predicted before it was trained on
    dock.canvas.go_to(7)
    wait_for(lambda: train.status.preview == 7, 120)
    train.pause()
    wait_for(lambda: train.status.state == "paused", 120)
    update = train.status.update
    spin(0.6)
    assert train.status.update == update
    train.start()
    wait_for(lambda: train.status.update > update, 120)
    train.stop()
    assert not train.is_running
    model = sample.path / ".sparsem" / "live" / "nucleus" / "nucleus.safetensors"
    assert model.is_file()
    result = dock.result_page
    result.model.setEditText(str(model))
    result.start("predict")
    wait_for(lambda: not result.is_running, 120)
    assert "done" in result.state.text(), result.state.text()
    assert "nucleus" in sample.names("labels")
    assert dock.canvas.layer("labels", "nucleus") is not None
    viewer.dims.set_current_step(0, 3)


@pytest.fixture(scope="module")
def cell_sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = tissue_of_depth(tmp_path_factory.mktemp("cells") / "cells.zarr", 7)
    cells(sample, on=QUIET)
    track(sample, on=QUIET)
    return sample


def test_review_by_keys_edits_and_redo(cell_sample: Sample) -> None:
    viewer, dock = open_sample(cell_sample.path)
    dock.tabs.setCurrentWidget(dock.review_page)
    review = dock.review_page
    review.name.setCurrentText("cells")
    n_places = review.places.count()
    assert n_places > 2
    press_key(viewer, "n")
    place = review.current
    assert place is not None
    assert dock.canvas.z == place.z
    ring = viewer.layers["place to review"]
    assert ring.data.tolist() == [[place.z, place.y, place.x]]
    press_key(viewer, "a")
    assert review.places.count() == n_places - 1
    assert accepted_places(cell_sample, "cells") == [place]
    press_key(viewer, "s")
    assert review.places.count() == n_places - 2
    assert f"{n_places - 2} places" in review.left.text()
    # Edits.
    before = whole(cell_sample, "cells")
    ids, sizes = np.unique(before[before > 0], return_counts=True)
    first, second, third = ids[np.argsort(-sizes)[:3]].tolist()
    for number in (first, second):
        z, y, x = np.argwhere(before == number)[0].tolist()
        review.pick((z, y, x))
    press_key(viewer, "j")
    merged = merge_objects(before, [first, second])
    np.testing.assert_array_equal(whole(cell_sample, "cells"), merged)
    shown = np.asarray(dock.canvas.layer("labels", "cells").data[0][3])
    np.testing.assert_array_equal(shown, merged[3])
    review.pick(tuple(np.argwhere(merged == third)[0].tolist()))
    press_key(viewer, "d")
    np.testing.assert_array_equal(whole(cell_sample, "cells"), delete_objects(merged, [third]))
    press_key(viewer, "u")
    np.testing.assert_array_equal(whole(cell_sample, "cells"), merged)
    voxels = np.argwhere(merged == first)
    review.pick(tuple(voxels[0].tolist()))
    review.pick(tuple(voxels[-1].tolist()))
    press_key(viewer, "k")
    after = whole(cell_sample, "cells")
    assert len(np.unique(after)) == len(np.unique(merged)) + 1
    np.testing.assert_array_equal(after > 0, merged > 0)
    # Redo computes the interval of a slice that was added, and keeps the corrections.
    page = dock.label_page
    page.name.setCurrentText("cells")
    truth = cell_sample.volume("truth", "cells").read(slice(5, 6))[0]
    painted = page.painted()
    painted[5] = np.where(truth > 0, truth, painted.background)
    wait_for(lambda: not painted.unsaved)
    review.redo()
    wait_for(lambda: "computed" in review.state.text(), 120)
    corrected = whole(cell_sample, "cells")
    assert cell_sample.history()[-1]["settings"]["corrected_voxels"] > 0
    assert (corrected > 0).any()
    assert place not in review._places
    close(viewer, dock)


def test_uncertain_places_of_a_structure_are_reviewed_by_keys(own_tissue: Sample) -> None:
    truth = own_tissue.volume("truth", "nucleus").read(slice(None)) > 0
    probability = np.where(truth, 255, 0).astype(np.uint8)
    probability[8:12, 20:60, 30:70] = 120
    made_on = ("raw", own_tissue.image().fingerprint)
    voxel = own_tissue.voxel_size
    put(own_tissue, "probabilities/nucleus", probability, voxel=voxel, made_on=made_on)
    computed(own_tissue, "nucleus", (probability >= 128).astype(np.uint8))
    viewer, dock = open_sample(own_tissue.path)
    dock.tabs.setCurrentWidget(dock.review_page)
    page = dock.review_page
    page.name.setCurrentText("nucleus")
    assert page.places.count() == 0
    assert "Find places" in page.left.text()
    page.find_places()
    wait_for(lambda: page.places.count() > 0, 60)
    n_places = page.places.count()
    press_key(viewer, "n")
    assert 7 <= dock.canvas.z <= 12
    assert "uncertain" in page.places.item(0).text()
    press_key(viewer, "a")
    assert page.places.count() == n_places - 1
    page.find_places()
    wait_for(lambda: "listed" in page.state.text(), 60)
    assert page.places.count() == n_places - 1
    close(viewer, dock)


def test_the_table_of_objects_and_the_canvas_lead_to_each_other(
    own_tissue: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = own_tissue.volume("truth", "nucleus").read(slice(None)) > 0
    computed(own_tissue, "nucleus", truth.astype(np.uint8))
    measure(own_tissue, structures=("nucleus",), on=QUIET)
    viewer, dock = open_sample(own_tissue.path)
    page = dock.result_page
    dock.tabs.setCurrentWidget(page)
    page.structure.setCurrentText("nucleus")
    n_objects = own_tissue.read_table("nucleus").num_rows
    assert page.table.rowCount() == n_objects
    objects = whole(own_tissue, "nucleus-objects")
    number = int(page.table.item(n_objects - 1, 0).text())
    page.table.selectRow(n_objects - 1)
    z, y, x = np.nonzero(objects == number)
    assert z.min() <= dock.canvas.z <= z.max()
    layer = dock.canvas.layer("labels", "nucleus-objects")
    assert (layer.visible, layer.selected_label) == (True, number)
    # A double click on an object selects its row.
    page.table.clearSelection()
    middle = len(z) // 2
    dock.canvas.go_to(int(z[middle]), int(y[middle]), int(x[middle]))
    double_click(viewer)
    assert page.table.item(page.table.currentRow(), 0).text() == str(number)
    # The report opens in the browser.
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page.report()
    wait_for(lambda: bool(opened), 180)
    assert opened[0].startswith("file:")
    assert opened[0].endswith(".html")
    close(viewer, dock)


def test_a_stage_is_stopped_and_resumed(own_tissue: Sample) -> None:
    truth = own_tissue.volume("truth", "nucleus").read(slice(None)) > 0
    computed(own_tissue, "nucleus", truth.astype(np.uint8))
    viewer, dock = open_sample(own_tissue.path)
    page = dock.result_page
    page.start("measure")
    assert page.is_running
    page.start("cells")
    assert "measure is running" in page.state.text()
    spin(0.2)  # its process starts, and imports libraries
    page.stop()
    wait_for(lambda: not page.is_running)
    assert page.state.text() == "Stopped; start it again to resume."
    page.start("measure")
    wait_for(lambda: not page.is_running, 180)
    assert page.state.text() == "measure: done."
    assert own_tissue.read_table("nucleus").num_rows == page.table.rowCount()
    close(viewer, dock)


def test_filled_slices_lie_between_the_painted_ones(window: tuple[Any, Any, Sample]) -> None:
    _, dock, sample = window
    page = dock.label_page
    page.name.setCurrentText("nucleus")
    dock.canvas.go_to(5)
    page.fill_between()
    wait_for(lambda: not page.work.is_running)
    painted = page.painted()
    wait_for(lambda: not painted.unsaved)
    truth = sample.volume("truth", "nucleus").read(slice(None)) > 0
    plane = painted.plane(4)
    drawn = (plane > 0) & (plane != painted.background)
    dice = 2 * (drawn & truth[4]).sum() / (drawn.sum() + truth[4].sum())
    assert dice > 0.85
    assert set(read_annotation(sample, "nucleus").z) >= set(range(10))


def test_a_drawn_box_becomes_the_outline_of_an_object(window: tuple[Any, Any, Sample]) -> None:
    _, dock, sample = window
    page = dock.label_page
    page.name.setCurrentText("nucleus")
    truth = sample.volume("truth", "nucleus").read(slice(5, 6))[0]
    number = int(np.bincount(truth[truth > 0]).argmax())
    rows, columns = np.nonzero(truth == number)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    dock.canvas.go_to(5)
    page.box_to_outline()
    assert "Draw a rectangle" in page.status.text()
    page.draw_box()
    corners = [(5, top, left), (5, top, right), (5, bottom, right), (5, bottom, left)]
    dock.canvas.viewer.layers["boxes and regions"].add_rectangles(np.array(corners))
    page.box_to_outline()
    wait_for(lambda: not page.work.is_running)
    painted = page.painted()
    plane = painted.plane(5)
    drawn = (plane > 0) & (plane != painted.background)
    true = truth == number
    assert 2 * (drawn & true).sum() / (drawn.sum() + true.sum()) > 0.8
    # A model that is not there is named, and the window goes on.
    page.sam.setText("./no-such-model")
    page.box_to_outline()
    wait_for(lambda: not page.work.is_running)
    assert "cannot be loaded" in page.status.text()


def test_buttons_and_strokes_are_undone_in_their_order(window: tuple[Any, Any, Sample]) -> None:
    _, dock, sample = window
    page = dock.label_page
    page.name.setCurrentText("lysosome")
    page.undo()
    assert page.status.text() == "There is nothing to undo."
    dock.canvas.go_to(4)
    page.paint()
    _stroke(window, (0.4, 0.4), (0.4, 0.6))
    painted = page.painted()
    stroke = painted.plane(4).copy()
    page.label_whole_slice()
    assert painted.plane(4).all()
    page.carry_to_next()
    wait_for(lambda: not page.work.is_running)
    assert painted.plane(5).any()
    assert painted.slices == [4, 5]
    page.undo()
    assert painted.slices == [4]
    page.undo()
    np.testing.assert_array_equal(painted.plane(4), stroke)
    press_key(dock.canvas.viewer, "z", control=True)
    assert painted.slices == []
    wait_for(lambda: not painted.unsaved)
    assert annotated_structures(sample)["lysosome"] == ()


def test_what_cannot_be_shown_is_left_out(own_tissue: Sample) -> None:
    """An annotation of an image that was replaced, and corrections of labels that were removed."""
    shape = own_tissue.image().shape
    image = np.zeros(shape, np.uint8)
    image[:, ::2] = 200
    made_on = ("raw", own_tissue.image().fingerprint)
    put(own_tissue, "images/aligned", image, made_on=made_on)
    write_slice(own_tissue, "lysosome", 3, np.ones(shape[1:], np.uint32), "aligned")
    put(own_tissue, "images/aligned", image + 1, made_on=made_on)
    labels = own_tissue.volume("truth", "cells").read(slice(None)).astype(np.uint32)
    computed(own_tissue, "cells", labels, "track")
    merge(own_tissue, "cells", np.unique(labels)[1:3].tolist(), on=QUIET)
    shutil.rmtree(own_tissue.path / "labels" / "cells")
    viewer, dock = open_sample(own_tissue.path)
    names = [layer.name for layer in viewer.layers]
    assert "lysosome (annotation)" not in names
    assert "nucleus (annotation)" in names
    assert "cells (corrections)" not in names
    close(viewer, dock)


def test_another_structure_is_not_trained_at_the_same_time(
    window: tuple[Any, Any, Sample],
) -> None:
    _, dock, _ = window
    page = dock.train_page
    dock.label_page.name.setCurrentText("nucleus")
    page.start()
    dock.label_page.name.setCurrentText("mitochondrion")
    page.start()
    assert page.state.text() == "nucleus is being trained; stop it first."
    page.stop()
    wait_for(lambda: not page.is_running, 60)


def test_moves_of_the_mouse_take_no_reference_to_none_away(
    window: tuple[Any, Any, Sample],
) -> None:
    """PySide6 6.12.0 did, which ends a program on Python 3.11 after minutes."""
    viewer, _, _ = window
    hover(viewer, 20)
    before = sys.getrefcount(None)
    hover(viewer, 200)
    assert sys.getrefcount(None) > before - 200


def test_labels_without_an_image_are_shown_and_edited(tmp_path: Path) -> None:
    labels = np.zeros((5, 60, 70), np.uint32)
    labels[1:4, 10:50, 10:30] = 7
    labels[1:4, 10:50, 35:60] = 4_000_000_000
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    given = ["import", str(tmp_path / "l.tif"), str(tmp_path / "l.zarr"), "--as-labels", "cells"]
    result = CliRunner().invoke(app, [*given, "--voxel-nm", "10", "10", "10", "--quiet"])
    assert result.exit_code == 0, result.output
    viewer, dock = open_sample(tmp_path / "l.zarr")
    assert [layer.name for layer in viewer.layers] == ["cells"]
    page = dock.label_page
    for action in (page.paint, page.suggest_slices, page.draw_box, page.copy_prediction):
        action()
        assert "has no image" in page.status.text()
    dock.tabs.setCurrentWidget(dock.review_page)
    review = dock.review_page
    review.merge()
    assert "Pick two objects" in review.state.text()
    review.pick((2, 20, 20))
    review.pick((2, 20, 50))
    press_key(viewer, "j")
    assert np.unique(whole(Sample.open(tmp_path / "l.zarr"), "cells")).tolist() == [0, 7]
    close(viewer, dock)


def test_a_dropped_sample_is_read_by_the_plugin(own_tissue: Sample) -> None:
    from npe2 import PluginManager, PluginManifest

    manifest = PluginManifest.from_distribution("sparsem")
    manager = PluginManager()
    manager.register(manifest)
    contributions: Any = manifest.contributions
    assert contributions.readers[0].accepts_directories
    assert contributions.widgets[0].display_name == "sparsem"
    layers = napari_get_reader(str(own_tissue.path))(str(own_tissue.path))  # type: ignore[misc]
    assert [options["name"] for _, options, _ in layers] == [
        "raw",
        "mitochondrion (annotation)",
        "nucleolus (annotation)",
        "nucleus (annotation)",
    ]
    assert napari_get_reader("other.zarr") is None
