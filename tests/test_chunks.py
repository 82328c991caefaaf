"""Reading without Zarr's event loop: equal to Zarr for every box, layout and type."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from sparsem.errors import SampleError
from sparsem.store import chunks
from sparsem.store.lazy import LazyArray

SHAPE, EDGES = (7, 33, 50), (2, 16, 16)


def _array(folder: Path, dtype: str = "uint32", **layout: Any) -> "zarr.Array[Any]":
    layout = {"compressors": ZstdCodec(level=1), "fill_value": 0, **layout}
    edges = layout.pop("chunks", EDGES)
    array = zarr.create_array(store=folder, shape=SHAPE, chunks=edges, dtype=dtype, **layout)
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    array[...] = values
    return array


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chunks") / "a"
    _array(folder)
    return folder


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_box_is_read_as_zarr_reads_it(stored: Path, data: st.DataObject) -> None:
    box = []
    for length in SHAPE:
        start = data.draw(st.integers(0, length - 1))
        box.append((start, data.draw(st.integers(start + 1, length))))
    array = zarr.open_array(store=stored, mode="r")
    expected = np.asarray(array[tuple(slice(*ends) for ends in box)])
    values = chunks.read_plain(stored, array, box)
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32", "float64"])
def test_all_types_of_volumes_are_plain(tmp_path: Path, dtype: str) -> None:
    array = _array(tmp_path / "a", dtype)
    assert chunks.is_plain(array)
    expected = np.asarray(array[...])
    np.testing.assert_array_equal(LazyArray(tmp_path / "a")[...], expected)


@pytest.mark.parametrize(
    "layout",
    [
        {"compressors": BloscCodec()},
        {"compressors": None},
        {"compressors": [ZstdCodec(), ZstdCodec()]},
        {"zarr_format": 2, "compressors": None},
        {"chunks": (1, 8, 8), "shards": (2, 16, 16)},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
    ids=["blosc", "not compressed", "twice", "Zarr 2", "shards", "big-endian"],
)
def test_other_layouts_are_left_to_zarr(tmp_path: Path, layout: dict[str, Any]) -> None:
    array = _array(tmp_path / "a", **layout)
    assert not chunks.is_plain(array)
    expected = np.random.default_rng(0).integers(0, 100, SHAPE).astype("uint32")
    np.testing.assert_array_equal(LazyArray(tmp_path / "a", False)[...], expected)


def test_chunks_that_other_programs_left_out_are_the_fill_value(tmp_path: Path) -> None:
    _array(tmp_path / "a")
    (tmp_path / "a" / "c" / "0" / "0" / "0").unlink()
    values = LazyArray(tmp_path / "a", is_complete=False)[...]
    assert not values[:2, :16, :16].any()
    with pytest.raises(SampleError, match="has lost a chunk of its slices 0 to 1: c/0/0/0"):
        _ = LazyArray(tmp_path / "a")[...]
    assert LazyArray(tmp_path / "a")[2:].any()  # the other chunks are whole


@pytest.mark.parametrize("part", [slice(0, 10), slice(0, 0)], ids=["cut off", "empty"])
def test_damaged_chunks_are_named(tmp_path: Path, part: slice) -> None:
    _array(tmp_path / "a")
    chunk = tmp_path / "a" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[part])
    with pytest.raises(SampleError, match="is damaged within slices 2 to 3"):
        _ = LazyArray(tmp_path / "a")[2:4]


def test_a_chunk_of_another_array_is_damaged(tmp_path: Path) -> None:
    """Its values can be decompressed, but there are too few."""
    _array(tmp_path / "a")
    _array(tmp_path / "b", chunks=(1, 8, 8))
    (tmp_path / "a/c/0/0/0").write_bytes((tmp_path / "b/c/0/0/0").read_bytes())
    with pytest.raises(SampleError, match="is damaged within slice 1"):
        _ = LazyArray(tmp_path / "a")[1]


def test_empty_parts_are_empty(stored: Path) -> None:
    lazy = LazyArray(stored)
    assert lazy[3:3].shape == (0, *SHAPE[1:])
    assert lazy[0, 5:2, ::2].shape == (0, 25)
    assert lazy[::-1][2:2].shape == (0, *SHAPE[1:])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint32", "float32"])
@pytest.mark.parametrize("fill", [0, 1])
def test_what_is_written_is_what_zarr_writes(tmp_path: Path, dtype: str, fill: int) -> None:
    """To the byte, also beyond the end of the array, and chunks of one value."""
    by_zarr = _array(tmp_path / "a", dtype, fill_value=fill, config={"write_empty_chunks": True})
    values = np.asarray(by_zarr[...]).copy()
    values[2:4] = fill
    by_zarr[...] = values
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "c")
    plain = zarr.open_array(store=tmp_path / "b", mode="r")
    for start in range(0, SHAPE[0], 2):
        chunks.write_plain(tmp_path / "b", plain, start, values[start : start + 2])
    for file in (path for path in (tmp_path / "a").rglob("*") if path.is_file()):
        assert (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "a").rglob("*"))) == len(list((tmp_path / "b").rglob("*")))


def test_an_error_of_the_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = _array(tmp_path / "a")

    def fail(path: Path, content: bytes) -> None:
        if path.name == "1":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chunks, "_write_file", fail)
    with pytest.raises(OSError, match="No space left"):
        chunks.write_plain(tmp_path / "a", array, 0, np.zeros((2, *SHAPE[1:]), np.uint32))
