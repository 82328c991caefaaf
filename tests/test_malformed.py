"""Malformed files: the program ends with one sentence and exit code 2 in every case.

No file is half-written.
"""

import pickle
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import h5py
import mrcfile
import nrrd
import numpy as np
import pytest
import tifffile
import torch
import zarr

from sparsem.cli.app import run_command_line
from sparsem.store.sample import Sample
from tests.conftest import copy_of, files_in, put, random_model

STACK = np.random.default_rng(0).integers(0, 255, (5, 40, 60), np.uint8)
STACKS: "list[Case]" = []  # imported as s.zarr
# next to a sample own.zarr: 19 slices of 96 x 128, nuclei annotated on three
SAMPLE_CASES: "list[Case]" = []


class Case(NamedTuple):
    """The fault, the words of the command, the expected message, and the maker of the files."""

    wrong: str
    words: str
    sentence: str
    make: Callable[[], Any]


def stack(wrong: str, source: str, sentence: str) -> Callable[[Callable[[], Any]], None]:
    return lambda make: STACKS.append(
        Case(wrong, f"import {source} s.zarr --voxel-nm 8 8 8 --quiet", sentence, make)
    )


def sample_case(wrong: str, words: str, sentence: str) -> Callable[[Callable[[], Any]], None]:
    return lambda make: SAMPLE_CASES.append(Case(wrong, words, sentence, make))


def nothing() -> None:
    """The command alone is wrong."""


def tiff(name: str, array: Any, **options: Any) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    tifffile.imwrite(name, array, **({"photometric": "minisblack"} | options))


def png(name: str, array: Any) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    assert cv2.imwrite(name, array)


def cut(name: str, part: float) -> None:
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: int(len(whole) * part)])


stack("a file that is not there", "none.tif", "There is no file or folder none.tif")(nothing)
stack(
    "a pattern that matches nothing",
    "'slices/*.tif'",
    "There are no TIFF or PNG slices in the pattern",
)(nothing)


@stack("an empty file", "a.tif", "a.tif cannot be read as TIFF")
def _() -> None:
    Path("a.tif").touch()


@stack("text that is called a TIFF", "a.tif", "a.tif cannot be read as TIFF")
def _() -> None:
    Path("a.tif").write_text("precious data")


@stack("an unknown format", "a.docx", "a.docx is of a format that is not read")
def _() -> None:
    Path("a.docx").write_text("x")


@stack("an empty folder", "slices", "There are no TIFF or PNG slices in the folder")
def _() -> None:
    Path("slices").mkdir()


@stack("half a TIFF", "a.tif", "a.tif (cannot be read|is damaged)")
def _() -> None:
    tiff("a.tif", STACK)
    cut("a.tif", 0.5)


@stack("half a list of pages", "a.tif", "a.tif (cannot be read|is damaged)")
def _() -> None:
    with tifffile.TiffWriter("a.tif") as file:
        for plane in STACK:
            file.write(plane, contiguous=False, photometric="minisblack")
    cut("a.tif", 0.7)


@stack("a TIFF in color", "a.tif", "a.tif is a color image")
def _() -> None:
    tiff("a.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")


@stack(
    "a TIFF with white as 0 whose numbers have no inverse",
    "a.tif",
    "a.tif is a 'min is white' TIFF of float32, whose inverse is not",
)
def _() -> None:
    tiff("a.tif", STACK.astype(np.float32), photometric="miniswhite")


@stack("a PNG in color", "slices", "s1.png is a color image")
def _() -> None:
    png("slices/s1.png", np.zeros((8, 8, 3), np.uint8))


@stack("half a PNG", "slices", "s1.png cannot be read")
def _() -> None:
    png("slices/s1.png", STACK[0])
    cut("slices/s1.png", 0.1)


@stack(
    "a slice of another shape",
    "slices",
    r"All slices must have one shape and type: s1.png is \(40, 60\) uint8, but s2.png is \(40, 50\)",
)
def _() -> None:
    png("slices/s1.png", STACK[0])
    png("slices/s2.png", STACK[0, :, :50])


