"""Experiments on the number of labeled slices and on the network.

They measure on slices on which no network was trained, and resume where they stopped.
"""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, SettingsError
from sparsem.experiment.models import NetworkRun, compare_models
from sparsem.experiment.settings import ModelsSettings, SlicesSettings
from sparsem.experiment.slices import compare_slice_counts, select_slices
from sparsem.report.report import report
from sparsem.report.settings import ReportSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import NetworkTrainingSettings
from sparsem.workflow.execution import Execution
from tests.conftest import QUICK, truth_of

POOL = tuple(range(0, 19, 2))
SETTINGS = SlicesSettings(
    **QUICK.model_dump(include=set(NetworkTrainingSettings.model_fields)),
    n_slices=(3, 5, 40),
    contexts_px=(64, 96),
    repeats=2,
)


def test_slices_are_drawn_evenly_and_differently_each_time() -> None:
    pool = list(range(100, 180))
    first, second, third = (select_slices(pool, 7, repeat) for repeat in range(3))
    assert first == (100, 113, 126, 140, 153, 166, 179)
    assert len({first, second, third}) == 3
    for selection in (second, third):
        assert len(selection) == 7
        assert np.ptp(np.diff(selection)) <= 1
    assert select_slices([4, 9, 11], 1, 0) == (9,)
    assert select_slices([4, 9, 11], 2, 5) in ((4, 9), (4, 11), (9, 11))


@pytest.fixture
def labeled(own_tissue: Sample) -> Sample:
    write_annotation(
        own_tissue, "nucleus", POOL, truth_of(own_tissue, "nucleus", POOL), overwrite=True
    )
    return own_tissue


def test_every_kind_is_measured_where_it_was_not_trained(labeled: Sample, tmp_path: Path) -> None:
    comparison = compare_slice_counts(labeled, "nucleus", tmp_path / "e", None, SETTINGS)
    assert [(run.n_slices, run.tile_px, run.repeat) for run in comparison.runs] == [
        (n, t, r) for t in (64, 96) for n in (3, 5) for r in (0, 1)
    ]
    for run in comparison.runs:
        assert len(run.training_slices) == run.n_slices
        assert set(run.test_slices) == set(range(19)) - set(
            run.training_slices
        )  # the phantom has ground truth of every slice
        assert 0 <= run.dice <= 1
    summary = comparison.summary()
    ofthree = [run.dice for run in comparison.runs if (run.n_slices, run.tile_px) == (3, 96)]
    assert summary[3, 96] == pytest.approx((np.mean(ofthree), np.std(ofthree, ddof=1)))
    table = labeled.read_table("experiment_slices_nucleus")
    assert table["dice_3d"].to_pylist() == [run.dice for run in comparison.runs]
    assert labeled.read_table("experiment_slices_nucleus_z").num_rows == sum(
        len(run.test_slices) for run in comparison.runs
    )
    for file in comparison.files:
        assert np.ptp(np.asarray(cv2.imread(str(file)))) > 100
    models = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").glob("*.safetensors")}
    assert len(models) == 8
    again = compare_slice_counts(labeled, "nucleus", tmp_path / "e", None, SETTINGS)
    assert again.runs == comparison.runs
    assert models == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "e").glob("*.safetensors")
    }


def test_without_a_truth_the_labeled_slices_that_are_left_count(
    labeled: Sample, tmp_path: Path
) -> None:
    shutil_truth = labeled.path / "truth" / "nucleus"
    shutil_truth.rename(tmp_path / "aside")
    settings = changed(SETTINGS, {"n_slices": (3,), "contexts_px": (), "repeats": 1})
    (run,) = compare_slice_counts(labeled, "nucleus", tmp_path / "e", None, settings).runs
    assert run.training_slices == (0, 10, 18)
    assert run.test_slices == (2, 4, 6, 8, 12, 14, 16)


