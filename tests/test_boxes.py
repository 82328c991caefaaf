"""Boxes: of labels, overlaps, COCO scores against an oracle, confusion, counts, calibration."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sparsem.boxes.geometry import (
    Boxes,
    box_areas,
    boxes_of_labels,
    clip_boxes,
    concatenate_boxes,
    intersection_areas,
    intersection_over_union,
    overlapping_pairs,
)
from sparsem.detect.training.calibration import calibration_curve, counting_threshold
from sparsem.score.boxes import (
    BoxComparison,
    box_scores,
    confusion_matrix,
    match_boxes,
    object_counts,
)
from tests.conftest import drawn


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


A = Boxes.from_arrays(
    ("a",), [3, 1, 1], 0, [[0, 0, 4, 4], [1, 1, 2, 3], [5, 5, 9, 9]], [0.5, 0.9, 0.1]
)


def test_boxes_are_sorted_by_image() -> None:
    assert A.z.tolist() == [1, 1, 3]
    assert A.of_image(1).corners.tolist() == [[1, 1, 2, 3], [5, 5, 9, 9]]
    assert len(A.of_image(2)) == 0
    assert A[A.score > 0.3].z.tolist() == [1, 3]


def test_structures_are_concatenated_by_name() -> None:
    second = Boxes.from_arrays(("b", "a"), [2, 1], [0, 1], [[0, 0, 1, 1], [7, 7, 8, 8]])
    both = concatenate_boxes([A, second])
    assert both.names == ("a", "b")
    assert len(both.of_structure("a")) == 4
    assert both.of_structure("b").corners.tolist() == [[0, 0, 1, 1]]
    assert len(concatenate_boxes([])) == 0


def test_boxes_of_labels_are_those_of_scipy(rng: np.random.Generator) -> None:
    labels = ndimage.zoom(rng.integers(0, 5, (12, 9)), 7, order=0).astype(np.uint32) * 1000
    numbers, corners = boxes_of_labels(labels)
    expected = {
        n: slices for n, slices in enumerate(ndimage.find_objects(labels.astype(int)), 1) if slices
    }
    assert numbers.tolist() == list(expected)
    for number, corner in zip(numbers, corners, strict=True):
        y, x = expected[int(number)]
        assert corner.tolist() == [x.start, y.start, x.stop, y.stop]
    assert len(boxes_of_labels(np.zeros((4, 5), np.uint8))[0]) == 0


def test_a_box_of_one_pixel_is_one_pixel_large() -> None:
    numbers, corners = boxes_of_labels(drawn("...", ".2.", "..1"))
    assert numbers.tolist() == [1, 2]
    assert corners.tolist() == [[2, 2, 3, 3], [1, 1, 2, 2]]
    assert box_areas(corners).tolist() == [1, 1]


def test_overlap_of_union_by_hand() -> None:
    first, second = (
        np.array([[0, 0, 4, 4]], np.float32),
        np.array([[2, 0, 6, 4], [8, 8, 9, 9], [0, 0, 4, 4]], np.float32),
    )
    assert intersection_areas(first, second).tolist() == [[8, 0, 16]]
    assert intersection_over_union(first, second)[0] == pytest.approx([8 / 24, 0, 1])
    assert clip_boxes(second, (0, 0, 5, 5)).tolist() == [[2, 0, 5, 4], [5, 5, 5, 5], [0, 0, 4, 4]]


@pytest.mark.parametrize(("count", "second_count"), [(0, 5), (7, 0), (40, 300), (400, 700)])
def test_overlapping_pairs_equal_those_of_all_pairs(
    rng: np.random.Generator, count: int, second_count: int
) -> None:
    lows = [rng.uniform(0, 400, (number, 2)) for number in (count, second_count)]
    first, second = (
        np.column_stack([low, low + rng.uniform(5, 120, low.shape)]).astype(np.float32)
        for low in lows
    )
    similarity = intersection_over_union(first, second)
    row, column = np.nonzero(similarity >= 0.3)
    pairs = overlapping_pairs(first, second, 0.3)
    assert np.array_equal(pairs[0], row)
    assert np.array_equal(pairs[1], column)
    np.testing.assert_allclose(pairs[2], similarity[row, column])


def by_the_library(compared: list[BoxComparison], max_boxes: int) -> Any:
    """The same by faster-coco-eval: (T, R) precision and (T,) recall."""
    from faster_coco_eval import COCO, COCOeval_faster

    images, lists = [], ([], [])  # type: ignore[var-annotated]
    for comparison in compared:
        number = {z: len(images) + position for position, z in enumerate(comparison.slices, 1)}
        images += [{"id": image_id, "width": 1, "height": 1} for image_id in number.values()]
        for boxes, out in zip((comparison.truth, comparison.detected), lists, strict=True):
            for z, (x0, y0, x1, y1), score in zip(
                boxes.z.tolist(),
                boxes.corners.astype(float).tolist(),
                boxes.score.tolist(),
                strict=True,
            ):
                if z in number:
                    row = {
                        "image_id": number[z],
                        "category_id": 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "id": len(out) + 1,
                    }
                    out.append({**row, "score": score, "iscrowd": 0, "area": (x1 - x0) * (y1 - y0)})
    truth = COCO(
        {"images": images, "annotations": lists[0], "categories": [{"id": 1, "name": "a"}]}
    )
    judge = COCOeval_faster(truth, truth.loadRes(lists[1]), "bbox", print_function=lambda *_: None)
    judge.params.maxDets = [1, 100, max_boxes]
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, -1], judge.eval["recall"][:, 0, 0, -1]


def many(rng: np.random.Generator, n_images: int, each: int) -> tuple[Boxes, Boxes]:
    """True boxes, and detected ones: most are shifted a little, some missed, some wrong.

    All scores differ.
    """
    corner = rng.uniform(0, 900, (n_images * each, 2))
    true = np.column_stack([corner, corner + rng.uniform(10, 60, corner.shape)])
    z = np.repeat(np.arange(n_images), each)
    is_detected = rng.random(len(true)) < 0.8
    shifted = true[is_detected] + rng.normal(0, 2, (is_detected.sum(), 4))
    corner = rng.uniform(0, 900, (len(true) // 3, 2))
    wrong = np.column_stack([corner, corner + 30])
    score = rng.permutation(np.linspace(0.06, 0.99, len(shifted) + len(wrong)))
    where = np.concatenate([z[is_detected], rng.integers(0, n_images, len(wrong))])
    return Boxes.from_arrays(("a",), z, 0, true), Boxes.from_arrays(
        ("a",), where, 0, np.concatenate([shifted, wrong]), score
    )


@pytest.mark.parametrize("each", [7, 150])  # COCO's own limit is 100 boxes per image
def test_scores_are_those_of_the_library(rng: np.random.Generator, each: int) -> None:
    truth, detected = many(rng, 4, each)
    compared = [BoxComparison(truth, detected, (0, 1)), BoxComparison(truth, detected, (2, 3))]
    score = box_scores(compared, ["a"])[0]
    precision, recall = by_the_library(compared, 1000)
    assert score.map == pytest.approx(precision.mean(), abs=1e-6)
    assert score.ap50 == pytest.approx(precision[0].mean(), abs=1e-6)
    assert score.ap75 == pytest.approx(precision[5].mean(), abs=1e-6)
    assert score.ar == pytest.approx(recall.mean(), abs=1e-6)
    np.testing.assert_allclose(score.curve, precision[0], atol=1e-6)
    assert (score.n_truth, score.n_detected) == (len(truth), len(detected))


def test_a_perfect_detector_scores_one_and_a_blind_one_zero(rng: np.random.Generator) -> None:
    truth, _ = many(rng, 2, 5)
    perfect, blind = (
        box_scores([BoxComparison(truth, boxes, (0, 1))], ["a"])[0] for boxes in (truth, truth[:0])
    )
    assert (perfect.map, perfect.ar, perfect.ap50) == (1, 1, 1)
    assert (blind.map, blind.ar, blind.ap50) == (0, 0, 0)
    nowhere = box_scores([BoxComparison(truth[:0], truth, (0, 1))], ["a"])[0]
    assert np.isnan(nowhere.map)


def test_images_that_are_not_compared_do_not_count(rng: np.random.Generator) -> None:
    truth, detected = many(rng, 3, 6)
    only = box_scores([BoxComparison(truth, detected, (1,))], ["a"])[0]
    alone = box_scores([BoxComparison(truth.of_image(1), detected.of_image(1), (1,))], ["a"])[0]
    assert only.map == alone.map
    assert only.n_truth == 6


def test_confusion_by_hand() -> None:
    names = ("a", "b")
    truth = Boxes.from_arrays(
        names, [0, 0, 0], [0, 0, 1], [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    )
    corners = [[0, 0, 10, 9], [20, 0, 30, 10], [60, 0, 70, 10], [0, 0, 9, 10]]
    detected = Boxes.from_arrays(names, [0, 0, 0, 0], [0, 1, 1, 0], corners, [0.9, 0.8, 0.7, 0.5])
    table = confusion_matrix([BoxComparison(truth, detected, (0,))], names)
    assert table.tolist() == [
        [1, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
    ]  # an a, an a taken for a b, a b missed; an a and a b from nowhere
    counts = object_counts([BoxComparison(truth, detected, (0, 1))], "a")
    assert (counts.truth.tolist(), counts.detected.tolist()) == ([2, 0], [2, 0])
    assert (counts.mean_error, counts.bias) == (0, 0)


def test_right_structures_are_matched_before_wrong_ones_of_higher_scores() -> None:
    truth = Boxes.from_arrays(("a", "b"), [0], [0], [[0, 0, 10, 10]])
    detected = Boxes.from_arrays(
        ("a", "b"), [0, 0], [1, 0], [[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.4]
    )
    assert match_boxes(truth, detected).detected_of_truth.tolist() == [1]


@given(st.integers(0, 2**31))
def test_scores_are_calibrated_on_held_out_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, detected = many(random, 5, 40)
    # Half of what is sure is wrong, all of what is not sure is wrong.
    compared = [BoxComparison(truth, detected, tuple(range(5)))]
    curve = calibration_curve(compared, "a")
    assert curve is not None
    scores, right = (np.array(values) for values in curve)
    assert (np.diff(scores) >= 0).all()
    assert (np.diff(right) >= 0).all()
    assert 0 <= right[0] <= right[-1] <= 1
    hits = sum(
        int((match_boxes(truth.of_image(z), detected.of_image(z)).truth_of_detected >= 0).sum())
        for z in range(5)
    )
    probability = np.interp(detected.score, scores, right)
    assert probability.sum() == pytest.approx(
        hits, abs=4
    )  # as many as are right, but for the two added at either end
    assert calibration_curve([BoxComparison(truth, detected, (99,))], "a") is None


def test_counting_threshold_agrees_best_with_ground_truth() -> None:
    corners = np.array([[n * 20, 0, n * 20 + 10, 10] for n in range(40)], np.float32)
    truth = Boxes.from_arrays(("a",), np.zeros(20, int), 0, corners[:20])
    detected = Boxes.from_arrays(
        ("a",), np.zeros(40, int), 0, corners, np.concatenate([np.full(20, 0.7), np.full(20, 0.3)])
    )
    assert 0.3 < counting_threshold([BoxComparison(truth, detected, (0,))], "a") <= 0.7


def test_boxes_of_one_score_share_one_probability() -> None:
    corners = np.array([[n * 20, 0, n * 20 + 10, 10] for n in range(20)], np.float32)
    truth = Boxes.from_arrays(("a",), np.ones(20, int), 0, corners)
    detected = Boxes.from_arrays(
        ("a",), np.repeat([0, 1], 20), 0, np.concatenate([corners, corners]), np.full(40, 0.7)
    )
    curve = calibration_curve([BoxComparison(truth, detected, (0, 1))], "a")
    assert curve is not None
    assert np.interp(0.7, *curve) == pytest.approx(0.5, abs=0.02)