@stack(
    "a slice of another depth",
    "slices",
    "All slices must have one shape and type: s1.tif is .* uint8, but s2.tif is .* uint16",
)
def _() -> None:
    tiff("slices/s1.tif", STACK[0])
    tiff("slices/s2.tif", STACK[0].astype(np.uint16))


@stack("a missing slice", "slices", "slice 3 of the series is missing; .*--missing")
def _() -> None:
    for z in (1, 2, 4, 5):
        png(f"slices/s{z}.png", STACK[0])


@stack("a stack among slices", "slices", "s1.tif holds 5 pages")
def _() -> None:
    tiff("slices/s1.tif", STACK)


@stack("several times", "a.tif", "expected one time, or --time")
def _() -> None:
    tifffile.imwrite(
        "a.tif",
        np.zeros((2, 3, 8, 8), np.uint8),
        photometric="minisblack",
        metadata={"axes": "TZYX"},
    )


@stack("a channel that is not there", "a.tif --channel 7", "there is no channel 7, only 0 to 3")
def _() -> None:
    tifffile.imwrite(
        "a.tif", np.zeros((3, 4, 8, 8), np.uint8), imagej=True, metadata={"axes": "ZCYX"}
    )


def _floats(value: float) -> None:
    floats = STACK.astype(np.float32)
    floats[2, 3, 4] = value
    tiff("a.tif", floats)


@stack("missing numbers", "a.tif", "Slice 2 of a.tif holds values that are not numbers")
def _() -> None:
    _floats(np.nan)


@stack("infinite numbers", "a.tif", "Slice 2 of a.tif holds values that are not numbers")
def _() -> None:
    _floats(np.inf)


@stack(
    "numbers that are all the same",
    "a.tif",
    "a.tif holds the same number, 7.5, .*--intensity-range",
)
def _() -> None:
    tiff("a.tif", np.full((3, 40, 60), 7.5, np.float32))


@stack("complex numbers", "a.npy", "complex")
def _() -> None:
    np.save("a.npy", STACK.astype(np.complex64))


@stack("pickled objects", "a.npy", "a.npy")
def _() -> None:
    np.save("a.npy", np.array([print, {}], dtype=object), allow_pickle=True)


@stack("half a NumPy file", "a.npy", "a.npy")
def _() -> None:
    np.save("a.npy", STACK)
    cut("a.npy", 0.5)


@stack("four axes", "a.npy", r"a.npy holds uint8 \(2, 5, 40, 60\)")
def _() -> None:
    np.save("a.npy", np.stack([STACK, STACK]))


@stack("one axis", "a.npy", r"a.npy holds uint8 \(60,\)")
def _() -> None:
    np.save("a.npy", STACK[0, 0])


def _hdf5(**datasets: Any) -> None:
    with h5py.File("a.h5", "w") as file:
        for name, array in datasets.items():
            file[name] = array


@stack("half an HDF5 file", "a.h5", "a.h5 cannot be read")
def _() -> None:
    _hdf5(raw=STACK)
    cut("a.h5", 0.5)


@stack("two datasets", "a.h5", "a.h5 holds the datasets other, raw; name one with --dataset")
def _() -> None:
    _hdf5(raw=STACK, other=STACK)


@stack("a dataset that is not there", "a.h5 --dataset volumes/raw", "'volumes/raw'")
def _() -> None:
    _hdf5(raw=STACK)


@stack("a dataset of words", "a.h5", "expected real numbers")
def _() -> None:
    _hdf5(raw=np.array([[[b"a", b"b"]]]))


@stack("an HDF5 file without arrays", "a.h5", "a.h5 holds no stack")
def _() -> None:
    _hdf5()


def _mrc(array: Any) -> None:
    with mrcfile.new("a.mrc", overwrite=True) as file:
        file.set_data(array)


@stack("half an MRC file", "a.mrc", "a.mrc")
def _() -> None:
    _mrc(STACK.astype(np.int16))
    cut("a.mrc", 0.5)


@stack("an MRC file of complex numbers", "a.mrc", "a.mrc")
def _() -> None:
    _mrc(STACK.astype(np.complex64))


