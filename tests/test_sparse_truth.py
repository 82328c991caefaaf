"""Ground truth of some slices, or of parts of slices: exactly the labeled pixels are scored."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.annotation.ground_truth import read_ground_truth
from sparsem.annotation.settings import GroundTruthSettings, parse_box
from sparsem.errors import InputError
from sparsem.geometry import VoxelSize
from sparsem.score.overlap import OutlineCount, outline_count
from sparsem.score.score import Scores, score
from sparsem.score.settings import ScoreSettings
from sparsem.store.sample import Sample
from sparsem.store.slice_use import SliceUse, combined, matched_use, slice_digest
from tests.conftest import put

SHAPE = (9, 20, 24)
DRAWN = (1, 4, 6)


@pytest.fixture
def labeled_sample(tmp_path: Path) -> Sample:
    """A sample with an image and labels; some blocks have no labeled slice."""
    random = np.random.default_rng(3)
    sample = Sample.create(tmp_path / "s.zarr")
    image = random.integers(1, 255, SHAPE, np.uint8)
    put(sample, "", image, 2, VoxelSize(8, 4, 4))
    put(sample, "labels/mito", (image > 120).astype(np.uint8), 2, VoxelSize(8, 4, 4))
    return sample


def write(path: Path, labels: NDArray[np.uint8]) -> None:
    tifffile.imwrite(
        path, labels, photometric="minisblack"
    )  # else a stack of three slices becomes colors


def labels_of(sample: Sample) -> NDArray[np.uint8]:
    return sample.volume("labels", "mito").read(slice(None))


def drawn_on(slices: tuple[int, ...]) -> NDArray[np.uint8]:
    """Ground truth of all slices: a bar; empty on slices that are not named."""
    truth = np.zeros(SHAPE, np.uint8)
    for z in slices:
        truth[z, 3 : 12 + z, 4:18] = 1
    return truth


def plain_scores(
    labels: NDArray[np.uint8], truth: NDArray[np.uint8], known: NDArray[np.bool_]
) -> tuple[float, float, int]:
    """Pooled Dice, mean Dice and number of slices, by numpy alone."""
    each = []
    for z in range(len(labels)):
        if known[z].any():
            predicted, expected = labels[z][known[z]] > 0, truth[z][known[z]] > 0
            each.append(
                (2 * (predicted & expected).sum() + 1) / (predicted.sum() + expected.sum() + 1)
            )
    predicted, expected = labels[known] > 0, truth[known] > 0
    total = predicted.sum() + expected.sum()
    pooled = 2 * (predicted & expected).sum() / total if total else np.nan
    return float(pooled), float(np.mean(each)), len(each)


def check(scores: Scores, expected: tuple[float, float, int]) -> None:
    summary = scores.summary()
    assert summary["dice_3d"] == pytest.approx(expected[0], nan_ok=True)
    assert summary["dice_slices"] == pytest.approx(expected[1])
    assert summary["slices"] == expected[2]


def test_empty_slices_of_a_volume_need_a_word(labeled_sample: Sample, tmp_path: Path) -> None:
    truth = drawn_on(DRAWN)
    write(tmp_path / "t.tif", truth)
    with pytest.raises(
        InputError,
        match=r"6 of the 9 slices of .*t.tif hold no label \(0, 2, 3, 5, 7, 8\): are they background",
    ):
        score(labeled_sample, "mito", tmp_path / "t.tif")
    labels = labels_of(labeled_sample)
    everywhere = np.ones(SHAPE, bool)
    on_drawn_slices = np.zeros(SHAPE, bool)
    on_drawn_slices[list(DRAWN)] = True
    check(
        score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(slices="all")),
        plain_scores(labels, truth, everywhere),
    )
    for slices in ("non-empty", "1,4,6", "6 1 4"):
        check(
            score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(slices=slices)),
            plain_scores(labels, truth, on_drawn_slices),
        )
    only = np.zeros(SHAPE, bool)
    only[[2, 4]] = True  # one of them is empty, and counts
    check(
        score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(slices="2,4")),
        plain_scores(labels, truth, only),
    )


def test_volumes_without_an_empty_slice_are_taken_as_they_are(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    truth = drawn_on(tuple(range(9)))
    write(tmp_path / "t.tif", truth)
    check(
        score(labeled_sample, "mito", tmp_path / "t.tif"),
        plain_scores(labels_of(labeled_sample), truth, np.ones(SHAPE, bool)),
    )


@pytest.mark.parametrize("kind", ["folder", "single", "some planes"])
def test_masks_of_some_slices_are_compared_there(
    labeled_sample: Sample, tmp_path: Path, kind: str
) -> None:
    truth, known = drawn_on(DRAWN), np.zeros(SHAPE, bool)
    slices = (4,) if kind == "single" else DRAWN
    known[list(slices)] = True
    how = ScoreSettings()
    if kind == "folder":
        (tmp_path / "masks").mkdir()
        for z in slices:
            cv2.imwrite(str(tmp_path / "masks" / f"mito_z{z:03d}.png"), truth[z] * 255)
        source = tmp_path / "masks"
    elif kind == "single":
        source = tmp_path / "mito_z004.tif"
        write(source, truth[4])
    else:
        source, how = tmp_path / "some.tif", ScoreSettings(slices="1,4,6")
        write(source, truth[list(slices)])
    scores = score(labeled_sample, "mito", source, how)
    assert scores.compared == slices
    check(scores, plain_scores(labels_of(labeled_sample), truth, known))
    table = labeled_sample.read_table("scores_mito").to_pydict()
    assert table["z"] == list(slices)
    assert table["known_px"] == [20 * 24] * len(slices)


def test_planes_that_fit_no_slices_need_their_numbers(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    write(tmp_path / "some.tif", drawn_on(DRAWN)[:4])
    with pytest.raises(
        InputError,
        match=r"Which 4 of the 9 slices does .*some.tif label\? Give their numbers with --slices",
    ):
        score(labeled_sample, "mito", tmp_path / "some.tif")
    write(tmp_path / "other.tif", np.ones((9, 20, 25), np.uint8))
    with pytest.raises(
        InputError, match=r"has slices of \(20, 25\) px, but expected \(20, 24\) px"
    ):
        score(labeled_sample, "mito", tmp_path / "other.tif")


def test_parts_of_slices_are_compared_inside_alone(labeled_sample: Sample, tmp_path: Path) -> None:
    truth, labels = drawn_on(tuple(range(9))), labels_of(labeled_sample)
    box = (slice(2, 6), slice(1, 9), slice(5, 20))
    known = np.zeros(SHAPE, bool)
    known[box] = True
    write(tmp_path / "part.tif", truth[box])
    write(tmp_path / "whole.tif", truth)
    for file in ("part.tif", "whole.tif"):
        scores = score(labeled_sample, "mito", tmp_path / file, ScoreSettings(box="2:6,1:9,5:20"))
        assert scores.compared == (2, 3, 4, 5)
        check(scores, plain_scores(labels, truth, known))
    undecided = truth.copy()
    undecided[:, :, :10] = 7
    undecided[3] = 7  # nothing of this slice is decided
    write(tmp_path / "undecided.tif", undecided)
    scores = score(labeled_sample, "mito", tmp_path / "undecided.tif", ScoreSettings(ignore=7))
    assert 3 not in scores.compared
    check(scores, plain_scores(labels, truth, undecided != 7))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("2:6,1:9,5:25", "is 5:25 along x, but the stack has 0:24"),
        ("5:5,:,:", "is 5:5 along z"),
        (":,-3:4,:", "is -3:4 along y"),
    ],
)
def test_boxes_beyond_the_stack_are_refused(
    labeled_sample: Sample, tmp_path: Path, box: str, message: str
) -> None:
    write(tmp_path / "t.tif", drawn_on(tuple(range(9))))
    with pytest.raises(InputError, match=message):
        score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(box=box))


def test_what_is_no_box_says_how_to_write_one() -> None:
    for text in ("1:2,3:4", "1,2,3", "a:b,1:2,1:2", ""):
        with pytest.raises(ValueError, match="a box is given as 0:24"):
            parse_box(text)
    assert parse_box(":,2:,:9") == (slice(None), slice(2, None), slice(None, 9))


def test_ground_truth_without_a_known_pixel_is_refused(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    write(tmp_path / "t.tif", np.full(SHAPE, 3, np.uint8))
    with pytest.raises(
        InputError, match="labels no pixel of the stack; check --slices, --box and --ignore"
    ):
        score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(ignore=3))


@settings(max_examples=40)
@given(data=st.data())
def test_any_sparse_ground_truth_gives_the_score_of_its_labeled_pixels(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sparse")
    shape = (data.draw(st.integers(1, 7)), 6, 7)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels, truth = (random.integers(0, 2, shape, np.uint8) for _ in range(2))
    truth[random.random(shape) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    undecided = random.random(shape) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    truth[undecided] = 9
    slices = data.draw(st.sets(st.integers(0, shape[0] - 1), min_size=1).map(sorted))
    known = np.zeros(shape, bool)
    known[slices] = True
    known &= ~undecided
    sample = Sample.create(folder / "s.zarr")
    depth = data.draw(st.integers(1, shape[0]))
    put(sample, "", labels, depth, VoxelSize(8, 4, 4))
    put(sample, "labels/x", labels, depth, VoxelSize(8, 4, 4))
    whole = data.draw(st.booleans())
    write(folder / "t.tif", truth if whole else truth[slices])
    how = ScoreSettings(slices=",".join(map(str, slices)), ignore=9)
    if not known.any():
        with pytest.raises(InputError, match="labels no pixel"):
            score(sample, "x", folder / "t.tif", how)
        return
    check(
        score(sample, "x", folder / "t.tif", how),
        plain_scores(labels, np.where(truth == 9, 0, truth), known),
    )


def test_unlabeled_slices_show_nothing(labeled_sample: Sample, tmp_path: Path) -> None:
    write(tmp_path / "t.tif", drawn_on(DRAWN))
    truth = read_ground_truth(
        labeled_sample,
        "mito",
        labeled_sample.image("raw"),
        tmp_path / "t.tif",
        GroundTruthSettings(slices="non-empty"),
    )
    assert truth.z == DRAWN
    seen = np.asarray(truth.stack[0:9])
    assert (seen[[0, 2, 3, 5, 7, 8]] == 2**32 - 1).all()
    assert np.array_equal(seen[list(DRAWN)], drawn_on(DRAWN)[list(DRAWN)])


def test_scores_are_given_by_what_slices_were_to_the_training(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    truth = drawn_on(tuple(range(9)))
    write(tmp_path / "t.tif", truth)
    unknown = score(labeled_sample, "mito", tmp_path / "t.tif")
    assert unknown.use is None
    assert unknown.roles == ()
    scores = score(labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(trained_slices="0,8"))
    assert scores.group("trained") == (0, 8)
    assert scores.group("unseen") == tuple(range(1, 8))
    inside = np.zeros(SHAPE, bool)
    inside[1:8] = True
    assert scores.summary("unseen")["dice_3d"] == pytest.approx(
        plain_scores(labels_of(labeled_sample), truth, inside)[0]
    )
    assert score(
        labeled_sample, "mito", tmp_path / "t.tif", ScoreSettings(trained_slices="none")
    ).roles == ("unseen",)


def test_slices_are_recognized_by_number_and_pixels(labeled_sample: Sample) -> None:
    raw = labeled_sample.image("raw")
    used: dict[str, Any] = {
        "trained": [[z, slice_digest(raw, z)] for z in (0, 4)],
        "validated": [[6, slice_digest(raw, 6)], [7, slice_digest(raw, 6)]],
    }
    assert matched_use(used, raw) == SliceUse((0, 4), (6,))
    assert matched_use(None, raw) is None
    both = combined([SliceUse((0,), (3, 5)), SliceUse((3,), (5,))])
    assert both == SliceUse((0, 3), (5,))
    assert [both.role(z) for z in (0, 5, 1)] == ["trained", "validated", "unseen"]
    assert combined([SliceUse((0,)), None]) is None


def test_ground_truth_that_was_drawn_from_the_labels_is_noticed(tmp_path: Path) -> None:
    y, x = np.mgrid[:80, :80]
    predicted = (y - 40) ** 2 + (x - 38) ** 2 < 28**2
    corrected = predicted.copy()
    corrected[:20] = False  # a person removed a part
    independent = (y - 40.7) ** 2 + (x - 38.6) ** 2 < 27.2**2
    known = np.ones_like(predicted)
    assert outline_count(predicted, corrected, known).fraction > 0.8
    assert outline_count(predicted, independent, known).fraction < 0.4
    assert outline_count(predicted, predicted, np.zeros_like(known)) == OutlineCount(0, 0)
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.ones((2, 80, 80), np.uint8), 1, VoxelSize(8, 4, 4))
    put(sample, "labels/x", np.stack([predicted] * 2).astype(np.uint8), 1, VoxelSize(8, 4, 4))
    for drawn, is_copied in ((corrected, True), (independent, False)):
        write(tmp_path / "t.tif", np.stack([drawn] * 2).astype(np.uint8))
        assert score(sample, "x", tmp_path / "t.tif").is_copied is is_copied
