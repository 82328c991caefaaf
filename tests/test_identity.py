"""Samples whose folders have equal names are told apart wherever several are given."""

from pathlib import Path

import pytest

from sparsem.boxes.importing import import_boxes
from sparsem.detect.settings import DetectTrainSettings
from sparsem.detect.training.job import detection_job
from sparsem.errors import InputError
from sparsem.labels.inventory import remove_pieces
from sparsem.report.report import report
from sparsem.segment.cross_validation import plan_folds
from sparsem.segment.training_slices import read_unlabeled_slices
from sparsem.settings import changed
from sparsem.store.sample import Sample, as_samples, names_of_paths
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of

QUIET = Execution(quiet=True)


@pytest.fixture
def equal_names(tissue: Sample, tmp_path: Path) -> list[Sample]:
    """Return two samples in folders of one name."""
    samples = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        samples.append(copy_of(tissue, tmp_path / parent / "tissue.zarr"))
    return samples


def test_equal_names_are_preceded_by_the_folders_that_differ() -> None:
    paths = [Path("x/a/liver.zarr"), Path("x/b/liver.zarr"), Path("y/b/liver.zarr"), Path("lung")]
    assert names_of_paths(paths) == ["a/liver", "x/b/liver", "y/b/liver", "lung"]
    assert names_of_paths(paths[:1]) == ["liver"]
    assert names_of_paths([Path("/a/b"), Path("/a/b")]) == ["//a/b", "//a/b"]  # and ends


def test_a_sample_that_is_given_twice_is_refused(tissue: Sample, tmp_path: Path) -> None:
    (tmp_path / "link.zarr").symlink_to(tissue.path)
    for twice in (tissue, Sample.open(tmp_path / "link.zarr")):
        with pytest.raises(InputError, match="was given twice"):
            as_samples([tissue, twice])
    with pytest.raises(InputError, match="was given twice"):
        report([tissue, tissue.path], tmp_path / "page.html", on=QUIET)


def test_folds_hold_slices_of_the_right_sample_out(
    equal_names: list[Sample], tmp_path: Path
) -> None:
    settings = TrainSettings(structures=("nucleus",), width=4, context_px=64, input_px=32, folds=3)
    job, held_out = plan_folds(equal_names, tmp_path / "m.safetensors", settings)
    by_sample = {labeled.sample for labeled in job.slices}
    assert by_sample == {"a/tissue", "b/tissue"}
    assert sorted(index for fold in held_out for index in fold) == list(range(len(job.slices)))
    labeled_in_a = {labeled.z for labeled in job.slices if labeled.sample == "a/tissue"}
    assert len(labeled_in_a) == len(job.slices) / 2


def test_only_the_labeled_slices_of_a_sample_itself_are_left_out_of_its_unlabeled_ones(
    equal_names: list[Sample], tmp_path: Path
) -> None:
    settings = TrainSettings(
        structures=("nucleus",),
        width=4,
        context_px=64,
        input_px=32,
        semi="cps",
        unlabeled_slices=99,
    )
    job, _ = plan_folds(equal_names, tmp_path / "m.safetensors", changed(settings, {"folds": 2}))
    labeled = [slice_ for slice_ in job.slices if slice_.sample == "a/tissue"]
    slices, _ = read_unlabeled_slices(equal_names, labeled, job.recipe, settings)
    n_slices = equal_names[0].image().shape[0]
    assert len(slices) == 2 * n_slices - len(labeled)


def test_boxes_of_samples_with_equal_names_are_split_and_counted_apart(
    equal_names: list[Sample], tmp_path: Path
) -> None:
    import_boxes(equal_names, from_labels=("nucleus",), min_px=4)
    settings = DetectTrainSettings(
        input_px=128, split="none", validation=("a/tissue:0",), test=("b/tissue:0",), device="cpu"
    )
    job = detection_job(equal_names, settings)
    assert set(job.raw) == {"a/tissue", "b/tissue"}
    held_out = {str(image) for image, role in job.roles.items() if role.value != "train"}
    assert len(held_out) == 2


def test_a_report_names_both(equal_names: list[Sample], tmp_path: Path) -> None:
    page = report(equal_names, tmp_path / "page.html", on=QUIET)
    assert list(page.notices) == ["a/tissue", "b/tissue"]
    text = page.path.read_text(encoding="utf-8")
    assert "<h3>a/tissue</h3>" in text
    assert 'data-file="a/' not in text


def test_a_structure_with_boxes_only_is_shown_without_a_warning(
    own_tissue: Sample, tmp_path: Path
) -> None:
    import_boxes(own_tissue, from_labels=("nucleus",), min_px=4)
    remove_pieces(own_tissue, ["truth/nucleus"])
    page = report(own_tissue, tmp_path / "page.html", structures="nucleus", on=QUIET)
    texts = [notice.text for notice in page.notices["own"]]
    assert not [text for text in texts if "has no labels" in text]
    page = report(own_tissue, tmp_path / "other.html", structures="nuclei", on=QUIET)
    texts = [notice.text for notice in page.notices["own"]]
    assert [text for text in texts if "nuclei" in text]