@stack("a header of noise", "a.mrc", "a.mrc cannot be read")
def _() -> None:
    Path("a.mrc").write_bytes(np.random.default_rng(1).bytes(5000))


@stack(
    "a virtual dataset without a source",
    "a.h5",
    r"'data' in a.h5 lacks 1 of 5 sources \(slice 2: part2.h5, which is not there\)",
)
def _() -> None:
    with h5py.File("a.h5", "w") as file:
        layout = h5py.VirtualLayout(STACK.shape, "u1")
        for z, plane in enumerate(STACK):
            layout[z] = h5py.VirtualSource(f"part{z}.h5", "d", plane.shape)
            with h5py.File(f"part{z}.h5", "w") as part:
                part["d"] = plane
        file.create_virtual_dataset("data", layout)
    Path("part2.h5").unlink()


@stack(
    "a chunk of a Zarr that is not there",
    "a.zarr",
    r"a.zarr lacks 1 of 5 chunks \(slice 3: c/3/0/0\)",
)
def _() -> None:
    zarr.create_array("a.zarr", shape=STACK.shape, dtype="u1", chunks=(1, 40, 60))[:] = STACK
    Path("a.zarr/c/3/0/0").unlink()


@stack(
    "bytes of which nobody knows whether they are signed",
    "a.mrc",
    "a.mrc does not state whether its bytes are signed",
)
def _() -> None:
    _mrc(STACK.view(np.int8))
    with Path("a.mrc").open("r+b") as file:
        file.seek(76)
        file.write(bytes(12))


@stack("half a NRRD file", "a.nrrd", "a.nrrd")
def _() -> None:
    nrrd.write("a.nrrd", STACK, {"encoding": "raw"}, index_order="C")
    cut("a.nrrd", 0.6)


@stack(
    "a NRRD header without its data",
    "a.nhdr",
    "a.nhdr keeps its numbers in a.raw, which is not there",
)
def _() -> None:
    nrrd.write("a.nhdr", STACK, {"encoding": "raw"}, index_order="C")
    Path("a.raw").unlink()


@stack("a NRRD file that packs its numbers otherwise", "a.nrrd", "a.nrrd")
def _() -> None:
    nrrd.write("a.nrrd", STACK, {"encoding": "raw"}, index_order="C")
    Path("a.nrrd").write_bytes(
        Path("a.nrrd").read_bytes().replace(b"encoding: raw", b"encoding: zip")
    )


@stack("a model that is no MATLAB file", "a.model", "a.model")
def _() -> None:
    Path("a.model").write_bytes(pickle.dumps({"a": 1}) * 50)


def _zarr(**arrays: Any) -> Any:
    group = zarr.create_group("a.zarr")
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(1, *array.shape[1:]))
    return group


@stack("a damaged chunk", "a.zarr", "a.zarr")
def _() -> None:
    _zarr(raw=STACK)
    next(path for path in Path("a.zarr/raw/c").rglob("*") if path.is_file()).write_bytes(
        b"not zstd"
    )


@stack("damaged metadata", "a.zarr", "a.zarr cannot be read as Zarr")
def _() -> None:
    _zarr(raw=STACK)
    Path("a.zarr/raw/zarr.json").write_text("{")


@stack("two arrays", "a.zarr", "a.zarr.*--dataset")
def _() -> None:
    _zarr(raw=STACK, other=STACK)


@stack("no slices", "a.zarr", "a.zarr")
def _() -> None:
    zarr.create_array("a.zarr", shape=(0, 40, 60), chunks=(1, 40, 60), dtype=np.uint8)


@stack("a Zarr group without arrays", "a.zarr", "a.zarr holds no array")
def _() -> None:
    _zarr()


@stack("OME metadata of nonsense", "a.zarr", "a.zarr")
def _() -> None:
    _zarr(raw=STACK).attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"datasets": [{}], "axes": 3}],
    }


def masks(mask: Any, numbers: tuple[int, ...] = (0, 9, 18)) -> None:
    for z in numbers:
        tiff(f"masks/m_{z}.tif", mask)


