"""Nothing that was painted or labeled is lost: several writers, kills, images that change."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from sparsem.annotation.corrected_predictions import computed_slice
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.labeled_slices import (
    annotation_attributes,
    read_annotation,
    recorded_origins,
)
from sparsem.annotation.painted import PaintedAnnotation
from sparsem.annotation.unsaved import unsaved_names
from sparsem.annotation.writing import write_annotation, write_slice
from sparsem.errors import InputError, SampleError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels import edit
from sparsem.labels.correct import correct
from sparsem.labels.object_index import object_index, stored_index
from sparsem.labels.objects import objects
from sparsem.labels.results import result_labels
from sparsem.phantom.phantom import phantom
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind
from sparsem.workflow.stage import Stage

from .conftest import TISSUE, copy_of
from .test_corrections import AGAIN, QUIET, _block, computed, whole

SHAPE = (8, 96, 128)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    settings = TISSUE.model_copy(update={"shape": SHAPE, "block_depth": 4})
    return phantom(tmp_path_factory.mktemp("small") / "small.zarr", settings, on=QUIET)


@pytest.fixture
def sample(small: Sample, tmp_path: Path) -> Sample:
    return copy_of(small, tmp_path / "own.zarr")


def align_by_30_px(sample: Sample) -> None:
    """Write an aligned image that is larger, and moved along y."""
    raw = sample.image("raw")
    motions = np.repeat(np.array([[[1.0, 0, -30], [0, 1, 0]]]), SHAPE[0], axis=0)
    shape = (SHAPE[0], SHAPE[1] + 34, SHAPE[2])
    spec = raw.like("images/aligned", raw.dtype, Kind.IMAGE, ("raw", raw.fingerprint))
    content = np.zeros(shape, raw.dtype)
    content[:, 30 : 30 + SHAPE[1]] = raw.read(slice(None))
    spec = replace(spec, shape=shape, motions=motions)
    with Stage(sample, "align", TISSUE, {}, [spec], AGAIN) as running:
        running.map(_block, raw.blocks(), spec.path, content)


def test_slices_are_read_while_another_thread_writes_others(sample: Sample) -> None:
    labels = {z: np.full(SHAPE[1:], z + 1, np.uint32) for z in range(0, 8, 2)}
    write_annotation(sample, "nucleus", tuple(labels), list(labels.values()))
    painted = PaintedAnnotation(sample, "nucleus")
    is_over = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not is_over.is_set():
            # The slice comes and goes in front of the one that is read: its position changes.
            number = 1 + 2 * (len(written) % 3)
            write_slice(sample, "nucleus", number, np.full(SHAPE[1:], 99, np.uint32), "raw")
            written.append(number)
            time.sleep(0.005)  # readers starve otherwise where there is one core

    writer = threading.Thread(target=write)
    writer.start()
    values = set()
    reads = 0
    begun = time.monotonic()
    try:
        while (reads < 60 or len(written) <= 5) and time.monotonic() - begun < 60:
            values.add(tuple(np.unique(painted._read(6))))
            reads += 1
    finally:
        is_over.set()
        writer.join()
    assert len(written) > 5
    assert values == {(7,)}


def test_labels_of_another_process_are_not_taken_back_by_a_stroke(sample: Sample) -> None:
    write_annotation(sample, "nucleus", (2,), [np.ones(SHAPE[1:], np.uint32)])
    painted = PaintedAnnotation(sample, "nucleus")
    assert (painted.plane(2) == 1).all()
    write_slice(sample, "nucleus", 2, np.zeros(SHAPE[1:], np.uint32), "raw")
    painted[2, 0, 0] = 1
    painted.close()
    objects, _ = read_annotation(sample, "nucleus").objects(0)
    assert objects.sum() == 1


def test_a_replacement_that_was_killed_is_restored_before_painting(sample: Sample) -> None:
    write_annotation(sample, "nucleus", (2,), [np.ones(SHAPE[1:], np.uint32)])
    final = sample.path / "annotations" / "nucleus"
    final.rename(sample.path / ".sparsem" / "work" / "annotation-nucleus-replaced")
    painted = PaintedAnnotation(sample, "nucleus")
    assert painted.slices == [2]
    painted[2, 0, 0] = painted.background
    painted.close()
    objects, known = read_annotation(sample, "nucleus").objects(0)
    assert known.all()
    assert objects.sum() == objects.size - 1


@pytest.mark.parametrize("background", [2, None])
def test_where_0_is_unlabeled_painted_background_is_background(
    sample: Sample, background: int | None
) -> None:
    labels = np.zeros(SHAPE[1:], np.uint32)
    labels[10:20, 10:20] = 1
    labels[40:60, 40:80] = background or 0
    write_annotation(sample, "nucleus", (2,), [labels], ignore=0, background=background)
    painted = PaintedAnnotation(sample, "nucleus")
    painted[2, 0:5, 0:5] = 1
    painted[2, 70:80, 0:10] = painted.background
    painted.close()
    objects, known = read_annotation(sample, "nucleus").objects(0)
    assert objects.sum() == 100 + 25
    assert known.sum() == 100 + 25 + 100 + (800 if background else 0)
    again = PaintedAnnotation(sample, "nucleus")
    assert (again.plane(2) == again.background).sum() == 100 + (800 if background else 0)


def test_background_that_waits_is_background_where_0_is_unlabeled(sample: Sample) -> None:
    labels = np.zeros(SHAPE[1:], np.uint32)
    labels[10:20, 10:20] = 1
    write_annotation(sample, "nucleus", (2,), [labels], ignore=0)
    painted = PaintedAnnotation(sample, "nucleus")
    with sample.locked():
        painted[2, 70:80, 0:10] = painted.background
        with pytest.raises(SampleError):
            painted.save()
        assert painted._saver is not None
        painted._saver.stop()
    again = PaintedAnnotation(sample, "nucleus")
    assert (again.plane(2) == again.background).sum() == 100
    again.close()
    objects, known = read_annotation(sample, "nucleus").objects(0)
    assert (objects.sum(), known.sum()) == (100, 200)


def test_strokes_that_wait_keep_their_image_and_origin(sample: Sample) -> None:
    computed(sample, "lysosome", np.ones(SHAPE, np.uint8))
    painted = PaintedAnnotation(sample, "lysosome")
    with sample.locked():
        painted[4, 10:20, 30:40] = 1
        painted.start_from_prediction(6, np.ones(SHAPE[1:], np.uint8))
        time.sleep(0.6)
        assert unsaved_names(sample) == ["lysosome"]
        files = sorted((sample.path / ".sparsem" / "unsaved" / "lysosome").glob("*.npz"))
        written = [file.stat().st_mtime_ns for file in files]
        with pytest.raises(SampleError, match="Another run"):
            painted.save()
        assert [file.stat().st_mtime_ns for file in files] == written  # not written again
        assert painted._saver is not None
        painted._saver.stop()  # as if the window was killed
    align_by_30_px(sample)
    again = PaintedAnnotation(sample, "lysosome")
    assert again.image == "raw"
    again.close()
    assert not unsaved_names(sample)
    assert annotation_attributes(sample, "lysosome")["image"] == "raw"
    assert recorded_origins(sample, "lysosome") == {4: "manual", 6: "corrected prediction"}


def test_a_prediction_that_is_copied_over_strokes_is_recorded(sample: Sample) -> None:
    painted = PaintedAnnotation(sample, "nucleus")
    painted[3, 0, 0] = 1
    painted.save()
    painted.start_from_prediction(3, np.ones(SHAPE[1:], np.uint8))
    painted.close()
    assert recorded_origins(sample, "nucleus") == {3: "corrected prediction"}


def test_large_numbers_of_a_prediction_are_copied(sample: Sample) -> None:
    labels = np.zeros(SHAPE, np.uint32)
    labels[2, :10], labels[2, 20:30] = 256, 511
    computed(sample, "neurons", labels, "cells")
    painted = PaintedAnnotation(sample, "neurons")
    painted.start_from_prediction(2, computed_slice(sample, "neurons", 2, "raw"))
    painted.close()
    objects, _ = read_annotation(sample, "neurons").objects(0)
    np.testing.assert_array_equal(objects, labels[2])


def test_a_prediction_on_the_aligned_image_is_copied_onto_the_raw_one(sample: Sample) -> None:
    align_by_30_px(sample)
    labels = np.zeros((SHAPE[0], SHAPE[1] + 34, SHAPE[2]), np.uint8)
    labels[3, 40:50, 20:40] = 1
    computed(sample, "nucleus", labels, image="aligned")
    on_raw = computed_slice(sample, "nucleus", 3, "raw")
    expected = np.zeros(SHAPE[1:], np.uint8)
    expected[10:20, 20:40] = 1
    np.testing.assert_array_equal(on_raw, expected)


def test_every_slice_is_tried_and_a_class_of_another_annotation_is_refused(
    sample: Sample,
) -> None:
    labels = np.zeros(SHAPE[1:], np.uint32)
    labels[:9], labels[20:30] = 1, 2
    classes = {"nucleus": [1], "nucleolus": [2]}
    write_annotation(sample, "both", (2,), [labels], classes=classes)
    with pytest.raises(InputError, match="nucleolus"):
        PaintedAnnotation(sample, "nucleolus")
    painted = PaintedAnnotation(sample, "lysosome")
    with sample.locked():
        for z in range(4):
            painted[z, :5, :5] = 1
        with pytest.raises(SampleError):
            painted.save()
        assert painted._saver is not None
        painted._saver.stop()
        files = list((sample.path / ".sparsem" / "unsaved" / "lysosome").glob("*.npz"))
        assert len(files) == 4
    painted.close()
    assert read_annotation(sample, "lysosome").z == (0, 1, 2, 3)


def test_many_strokes_are_one_entry_of_the_history(sample: Sample) -> None:
    before = len(sample.history())
    for value in range(1, 6):
        write_slice(sample, "nucleus", value, np.full(SHAPE[1:], value, np.uint32), "raw")
    entries = [entry for entry in sample.history() if entry["stage"] == "annotate-nucleus"]
    assert len(sample.history()) == before + 1
    assert entries[0]["settings"]["z"] == [1, 2, 3, 4, 5]


def test_corrections_of_labels_count_after_their_image_was_added(tmp_path: Path) -> None:
    labels = np.zeros((5, 60, 70), np.uint32)
    labels[1:4, 10:50, 10:30], labels[1:4, 10:50, 35:60] = 7, 9
    gray = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "i.tif", gray, photometric="minisblack")
    path = tmp_path / "s.zarr"
    settings = ImportSettings(voxel_nm=(10, 10, 10), label_type="objects")
    sample = import_labels(path, "cells", tmp_path / "l.tif", settings, on=QUIET)
    edit.merge(sample, "cells", [7, 9], on=QUIET)
    import_stack(tmp_path / "i.tif", path, ImportSettings(voxel_nm=(10, 10, 10)), on=QUIET)
    sample = Sample.open(path)
    assert np.unique(result_labels(sample, "cells").read(slice(None))).tolist() == [0, 7]
    correct(sample, "cells", on=QUIET)
    assert np.unique(whole(sample, "cells")).tolist() == [0, 7]
    edit.undo(sample, "cells", on=QUIET)
    assert np.unique(whole(sample, "cells")).tolist() == [0, 7, 9]
    edit.delete(sample, "cells", [9], on=QUIET)
    assert np.unique(whole(sample, "cells")).tolist() == [0, 7]


def two_masks() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    first = np.zeros(SHAPE, np.uint8)
    first[2:5, 5:15, 5:15] = first[2:5, 40:60, 40:60] = 1
    second = np.zeros_like(first)
    second[2:5, 10:80, 10:20] = 1
    return first, second


def number(sample: Sample) -> None:
    objects(sample, "lysosome", min_voxels=1, on=AGAIN)


def test_objects_of_an_earlier_mask_are_not_edited(sample: Sample) -> None:
    first, second = two_masks()
    computed(sample, "lysosome", first)
    number(sample)
    edit.delete(sample, "lysosome", [1], on=QUIET)
    edit.undo(sample, "lysosome", on=QUIET)  # edits themselves change the mask
    computed(sample, "lysosome", second)
    with pytest.raises(SampleError, match="changed since its objects were numbered"):
        edit.delete(sample, "lysosome", [1], on=QUIET)
    np.testing.assert_array_equal(whole(sample, "lysosome"), second)


def test_numbers_of_merged_objects_end_where_the_mask_ends(sample: Sample) -> None:
    first, second = two_masks()
    computed(sample, "lysosome", first)
    number(sample)
    edit.merge(sample, "lysosome", [1, 2], on=QUIET)
    objects = whole(sample, "lysosome-objects")
    np.testing.assert_array_equal(objects > 0, first > 0)
    assert len(np.unique(objects)) == 2
    computed(sample, "lysosome", second)
    number(sample)
    np.testing.assert_array_equal(whole(sample, "lysosome-objects") > 0, second > 0)


def test_an_edit_is_applied_or_not_made_at_all(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros(SHAPE, np.uint32)
    labels[1:3, 5:20, 5:20], labels[1:3, 30:50, 5:20], labels[4:7, 30:50, 60:90] = 1, 2, 3
    computed(sample, "cells", labels, "track")
    object_index(sample, "cells", quiet=True)
    # The annotation is written and applied between the choice of objects and the edit.
    with monkeypatch.context() as patch:
        target = edit._target(sample, "cells", quiet=True)
        patch.setattr(edit, "_target", lambda *given: target)
        write_slice(sample, "cells", 6, np.full(SHAPE[1:], 3, np.uint32), "raw")
        correct(sample, "cells", on=QUIET)
        with pytest.raises(SampleError, match="changed while this was prepared"):
            edit.merge(sample, "cells", [1, 2], on=QUIET)
    edit.merge(sample, "cells", [1, 2], on=QUIET)
    index, now = stored_index(sample, "cells"), whole(sample, "cells")
    assert index is not None
    assert index.voxels_of([3]) == (now == 3).sum()
    assert set(np.unique(now)) == {0, 1, 3}


def test_labels_of_another_shape_are_refused(sample: Sample) -> None:
    with pytest.raises(InputError, match="have"):
        write_slice(sample, "nucleus", 1, np.zeros((5, 5), np.uint32), "raw")
    assert "nucleus" not in sample.names("annotations")
