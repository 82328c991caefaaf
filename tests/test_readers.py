"""All formats are read; each fault is refused with one clear sentence."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import cv2
import h5py
import mrcfile
import nrrd
import numpy as np
import pytest
import scipy.io
import tifffile
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.open import open_source
from sparsem.io.settings import ImportSettings
from sparsem.io.writers import write_tiff
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

STACK = np.random.default_rng(0).integers(0, 255, (5, 40, 60), np.uint8)


def assert_reads(
    path: Path | str,
    expected: NDArray[Any] = STACK,
    voxel: tuple[float | None, ...] = (None, None, None),
) -> None:
    source = open_source(path)
    assert tuple(source.stack.shape) == expected.shape
    assert source.stack.dtype == expected.dtype
    assert np.array_equal(source.stack[0:5], expected)
    assert np.array_equal(source.stack[2:4], expected[2:4])
    assert source.voxel_nm == pytest.approx(voxel)


@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": True}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}],
)
def test_multi_page_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    big = {key: options.pop(key) for key in list(options) if key == "bigtiff"}
    with tifffile.TiffWriter(tmp_path / "a.tif", **big) as tiff:
        for plane in STACK:
            tiff.write(plane, contiguous=False, photometric="minisblack", **options)
    assert_reads(tmp_path / "a.tif")


def test_a_resolution_tag_alone_is_not_a_voxel_size(tmp_path: Path) -> None:
    stack = STACK.astype(np.uint16) * 200
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        photometric="minisblack",
        resolution=(72, 72),
        resolutionunit="INCH",
    )
    assert_reads(tmp_path / "a.tif", stack)


def test_ome_tiff_states_its_voxel_size(tmp_path: Path) -> None:
    sizes = {
        "PhysicalSizeZ": 8,
        "PhysicalSizeZUnit": "nm",
        "PhysicalSizeY": 0.004,
        "PhysicalSizeX": 0.004,
    }
    tifffile.imwrite(
        tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX", **sizes}
    )
    assert_reads(tmp_path / "a.ome.tif", voxel=(8, 4, 4))


def test_imagej_tiff_states_its_voxel_size(tmp_path: Path) -> None:
    metadata = {"spacing": 0.01, "unit": "micron", "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, resolution=(1 / 0.005, 1 / 0.004), metadata=metadata
    )
    assert_reads(tmp_path / "a.tif", voxel=(10, 4, 5))


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_a_folder_and_a_glob_in_natural_order(tmp_path: Path, ending: str) -> None:
    for z, plane in zip((1, 2, 9, 10, 100), STACK, strict=True):
        cv2.imwrite(str(tmp_path / f"s{z}.{ending}"), plane)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._s1.tif").write_bytes(b"what a Mac leaves behind")
    assert_reads(tmp_path)
    assert_reads(f"{tmp_path}/s*.{ending}")
    assert open_source(tmp_path).numbers == (1, 2, 9, 10, 100)
    assert np.array_equal(open_source(f"{tmp_path}/s1*.{ending}").stack[:5], STACK[[0, 3, 4]])


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_and_ome_zarr(tmp_path: Path, version: int) -> None:
    plain = zarr.create_array(tmp_path / "a.zarr", data=STACK, zarr_format=version)  # type: ignore[arg-type]
    assert plain.shape == STACK.shape
    assert_reads(tmp_path / "a.zarr")
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=version)  # type: ignore[arg-type]
    group.create_array("s0", data=STACK[None, None])
    axes = [
        {"name": n, "type": "space", "unit": "micrometer"} if n in "zyx" else {"name": n}
        for n in "tczyx"
    ]
    datasets = [
        {
            "path": "s0",
            "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.02, 0.005, 0.004]}],
        }
    ]
    multiscales: Any = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs.update(
        {"multiscales": multiscales}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    assert_reads(tmp_path / "g.zarr", voxel=(20, 5, 4))


def test_odd_but_valid_files(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK[:, None], photometric="minisblack"
    )  # a channel axis of length one
    assert_reads(tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "c.ome.tif", STACK[:3], photometric="minisblack", metadata={"axes": "CYX"}
    )
    with pytest.raises(
        InputError, match=r"c.ome.tif has the axes CYX \(3, 40, 60\); expected one channel"
    ):
        open_source(tmp_path / "c.ome.tif")
    zarr.create_array(tmp_path / "b.zarr", data=STACK.astype(">u2"))
    assert_reads(tmp_path / "b.zarr", STACK.astype(np.uint16))
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=2)
    group.create_array("0", data=STACK)
    group.attrs["multiscales"] = [
        {"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}
    ]
    assert_reads(tmp_path / "g.zarr")


@pytest.mark.parametrize("fault", ["chunk", "metadata", "empty", "way out"])
def test_a_damaged_zarr_is_one_sentence(tmp_path: Path, fault: str) -> None:
    shape = (0, 40, 60) if fault == "empty" else STACK.shape
    group = zarr.create_group(tmp_path / "g.zarr")
    array = group.create_array("0", shape=shape, dtype=np.uint8, chunks=(2, 40, 60))
    array[:] = STACK[: shape[0]]
    if fault == "metadata":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{}], "axes": 3}]}
    if fault == "chunk":
        chunk = next(
            path for path in (tmp_path / "g.zarr" / "0" / "c").rglob("*") if path.is_file()
        )
        chunk.write_bytes(b"not zstd")
    with pytest.raises(
        InputError,
        match=r"cannot be read|damaged OME-Zarr metadata|expected one channel|has no array",
    ):
        _ = open_source(tmp_path / "g.zarr", "../g.zarr" if fault == "way out" else None).stack[0:5]


def test_a_tiff_of_different_parts_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(STACK[0, :20, :20], photometric="minisblack")
        tiff.write(STACK, photometric="minisblack")
    with pytest.raises(
        InputError,
        match=r"a.tif holds several images .*\(20, 20\), \(5, 40, 60\).*; expected one stack",
    ):
        open_source(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as tiff:
        tiff.write(STACK, photometric="minisblack")
        tiff.write(
            STACK[0, :10, :10], photometric="minisblack"
        )  # a thumbnail behind the stack is ignored
    assert_reads(tmp_path / "b.tif")


def test_an_image_of_a_tiff_is_selected_by_its_number(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for number, edge in enumerate((4, 5)):
            sizes = {
                "PhysicalSizeX": edge,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": edge,
                "PhysicalSizeYUnit": "nm",
            }
            tiff.write(
                STACK + number,
                photometric="minisblack",
                metadata={"axes": "ZYX", "Name": f"position {number}", **sizes},
            )
    several = r"holds several images \(numbered from 0: \(5, 40, 60\) position 0, \(5, 40, 60\) position 1\); expected one stack, or --dataset"
    with pytest.raises(InputError, match=several):
        open_source(tmp_path / "a.ome.tif")
    for number in (0, 1):
        source = open_source(tmp_path / "a.ome.tif", str(number))
        assert np.array_equal(source.stack[0:5], STACK + number)
        assert (
            source.voxel_nm == ((None, 4, 4), (None, None, None))[number]
        )  # the size of the second is not that of the first
    assert source.identity() != open_source(tmp_path / "a.ome.tif", "0").identity()
    for name in ("2", "-1", "position 0"):
        with pytest.raises(InputError, match=rf"has no image '{name}'; expected its number"):
            open_source(tmp_path / "a.ome.tif", name)
    tifffile.imwrite(tmp_path / "b.tif", STACK, photometric="minisblack")
    assert np.array_equal(open_source(tmp_path / "b.tif", "0").stack[0:5], STACK)


@pytest.mark.parametrize("ending", ["npy", "nrrd"])
def test_a_color_image_is_refused(tmp_path: Path, ending: str) -> None:
    image = np.repeat(STACK[0][..., None], 3, axis=-1)
    if ending == "npy":
        np.save(tmp_path / "a.npy", image)
    else:
        nrrd.write(str(tmp_path / "a.nrrd"), image, index_order="C")
    with pytest.raises(InputError, match="one image of 3 channels"):
        open_source(tmp_path / f"a.{ending}")


@pytest.mark.parametrize(
    ("kinds", "shape"),
    [
        (["RGB-color", "domain", "domain", "domain"], (5, 40, 60, 3)),
        (["RGB-color", "domain", "domain"], (40, 60, 3)),
        (["domain", "domain", "domain", "time"], (2, 5, 40, 60)),
        (["vector", "domain", "domain", "domain"], (5, 40, 60, 2)),
    ],
)
def test_channels_and_times_of_nrrd_are_refused(
    tmp_path: Path, kinds: list[str], shape: tuple[int, ...]
) -> None:
    nrrd.write(
        str(tmp_path / "a.nrrd"), np.zeros(shape, np.uint8), {"kinds": kinds}, index_order="C"
    )
    with pytest.raises(InputError, match=r"a.nrrd has the sizes .*; expected x, y, z"):
        open_source(tmp_path / "a.nrrd")
    nrrd.write(
        str(tmp_path / "b.nrrd"),
        STACK[..., None],
        {"kinds": ["list", "domain", "domain", "domain"]},
        index_order="C",
    )
    assert np.array_equal(open_source(tmp_path / "b.nrrd").stack[0:5], STACK)


def test_the_selected_channel_and_time_are_read(tmp_path: Path) -> None:
    stack = np.arange(2 * 5 * 8 * 9, dtype=np.uint16).reshape(2, 5, 8, 9)
    tifffile.imwrite(
        tmp_path / "q.tif", stack, photometric="minisblack"
    )  # the first two axes have no names
    with pytest.raises(
        InputError,
        match=r"q.tif has the axes QQYX \(2, 5, 8, 9\); expected one channel, \(z, y, x\)",
    ):
        open_source(tmp_path / "q.tif")
    tifffile.imwrite(
        tmp_path / "c.ome.tif", stack[0], photometric="minisblack", metadata={"axes": "CYX"}
    )
    for channel in (0, 3):
        assert np.array_equal(
            open_source(tmp_path / "c.ome.tif", channel=channel).stack[0:1],
            stack[0, channel : channel + 1],
        )
    tifffile.imwrite(
        tmp_path / "t.ome.tif", stack[0], photometric="minisblack", metadata={"axes": "TYX"}
    )
    assert np.array_equal(open_source(tmp_path / "t.ome.tif", time=0).stack[0:1], stack[0, :1])


def test_slices_whose_metadata_name_each_other_are_read_one_by_one(tmp_path: Path) -> None:
    names = [f"s_{z}.ome.tif" for z in range(3)]
    files = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z:08d}-0000-0000-0000-000000000000</UUID>'
        "</TiffData>"
        for z, name in enumerate(names)
    )
    pixels = '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="60" SizeY="40" SizeZ="3" SizeC="1" SizeT="1">'
    for z, name in enumerate(names):
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z:08d}-0000-0000-0000-000000000000">'
        xml += f'<Image ID="Image:0">{pixels}<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{files}</Pixels></Image></OME>'
        tifffile.imwrite(
            tmp_path / name, STACK[z], photometric="minisblack", description=xml, metadata=None
        )
    assert_reads(tmp_path, STACK[:3])


def test_a_truncated_imagej_stack_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(
        InputError, match=r"a.tif (says that it has 5 slices, but holds 1|cannot be read)"
    ):
        open_source(tmp_path / "a.tif").stack[0:5]


def test_a_tiff_with_a_broken_list_of_pages_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in STACK:
            tiff.write(plane, contiguous=False, photometric="minisblack", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        link = int(tiff.pages[2].offset)
    where = content.find(link.to_bytes(4, "little"))
    content[where : where + 4] = (2**31).to_bytes(
        4, "little"
    )  # the second page points beyond the end of the file
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"a.tif is damaged \(.*invalid page offset"):
        open_source(tmp_path / "a.tif")


def test_a_tiff_of_four_bytes_is_one_sentence(tmp_path: Path) -> None:
    for length in (0, 4, 9):
        (tmp_path / "a.tif").write_bytes(b"II*\x00\x08\x00\x00\x00\x01"[:length])
        with pytest.raises(InputError, match=r"cannot be read as TIFF|holds no image"):
            open_source(tmp_path / "a.tif")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    (tmp_path / "s.zarr").write_text("precious")
    with pytest.raises(SampleError, match="exists and is not a sparsem sample"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)))


def test_a_group_of_several_arrays_needs_a_dataset(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for key in ("raw", "other"):
        group.create_array(key, data=STACK)
    with pytest.raises(
        InputError, match=r"holds the arrays other, raw; name one with --dataset KEY"
    ):
        open_source(tmp_path / "g.zarr")
    with pytest.raises(InputError, match="has no array 'row'"):
        open_source(tmp_path / "g.zarr", "row")
    assert np.array_equal(open_source(tmp_path / "g.zarr", "raw").stack[:], STACK)


def broken(tmp_path: Path, fault: str) -> Path:
    """Create a source with one fault."""
    folder, file = tmp_path / "slices", tmp_path / "a.tif"
    folder.mkdir()
    if fault == "missing":
        return tmp_path / "nowhere"
    if fault == "unknown format":
        (tmp_path / "a.docx").write_text("x")
        return tmp_path / "a.docx"
    if fault == "empty folder":
        return folder
    if fault == "color":
        tifffile.imwrite(file, np.full((8, 8, 3), (0, 9, 0), np.uint8), photometric="rgb")
    if fault == "color slice":
        cv2.imwrite(str(folder / "s1.png"), np.full((8, 8, 3), (0, 9, 0), np.uint8))
        return folder
    if fault == "not a tiff":
        file.write_text("precious data")
    if fault == "five axes":
        tifffile.imwrite(
            file,
            np.zeros((2, 3, 8, 8), np.uint8),
            photometric="minisblack",
            metadata={"axes": "TZYX"},
        )
    if fault == "unequal slices":
        cv2.imwrite(str(folder / "s1.png"), STACK[0])
        cv2.imwrite(str(folder / "s2.png"), STACK[0, :, :50])
        return folder
    if fault == "stack in a folder of slices":
        tifffile.imwrite(folder / "s1.tif", STACK)
        return folder
    if fault == "half a png":
        cv2.imwrite(str(folder / "s1.png"), STACK[0])
        (folder / "s1.png").write_bytes((folder / "s1.png").read_bytes()[:12])
        return folder
    return file


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("missing", "There is no file or folder"),
        ("unknown format", r"a.docx is of a format that is not read: expected .tif"),
        ("empty folder", "There are no TIFF or PNG slices in the folder"),
        ("color", r"a.tif is a color image \(8, 8, 3\); convert it to gray first"),
        ("color slice", r"s1.png is a color image \(8, 8, 3\); convert it to gray first"),
        ("not a tiff", r"a.tif cannot be read as TIFF .*; is it complete\?"),
        ("five axes", r"a.tif has the axes TZYX \(2, 3, 8, 8\); expected one time, or --time"),
        (
            "unequal slices",
            r"All slices must have one shape and type: s1.png is \(40, 60\) uint8, but s2.png is \(40, 50\) uint8",
        ),
        (
            "stack in a folder of slices",
            "s1.tif holds 5 pages; in a folder of slices each file is one slice",
        ),
        ("half a png", r"s1.png cannot be read .*; is it complete\?"),
    ],
)
def test_a_faulty_source_is_one_sentence(tmp_path: Path, fault: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        open_source(broken(tmp_path, fault))


def test_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no TIFF or PNG slices in the pattern"):
        open_source(f"{tmp_path}/*.tif")


def test_a_truncated_tiff_leaves_no_half_sample(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a.tif (cannot be read|is damaged)"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)))
    with pytest.raises(SampleError, match=r"There is no sample|its import was interrupted"):
        Sample.open(tmp_path / "s.zarr")


def test_a_missing_voxel_size_is_asked_for(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(
        InputError, match=r"a.tif does not state its voxel size; give it in nm as --voxel-nm Z Y X"
    ):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK,
        imagej=True,
        resolution=(200, 200),
        metadata={"unit": "micron", "axes": "ZYX"},
    )
    with pytest.raises(InputError, match=r"completely \(only y = 5 nm, x = 5 nm\)"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr")


def test_missing_slices_are_refused_joined_or_repeated(tmp_path: Path) -> None:
    for index, number in enumerate((3, 4, 7)):
        tifffile.imwrite(tmp_path / f"s{number}.tif", STACK[index])
    with pytest.raises(
        InputError,
        match=r"s\*\.tif: slices 5, 6 of the series are missing; put them back, or use --missing repeat",
    ):
        import_stack(tmp_path / "s*.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)))
    assert not (tmp_path / "s.zarr").exists()
    joined = import_stack(
        tmp_path / "s*.tif",
        tmp_path / "joined.zarr",
        ImportSettings(voxel_nm=(5, 5, 5), missing="join"),
    )
    assert joined.image().shape[0] == 3
    repeated = import_stack(
        tmp_path / "s*.tif",
        tmp_path / "repeated.zarr",
        ImportSettings(voxel_nm=(5, 5, 5), missing="repeat"),
    )
    assert [int(plane[0, 0]) for plane in repeated.image().read(slice(None))] == [
        int(STACK[z, 0, 0]) for z in (0, 1, 1, 1, 2)
    ]


def imported(tmp_path: Path, stack: NDArray[Any], **settings: Any) -> Sample:
    """Import a stack of any numbers."""
    np.save(tmp_path / "a.npy", stack)
    target = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
    return import_stack(tmp_path / "a.npy", target, ImportSettings(voxel_nm=(5, 5, 5), **settings))


def test_numbers_are_mapped_to_gray_levels_and_the_mapping_is_recorded(tmp_path: Path) -> None:
    as_they_are = imported(tmp_path, STACK.astype(np.uint16) * 3)
    assert np.array_equal(as_they_are.image().read(slice(None)), STACK.astype(np.uint16) * 3)
    signed = imported(tmp_path, (STACK.astype(np.int16) - 128).astype(np.int8))
    assert np.array_equal(signed.image().read(slice(None)), STACK)  # bytes lose nothing
    assert signed.history()[0]["settings"]["input gray levels"] == "-128 to 127 become 0 to 255"
    for kind in (np.int16, np.int32, np.float32, np.float64, ">f4"):
        wide = imported(tmp_path, (STACK * 10.0 - 900).astype(kind)).image().read(slice(None))
        assert wide.dtype == np.uint16
        ends = np.median(
            [np.percentile(plane * 10.0 - 900, (0.1, 99.9)) for plane in STACK], axis=0
        )
        expected = np.clip((STACK * 10.0 - 900 - ends[0]) / (ends[1] - ends[0]), 0, 1) * 65535
        assert np.abs(wide - expected).max() <= 0.51
    sample = imported(tmp_path, STACK.astype(np.float32) / 100, intensity_range=(0, 2.55), bits=8)
    assert np.array_equal(sample.image().read(slice(None)), STACK)
    assert sample.history()[0]["settings"]["input gray levels"] == "0 to 2.55 become 0 to 255"


@pytest.mark.parametrize(
    ("value", "settings", "sentence"),
    [
        (np.nan, {}, r"Slice 2 of a\.npy holds values that are not numbers \(NaN or infinite\)"),
        (
            np.inf,
            {"intensity_range": (0, 1)},
            r"Slice 2 of a\.npy holds values that are not numbers",
        ),
        (
            1.0,
            {"intensity_range": (5, 5)},
            "--intensity-range takes what becomes black and what becomes white",
        ),
        (1.0, {}, "a.npy holds the same number, 1, almost everywhere"),
    ],
)
def test_numbers_without_gray_levels_are_refused(
    tmp_path: Path, value: float, settings: dict[str, Any], sentence: str
) -> None:
    stack = np.ones((5, 40, 60), np.float32)
    stack[2, 3, 4] = value
    with pytest.raises(InputError, match=sentence):
        imported(tmp_path, stack, **settings)
    with pytest.raises(SampleError):
        Sample.open(next(tmp_path.glob("*.zarr"), tmp_path / "none.zarr"))


@pytest.mark.parametrize("depth", [1, 2, 16])
def test_import_is_the_same_for_any_block_depth(tmp_path: Path, depth: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    sample = import_stack(
        tmp_path / "a.tif",
        tmp_path / "s.zarr",
        ImportSettings(voxel_nm=(9, 5, 4), non_square_pixels=True, block_depth=depth),
    )
    assert np.array_equal(sample.image("raw").read(slice(None)), STACK)
    assert tuple(sample.voxel_size) == (9, 5, 4)
    assert sample.image("raw").block_depth == min(depth, 5)


def test_another_stack_is_not_imported_over_a_sample(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", STACK + (name == "b"), photometric="minisblack")
    settings = ImportSettings(voxel_nm=(5, 5, 5))
    import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", settings)
    with pytest.raises(ResumeError, match="another source"):
        import_stack(tmp_path / "b.tif", tmp_path / "s.zarr", settings)
    sample = import_stack(
        tmp_path / "b.tif", tmp_path / "s.zarr", settings, on=Execution(overwrite=True, quiet=True)
    )
    assert np.array_equal(sample.image("raw").read(slice(None)), STACK + 1)


def test_an_exported_tiff_is_read_back_with_its_voxel_size(tissue: Sample, tmp_path: Path) -> None:
    volume = tissue.volume("truth", "mitochondrion")
    path = write_tiff(volume, tmp_path / "m.tif")
    source = open_source(path)
    assert source.voxel_nm == pytest.approx(tuple(volume.voxel_size))
    assert np.array_equal(source.stack[:], volume.read(slice(None)))
    assert [file.name for file in tmp_path.iterdir()] == ["m.tif"]
    with pytest.raises(InputError, match="exists; use --overwrite"):
        write_tiff(volume, path)
    with pytest.raises(InputError, match=r"expected a name that ends in .tif, got 'm.jpg'"):
        write_tiff(volume, tmp_path / "m.jpg")


def test_the_real_stack_is_read_lazily(real_data: Any) -> None:
    source = open_source(real_data("epfl_fibsem_mitochondria/raw.tif"))
    assert tuple(source.stack.shape) == (80, 768, 1024)
    whole = tifffile.imread(real_data("epfl_fibsem_mitochondria/raw.tif"), key=[17, 18])
    assert np.array_equal(source.stack[17:19], whole)


# Formats of other programs are read with their voxel size, and truncated files are reported.


def write_mrc(path: Path, stack: NDArray[Any], edge: float = 0.0) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(stack)
        if edge:
            file.voxel_size = edge


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.float32, np.float16])
def test_mrc(tmp_path: Path, kind: Any) -> None:
    stack = (STACK // 2).astype(kind)
    write_mrc(tmp_path / "a.mrc", stack, 52.0)
    stored = {np.uint8: np.uint16, np.int8: np.uint8}.get(
        kind, kind
    )  # bytes up to 127 mean the same whether signed or not
    assert_reads(
        tmp_path / "a.mrc", stack.astype(stored)[:, ::-1], (5.2, 5.2, 5.2)
    )  # the lowest row comes first in the file
    write_mrc(tmp_path / "b.mrc", stack)
    assert open_source(tmp_path / "b.mrc").voxel_nm == (None, None, None)


def test_bytes_of_imod_are_unsigned(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", STACK.view(np.int8))
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    content[152:160] = struct.pack("<2i", 1146047817, 0)
    (tmp_path / "a.mrc").write_bytes(content)
    assert_reads(tmp_path / "a.mrc", STACK[:, ::-1])
    content[156:160] = struct.pack("<i", 1)
    (tmp_path / "a.mrc").write_bytes(content)
    assert_reads(tmp_path / "a.mrc", STACK.view(np.int8)[:, ::-1])


def test_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset(
            "volumes/raw", data=STACK, chunks=(2, 16, 16), compression="gzip"
        )
        node.attrs["resolution"] = [20.0, 4.0, 5.0]
        file.create_dataset("row", data=np.arange(5))
    assert_reads(tmp_path / "a.h5", voxel=(20, 4, 5))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        node = file.create_dataset("more", data=np.stack([STACK, STACK[::-1]])[None].astype(">i2"))
        node.attrs["element_size_um"] = [0.02, 0.004, 0.005]
    with pytest.raises(
        InputError, match=r"a\.h5 holds the datasets more, volumes/raw; name one with --dataset KEY"
    ):
        open_source(tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"has no dataset 'raw'; it has more, volumes/raw"):
        open_source(tmp_path / "a.h5", "raw")
    source = open_source(tmp_path / "a.h5", "more", channel=1)
    assert np.array_equal(source.stack[0:5], STACK[::-1])
    assert source.stack.dtype == np.int16
    assert source.voxel_nm == pytest.approx((20, 4, 5))
    assert source.identity() != open_source(tmp_path / "a.h5", "more", channel=0).identity()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_nrrd(tmp_path: Path, encoding: str) -> None:
    stack = STACK.astype(np.uint16) * 7
    header = {
        "encoding": encoding,
        "space directions": np.diag([0.004, 0.005, 0.02]),
        "space": "left-posterior-superior",
    }
    nrrd.write(
        str(tmp_path / "a.nrrd"), stack, {**header, "space units": ["um"] * 3}, index_order="C"
    )
    assert_reads(tmp_path / "a.nrrd", stack, (20, 5, 4))
    source = open_source(tmp_path / "a.nrrd").stack
    assert np.array_equal(source[3:4], stack[3:4])
    assert np.array_equal(source[1:2], stack[1:2])  # back again
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again[4:5], stack[4:5])
    assert np.array_equal(source[4:5], stack[4:5])  # read to the end, the file is closed
    nrrd.write(str(tmp_path / "b.nhdr"), STACK, {**header, "encoding": encoding}, index_order="C")
    assert_reads(tmp_path / "b.nhdr", voxel=(20000, 5000, 4000))  # 3D Slicer's unit is mm
    nrrd.write(str(tmp_path / "c.nrrd"), STACK, {"encoding": encoding}, index_order="C")
    assert_reads(tmp_path / "c.nrrd")


def test_segments_of_3d_slicer_have_names(tmp_path: Path) -> None:
    names = {
        "Segment0_Name": "cell nucleus",
        "Segment0_LabelValue": "1",
        "Segment1_Name": "mito",
        "Segment1_LabelValue": "4",
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), STACK, names, index_order="C")
    assert open_source(tmp_path / "a.seg.nrrd").names == {"cell nucleus": (1,), "mito": (4,)}
    layers = {"kinds": ["list", "domain", "domain", "domain"]}
    nrrd.write(
        str(tmp_path / "b.seg.nrrd"), np.stack([STACK, STACK], axis=-1), layers, index_order="C"
    )
    with pytest.raises(InputError, match=r"b\.seg\.nrrd has segments that overlap, in 2 layers"):
        open_source(tmp_path / "b.seg.nrrd")


def write_model(path: Path, labels: NDArray[Any], names: list[str], version: str) -> None:
    """A model as Microscopy Image Browser saves it, in MATLAB's axes (y, x, z)."""
    turned = np.moveaxis(labels, 0, 2)
    if version == "5":
        cells = np.array(names, dtype=object).reshape(-1, 1)
        about = {
            "modelMaterialNames": cells,
            "modelMaterialColors": np.ones((len(names), 3)),
            "modelVariable": "mibModel",
        }
        scipy.io.savemat(
            path,
            {"mibModel": turned, "modelType": 63.0, **about},
            appendmat=False,
            do_compression=True,
        )
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        file["mibModel"] = turned.T
        file["modelType"] = [[63.0]]
        file["modelVariable"] = np.array([[ord(character)] for character in "mibModel"], np.uint16)
        held = file.create_group("#refs#")
        for number, name in enumerate(names):
            held[str(number)] = np.array([[ord(character)] for character in name], np.uint16)
        references = np.array(
            [[held[str(number)].ref for number in range(len(names))]], dtype=h5py.ref_dtype
        )
        file.create_dataset("modelMaterialNames", data=references, dtype=h5py.ref_dtype)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_models_of_microscopy_image_browser(tmp_path: Path, version: str) -> None:
    labels = (STACK % 4).astype(np.uint8)
    write_model(tmp_path / "a.model", labels, ["nucleus", "mito chondria", "ER"], version)
    assert_reads(tmp_path / "a.model", labels)
    source = open_source(tmp_path / "a.model")
    assert source.names == {"nucleus": (1,), "mito chondria": (2,), "ER": (3,)}
    with_mask = labels | 128  # the highest bits of such a model are mask and selection
    write_model(tmp_path / "b.model", with_mask, ["a", "b", "c"], version)
    assert_reads(tmp_path / "b.model", labels)
    assert np.array_equal(pickle.loads(pickle.dumps(source.stack))[1:3], labels[1:3])