MASK = np.zeros((96, 128), np.uint8)
MASK[20:40, 30:50] = 1
ANNOTATE = "annotate import own.zarr nucleolus masks --overwrite --quiet"


@sample_case(
    "masks of another shape", ANNOTATE, r"\(96, 120\).*\(96, 128\)|\(96, 128\).*\(96, 120\)"
)
def _() -> None:
    masks(MASK[:, :120])


@sample_case("a mask of a slice that is not there", ANNOTATE, "19")
def _() -> None:
    masks(MASK, (0, 19))


@sample_case("masks without numbers", ANNOTATE, "Which slices of masks are annotated")
def _() -> None:
    tiff("masks/first.tif", MASK)
    tiff("masks/second.tif", MASK)


@sample_case("two masks of one slice", ANNOTATE, "a_9.tif and b_9.tif carry the same number, 9")
def _() -> None:
    tiff("masks/a_9.tif", MASK)
    tiff("masks/b_9.tif", MASK)


@sample_case(
    "a gray picture as a mask",
    ANNOTATE,
    "Slice 0 of masks changes from pixel to pixel, as a gray image does",
)
def _() -> None:
    masks(np.random.default_rng(1).integers(0, 255, (96, 128), np.uint8))


@sample_case(
    "a mask that was a JPEG",
    ANNOTATE,
    "Slice 0 of masks is a mask of 0 and 255, but .* pixels have values in between, as JPEG",
)
def _() -> None:
    _, jpeg = cv2.imencode(
        ".jpg", np.where(cv2.GaussianBlur(MASK * 255, (0, 0), 5) > 60, 255, 0).astype(np.uint8)
    )
    masks(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))


@sample_case(
    "masks that are JPEG",
    ANNOTATE,
    "There are no TIFF or PNG slices in the folder masks; save images of other formats, such as "
    "JPEG",
)
def _() -> None:
    png("masks/m_9.jpg", MASK)


@sample_case("masks of fractions", ANNOTATE, "whole numbers|fraction")
def _() -> None:
    masks(MASK.astype(np.float32) / 2)


@sample_case("masks below zero", ANNOTATE, "negative|below 0|-1")
def _() -> None:
    masks(-MASK.astype(np.int16))


@sample_case(
    "masks in color", ANNOTATE, "color image .* whose channels are equal; save it as a gray image"
)
def _() -> None:
    for z in (0, 9):
        png(f"masks/m_{z}.png", np.repeat(MASK[..., None], 3, axis=2))


@sample_case("classes that cannot be read", f"{ANNOTATE} --classes nucleolus:1", "classes")
def _() -> None:
    masks(MASK)


@sample_case(
    "slices that cannot be read",
    "annotate import own.zarr nucleolus all.tif --slices 1-to-5 --overwrite",
    "1-to-5",
)
def _() -> None:
    tiff("all.tif", np.stack([MASK] * 19))


@sample_case(
    "labels of another number of slices",
    "annotate import own.zarr nucleolus all.tif --slices all --overwrite",
    "18",
)
def _() -> None:
    tiff("all.tif", np.stack([MASK] * 18))


sample_case(
    "an image that is not there", "predict own.zarr m.safetensors --image aligned", "aligned"
)(lambda: random_model(Path("m.safetensors")))
sample_case("no sample", "align none.zarr", "There is no sample at none.zarr")(nothing)


@sample_case("a Zarr that is no sample", "align plain.zarr", "plain.zarr is not a sparsem sample")
def _() -> None:
    zarr.create_array("plain.zarr", data=STACK)


@sample_case("a sample whose metadata are damaged", "equalize own.zarr", "own.zarr")
def _() -> None:
    Path("own.zarr/zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {'
    )


@sample_case("a sample whose history is damaged", "align own.zarr", "history")
def _() -> None:
    (file,) = Path("own.zarr").rglob("history.json")
    file.write_text("[{")


def _damage(folder: str) -> None:
    for chunk in sorted(path for path in Path(folder, "0", "c").rglob("*") if path.is_file()):
        chunk.write_bytes(b"not zstd")


