"""Slices to label next, and the Dice to expect on unlabeled slices."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.models.checkpoint import read_recipe
from sparsem.segment.cross_validation import (
    cross_validate,
    fold_path,
    split_into_folds,
)
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict, predict_slice
from sparsem.segment.settings import PredictSettings, SuggestSettings
from sparsem.segment.slice_selection import select_uncertain_slices, spread_slices
from sparsem.segment.suggest import suggest
from sparsem.segment.train import train
from sparsem.segment.uncertainty import combine_predictions, entropy
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import LABELED, QUICK, copy_of, put, random_model, truth_of

REPLACE = Execution(overwrite=True, quiet=True)


# In bfloat16, the tiles of a batch change the last digits of each other.
EXACT = PredictSettings(precision="float32", z_smoothing_nm=0)


def test_slices_are_evenly_spaced_first_and_in_the_widest_gaps_later() -> None:
    assert spread_slices(19, [], 3) == [0, 9, 18]
    assert spread_slices(21, [0, 20], 3) == [10, 5, 15]
    assert spread_slices(21, [3], 2) == [20, 11]
    assert spread_slices(7, [], 3, copies=[3, 6]) == [0, 2, 5]
    assert spread_slices(21, [0, 20], 1, copies=[9, 10, 11]) == [8]
    with pytest.raises(InputError, match="Cannot suggest 1 slices: only 0 are not labeled"):
        spread_slices(3, [0, 1], 1, copies=[2])
    with pytest.raises(InputError, match="Cannot suggest 3 slices: only 2 are not labeled"):
        spread_slices(4, [0, 1], 3)


def test_uncertainty_counts_less_next_to_a_labeled_slice() -> None:
    uncertainty = np.array([9.0, 8, 1, 1, 1, 1, 2, 3, 2, 1])
    assert select_uncertain_slices(uncertainty, [0], 1) == [
        7
    ]  # slice 1 is uncertain, but the slice next to it is labeled
    assert select_uncertain_slices(uncertainty, [], 1) == [0]
    first = select_uncertain_slices(np.ones(100), [0, 99], 3)
    assert sorted(first)[1] == pytest.approx(50, abs=26)
    assert (
        np.diff(sorted([0, 99, *first])).min() > 10
    )  # of equal uncertainty: they keep their distance
    holes = np.full(10, np.nan)
    holes[[2, 6]] = 1
    assert set(select_uncertain_slices(holes, [], 2)) == {2, 6}
    with pytest.raises(
        InputError, match="Cannot suggest 2 slices: only 1 unlabeled slices were examined"
    ):
        select_uncertain_slices(holes, [2], 2)


def test_entropy_and_disagreement_equal_their_formulas() -> None:
    assert entropy(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1, 0], abs=1e-6)
    assert entropy(np.array(0.25)) == pytest.approx(0.8112781)
    yes, no, unsure = (np.full((1, 2, 3), p, np.float32) for p in (1, 0, 0.5))
    for answers, mean, uncertainty in (
        ([yes, no], 0.5, 1),
        ([unsure, unsure], 0.5, 0),
        ([yes, yes, no], 2 / 3, entropy(np.array(2 / 3))),
    ):
        result = combine_predictions(iter(answers))
        assert result.mean == pytest.approx(np.full((1, 2, 3), mean))
        assert result.uncertainty == pytest.approx(np.full((1, 2, 3), uncertainty), abs=1e-6)
    assert combine_predictions([unsure]).uncertainty is None  # a single model contradicts no other
    assert yes.min() == 1  # arguments are not changed
    with pytest.raises(ValueError, match="at least one"):
        combine_predictions([])
    several = np.random.default_rng(0).random((4, 2, 5, 7)).astype(np.float32)
    expected = _entropy(several.mean(0)) - _entropy(several).mean(0)
    assert combine_predictions(several).uncertainty == pytest.approx(expected, abs=1e-5)


def _entropy(p: NDArray[np.float32]) -> NDArray[np.float64]:
    """Entropy by scipy, in bits."""
    return np.asarray(scipy.stats.entropy(np.stack([p, 1 - p]).astype(np.float64), base=2, axis=0))


def test_suggestions_from_probabilities(own_tissue: Sample) -> None:
    assert suggest(own_tissue, "nucleus", SuggestSettings(n=2)).criterion == "evenly spaced"
    assert set(suggest(own_tissue, "nucleus", SuggestSettings(n=2)).z) == {4, 13}
    unsure = np.zeros(own_tissue.image().shape, np.uint8)
    unsure[5, 20:60, 20:60], unsure[14, 10:30] = 128, 110
    put(own_tissue, "probabilities/nucleus", unsure, 7)
    suggestion = suggest(own_tissue, "nucleus", SuggestSettings(n=2))
    assert suggestion.criterion == "entropy"
    assert suggestion.z == (14, 5)
    assert suggestion.uncertainty[5] == pytest.approx(
        1600 / (96 * 128) * entropy(np.array(128 / 255)).item()
    )
    put(own_tissue, "probabilities/nucleus", np.minimum(unsure[::-1], 111), 7)
    assert suggest(own_tissue, "nucleus", SuggestSettings(n=1)).z == (
        4,
    )  # computed again for other probabilities
    with pytest.raises(SampleError, match="no annotation and no probabilities of 'golgi'"):
        suggest(own_tissue, "golgi")


def test_folds_measure_a_dice_and_write_models_that_disagree(
    own_tissue: Sample, tmp_path: Path
) -> None:
    settings = changed(QUICK, {"folds": 3, "updates": 25})
    out = tmp_path / "m.safetensors"
    (result,) = cross_validate([own_tissue], out, settings)
    assert result.structure == "nucleus"
    assert len(result.dice) == 3
    assert result.mean == pytest.approx(np.mean(result.dice))
    assert result.spread == pytest.approx(np.std(result.dice, ddof=1))
    held = [read_recipe(fold_path(out, n)).training["held_out"] for n in (1, 2, 3)]
    assert held == [["tissue 0"], ["tissue 9"], ["tissue 18"]] or held == [
        [f"own {z}"] for z in LABELED
    ]
    rows = (tmp_path / "m.folds.csv").read_text().splitlines()
    assert rows[0] == "structure,mean,spread,fold1,fold2,fold3"
    assert rows[1].startswith(f"nucleus,{result.mean:.4f}")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert cross_validate([own_tissue], out, settings) == [result]  # nothing is trained again
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    train_network([own_tissue], out, settings)
    assert read_recipe(out).training["held_out"] == []
    models = tuple(str(fold_path(out, n)) for n in (1, 2, 3))
    suggestion = suggest(own_tissue, "nucleus", SuggestSettings(n=2, model=models))
    assert suggestion.criterion == "disagreement"
    assert len(suggestion.z) == 2
    assert not set(suggestion.z) & set(LABELED)
    assert (suggestion.uncertainty >= -1e-9).all()
    spread = suggest(own_tissue, "nucleus", SuggestSettings(n=1, model=models, every=4))
    assert np.nonzero(~np.isnan(spread.uncertainty))[0].tolist() == [2, 6, 10, 14, 18]
    assert spread.uncertainty[6] == pytest.approx(suggestion.uncertainty[6])
    with pytest.raises(InputError, match="does not know 'mitochondrion'; it knows nucleus"):
        suggest(own_tissue, "mitochondrion", SuggestSettings(model=models))
    _assert_mean_and_uncertainty_are_written(
        own_tissue, [Path(model) for model in models], suggestion.uncertainty
    )


def _assert_mean_and_uncertainty_are_written(
    sample: Sample, models: list[Path], uncertainty: NDArray[np.float64]
) -> None:
    written = list(predict(sample, models, EXACT).written)
    assert written == [
        "probabilities/nucleus",
        "labels/nucleus",
        "probabilities/nucleus-uncertainty",
    ]
    each = np.stack(
        [
            [predict_slice(sample.image(), z, [model], EXACT)[1].mean[0] for z in (0, 7)]
            for model in models
        ]
    )
    mean = sample.volume("probabilities", "nucleus").read(slice(None))[[0, 7]] / 255
    assert mean == pytest.approx(each.mean(0), abs=0.51 / 255)
    written_uncertainty = (
        sample.volume("probabilities", "nucleus-uncertainty").read(slice(None))[[0, 7]] / 255
    )
    assert written_uncertainty == pytest.approx(
        _entropy(each.mean(0)) - _entropy(each).mean(0), abs=0.52 / 255
    )
    again = suggest(sample, "nucleus", SuggestSettings(n=2))
    assert again.criterion == "disagreement"
    assert again.uncertainty == pytest.approx(uncertainty, abs=0.6 / 255)
    predict(sample, models[0], on=REPLACE)
    assert sample.names("probabilities") == [
        "nucleus"
    ]  # the uncertainty of several models does not apply to one
    assert suggest(sample, "nucleus", SuggestSettings(n=2)).criterion == "entropy"


def test_invalid_folds_are_refused(own_tissue: Sample, tmp_path: Path) -> None:
    for folds in (1, 4):
        with pytest.raises(InputError, match="--folds takes 2 to 3, the number of labeled slices"):
            cross_validate(
                [own_tissue], tmp_path / "m.safetensors", changed(QUICK, {"folds": folds})
            )
    cross_validate([own_tissue], tmp_path / "m.safetensors", changed(QUICK, {"folds": 2}))
    with pytest.raises(ResumeError, match="fold: 1 of 2 -> 1 of 3"):
        cross_validate([own_tissue], tmp_path / "m.safetensors", changed(QUICK, {"folds": 3}))


def test_training_on_some_of_the_labeled_slices(own_tissue: Sample, tmp_path: Path) -> None:
    recipe = train_network(
        [own_tissue], tmp_path / "m.safetensors", changed(QUICK, {"slices": (0, 18)})
    )
    assert [name.rsplit(" ", 1)[-1] for name in recipe.training["trained_on"]] == ["0", "18"]
    with pytest.raises(
        InputError, match=r"Slice 4 of own\.zarr is not labeled; labeled are 0, 9, 18"
    ):
        train_network([own_tissue], tmp_path / "n.safetensors", changed(QUICK, {"slices": (0, 4)}))


def test_suggestions_for_all_annotated_structures(own_tissue: Sample, tmp_path: Path) -> None:
    sample = copy_of(own_tissue, tmp_path / "s.zarr")
    write_annotation(sample, "lysosome", (4,), truth_of(sample, "lysosome", (4,)))
    assert 4 not in suggest(sample, None, SuggestSettings(n=3)).z
    assert 4 in suggest(sample, "nucleus", SuggestSettings(n=3)).z


def a_model(path: Path, structures: tuple[str, ...], seed: int) -> str:
    torch.manual_seed(seed)
    return str(random_model(path, structures, pixel_nm=20.0))


def test_models_predict_a_structure_by_its_name(own_tissue: Sample, tmp_path: Path) -> None:
    first = a_model(tmp_path / "1.safetensors", ("nucleus", "mitochondrion"), 1)
    second = a_model(tmp_path / "2.safetensors", ("nucleus", "mitochondrion"), 2)
    settings = SuggestSettings(n=1, model=(first, second), every=6)
    nucleus, mitochondrion = (
        suggest(own_tissue, name, settings).uncertainty for name in ("nucleus", "mitochondrion")
    )
    assert not np.array_equal(
        nucleus, mitochondrion, equal_nan=True
    )  # the second structure has its own result
    both = suggest(own_tissue, None, settings).uncertainty
    assert both == pytest.approx((nucleus + mitochondrion) / 2, abs=1e-6, nan_ok=True)
    turned = a_model(tmp_path / "3.safetensors", ("mitochondrion", "nucleus"), 3)
    straight, crossed = (
        SuggestSettings(n=1, model=(first, turned), every=6),
        SuggestSettings(n=1, model=(turned, first), every=6),
    )
    straight_uncertainty, crossed_uncertainty = (
        suggest(own_tissue, None, asked).uncertainty for asked in (straight, crossed)
    )
    assert straight_uncertainty == pytest.approx(crossed_uncertainty, abs=1e-6, nan_ok=True)
    alone = a_model(tmp_path / "4.safetensors", ("nucleus",), 4)
    for models in ((first, alone), (alone, first)):
        with pytest.raises(InputError, match="Name one structure that all know"):
            suggest(own_tissue, None, SuggestSettings(n=1, model=models))


def test_uncertainty_of_cells_is_that_of_interior_and_boundary(
    own_tissue: Sample, tmp_path: Path
) -> None:
    write_annotation(own_tissue, "cells", LABELED, truth_of(own_tissue, "cells", LABELED))
    uncertainty = np.zeros(own_tissue.image().shape, np.uint8)
    put(own_tissue, "probabilities/cells-interior", uncertainty, 7)
    uncertainty[5, 20:60] = 128
    put(own_tissue, "probabilities/cells-boundary", uncertainty, 7)
    for name in ("cells", "cells-boundary"):
        suggestion = suggest(own_tissue, name, SuggestSettings(n=1))
        assert (suggestion.criterion, suggestion.z) == ("entropy", (5,))
    model = a_model(tmp_path / "m.safetensors", ("cells-interior", "cells-boundary"), 1)
    assert not set(
        suggest(own_tissue, "cells", SuggestSettings(n=16, model=(model,), every=1)).z
    ) & set(LABELED)


def test_folds_hold_out_adjacent_slices_together() -> None:
    def of(*z: int) -> list[tuple[str, int]]:
        return [("a", slice_index) for slice_index in z]

    assert split_into_folds(of(0, 13, 26, 39, 52, 65, 78), {"a": 80}, 3) == [
        [0, 3, 6],
        [1, 4],
        [2, 5],
    ]
    clumps = of(0, 1, 2, 300, 301, 600)
    assert split_into_folds(clumps, {"a": 1000}, 3) == [[0, 1, 2], [3, 4], [5]]
    assert split_into_folds(of(*range(500, 512)), {"a": 1000}, 3) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert split_into_folds([("b", 5), ("a", 5), ("b", 80), ("a", 80)], {"a": 90, "b": 90}, 2) == [
        [0, 1],
        [2, 3],
    ]


def test_a_fold_without_a_structure_is_refused_before_training(
    own_tissue: Sample, tmp_path: Path
) -> None:
    slices = truth_of(own_tissue, "nucleus", LABELED)
    write_annotation(
        own_tissue, "nucleus", LABELED, [slices[0], 0 * slices[1], 0 * slices[2]], overwrite=True
    )
    with pytest.raises(
        InputError, match=r"Without the held-out own 0 no labeled slice contains 'nucleus'"
    ):
        train([own_tissue], tmp_path / "m.safetensors", changed(QUICK, {"folds": 3}))
    assert not list(tmp_path.glob("m.*"))


def test_probabilities_of_a_replaced_image_are_refused(own_tissue: Sample) -> None:
    put(
        own_tissue,
        "probabilities/nucleus",
        np.zeros(own_tissue.image().shape, np.uint8),
        7,
        made_on=("raw", own_tissue.image().fingerprint),
    )
    assert suggest(own_tissue, "nucleus", SuggestSettings(n=2)).criterion == "entropy"
    put(own_tissue, "", np.zeros((25, 96, 128), np.uint8), 7)
    with pytest.raises(SampleError, match="was replaced since"):
        suggest(own_tissue, "nucleus", SuggestSettings(n=2))
