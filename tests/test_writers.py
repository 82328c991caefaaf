"""What other programs open comes back as it went: every format, several structures in one file, and onto the raw image."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import scipy.io
import tifffile

from sparsem.annotation.importing import AnnotationSettings, import_annotation
from sparsem.annotation.labeled_slices import read_annotation
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, SampleError
from sparsem.io import writers
from sparsem.io.readers.open import open_source
from sparsem.io.writers import ExportVolume, LabelStack, atomic_output, write_volume
from sparsem.preprocess.align import AlignSettings, align
from sparsem.report.export import ExportSettings
from sparsem.report.export import export as export_stage
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, put

REPLACE = Execution(overwrite=True, quiet=True)


def export(*arguments: Any, **options: Any) -> Path:
    return export_stage(*arguments, **options).file


@pytest.fixture
def found(own_tissue: Sample) -> Sample:
    """With masks of nuclei and nucleoli, and cells by number."""
    for name in ("nucleus", "nucleolus"):
        put(
            own_tissue,
            f"labels/{name}",
            (own_tissue.volume("truth", name).read(slice(None)) > 0).astype(np.uint8),
            7,
        )
    put(
        own_tissue,
        "labels/cells",
        own_tissue.volume("truth", "cells").read(slice(None)) * 70_000,
        7,
    )
    return own_tissue


@pytest.mark.parametrize("ending", ["tif", "nrrd", "seg.nrrd", "h5", "model"])
@pytest.mark.parametrize("piece", ["nucleus", "cells", "raw"])
def test_what_was_written_comes_back(
    found: Sample, tmp_path: Path, ending: str, piece: str
) -> None:
    path = export(found, [piece], tmp_path / "new" / f"a.{ending}")
    volume = found.image("raw") if piece == "raw" else found.volume("labels", piece)
    read = open_source(path)
    assert np.array_equal(read.stack[0:19], volume.read(slice(None)))
    assert read.stack.dtype == volume.dtype
    if ending != "model":  # it states the size of the whole, and readers of labels need none
        assert read.voxel_nm == pytest.approx(tuple(volume.voxel_size))
    assert list((tmp_path / "new").iterdir()) == [path]
    with pytest.raises(InputError, match="exists; use --overwrite"):
        export(found, [piece], path)
    before = path.read_bytes()
    export(found, [piece], path, on=REPLACE)
    assert len(path.read_bytes()) == len(before)


@pytest.mark.parametrize("ending", ["seg.nrrd", "model"])
def test_several_structures_with_their_names_and_back_as_annotations(
    found: Sample, tmp_path: Path, ending: str
) -> None:
    path = export(found, ["nucleus", "nucleolus"], tmp_path / f"a.{ending}")
    assert open_source(path).names == {"nucleus": (1,), "nucleolus": (2,)}
    sample = copy_of(found, tmp_path / "s.zarr")
    for name in ("nucleus", "nucleolus"):
        import_annotation(
            sample,
            name,
            path,
            AnnotationSettings(slices="2,9"),
            on=Execution(overwrite=True, quiet=True),
        )
    nucleolus = read_annotation(sample, "nucleolus")
    true = found.volume("truth", "nucleolus").read(slice(9, 10))[0] > 0
    assert np.array_equal(nucleolus.mask(1) == 1, true)
    assert not (read_annotation(sample, "nucleus").mask(1) == 1)[
        true
    ].any()  # where they overlap, the later one counts


def test_a_set_of_structures_takes_its_names_from_the_file(found: Sample, tmp_path: Path) -> None:
    put(found, "labels/ER", np.ones((19, 96, 128), np.uint8), 7)
    put(found, "labels/golgi", np.ones((19, 96, 128), np.uint8), 7)
    path = export(found, ["ER", "golgi"], tmp_path / "a.model")
    import_annotation(found, "organelles", path, AnnotationSettings(slices="4"))
    assert read_annotation(found, "golgi").z == (4,)
    assert (read_annotation(found, "golgi").mask(0) == 1).all()
    single = export(found, ["ER"], tmp_path / "b.model")
    import_annotation(found, "reticulum", single, AnnotationSettings(slices="4"))
    assert (read_annotation(found, "reticulum").mask(0) == 1).all()


def test_a_model_is_what_microscopy_image_browser_expects(found: Sample, tmp_path: Path) -> None:
    path = export(found, ["nucleus", "nucleolus"], tmp_path / "a.model")
    with path.open("rb") as file:
        content = scipy.io.loadmat(file)
    assert content["mibModel"].shape == (96, 128, 19)
    assert content["mibModel"].dtype == np.uint8
    assert str(content["modelVariable"][0]) == "mibModel"
    assert float(content["modelType"].item()) == 63
    assert [str(one[0][0]) for one in content["modelMaterialNames"]] == ["nucleus", "nucleolus"]
    assert content["BoundingBox"][0] == pytest.approx([0, 127 * 0.01, 0, 95 * 0.01, 0, 18 * 0.01])


def test_a_segmentation_is_what_3d_slicer_expects(found: Sample, tmp_path: Path) -> None:
    data, header = nrrd.read(str(export(found, ["nucleus", "nucleolus"], tmp_path / "a.seg.nrrd")))
    assert data.shape == (128, 96, 19)
    assert header["space directions"] == pytest.approx(
        np.eye(3) * 1e-5
    )  # mm, in which Slicer takes them whatever the units say
    assert (header["Segment1_Name"], header["Segment1_LabelValue"], header["Segment1_Layer"]) == (
        "nucleolus",
        "2",
        "0",
    )


def test_numbers_of_objects_come_back_from_a_model_as_numbers(
    found: Sample, tmp_path: Path
) -> None:
    cells = found.volume("truth", "cells").read(slice(None)).astype(np.uint32)
    put(found, "labels/some", cells, 7)
    put(found, "labels/many", cells * 300, 7)
    for name in ("some", "many"):
        read = open_source(export(found, [name], tmp_path / f"{name}.model"))
        assert read.names == {}
        assert np.array_equal(read.stack[0:19], found.volume("labels", name).read(slice(None)))


def test_two_pieces_of_one_name_are_both_written(found: Sample, tmp_path: Path) -> None:
    read = open_source(
        export(
            found, ["labels/nucleus", "truth/nucleus", "truth/nucleolus"], tmp_path / "a.seg.nrrd"
        )
    )
    assert list(read.names) == ["labels/nucleus", "truth/nucleus", "truth/nucleolus"]
    assert set(np.unique(read.stack[0:19])) == {0, 2, 3}  # where they overlap the later one counts
    with pytest.raises(InputError, match="'raw' is not a mask"):
        export(found, ["nucleus", "raw"], tmp_path / "b.nrrd")
    with pytest.raises(InputError, match=r"--onto moves voxels, but a \.glb file has none"):
        export(found, ["nucleus"], tmp_path / "b.glb", ExportSettings(onto="raw"))


def test_programs_that_read_no_ome_find_the_pixel_size_of_a_tiff(
    found: Sample, tmp_path: Path
) -> None:
    with tifffile.TiffFile(export(found, ["nucleus"], tmp_path / "a.tif")) as tiff:
        page = tiff.pages.first
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[
            1
        ] == pytest.approx(1e7 / 10)
        assert page.tags["ResolutionUnit"].value == 3  # centimetres


def test_results_go_back_onto_the_raw_image(
    found: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motions = align(found, AlignSettings(canvas="whole")).motions
    shape = found.image("aligned").shape
    made = np.zeros(shape, np.uint8)
    made[:, 20:50, 30:70] = 1
    put(found, "labels/nucleus", made, 7, made_on=("aligned", found.image("aligned").fingerprint))
    path = export(found, ["nucleus"], tmp_path / "a.tif", ExportSettings(onto="raw"))
    assert "shows places" not in capsys.readouterr().err
    back = open_source(path).stack[0:19]
    assert back.shape == (19, 96, 128)
    for z in (0, 9, 18):
        rows, columns = np.nonzero(back[z])
        assert (rows.min() - 20, columns.min() - 30) == pytest.approx(
            tuple(motions[z, :, 2]), abs=0.6
        )
    assert np.array_equal(
        open_source(export(found, ["nucleus"], tmp_path / "b.tif")).stack[0:19], made
    )
    raw = np.ones((19, 96, 128), np.uint8)
    put(found, "labels/everywhere", raw, 7)
    export(
        found, ["everywhere"], tmp_path / "c.tif", ExportSettings(onto="aligned"), on=Execution()
    )
    assert "'aligned' shows places outside the image of everywhere" in capsys.readouterr().err


def test_chosen_slices_are_written_in_their_order(found: Sample, tmp_path: Path) -> None:
    raw = found.image("raw").read(slice(None))
    path = export(found, ["raw"], tmp_path / "a.tif", ExportSettings(slices=(9, 0, 3)))
    assert np.array_equal(open_source(path).stack[0:3], raw[[9, 0, 3]])
    together = export(
        found, ["nucleus", "nucleolus"], tmp_path / "b.seg.nrrd", ExportSettings(slices=(9,))
    )
    assert open_source(together).stack.shape == (1, *raw.shape[1:])
    with pytest.raises(InputError, match="There is no slice 19: the last slice of raw is 18"):
        export(found, ["raw"], tmp_path / "c.tif", ExportSettings(slices=(0, 19)))
    with pytest.raises(InputError, match=r"--slices selects voxels, but a \.glb file has none"):
        export(found, ["nucleus"], tmp_path / "c.glb", ExportSettings(slices=(0,)))


def test_an_annotation_comes_back_as_it_was_drawn(
    found: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = found.volume("truth", "cells").read(slice(None)).astype(np.uint32)
    numbers[:, :10] = 77
    write_annotation(found, "neurons", [2, 9, 12], [numbers[z] for z in (2, 9, 12)], ignore=77)
    path = export(found, ["annotations/neurons"], tmp_path / "a.tif", on=Execution())
    note = " ".join(capsys.readouterr().err.split())
    assert (
        "the file contains slices 2,9,12; import it with 'annotate import --slices 2,9,12 --ignore 77'"
        in note
    )
    import_annotation(found, "again", path, AnnotationSettings(slices="2,9,12", ignore=77))
    first, second = read_annotation(found, "neurons"), read_annotation(found, "again")
    assert first.z == second.z
    assert np.array_equal(first.labels[0:3], second.labels[0:3])
    some = export(
        found, ["annotations/neurons"], tmp_path / "b.tif", ExportSettings(slices=(12, 2))
    )
    assert np.array_equal(open_source(some).stack[0:2], numbers[[12, 2]])
    refused: list[tuple[list[str], dict[str, Any], str]] = [
        (
            ["annotations/neurons"],
            {"slices": (3,)},
            "Slice 3 of annotations/neurons is not annotated; annotated slices are 2, 9, 12",
        ),
        (["annotations/neurons"], {"onto": "raw"}, "leave --onto out"),
        (
            ["annotations/neurons", "nucleus"],
            {},
            "An annotation is written into a file of its own; got 2 names",
        ),
    ]
    for names, settings, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            export(found, names, tmp_path / "c.nrrd", ExportSettings(**settings))
    with pytest.raises(SampleError, match="no annotations/neuron; did you mean 'neurons'"):
        export(found, ["annotations/neuron"], tmp_path / "c.tif")


def test_several_structures_of_one_annotation_are_written_with_their_numbers(
    found: Sample, tmp_path: Path
) -> None:
    numbers = np.zeros((96, 128), np.uint16)
    numbers[10:20, 10:20], numbers[30:40, 30:40] = 1, 2
    tifffile.imwrite(tmp_path / "both.tif", np.stack([numbers, numbers]), photometric="minisblack")
    classes = {"granule": (1,), "droplet": (2,)}
    import_annotation(
        found, "both", tmp_path / "both.tif", AnnotationSettings(slices="2,9", classes=classes)
    )
    path = export(found, ["annotations/both"], tmp_path / "a.tif")
    assert np.array_equal(open_source(path).stack[0:2], np.stack([numbers, numbers]))


def test_voxels_that_alignment_moved_are_reported(
    found: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align(found, AlignSettings())
    shape = found.image("aligned").shape
    put(
        found,
        "labels/nucleus",
        np.zeros(shape, np.uint8),
        7,
        made_on=("aligned", found.image("aligned").fingerprint),
    )
    export(found, ["nucleus"], tmp_path / "a.tif", on=Execution())
    note = " ".join(capsys.readouterr().err.split())
    assert f"lies on the pixels of 'aligned' ({shape[1]} x {shape[2]})" in note
    assert "not on those of the raw stack (96 x 128); --onto raw moves it there" in note
    export(found, ["raw"], tmp_path / "b.tif", on=Execution())
    assert "lies on the pixels" not in capsys.readouterr().err


def test_what_cannot_be_written(
    found: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError,
        match=r"expected a name that ends in one of \.tif, \.tiff, \.nrrd, \.h5, \.model, \.csv",
    ):
        export(found, ["nucleus"], tmp_path / "a.docx")
    with pytest.raises(InputError, match=r"A \.tif file holds one part of a sample; got 2"):
        export(found, ["nucleus", "cells"], tmp_path / "a.tif")
    with pytest.raises(InputError, match="Voxels are written as"):
        write_volume(ExportVolume.from_volume(found.image("raw")), tmp_path / "a.xyz")
    monkeypatch.setattr(writers, "MATLAB_5_BYTES", 1000)
    with pytest.raises(
        InputError, match=r"a\.model would hold 0\.0 GB, more than the 2 GB of its format"
    ):
        export(found, ["nucleus"], tmp_path / "a.model")
    assert list(tmp_path.glob("*.model*")) == []
    put(found, "labels/small", np.ones((3, 10, 10), np.uint8))
    with pytest.raises(InputError, match="have different shapes"):
        export(found, ["nucleus", "small"], tmp_path / "a.nrrd")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half_done() -> None:
        with atomic_output(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    assert list(tmp_path.iterdir()) == []
    masks = LabelStack((np.ones((2, 3, 4)), np.eye(4)[None, :3].repeat(2, axis=0)))
    assert masks[0:1].tolist() == [[[2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1]]]
    assert masks[2:2].shape == (0, 3, 4)
