"""Biological constraints on boxes: confidence decides which box is removed; counts of boxes."""

from pathlib import Path

import numpy as np
import pytest

from sparsem.boxes.constrain import (
    BoxSet,
    apply_constraints,
    constrain_boxes,
    lies_in_nucleus,
    remove_constrained_boxes,
)
from sparsem.boxes.counts import count_boxes, read_metadata
from sparsem.boxes.geometry import Boxes
from sparsem.boxes.settings import CountSettings
from sparsem.boxes.tables import (
    DETECTED_PREFIX,
    StoredBoxes,
    are_scores_outdated,
    detected_box_structures,
    read_detected_boxes,
    write_annotated_boxes,
    write_detected_boxes,
)
from sparsem.detect.score import score_boxes
from sparsem.detect.settings import DetectScoreSettings
from sparsem.errors import InputError, SampleError
from sparsem.labels.settings import StructureRoles
from sparsem.store.sample import Sample
from tests.spots import sample_of

RULES = StructureRoles()
NUCLEUS = (100, 100, 300, 300)


def box_set(*boxes: tuple[float, float, float, float, float]) -> BoxSet:
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return BoxSet(rows[:, :4], rows[:, 4])


def stays(**boxes: BoxSet) -> dict[str, list[bool]]:
    return {
        name: decision.is_allowed.tolist()
        for name, decision in apply_constraints(boxes, RULES).items()
    }


def test_the_corner_of_a_nucleus_box_is_cytoplasm() -> None:
    inside = lies_in_nucleus(
        np.array([[190, 190, 210, 210], [102, 102, 122, 122], [90, 90, 310, 310]], np.float32),
        np.array([NUCLEUS], np.float32),
    )
    assert inside[:, 0].tolist() == [
        True,
        False,
        False,
    ]  # the middle; a corner; what is larger than the nucleus


@pytest.mark.parametrize(
    ("nucleus", "organelle", "expected"), [(0.9, 0.7, (True, False)), (0.55, 0.9, (False, True))]
)
def test_the_more_confident_of_nucleus_and_organelle_stays(
    nucleus: float, organelle: float, expected: tuple[bool, bool]
) -> None:
    allowed = stays(
        nucleus=box_set((*NUCLEUS, nucleus)),
        mitochondrion=box_set((190, 190, 220, 220, organelle), (20, 20, 60, 60, 0.3)),
    )
    assert (allowed["nucleus"][0], allowed["mitochondrion"][0]) == expected
    assert allowed["mitochondrion"][1]  # outside


def test_many_organelles_stand_together_against_a_nucleus() -> None:
    alone = box_set((190, 190, 220, 220, 0.8))
    many = box_set(*((150 + 30 * n, 190, 170 + 30 * n, 210, 0.8) for n in range(4)))
    assert stays(nucleus=box_set((*NUCLEUS, 0.95)), mitochondrion=alone) == {
        "nucleus": [True],
        "mitochondrion": [False],
    }
    assert stays(nucleus=box_set((*NUCLEUS, 0.95)), mitochondrion=many) == {
        "nucleus": [False],
        "mitochondrion": [True] * 4,
    }
    with_nucleoli = stays(
        nucleus=box_set((*NUCLEUS, 0.95)),
        nucleolus=box_set((150, 150, 200, 200, 0.97)),
        mitochondrion=many,
    )
    assert with_nucleoli == {"nucleus": [True], "nucleolus": [True], "mitochondrion": [False] * 4}


def test_a_nucleolus_needs_a_nucleus() -> None:
    assert stays(nucleus=box_set(), nucleolus=box_set((150, 150, 200, 200, 0.9))) == {
        "nucleus": [],
        "nucleolus": [False],
    }
    assert stays(
        nucleus=box_set((*NUCLEUS, 0.9)),
        nucleolus=box_set((150, 150, 200, 200, 0.3), (290, 290, 340, 340, 0.9)),
    )["nucleolus"] == [
        True,
        False,
    ]


def test_a_confident_nucleolus_makes_an_uncertain_nucleus_count() -> None:
    decisions = apply_constraints(
        {"nucleus": box_set((*NUCLEUS, 0.3)), "nucleolus": box_set((150, 150, 200, 200, 0.9))},
        RULES,
    )
    assert decisions["nucleolus"].is_allowed.tolist() == [True]
    assert decisions["nucleus"].must_count.tolist() == [True]
    uncertain = apply_constraints(
        {"nucleus": box_set((*NUCLEUS, 0.05)), "nucleolus": box_set((150, 150, 200, 200, 0.6))},
        RULES,
    )
    assert uncertain["nucleolus"].is_allowed.tolist() == [
        False
    ]  # a missing nucleus is more probable than a nucleolus


