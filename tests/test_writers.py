"""Exported files are read back unchanged: all formats, several structures, on the raw image."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import scipy.io
import tifffile

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, SampleError
from sparsem.io import writers
from sparsem.io.readers.open import open_source
from sparsem.io.writers import ExportVolume, LabelStack, atomic_output, write_volume
from sparsem.preprocess.align import align
from sparsem.preprocess.settings import AlignSettings
from sparsem.report.export import export as export_stage
from sparsem.report.settings import ExportSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, put

REPLACE = Execution(overwrite=True, quiet=True)


def export(*arguments: Any, **options: Any) -> Path:
    return export_stage(*arguments, **options).file


@pytest.fixture
def labeled_sample(own_tissue: Sample) -> Sample:
    """Return a sample with masks of nuclei and nucleoli, and numbered cells."""
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
def test_written_volumes_are_read_back(
    labeled_sample: Sample, tmp_path: Path, ending: str, piece: str
) -> None:
    path = export(labeled_sample, [piece], tmp_path / "new" / f"a.{ending}")
    volume = (
        labeled_sample.image("raw") if piece == "raw" else labeled_sample.volume("labels", piece)
    )
    read = open_source(path)
    assert np.array_equal(read.stack[0:19], volume.read(slice(None)))
    assert read.stack.dtype == volume.dtype
    if ending != "model":  # it states the size of the whole, and readers of labels need none
        assert read.voxel_nm == pytest.approx(tuple(volume.voxel_size))
    assert list((tmp_path / "new").iterdir()) == [path]
    with pytest.raises(InputError, match="exists; use --overwrite"):
        export(labeled_sample, [piece], path)
    before = path.read_bytes()
    export(labeled_sample, [piece], path, on=REPLACE)
    assert len(path.read_bytes()) == len(before)


@pytest.mark.parametrize("ending", ["seg.nrrd", "model"])
def test_several_structures_are_read_back_as_annotations(
    labeled_sample: Sample, tmp_path: Path, ending: str
) -> None:
    path = export(labeled_sample, ["nucleus", "nucleolus"], tmp_path / f"a.{ending}")
    assert open_source(path).names == {"nucleus": (1,), "nucleolus": (2,)}
    sample = copy_of(labeled_sample, tmp_path / "s.zarr")
    for name in ("nucleus", "nucleolus"):
        import_annotation(
            sample,
            name,
            path,
            AnnotationSettings(slices="2,9"),
            on=Execution(overwrite=True, quiet=True),
        )
    nucleolus = read_annotation(sample, "nucleolus")
    true = labeled_sample.volume("truth", "nucleolus").read(slice(9, 10))[0] > 0
    assert np.array_equal(nucleolus.mask(1) == 1, true)
    assert not (read_annotation(sample, "nucleus").mask(1) == 1)[
        true
    ].any()  # where they overlap, the later one counts


def test_a_set_of_structures_takes_its_names_from_the_file(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    put(labeled_sample, "labels/ER", np.ones((19, 96, 128), np.uint8), 7)
    put(labeled_sample, "labels/golgi", np.ones((19, 96, 128), np.uint8), 7)
    path = export(labeled_sample, ["ER", "golgi"], tmp_path / "a.model")
    import_annotation(labeled_sample, "organelles", path, AnnotationSettings(slices="4"))
    assert read_annotation(labeled_sample, "golgi").z == (4,)
    assert (read_annotation(labeled_sample, "golgi").mask(0) == 1).all()
    single = export(labeled_sample, ["ER"], tmp_path / "b.model")
    import_annotation(labeled_sample, "reticulum", single, AnnotationSettings(slices="4"))
    assert (read_annotation(labeled_sample, "reticulum").mask(0) == 1).all()


def test_a_model_is_what_microscopy_image_browser_expects(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    path = export(labeled_sample, ["nucleus", "nucleolus"], tmp_path / "a.model")
    with path.open("rb") as file:
        content = scipy.io.loadmat(file)
    assert content["mibModel"].shape == (96, 128, 19)
    assert content["mibModel"].dtype == np.uint8
    assert str(content["modelVariable"][0]) == "mibModel"
    assert float(content["modelType"].item()) == 63
    assert [str(material[0][0]) for material in content["modelMaterialNames"]] == [
        "nucleus",
        "nucleolus",
    ]
    assert content["BoundingBox"][0] == pytest.approx([0, 127 * 0.01, 0, 95 * 0.01, 0, 18 * 0.01])


def test_a_segmentation_is_what_3d_slicer_expects(labeled_sample: Sample, tmp_path: Path) -> None:
    data, header = nrrd.read(
        str(export(labeled_sample, ["nucleus", "nucleolus"], tmp_path / "a.seg.nrrd"))
    )
    assert data.shape == (128, 96, 19)
    assert header["space directions"] == pytest.approx(
        np.eye(3) * 1e-5
    )  # mm, in which Slicer takes them whatever the units say
    assert (header["Segment1_Name"], header["Segment1_LabelValue"], header["Segment1_Layer"]) == (
        "nucleolus",
        "2",
        "0",
    )


def test_objects_are_read_back_from_a_model_as_objects(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    cells = labeled_sample.volume("truth", "cells").read(slice(None)).astype(np.uint32)
    put(labeled_sample, "labels/some", cells, 7)
    put(labeled_sample, "labels/many", cells * 300, 7)
    for name in ("some", "many"):
        read = open_source(export(labeled_sample, [name], tmp_path / f"{name}.model"))
        assert read.names == {}
        assert np.array_equal(
            read.stack[0:19], labeled_sample.volume("labels", name).read(slice(None))
        )


def test_two_pieces_of_one_name_are_both_written(labeled_sample: Sample, tmp_path: Path) -> None:
    read = open_source(
        export(
            labeled_sample,
            ["labels/nucleus", "truth/nucleus", "truth/nucleolus"],
            tmp_path / "a.seg.nrrd",
        )
    )
    assert list(read.names) == ["labels/nucleus", "truth/nucleus", "truth/nucleolus"]
    assert set(np.unique(read.stack[0:19])) == {0, 2, 3}  # where they overlap the later one counts
    with pytest.raises(InputError, match="'raw' is not a mask"):
        export(labeled_sample, ["nucleus", "raw"], tmp_path / "b.nrrd")
    with pytest.raises(InputError, match=r"--onto moves voxels, but a \.glb file has none"):
        export(labeled_sample, ["nucleus"], tmp_path / "b.glb", ExportSettings(onto="raw"))


def test_programs_that_read_no_ome_find_the_pixel_size_of_a_tiff(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    with tifffile.TiffFile(export(labeled_sample, ["nucleus"], tmp_path / "a.tif")) as tiff:
        page = tiff.pages.first
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[
            1
        ] == pytest.approx(1e7 / 10)
        assert page.tags["ResolutionUnit"].value == 3  # centimeters


def test_results_are_mapped_back_onto_the_raw_image(
    labeled_sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motions = align(labeled_sample, AlignSettings(canvas="whole")).motions
    shape = labeled_sample.image("aligned").shape
    mask = np.zeros(shape, np.uint8)
    mask[:, 20:50, 30:70] = 1
    put(
        labeled_sample,
        "labels/nucleus",
        mask,
        7,
        made_on=("aligned", labeled_sample.image("aligned").fingerprint),
    )
    path = export(labeled_sample, ["nucleus"], tmp_path / "a.tif", ExportSettings(onto="raw"))
    assert "shows places" not in capsys.readouterr().err
    back = open_source(path).stack[0:19]
    assert back.shape == (19, 96, 128)
    for z in (0, 9, 18):
        rows, columns = np.nonzero(back[z])
        assert (rows.min() - 20, columns.min() - 30) == pytest.approx(
            tuple(motions[z, :, 2]), abs=0.6
        )
    assert np.array_equal(
        open_source(export(labeled_sample, ["nucleus"], tmp_path / "b.tif")).stack[0:19], mask
    )
    raw = np.ones((19, 96, 128), np.uint8)
    put(labeled_sample, "labels/everywhere", raw, 7)
    export(
        labeled_sample,
        ["everywhere"],
        tmp_path / "c.tif",
        ExportSettings(onto="aligned"),
        on=Execution(),
    )
    assert "'aligned' shows places outside the image of everywhere" in capsys.readouterr().err


def test_selected_slices_are_written_in_the_given_order(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    raw = labeled_sample.image("raw").read(slice(None))
    path = export(labeled_sample, ["raw"], tmp_path / "a.tif", ExportSettings(slices=(9, 0, 3)))
    assert np.array_equal(open_source(path).stack[0:3], raw[[9, 0, 3]])
    together = export(
        labeled_sample,
        ["nucleus", "nucleolus"],
        tmp_path / "b.seg.nrrd",
        ExportSettings(slices=(9,)),
    )
    assert open_source(together).stack.shape == (1, *raw.shape[1:])
    with pytest.raises(InputError, match="There is no slice 19: the last slice of raw is 18"):
        export(labeled_sample, ["raw"], tmp_path / "c.tif", ExportSettings(slices=(0, 19)))
    with pytest.raises(InputError, match=r"--slices selects voxels, but a \.glb file has none"):
        export(labeled_sample, ["nucleus"], tmp_path / "c.glb", ExportSettings(slices=(0,)))


def test_an_exported_annotation_is_imported_unchanged(
    labeled_sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = labeled_sample.volume("truth", "cells").read(slice(None)).astype(np.uint32)
    numbers[:, :10] = 77
    write_annotation(
        labeled_sample, "neurons", [2, 9, 12], [numbers[z] for z in (2, 9, 12)], ignore=77
    )
    path = export(labeled_sample, ["annotations/neurons"], tmp_path / "a.tif", on=Execution())
    note = " ".join(capsys.readouterr().err.split())
    assert (
        "the file contains slices 2,9,12; import it with 'annotate import --slices 2,9,12 --ignore "
        "77'" in note
    )
    import_annotation(labeled_sample, "again", path, AnnotationSettings(slices="2,9,12", ignore=77))
    first, second = (
        read_annotation(labeled_sample, "neurons"),
        read_annotation(labeled_sample, "again"),
    )
    assert first.z == second.z
    assert np.array_equal(first.labels[0:3], second.labels[0:3])
    two_slices = export(
        labeled_sample, ["annotations/neurons"], tmp_path / "b.tif", ExportSettings(slices=(12, 2))
    )
    assert np.array_equal(open_source(two_slices).stack[0:2], numbers[[12, 2]])
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
            "Annotations and corrections are written into a file each; got 2 names",
        ),
    ]
    for names, settings, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            export(labeled_sample, names, tmp_path / "c.nrrd", ExportSettings(**settings))
    with pytest.raises(SampleError, match="no annotations/neuron; did you mean 'neurons'"):
        export(labeled_sample, ["annotations/neuron"], tmp_path / "c.tif")


def test_several_structures_of_one_annotation_are_written_with_their_numbers(
    labeled_sample: Sample, tmp_path: Path
) -> None:
    numbers = np.zeros((96, 128), np.uint16)
    numbers[10:20, 10:20], numbers[30:40, 30:40] = 1, 2
    tifffile.imwrite(tmp_path / "both.tif", np.stack([numbers, numbers]), photometric="minisblack")
    classes = {"granule": (1,), "droplet": (2,)}
    import_annotation(
        labeled_sample,
        "both",
        tmp_path / "both.tif",
        AnnotationSettings(slices="2,9", classes=classes),
    )
    path = export(labeled_sample, ["annotations/both"], tmp_path / "a.tif")
    assert np.array_equal(open_source(path).stack[0:2], np.stack([numbers, numbers]))


def test_voxels_that_alignment_moved_are_reported(
    labeled_sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align(labeled_sample, AlignSettings())
    shape = labeled_sample.image("aligned").shape
    put(
        labeled_sample,
        "labels/nucleus",
        np.zeros(shape, np.uint8),
        7,
        made_on=("aligned", labeled_sample.image("aligned").fingerprint),
    )
    export(labeled_sample, ["nucleus"], tmp_path / "a.tif", on=Execution())
    note = " ".join(capsys.readouterr().err.split())
    assert f"lies on the pixels of 'aligned' ({shape[1]} x {shape[2]})" in note
    assert "not on those of the raw stack (96 x 128); --onto raw moves it there" in note
    export(labeled_sample, ["raw"], tmp_path / "b.tif", on=Execution())
    assert "lies on the pixels" not in capsys.readouterr().err


def test_invalid_exports_are_refused(
    labeled_sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError,
        match=r"expected a name that ends in one of \.tif, \.tiff, \.nrrd, \.h5, \.model, \.csv",
    ):
        export(labeled_sample, ["nucleus"], tmp_path / "a.docx")
    with pytest.raises(InputError, match=r"A \.tif file holds one part of a sample; got 2"):
        export(labeled_sample, ["nucleus", "cells"], tmp_path / "a.tif")
    with pytest.raises(InputError, match="Voxels are written as"):
        write_volume(ExportVolume.from_volume(labeled_sample.image("raw")), tmp_path / "a.xyz")
    monkeypatch.setattr(writers, "MATLAB_5_BYTES", 1000)
    with pytest.raises(
        InputError, match=r"a\.model would hold 0\.0 GB, more than the 2 GB of its format"
    ):
        export(labeled_sample, ["nucleus"], tmp_path / "a.model")
    assert list(tmp_path.glob("*.model*")) == []
    put(labeled_sample, "labels/small", np.ones((3, 10, 10), np.uint8))
    with pytest.raises(InputError, match="have different shapes"):
        export(labeled_sample, ["nucleus", "small"], tmp_path / "a.nrrd")


def test_an_output_appears_only_when_it_is_complete(tmp_path: Path) -> None:
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
