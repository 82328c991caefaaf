"""The order of a series of files from their names: the right one, or an error that names two files."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsem.errors import InputError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.file_names import distinct_names, natural_key
from sparsem.io.readers.file_order import NameFault, possible_slice_numbers, series_order
from sparsem.io.readers.gaps import missing_numbers
from sparsem.io.readers.name_faults import name_fault_message
from sparsem.io.readers.open import open_source
from sparsem.io.readers.patterns import files_of_pattern
from sparsem.io.settings import ImportSettings
from sparsem.workflow.execution import Execution

TRUTH = dict[str, float]  # the z of every file

PREFIXES = (
    *(
        "",
        "s",
        "slice_",
        "z",
        "img_",
        "cell-",
        "Schnitt µm Nr ",
        "scan.",
        "8nm_",
        "run 2 ",
        "A1_B2_",
    ),
    *("t1_z", "2021-03-04_", "20210304_", "Slice=", "x[1]_", "Z1_slice", "day2_s"),
)
SUFFIXES = [
    "",
    "_8bit",
    "_of_120",
    " (aligned)",
    ".ome",
    "_4x4x8nm",
    "_ch00",
    "-final3",
    "_t1",
    "~b",
]
STRAYS = [
    "overview_{}",
    "{} copy",
    "{} - Copy",
    "{} (1)",
    "{}~",
    "{}_old",
    "Copy of {}",
    "{}_2",
    "{} copy 2",
    "{}.1",
]


def numbered(draw: st.DrawFn, gaps: bool) -> list[int]:
    first = draw(st.integers(0, 1200))
    step = draw(st.sampled_from([1, 1, 1, 2, 10]))
    numbers = [first + step * index for index in range(draw(st.integers(4, 14)))]
    if gaps:
        lost = draw(st.sets(st.integers(1, len(numbers) - 2), max_size=2))
        numbers = [number for index, number in enumerate(numbers) if index not in lost]
    return numbers


@st.composite
def plain(draw: st.DrawFn) -> TRUTH:
    """Draw names with one number that counts slices; other text and numbers stay the same."""
    width = draw(st.sampled_from([1, 3, 4, 6, 20]))
    prefix, suffix = draw(st.sampled_from(PREFIXES)), draw(st.sampled_from(SUFFIXES))
    ending = draw(st.sampled_from([".tif", ".png", ".TIF"]))
    return {f"{prefix}{z:0{width}d}{suffix}{ending}": z for z in numbered(draw, True)}


@st.composite
def timed(draw: st.DrawFn) -> TRUTH:
    """Draw names with a counter and the time of each slice, before or after it."""
    begin = draw(st.integers(0, 50_000))
    pattern = draw(st.sampled_from(["{time}_{z:04d}", "s{z:03d}_{time}", "{time}_z{z}", "{time}"]))
    written = draw(
        st.sampled_from(
            ["2021-03-{d:02d}_{h:02d}-{m:02d}-{s:02d}", "202103{d:02d}{h:02d}{m:02d}{s:02d}"]
        )
    )
    pause = draw(st.integers(7, 90))
    truth = {}
    for z in range(draw(st.integers(4, 14))):
        second = begin + pause * z
        clock = {
            "d": 4 + second // 86400,
            "h": second // 3600 % 24,
            "m": second // 60 % 60,
            "s": second % 60,
        }
        truth[pattern.format(time=written.format(**clock), z=z) + ".tif"] = float(z)
    return truth


@st.composite
def decimal(draw: st.DrawFn) -> TRUTH:
    """Draw names with decimals after z or before a unit, padded or not, negative or not."""
    step = draw(st.sampled_from([0.05, 0.1, 0.04, 0.25, 0.5]))
    count = draw(st.integers(4, 14))
    first = draw(st.integers(1 - count, 40))  # a hyphen before all numbers would be a separator
    pattern = draw(st.sampled_from(["z{}", "z{}um", "a_{}um", "z={}_8bit", "img_z{} nm"]))
    digits = draw(st.sampled_from([2, 3, 0]))
    comma = draw(st.booleans())
    truth = {}
    for index in range(count):
        z = round((first + index) * step, 6)
        text = f"{z:.{digits}f}" if digits else f"{z:g}"
        truth[pattern.format(text.replace(".", ",") if comma else text) + ".tif"] = z
    return truth


@st.composite
def negative(draw: st.DrawFn) -> TRUTH:
    prefix = draw(st.sampled_from(["z", "slice", "z_", "", "img_z="]))
    first = draw(st.integers(-9, -1))
    return {f"{prefix}{z}.tif": z for z in range(first, draw(st.integers(1, 9)))}


@st.composite
def with_stray(draw: st.DrawFn) -> TRUTH:
    """Draw names of a series and of a copy of one slice."""
    truth = draw(plain())
    name = draw(st.sampled_from(sorted(truth)))
    stem, ending = name[:-4], name[-4:]
    stray = draw(st.sampled_from(STRAYS)).format(stem) + ending
    twins = [
        stem + (".png" if ending != ".png" else ".tif"),
        stem.upper() + ending,
        stem + ".ome" + ending,
    ]
    stray = draw(st.sampled_from([stray, stray, *twins]))
    return truth if stray in truth else truth | {stray: truth[name] + 0.5}


@st.composite
def several(draw: st.DrawFn) -> TRUTH:
    """Draw names of one file per slice and channel, detector, tile or time."""
    prefix = draw(st.sampled_from(["s", "z", "slice_", "img_", "2021-03-04_"]))
    kind = draw(
        st.sampled_from(
            [
                "{z}_ch{c}",
                "ch0{c}_{z}",
                "{z}_{t}",
                "{t}_{z}",
                "{z}_tile_0-{c}",
                "tile_{c}-1_{z}",
                "{z}_C{c}",
                "{z} {t} 8bit",
                "t{c}_{z}",
            ]
        )
    )
    count = draw(st.integers(2, 3))
    truth = {}
    for number in numbered(draw, False):
        for c in range(count):
            name = kind.format(z=f"{prefix}{number:04d}", c=c, t=("ESB", "InLens", "SE2")[c])
            truth[f"{name}.tif"] = number + c / 10
    return truth


@st.composite
def odd(draw: st.DrawFn) -> TRUTH:
    """Draw names whose meaning is not clear."""
    numbers = numbered(draw, draw(st.booleans()))
    kind = draw(
        st.sampled_from(["decimal", "two runs", "exponent", "counter", "digits", "run.slice"])
    )
    truth: TRUTH = {}
    for index, z in enumerate(numbers):
        if kind == "decimal":
            truth[f"p{z / 20:g}.tif"] = z
        elif kind == "two runs":
            truth[f"{'b' if index < 3 else 'a'}_{z:04d}.tif"] = z
        elif kind == "exponent":
            truth[f"z{z / 1000:.3e}.tif"] = z
        elif kind == "counter":
            truth[f"{'ESB' if index % 2 else 'SE2'}_{z:04d}.tif"] = z // 2 + 10_000 * (index % 2)
        elif kind == "digits":
            truth[
                "m" + str(z).translate({48 + digit: 0x660 + digit for digit in range(10)}) + ".tif"
            ] = z
        else:
            truth[f"run1.{z}.tif"] = z
    return truth


def check(truth: TRUTH, mixed: random.Random, may_refuse: bool, must_refuse: bool = False) -> None:
    names = sorted(truth)
    mixed.shuffle(names)
    order = series_order(names)
    if order.fault:
        assert may_refuse, name_fault_message(order, names, "the folder", "f")
        first, second = (names[index] for index in order.pair)
        sentence = name_fault_message(order, names, "the folder f", "f")
        assert first != second
        assert first in sentence
        assert second in sentence
        return
    assert not must_refuse, [names[index] for index in order.order]
    assert sorted(order.order) == list(range(len(names)))
    heights = [truth[names[index]] for index in order.order]
    assert heights == sorted(heights)
    assert list(order.numbers) == sorted(order.numbers)


MIXED = st.randoms(use_true_random=False)


@given(truth=plain() | timed() | decimal() | negative(), mixed=MIXED)
@settings(max_examples=100)
def test_clear_names_give_the_right_order(truth: TRUTH, mixed: random.Random) -> None:
    check(truth, mixed, may_refuse=False)


@given(truth=with_stray() | several(), mixed=MIXED)
@settings(max_examples=100)
def test_several_files_of_one_slice_are_refused(truth: TRUTH, mixed: random.Random) -> None:
    is_clean = all(z == int(z) for z in truth.values())  # the stray had the name of another slice
    check(truth, mixed, may_refuse=True, must_refuse=not is_clean)


@given(truth=odd(), mixed=MIXED)
@settings(max_examples=100)
def test_odd_names_give_the_right_order_or_are_refused(truth: TRUTH, mixed: random.Random) -> None:
    check(truth, mixed, may_refuse=True)


def numbers_in(names: Sequence[str]) -> tuple[float, ...]:
    return series_order(names).numbers


def test_the_slice_number_is_the_number_that_differs() -> None:
    assert sorted(["s10", "s9", "s1b", "s1a", "s²"], key=natural_key) == [
        "s1a",
        "s1b",
        "s9",
        "s10",
        "s²",
    ]
    assert numbers_in(["mask_z0137.tif", "mask_z0002.tif"]) == (2, 137)
    assert numbers_in(["t1_z03_8bit.png", "t1_z11_8bit.png"]) == (
        3,
        11,
    )  # neither the time nor the bits
    assert numbers_in(["x.tif"]) == numbers_in(["day2_8bit.tif"]) == ()
    assert numbers_in(["only_7.tif"]) == (7,)
    assert numbers_in(["cells_z0137_8bit.tif"]) == (137,)  # and not 8
    timed = [f"s{z:03d}_20241003{9 + z:02d}{7 * z * z % 60:02d}11.tif" for z in range(12)]
    assert numbers_in(timed) == tuple(range(12))  # and not the time, which has gaps
    assert numbers_in([f"{10**20 + z}.tif" for z in (0, 1, 3)]) == tuple(
        10**20 + z for z in (0, 1, 3)
    )
    assert numbers_in(["IMG_0002.tif", "img_0001.tif"]) == (1, 2)
    assert numbers_in(["z0p80um.tif", "z0p85um.tif", "z1p00um.tif"]) == (0.8, 0.85, 1)
    assert numbers_in(["run1.9.tif", "run1.10.tif", "run1.11.tif"]) == (9, 10, 11)
    assert numbers_in(["z1e-2.tif", "z5e-3.tif"]) == (0.005, 0.01)


def test_gaps_are_distinguished_from_steps_and_times() -> None:
    assert missing_numbers([20241003091122, 20241003101522, 20241003115959]) == []
    assert missing_numbers([10, 30, 20]) == missing_numbers([4]) == missing_numbers([]) == []
    assert missing_numbers([0.8, 0.85, 0.95, 1]) == [0.9]
    assert missing_numbers([-2, -1, 1]) == [0]
    assert missing_numbers([10**20, 10**20 + 1, 10**20 + 3]) == [10**20 + 2]


SAME = "carry the same slice number, "
REFUSED = [
    (
        "z0_ch0 z0_ch1 z1_ch0 z1_ch1",
        "z0_ch0.tif and z0_ch1.tif",
        SAME + "0: which channel",
        "'f/*ch0*.tif'",
    ),
    (
        "r0_ESB r0_SE r1_ESB r1_SE",
        "r0_ESB.tif and r0_SE.tif",
        SAME + "0: which channel",
        "'f/*_ESB.tif'",
    ),
    ("z3_ch0 z3_ch1", "z3_ch0.tif and z3_ch1.tif", SAME + "3: which channel", "'f/*ch0*.tif'"),
    ("a_ch0 a_ch1 a_ch2", "a_ch0.tif and a_ch1.tif", "look like channels", "import --montage"),
    ("01_SE 02_ESB 03_SE 04_ESB", "01_SE.tif and 02_ESB.tif", "look like channels", "'f/*_SE.tif'"),
    ("s1 s2 s3 s2_copy", "s2.tif and s2_copy.tif", SAME + "2: keep one of them", "'f/s?.tif'"),
    ("s01 s02 s03 s2", "s02.tif and s2.tif", SAME + "2: keep one of them", "'f/s??.tif'"),
    ("s1 s2 s3 s2(1)", "s2.tif and s2(1).tif", SAME + "2: keep one of them", "'f/s?.tif'"),
    ("s01 s02 s01.1", "s01.tif and s01.1.tif", SAME + "1: keep one of them", "'f/s??.tif'"),
    ("b a b-Copy", "b.tif and b-Copy.tif", "have the name of one slice", "keep one of them"),
    ("A a", "A.tif and a.tif", "have the name of one slice", "keep one of them"),
    ("s1 s2 overview", "overview.tif in", "carries no slice number, but s1.tif does", "'f/s?.tif'"),
    (
        "s1 s2 s3 overview4",
        "s1.tif and overview4.tif",
        "have names of different forms",
        "'f/*s*.tif'",
    ),
    ("s1 s2 r3_7_2", "s1.tif and r3_7_2.tif", "have names of different forms", "'f/s*.tif'"),
    ("b_1 a_2", "a_2.tif or b_1.tif", "do not say whether", "write z before the slice number"),
    ("3_01 1_02", "1_02.tif or 3_01.tif", "do not say whether", "write z before the slice number"),
    (
        "p1.2 p1.3 p1.5 p1.11",
        "p1.2.tif and p1.11.tif",
        "decimals or pairs",
        "same number of digits",
    ),
]


@pytest.mark.parametrize(("stems", "pair", "why", "what_to_do"), REFUSED)
def test_a_refusal_names_two_files_and_what_to_do(
    stems: str, pair: str, why: str, what_to_do: str
) -> None:
    names = [f"{stem}.tif" for stem in stems.split()]
    order = series_order(names)
    sentence = name_fault_message(order, names, "the folder f", "f")
    for part in (pair, why, what_to_do):
        assert part in sentence


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["b", "a", "c"], "carry no slice number; the order is alphabetical, a.tif to c.tif"),
        (
            ["20210304_235959", "20210305_000011"],
            "the order is that of dates and times, 20210304_235959.tif",
        ),
        (["z-1", "z0"], "numbers after a hyphen are read as negative, z-1.tif to z0.tif"),
        (["z-1", "z-2"], "hyphens before the numbers are read as separators"),
    ],
)
def test_uncertain_interpretations_are_noted(
    names: list[str], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate(names):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((8, 9), index, np.uint8))
    import_stack(tmp_path, tmp_path / "s.zarr", ImportSettings(voxel_nm=(8, 4, 4)), on=Execution())
    printed = capsys.readouterr().err
    assert "Note: the folder" in printed
    assert note in printed


def write_slices(folder: Path, *names: str) -> Path:
    """Write slices whose gray level is their position in ``names``."""
    for index, name in enumerate(names):
        path = folder / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((8, 9), index, np.uint8), photometric="minisblack")
    return folder


def levels(source: str | Path) -> list[int]:
    stack = open_source(source).stack
    return [int(plane[0, 0]) for plane in stack[0 : stack.shape[0]]]


def test_a_series_is_refused_only_if_its_order_matters(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "f", "z0_ch0", "z1_ch0", "z0_ch1", "z1_ch1")
    for make in (lambda: open_source(folder), lambda: import_stack(folder, tmp_path / "s.zarr")):
        with pytest.raises(
            InputError, match=r"z0_ch0.tif and z0_ch1.tif in the folder .* which channel"
        ):
            make()
    assert not (tmp_path / "s.zarr").exists()
    assert levels(folder / "*ch1*.tif") == [2, 3]
    assert open_source(folder, any_order=True).stack.shape[0] == 4


def test_negative_numbers_and_decimals_put_slices_in_order(tmp_path: Path) -> None:
    names = ["z-2", "z-1", "z0", "z1"]
    assert levels(write_slices(tmp_path / "n", *names)) == [0, 1, 2, 3]
    assert levels(write_slices(tmp_path / "d", "z0.8um", "z0.95um", "z1um", "z1.05um")) == [
        0,
        1,
        2,
        3,
    ]
    settings = ImportSettings(voxel_nm=(50, 4, 4), missing="repeat")
    sample = import_stack(tmp_path / "d", tmp_path / "s.zarr", settings)
    assert sample.image("raw").numbers == (0.8, 0.85, 0.9, 0.95, 1, 1.05)
    assert sample.image("raw").repeated == (1, 2)


def test_folders_with_brackets_and_slices_in_folders_of_their_own(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "liver [a]*", "s1", "s2", "x[1]_3", "x[1]_4")
    assert levels(f"{folder}/s*.tif") == [0, 1]
    assert levels(f"{folder}/x[1]_*.tif") == [2, 3]
    assert levels(f"{folder}/s[2].tif") == [1]
    assert files_of_pattern(f"{folder}/none*.tif") == []
    each = write_slices(tmp_path / "each", "z010/image", "z009/image")
    assert levels(f"{each}/z*/image.tif") == [1, 0]
    assert distinct_names([each / "z010/image.tif", each / "z009/image.tif"]) == [
        "z010/image.tif",
        "z009/image.tif",
    ]
    write_slices(tmp_path / "runs", "run1/s1", "run1/s2", "run2/s1", "run2/s2")
    with pytest.raises(
        InputError, match=r"run1/s1.tif and run1/s2.tif in .* carry the same slice number, 1"
    ):
        open_source(f"{tmp_path}/runs/run*/s*.tif")


def test_possible_slice_numbers_of_masks() -> None:
    assert possible_slice_numbers(["m_z0.85um.tif"]) == [(0.85,)]
    assert possible_slice_numbers(["m-3.tif"]) == [(3,)]
    assert possible_slice_numbers(["m-3.tif"], signed=True) == [(-3,), (3,)]
    assert possible_slice_numbers(["b_09.tif", "a_18.tif"]) == [(9, 18)]
    assert possible_slice_numbers(["1_10.tif", "2_57.tif"]) == [(1, 2), (10, 57)]
    assert possible_slice_numbers(["1_z10.tif", "2_z57.tif"]) == [(10, 57)]
    assert possible_slice_numbers(["a_9.tif", "b_9.tif"]) == possible_slice_numbers([]) == []


def test_an_order_is_found_for_many_files() -> None:
    names = [f"s{z:05d}.tif" for z in range(3000)]
    order = series_order([*names, "s00003 copy.tif"])
    assert order.fault is NameFault.SAME_NUMBER