def test_the_more_confident_of_two_structures_in_one_place_stays() -> None:
    allowed = stays(
        mitochondrion=box_set((10, 10, 40, 40, 0.6)),
        endosome=box_set((11, 10, 40, 41, 0.7), (30, 30, 60, 60, 0.2)),
    )
    assert allowed == {"mitochondrion": [False], "endosome": [True, True]}


def test_without_nuclei_nothing_is_constrained() -> None:
    boxes = {
        "mitochondrion": box_set((10, 10, 40, 40, 0.1)),
        "nucleolus": box_set((10, 10, 40, 40, 0.1)),
    }
    assert stays(**boxes) == {"mitochondrion": [True], "nucleolus": [True]}


@pytest.fixture
def detected_sample(tmp_path: Path) -> Sample:
    """Two images with a mitochondrion detected in a nucleus, and annotations without it."""
    sample, _ = sample_of(tmp_path / "S01.zarr", (2, 320, 400), annotate=False, count=1)
    boxes = {
        "nucleus": (
            Boxes.from_arrays(("nucleus",), [0, 1], 0, [NUCLEUS, NUCLEUS], [0.8, 0.8]),
            [0.95, 0.95],
        ),
        "mitochondrion": (
            Boxes.from_arrays(
                ("mitochondrion",),
                [0, 0, 1],
                0,
                [[190, 190, 220, 220], [10, 10, 50, 40], [10, 10, 50, 40]],
                [0.9, 0.7, 0.2],
            ),
            [0.6, 0.8, 0.1],
        ),
    }
    for name, (structure_boxes, confidence) in boxes.items():
        sure = np.array(confidence, np.float32)
        stored = StoredBoxes(
            structure_boxes,
            (0, 1),
            "raw",
            {"fingerprint": f"of {name}", "used_slices": []},
            sure,
            sure >= 0.5,
        )
        write_detected_boxes(sample, f"{DETECTED_PREFIX}{name}", stored)
        true = (
            structure_boxes if name == "nucleus" else structure_boxes[np.array([False, True, True])]
        )
        write_annotated_boxes(sample, true, (0, 1), "raw", overwrite=False)
    return sample


def test_constrained_boxes_count_and_predicted_boxes_are_kept(detected_sample: Sample) -> None:
    assert constrain_boxes(detected_sample).removed == {"nucleus": 0, "mitochondrion": 1}
    assert len(read_detected_boxes(detected_sample, "mitochondrion").boxes) == 2
    assert len(read_detected_boxes(detected_sample, "mitochondrion", as_predicted=True).boxes) == 3
    assert detected_box_structures(detected_sample) == ["mitochondrion", "nucleus"]
    scores = score_boxes([detected_sample], DetectScoreSettings())
    before, after = (scores.of_kind(kind)["mitochondrion"] for kind in ("predicted", "constrained"))
    assert before.scores.map < after.scores.map == 1
    assert (before.counts.detected.tolist(), after.counts.detected.tolist()) == ([2, 0], [1, 0])
    assert {row["boxes"] for row in detected_sample.read_table("box_scores").to_pylist()} == {
        "predicted",
        "constrained",
    }
    assert remove_constrained_boxes(detected_sample) == [
        "boxes_mitochondrion-constrained",
        "boxes_nucleus-constrained",
    ]
    assert len(read_detected_boxes(detected_sample, "mitochondrion").boxes) == 3
    assert remove_constrained_boxes(detected_sample) == []


def test_boxes_of_a_new_run_must_be_constrained_again(detected_sample: Sample) -> None:
    constrain_boxes(detected_sample)
    before = read_detected_boxes(detected_sample, "nucleus", as_predicted=True)
    about = {**before.metadata, "fingerprint": "of another run"}
    write_detected_boxes(
        detected_sample,
        f"{DETECTED_PREFIX}nucleus",
        StoredBoxes(
            before.boxes, before.slices, before.image, about, before.confidence, before.counts
        ),
    )
    with pytest.raises(
        SampleError,
        match=r"Boxes of 'nucleus' in S01.zarr have changed .* detect constrain S01.zarr",
    ):
        read_detected_boxes(detected_sample, "mitochondrion")
    constrain_boxes(detected_sample)
    assert len(read_detected_boxes(detected_sample, "mitochondrion").boxes) == 2