def test_a_model_without_some_chunks_is_refused(tmp_path: Path) -> None:
    labels = (STACK % 4).astype(np.uint8)
    write_model(tmp_path / "a.model", labels, ["a", "b", "c"], "7.3")
    with h5py.File(tmp_path / "a.model", "a") as file:
        turned = file["mibModel"][...]
        del file["mibModel"]
        data = file.create_dataset("mibModel", turned.shape, "u1", chunks=(1, *turned.shape[1:]))
        data[1:] = turned[1:]
    with pytest.raises(InputError, match=r"'mibModel' in a.model lacks 1 of 5 chunks \(slice 0"):
        open_source(tmp_path / "a.model")
    labels[0] = 0
    assert np.array_equal(open_source(tmp_path / "a.model", labels=True).stack[0:5], labels)


def test_hdf5_of_ilastik(tmp_path: Path) -> None:
    for name, tags in (("stated", "zyxc"), ("unstated", "")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            data = file.create_dataset("exported_data", data=STACK[..., None])
            if tags:
                data.attrs["axistags"] = json.dumps(
                    {"axes": [{"key": key, "typeFlags": 1} for key in tags]}
                )
        assert_reads(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["data"] = np.stack([STACK, STACK], axis=-1)
    with pytest.raises(
        InputError,
        match=r"'data' in two.h5 has the axes ZYXC \(5, 40, 60, 2\); expected one channel, or --channel",
    ):
        open_source(tmp_path / "two.h5")
    assert np.array_equal(open_source(tmp_path / "two.h5", channel=1).stack[1:4], STACK[1:4])


@pytest.mark.parametrize("key", ["byteskip", "byte skip", "lineskip"])
def test_a_nrrd_file_that_skips_bytes_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(100) + STACK.tobytes())
    lines = [
        "NRRD0004",
        "type: uchar",
        "dimension: 3",
        "sizes: 60 40 5",
        "encoding: raw",
        f"{key}: 100",
        "data file: a.raw",
    ]
    (tmp_path / "a.nhdr").write_text("\n".join(lines) + "\n\n")
    with pytest.raises(InputError, match=r"a.nhdr skips lines or bytes"):
        open_source(tmp_path / "a.nhdr")


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK)
    assert_reads(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"b\.npy cannot be read as NumPy \(.*Python objects"):
        open_source(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.asfortranarray(STACK))
    with pytest.raises(InputError, match="in C order"):
        open_source(tmp_path / "c.npy")


