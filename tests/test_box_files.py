"""Files of boxes: COCO, CSV and YOLO read and written.

All faults are reported at once; boxes around labels.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.writing import write_annotation
from sparsem.boxes.exporting import export_boxes
from sparsem.boxes.importing import import_boxes
from sparsem.boxes.read import read_boxes
from sparsem.boxes.settings import BoxesSettings
from sparsem.boxes.tables import annotated_box_structures, image_names, read_annotated_boxes
from sparsem.cli.app import app
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.open import open_montage
from sparsem.io.settings import ImportSettings
from sparsem.labels.inventory import remove_pieces
from sparsem.measure.measure import measure
from sparsem.report.box_layers import read_box_layers
from sparsem.report.export import export
from sparsem.report.scene3d.render import render
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind
from sparsem.workflow.execution import Execution
from tests.conftest import files_in

QUIET = Execution(quiet=True)
SHAPE = (60, 80)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Three images of 80 x 60 px, each a file of its own."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for name in ("cell_1_raw", "cell_2_raw", "cell_10_raw"):
        tifffile.imwrite(
            tmp_path / "images" / f"{name}.tif",
            random.integers(1, 255, SHAPE).astype(np.uint8),
            photometric="minisblack",
        )
    return import_stack(
        tmp_path / "images",
        tmp_path / "S01.zarr",
        ImportSettings(voxel_nm=(50, 4, 4), missing="join"),
        on=QUIET,
    )


COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "cell_1_raw.tif", "width": 80, "height": 60},
        {"id": 2, "file_name": "folder/cell_2_raw.png", "width": 80, "height": 60},
    ],
    "categories": [{"id": 7, "name": "nucleus"}, {"id": 9, "name": "mitochondrion"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 40, 30]},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [50, 10, 25, 21]},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [50, 40, 12, 9]},
    ],
}


def written(folder: Path, content: Any, name: str = "boxes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def changed(**parts: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(COCO)), **parts}


def with_annotation(**parts: Any) -> dict[str, Any]:
    return changed(
        annotations=[
            *COCO["annotations"],
            {"id": 4, "image_id": 2, "category_id": 7, "bbox": [1, 1, 30, 30], **parts},
        ]
    )


def test_images_have_the_names_of_their_files(sample: Sample) -> None:
    assert image_names(sample) == ["cell_1_raw", "cell_2_raw", "cell_10_raw"]


def test_coco_boxes_reach_their_images(sample: Sample, tmp_path: Path) -> None:
    summary = import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO))), on=QUIET)
    assert summary.boxes == {"nucleus": 1, "mitochondrion": 1}
    assert (summary.images, summary.small) == (2, 1)  # 12 x 9 px is a slip of the hand
    stored = read_annotated_boxes(sample, "mitochondrion")
    assert stored.boxes.corners.tolist() == [[50, 10, 75, 31]]
    assert stored.slices == (0, 1)  # the second one is known to hold none
    assert annotated_box_structures(sample) == ["mitochondrion", "nucleus"]
    assert sample.history()[-1]["stage"].startswith("annotate-boxes-")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image,class,x0,y0,x1,y1", "cell_2,mitochondrion,10,20,40,50"),
        ("file_name;label;xmin;ymin;xmax;ymax", "cell_2_raw.tif;mitochondrion;10;20;40;50"),
        ("z,class,x,y,width,height", "1,mitochondrion,10,20,30,30"),
    ],
)
def test_csv_of_several_kinds_is_read(
    sample: Sample, tmp_path: Path, header: str, row: str
) -> None:
    summary = import_boxes(
        [sample],
        BoxesSettings(source=str(written(tmp_path, f"{header}\n{row}\n", "b.csv"))),
        on=QUIET,
    )
    assert summary.boxes == {"mitochondrion": 1}
    stored = read_annotated_boxes(sample, "mitochondrion")
    assert (stored.boxes.corners.tolist(), stored.slices) == ([[10, 20, 40, 50]], (1,))


def test_a_name_continues_only_after_a_separator(sample: Sample, tmp_path: Path) -> None:
    """cell_1 is cell_1_raw, and not cell_10_raw."""
    file = written(
        tmp_path, "image,class,x0,y0,x1,y1\ncell_1,a,0,0,30,30\ncell_10,a,0,0,25,30\n", "b.csv"
    )
    import_boxes([sample], BoxesSettings(source=str(file)), on=QUIET)
    assert read_annotated_boxes(sample, "a").boxes.z.tolist() == [0, 2]


def test_unlisted_images_may_be_empty(sample: Sample, tmp_path: Path) -> None:
    file = written(tmp_path, "z,class,x0,y0,x1,y1\n1,0,10,20,40,50\n", "b.csv")
    settings = BoxesSettings(
        source=str(file), unlisted_images="empty", classes={"0": "mitochondrion"}
    )
    import_boxes([sample], settings, on=QUIET)
    assert read_annotated_boxes(sample, "mitochondrion").slices == (0, 1, 2)


@pytest.mark.parametrize("ending", ["out.json", "out.csv", "yolo"])
def test_exported_boxes_can_be_imported(sample: Sample, tmp_path: Path, ending: str) -> None:
    import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO)), min_px=0), on=QUIET)
    before = read_annotated_boxes(sample, "mitochondrion")
    assert export_boxes(sample, tmp_path / ending, drawn=True) == 3
    with pytest.raises(InputError, match=r"exists.*--overwrite"):
        export_boxes(sample, tmp_path / ending, drawn=True)
    import_boxes(
        [sample],
        BoxesSettings(source=str(tmp_path / ending), min_px=0),
        on=Execution(quiet=True, overwrite=True),
    )
    after = read_annotated_boxes(sample, "mitochondrion")
    np.testing.assert_allclose(after.boxes.corners, before.boxes.corners, atol=1e-3)
    assert after.slices == (
        before.slices if ending != "out.csv" else (0,)
    )  # a CSV has a row for each box, and so lists no empty images


def test_an_interrupted_export_of_yolo_labels_leaves_nothing_that_reads(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels get their names when they are complete, and never stand next to other classes."""
    import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO)), min_px=0), on=QUIET)
    folder = tmp_path / "yolo"
    export_boxes(sample, folder, drawn=True)
    before = files_in(folder)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("sparsem.boxes.write._write_label_files", fail)
        with pytest.raises(OSError, match="disk full"):
            export_boxes(sample, folder, drawn=True, overwrite=True)
    assert files_in(folder) == before
    with monkeypatch.context() as patch:
        patch.setattr("sparsem.boxes.write.write_atomically", fail)
        with pytest.raises(OSError, match="disk full"):
            export_boxes(sample, folder, drawn=True, overwrite=True)
    with pytest.raises(InputError, match="does not name its classes"):
        read_boxes(folder)
    export_boxes(sample, folder, drawn=True, overwrite=True)
    assert files_in(folder) == before
    (tmp_path / "boxes").touch()
    with pytest.raises(InputError, match=r"boxes is a file; expected a folder"):
        export_boxes(sample, tmp_path / "boxes", drawn=True)


