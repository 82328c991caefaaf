"""How many slices must be labelled: the experiment measures on what no network saw, and goes on where it was."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sparsem.annotations import write_annotation
from sparsem.errors import InputError
from sparsem.experiment.slices import SlicesSettings, drawn, slices_compared
from sparsem.learn.settings import LearnSettings
from sparsem.store.sample import Sample
from tests.conftest import QUICK, truth_of

POOL = tuple(range(0, 19, 2))
SETTINGS = SlicesSettings(**QUICK.model_dump(include=set(LearnSettings.model_fields)), labelled=(3, 5, 40), tile=(64, 96), repeats=2)


def test_slices_are_drawn_evenly_and_differently_each_time() -> None:
    pool = list(range(100, 180))
    first, second, third = (drawn(pool, 7, repeat) for repeat in range(3))
    assert first == (100, 113, 126, 140, 153, 166, 179)
    assert len({first, second, third}) == 3
    for one in (second, third):
        assert len(one) == 7
        assert np.ptp(np.diff(one)) <= 1
    assert drawn([4, 9, 11], 1, 0) == (9,)
    assert drawn([4, 9, 11], 2, 5) in ((4, 9), (4, 11), (9, 11))


@pytest.fixture
def labelled(own_tissue: Sample) -> Sample:
    write_annotation(own_tissue, "nucleus", POOL, truth_of(own_tissue, "nucleus", POOL), overwrite=True)
    return own_tissue


def test_every_kind_is_measured_where_it_was_not_trained(labelled: Sample, tmp_path: Path) -> None:
    found = slices_compared(labelled, "nucleus", tmp_path / "e", None, SETTINGS)
    assert [(run.labelled, run.tile, run.repeat) for run in found.runs] == [(n, t, r) for t in (64, 96) for n in (3, 5) for r in (0, 1)]
    for run in found.runs:
        assert len(run.slices) == run.labelled
        assert set(run.z) == set(range(19)) - set(run.slices)  # the phantom has a truth of every slice
        assert 0 <= run.dice <= 1
    summary = found.summary()
    ofthree = [run.dice for run in found.runs if (run.labelled, run.tile) == (3, 96)]
    assert summary[3, 96] == pytest.approx((np.mean(ofthree), np.std(ofthree, ddof=1)))
    table = labelled.read_table("experiment_slices_nucleus")
    assert table["dice_3d"].to_pylist() == [run.dice for run in found.runs]
    assert labelled.read_table("experiment_slices_nucleus_z").num_rows == sum(len(run.z) for run in found.runs)
    for file in found.files:
        assert np.ptp(np.asarray(cv2.imread(str(file)))) > 100
    models = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").glob("*.safetensors")}
    assert len(models) == 8
    again = slices_compared(labelled, "nucleus", tmp_path / "e", None, SETTINGS)
    assert again.runs == found.runs
    assert models == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").glob("*.safetensors")}


def test_without_a_truth_the_labelled_slices_that_are_left_count(labelled: Sample, tmp_path: Path) -> None:
    shutil_truth = labelled.path / "truth" / "nucleus"
    shutil_truth.rename(tmp_path / "aside")
    settings = SETTINGS.model_copy(update={"labelled": (3,), "tile": (), "repeats": 1})
    (run,) = slices_compared(labelled, "nucleus", tmp_path / "e", None, settings).runs
    assert run.slices == (0, 10, 18)
    assert run.z == (2, 4, 6, 8, 12, 14, 16)


def test_too_few_labelled_slices_and_a_truth_that_does_not_fit(labelled: Sample, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nucleus' is labelled on 10 slices; expected more than 40"):
        slices_compared(labelled, "nucleus", tmp_path, None, SETTINGS.model_copy(update={"labelled": (40,)}))
    np.save(tmp_path / "t.npy", np.zeros((3, 96, 128), np.uint8))
    with pytest.raises(InputError, match=r"t\.npy has the shape \(3, 96, 128\), but the image has \(19, 96, 128\)"):
        slices_compared(labelled, "nucleus", tmp_path, tmp_path / "t.npy", SETTINGS)
