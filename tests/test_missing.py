"""Missing chunks, pages and files: the stack is refused, or filling is reported, for any set."""

import itertools
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.annotation.label_volumes import import_labels
from sparsem.errors import InputError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.missing import describe_slices
from sparsem.io.readers.open import open_source
from sparsem.io.settings import ImportSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

STACK = np.random.default_rng(0).integers(1, 255, (6, 8, 10), np.uint8)
DEPTH, HEIGHT, WIDTH = 2, 5, 4  # of a chunk: those at the ends of the axes are cut
CHUNKS = list(itertools.product(range(3), range(2), range(3)))
PLANES = 2  # of each file of a set


def without_chunks(lost: Sequence[tuple[int, ...]], fill: int = 0) -> NDArray[np.uint8]:
    """Return the stack with some of its chunks filled."""
    expected = STACK.copy()
    for z, y, x in lost:
        expected[
            z * DEPTH : (z + 1) * DEPTH, y * HEIGHT : (y + 1) * HEIGHT, x * WIDTH : (x + 1) * WIDTH
        ] = fill
    return expected


def write_zarr(
    path: Path, lost: Sequence[tuple[int, ...]], version: int, fill: int = 0, **options: Any
) -> None:
    chunks = (DEPTH, HEIGHT, WIDTH)
    array = zarr.create_array(
        path,
        shape=STACK.shape,
        dtype="u1",
        chunks=chunks,
        zarr_format=version,  # type: ignore[arg-type]
        fill_value=fill,
        **options,
    )
    array[:] = STACK
    for chunk_index in lost:
        (path / array.metadata.encode_chunk_key(chunk_index)).unlink()


def write_sharded_zarr(path: Path, lost: Sequence[tuple[int, ...]]) -> None:
    """Write shards, which leave out chunks of zeros."""
    shards = (2 * DEPTH, 2 * HEIGHT, 2 * WIDTH)
    array = zarr.create_array(
        path,
        shape=STACK.shape,
        dtype="u1",
        chunks=(DEPTH, HEIGHT, WIDTH),
        shards=shards,
        fill_value=0,
    )
    array[:] = without_chunks(lost)


def write_hdf5(path: Path, lost: Sequence[tuple[int, ...]], fill: int = 0) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data",
            STACK.shape,
            "u1",
            chunks=(DEPTH, HEIGHT, WIDTH),
            fillvalue=fill,
            compression="gzip",
        )
        for z, y, x in CHUNKS:
            if (z, y, x) not in lost:
                box = np.s_[
                    z * DEPTH : (z + 1) * DEPTH,
                    y * HEIGHT : (y + 1) * HEIGHT,
                    x * WIDTH : (x + 1) * WIDTH,
                ]
                data[box] = STACK[box]


def write_virtual_hdf5(path: Path, lost: Sequence[tuple[int, ...]]) -> None:
    """Write a virtual dataset, and a file for each of its slices.

    The z of a chunk numbers its file.
    """
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(STACK.shape, "u1")
        for z in range(len(STACK)):
            layout[z] = h5py.VirtualSource(f"part{z}.h5", "d", STACK.shape[1:])
        file.create_virtual_dataset("data", layout)
    for z, plane in enumerate(STACK):
        if z not in {chunk_index[0] for chunk_index in lost}:
            with h5py.File(path.with_name(f"part{z}.h5"), "w") as file:
                file["d"] = plane


CHUNKED: dict[str, Callable[[Path, Sequence[tuple[int, ...]]], None]] = {
    "zarr 2": lambda path, lost: write_zarr(path, lost, 2),
    "zarr 2, nested": lambda path, lost: write_zarr(
        path, lost, 2, chunk_key_encoding={"name": "v2", "separator": "/"}
    ),
    "zarr 3": lambda path, lost: write_zarr(path, lost, 3),
    "sharded zarr 3": write_sharded_zarr,
    "hdf5": write_hdf5,
}


