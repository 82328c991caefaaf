"""Alignment of a stack: true drift, bad slices and a jump; labels that move along; the stage."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import UNKNOWN, annotations_on, read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.cli.score_format import alignment_lines
from sparsem.errors import InputError, SampleError
from sparsem.io.writers import write_tiff
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.align import Alignment, align, hardly_drifts
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import AlignSettings, EqualizeSettings
from sparsem.report.export import export
from sparsem.report.layers import read_layers
from sparsem.report.notices import notices
from sparsem.report.report import report
from sparsem.report.settings import ReportSettings
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times, put, voxels

pytestmark = pytest.mark.xdist_group("align")  # one process draws and aligns the stack

FAULTY = PhantomSettings(
    shape=(14, 224, 256),
    voxel_nm=(8, 8, 8),
    cells=3,
    seed=2,
    drift_nm=20,
    jump_nm=480,
    bad_slices=2,
    block_depth=5,
    flicker=5,
    noise=10,
)
LABELED = (0, 6, 13)
REPLACE = Execution(overwrite=True, quiet=True)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A phantom with every fault, cells annotated on three raw slices. Tests must not change it."""
    sample = phantom(tmp_path_factory.mktemp("drifting") / "drifting.zarr", FAULTY)
    truth = sample.volume("truth", "cells").read(slice(None))
    write_annotation(sample, "cells", LABELED, [truth[z] for z in LABELED])
    return sample


@pytest.fixture(scope="module")
def aligned(drifting: Sample, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Alignment]:
    """The same, aligned. Tests must not change it."""
    sample = copy_of(drifting, tmp_path_factory.mktemp("aligned") / "aligned.zarr")
    return sample, align(sample)


