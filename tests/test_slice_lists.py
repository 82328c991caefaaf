"""Lists of slices, in every notation of the command line and of a study."""

from pathlib import Path
from typing import Any

import pytest

from sparsem.annotation.settings import AnnotationSettings
from sparsem.errors import SettingsError
from sparsem.experiment.settings import ModelsSettings
from sparsem.quality.settings import ImagesSettings
from sparsem.report.settings import ExportSettings, ReportSettings
from sparsem.score.settings import ScoreSettings
from sparsem.settings import Settings, parse, parsed_slices, read_toml
from sparsem.training.settings import TrainSettings

Fields = list[tuple[type[Settings], str]]
NUMBERS: Fields = [
    (TrainSettings, "slices"),
    (TrainSettings, "validation_slices"),
    (ImagesSettings, "slices"),
    (ExportSettings, "slices"),
]
CHOICES: Fields = [
    (AnnotationSettings, "slices"),
    (ScoreSettings, "slices"),
    (ScoreSettings, "trained_slices"),
    (ModelsSettings, "truth_slices"),
]
WAYS = ["1-3,9", "1 2 3 9", [1, 2, 3, 9], ["1-3", 9], ["1-3", "9"]]


@pytest.mark.parametrize("value", WAYS, ids=str)
def test_every_field_accepts_every_notation(value: Any) -> None:
    for model, field in NUMBERS:
        settings = parse(model, {field: value}, "study.toml")
        assert getattr(settings, field) == (1, 2, 3, 9)
    for model, field in CHOICES:
        settings = parse(model, {field: value}, "study.toml")
        assert parsed_slices(getattr(settings, field)) == [1, 2, 3, 9]
    assert parsed_slices(
        parse(ReportSettings, {"truth_slices": {"nucleus": value}}, "x").truth_slices["nucleus"]
    ) == [1, 2, 3, 9]


def test_one_slice_is_a_number() -> None:
    assert all(getattr(parse(model, {field: 5}, "x"), field) == (5,) for model, field in NUMBERS)
    assert all(getattr(parse(model, {field: 5}, "x"), field) == "5" for model, field in CHOICES)


@pytest.mark.parametrize(
    "value", ["3-1", "a", [1, 1], -1, "1-9999999999", [1.5], [[1]], "1..5"], ids=str
)
def test_invalid_slice_lists_are_refused(value: Any) -> None:
    for model, field in NUMBERS:
        with pytest.raises(SettingsError, match=f"'{field}"):
            parse(model, {field: value}, "study.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_settings_file_may_open_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = 'sample = "µ.zarr"\n'
    (tmp_path / "study.toml").write_bytes(text.encode(encoding))
    if encoding == "utf-16-le":  # which states nothing of itself
        with pytest.raises(SettingsError, match=r"study\.toml is not valid TOML"):
            read_toml(tmp_path / "study.toml")
    else:
        assert read_toml(tmp_path / "study.toml") == {"sample": "µ.zarr"}
