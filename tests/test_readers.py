"""Every format, real faults, and one clear sentence for each; exports come back as they went."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.execution import Execution
from sparsem.ingest import ImportSettings, import_stack
from sparsem.store.readers import natural_key, numbers_in, open_source
from sparsem.store.sample import Sample
from sparsem.store.writers import write_tiff

STACK = np.random.default_rng(0).integers(0, 255, (5, 40, 60), np.uint8)


def assert_reads(source: Path | str, expected: NDArray[Any] = STACK, voxel: tuple[float | None, ...] = (None, None, None)) -> None:
    found = open_source(source)
    assert tuple(found.stack.shape) == expected.shape
    assert found.stack.dtype == expected.dtype
    assert np.array_equal(found.stack[0:5], expected)
    assert np.array_equal(found.stack[2:4], expected[2:4])
    assert found.voxel_nm == pytest.approx(voxel)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}])
def test_multi_page_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    big = {key: options.pop(key) for key in list(options) if key == "bigtiff"}
    with tifffile.TiffWriter(tmp_path / "a.tif", **big) as tiff:
        for plane in STACK:
            tiff.write(plane, contiguous=False, photometric="minisblack", **options)
    assert_reads(tmp_path / "a.tif")


def test_16_bit_and_a_resolution_tag_that_means_nothing(tmp_path: Path) -> None:
    stack = STACK.astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", resolution=(72, 72), resolutionunit="INCH")
    assert_reads(tmp_path / "a.tif", stack)


def test_ome_tiff_states_its_voxel_size(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeZ": 8, "PhysicalSizeZUnit": "nm", "PhysicalSizeY": 0.004, "PhysicalSizeX": 0.004}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    assert_reads(tmp_path / "a.ome.tif", voxel=(8, 4, 4))


def test_imagej_tiff_states_its_voxel_size(tmp_path: Path) -> None:
    metadata = {"spacing": 0.01, "unit": "micron", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=(1 / 0.005, 1 / 0.004), metadata=metadata)
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
    axes = [{"name": n, "type": "space", "unit": "micrometer"} if n in "zyx" else {"name": n} for n in "tczyx"]
    datasets = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.02, 0.005, 0.004]}]}]
    multiscales: Any = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"version": "0.5", "multiscales": multiscales}})
    assert_reads(tmp_path / "g.zarr", voxel=(20, 5, 4))


def test_odd_but_valid_files(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[:, None], photometric="minisblack")  # a channel axis of length one
    assert_reads(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "c.ome.tif", STACK[:3], photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(InputError, match=r"c.ome.tif has the axes CYX \(3, 40, 60\); expected one channel"):
        open_source(tmp_path / "c.ome.tif")
    zarr.create_array(tmp_path / "b.zarr", data=STACK.astype(">u2"))
    assert_reads(tmp_path / "b.zarr", STACK.astype(np.uint16))
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=2)
    group.create_array("0", data=STACK)
    group.attrs["multiscales"] = [{"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]
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
        chunk = next(path for path in (tmp_path / "g.zarr" / "0" / "c").rglob("*") if path.is_file())
        chunk.write_bytes(b"not zstd")
    with pytest.raises(InputError, match=r"cannot be read|damaged OME-Zarr metadata|expected one channel|has no array"):
        _ = open_source(tmp_path / "g.zarr", "../g.zarr" if fault == "way out" else None).stack[0:5]


def test_a_tiff_of_unlike_parts_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(STACK[0, :20, :20], photometric="minisblack")
        tiff.write(STACK, photometric="minisblack")
    with pytest.raises(InputError, match=r"a.tif holds several images .*\(20, 20\), \(5, 40, 60\).*; expected one stack"):
        open_source(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as tiff:
        tiff.write(STACK, photometric="minisblack")
        tiff.write(STACK[0, :10, :10], photometric="minisblack")  # a thumbnail behind the stack harms nobody
    assert_reads(tmp_path / "b.tif")


def test_an_imagej_stack_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(InputError, match=r"a.tif (says that it has 5 slices, but holds 1|cannot be read)"):
        open_source(tmp_path / "a.tif").stack[0:5]


def test_a_tiff_whose_list_of_pages_is_broken_is_not_a_shorter_one(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in STACK:
            tiff.write(plane, contiguous=False, photometric="minisblack", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        link = int(tiff.pages[2].offset)
    where = content.find(link.to_bytes(4, "little"))
    content[where : where + 4] = (2**31).to_bytes(4, "little")  # the second page points beyond the end of the file
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


def test_a_group_of_several_arrays_wants_a_name(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for key in ("raw", "other"):
        group.create_array(key, data=STACK)
    with pytest.raises(InputError, match=r"holds the arrays \['other', 'raw'\]; name one with --dataset KEY"):
        open_source(tmp_path / "g.zarr")
    with pytest.raises(InputError, match="has no array 'row'"):
        open_source(tmp_path / "g.zarr", "row")
    assert np.array_equal(open_source(tmp_path / "g.zarr", "raw").stack[:], STACK)


def broken(tmp_path: Path, fault: str) -> Path:
    """A source with one fault."""
    folder, file = tmp_path / "slices", tmp_path / "a.tif"
    folder.mkdir()
    if fault == "missing":
        return tmp_path / "nowhere"
    if fault == "unknown format":
        (tmp_path / "a.docx").write_text("x")
        return tmp_path / "a.docx"
    if fault == "empty folder":
        return folder
    if fault == "colour":
        tifffile.imwrite(file, np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    if fault == "inverted":
        tifffile.imwrite(file, np.zeros((3, 8, 8), np.uint8), photometric="miniswhite")
    if fault == "inverted slice":
        tifffile.imwrite(folder / "s1.tif", np.zeros((8, 8), np.uint8), photometric="miniswhite")
        return folder
    if fault == "colour slice":
        cv2.imwrite(str(folder / "s1.png"), np.zeros((8, 8, 3), np.uint8))
        return folder
    if fault == "not a tiff":
        file.write_text("precious data")
    if fault == "five axes":
        tifffile.imwrite(file, np.zeros((2, 3, 8, 8), np.uint8), photometric="minisblack", metadata={"axes": "TZYX"})
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
        ("colour", r"a.tif is a colour picture .*; convert it to grey first"),
        ("inverted", r"a.tif stores white as 0 .*; invert it"),
        ("inverted slice", r"s1.tif stores white as 0 .*; invert it"),
        ("colour slice", r"s1.png is a colour picture \(8, 8, 3\); convert it to grey"),
        ("not a tiff", r"a.tif cannot be read as TIFF .*; is it complete\?"),
        ("five axes", r"a.tif has the axes TZYX \(2, 3, 8, 8\); expected one channel"),
        ("unequal slices", r"All slices must be alike: s1.png is \(40, 60\) uint8, but s2.png is \(40, 50\) uint8"),
        ("stack in a folder of slices", "s1.tif holds 5 pages; in a folder of slices each file is one slice"),
        ("half a png", r"s1.png cannot be read .*; is it complete\?"),
    ],
)
def test_a_faulty_source_is_one_sentence(tmp_path: Path, fault: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        open_source(broken(tmp_path, fault))


def test_a_glob_that_matches_nothing(tmp_path: Path) -> None:
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


def test_numbers_and_natural_order() -> None:
    assert sorted(["s10", "s9", "s1b", "s1a"], key=natural_key) == ["s1a", "s1b", "s9", "s10"]
    assert numbers_in(["mask_z0137.tif", "mask_z0002.tif"]) == (137, 2)
    assert numbers_in(["t1_z03_8bit.png", "t1_z11_8bit.png"]) == (3, 11)  # neither the time nor the bits
    assert numbers_in(["x.tif", "y1.tif"]) == numbers_in(["x.tif"]) == numbers_in([]) == ()
    assert numbers_in(["only_7.tif"]) == (7,)


def test_import_asks_for_a_voxel_size_rather_than_assume_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(InputError, match=r"a.tif does not state its voxel size; give it in nm as --voxel-nm Z Y X"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=(200, 200), metadata={"unit": "micron", "axes": "ZYX"})
    with pytest.raises(InputError, match=r"completely \(only y = 5 nm, x = 5 nm\)"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr")


def test_missing_slices_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (3, 4, 7):
        tifffile.imwrite(tmp_path / f"s{number}.tif", STACK[0])
    sample = import_stack(tmp_path / "s*.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)), Execution())
    assert sample.image().shape[0] == 3
    assert "2 slice numbers are missing" in capsys.readouterr().err


def test_import_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK.astype(np.float32), photometric="minisblack")
    with pytest.raises(InputError, match="holds float32 numbers; expected 8 or 16 bit unsigned"):
        import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(5, 5, 5)))


@pytest.mark.parametrize("depth", [1, 2, 16])
def test_import_is_the_same_for_any_block_depth(tmp_path: Path, depth: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    sample = import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", ImportSettings(voxel_nm=(9, 5, 4), block_depth=depth))
    assert np.array_equal(sample.image("raw").read(slice(None)), STACK)
    assert tuple(sample.voxel_size) == (9, 5, 4)
    assert sample.image("raw").block_depth == min(depth, 5)


def test_another_stack_is_not_imported_over_a_sample(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", STACK + (name == "b"), photometric="minisblack")
    settings = ImportSettings(voxel_nm=(5, 5, 5))
    import_stack(tmp_path / "a.tif", tmp_path / "s.zarr", settings)
    with pytest.raises(ResumeError, match="input source"):
        import_stack(tmp_path / "b.tif", tmp_path / "s.zarr", settings)
    sample = import_stack(tmp_path / "b.tif", tmp_path / "s.zarr", settings, Execution(overwrite=True, quiet=True))
    assert np.array_equal(sample.image("raw").read(slice(None)), STACK + 1)


def test_an_exported_tiff_comes_back_with_its_voxel_size(tissue: Sample, tmp_path: Path) -> None:
    volume = tissue.volume("truth", "mitochondrion")
    path = write_tiff(volume, tmp_path / "m.tif")
    found = open_source(path)
    assert found.voxel_nm == pytest.approx(tuple(volume.voxel_size))
    assert np.array_equal(found.stack[:], volume.read(slice(None)))
    assert [file.name for file in tmp_path.iterdir()] == ["m.tif"]
    with pytest.raises(InputError, match="exists; use --overwrite"):
        write_tiff(volume, path)
    with pytest.raises(InputError, match=r"expected a name that ends in .tif, got 'm.jpg'"):
        write_tiff(volume, tmp_path / "m.jpg")


def test_the_real_stack_is_read_lazily(real_data: Any) -> None:
    found = open_source(real_data("epfl_fibsem_mitochondria/raw.tif"))
    assert tuple(found.stack.shape) == (80, 768, 1024)
    whole = tifffile.imread(real_data("epfl_fibsem_mitochondria/raw.tif"), key=[17, 18])
    assert np.array_equal(found.stack[17:19], whole)
