"""MRC as programs write it: signed and unsigned bytes, byte orders, old stamps, missing fields."""

import struct
import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.open import open_source
from sparsem.io.settings import ImportSettings
from sparsem.settings import changed
from sparsem.workflow.execution import Execution

Z, Y, X = np.mgrid[0:8, 0:40, 0:60]
NOISE = np.random.default_rng(0).integers(0, 8, Z.shape)
BRIGHT = (60 + 2 * X + Y + NOISE).astype(np.uint8)  # 60 to 225: smooth as unsigned bytes
AROUND_ZERO = (X + Y - 50 + NOISE).astype(np.int8)  # -50 to 55: smooth as signed ones
DARK = (BRIGHT // 2).astype(np.uint8)
IMOD = 1146047817


def write(
    path: Path,
    stack: NDArray[Any],
    order: str = "<",
    stamp: bytes | None = None,
    name: bytes = b"MAP ",
    **header: Any,
) -> None:
    """Write a file of any byte order, with the given header fields.

    Extremes that are not given are marked as not determined, as the standard defines it.
    """
    modes = {"i1": 0, "u1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}
    fields = np.zeros(1, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))
    fields["nz"], fields["ny"], fields["nx"] = stack.shape
    fields["mz"], fields["my"], fields["mx"] = stack.shape
    fields["mode"] = modes[stack.dtype.str[1:]]
    fields["cella"] = tuple(40.0 * length for length in stack.shape[::-1])
    fields["mapc"], fields["mapr"], fields["maps"] = 1, 2, 3
    fields["dmin"], fields["dmax"], fields["dmean"] = 0, -1, -2
    for key, value in header.items():
        fields[key] = value
    content = bytearray(fields.tobytes())
    content[208:212] = name
    content[212:216] = (
        stamp if stamp is not None else b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0"
    )
    extended = bytes(int(header.get("nsymbt", 0)))
    path.write_bytes(
        bytes(content) + extended + stack[:, ::-1].astype(f"{order}{stack.dtype.str[1:]}").tobytes()
    )


def poke(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def assert_reads(path: Path, stack: NDArray[Any], **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(path, **options)
        assert source.stack.dtype == stack.dtype
        assert np.array_equal(source.stack[0:8], stack)
        assert np.array_equal(source.stack[3:5], stack[3:5])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("stack", "extremes"),
    [
        (BRIGHT, (60, 225)),
        (AROUND_ZERO, (-50, 55)),
        (DARK, (30, 112)),
        (BRIGHT, (5, 250)),
        (AROUND_ZERO, (-128, 127)),
    ],
)
def test_the_extremes_of_a_header_show_whether_bytes_are_signed(
    tmp_path: Path, stack: NDArray[Any], extremes: Any, order: str
) -> None:
    write(tmp_path / "a.mrc", stack, order, dmin=extremes[0], dmax=extremes[1])
    assert_reads(tmp_path / "a.mrc", stack)
    assert not open_source(tmp_path / "a.mrc").notes


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stack", [BRIGHT, AROUND_ZERO])
def test_the_stamp_of_imod_comes_first(tmp_path: Path, stack: NDArray[Any], order: str) -> None:
    write(tmp_path / "a.mrc", stack, order, dmin=0, dmax=0)
    poke(tmp_path / "a.mrc", 152, struct.pack(f"{order}2i", IMOD, stack.dtype == np.int8))
    assert_reads(tmp_path / "a.mrc", stack)


@pytest.mark.parametrize(
    "extremes", [(0, -1), (0, 0), (-5, 250), (0.25, 0.75), (np.nan, np.nan), (0, 100)]
)
@pytest.mark.parametrize(("stack", "word"), [(BRIGHT, "unsigned"), (AROUND_ZERO, "signed")])
def test_voxels_show_the_sign_if_the_header_does_not(
    tmp_path: Path, stack: NDArray[Any], word: str, extremes: Any
) -> None:
    write(tmp_path / "a.mrc", stack, dmin=extremes[0], dmax=extremes[1])
    assert_reads(tmp_path / "a.mrc", stack)
    (note,) = open_source(tmp_path / "a.mrc").notes
    assert note.startswith(
        f"a.mrc does not state whether its bytes are signed; they are read as {word}, as "
        "neighboring pixels"
    )


def test_bytes_below_128_are_the_same_for_both_signs(tmp_path: Path) -> None:
    write(tmp_path / "a.mrc", DARK)
    assert_reads(tmp_path / "a.mrc", DARK)
    assert not open_source(tmp_path / "a.mrc").notes


def test_ambiguous_bytes_are_refused_without_the_option(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 40, 60), np.uint8)
    for stack in (noise, np.full_like(noise, 200)):
        write(tmp_path / "a.mrc", stack)
        with pytest.raises(
            InputError,
            match=r"a.mrc does not state whether its bytes are signed, and its voxels do not show it; give",
        ):
            open_source(tmp_path / "a.mrc")
        assert_reads(tmp_path / "a.mrc", stack, mrc_bytes="unsigned")
        assert_reads(tmp_path / "a.mrc", stack.view(np.int8), mrc_bytes="signed")
    one = open_source(tmp_path / "a.mrc", mrc_bytes="signed").identity()
    assert one != open_source(tmp_path / "a.mrc", mrc_bytes="unsigned").identity()


@pytest.mark.parametrize("depth", [1, 8])
def test_an_ambiguous_byte_in_a_slice_that_was_not_sampled_is_refused(
    tmp_path: Path, depth: int
) -> None:
    stack = np.repeat(DARK, 5, axis=0)
    stack[1, 3, 4] = 200  # a slice that is not sampled
    write(tmp_path / "a.mrc", stack)
    given = ImportSettings(voxel_nm=(8, 4, 4), block_depth=depth)
    with pytest.raises(
        InputError,
        match=r"a.mrc does not state whether its bytes are signed, and some are 128 or more",
    ):
        import_stack(tmp_path / "a.mrc", tmp_path / "s.zarr", given)
    sample = import_stack(
        tmp_path / "a.mrc", tmp_path / "t.zarr", changed(given, {"mrc_bytes": "unsigned"})
    )
    assert np.array_equal(sample.image().read(slice(None)), stack)


def test_the_assumed_sign_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.mrc", BRIGHT)
    sample = import_stack(
        tmp_path / "a.mrc", tmp_path / "s.zarr", ImportSettings(), on=Execution(quiet=False)
    )
    assert (
        "Note: a.mrc does not state whether its bytes are signed; they are read as unsigned"
        in capsys.readouterr().err
    )
    assert np.array_equal(sample.image().read(slice(None)), BRIGHT)


@settings(max_examples=30)
@given(st.integers(-128, 127), st.integers(1, 100), st.sampled_from("<>"))
def test_bytes_are_read_as_the_extremes_show(
    tmp_path_factory: pytest.TempPathFactory, low: int, span: int, order: str
) -> None:
    """Signed bytes with negative ones, whose extremes the header states."""
    stack = (low + NOISE * span // 8).clip(-128, 127).astype(np.int8)
    path = tmp_path_factory.mktemp("mrc") / "a.mrc"
    write(path, stack, order, dmin=stack.min(), dmax=stack.max())
    expected = stack if stack.min() < 0 < stack.max() - stack.min() else stack.view(np.uint8)
    if stack.min() < 0 and stack.min() == stack.max():
        return  # a constant does not show the sign
    assert_reads(path, expected)


@pytest.mark.parametrize("kind", ["<i2", "<u2", "<f4", "<f2", ">i2", ">u2", ">f4", ">f2"])
@pytest.mark.parametrize(
    "stamp", [b"DD\0\0", b"DA\0\0", b"D   ", b"D\0\0\0", bytes(4), b"\x11\x11\0\0", b"    "]
)
@pytest.mark.parametrize("name", [b"MAP ", b"MAP\0", bytes(4)])
def test_any_machine_stamp_is_accepted(
    tmp_path: Path, kind: str, stamp: bytes, name: bytes
) -> None:
    stack = (BRIGHT.astype(np.float32) * 7).astype(kind[1:])
    write(tmp_path / "a.mrc", stack, kind[0], stamp, name)
    assert_reads(tmp_path / "a.mrc", stack)
    assert open_source(tmp_path / "a.mrc").voxel_nm == (4, 4, 4)


@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2", b"SERI", b"AGAR", bytes(4)])
def test_extended_headers_are_skipped(tmp_path: Path, kind: bytes) -> None:
    stack = BRIGHT.astype(np.int16)
    write(tmp_path / "a.mrc", stack, nsymbt=768 * 8, exttyp=kind)
    assert_reads(tmp_path / "a.mrc", stack)
    for length in (10**6, -4, 2**31 - 1):
        poke(tmp_path / "a.mrc", 92, struct.pack("<i", length))
        with pytest.raises(InputError, match=r"a.mrc cannot be read as MRC \(.*is it complete\?"):
            open_source(tmp_path / "a.mrc")


def test_missing_fields_and_trailing_bytes_are_accepted(tmp_path: Path) -> None:
    stack = BRIGHT.astype(np.int16)
    write(tmp_path / "a.mrc", stack, mx=0, my=0, mz=0)
    assert_reads(tmp_path / "a.mrc", stack)
    assert open_source(tmp_path / "a.mrc").voxel_nm == (None, None, None)
    write(tmp_path / "b.mrc", stack, mapc=0, mapr=0, maps=0)
    (tmp_path / "b.mrc").write_bytes((tmp_path / "b.mrc").read_bytes() + bytes(512))
    assert_reads(tmp_path / "b.mrc", stack)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"mode": 101}, r"holds 4-bit numbers \(mode 101\); .* newstack -mode 0 of IMOD"),
        ({"mode": 16}, r"holds a color image \(mode 16\)"),
        ({"mode": 4, "nz": 2}, r"holds complex numbers \(mode 4\)"),
        ({"mode": 77}, "its header makes no sense"),
        (
            {"mapc": 2, "mapr": 1},
            r"stores its axes in the order \(2, 1, 3\); expected columns, rows, slices",
        ),
        ({"ispg": 401, "mz": 4}, "holds several volumes, 8 slices in all"),
        (
            {"nz": 9},
            r"cannot be read as MRC \(its header states 44224 bytes, it has 39424\); is it complete",
        ),
        ({"nx": 0}, "its header makes no sense"),
    ],
)
def test_unreadable_files_are_refused(
    tmp_path: Path, header: dict[str, Any], sentence: str
) -> None:
    write(tmp_path / "a.mrc", BRIGHT.astype(np.int16), **header)
    with pytest.raises(InputError, match=sentence):
        open_source(tmp_path / "a.mrc")
