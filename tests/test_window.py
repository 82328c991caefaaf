"""The window, with the real napari: events go through the canvas of a viewer on a display."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsem.annotation.labeled_slices import read_annotation
from sparsem.cells.accepted import accepted_places
from sparsem.cells.cells import cells
from sparsem.cells.track import track
from sparsem.labels.editing import delete_objects, merge_objects
from sparsem.store.sample import Sample
from sparsem.viewer.reader import napari_get_reader
from sparsem.workflow.execution import Execution

from .test_cells import tissue_of_depth
from .test_corrections import computed, whole
from .window_tools import close, display, drag, open_sample, press_key, spin, wait_for

pytest.importorskip("napari", reason="the window needs the extra 'napari'")
pytestmark = [
    pytest.mark.xdist_group("window"),
    pytest.mark.filterwarnings("ignore"),  # of napari, vispy and Qt
]

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


def test_filled_slices_lie_between_the_painted_ones(window: tuple[Any, Any, Sample]) -> None:
    _, dock, sample = window
    page = dock.label_page
    page.name.setCurrentText("nucleus")
    dock.canvas.go_to(5)
    page.fill_between()
    painted = page.painted()
    wait_for(lambda: not painted.unsaved)
    truth = sample.volume("truth", "nucleus").read(slice(None)) > 0
    plane = painted.plane(4)
    drawn = (plane > 0) & (plane != painted.background)
    dice = 2 * (drawn & truth[4]).sum() / (drawn.sum() + truth[4].sum())
    assert dice > 0.85
    assert set(read_annotation(sample, "nucleus").z) >= set(range(10))


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