def test_constrained_boxes_of_an_earlier_run_do_not_count(detected_sample: Sample) -> None:
    constrain_boxes(detected_sample)
    detected_sample.write_table(
        "boxes_lysosome-constrained", detected_sample.read_table("boxes_mitochondrion-constrained")
    )
    constrain_boxes(detected_sample)
    assert "boxes_lysosome-constrained" not in detected_sample.tables
    detected_sample.remove_table("boxes_mitochondrion-constrained")  # as a kill leaves it
    with pytest.raises(
        SampleError, match=r"interrupted; run 'sparsem detect constrain S01.zarr' again"
    ):
        read_detected_boxes(detected_sample, "mitochondrion")
    assert len(read_detected_boxes(detected_sample, "mitochondrion", as_predicted=True).boxes) == 3


def test_scores_of_other_boxes_are_outdated(detected_sample: Sample) -> None:
    score_boxes([detected_sample])
    assert not are_scores_outdated(detected_sample)
    constrain_boxes(detected_sample)
    # The scores are still those of the boxes as they were predicted.
    assert not are_scores_outdated(detected_sample)
    score_boxes([detected_sample])
    remove_constrained_boxes(detected_sample)
    assert are_scores_outdated(detected_sample)


def test_constraints_need_two_structures(tissue: Sample, detected_sample: Sample) -> None:
    with pytest.raises(
        SampleError,
        match=r"at least two of nucleus, nucleolus, mitochondrion.*has boxes of no structure",
    ):
        constrain_boxes(tissue)
    with pytest.raises(
        SampleError,
        match=r"at least two of nucleus, nucleolus; .*has boxes of mitochondrion, nucleus",
    ):
        constrain_boxes(detected_sample, StructureRoles(cytoplasm=()))


# counts with metadata of the samples


def test_counts_and_sizes_are_joined_with_metadata(detected_sample: Sample, tmp_path: Path) -> None:
    table = tmp_path / "samples.csv"
    table.write_text("sample,subtype,grade\nS01.zarr,TNBC,3\nS02,ER+,1\n")
    rows = count_boxes([detected_sample], CountSettings(metadata=str(table))).counts.to_pylist()
    assert [
        (row["sample"], row["structure"], row["subtype"], row["grade"], row["objects"])
        for row in rows
    ] == [
        ("S01", "mitochondrion", "TNBC", "3", 2),
        ("S01", "nucleus", "TNBC", "3", 2),
    ]
    nuclei = rows[1]
    assert nuclei["diameter_um_median"] == pytest.approx(2.0)  # 200 px of 10 nm
    assert nuclei["objects_per_image"] == 1
    assert nuclei["objects_per_mm2"] == pytest.approx(2 / (2 * 3.2e-3 * 4e-3))
    assert (
        count_boxes([detected_sample], CountSettings(structures=("nucleus",))).counts.num_rows == 1
    )
    table.write_text(
        "sample;subtype;grade\nS01;TNBC;2,5\n"
    )  # as a spreadsheet writes it where numbers have commas
    assert (
        count_boxes([detected_sample], CountSettings(metadata=str(table))).counts.to_pylist()[0][
            "grade"
        ]
        == "2,5"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no column 'sample'"),
        ("name,grade\nS01,3\n", "has no column 'sample'"),
        ("sample,grade\nS01,3\nS01,2\n", "has 'S01' a second time in line 3"),
        ("sample,grade\n,3\n", "has no sample in line 2"),
        ("sample,grade\nS01,3,4\n", "has more values than the header in line 2"),
        ("sample,grade\nS02,3\n", "has no row for S01; it has rows for S02"),
        (
            "sample,objects\nS01,3\n",
            "has a column 'objects', as the counts have; give it another name",
        ),
    ],
)
def test_invalid_metadata_are_refused(
    detected_sample: Sample, tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "samples.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        count_boxes([detected_sample], CountSettings(metadata=str(tmp_path / "samples.csv")))


def test_unreadable_metadata_are_refused(tmp_path: Path, tissue: Sample) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read"):
        read_metadata(tmp_path / "nowhere.csv")
    with pytest.raises(SampleError, match="has no boxes"):
        count_boxes([tissue])