def test_too_few_labeled_slices_and_a_truth_that_does_not_fit(
    labeled: Sample, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="'nucleus' is labeled on 10 slices; expected more than 40"
    ):
        compare_slice_counts(
            labeled, "nucleus", tmp_path, None, changed(SETTINGS, {"n_slices": (40,)})
        )
    np.save(tmp_path / "t.npy", np.zeros((3, 96, 128), np.uint8))
    with pytest.raises(InputError, match=r"Which 3 of the 19 slices does .*t\.npy label"):
        compare_slice_counts(labeled, "nucleus", tmp_path, tmp_path / "t.npy", SETTINGS)


def test_networks_side_by_side(own_tissue: Sample, tmp_path: Path) -> None:
    settings = ModelsSettings(
        **QUICK.model_dump(include=set(NetworkTrainingSettings.model_fields)),
        n_slices=(2, 3),
        networks=("resunet", "unet+cps"),
    )
    comparison = compare_models(own_tissue, "nucleus", tmp_path, settings=settings)
    assert [(run.network, run.n_slices) for run in comparison.runs] == [
        ("resunet", 2),
        ("resunet", 3),
        ("unet+cps", 2),
        ("unet+cps", 3),
    ]
    assert comparison.runs[0].training_slices == (0, 18)
    assert comparison.runs[0].test_slices == tuple(z for z in range(19) if z not in (0, 18))
    summary = comparison.summary()
    for network, (mean, spread, rank) in summary.items():
        dice = [run.dice for run in comparison.runs if run.network == network]
        assert mean == pytest.approx(np.mean(dice))
        assert spread == pytest.approx(np.std(dice, ddof=1))
        assert 1 <= rank <= 2
    table = own_tissue.read_table("experiment_models_nucleus")
    assert table["dice_3d"].to_pylist() == [run.dice for run in comparison.runs]
    text = comparison.files[0].read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith(
        "| network | parameters | training s | memory GB | 2 labeled | 3 labeled | mean |"
    )
    assert len(text.splitlines()) == 4
    assert comparison.files[1].stat().st_size > 10_000
    _is_on_the_page(own_tissue, comparison.runs[3], tmp_path / "page.html")
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    compare_models(own_tissue, "nucleus", tmp_path, settings=settings)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")} == before
    with pytest.raises(SettingsError, match="There is no model 'resnet'; did you mean 'resunet'"):
        compare_models(
            own_tissue,
            "nucleus",
            tmp_path,
            settings=changed(settings, {"networks": ("resnet",)}),
        )
    with pytest.raises(InputError, match="labeled on 3 slices; expected more than 7"):
        compare_models(
            own_tissue, "nucleus", tmp_path, settings=changed(settings, {"n_slices": (7,)})
        )


def _is_on_the_page(sample: Sample, last: NetworkRun, path: Path) -> None:
    page = report(
        [sample.path], path, ReportSettings(n_slices=3), on=Execution(quiet=True)
    ).path.read_text(encoding="utf-8")
    assert f"<h3>Networks: nucleus of {sample.name}</h3>" in page
    table = page[page.index("Networks: nucleus") :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])
    assert [re.sub("<[^>]+>", "|", rows[0]).split("||")[k].strip("|") for k in (0, 4, 5)] == [
        "network",
        "2 labeled",
        "3 labeled",
    ]
    assert rows[2].startswith("<td>unet+cps</td>")
    assert f'<td class="n">{last.dice:.3f}</td>' in rows[2]


def test_equal_minutes_become_updates_that_stay(own_tissue: Sample, tmp_path: Path) -> None:
    settings = ModelsSettings(
        **QUICK.model_dump(include=set(NetworkTrainingSettings.model_fields)),
        n_slices=(2,),
        networks=("resunet", "resunet+cps"),
        minutes=0.005,
    )
    comparison = compare_models(own_tissue, "nucleus", tmp_path, settings=settings)
    alone, pair = comparison.runs
    assert min(alone.updates, pair.updates) >= 1
    assert [int(file.read_text()) for file in sorted(tmp_path.glob("*.updates"))] == [
        pair.updates,
        alone.updates,
    ]
    again = compare_models(own_tissue, "nucleus", tmp_path, settings=settings)
    assert [run.updates for run in again.runs] == [alone.updates, pair.updates]
