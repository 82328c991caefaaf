"""HDF5 files in practice: compression plugins, links, file systems without locks, axes in any order."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.open import open_source

STACK = np.random.default_rng(0).integers(1, 255, (5, 12, 16), np.uint8)


def write(path: Path, **datasets: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key.replace("__", "/")] = value


def assert_reads(path: Path, expected: NDArray[Any] = STACK, *options: Any, **named: Any) -> None:
    source = open_source(path, *options, **named)
    assert tuple(source.stack.shape) == expected.shape
    assert np.array_equal(source.stack[0 : len(expected)], expected)


@pytest.mark.parametrize(
    ("code", "name"),
    [(32001, "Blosc"), (32004, "LZ4"), (32008, "bitshuffle"), (32013, "ZFP"), (32015, "Zstd")],
)
def test_missing_compression_filters_are_refused(
    tmp_path: Path, code: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # cannot be imported
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(STACK.shape)
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        data = h5py.h5d.create(
            file.id, b"data", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple(STACK.shape), plist
        )
        data.write_direct_chunk((0, 0, 0), STACK.tobytes())
    with pytest.raises(
        InputError,
        match=rf"'data' in a.h5 is compressed by filter {code} \({name}\), .*: pip install hdf5plugin",
    ):
        open_source(tmp_path / "a.h5")


def test_installed_plugins_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_missing_compression_filters_are_refused(tmp_path, 32001, "Blosc", monkeypatch)
    asked: list[int] = []

    def available(code: int) -> bool:
        asked.append(code)
        return len(asked) > 1  # after the plugin was imported

    monkeypatch.setitem(sys.modules, "hdf5plugin", ModuleType("hdf5plugin"))
    monkeypatch.setattr(h5py.h5z, "filter_avail", available)
    open_source(tmp_path / "a.h5")
    assert asked == [32001, 32001]


@pytest.mark.parametrize("number", [37, 95, 524])
def test_files_are_read_on_file_systems_without_locks(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.h5", data=STACK)
    opened, locking = h5py.File, []

    def without_locks(path: Path, mode: str, **options: Any) -> h5py.File:
        locking.append(options.get("locking"))
        if locking[-1] is not False:
            raise OSError(
                number,
                f"Unable to synchronously open file (unable to lock file, errno = {number}, error "
                "message = '?')",
            )
        return opened(path, mode, **options)

    monkeypatch.setattr(h5py, "File", without_locks)
    assert_reads(tmp_path / "a.h5")
    assert locking == [None, False] * 2


WRITER = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows refuses a file that is open elsewhere by itself"
)
def test_a_file_open_for_writing_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", data=STACK)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "a.h5"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(
            InputError, match=r"a.h5 is open for writing in another program; close it there first"
        ):
            open_source(tmp_path / "a.h5")
        writer.communicate()
    assert_reads(tmp_path / "a.h5")


def test_links_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "b.h5", deep__data=STACK)
    write(tmp_path / "a.h5", entry__data=h5py.ExternalLink("b.h5", "/deep/data"))
    assert_reads(tmp_path / "a.h5")
    assert_reads(tmp_path / "a.h5", STACK, "entry/data")
    write(tmp_path / "group.h5", entry=h5py.ExternalLink("b.h5", "/deep"))
    assert_reads(tmp_path / "group.h5")
    write(
        tmp_path / "soft.h5", real=STACK, alias=h5py.SoftLink("/real"), loop__up=h5py.SoftLink("/")
    )
    assert_reads(tmp_path / "soft.h5")  # one dataset, by two names
    assert open_source(tmp_path / "soft.h5").part == "real"


def test_dangling_links_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", data=h5py.ExternalLink("gone.h5", "/deep"))
    with pytest.raises(
        InputError,
        match=r"a.h5 holds no stack: .* \('data' is a link to '/deep' in gone.h5, which is not there\)",
    ):
        open_source(tmp_path / "a.h5")
    with pytest.raises(
        InputError,
        match=r"'data' in a.h5 is a link to '/deep' in gone.h5, which is not there; put it back",
    ):
        open_source(tmp_path / "a.h5", "data")
    write(tmp_path / "b.h5", data=STACK, soft=h5py.SoftLink("/gone"))
    assert_reads(tmp_path / "b.h5")
    assert open_source(tmp_path / "b.h5").notes == (
        "'soft' is a link to '/gone', which is not there.",
    )


CHANNELS = np.random.default_rng(1).integers(1, 255, (2, 5, 12, 16, 3), np.uint8)  # t, z, y, x, c


@pytest.mark.parametrize(
    ("array", "picks", "expected"),
    [
        (CHANNELS[0, 0], {"channel": 2}, CHANNELS[0, 0, None, ..., 2]),
        (CHANNELS[0], {"channel": 1}, CHANNELS[0, ..., 1]),
        (CHANNELS, {"channel": 1, "time": 1}, CHANNELS[1, ..., 1]),
        (CHANNELS[:1, ..., :1], {}, CHANNELS[0, ..., 0]),
        (CHANNELS[:1, ..., :1], {"channel": 0, "time": 0}, CHANNELS[0, ..., 0]),
        (CHANNELS[0, 0, ..., :1], {}, CHANNELS[0, 0, None, ..., 0]),
        (np.moveaxis(CHANNELS, -1, 1), {"channel": 1, "time": 1}, CHANNELS[1, ..., 1]),
    ],
)
@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_following_the_messages_opens_the_file(
    tmp_path: Path, array: NDArray[Any], picks: dict[str, int], expected: Any, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "h5":
        write(path, data=array)
    else:
        zarr.create_array(path, data=array)
    followed: dict[str, int] = {}
    while True:  # do what the message says until none follows
        try:
            open_source(path, **followed)  # type: ignore[arg-type]
            break
        except InputError as error:
            option = next(name for name in ("channel", "time") if f"--{name}" in str(error))
            assert option not in followed
            followed[option] = picks[option]
    assert_reads(path, expected, **(followed or picks))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.zeros((5, 12, 16), [("a", "u1"), ("b", "f4")]),
            r"holds \[\('a', 'u1'\), \('b', '<f4'\)\]; expected real numbers",
        ),
        (np.zeros((5, 12, 16), np.complex64), "holds complex64; expected real numbers"),
        (h5py.Empty("f4"), "holds no stack"),
        (np.full((5, 12, 16), b"x", "S3"), "expected real numbers"),
        (np.zeros((2, 3, 2, 5, 12, 16), np.uint8), "expected one channel"),
        (np.zeros((5, 0, 16), np.uint8), "expected one channel"),
    ],
)
def test_other_values_than_numbers_are_refused(tmp_path: Path, value: Any, sentence: str) -> None:
    write(tmp_path / "a.h5", data=value)
    with pytest.raises(InputError, match=sentence):
        open_source(tmp_path / "a.h5")


def test_booleans_and_enumerations_are_numbers(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", data=STACK > 100)
    assert_reads(tmp_path / "a.h5", STACK > 100)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset(
            "data",
            data=STACK % 3,
            dtype=h5py.enum_dtype({"none": 0, "nucleus": 1, "cell": 2}, "u1"),
        )
    assert_reads(tmp_path / "b.h5", STACK % 3)