def _lose(folder: str) -> None:
    (sorted(path for path in Path(folder, "0", "c").rglob("*") if path.is_file())[-1]).unlink()


sample_case(
    "an image that lost a chunk",
    "align own.zarr --quiet",
    "has lost a chunk of its slices 14 to 18",
)(lambda: _lose("own.zarr"))


@sample_case(
    "an annotation that lost a chunk",
    "train own.zarr --structure nucleus --out m.safetensors --quiet",
    "has lost a chunk of its",
)
def _() -> None:
    next(
        path for path in Path("own.zarr/annotations/nucleus/labels/c").rglob("*") if path.is_file()
    ).unlink()


@sample_case(
    "labels that lost a chunk", "measure own.zarr --quiet", "has lost a chunk of its slices"
)
def _() -> None:
    shutil.copytree("own.zarr/truth", "own.zarr/labels")
    _lose("own.zarr/labels/nucleus")


@sample_case(
    "a truth that lost a chunk", "score own.zarr nucleus --quiet", "has lost a chunk of its slices"
)
def _() -> None:
    shutil.copytree("own.zarr/truth", "own.zarr/labels")
    _lose("own.zarr/truth/nucleus")


@sample_case(
    "a truth that lost a chunk, shown",
    "report own.zarr --structure nucleus -o r.html --quiet",
    "has lost a chunk of its slices",
)
def _() -> None:
    _lose("own.zarr/truth/nucleus")


sample_case(
    "an image that lost a chunk, equalized",
    "equalize own.zarr --quiet",
    "has lost a chunk of its slices",
)(lambda: _lose("own.zarr"))
sample_case("an image whose chunks are damaged", "align own.zarr --quiet", "own.zarr")(
    lambda: _damage("own.zarr")
)
sample_case(
    "an image whose chunks are damaged, equalized", "equalize own.zarr --quiet", "own.zarr"
)(lambda: _damage("own.zarr"))


@sample_case(
    "an image whose chunks are damaged, predicted",
    "predict own.zarr m.safetensors --quiet",
    "own.zarr",
)
def _() -> None:
    random_model(Path("m.safetensors"))
    _damage("own.zarr")


@sample_case("labels whose chunks are damaged", "score own.zarr nucleus --quiet", "nucleus")
def _() -> None:
    shutil.copytree("own.zarr/truth", "own.zarr/labels")
    _damage("own.zarr/labels/nucleus")


@sample_case(
    "an annotation whose numbers are damaged",
    "train own.zarr --structure nucleus --out m.safetensors --quiet",
    "nucleus",
)
def _() -> None:
    Path("own.zarr/annotations/nucleus/zarr.json").write_text("[]")


sample_case("no model", "predict own.zarr none.safetensors", "none.safetensors")(nothing)


@sample_case("half a model", "predict own.zarr m.safetensors", "m.safetensors")
def _() -> None:
    random_model(Path("m.safetensors"))
    cut("m.safetensors", 0.5)


@sample_case("a model that is a pickle", "predict own.zarr m.pt", "m.pt")
def _() -> None:
    torch.save({"weights": torch.zeros(3)}, "m.pt")


@sample_case("a model of another program", "predict own.zarr m.safetensors", "m.safetensors")
def _() -> None:
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, "m.safetensors")