def assert_refused_or_filled(path: Path, expected: NDArray[np.uint8], fill: float = 0) -> None:
    """Check that a source is refused with its missing slices, or filled as expected and counted."""
    missing = expected != STACK
    slices = np.flatnonzero(missing.any(axis=(1, 2))).tolist()
    if not slices:
        source = open_source(path)
        assert np.array_equal(source.stack[: len(STACK)], STACK)
        assert not source.missing
        return
    with pytest.raises(InputError, match=rf"lacks .*\({describe_slices(slices)}[;:]") as refused:
        open_source(path)
    assert "--missing fill" in str(refused.value)
    source = open_source(path, fill_missing=True)
    assert np.array_equal(source.stack[: len(STACK)], expected)
    assert np.array_equal(source.stack[1:2], expected[1:2])
    assert sum(parts.voxels for parts in source.missing) == missing.sum()
    assert sorted({z for parts in source.missing for z in parts.slices}) == slices
    assert {parts.fill for parts in source.missing} == {fill}


@pytest.mark.parametrize("kind", CHUNKED)
@settings(max_examples=15)
@given(lost=st.lists(st.sampled_from(CHUNKS), unique=True))
@example(lost=[])
@example(lost=CHUNKS)
@example(lost=[(2, 1, 2)])
def test_any_set_of_missing_chunks_is_refused_or_filled(
    kind: str, lost: list[tuple[int, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{'h5' if kind == 'hdf5' else 'zarr'}"
        CHUNKED[kind](path, lost)
        assert_refused_or_filled(path, without_chunks(lost))


@settings(max_examples=15)
@given(lost=st.sets(st.integers(0, len(STACK) - 1)))
@example(lost=set(range(6)))
def test_any_set_of_missing_sources_is_refused_or_filled(lost: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write_virtual_hdf5(path, [(z, 0, 0) for z in lost])
        expected = STACK.copy()
        expected[sorted(lost)] = 0
        assert_refused_or_filled(path, expected)


def ome_xml(files: Sequence[str], file_number: int | None) -> str:
    """Return the OME-XML of a set of files, each with two planes."""
    planes = ""
    for number, name in enumerate(files):
        for ifd in range(PLANES):
            planes += f'<TiffData FirstZ="{PLANES * number + ifd}" IFD="{ifd}" PlaneCount="1">'
            planes += f'<UUID FileName="{name}">{uuid(number)}</UUID></TiffData>'
    pixels = f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="10" SizeY="8" SizeZ="{len(STACK)}" SizeC="1" SizeT="1">'
    image = f'<Image ID="Image:0">{pixels}<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image>'
    return f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid(file_number)}">{image}</OME>'


def uuid(number: int | None) -> str:
    return f"urn:uuid:{99 if number is None else number:08d}-0000-0000-0000-000000000000"


def write_ome_set(folder: Path, companion: str = "") -> list[str]:
    files = [f"s{number}.ome.tif" for number in range(len(STACK) // PLANES)]
    binary_only = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><BinaryOnly MetadataFile="{companion}" UUID="x"/></OME>'
    for number, name in enumerate(files):
        with tifffile.TiffWriter(folder / name) as tiff:
            for ifd in range(PLANES):
                description = (
                    (binary_only if companion else ome_xml(files, number)) if ifd == 0 else None
                )
                options: Any = {"photometric": "minisblack", "metadata": None, "contiguous": False}
                tiff.write(STACK[PLANES * number + ifd], description=description, **options)
    if companion:
        (folder / companion).write_text(ome_xml(files, None), encoding="utf-8")
    return files


@pytest.mark.parametrize("companion", ["", "x.companion.ome"])
@settings(max_examples=8)
@given(lost=st.sets(st.integers(1, 2)), renamed=st.booleans())
@example(lost={1, 2}, renamed=False)
def test_any_set_of_missing_files_of_an_ome_tiff_is_refused_or_filled(
    companion: str, lost: set[int], renamed: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_ome_set(folder, companion)
        expected = STACK.copy()
        for number in lost:
            if renamed:
                (folder / files[number]).rename(folder / f"other{number}.tif")
            else:
                (folder / files[number]).unlink()
            expected[PLANES * number : PLANES * (number + 1)] = 0
        assert_refused_or_filled(folder / files[0], expected)
        if lost:
            with pytest.raises(
                InputError, match=rf"the first is in {files[min(lost)]}, which is not there"
            ):
                open_source(folder / files[0])


def test_a_set_without_its_description_is_refused(tmp_path: Path) -> None:
    files = write_ome_set(tmp_path, "x.companion.ome")
    (tmp_path / "x.companion.ome").unlink()
    with pytest.raises(
        InputError,
        match=r"s1.ome.tif is one file of a set that x.companion.ome describes, which is not there",
    ):
        open_source(tmp_path / files[1])


def zero_tags(path: Path, page: int, strip: int) -> None:
    """Mark a strip or a tile as never written."""
    with tifffile.TiffFile(path) as tiff:
        page_tags: Any = tiff.pages[page]
        tags = [
            tag for code in (273, 279, 324, 325) if (tag := page_tags.tags.get(code)) is not None
        ]
        width = {3: 2, 4: 4, 16: 8}
        positions = [
            (tag.valueoffset + strip * width[int(tag.dtype)], width[int(tag.dtype)]) for tag in tags
        ]
    with path.open("r+b") as file:
        for position, length in positions:
            file.seek(position)
            file.write(bytes(length))


@pytest.mark.parametrize(
    "options", [{"rowsperstrip": 3}, {"rowsperstrip": 3, "compression": "zlib"}, {"tile": (16, 16)}]
)
def test_unwritten_strips_and_tiles_are_refused_or_filled(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in STACK:
            tiff.write(plane, photometric="minisblack", metadata=None, contiguous=False, **options)
    expected = STACK.copy()
    expected[4, 3:6] = 0
    if "tile" in options:
        expected[4] = 0
    zero_tags(tmp_path / "a.tif", 4, 0 if "tile" in options else 1)
    assert_refused_or_filled(tmp_path / "a.tif", expected)


def test_an_unwritten_slice_of_a_series_is_refused(tmp_path: Path) -> None:
    for z in range(3):
        tifffile.imwrite(tmp_path / f"s{z}.tif", STACK[z], photometric="minisblack", rowsperstrip=3)
    zero_tags(tmp_path / "s1.tif", 0, 1)
    with pytest.raises(
        InputError, match=r"s1.tif lacks 1 of 3 strips \(the first is the one at \(3, 0\)\)"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "jpeg"}, {"compression": "zlib"}, {"truncate": True}, {"imagej": True}],
)
def test_a_page_that_ends_too_early_is_never_filled(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    if options.get("truncate") or options.get("imagej"):
        tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "ZYX"}, **options)
    else:
        with tifffile.TiffWriter(path) as tiff:
            for plane in STACK:
                tiff.write(
                    plane, photometric="minisblack", metadata=None, contiguous=False, **options
                )
    assert open_source(path).stack.shape == STACK.shape
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages[-1]
        end = max(
            last.dataoffsets[-1] + last.databytecounts[-1],
            tiff.pages[0].dataoffsets[0] + STACK.nbytes * ("imagej" in options),
        )
    path.write_bytes(path.read_bytes()[: end - 13])
    with pytest.raises(InputError, match=r"a.tif (is damaged|says that it has|cannot be read)"):
        open_source(path, fill_missing=True)


@pytest.mark.parametrize("options", [{"ome": True}, {"shaped": True}, {"imagej": True}])
def test_a_truncated_list_of_pages_is_refused(tmp_path: Path, options: dict[str, bool]) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", **options) as tiff:  # type: ignore[arg-type]
        tiff.write(STACK, photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"})
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        position, following = (int(tiff.pages[page].offset) for page in (3, 4))
    (entries,) = struct.unpack_from("<H", content, position)
    assert struct.unpack_from("<I", content, position + 2 + 12 * entries) == (following,)
    struct.pack_into("<I", content, position + 2 + 12 * entries, 0)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(
        InputError,
        match=r"a.tif (lacks 2 of 6 pages|says that it has 6 slices, but holds|cannot be read|.*is it complete)",
    ):
        open_source(tmp_path / "a.tif").stack[0:6]


def test_ome_xml_with_more_slices_than_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    content = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.ome.tif").write_bytes(content.replace(b'SizeZ="6"', b'SizeZ="7"'))
    with pytest.raises(InputError, match=r"a.ome.tif lacks 1 of 7 pages \(slice 6"):
        open_source(tmp_path / "a.ome.tif")


def write_zarr_2(path: Path, lost: Sequence[tuple[int, ...]], fill: int) -> None:
    write_zarr(path, lost, 2, fill)


@pytest.mark.parametrize(("write", "ending"), [(write_zarr_2, ".zarr"), (write_hdf5, ".h5")])
def test_labels_may_leave_out_their_background(
    tmp_path: Path, write: Callable[..., None], ending: str
) -> None:
    lost = CHUNKS[3:7]
    write(tmp_path / f"a{ending}", lost, 0)
    source = open_source(tmp_path / f"a{ending}", labels=True)
    assert np.array_equal(source.stack[:6], without_chunks(lost))
    write(tmp_path / f"b{ending}", lost, 7)
    with pytest.raises(
        InputError,
        match=r"lacks 4 of 18 chunks .* and fills them with 7, which is not background \(0\)",
    ):
        open_source(tmp_path / f"b{ending}", labels=True)
    write(tmp_path / f"c{ending}", CHUNKS, 0)
    with pytest.raises(InputError, match=r"lacks 18 of 18 chunks .* so it is empty"):
        open_source(tmp_path / f"c{ending}", labels=True)
    sample = import_labels(
        tmp_path / "s.zarr", "mito", tmp_path / f"a{ending}", ImportSettings(voxel_nm=(8, 4, 4))
    )
    assert np.array_equal(sample.volume("labels", "mito").read(slice(None)), without_chunks(lost))


def test_missing_files_of_labels_are_refused(tmp_path: Path) -> None:
    write_virtual_hdf5(tmp_path / "a.h5", [(3, 0, 0)])
    with pytest.raises(
        InputError,
        match=r"lacks 1 of 6 sources \(slice 3: part3.h5, which is not there\); copy it again",
    ) as refused:
        open_source(tmp_path / "a.h5", labels=True)
    assert "--missing" not in str(refused.value)
    files = write_ome_set(tmp_path)
    (tmp_path / files[1]).unlink()
    with pytest.raises(InputError, match="lacks 2 of 6 pages"):
        open_source(tmp_path / files[0], labels=True)


@pytest.mark.parametrize("depth", [1, 4])
def test_what_was_filled_is_reported_and_recorded(
    tmp_path: Path, depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hdf5(tmp_path / "a.h5", [(1, 0, 0), (2, 0, 0)], fill=9)
    asked = ImportSettings(voxel_nm=(8, 4, 4), missing="fill", block_depth=depth)
    sample = import_stack(tmp_path / "a.h5", tmp_path / "s.zarr", asked, on=Execution(quiet=False))
    filled = "'data' in a.h5 lacks 2 of 18 chunks; 80 voxels of slices 2 to 5 are read as 9"
    assert f"Note: {filled}." in capsys.readouterr().err
    assert sample.history()[0]["settings"]["input filled"] == filled
    assert np.array_equal(
        sample.image().read(slice(None)), without_chunks([(1, 0, 0), (2, 0, 0)], 9)
    )


def test_samples_are_sources(tissue: Sample, tmp_path: Path) -> None:
    sample = import_stack(
        tissue.path, tmp_path / "s.zarr", ImportSettings(), on=Execution(quiet=True)
    )
    assert np.array_equal(sample.image().read(slice(None)), tissue.image().read(slice(None)))
    for name in ("nucleus", "mitochondrion"):
        assert not open_source(tissue.path / "truth" / name).missing


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_chunks_behind_links_are_read(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", [], 3)
    (tmp_path / "a.zarr" / "c" / "1").rename(tmp_path / "elsewhere")
    (tmp_path / "a.zarr" / "c" / "1").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(open_source(tmp_path / "a.zarr").stack[:6], STACK)
    (tmp_path / "elsewhere" / "0" / "1").unlink()
    (tmp_path / "elsewhere" / "0" / "1").symlink_to(
        tmp_path / "gone"
    )  # as a dataset whose content was not fetched
    assert_refused_or_filled(tmp_path / "a.zarr", without_chunks([(1, 0, 1)]))


def test_only_the_selected_channel_counts(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(2, *STACK.shape), dtype="u1", chunks=(1, 2, 8, 10)
    )
    array[1] = STACK
    assert np.array_equal(open_source(tmp_path / "a.zarr", channel=1).stack[:6], STACK)
    with pytest.raises(
        InputError, match=r"a.zarr lacks 3 of 3 chunks \(slices 0 to 5; the first is c/0/0/0/0\)"
    ):
        open_source(tmp_path / "a.zarr", channel=0)


@pytest.mark.parametrize(
    ("written", "stated"),
    [("v2 /", "v2 ."), ("v2 .", "v2 /"), ("default /", "default ."), ("default /", "v2 .")],
)
def test_chunks_named_in_another_encoding_are_refused(
    tmp_path: Path, written: str, stated: str
) -> None:
    def encoding(words: str) -> Any:
        name, separator = words.split()
        return {"name": name, "separator": separator}

    version = 2 if written.startswith("v2") else 3
    write_zarr(tmp_path / "a.zarr", [], version, chunk_key_encoding=encoding(written))
    metadata = tmp_path / "a.zarr" / (".zarray" if version == 2 else "zarr.json")
    content = json.loads(metadata.read_text(encoding="utf-8"))
    name, separator = stated.split()
    if version == 2:
        content["dimension_separator"] = separator
        if separator == ".":
            del content["dimension_separator"]  # as NestedDirectoryStore left it out
    else:
        content["chunk_key_encoding"] = {"name": name, "configuration": {"separator": separator}}
    metadata.write_text(json.dumps(content), encoding="utf-8")
    for labels in (False, True):
        with pytest.raises(
            InputError,
            match=r"a.zarr has chunks named c?[./]?0[./]0[./]0, but its metadata call them",
        ) as refused:
            open_source(tmp_path / "a.zarr", labels=labels, fill_missing=labels)
    entry = str(refused.value).split("write ")[1].split(" into ")[0]
    content |= json.loads(f"{{{entry}}}")  # what the message advises
    metadata.write_text(json.dumps(content), encoding="utf-8")
    assert np.array_equal(open_source(tmp_path / "a.zarr").stack[:6], STACK)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_the_metadata_of_the_array_override_consolidated_ones(tmp_path: Path, version: int) -> None:
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=version)  # type: ignore[arg-type]
    group.create_array("raw", shape=(4, 8, 10), chunks=(1, 8, 10), dtype="u1")[:] = STACK[:4]
    zarr.consolidate_metadata(tmp_path / "g.zarr")
    array = zarr.open_array(tmp_path / "g.zarr" / "raw", mode="r+")
    array.resize((6, 8, 10))
    array[4:] = STACK[4:]
    assert np.array_equal(open_source(tmp_path / "g.zarr").stack[:6], STACK)


def test_a_missing_level_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("1", data=STACK)
    scales = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
        for path in "01"
    ]
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    multiscales: Any = [{"axes": axes, "datasets": scales}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    with pytest.raises(
        InputError,
        match=r"has no array '0', although its OME-Zarr metadata name this level; copy it again, or name .* 1",
    ):
        open_source(tmp_path / "g.zarr")
    assert np.array_equal(open_source(tmp_path / "g.zarr", "1").stack[:6], STACK)


def test_an_unwritten_dataset_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", STACK.shape, "u1")
    with pytest.raises(
        InputError,
        match=r"'data' in a.h5 lacks 1 of 1 block \(slices 0 to 5: all of it, which was never written\)",
    ):
        open_source(tmp_path / "a.h5")
    with pytest.raises(InputError, match="so it is empty"):
        open_source(tmp_path / "a.h5", labels=True)


def virtual(path: Path, **sources: tuple[Any, h5py.VirtualSource]) -> None:
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(STACK.shape, "u1")
        for where, source in sources.values():
            layout[where] = source
        file.create_virtual_dataset("data", layout)


def test_missing_chunks_of_sources_are_found(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "inner.h5", [(1, 0, 0), (2, 1, 1)])
    virtual(
        tmp_path / "outer.h5", all=(np.s_[:], h5py.VirtualSource("inner.h5", "data", STACK.shape))
    )
    assert_refused_or_filled(tmp_path / "outer.h5", without_chunks([(1, 0, 0), (2, 1, 1)]))
    virtual(
        tmp_path / "outermost.h5",
        all=(np.s_[:], h5py.VirtualSource("outer.h5", "data", STACK.shape)),
    )
    assert_refused_or_filled(tmp_path / "outermost.h5", without_chunks([(1, 0, 0), (2, 1, 1)]))
    half = h5py.VirtualSource("inner.h5", "data", STACK.shape)
    virtual(tmp_path / "crossed.h5", first=(np.s_[:3], half[3:]), second=(np.s_[3:], half[:3]))
    source = open_source(tmp_path / "crossed.h5", fill_missing=True)
    assert source.missing[0].slices == (
        0,
        1,
        2,
        5,
    )  # chunks of the slices 2, 3 and 4, 5, which lie at 5, 0 and 1, 2


def test_parts_without_a_source_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["d"] = STACK[::2]
    even = h5py.VirtualSource("p.h5", "d", STACK[::2].shape)
    virtual(tmp_path / "a.h5", even=(np.s_[::2], even))
    expected = STACK.copy()
    expected[1::2] = 0
    assert_refused_or_filled(tmp_path / "a.h5", expected)
    assert open_source(tmp_path / "a.h5", labels=True).missing  # a mosaic of labels may have holes
    virtual(
        tmp_path / "b.h5",
        even=(np.s_[::2], even),
        odd=(np.s_[1::2], h5py.VirtualSource("gone.h5", "d", STACK[::2].shape)),
    )
    assert_refused_or_filled(tmp_path / "b.h5", expected)
    with pytest.raises(
        InputError,
        match=r"lacks 3 of 6 sources \(slices 1, 3, 5; the first is gone.h5, which is not there\)",
    ):
        open_source(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "key",
            r"'data' in a.h5 lacks 1 of 1 source \(slices 0 to 5: 'e' in p.h5, which is not there\)",
        ),
        (
            "garbage",
            r"'data' in a.h5 lacks 1 of 1 source \(slices 0 to 5: p.h5, which cannot be opened\)",
        ),
        (
            "smaller",
            r"The source 'd' in p.h5 has the shape \(5, 8, 10\), which is not what is read of it",
        ),
    ],
)
def test_changed_sources_are_refused(tmp_path: Path, fault: str, sentence: str) -> None:
    key = "e" if fault == "key" else "d"
    virtual(tmp_path / "a.h5", all=(np.s_[:], h5py.VirtualSource("p.h5", key, STACK.shape)[:]))
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["d"] = STACK[: 5 if fault == "smaller" else 6]
    if fault == "garbage":
        (tmp_path / "p.h5").write_bytes(b"precious data")
    with pytest.raises(InputError, match=sentence):
        open_source(tmp_path / "a.h5")


def test_missing_external_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", STACK.shape, "u1", external=[("raw.bin", 3, STACK.nbytes)])
    with pytest.raises(
        InputError,
        match=r"'data' in a.h5 keeps its voxels in raw.bin, which is not there; put it next to a.h5",
    ):
        open_source(tmp_path / "a.h5")
    (tmp_path / "raw.bin").write_bytes(b"abc" + STACK.tobytes()[:-1])
    with pytest.raises(
        InputError, match=r"keeps 480 bytes of its voxels in raw.bin, which is shorter"
    ):
        open_source(tmp_path / "a.h5", fill_missing=True)
    (tmp_path / "raw.bin").write_bytes(b"abc" + STACK.tobytes())
    assert np.array_equal(open_source(tmp_path / "a.h5").stack[:6], STACK)


def test_slices_are_described_as_runs() -> None:
    assert describe_slices([3]) == "slice 3"
    assert describe_slices([3, 4, 5, 9]) == "slices 3 to 5, 9"
    assert describe_slices(range(0, 40, 2)) == "slices 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"