def test_other_boxes_are_replaced_only_on_request(sample: Sample, tmp_path: Path) -> None:
    settings = BoxesSettings(source=str(written(tmp_path, COCO)))
    import_boxes([sample], settings, on=QUIET)
    import_boxes([sample], settings, on=QUIET)  # the same again is no harm
    written(tmp_path, with_annotation())
    with pytest.raises(ResumeError, match=r"other annotated boxes of 'nucleus'.*--overwrite"):
        import_boxes([sample], settings, on=QUIET)


def test_boxes_reach_the_samples_of_their_images(sample: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.ones((90, 90), np.uint8), photometric="minisblack")
    second_sample = import_stack(
        tmp_path / "other.tif", tmp_path / "S02.zarr", ImportSettings(voxel_nm=(50, 4, 4)), on=QUIET
    )
    file = written(
        tmp_path, "image,class,x0,y0,x1,y1\ncell_1,a,0,0,30,30\nother.tif,a,60,0,90,30\n", "b.csv"
    )
    summary = import_boxes([sample, second_sample], BoxesSettings(source=str(file)), on=QUIET)
    assert (summary.boxes, summary.images) == ({"a": 2}, 2)
    assert read_annotated_boxes(second_sample, "a").boxes.corners.tolist() == [[60, 0, 90, 30]]