sample_case(
    "nothing annotated", "train own.zarr --structure synapse --out m.safetensors", "synapse"
)(nothing)
sample_case(
    "more folds than labeled slices",
    "train own.zarr --structure nucleus --folds 9 --out m.safetensors",
    "9",
)(nothing)
sample_case(
    "labeled slices that are not",
    "train own.zarr --structure nucleus --slices 5 --out m.safetensors",
    "5",
)(nothing)
sample_case(
    "a tile that does not shrink evenly",
    "train own.zarr --structure nucleus --input-px 33 --out m.safetensors",
    "edge is a multiple of 16 and at least 32; got 33",
)(nothing)
sample_case(
    "a stack that is no stack",
    "align noise.zarr --quiet",
    "No two neighboring slices .* are similar",
)(lambda: imported("noise"))
sample_case(
    "slices too small to align",
    "align small.zarr --quiet",
    r"too small to be aligned; expected at least 32",
)(lambda: imported("small"))
sample_case("an image aligned into itself", "align own.zarr --image raw --out raw", "raw")(nothing)
sample_case("a name that is a path", "align own.zarr --out ../elsewhere", "elsewhere")(nothing)
sample_case(
    "a reference that is not there", "equalize own.zarr --method reference --reference 99", "99"
)(nothing)
sample_case(
    "a gray picture as truth",
    "score own.zarr nucleus gray.tif --quiet",
    "Slice 0 of gray.tif changes from pixel to pixel",
)(
    lambda: [
        shutil.copytree("own.zarr/truth", "own.zarr/labels"),
        tifffile.imwrite(
            "gray.tif",
            np.random.default_rng(1).integers(0, 255, (19, 96, 128), np.uint8),
            photometric="minisblack",
        ),
    ]
)
sample_case("truth of another shape", "score own.zarr nucleus truth.tif", "truth.tif")(
    lambda: [
        shutil.copytree("own.zarr/truth", "own.zarr/labels"),
        tifffile.imwrite("truth.tif", STACK, photometric="minisblack"),
    ]
)
sample_case("an export that is not there", "export own.zarr synapse x.tif", "synapse")(nothing)
sample_case("an export of an unknown format", "export own.zarr image x.docx", "x.docx")(nothing)
sample_case(
    "an export into a folder that is not there", "export own.zarr image none/x.tif", "none"
)(nothing)


def imported(what: str) -> None:
    array = {
        "noise": np.random.default_rng(3).integers(0, 255, (4, 128, 128), np.uint8),
        "small": STACK[:, :20, :20],
    }[what]
    sample = Sample.create(Path(f"{what}.zarr"))
    put(sample, "", array)


@sample_case("a study that is no TOML", "run study.toml", "study.toml is not valid TOML")
def _() -> None:
    Path("study.toml").write_text("sample = ")


@sample_case(
    "a study with a word that is not known",
    "run study.toml",
    "unknown key 'trian'; did you mean 'train'",
)
def _() -> None:
    Path("study.toml").write_text(
        'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n[annotate.a]\nsource = "m"\n[trian]\nupdates = 3\n'
    )


@sample_case("a study with a number that cannot be", "run study.toml", "study.toml.*updates")
def _() -> None:
    text = 'sample = "s.zarr"\n[import]\nsource = "a.tif"\n[annotate.a]\nsource = "m"\n[train]\nstructures = ["a"]\nupdates = -3\n'
    Path("study.toml").write_text(text)


def refused(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the program and check what it prints."""
    monkeypatch.setattr(sys, "argv", ["sparsem", *shlex.split(case.words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command_line()
    printed = capsys.readouterr()
    assert end.value.code == 2, printed
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("Error: "), printed.err
    assert re.search(case.sentence, last), last
    assert "Traceback" not in printed.err + printed.out


def visible(folder: Path) -> dict[str, bytes]:
    """Everything but unfinished work and records of stages."""
    return {name: content for name, content in files_in(folder).items() if "/.sparsem/" not in name}


def names(cases: list[Case]) -> list[str]:
    return [case.wrong for case in cases]


@pytest.mark.parametrize("case", STACKS, ids=names(STACKS))
def test_a_malformed_stack(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    case.make()
    refused(case, capsys, monkeypatch)
    assert not Path("s.zarr/zarr.json").exists()


@pytest.mark.parametrize("case", SAMPLE_CASES, ids=names(SAMPLE_CASES))
def test_malformed_labels_samples_models_and_settings(
    case: Case,
    tissue: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_of(tissue, tmp_path / "own.zarr")
    case.make()
    before = visible(tmp_path)
    refused(case, capsys, monkeypatch)
    assert visible(tmp_path) == before


def test_there_are_sixty_cases_and_more() -> None:
    assert len({*names(STACKS), *names(SAMPLE_CASES)}) == len(STACKS) + len(SAMPLE_CASES) >= 60
