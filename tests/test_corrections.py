"""Precedence of what a person drew: corrections, hand-labeled slices, edits of objects."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from sparsem.annotation.corrections import UNCORRECTED, count_undoable, read_corrections
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.precedence import apply_precedence, is_precedence_current
from sparsem.annotation.writing import write_annotation, write_slice
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock
from sparsem.io.settings import ImportSettings
from sparsem.labels import edit
from sparsem.labels.constrain import constrain
from sparsem.labels.correct import correct
from sparsem.labels.editing import (
    delete_objects,
    fill_objects,
    keep_objects,
    merge_objects,
    relabel_object,
)
from sparsem.labels.inventory import describe, remove_pieces
from sparsem.labels.object_index import find_runs, object_boxes, object_index
from sparsem.labels.results import is_outdated, result_labels
from sparsem.measure.measure import measure
from sparsem.phantom.phantom import phantom
from sparsem.report.export import export
from sparsem.score.score import score
from sparsem.settings import Settings, changed
from sparsem.store.patches import link_tree, replace_chunks
from sparsem.store.sample import Sample
from sparsem.store.transforms import warp
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

from .conftest import TISSUE, copy_of, files_in, voxels

QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)

Labels = NDArray[Any]


def _block(block: ZBlock, path: str, content: Labels) -> BlockResult:
    return {path: content[block.own]}, {}


def computed(
    sample: Sample, name: str, content: Labels, stage: str = "predict", image: str | None = None
) -> None:
    """Write labels as a stage computes them, with what was drawn before."""
    source = sample.image(image or "raw")
    made_on = (image or "raw", source.fingerprint)
    output = source.like(f"labels/{name}", content.dtype, Kind.LABELS, made_on)
    inputs = {"content": str(hash(content.tobytes()))}
    with Stage(sample, f"{stage}-{name}", Settings(), inputs, [output], AGAIN) as running:
        running.map(_block, source.blocks(), output.path, content)
    apply_precedence(sample, name, quiet=True)


def whole(sample: Sample, name: str) -> Labels:
    return sample.volume("labels", name).read(slice(None))


def blobs(shape: Sequence[int], seed: int, n: int = 12, dtype: Any = np.uint32) -> Labels:
    """Boxes of random size, numbered, which may cover each other."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype)
    for number in range(1, n + 1):
        low = [rng.integers(0, length) for length in shape]
        size = [rng.integers(1, max(2, length // 3)) for length in shape]
        box = tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))
        labels[box] = number
    return labels


def labels_only(labels: Labels, path: Path) -> Sample:
    """A sample without an image."""
    tifffile.imwrite(path.with_suffix(".tif"), labels, photometric="minisblack")
    options = ImportSettings(voxel_nm=(8, 8, 8), block_depth=3, label_type="objects")
    source = path.with_suffix(".tif")
    return import_labels(path.with_suffix(".zarr"), "cells", source, options, on=QUIET)


@pytest.fixture
def wide(tmp_path: Path) -> Sample:
    """Labels of 2 x 2 x 3 chunks and several levels."""
    return labels_only(blobs((6, 530, 1040), seed=3, n=40), tmp_path / "wide")


# Copies in which few chunks differ.


def test_replaced_chunks_equal_a_volume_that_is_written_anew(wide: Sample, tmp_path: Path) -> None:
    volume = wide.volume("labels", "cells")
    before = files_in(volume.directory)
    assert volume.levels > 1
    new = whole(wide, "cells")
    new[3:6, 512:530, 512:1024] = blobs((3, 18, 512), seed=8)
    new[0:3, 0:512, 1024:1040] = 5
    link_tree(volume.directory, tmp_path / "copy")
    patches = [
        ((1, 1, 1), new[3:6, 512:530, 512:1024]),
        ((0, 0, 2), new[0:3, 0:512, 1024:1040]),
    ]
    assert replace_chunks(tmp_path / "copy", iter(patches)) == [(1, 1, 1), (0, 0, 2)]
    anew = labels_only(new, tmp_path / "new")
    for patched, written in zip(
        voxels(Volume(tmp_path / "copy")), voxels(anew.volume("labels", "cells")), strict=True
    ):
        np.testing.assert_array_equal(patched, written)
    assert files_in(volume.directory) == before  # links are never written through
    chunk = Path("0", "c", "0", "0", "0")
    assert (volume.directory / chunk).samefile(tmp_path / "copy" / chunk)


def test_a_file_system_without_hard_links_gets_copies(
    wide: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    original = whole(wide, "cells")
    edit.delete(wide, "cells", [3], on=QUIET)
    np.testing.assert_array_equal(whole(wide, "cells"), delete_objects(original, [3]))
    edit.undo(wide, "cells", on=QUIET)
    np.testing.assert_array_equal(whole(wide, "cells"), original)


# Where objects are.


@pytest.mark.parametrize("seed", range(5))
def test_object_boxes_are_those_of_scipy(seed: int) -> None:
    labels = blobs((6, 40, 50), seed, n=20)
    expected = []
    for number, box in enumerate(find_objects(labels.astype(np.int64)), 1):
        if box is not None:
            low, high = [a.start for a in box], [a.stop for a in box]
            expected.append([number, *low, *high, int((labels == number).sum())])
    assert object_boxes(labels).tolist() == expected


def test_runs_do_not_cross_rows() -> None:
    runs = find_runs(np.ones((2, 2, 3), np.uint8))
    assert runs.rows.tolist() == [[0, 0, 0, 3], [0, 1, 0, 3], [1, 0, 0, 3], [1, 1, 0, 3]]
    assert object_boxes(np.zeros((2, 2, 3), np.uint8)).shape == (0, 8)


def test_an_index_holds_whole_objects_and_follows_edits(wide: Sample) -> None:
    index = object_index(wide, "cells", quiet=True)
    np.testing.assert_array_equal(index.objects(), object_boxes(whole(wide, "cells")))
    edit.merge(wide, "cells", index.ids[[1, 4, 9]].tolist(), on=QUIET)
    renewed = object_index(wide, "cells", quiet=True)
    np.testing.assert_array_equal(renewed.objects(), object_boxes(whole(wide, "cells")))
    with pytest.raises(InputError, match="There is no object 999"):
        renewed.box_of([999])


# Edits of objects.


def _merge(sample: Sample, ids: list[int]) -> None:
    edit.merge(sample, "cells", ids, on=QUIET)


def _relabel(sample: Sample, ids: list[int]) -> None:
    edit.relabel(sample, "cells", ids[0], 5000, on=QUIET)


def _delete(sample: Sample, ids: list[int]) -> None:
    edit.delete(sample, "cells", ids, on=QUIET)


def _keep(sample: Sample, ids: list[int]) -> None:
    edit.keep(sample, "cells", ids, on=QUIET)


def _fill(sample: Sample, ids: list[int]) -> None:
    edit.fill(sample, "cells", ids, slice_by_slice=True, on=QUIET)


@pytest.mark.parametrize(
    ("apply", "plain"),
    [
        (_merge, merge_objects),
        (_delete, delete_objects),
        (_keep, keep_objects),
        (_relabel, lambda labels, ids: relabel_object(labels, ids[0], 5000)),
        (_fill, lambda labels, ids: fill_objects(labels, ids, slice_by_slice=True)),
    ],
)
def test_an_edit_is_that_of_the_function_of_arrays_on_all_levels_and_can_be_undone(
    wide: Sample,
    tmp_path: Path,
    apply: Callable[[Sample, list[int]], None],
    plain: Callable[[Labels, list[int]], Labels],
) -> None:
    before = whole(wide, "cells")
    original = files_in(wide.path / "labels")
    ids = np.unique(before)[[2, 5, 11]].tolist()
    apply(wide, ids)
    expected = plain(before, ids)
    np.testing.assert_array_equal(whole(wide, "cells"), expected)
    corrections = read_corrections(wide, "cells")
    assert corrections is not None
    assert corrections.n_voxels == int((before != expected).sum())
    anew = labels_only(expected, tmp_path / "new")
    for edited, written in zip(
        voxels(wide.volume("labels", "cells")), voxels(anew.volume("labels", "cells")), strict=True
    ):
        np.testing.assert_array_equal(edited, written)
    edit.undo(wide, "cells", on=QUIET)
    assert files_in(wide.path / "labels") == original
    assert not wide.computed_folder("cells").exists()
    with pytest.raises(SampleError, match="no corrections of 'cells' to undo"):
        edit.undo(wide, "cells", on=QUIET)


def dumbbells(shape: tuple[int, int, int]) -> Labels:
    """Two balls that a bridge joins along x, as object 7."""
    z, y, x = np.indices(shape)
    center = [length / 2 for length in shape]
    labels = np.zeros(shape, np.uint32)
    radius = shape[0] / 2
    for middle in (shape[2] / 4, 3 * shape[2] / 4):
        distance = (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - middle) ** 2
        labels[distance < radius**2] = 7
    bridge = (abs(z - center[0]) < 2) & (abs(y - center[1]) < 2)
    labels[bridge & (x > shape[2] / 4) & (x < 3 * shape[2] / 4)] = 7
    return labels


@pytest.mark.parametrize("max_mvoxels", [64, 1e-3])
def test_an_object_is_split_at_its_neck_at_any_level(tmp_path: Path, max_mvoxels: float) -> None:
    labels = dumbbells((24, 40, 1100))
    labels[:, :, :4] = 9
    sample = labels_only(labels, tmp_path / "a")
    seeds = [(12, 20, 275)], [(12, 20, 825)]
    result = edit.split(sample, "cells", 7, *seeds, max_mvoxels=max_mvoxels, on=QUIET)
    assert result.ids == (7, edit.DRAWN_IDS + 1)
    after = whole(sample, "cells")
    assert ((after > 0) == (labels > 0)).all()
    assert (after[labels == 9] == 9).all()
    columns = [np.flatnonzero((after == number).any(axis=(0, 1))) for number in result.ids]
    # Both reach over the bridge, and meet between the balls.
    assert columns[0].max() < 825 - 12
    assert columns[1].min() > 275 + 12
    assert abs(int(columns[0].max()) - int(columns[1].min())) <= 16


def test_seeds_outside_of_the_object_are_refused(wide: Sample) -> None:
    labels = whole(wide, "cells")
    inside = tuple(int(n) for n in np.argwhere(labels == 40)[0])
    outside = tuple(int(n) for n in np.argwhere(labels == 0)[0])
    with pytest.raises(InputError, match="does not lie in object 40: it lies in no object"):
        edit.split(wide, "cells", 40, [inside], [outside], on=QUIET)
    assert read_corrections(wide, "cells") is None


def test_objects_of_a_mask_are_edited_by_their_numbers(own_tissue: Sample) -> None:
    mask = (own_tissue.volume("truth", "mitochondrion").read(slice(None)) > 0).astype(np.uint8)
    remove_pieces(own_tissue, ["annotations/mitochondrion"])
    computed(own_tissue, "mitochondrion", mask)
    with pytest.raises(SampleError, match="is a mask, so its objects have no numbers"):
        edit.merge(own_tissue, "mitochondrion", [1, 2], on=QUIET)
    measure(own_tissue, texture=False, on=QUIET)
    objects = whole(own_tissue, "mitochondrion-objects")
    merged = edit.merge(own_tissue, "mitochondrion", [1, 2], on=QUIET)
    assert merged.ids == (edit.DRAWN_IDS + 1,)
    deleted = edit.delete(own_tissue, "mitochondrion", [3], on=QUIET)
    assert deleted.written == ("labels/mitochondrion-objects", "labels/mitochondrion")
    np.testing.assert_array_equal(
        whole(own_tissue, "mitochondrion"), np.where(objects == 3, 0, mask)
    )
    measure(own_tissue, texture=False, on=AGAIN)  # the mask has other objects, numbered anew
    table = own_tissue.read_table("mitochondrion").to_pydict()
    n_before = len(np.unique(objects)) - 1
    assert len(table["object"]) == n_before - 2
    assert merged.ids[0] in table["object"]
    edit.undo(own_tissue, "mitochondrion", on=QUIET)
    np.testing.assert_array_equal(whole(own_tissue, "mitochondrion"), mask)
    measure(own_tissue, texture=False, on=AGAIN)
    assert own_tissue.read_table("mitochondrion").num_rows == n_before - 1


def test_keeping_objects_of_a_mask_removes_small_components_too(own_tissue: Sample) -> None:
    mask = (own_tissue.volume("truth", "mitochondrion").read(slice(None)) > 0).astype(np.uint8)
    mask[0, 0, 0] = 1  # a component that is too small to be an object
    remove_pieces(own_tissue, ["annotations/mitochondrion"])
    computed(own_tissue, "mitochondrion", mask)
    measure(own_tissue, texture=False, min_volume_um3={"mitochondrion": 1e-4}, on=QUIET)
    objects = whole(own_tissue, "mitochondrion-objects")
    assert objects[0, 0, 0] == 0
    edit.keep(own_tissue, "mitochondrion", [2], on=QUIET)
    np.testing.assert_array_equal(whole(own_tissue, "mitochondrion") > 0, objects == 2)


# Corrections of another program.


def test_a_corrected_slice_counts_now_and_after_the_next_run(
    own_tissue: Sample, tmp_path: Path
) -> None:
    remove_pieces(own_tissue, ["annotations/nucleus"])
    rng = np.random.default_rng(0)
    shape = own_tissue.image("raw").shape
    first, second = (rng.integers(0, 2, shape).astype(np.uint8) for _ in range(2))
    drawn = rng.integers(0, 2, shape[1:]).astype(np.uint8)
    computed(own_tissue, "nucleus", first)
    tifffile.imwrite(tmp_path / "drawn.tif", drawn * 255, photometric="minisblack")
    result = correct(own_tissue, "nucleus", tmp_path / "drawn.tif", slices=[10], on=QUIET)
    assert result.slices == (10,)
    assert result.voxels == int((drawn != first[10]).sum())
    expected = first.copy()
    expected[10] = drawn
    np.testing.assert_array_equal(whole(own_tissue, "nucleus"), expected)
    computed(own_tissue, "nucleus", second)
    expected = second.copy()
    changed = drawn != first[10]
    expected[10][changed] = drawn[changed]
    np.testing.assert_array_equal(whole(own_tissue, "nucleus"), expected)
    np.testing.assert_array_equal(own_tissue.computed("nucleus").read(slice(None)), second)
    assert own_tissue.history()[-1]["settings"]["corrected_voxels"] == result.voxels
    assert describe(own_tissue)["corrections"] == {"nucleus": result.voxels}
    remove_pieces(own_tissue, ["corrections/nucleus"])
    np.testing.assert_array_equal(whole(own_tissue, "nucleus"), second)
    assert own_tissue.volume("labels", "nucleus").snapshot.computed is None


def test_exported_corrections_can_be_imported_again(own_tissue: Sample, tmp_path: Path) -> None:
    labels = blobs(own_tissue.image("raw").shape, seed=1)
    computed(own_tissue, "cells", labels, "track")
    corrected = labels.copy()
    corrected[4:6, 10:50, 20:100] = 77
    corrected[12, :30] = 78
    tifffile.imwrite(tmp_path / "corrected.tif", corrected, photometric="minisblack")
    result = correct(own_tissue, "cells", tmp_path / "corrected.tif", slices="all", on=QUIET)
    export(own_tissue, ["corrections/cells"], tmp_path / "drawn.tif", on=QUIET)
    drawn = tifffile.imread(tmp_path / "drawn.tif")
    assert result.slices == (4, 5, 12)
    assert drawn.shape == (3, *labels.shape[1:])
    assert (drawn != UNCORRECTED).sum() == result.voxels
    edit.clear(own_tissue, "cells", on=QUIET)
    correct(
        own_tissue, "cells", tmp_path / "drawn.tif", slices=[4, 5, 12], ignore=UNCORRECTED, on=QUIET
    )
    np.testing.assert_array_equal(whole(own_tissue, "cells"), corrected)


def test_a_corrected_box_leaves_the_rest(own_tissue: Sample, tmp_path: Path) -> None:
    remove_pieces(own_tissue, ["annotations/nucleus"])
    shape = own_tissue.image("raw").shape
    labels = blobs(shape, seed=1)
    computed(own_tissue, "cells", labels, "track")
    crop = labels[4:9, 10:50, 20:100] + 100
    tifffile.imwrite(tmp_path / "crop.tif", crop, photometric="minisblack")
    correct(own_tissue, "cells", tmp_path / "crop.tif", box="4:9,10:50,20:100", on=QUIET)
    labels[4:9, 10:50, 20:100] = crop
    np.testing.assert_array_equal(whole(own_tissue, "cells"), labels)
    again = correct(own_tissue, "cells", tmp_path / "crop.tif", box="4:9,10:50,20:100", on=QUIET)
    assert again.voxels == 0  # nothing differs
    assert count_undoable(own_tissue, "cells") == 1


# Hand-labeled slices, and what follows from labels.


def test_labeled_slices_count_in_predictions_and_not_in_imported_labels(
    own_tissue: Sample, tmp_path: Path
) -> None:
    shape = own_tissue.image("raw").shape
    truth = own_tissue.volume("truth", "nucleus").read(slice(None)) > 0
    computed(own_tissue, "nucleus", np.zeros(shape, np.uint8))
    labels = whole(own_tissue, "nucleus")
    for z in range(shape[0]):
        expected = truth[z] if z in (0, 9, 18) else np.zeros(shape[1:], bool)
        np.testing.assert_array_equal(labels[z], expected)
    objects = blobs(shape, seed=4)
    tifffile.imwrite(tmp_path / "objects.tif", objects, photometric="minisblack")
    import_labels(own_tissue.path, "nucleus", tmp_path / "objects.tif", on=AGAIN)
    np.testing.assert_array_equal(whole(own_tissue, "nucleus"), objects)


def test_a_score_leaves_out_what_a_person_drew(own_tissue: Sample) -> None:
    shape = own_tissue.image("raw").shape
    truth = own_tissue.volume("truth", "nucleus").read(slice(None))
    computed(own_tissue, "nucleus", np.ones(shape, np.uint8))
    drawn = score(own_tissue, "nucleus", with_drawn=True, on=QUIET)
    assert not is_outdated(own_tissue, "nucleus", "score")
    honest = score(own_tissue, "nucleus", on=QUIET)
    assert not is_outdated(own_tissue, "nucleus", "score")
    fraction = (truth[9] > 0).mean()
    assert honest.slices[9].dice == pytest.approx(2 * fraction / (1 + fraction))
    assert drawn.slices[9].dice == 1
    constrain(own_tissue, inside_cells=False, on=QUIET)
    assert is_outdated(own_tissue, "nucleus", "score")  # the constrained labels count now
    assert score(own_tissue, "nucleus", on=QUIET).slices[9].dice == honest.slices[9].dice
    assert not is_outdated(own_tissue, "nucleus", "score")
    assert score(own_tissue, "nucleus", with_drawn=True, on=QUIET).slices[9].dice == 1


def test_constraints_never_remove_what_a_person_drew(own_tissue: Sample) -> None:
    shape = own_tissue.image("raw").shape
    remove_pieces(own_tissue, ["annotations/nucleolus"])
    computed(own_tissue, "nucleus", np.zeros(shape, np.uint8))
    computed(own_tissue, "mitochondrion", np.ones(shape, np.uint8))
    constrain(own_tissue, inside_cells=False, on=QUIET)
    drawn = own_tissue.volume("truth", "nucleus").read(slice(9, 10))[0] > 0
    nucleus = result_labels(own_tissue, "nucleus").read(slice(9, 10))[0]
    np.testing.assert_array_equal(nucleus, drawn)


def test_a_run_that_was_killed_before_its_corrections_is_noticed(
    own_tissue: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = own_tissue.image("raw").shape
    with monkeypatch.context() as patch:
        patch.setattr("tests.test_corrections.apply_precedence", lambda *_, **__: None)
        computed(own_tissue, "nucleus", np.zeros(shape, np.uint8))
    assert not is_precedence_current(own_tissue, "nucleus")
    with pytest.raises(SampleError, match=r"lacks labels that were drawn by hand.*sparsem correct"):
        result_labels(own_tissue, "nucleus")
    correct(own_tissue, "nucleus", on=QUIET)
    assert result_labels(own_tissue, "nucleus").read(slice(9, 10)).any()


def test_a_slice_that_is_written_alone_equals_all_slices_written_together(
    own_tissue: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    planes = {z: rng.integers(0, 2, (96, 128)).astype(np.uint32) for z in (3, 7, 12)}
    planes[7][:, :40] = UNCORRECTED  # the same number marks unlabeled pixels
    for z in (7, 3, 12):
        write_slice(own_tissue, "alone", z, planes[z] * 0 + 1, "raw")
        write_slice(own_tissue, "alone", z, planes[z], "raw")
    write_annotation(own_tissue, "together", tuple(planes), planes.values(), ignore=UNCORRECTED)
    alone, together = (own_tissue.path / "annotations" / name for name in ("alone", "together"))
    first, second = (json.loads((a / "zarr.json").read_text()) for a in (alone, together))
    second_record = second["attributes"]["sparsem"]
    second_record["empty"] = {"alone": second_record["empty"]["together"]}
    assert first["attributes"]["sparsem"] == second_record
    assert files_in(alone / "labels") == files_in(together / "labels")


def test_the_depth_of_blocks_changes_no_label(tmp_path: Path) -> None:
    results = []
    for depth in (1, 7, 16):
        sample = phantom(tmp_path / f"{depth}.zarr", changed(TISSUE, {"block_depth": depth}))
        shape = sample.image("raw").shape
        labels = blobs(shape, seed=2, n=30)
        write_annotation(sample, "cells", (3, 9), [labels[3] + 1, labels[9]])
        computed(sample, "cells", labels, "track")
        corrected = np.random.default_rng(1).integers(0, 5, (4, 30, 40)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "crop.tif", corrected, photometric="minisblack")
        correct(sample, "cells", tmp_path / "crop.tif", box="5:9,10:40,20:60", on=QUIET)
        ids = np.unique(whole(sample, "cells"))[[2, 5, 8]].tolist()
        edit.merge(sample, "cells", ids[:2], on=QUIET)
        edit.delete(sample, "cells", ids[2:], on=QUIET)
        results.append(whole(sample, "cells"))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# A plain model of the rules.


def _annotate(sample: Sample, folder: Path, z: int, seed: int) -> Labels:
    drawn = np.random.default_rng(seed).integers(0, 3, sample.image("raw").shape[1:], np.uint8)
    tifffile.imwrite(folder / "annotated.tif", drawn, photometric="minisblack")
    import_annotation(
        sample,
        "nucleus",
        folder / "annotated.tif",
        slices=[z],
        add="nucleus" in sample.names("annotations"),
        image="raw",
        ignore=2,
        on=AGAIN,
    )
    return drawn


operations = st.lists(
    st.tuples(
        st.sampled_from(["predict", "annotate", "correct", "undo", "clear", "align", "forget"]),
        st.integers(0, 10_000),
    ),
    min_size=3,
    max_size=8,
)


def _shifts(n_slices: int, seed: int) -> NDArray[np.float64]:
    motions = np.repeat(np.array([[[1.0, 0, 0], [0, 1, 0]]]), n_slices, axis=0)
    motions[:, :, 2] = np.random.default_rng(seed).integers(-6, 7, (n_slices, 2))
    return motions


def _aligned(sample: Sample, motions: NDArray[np.float64]) -> None:
    raw = sample.image("raw")
    spec = raw.like("images/aligned", raw.dtype, Kind.IMAGE, ("raw", raw.fingerprint))
    spec = replace(spec, motions=motions)
    inputs = {"motions": str(motions.tolist())}
    content = raw.read(slice(None))
    with Stage(sample, "align", Settings(), inputs, [spec], AGAIN) as running:
        running.map(_block, raw.blocks(), spec.path, content)


@given(steps=operations)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_labels_are_those_of_a_plain_model_of_the_rules(
    tissue: Sample, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    sample = copy_of(tissue, folder / "a.zarr")
    remove_pieces(sample, [f"annotations/{name}" for name in sample.names("annotations")])
    shape = sample.image("raw").shape
    network = np.zeros(shape, np.uint8)
    computed(sample, "nucleus", network)
    motions = None  # of the image that labels are made on
    annotated: dict[int, Labels] = {}
    versions: list[tuple[bool, Labels]] = [(False, np.full(shape, UNCORRECTED, np.uint32))]

    def moved(plane: Labels, z: int, outside: int) -> Labels:
        if motions is None:
            return plane
        return warp(plane, motions[z], shape[1:], "nearest", outside)

    def model() -> Labels:
        labels = network.copy()
        for z, plane in annotated.items():
            drawn = moved(plane, z, 2)
            labels[z] = np.where(drawn == 2, labels[z], drawn)
        is_aligned, values = versions[-1]
        for z in range(shape[0]):
            plane = values[z] if is_aligned else moved(values[z], z, UNCORRECTED)
            labels[z] = np.where(plane == UNCORRECTED, labels[z], plane)
        return labels

    for operation, seed in steps:
        rng = np.random.default_rng(seed)
        z = int(rng.integers(0, shape[0]))
        if operation == "predict":
            network = rng.integers(0, 2, shape).astype(np.uint8)
            computed(sample, "nucleus", network, image="aligned" if motions is not None else None)
        elif operation == "annotate":
            annotated[z] = _annotate(sample, folder, z, seed)
        elif operation == "forget" and annotated:
            remove_pieces(sample, ["annotations/nucleus"])
            annotated = {}
        elif operation == "correct":
            stop = min(z + int(rng.integers(1, 6)), shape[0])
            drawn = rng.integers(0, 2, (stop - z, *shape[1:])).astype(np.uint8)
            tifffile.imwrite(folder / "c.tif", drawn, photometric="minisblack")
            before = model()
            listed = list(range(z, stop))
            result = correct(sample, "nucleus", folder / "c.tif", slices=listed, on=QUIET)
            was_aligned, values = versions[-1]
            values = values.copy()
            if motions is not None and not was_aligned:
                values = np.stack([moved(values[n], n, UNCORRECTED) for n in range(shape[0])])
            differs = before[z:stop] != drawn
            values[z:stop][differs] = drawn[differs]
            if differs.any():
                versions.append((motions is not None, values))
            assert result.voxels == int(differs.sum())
        elif operation == "undo" and len(versions) > 1:
            edit.undo(sample, "nucleus", on=QUIET)
            versions.pop()
        elif operation == "clear" and (versions[-1][1] != UNCORRECTED).any():
            edit.clear(sample, "nucleus", on=QUIET)
            versions.append((motions is not None, np.full(shape, UNCORRECTED, np.uint32)))
        elif operation == "align" and motions is None:
            motions = _shifts(shape[0], seed)
            _aligned(sample, motions)
            network = rng.integers(0, 2, shape).astype(np.uint8)
            computed(sample, "nucleus", network, image="aligned")
        np.testing.assert_array_equal(whole(sample, "nucleus"), model())
        assert is_precedence_current(sample, "nucleus")
    shutil.rmtree(folder)


# Kills.


def test_a_kill_at_any_rename_loses_at_most_the_edit_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    original_replace = os.replace
    small = labels_only(blobs((4, 60, 560), seed=3), tmp_path / "small")
    before = whole(small, "cells")
    expected = merge_objects(before, [3, 7])
    finished = False
    for survived in range(40):
        link_tree(small.path, tmp_path / f"{survived}.zarr")
        sample = Sample.open(tmp_path / f"{survived}.zarr")
        edit.delete(sample, "cells", [12], on=QUIET)
        start = whole(sample, "cells")
        left = survived

        def replace_until(source: Any, target: Any) -> None:
            nonlocal left
            if not left:
                raise KilledError
            left -= 1
            original_replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_until)
            try:
                edit.merge(sample, "cells", [3, 7], on=QUIET)
                finished = True
            except KilledError:
                pass
        correct(sample, "cells", on=QUIET)  # any later command that applies corrections
        after = whole(sample, "cells")
        is_done = np.array_equal(after, delete_objects(expected, [12]))
        assert is_done or np.array_equal(after, start)
        if finished:
            assert is_done
            break
        edit.merge(sample, "cells", np.unique(after)[[1, 2]].tolist(), on=QUIET)
        edit.undo(sample, "cells", on=QUIET)
        np.testing.assert_array_equal(whole(sample, "cells"), after)
        shutil.rmtree(sample.path)
    assert finished


def test_a_lost_chunk_of_corrections_is_an_error(wide: Sample) -> None:
    edit.delete(wide, "cells", [40], on=QUIET)
    chunk = next(p for p in (wide.path / "corrections/cells/voxels/c").rglob("*") if p.is_file())
    chunk.unlink()
    with pytest.raises(SampleError, match="lost a chunk of its corrections"):
        edit.delete(wide, "cells", [39], on=QUIET)


def test_corrections_are_part_of_the_attributes_of_labels(wide: Sample) -> None:
    edit.delete(wide, "cells", [40], on=QUIET)
    record = json.loads((wide.path / "labels/cells/zarr.json").read_text())
    drawn = record["attributes"]["sparsem"]["drawn"]
    assert drawn["corrected_voxels"] == sum(
        json.loads((wide.path / "corrections/cells/zarr.json").read_text())["attributes"][
            "sparsem"
        ]["counts"].values()
    )