def test_boxes_around_labels(own_tissue: Sample) -> None:
    summary = import_boxes(
        [own_tissue],
        BoxesSettings(from_labels=("truth/mitochondrion", "nucleus"), min_px=3),
        on=QUIET,
    )
    assert set(summary.boxes) == {"mitochondrion", "nucleus"}
    stored = read_annotated_boxes(own_tissue, "mitochondrion")
    z = int(stored.boxes.z[0])
    truth = own_tissue.volume("truth", "mitochondrion").read(slice(z, z + 1))[0] > 0
    for x0, y0, x1, y1 in stored.boxes.of_image(z).corners.astype(int):
        for edge in (
            truth[y0, x0:x1],
            truth[y1 - 1, x0:x1],
            truth[y0:y1, x0],
            truth[y0:y1, x1 - 1],
        ):
            assert edge.any()  # an object touches all four edges of its box
    annotated = read_annotated_boxes(
        own_tissue, "nucleus"
    )  # hand-labeled slices come before labels of all
    assert annotated.slices == (0, 9, 18)


def test_the_real_boxes_are_read(real_data: Callable[[str], Path]) -> None:
    axons, mitochondria = (
        read_boxes(real_data(f"{name}/boxes.csv"))
        for name in ("axon_sem_2d", "epfl_fibsem_mitochondria")
    )
    assert (len(axons.boxes), len(axons.images), axons.class_names) == (5952, 6, ["axon"])
    assert (len(mitochondria.boxes), len(mitochondria.images)) == (1527, 80)


LOST, TWICE, SAME = (
    {"id": n, "file_name": name}
    for n, name in ((3, "lost.tif"), (3, "cell_2_raw.tif"), (2, "cell_10_raw.tif"))
)