def test_hyperstacks_have_channels_and_times(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4 * 20 * 30, dtype=np.uint16).reshape(2, 3, 4, 20, 30)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(InputError, match="expected one channel, or --channel with its number"):
        open_source(tmp_path / "a.tif")
    with pytest.raises(InputError, match="expected one time, or --time with its number"):
        open_source(tmp_path / "a.tif", channel=2)
    with pytest.raises(InputError, match="there is no channel 4, only 0 to 3"):
        open_source(tmp_path / "a.tif", channel=4, time=0)
    source = open_source(tmp_path / "a.tif", channel=2, time=1)
    assert np.array_equal(source.stack[1:3], stack[1, 1:3, 2])
    tifffile.imwrite(
        tmp_path / "t.tif", STACK, imagej=True, metadata={"axes": "TYX"}
    )  # what ImageJ makes of many stacks
    assert_reads(tmp_path / "t.tif")
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("0", data=stack)
    axes = [{"name": name} for name in "tzcyx"]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
    }
    assert np.array_equal(
        open_source(tmp_path / "g.zarr", channel=1, time=0).stack[0:3], stack[0, :, 1]
    )


@pytest.mark.parametrize(
    "ending", ["mrc", "h5", "nrrd", "packed.nrrd", "model", "7.model", "npy", "tif"]
)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.6, 0.97])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, ending: str, part: float) -> None:
    path = tmp_path / f"a.{ending}"
    writers: dict[str, Any] = {
        "mrc": lambda: write_mrc(path, STACK.astype(np.int16)),
        "h5": lambda: (
            h5py.File(path, "w").create_dataset("raw", data=STACK, chunks=(1, 40, 60)).file.close()
        ),
        "nrrd": lambda: nrrd.write(str(path), STACK, {"encoding": "raw"}, index_order="C"),
        "packed.nrrd": lambda: nrrd.write(str(path), STACK, {"encoding": "gzip"}, index_order="C"),
        "model": lambda: write_model(path, STACK, ["a"], "5"),
        "7.model": lambda: write_model(path, STACK, ["a"], "7.3"),
        "npy": lambda: np.save(path, STACK),
        "tif": lambda: tifffile.imwrite(path, STACK, photometric="minisblack"),
    }
    writers[ending]()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match=rf"(?s){path.name}.*") as refused:
        import_stack(path, tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)))
    assert "\n" not in str(refused.value)
    with pytest.raises(SampleError):
        Sample.open(tmp_path / "s.zarr")


