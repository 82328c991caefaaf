"""Comparison of protocols: statistics, a study from images to a page, and invalid studies."""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import stats

from sparsem.cli.app import run_command_line
from sparsem.errors import InputError, SettingsError
from sparsem.experiment.protocols import compare_protocols
from sparsem.phantom.phantom import phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.quality.compare import ProtocolComparison
from sparsem.quality.comparison_tables import comparison_tables
from sparsem.quality.settings import read_comparison
from sparsem.quality.statistics import (
    group_difference,
    holm_correction,
    pearson_correlation,
    smallest_p,
    spearman_correlation,
)
from sparsem.workflow.execution import Execution

QUIET = Execution(quiet=True)
NONE = float("nan")


def test_holm_follows_the_worked_example() -> None:
    """The p values are multiplied by 4, 3, 2 and 1 by rank, and never decrease.

    NaN do not count as tests.
    """
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.5, NONE, 0.9])[0] == 1
    assert math.isnan(holm_correction([0.5, NONE])[1])
    assert holm_correction([]) == []


def test_holm_keeps_false_alarms_rare() -> None:
    random = np.random.default_rng(0)
    alarms = [min(holm_correction(random.uniform(size=20).tolist())) < 0.05 for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)


def test_correlations_and_their_intervals() -> None:
    """Pearson's interval after Fisher by hand; both contain the true value in 95 of 100 samples."""
    random = np.random.default_rng(1)
    x = random.normal(size=30)
    y = 0.6 * x + 0.8 * random.normal(size=30)
    pearson = pearson_correlation(x, y)
    r = float(np.corrcoef(x, y)[0, 1])
    half = 1.959964 / math.sqrt(27)
    assert pearson.value == pytest.approx(r)
    assert (pearson.low, pearson.high) == pytest.approx(
        (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)), abs=1e-5
    )
    ranks = [stats.rankdata(values) for values in (x, y)]
    assert spearman_correlation(x, y).value == pytest.approx(float(np.corrcoef(*ranks)[0, 1]))
    true = 6 / math.pi * math.asin(0.6 / 2)  # of the normal distribution
    held = 0
    for _ in range(400):
        x = random.normal(size=40)
        spearman = spearman_correlation(x, 0.6 * x + 0.8 * random.normal(size=40))
        held += spearman.low <= true <= spearman.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_too_few_or_constant_values_have_no_correlation() -> None:
    x = np.array([1.0, 2, 3, 4, NONE])
    assert pearson_correlation(x, np.ones(5)) == (4, *[pytest.approx(NONE, nan_ok=True)] * 4)
    assert math.isnan(spearman_correlation(x[:3], x[:3]).value)
    assert spearman_correlation(x, x)[:2] == (4, 1)