MALFORMED: dict[str, tuple[Any, str]] = {
    "a box beyond its image": (
        with_annotation(bbox=[60, 1, 30, 30]),
        r"1 boxes outside of their image \(annotation 4: 60 1 90 31, of 80",
    ),
    "a box before its image": (
        with_annotation(bbox=[-9, 1, 30, 30]),
        "1 boxes outside of their image",
    ),
    "a box without area": (
        with_annotation(bbox=[5, 5, 0, 30]),
        r"1 boxes without area \(annotation 4",
    ),
    "a box turned inside out": (with_annotation(bbox=[5, 5, -3, 30]), "1 boxes without area"),
    "a box with NaN": (
        with_annotation(bbox=[5, float("nan"), 30, 30]),
        "1 boxes with corners that are not numbers",
    ),
    "a box of three numbers": (with_annotation(bbox=[5, 5, 30]), "without four numbers as bbox"),
    "a box of words": (with_annotation(bbox=["five", 5, 30, 30]), "without four numbers as bbox"),
    "an unknown class": (
        with_annotation(category_id=8),
        r"of an unknown class \(annotation 4: category_id 8\)",
    ),
    "an image that is not listed": (
        with_annotation(image_id=3),
        r"of an image that is not listed \(annotation 4: image_id 3\)",
    ),
    "an id given twice": (with_annotation(id=3), "1 annotations of the same id"),
    "a crowd": (with_annotation(iscrowd=1), "around a crowd"),
    "an annotation that is a number": (changed(annotations=[5]), "without four numbers as bbox"),
    "two images of one id": (changed(images=[*COCO["images"], SAME]), "images of the same id"),
    "an image listed twice": (
        changed(images=[*COCO["images"], TWICE]),
        "images that are listed twice",
    ),
    "an image that is in no sample": (
        changed(images=[*COCO["images"], LOST]),
        "in none of the samples .lost",
    ),
    "an image without a name": (
        changed(images=[*COCO["images"], {"id": 3}]),
        "images without id or file_name",
    ),
    "an image of another size": (
        changed(images=[COCO["images"][0], {**COCO["images"][1], "width": 800}]),
        "another size than the file says .cell_2_raw: 800 x 60 px and 80 x 60 px",
    ),
    "an image without a size": (
        changed(images=[COCO["images"][0], {**COCO["images"][1], "width": 0}]),
        "images without a size",
    ),
    "two classes of one name": (
        changed(categories=[*COCO["categories"], {"id": 1, "name": "nucleus"}]),
        "classes of the same id or name",
    ),
    "a class without a name": (
        changed(categories=[*COCO["categories"], {"id": 1}]),
        "classes without id or name",
    ),
    "no list of images": (
        {"annotations": [], "categories": []},
        "not a COCO file: expected an object with the lists",
    ),
    "a list": ([1, 2], "not a COCO file"),
    "half a file": ('{"images": [', "is not valid JSON"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_faults_of_a_coco_file_are_reported(sample: Sample, tmp_path: Path, what: str) -> None:
    content, sentence = MALFORMED[what]
    with pytest.raises(InputError, match=sentence) as error:
        import_boxes([sample], BoxesSettings(source=str(written(tmp_path, content))), on=QUIET)
    assert "\n" not in str(error.value)
    assert not annotated_box_structures(sample)


CSVS = {
    "an empty file": ("", "is empty"),
    "no class": ("image,x0,y0,x1,y1\na,1,2,3,4\n", "expected an image .image or z., a class"),
    "no corners": ("image,class,x0,y0\na,b,1,2\n", "expected an image"),
    "only a header": ("image,class,x0,y0,x1,y1\n", "holds no box"),
    "a corner in words": (
        "z,class,x0,y0,x1,y1\n1,a,one,2,30,40\n",
        r"1 rows whose corners are not numbers \(line 2\)",
    ),
    "a row too short": (
        "z,class,x0,y0,x1,y1\n1,a,1,2,30\n",
        r"1 rows of another length than the header \(line 2: 5 of 6",
    ),
    "a slice that is not there": (
        "z,class,x0,y0,x1,y1\n9,a,1,2,30,40\n",
        "in none of the samples .slice 9.",
    ),
    "half a slice": ("z,class,x0,y0,x1,y1\n0.5,a,1,2,30,40\n", "rows without image or class"),
    "no class in a row": ("z,class,x0,y0,x1,y1\n1,,1,2,30,40\n", "rows without image or class"),
    "corners in the wrong order": ("z,class,x0,y0,x1,y1\n1,a,30,2,1,40\n", "boxes without area"),
}


@pytest.mark.parametrize("what", CSVS)
def test_faults_of_a_csv_are_reported(sample: Sample, tmp_path: Path, what: str) -> None:
    content, sentence = CSVS[what]
    with pytest.raises(InputError, match=sentence):
        import_boxes(
            [sample], BoxesSettings(source=str(written(tmp_path, content, "b.csv"))), on=QUIET
        )


def yolo(
    folder: Path,
    lines: str,
    classes: str | None = "nucleus\nmitochondrion\n",
    yaml: str | None = None,
) -> Path:
    path = folder / "yolo"
    (path / "labels").mkdir(parents=True)
    (path / "labels" / "cell_1_raw.txt").write_text(lines)
    if classes is not None:
        (path / "classes.txt").write_text(classes)
    if yaml is not None:
        (path / "data.yaml").write_text(yaml)
    return path


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "0 0.5 0.5 0.5\n",
            r"lines that are not 'class x y width height' \(cell_1_raw.txt line 1\)",
        ),
        ("a 0.5 0.5 0.5 0.5\n", "lines that are not"),
        ("4 0.5 0.5 0.5 0.5\n", "lines of an unknown class .cell_1_raw.txt line 1: 4 of 0, 1"),
        ("0 40 30 20 20\n", "lines in pixels"),
        ("0 0.9 0.5 0.5 0.5\n", "boxes outside of their image"),
    ],
)
def test_faults_of_yolo_labels_are_reported(
    sample: Sample, tmp_path: Path, lines: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        import_boxes([sample], BoxesSettings(source=str(yolo(tmp_path, lines))), on=QUIET)


@pytest.mark.parametrize(
    ("classes", "yaml", "sentence"),
    [
        (None, None, "does not name its classes"),
        ("a\na\n", None, "names a class twice"),
        (None, "[", "not a YAML file with the names of classes"),
    ],
)
def test_yolo_classes_need_names(
    tmp_path: Path, classes: str | None, yaml: str | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_boxes(yolo(tmp_path, "0 0.5 0.5 0.5 0.5\n", classes, yaml))


def test_yolo_names_may_stand_in_a_yaml(tmp_path: Path) -> None:
    result = read_boxes(
        yolo(tmp_path, "1 0.5 0.5 0.5 0.5\n\n", None, "names:\n  0: nucleus\n  1: mitochondrion\n")
    )
    assert [box.class_name for box in result.boxes] == ["mitochondrion"]


def test_all_faults_are_reported_at_once_and_can_be_skipped(sample: Sample, tmp_path: Path) -> None:
    more = [
        {"id": 4 + n, "image_id": 2, "category_id": 7, "bbox": box}
        for n, box in enumerate(([70, 1, 30, 30], [1, 1, 0, 0], [5, 5, 30, 30]))
    ]
    file = written(tmp_path, changed(annotations=[*COCO["annotations"], *more]))
    with pytest.raises(
        InputError,
        match=r"1 boxes outside of their image .*; 1 boxes without area .*--on-invalid skip",
    ):
        import_boxes([sample], BoxesSettings(source=str(file)), on=QUIET)
    summary = import_boxes([sample], BoxesSettings(source=str(file), on_invalid="skip"), on=QUIET)
    assert (
        summary.boxes["nucleus"] == 1
    )  # the third box of the second image is right, but its image lacks two others
    assert len(summary.left_out) == 2
    assert summary.incomplete == {"nucleus": 1}
    assert read_annotated_boxes(sample, "nucleus").slices == (0,)
    assert read_annotated_boxes(sample, "mitochondrion").slices == (
        0,
        1,
    )  # no box of this class was left out


def test_a_box_that_reaches_a_pixel_too_far_is_cut(sample: Sample, tmp_path: Path) -> None:
    """Outlines are drawn through the centers of pixels, or around them."""
    file = written(tmp_path, with_annotation(bbox=[-0.5, 30, 40, 30.5]))
    import_boxes([sample], BoxesSettings(source=str(file)), on=QUIET)
    assert read_annotated_boxes(sample, "nucleus").boxes.of_image(1).corners.tolist() == [
        [0, 30, 39.5, 60]
    ]


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({}, InputError, "give one of them"),
        ({"source": "nowhere.json"}, InputError, "There is no file or folder nowhere.json"),
        (
            {"from_labels": ("nothing",)},
            SampleError,
            "has no annotation, labels or ground truth 'nothing'",
        ),
    ],
)
def test_invalid_sources_are_refused(
    sample: Sample, settings: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        import_boxes([sample], BoxesSettings(**settings), on=QUIET)


def test_unknown_formats_are_refused(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "boxes.xml").write_text("<annotation/>")
    with pytest.raises(
        InputError, match=r"boxes.xml is not a known file of boxes; expected .json .COCO., .csv"
    ):
        read_boxes(tmp_path / "boxes.xml")
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xffPK\x00\x81")
    with pytest.raises(
        InputError,
        match=r"cannot be read as text: it is not in UTF-8 .byte 0xff in line 2.; save it as UTF-8, in Excel",
    ):
        read_boxes(tmp_path / "bytes.csv")
    with pytest.raises(InputError, match="holds no YOLO labels"):
        read_boxes(tmp_path / "images")
    with pytest.raises(SampleError, match="has no boxes that a detector found"):
        export_boxes(sample, tmp_path / "x.json")
    import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO))), on=QUIET)
    with pytest.raises(InputError, match=r"ends in .json .COCO. or .csv, or a folder"):
        export_boxes(sample, tmp_path / "x.xml", drawn=True)
    with pytest.raises(
        InputError, match="has no class 'mitochondria'; did you mean 'mitochondrion'"
    ):
        import_boxes(
            [sample],
            BoxesSettings(source=str(written(tmp_path, COCO)), classes={"mitochondria": "x"}),
            on=QUIET,
        )