def true_shifts(sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (n, 2) the shift of the content of each slice, px, and which slices are good."""
    table = sample.read_table("phantom_slices")
    drift = np.stack([table[f"drift_{axis}_nm"].to_numpy() for axis in "yx"], axis=1)
    return -drift / FAULTY.voxel_nm[1], ~table["bad"].to_numpy()


def test_the_true_drift_bad_slices_and_the_jump_are_found(
    aligned: tuple[Sample, Alignment],
) -> None:
    sample, alignment = aligned
    true, good = true_shifts(sample)
    off = (alignment.motions[:, :, 2] - true)[good]
    assert np.sqrt(np.square(off - off.mean(axis=0)).sum(axis=1).mean()) < 0.5
    assert np.abs(true).max() > 25
    assert alignment.bad == tuple(np.nonzero(~good)[0])
    assert alignment.jumps == (7,)
    assert alignment.breaks == ()
    table = sample.read_table("alignment_aligned")
    assert table["remark"].to_pylist() == [
        "jump" if z == 7 else "bad" if z in alignment.bad else "" for z in range(14)
    ]
    assert np.isnan(table["similarity"][0].as_py())


def test_each_slice_is_resampled_once_and_cropped_to_the_common_area(
    aligned: tuple[Sample, Alignment],
) -> None:
    sample, alignment = aligned
    image = sample.image()
    assert sample.newest_image == "aligned"
    true, good = true_shifts(sample)
    lost = np.ptp(true[good], axis=0)
    assert np.array(image.shape[1:]) == pytest.approx(np.array([224, 256]) - lost, abs=2.5)
    whole = align(
        copy_of(sample, sample.path.with_name("whole.zarr")),
        AlignSettings(canvas="whole", out="whole", image="raw"),
    )
    assert np.allclose(whole.motions[:, :, :2], np.eye(2))
    rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
    y, x = (
        (alignment.motions[3] @ np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)]))
        .round()
        .astype(int)
    )
    exact = sample.image("raw").read(slice(3, 4))[0][y, x].reshape(image.shape[1:])
    assert np.corrcoef(exact.ravel(), image.read(slice(3, 4))[0].ravel())[0, 1] > 0.9


def test_whole_pixels_change_no_gray_level(drifting: Sample, tmp_path: Path) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    alignment = align(sample, AlignSettings(interpolation="nearest", canvas="whole"))
    raw, image = sample.image("raw").read(slice(None)), sample.image("aligned").read(slice(None))
    for z in range(14):
        y, x = np.floor(-alignment.motions[z, :, 2] + 0.5).astype(int)
        assert np.array_equal(image[z, y + 1 : y + 200, x + 1 : x + 200], raw[z, 1:200, 1:200])
    assert (image == 0).any()


def test_neighbors_are_similar_afterwards(aligned: tuple[Sample, Alignment]) -> None:
    sample, alignment = aligned

    def similarity(stack: NDArray[Any]) -> float:
        good = [z for z in range(14) if z not in alignment.bad]
        return float(
            np.median(
                [np.corrcoef(stack[a].ravel(), stack[b].ravel())[0, 1] for a, b in pairwise(good)]
            )
        )

    assert (
        similarity(sample.image("aligned").read(slice(None)))
        > similarity(sample.image("raw").read(slice(None))) + 0.1
    )


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_rotations_can_be_allowed(drifting: Sample, tmp_path: Path, kind: Any) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    alignment = align(sample, AlignSettings(motion=kind))
    true, good = true_shifts(sample)
    center = np.array([111.5, 127.5, 1])
    off = (alignment.motions @ center - true)[good]
    assert np.sqrt(np.square(off - off.mean(axis=0)).sum(axis=1).mean()) < 1
    assert np.abs(alignment.motions[good, :, :2] - np.eye(2)).max() < 0.02


def test_annotations_and_ground_truth_move_along(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    alignment, image = aligned[1], sample.image()
    annotation = read_annotation(sample, "cells", "aligned")
    assert annotation.z == LABELED
    truth = sample.volume("truth", "cells").read(slice(None))
    stack = sample.resample_to(image, truth)
    for index, z in enumerate(LABELED):
        objects, known = annotation.objects(index)
        assert objects.shape == image.shape[1:]
        assert known.all()  # all slices show all of the aligned image
        assert np.array_equal(objects, stack[z : z + 1][0])
        y, x = np.floor(alignment.motions[z, :, 2] + 0.5).astype(int)
        assert np.array_equal(
            objects[5:-5, 5:-5],
            truth[z, y + 5 : y + image.shape[1] - 5, x + 5 : x + image.shape[2] - 5],
        )
    moved_truth = stack[0:14]
    put_on(sample, "labels/cells", moved_truth)
    scores = score(sample, "cells", None, ScoreSettings())
    assert scores.summary()["dice_3d"] == 1
    write_tiff(sample.volume("truth", "cells"), tmp_path / "truth.tif")
    assert score(sample, "cells", tmp_path / "truth.tif").summary()["dice_3d"] == 1


def put_on(sample: Sample, path: str, labels: NDArray[Any]) -> None:
    """Write labels that were made on the aligned image."""
    put(
        sample,
        path,
        labels.astype(np.uint32),
        made_on=("aligned", sample.image("aligned").fingerprint),
    )


def test_a_corner_that_was_not_annotated_is_unknown(drifting: Sample, tmp_path: Path) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    align(sample, AlignSettings(canvas="whole"))
    image, annotations = annotations_on(sample, ["cells"])
    mask = annotations["cells"].mask(0)
    assert mask.shape == image.shape[1:]
    assert (mask == UNKNOWN).sum() == mask.size - 224 * 256
    assert annotations["cells"].fingerprint != read_annotation(sample, "cells").fingerprint


def test_transforms_are_composed_over_several_images(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    equalize(sample)
    assert sample.image("equalized").made_on == ("aligned", sample.image("aligned").fingerprint)
    assert sample.transform_of(sample.image("equalized")).is_same(
        sample.transform_of(sample.image("aligned"))
    )
    objects = read_annotation(sample, "cells", "equalized").objects(1)[0]
    assert np.array_equal(objects, read_annotation(sample, "cells", "aligned").objects(1)[0])
    # Labels drawn on the derived image are transformed to the raw one.
    drawn = np.zeros((1, *sample.image("equalized").shape[1:]), np.uint32)
    drawn[0, 60:90, 50:70] = 3
    write_annotation(sample, "nucleus", [2], drawn, image="equalized")
    back = read_annotation(sample, "nucleus", "raw")
    inside, known = back.objects(0)
    assert (inside == 3).sum() == pytest.approx(600, abs=1)
    assert (~known).any()
    rows, columns = np.nonzero(inside)
    assert (rows.min() - 60, columns.min() - 50) == pytest.approx(
        tuple(aligned[1].motions[2, :, 2]), abs=0.6
    )


def test_labels_of_an_image_that_was_replaced_are_not_carried(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    shape = sample.image("aligned").shape
    put_on(sample, "labels/nucleus", np.ones(shape, np.uint32))
    align(sample, AlignSettings(canvas="whole"), on=REPLACE)
    with pytest.raises(
        SampleError,
        match=r"labels/nucleus of s\.zarr was made on the image 'aligned', which was replaced since",
    ):
        sample.transform_of(sample.volume("labels", "nucleus"))
    stages: tuple[Callable[[], object], ...] = (
        lambda: score(sample, "nucleus"),
        lambda: measure(sample, MeasureSettings(structures=("nucleus",))),
        lambda: export(sample, ["nucleus"], tmp_path / "n.tif"),
    )
    for stage in stages:
        with pytest.raises(SampleError, match="which was replaced since"):
            stage()
    _, problems = read_layers(
        sample, ["nucleus"], "cells", {}
    )  # the report shows them, and says so
    assert any("which was replaced since" in problem for problem in problems)


def test_block_depth_and_workers_change_nothing(
    drifting: Sample, tmp_path: Path, aligned: tuple[Sample, Alignment]
) -> None:
    expected = aligned[0].image("aligned").read(slice(None))
    for depth in (1, 3, 14):
        sample = phantom(tmp_path / f"{depth}.zarr", changed(FAULTY, {"block_depth": depth}))
        align(sample, on=Execution(workers=2 if depth == 3 else 0, quiet=True))
        assert np.array_equal(sample.image("aligned").read(slice(None)), expected)


def test_a_killed_run_ends_in_the_same_bytes(
    drifting: Sample, tmp_path: Path, aligned: tuple[Sample, Alignment]
) -> None:
    resumed = copy_of(drifting, tmp_path / "other.zarr")
    given = {"sample": str(resumed.path), "settings": {}, "seconds": 1.5}
    assert kill_ten_times("align", given) > 0
    assert all(
        np.array_equal(*pair)
        for pair in zip(voxels(aligned[0].image()), voxels(resumed.image()), strict=True)
    )
    assert resumed.image().fingerprint == aligned[0].image().fingerprint


def test_a_break_is_reported_and_unrelated_slices_are_refused(
    tmp_path: Path, drifting: Sample
) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    stack = drifting.image("raw").read(slice(None))
    stack[7:] = stack[7:][:, ::-1, ::-1]  # the block was mounted upside down
    put(sample, "", stack, 5)
    alignment = align(sample, AlignSettings(canvas="whole"))
    assert alignment.breaks == (7,)
    noise = np.random.default_rng(0).integers(0, 255, stack.shape, np.uint8)
    put(sample, "", noise, 5)
    with pytest.raises(InputError, match=r"No two neighboring slices of .* are similar"):
        align(sample, AlignSettings(), on=REPLACE)


def test_an_image_on_which_labels_were_drawn_is_not_replaced(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    before = sample.image("aligned").fingerprint
    write_annotation(
        sample,
        "mito",
        [2],
        np.ones((1, *sample.image("aligned").shape[1:]), np.uint8),
        image="aligned",
    )
    align(sample, AlignSettings(), on=REPLACE)  # the same alignment
    with pytest.raises(
        InputError,
        match=r"annotations/mito of s\.zarr was drawn on images/aligned and cannot follow another alignment; give the new image another",
    ):
        align(sample, AlignSettings(canvas="whole"), on=REPLACE)
    assert sample.image("aligned").fingerprint == before
    assert align(sample, AlignSettings(canvas="whole", out="wide"), on=REPLACE).image == "wide"
    assert read_annotation(sample, "mito", "wide").z == (2,)


def test_settings_of_the_report_do_not_change_the_image(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    before = sample.image("aligned").fingerprint
    alignment = align(sample, AlignSettings(report_jump_nm=100_000))
    assert (alignment.jumps, aligned[1].jumps) == ((), (7,))
    assert sample.image("aligned").fingerprint == before
    assert "jump" not in "".join(sample.read_table("alignment_aligned")["remark"].to_pylist())


def test_an_image_computed_from_a_replaced_image_is_not_used(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    equalize(sample)
    put(sample, "", aligned[0].image("raw").read(slice(None))[:, ::-1], 5)
    for work in (
        lambda: sample.image(),
        lambda: equalize(sample),
        lambda: sample.transform_of(sample.volume("images", "equalized")),
    ):
        with pytest.raises(
            SampleError,
            match=r"images/aligned of s\.zarr was made on the image 'raw', which was replaced since",
        ):
            work()
    align(sample, AlignSettings(), on=REPLACE)
    with pytest.raises(
        SampleError,
        match=r"images/equalized of s\.zarr was made on the image 'aligned', which was replaced since",
    ):
        sample.image("equalized")
    equalize(sample, EqualizeSettings(), on=REPLACE)
    assert sample.image().shape == sample.image("aligned").shape


def test_an_aligned_image_is_not_aligned_again_nor_made_from_what_was_made_from_it(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    equalize(sample)
    align(sample, AlignSettings(out="other", canvas="whole"))
    assert sample.image("other").made_on == (
        "raw",
        sample.image("raw").fingerprint,
    )  # one resampling
    with pytest.raises(
        InputError,
        match="The image 'aligned' cannot be made from 'equalized', which was made from it",
    ):
        align(sample, AlignSettings(image="equalized"), on=REPLACE)
    plain = phantom(tmp_path / "plain.zarr", FAULTY)
    equalize(plain)
    align(plain)
    assert plain.image("aligned").made_on == ("equalized", plain.image("equalized").fingerprint)


def test_a_rigid_motion_requires_square_pixels(drifting: Sample, tmp_path: Path) -> None:
    uneven = phantom(
        tmp_path / "s.zarr",
        changed(FAULTY, {"voxel_nm": (8, 16, 8), "shape": (6, 112, 256), "bad_slices": 0}),
    )
    with pytest.raises(
        InputError,
        match=r"--motion rigid requires square pixels; those of s\.zarr are 16 x 8 nm: use --motion affine",
    ):
        align(uneven, AlignSettings(motion="rigid"))


def test_images_that_cannot_be_aligned_are_refused(drifting: Sample, tmp_path: Path) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    with pytest.raises(InputError, match="'x' cannot be made from itself"):
        align(sample, AlignSettings(image="x", out="x"))
    narrow = copy_of(drifting, tmp_path / "narrow.zarr")
    put(narrow, "", np.zeros((3, 20, 100), np.uint8))
    with pytest.raises(InputError, match="too small to be aligned; expected at least 32 px"):
        align(narrow)
    far = align(sample, AlignSettings(max_shift_nm=100))
    assert far.breaks == (
        7,
    )  # the registration across the jump is rejected, and the break is reported
    single_slice = copy_of(drifting, tmp_path / "one.zarr")
    put(single_slice, "", np.asarray(drifting.image("raw").read(slice(0, 1))))
    assert align(single_slice).motions == pytest.approx(np.array([[[1.0, 0, 0], [0, 1, 0]]]))


def test_annotating_the_aligned_image_again_is_possible(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    labels = read_annotation(sample, "cells", "aligned")
    seen = [np.asarray(labels.objects(index)[0], np.uint16) for index in range(3)]
    put_on(sample, "labels/seen", np.repeat(seen[0][None].astype(np.uint32), 14, axis=0))
    write_tiff(sample.volume("labels", "seen"), tmp_path / "seen.tif")
    import_annotation(sample, "again", tmp_path / "seen.tif", AnnotationSettings(slices="0,5"))
    assert read_annotation(sample, "again").image == "aligned"
    image, both = annotations_on(sample, ["again", "cells"])
    assert image.shape == sample.image("aligned").shape
    assert np.array_equal(both["again"].objects(0)[0], both["cells"].objects(0)[0])


def test_equalize_can_come_first(drifting: Sample, tmp_path: Path) -> None:
    sample = copy_of(drifting, tmp_path / "s.zarr")
    equalize(sample, EqualizeSettings(method="reference", reference=1))
    align(sample)
    assert sample.image("aligned").made_on == ("equalized", sample.image("equalized").fingerprint)
    align(sample)  # run again, it aligns the same image
    assert sample.transform_of(sample.image("aligned")).to_raw is not None


def test_labels_drawn_on_the_raw_stack_are_recognized_by_their_size(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "s.zarr")
    write_tiff(sample.volume("truth", "nucleus"), tmp_path / "nucleus.tif")
    import_annotation(sample, "nucleus", tmp_path / "nucleus.tif", AnnotationSettings(slices="0,6"))
    assert read_annotation(sample, "nucleus").image == "raw"
    assert (
        annotations_on(sample, ["nucleus"])[1]["nucleus"].mask(0).shape
        == sample.image("aligned").shape[1:]
    )


def test_the_report_shows_how_far_slices_were_moved(
    aligned: tuple[Sample, Alignment], tmp_path: Path
) -> None:
    sample = copy_of(aligned[0], tmp_path / "liver.zarr")
    equalize(sample)
    text = report([sample.path], tmp_path / "r.html", ReportSettings(n_slices=3)).path.read_text(
        encoding="utf-8"
    )
    assert "Alignment: liver" in text
    figure = text[text.index("Alignment: liver") :]
    figure = figure[: figure.index("</svg>")]
    assert ">moved by (px)<" in figure
    assert (
        figure.count(">bad<") == figure.count(">jump<") == 1
    )  # once in the legend, however many slices
    bare = copy_of(sample, tmp_path / "bare.zarr")
    bare.remove_table("alignment_aligned")
    assert "Alignment:" not in report(
        [bare.path], tmp_path / "b.html", ReportSettings(n_slices=3)
    ).path.read_text(encoding="utf-8")


def test_a_stack_that_hardly_drifts_is_recommended_to_stay(tmp_path: Path) -> None:
    for drift_nm, is_close in ((1.0, True), (40.0, False)):
        settings = PhantomSettings(shape=(12, 128, 160), voxel_nm=(20, 20, 20), drift_nm=drift_nm)
        sample = phantom(tmp_path / f"{drift_nm}.zarr", settings)
        alignment = align(sample)
        assert alignment.hardly_drifts is is_close
        assert any("Leave align out" in line for line in alignment_lines(alignment)) is is_close
        assert (
            any("work on the raw image" in notice.text for notice in notices(sample, [], "cells"))
            is is_close
        )
    assert not hardly_drifts(np.zeros((1, 2)))
    moves = np.zeros((100, 2))
    moves[::10] = 3
    assert not hardly_drifts(moves)  # every tenth slice jumps