@pytest.mark.parametrize("ending", ["tif", "npy", "mrc", "nrrd"])
def test_slices_beyond_four_gigabytes_are_read(tmp_path: Path, ending: str) -> None:
    """A file with a hole: 4.8 GB of which the disk holds a few pages."""
    path, shape, last = tmp_path / f"a.{ending}", (1150, 2048, 2048), 1140
    if ending == "tif":
        tifffile.memmap(
            path, shape=shape, dtype=np.uint8, bigtiff=True, photometric="minisblack"
        ).flush()
    elif ending == "npy":
        np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
    elif ending == "mrc":
        write_mrc(path, np.zeros((1, *shape[1:]), np.int8))
        with path.open("r+b") as file:
            file.seek(8)
            file.write(struct.pack("<i", shape[0]))
    else:
        path.write_bytes(
            b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2048 2048 1150\nencoding: raw\n\n"
        )
    if ending == "tif":
        with tifffile.TiffFile(path) as tiff:
            header = tiff.pages[0].dataoffsets[0]
    else:
        header = path.stat().st_size - {"mrc": 1, "nrrd": 0, "npy": shape[0]}[ending] * 2048**2
    with path.open("r+b") as file:
        file.seek(header + last * 2048**2 + 5 * 2048 + 7)
        file.write(b"\x2a")
        file.truncate(max(path.stat().st_size, header + shape[0] * 2048**2))
    assert path.stat().st_size > 2**32
    source = open_source(path)
    assert tuple(source.stack.shape) == shape
    read = source.stack[last : last + 1]
    assert read[0, 2042 if ending == "mrc" else 5, 7] == 42
    assert np.count_nonzero(read) == 1