def test_a_changed_table_is_refused(sample: Sample, tmp_path: Path) -> None:
    import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO))), on=QUIET)
    table = sample.read_table("annotated_boxes_nucleus")
    sample.write_table("annotated_boxes_nucleus", table.drop_columns(["x0_px"]))
    with pytest.raises(SampleError, match="was not written by sparsem, or is damaged"):
        read_annotated_boxes(sample, "nucleus")
    with pytest.raises(
        SampleError, match="no annotated boxes of 'mitochondria'; did you mean 'mitochondrion'"
    ):
        read_annotated_boxes(sample, "mitochondria")


def test_the_csv_of_a_sample_has_names_and_sizes(sample: Sample, tmp_path: Path) -> None:
    import_boxes([sample], BoxesSettings(source=str(written(tmp_path, COCO))), on=QUIET)
    with (sample.path / "tables" / "annotated_boxes_nucleus.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["image"] == "cell_1_raw"
    assert [float(row[key]) for key in ("width_um", "height_um")] == pytest.approx([0.16, 0.12])


# images of any size


@pytest.fixture
def montage(tmp_path: Path) -> Sample:
    """Three images of three sizes, whose names have no numbers."""
    folder = tmp_path / "montage"
    folder.mkdir()
    for name, shape in (("tile_r1-c1", (60, 80)), ("tile_r1-c2", (40, 90)), ("overview", (30, 30))):
        tifffile.imwrite(
            folder / f"{name}.tif", np.full(shape, 200, np.uint8), photometric="minisblack"
        )
    return import_stack(
        folder, tmp_path / "S03.zarr", ImportSettings(voxel_nm=(4, 4, 4), montage=True), on=QUIET
    )


def test_images_of_any_size_are_slices(montage: Sample) -> None:
    image = montage.image()
    assert (image.shape, image.block_depth) == ((3, 60, 90), 1)
    assert image_names(montage) == ["overview", "tile_r1-c1", "tile_r1-c2"]
    assert image.sizes == ((30, 30), (60, 80), (40, 90))
    assert image.size_of(2) == (40, 90)
    voxels = image.read(slice(None))
    assert [int((pixels > 0).sum()) for pixels in voxels] == [900, 4800, 3600]
    assert voxels[2, :40].all()
    assert not voxels[2, 40:].any()


def test_images_of_a_montage_are_listed(montage: Sample) -> None:
    printed = CliRunner().invoke(app, ["info", str(montage.path)]).stdout
    assert "3 images of 4 x 4 nm per pixel, uint8" in printed
    assert "0: overview, 30 x 30" in printed
    assert "um;" not in printed  # a montage has no depth, and so no size


def test_labels_of_a_montage_belong_to_separate_images(montage: Sample, tmp_path: Path) -> None:
    """Objects of two images are two, have an area, and cannot be drawn in 3D."""
    labels = np.zeros(montage.image().shape, np.uint8)
    labels[1:, 10:30, 10:30] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    import_labels(montage.path, "nucleus", tmp_path / "labels.tif", on=QUIET)
    assert montage.volume("labels", "nucleus").sizes == montage.image().sizes
    measure(montage, on=QUIET)
    table = montage.read_table("nucleus")
    assert table.num_rows == 2
    assert "area_um2" in table.column_names
    for shown_object in (None, "nucleus=1"):
        with pytest.raises(SampleError, match=r"S03\.zarr holds separate images \(a montage\)"):
            render(montage, tmp_path / "x.png", object=shown_object, on=QUIET)
    with pytest.raises(SampleError, match=r"S03\.zarr holds separate images \(a montage\)"):
        export(montage, "nucleus", tmp_path / "x.glb", on=QUIET)


def test_images_are_never_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    for name, gray in (("a", 10), ("b", 250)):
        tifffile.imwrite(
            folder / f"{name}.tif", np.full((600, 700), gray, np.uint8), photometric="minisblack"
        )
    image = import_stack(
        folder, tmp_path / "large.zarr", ImportSettings(voxel_nm=(4, 4, 4), montage=True), on=QUIET
    ).image()
    assert image.level(1).shape == (2, 300, 350)
    assert np.unique(image.read(slice(None), 1)).tolist() == [10, 250]
    labels = image.like("labels/a", np.uint8, Kind.LABELS, None)
    assert labels.level_shapes()[1] == (2, 300, 350)


def test_boxes_at_the_border_are_cut_on_request(sample: Sample, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "image,class,x0,y0,x1,y1\ncell_1,a,-5,10,50,40\ncell_1,a,90,10,130,40\ncell_1,a,10,10,40,40\n",
        "b.csv",
    )
    with pytest.raises(InputError, match="2 boxes outside of their image"):
        import_boxes([sample], BoxesSettings(source=str(file)), on=QUIET)
    summary = import_boxes([sample], BoxesSettings(source=str(file), on_invalid="clip"), on=QUIET)
    assert len(summary.left_out) == 1  # the box that lies completely outside
    assert read_annotated_boxes(sample, "a").boxes.corners.tolist() == [
        [0, 10, 50, 40],
        [10, 10, 40, 40],
    ]


def test_a_box_that_is_listed_twice_counts_once(sample: Sample, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "image,class,x0,y0,x1,y1\ncell_1,a,5,10,50,40\ncell_1,a,5,10,50,40\ncell_1,b,5,10,50,40\n",
        "b.csv",
    )
    with pytest.raises(InputError, match=r"1 boxes that are listed twice \(line 3"):
        import_boxes([sample], BoxesSettings(source=str(file)), on=QUIET)
    assert import_boxes(
        [sample], BoxesSettings(source=str(file), on_invalid="skip"), on=QUIET
    ).boxes == {"a": 1, "b": 1}


def test_many_small_boxes_and_numbers_as_names_are_reported(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(
        tmp_path, "image,class,x0,y0,x1,y1\ncell_1,0,5,10,50,40\ncell_1,0,5,10,20,40\n", "b.csv"
    )
    import_boxes([sample], BoxesSettings(source=str(file)), on=Execution())
    printed = capsys.readouterr().err
    assert "1 of 2 boxes are less than 20 px wide or high and were dropped" in printed
    assert "--classes 0=NAME gives it a name" in printed
    remove_pieces(sample, ["tables/annotated_boxes_0"])
    assert not annotated_box_structures(sample)


def test_boxes_of_other_pixels_are_reported_and_not_drawn(
    montage: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "image,class,x0,y0,x1,y1\ntile_r1-c1,a,0,0,40,30\n", "b.csv")
    import_boxes([montage], BoxesSettings(source=str(file)), on=QUIET)
    (layer,), problems = read_box_layers(montage, "raw", (), ())
    assert (layer.name, layer.predicted, problems) == ("a, boxes", None, [])
    monkeypatch.setattr(
        Sample, "grid_image", lambda self, image: image
    )  # as if every image were moved
    assert read_box_layers(montage, "aligned", (), ()) == (
        [],
        [
            (
                "The boxes of a are not shown: they were drawn on images/raw, whose pixels differ "
                "from those of images/aligned."
            )
        ],
    )


def test_a_box_beyond_its_own_image_is_reported(montage: Sample, tmp_path: Path) -> None:
    file = written(
        tmp_path, "image,class,x0,y0,x1,y1\noverview,a,0,0,40,30\ntile_r1-c1,a,0,0,40,30\n", "b.csv"
    )
    with pytest.raises(InputError, match=r"line 2: 0 0 40 30, of 30 x 30 px"):
        import_boxes([montage], BoxesSettings(source=str(file)), on=QUIET)
    import_boxes([montage], BoxesSettings(source=str(file), on_invalid="clip"), on=QUIET)
    export_boxes(montage, tmp_path / "out.json", drawn=True)
    listed = json.loads((tmp_path / "out.json").read_text())["images"]
    assert [(image["file_name"], image["width"], image["height"]) for image in listed] == [
        ("overview", 30, 30),
        ("tile_r1-c1", 80, 60),
    ]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no TIFF or PNG images"),
        (
            {"a.tif": np.uint8, "b.tif": np.uint16},
            "All images must be of one type: a.tif is uint8, but b.tif is uint16",
        ),
        ({"a.tif": np.uint8, "a.tiff": np.uint8}, "Two images in .* are called a"),
    ],
)
def test_invalid_montages_are_refused(tmp_path: Path, files: dict[str, Any], sentence: str) -> None:
    (tmp_path / "m").mkdir()
    for name, dtype in files.items():
        tifffile.imwrite(tmp_path / "m" / name, np.ones((20, 20), dtype), photometric="minisblack")
    with pytest.raises(InputError, match=sentence):
        import_stack(
            tmp_path / "m",
            tmp_path / "m.zarr",
            ImportSettings(voxel_nm=(4, 4, 4), montage=True),
            on=QUIET,
        )
    with pytest.raises(InputError, match="There is no file or folder"):
        open_montage(tmp_path / "nowhere")