def test_differences() -> None:
    """Every number of the second group is larger: delta is 1, and p is 2 of all permutations."""
    first, second = np.array([1.0, 2, 3, NONE]), np.array([4.0, 5, 6, 7])
    difference = group_difference(first, second)
    assert difference.n == (3, 4)
    assert difference.medians == (2, 5.5)
    assert difference.delta == 1
    assert (
        difference.p
        == pytest.approx(2 / len(list(combinations(range(7), 3))))
        == pytest.approx(smallest_p((3, 4)))
    )
    assert group_difference(second, first).delta == -1
    alone = group_difference(first[:1], second)
    assert math.isnan(alone.p)
    assert alone.delta == 1
    tied = group_difference(np.ones(3), np.full(3, 2.0))
    assert tied.p == pytest.approx(2 / 20)  # the normal approximation would give 0.05
    assert group_difference(np.array([1.0, 2, 2]), np.array([2.0, 2, 3])).delta == pytest.approx(
        5 / 9
    )  # larger 5 times of 9
    large = group_difference(np.arange(4000.0), np.arange(4000.0) + 0.5)
    assert large.delta == pytest.approx(2 * 4000 * 4001 / 2 / 4000**2 - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two protocols on two microscopes, five images each; the first has twice the noise."""
    where = tmp_path_factory.mktemp("protocols")
    settings = PhantomSettings(
        shape=(12, 160, 192),
        voxel_nm=(16, 16, 16),
        flicker=0,
        drift_nm=0,
        noise=0,
        curtaining=0,
        seed=0,
    )
    slices = [phantom_slice(settings, z).image.astype(float) for z in range(10)]
    random = np.random.default_rng(0)
    mask = np.zeros((160, 192), np.uint8)
    mask[:50, :60] = 1
    for protocol, noise in (("bench", 20), ("asp", 10)):
        for microscope in ("sbf", "fib"):
            (where / protocol / microscope).mkdir(parents=True)
            for number in range(5):
                image = slices[2 * number + (microscope == "fib")].copy()
                image[:50, :60] = 150
                image += random.normal(0, noise, image.shape)
                name = where / protocol / microscope / f"p{number}.tif"
                tifffile.imwrite(
                    name,
                    np.clip(np.round(image), 1, 255).astype(np.uint8),
                    photometric="minisblack",
                )
                tifffile.imwrite(
                    name.with_name(f"resin{number}.png.tif"), mask, photometric="minisblack"
                )
    return where


def group(protocol: str, microscope: str, more: str = "") -> str:
    names = f'images = ["{protocol}/{microscope}/p*.tif"]\nresin = ["{protocol}/{microscope}/resin*.tif"]'
    return f'[[group]]\nprotocol = "{protocol}"\nmicroscope = "{microscope}"\n{names}\n{more}\n'


def study(folder: Path, text: str, name: str = "study.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


ALL = "".join(
    group(protocol, microscope) for protocol in ("bench", "asp") for microscope in ("sbf", "fib")
)


@pytest.fixture(scope="module")
def comparison(folder: Path) -> ProtocolComparison:
    return compare_protocols(
        study(folder, f'denoise = "nlm"\nout = "whole"\n{ALL}'), QUIET
    ).comparison


def test_a_study_finds_the_noisier_protocol(comparison: ProtocolComparison) -> None:
    assert list(comparison.groups) == ["sbf · bench", "fib · bench", "sbf · asp", "fib · asp"]
    assert all(image.resin == "marked" for images in comparison.groups.values() for image in images)
    noise = {
        name: 255 * float(np.median(values))
        for name, values in comparison.values["resin_noise"].items()
    }
    assert noise == pytest.approx(
        {"sbf · bench": 20, "fib · bench": 20, "sbf · asp": 10, "fib · asp": 10}, rel=0.1
    )
    after = comparison.values["resin_noise_reference"]
    assert all(after[name].max() < comparison.values["resin_noise"][name].min() for name in after)
    pairs = {test.groups for test in comparison.tests}
    assert pairs == {
        ("sbf · bench", "fib · bench"),
        ("sbf · bench", "sbf · asp"),
        ("fib · bench", "fib · asp"),
        ("sbf · asp", "fib · asp"),
    }
    by_pair = {test.groups: test for test in comparison.tests if test.metric == "resin_noise"}
    protocols, microscopes = (
        by_pair["sbf · bench", "sbf · asp"],
        by_pair["sbf · bench", "fib · bench"],
    )
    assert protocols.difference.p == pytest.approx(2 / 252)
    assert protocols.difference.delta == -1
    assert microscopes.difference.p > 0.05
    assert protocols.corrected > protocols.difference.p
    both = {correlation.metrics: correlation for correlation in comparison.correlations}
    assert both["resin_noise", "noise"].pearson.value > 0.9
    assert both["resin_noise", "ssim"].pearson.value < -0.8
    assert both["resin_noise", "ssim"].corrected[0] < 0.001
    assert any(
        "No difference can be significant here: the smallest p" in notice
        for notice in comparison.notices
    )


def test_tables_hold_everything(comparison: ProtocolComparison) -> None:
    tables = comparison_tables(comparison)
    assert tables["images"].num_rows == 20
    assert set(tables["images"]["group"].to_pylist()) == set(comparison.groups)
    assert tables["groups"].num_rows == 4 * len(comparison.values)
    first = tables["groups"].to_pylist()[0]
    assert first["n"] == 5
    assert first["lower_quartile"] <= first["median"] <= first["upper_quartile"]
    assert tables["tests"].num_rows == 4 * len(comparison.values)
    assert {"pearson_low", "spearman_high", "spearman_p_corrected", "n"} <= set(
        tables["correlations"].column_names
    )


def test_the_page(
    folder: Path,
    comparison: ProtocolComparison,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command writes a complete page and measures no image again."""
    times = {file: file.stat().st_mtime_ns for file in (folder / "whole").rglob("measured/*.json")}
    monkeypatch.setattr(
        "sys.argv", ["sparsem", "quality", "compare", str(folder / "study.toml"), "--quiet"]
    )
    with pytest.raises(SystemExit) as ended:
        run_command_line()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "Wrote" in printed
    assert "sbf · asp" in printed
    assert times == {
        file: file.stat().st_mtime_ns for file in (folder / "whole").rglob("measured/*.json")
    }
    page = (folder / "whole" / "comparison.html").read_text(encoding="utf-8")
    for words in (
        "Every metric by group",
        "Noise before and after denoising",
        "Correlation of the metrics",
        "Cliff",
        "Blue: resin as marked",
    ):
        assert words in page, words
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")


def test_by_tile_images_may_differ_in_size(folder: Path) -> None:
    tifffile.imwrite(
        folder / "large.tif",
        np.random.default_rng(0).integers(1, 255, (300, 300)).astype(np.uint8),
        photometric="minisblack",
    )
    first = '[[group]]\nprotocol = "x"\nimages = ["asp/fib/p0.tif", "large.tif"]\n'
    both = first + '[[group]]\nprotocol = "y"\nimages = ["bench/fib/p0.tif"]\n'
    sentence = "x: p0 has 160 x 192 px, large 300 x 300; images of a group must have one size"
    with pytest.raises(InputError, match=sentence):
        compare_protocols(study(folder, f'out = "sizes"\n{both}', "sizes.toml"), QUIET)
    result = compare_protocols(
        study(folder, f'by = "tile"\ntile = 128\nout = "tiles"\n{both}', "tiles.toml"), QUIET
    )
    assert len(result.comparison.values["noise"]["x"]) == 1 + 4
    assert any(
        "Tiles of one image are not independent" in notice for notice in result.comparison.notices
    )
    assert any("a proposal" in notice for notice in result.comparison.notices)


def test_files_belong_together_by_their_numbers(folder: Path) -> None:
    """a_1, a_2 and a_10 are matched with their own masks."""
    where = folder / "numbered [1]"
    where.mkdir()
    for number in (1, 2, 10):
        image, mask = np.full((64, 64), 99, np.uint8), np.zeros((64, 64), np.uint8)
        image[:, : 32 + number] = np.random.default_rng(number).integers(1, 255, (64, 32 + number))
        mask[:, 32 + number :] = 1
        image[0, 0] = 255
        tifffile.imwrite(where / f"a_{number}.tif", image, photometric="minisblack")
        tifffile.imwrite(where / f"a_{number}_resin.png.tif", mask, photometric="minisblack")
    text = '[[group]]\nprotocol = "x"\nimages = ["a_?.tif", "a_??.tif"]\nresin = ["a_*_resin*"]\n'
    result = compare_protocols(study(where, text), QUIET).comparison
    assert [measured.values["resin_noise"] for measured in result.groups["x"]] == [0, 0, 0]


def test_slices_of_one_stack_and_single_images_are_reported(folder: Path) -> None:
    tifffile.imwrite(
        folder / "stack.tif",
        np.random.default_rng(0).integers(1, 255, (3, 64, 64)).astype(np.uint8),
        photometric="minisblack",
    )
    text = '[[group]]\nprotocol = "stack"\nimages = ["stack.tif"]\n'
    result = compare_protocols(
        study(folder, f'out = "stacks"\n{text}', "stacks.toml"), QUIET
    ).comparison
    assert any(
        notice.startswith("'stack' is 3 slices of 1 stack: slices of a stack are not independent")
        for notice in result.notices
    )
    alone = compare_protocols(
        study(folder, f'out = "alone"\n{text}slices = [0]', "alone.toml"), QUIET
    )
    assert "No difference was tested" in alone.files[0].read_text(encoding="utf-8")
    assert any(
        "in them is as featureless as resin" in notice or "a proposal" in notice
        for notice in alone.comparison.notices
    )
    marked = compare_protocols(
        study(folder, f'out = "box"\n{text}box = [0, 0, 40, 40]', "box.toml"), QUIET
    )
    assert not any("check that it is resin" in notice for notice in marked.comparison.notices)
    assert any(
        notice.startswith("Not measured: PSNR")
        and notice.endswith("they need a reference, or denoise.")
        for notice in alone.comparison.notices
    )


def test_a_group_of_one_is_shown_and_not_tested(folder: Path) -> None:
    groups = '[[group]]\nprotocol = "alone"\nimages = ["asp/fib/p0.tif"]\n[[group]]\nprotocol = "other"\nimages = ["bench/fib/p*.tif"]\n'
    result = compare_protocols(study(folder, f'out = "one"\n{groups}', "one.toml"), QUIET)
    assert (
        "'alone' is one image: it has no spread, and differences from it are not tested."
        in result.comparison.notices
    )
    assert all(
        math.isnan(test.difference.p) and math.isnan(test.corrected)
        for test in result.comparison.tests
    )
    assert result.files[0].stat().st_size > 10_000


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        (
            '[[group]]\nprotocol = "x"\nimages = ["none/*.tif"]',
            InputError,
            r"No file matches none/\*.tif in ",
        ),
        (
            '[[group]]\nprotocol = "x"\nimages = ["none.tif"]',
            InputError,
            "There is no file .*none.tif",
        ),
        ('[[group]]\nprotocol = "x"\nimages = []', SettingsError, "images"),
        ("title = 'empty'", SettingsError, "group"),
        (
            f"{group('asp', 'fib')}{group('asp', 'fib')}",
            SettingsError,
            "two groups are 'fib · asp'",
        ),
        (f"{group('asp', 'fib', 'color = 3')}", SettingsError, "color"),
        (
            'denoise = "nlm"\n' + group("asp", "fib", 'reference = ["asp/fib/p*.tif"]'),
            SettingsError,
            "give one of them",
        ),
        (
            '[[group]]\nprotocol = "x"\nimages = ["flat.tif"]',
            InputError,
            r"\[\[group\]\] x: flat: the image holds one gray level, 9, everywhere",
        ),
        (
            '[[group]]\nprotocol = "x"\nimages = ["asp/fib/p*.tif"]\nresin = ["asp/fib/resin0*"]',
            InputError,
            "5 images and 1 of --resin",
        ),
    ],
)
def test_invalid_studies_are_refused(
    folder: Path, text: str, error: type[Exception], sentence: str
) -> None:
    tifffile.imwrite(folder / "flat.tif", np.full((64, 64), 9, np.uint8), photometric="minisblack")
    with pytest.raises(error, match=sentence):
        compare_protocols(
            study(folder, f'out = "bad"\n{text}' if "title" not in text else text, "bad.toml"),
            QUIET,
        )
    assert not (folder / "bad" / "comparison.html").exists()


def test_groups_are_named_by_tissue_microscope_and_protocol(folder: Path) -> None:
    read = read_comparison(
        study(
            folder,
            '[[group]]\nprotocol = "a"\ntissue = "brain"\nimages = ["x.tif"]',
            "names.toml",
        )
    )
    assert [entry.name for entry in read.group] == ["brain · a"]


def values_of(comparison: ProtocolComparison, metric: str) -> NDArray[Any]:
    return np.concatenate(list(comparison.values[metric].values()))


def test_a_second_run_gives_the_same_numbers(folder: Path, comparison: ProtocolComparison) -> None:
    again = compare_protocols(folder / "study.toml", QUIET).comparison
    assert all(
        np.array_equal(values_of(comparison, metric), values_of(again, metric), equal_nan=True)
        for metric in comparison.values
    )