def test_a_number_is_never_taken_for_a_name(tmp_path: Path) -> None:
    """Files called 1 to 3 are the slices 0 to 2."""
    (tmp_path / "numbered").mkdir()
    for name in ("1", "2", "3"):
        tifffile.imwrite(
            tmp_path / "numbered" / f"{name}.tif",
            np.ones((40, 40), np.uint8),
            photometric="minisblack",
        )
    sample = import_stack(
        tmp_path / "numbered", tmp_path / "n.zarr", ImportSettings(voxel_nm=(4, 4, 4)), on=QUIET
    )
    import_boxes(
        [sample],
        BoxesSettings(
            source=str(written(tmp_path, "z,class,x0,y0,x1,y1\n1,a,0,0,30,30\n", "b.csv"))
        ),
        on=QUIET,
    )
    assert read_annotated_boxes(sample, "a").boxes.z.tolist() == [1]
    by_name = written(tmp_path, "image,class,x0,y0,x1,y1\n1.tif,a,0,0,30,30\n", "c.csv")
    import_boxes(
        [sample], BoxesSettings(source=str(by_name)), on=Execution(quiet=True, overwrite=True)
    )
    assert read_annotated_boxes(sample, "a").boxes.z.tolist() == [0]


def test_images_of_another_size_are_left_out_with_their_boxes(
    sample: Sample, tmp_path: Path
) -> None:
    images = [COCO["images"][0], {**COCO["images"][1], "width": 40, "height": 30}]
    file = written(tmp_path, {**with_annotation(bbox=[0, 0, 25, 25]), "images": images})
    import_boxes([sample], BoxesSettings(source=str(file), on_invalid="skip"), on=QUIET)
    stored = read_annotated_boxes(sample, "nucleus")
    assert (stored.slices, stored.boxes.z.tolist()) == ((0,), [0])


def test_nothing_is_written_if_a_part_is_invalid(sample: Sample, tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "ok"}, {"id": 9, "name": "not a name"}]
    with pytest.raises(
        InputError,
        match=r"1 classes that cannot be names of structures .*--classes 'not a name=NAME'",
    ):
        import_boxes(
            [sample],
            BoxesSettings(source=str(written(tmp_path, changed(categories=categories)))),
            on=QUIET,
        )
    assert not annotated_box_structures(sample)


def test_slices_that_are_not_labeled_as_a_whole_are_left_out(own_tissue: Sample) -> None:
    labels = [np.ones((96, 128), np.uint8), np.ones((96, 128), np.uint8)]
    labels[1][:, 64:] = 9
    write_annotation(own_tissue, "spot", (3, 5), labels, ignore=9)
    import_boxes([own_tissue], BoxesSettings(from_labels=("spot",), min_px=3), on=QUIET)
    assert read_annotated_boxes(own_tissue, "spot").slices == (3,)


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (
            'z,class,x0,y0,x1,y1\n1,"a,0,0,30,30\n' + "x" * 200_000,
            "q.csv",
            "is a quotation mark left open",
        ),
        ("z,class,x0,y0,x1,y1\ninf,a,0,0,30,30\n", "i.csv", "rows without image or class"),
        ('{"images": ' + "[" * 100_000, "deep.json", "is not valid JSON"),
        (
            json.dumps(with_annotation(bbox=[10**400, 0, 30, 30])),
            "huge.json",
            "without four numbers as bbox",
        ),
    ],
)
def test_files_that_break_parsers_are_refused(
    sample: Sample, tmp_path: Path, content: str, name: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        import_boxes(
            [sample], BoxesSettings(source=str(written(tmp_path, content, name))), on=QUIET
        )
