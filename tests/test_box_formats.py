"""Files of boxes as programs write them: ids, sizes, polygons, numbers, encodings.

And which images are completely annotated.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from sparsem.boxes.coco import read_box_json
from sparsem.boxes.importing import ImportSummary, import_boxes
from sparsem.boxes.numbers import decimal_mark, parse_number
from sparsem.boxes.read import read_boxes
from sparsem.boxes.settings import BoxesSettings
from sparsem.boxes.tables import annotated_box_structures, read_annotated_boxes
from sparsem.errors import InputError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

QUIET = Execution(quiet=True)
SHOWN = Execution()
NAMES = ("cell a", "cell b", "cell c")
HEIGHT, WIDTH = 60, 80


@pytest.fixture
def cells(tmp_path: Path) -> Sample:
    """Three images of 80 x 60 px."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        tifffile.imwrite(
            folder / f"{name}.tif",
            np.full((HEIGHT, WIDTH), 100, np.uint8),
            photometric="minisblack",
        )
    return import_stack(
        folder, tmp_path / "S.zarr", ImportSettings(voxel_nm=(4, 4, 4), montage=True), on=QUIET
    )


def coco(images: Any = None, annotations: Any = None, categories: Any = None) -> dict[str, Any]:
    """A COCO file in which image n has one box that begins at x = 10 n; ids are from 1 on."""
    listed = [
        {"id": n, "file_name": f"{name}.tif", "height": HEIGHT, "width": WIDTH}
        for n, name in enumerate(NAMES, 1)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [10 * n, 20, 30, 25], "area": 750}
        for n in (1, 2, 3)
    ]
    return {
        "images": listed if images is None else images,
        "annotations": boxes if annotations is None else annotations,
        "categories": [{"id": 1, "name": "mito"}, {"id": 2, "name": "er"}]
        if categories is None
        else categories,
    }


def changed(key: str, index: int, **values: Any) -> dict[str, Any]:
    content = coco()
    content[key][index] |= values
    return content


def written(folder: Path, content: Any, name: str = "b.json") -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return path


def imported(sample: Sample, path: Path, on: Execution = QUIET, **settings: Any) -> ImportSummary:
    return import_boxes([sample], BoxesSettings(source=str(path), min_px=2, **settings), on=on)


def starts_of(sample: Sample, name: str = "mito") -> dict[int, list[float]]:
    """Return the x at which boxes begin, by the images that are completely annotated."""
    stored = read_annotated_boxes(sample, name)
    assert set(stored.boxes.z.tolist()) <= set(stored.slices)
    return {z: stored.boxes.of_image(z).corners[:, 0].tolist() for z in stored.slices}


ALL = {0: [10.0], 1: [20.0], 2: [30.0]}


# ids


@given(st.data())
def test_an_id_is_one_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def drawn(value: int) -> Any:
        return data.draw(
            st.sampled_from([value, float(value), str(value), f"{value}.0", f" {value} "])
        )

    limit = 2**53 - 1
    ids = data.draw(st.lists(st.integers(-limit, limit), min_size=3, max_size=3, unique=True))
    kinds = data.draw(st.lists(st.integers(-limit, limit), min_size=2, max_size=2, unique=True))
    content = coco()
    for image, value in zip(content["images"], ids, strict=True):
        image["id"] = drawn(value)
    for annotation, value in zip(content["annotations"], ids, strict=True):
        annotation |= {"image_id": drawn(value), "id": drawn(value), "category_id": drawn(kinds[0])}
    for category, value in zip(content["categories"], kinds, strict=True):
        category["id"] = drawn(value)
    result = read_box_json(written(tmp_path_factory.mktemp("ids"), content))
    assert not result.faults
    assert [(box.image, box.class_name, box.corners[0]) for box in result.boxes] == [
        (0, "mito", 10),
        (1, "mito", 20),
        (2, "mito", 30),
    ]


def test_ids_may_be_text_or_whole_numbers_of_any_size(cells: Sample, tmp_path: Path) -> None:
    content = coco()
    for index, image_id in enumerate((2**63 + 1, "a7", -5)):
        content["images"][index]["id"] = image_id
        content["annotations"][index]["image_id"] = image_id
    imported(cells, written(tmp_path, content))
    assert starts_of(cells) == ALL


@pytest.mark.parametrize(
    "image_id", [float("nan"), None, True, 1.5, "", float(2**60), [1], "nan", float("inf")]
)
def test_an_annotation_of_no_image_may_be_of_any(
    cells: Sample, tmp_path: Path, image_id: Any
) -> None:
    path = written(tmp_path, changed("annotations", 1, image_id=image_id))
    with pytest.raises(
        InputError, match=r"1 annotations without the id of an image \(annotation 2: image_id"
    ):
        imported(cells, path)
    assert imported(cells, path, on_invalid="skip").incomplete == {"mito": 3}
    assert annotated_box_structures(cells) == ["er"]
    written(tmp_path, changed("annotations", 1, image_id=image_id, category_id=None))
    with pytest.raises(
        InputError,
        match=r"b.json: no image is completely annotated, because boxes of all of them were left out",
    ):
        imported(cells, path, on_invalid="skip")


def test_rounded_ids_do_not_join_boxes_and_images(cells: Sample, tmp_path: Path) -> None:
    """The floats of 2**53 and 2**53 + 1 are the same number."""
    content = coco()
    for index in range(3):
        content["images"][index]["id"] = 2**53 + index
        content["annotations"][index]["image_id"] = float(2**53 + index)
    with pytest.raises(
        InputError, match=r"3 annotations without the id of an image .*, rounded as a float"
    ):
        imported(cells, written(tmp_path, content))


@pytest.mark.parametrize("same", [2, 2.0, "2", "2.0"])
def test_images_of_one_id_are_unknown(cells: Sample, tmp_path: Path, same: Any) -> None:
    path = written(tmp_path, changed("images", 2, id=same))
    with pytest.raises(InputError, match=r"1 images of the same id \(image 2 'cell c.tif'\)"):
        imported(cells, path)
    assert imported(cells, path, on_invalid="skip").incomplete == {"mito": 2, "er": 2}
    assert starts_of(cells) == {0: [10.0]}


def test_images_without_boxes_are_unknown_where_ids_do_not_fit(
    cells: Sample, tmp_path: Path
) -> None:
    content = coco()
    content["annotations"][1]["image_id"] = "cell b"
    path = written(tmp_path, content)
    with pytest.raises(
        InputError,
        match=r"1 annotations of an image that is not listed .annotation 2: image_id cell b.",
    ):
        imported(cells, path)
    imported(cells, path, on_invalid="skip")
    assert starts_of(cells) == {0: [10.0], 2: [30.0]}


@pytest.mark.parametrize(
    "image", [{"id": 2}, {"id": 2, "file_name": ""}, {"file_name": "cell b.tif"}, 5]
)
def test_other_images_are_not_empty_where_one_is_not_known(
    cells: Sample, tmp_path: Path, image: Any
) -> None:
    content = coco()
    content["images"][1] = image
    path = written(tmp_path, content)
    with pytest.raises(InputError, match="1 images without id or file_name"):
        imported(cells, path)
    imported(cells, path, on_invalid="skip", unlisted_images="empty")
    assert starts_of(cells) == {0: [10.0], 2: [30.0]}


# images


@pytest.mark.parametrize(
    "size",
    [
        {"height": 60.0, "width": 80.0},
        {"height": "60", "width": "80"},
        {"height": None, "width": None},
        {"height": float("nan"), "width": ""},
        {"height": None},
    ],
)
def test_sizes_may_be_written_in_several_manners_or_missing(
    cells: Sample, tmp_path: Path, size: dict[str, Any]
) -> None:
    imported(cells, written(tmp_path, changed("images", 1, **size)))
    assert starts_of(cells) == ALL


def test_sizes_that_are_not_stated_are_those_of_the_images(cells: Sample, tmp_path: Path) -> None:
    content = coco(
        images=[{"id": n, "file_name": f"{name}.tif"} for n, name in enumerate(NAMES, 1)]
    )
    imported(cells, written(tmp_path, content))
    assert starts_of(cells) == ALL


@pytest.mark.parametrize("width", [0, -80, "wide", 80.5, True, [80], 100])
def test_an_image_of_a_wrong_size_is_unknown(cells: Sample, tmp_path: Path, width: Any) -> None:
    path = written(tmp_path, changed("images", 1, width=width))
    with pytest.raises(
        InputError, match=r"images (without a size|of another size than the file says) \("
    ):
        imported(cells, path)
    imported(cells, path, on_invalid="skip", unlisted_images="empty")
    assert starts_of(cells) == {0: [10.0], 2: [30.0]}


@pytest.mark.parametrize(
    "name",
    [
        "folder/cell b.tif",
        "C:\\data\\cell b.png",
        "https://host/x/cell%20b.tif",
        unicodedata.normalize("NFD", "cell b.jpg"),
    ],
)
def test_names_of_images_may_have_folders(cells: Sample, tmp_path: Path, name: str) -> None:
    imported(cells, written(tmp_path, changed("images", 1, file_name=name)))
    assert starts_of(cells) == ALL


def test_letters_of_two_characters_are_one(tmp_path: Path) -> None:
    """macOS names files with the letter and its dots as two characters."""
    tifffile.imwrite(
        tmp_path / "Körper.tif", np.full((HEIGHT, WIDTH), 100, np.uint8), photometric="minisblack"
    )
    sample = import_stack(
        tmp_path / "Körper.tif",
        tmp_path / "k.zarr",
        ImportSettings(voxel_nm=(4, 4, 4), montage=True),
        on=QUIET,
    )
    name = unicodedata.normalize("NFD", "Körper.tif")
    imported(
        sample, written(tmp_path, f"image,class,x0,y0,x1,y1\n{name},mito,10,20,40,45\n", "b.csv")
    )
    assert starts_of(sample) == {0: [10.0]}


# annotations


@pytest.mark.parametrize(
    "values",
    [
        {"bbox": ["20", "20.0", " 30 ", 25]},
        {"bbox": "[20, 20, 30, 25]"},
        {"bbox": None, "segmentation": [[20, 20, 50, 20, 50, 45, 20, 45]]},
        {"bbox": [], "segmentation": [[20, 20, 30, 20, 30, 45], [40, 30, 50, 30, 50, 45]]},
        {"bbox": float("nan"), "segmentation": "[[20, 20, 50, 20, 50, 45]]"},
        {"iscrowd": 0.0},
        {"iscrowd": "0"},
        {"iscrowd": float("nan")},
        {"iscrowd": False},
    ],
)
def test_boxes_may_be_written_in_several_manners(
    cells: Sample, tmp_path: Path, values: dict[str, Any]
) -> None:
    imported(cells, written(tmp_path, changed("annotations", 1, **values)))
    assert starts_of(cells) == ALL
    assert read_annotated_boxes(cells, "mito").boxes.corners[1].tolist() == [20, 20, 50, 45]


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "a mask only": (
        {"bbox": None, "segmentation": {"size": [60, 80], "counts": [20, 30, 4750]}},
        r"without four numbers as bbox: masks",
    ),
    "a compressed mask only": (
        {"bbox": None, "segmentation": {"size": [60, 80], "counts": "aB3"}},
        r"without four numbers as bbox: masks",
    ),
    "a polygon of two points": (
        {"bbox": None, "segmentation": [[1, 2, 3, 4]]},
        "without four numbers as bbox",
    ),
    "three numbers": ({"bbox": [1, 2, 3]}, "without four numbers as bbox"),
    "words": ({"bbox": ["a", 2, 3, 4]}, "without four numbers as bbox"),
    "truth values": ({"bbox": [True, 2, 3, 4]}, "without four numbers as bbox"),
    "no number": ({"bbox": [float("nan"), 2, 30, 40]}, "with corners that are not numbers"),
    "no area": ({"bbox": [10, 10, 0, 20]}, "boxes without area"),
    "beyond the image": ({"bbox": [60, 20, 40, 25]}, "boxes outside of their image"),
    "a crowd": ({"iscrowd": 1}, "around a crowd"),
    "a crowd in words of JSON": ({"iscrowd": True}, "around a crowd"),
    "an unknown class": ({"category_id": 5}, "of an unknown class"),
    "no class": ({"category_id": float("nan")}, "of an unknown class"),
    "another box of a known id": ({"id": 1}, "annotations of the same id"),
    "corners, as its polygon says": (
        {"bbox": [20, 20, 50, 45], "segmentation": [[20, 20, 50, 20, 50, 45]]},
        "bbox of x0, y0, x1, y1",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_an_image_that_lost_a_box_is_unknown(cells: Sample, tmp_path: Path, what: str) -> None:
    """The image is neither empty nor complete, even where all other images are empty."""
    values, sentence = LOST[what]
    path = written(tmp_path, changed("annotations", 1, **values))
    with pytest.raises(InputError, match=sentence) as error:
        imported(cells, path)
    assert "\n" not in str(error.value)
    summary = imported(cells, path, on_invalid="skip", unlisted_images="empty")
    assert starts_of(cells) == {0: [10.0], 2: [30.0]}
    assert summary.incomplete["mito"] == 1
    assert summary.images == (2 if "er" in summary.incomplete else 3)


def test_lost_boxes_of_one_class_leave_others_complete(
    cells: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco()
    content["annotations"].append({"id": 9, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3]})
    summary = imported(cells, written(tmp_path, content), SHOWN, on_invalid="skip")
    assert starts_of(cells) == ALL
    assert starts_of(cells, "er") == {0: [], 2: []}
    assert summary.incomplete == {"er": 1}
    assert "1 image is not completely annotated with er" in capsys.readouterr().err


def test_faults_that_hide_no_object_keep_the_image(cells: Sample, tmp_path: Path) -> None:
    """A duplicate box, a box below the minimum size, and a box of a class without a valid name."""
    content = coco(categories=[{"id": 1, "name": "mito"}, {"id": 2, "name": "cell body"}])
    content["annotations"] += [
        {**content["annotations"][0]},
        {**content["annotations"][1], "id": 10},
        {"id": 11, "image_id": 3, "category_id": 1, "bbox": [5, 5, 1, 1]},
        {"id": 12, "image_id": 3, "category_id": 2, "bbox": [5, 5, 20, 20]},
    ]
    summary = imported(cells, written(tmp_path, content), on_invalid="skip")
    assert starts_of(cells) == ALL
    assert (summary.incomplete, summary.small) == ({}, 1)


def test_clipped_boxes_keep_the_image(cells: Sample, tmp_path: Path) -> None:
    content = coco()
    content["annotations"] += [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [x, 5, 30, 20]}
        for n, x in ((8, 70), (9, 90))
    ]
    imported(cells, written(tmp_path, content), on_invalid="clip")
    assert starts_of(cells) == {**ALL, 0: [10.0, 70.0]}


def test_boxes_that_could_be_corners_are_reported(
    cells: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [10 * n, 20, 10 * n + 30, 35]}
        for n in (1, 2, 3)
    ]
    imported(cells, written(tmp_path, coco(annotations=boxes)), SHOWN, on_invalid="clip")
    assert (
        "Note: all 3 boxes of b.json could be x0, y0, x1, y1; COCO's bbox is x, y, width, height"
        in capsys.readouterr().err
    )
    imported(cells, written(tmp_path, coco(), "c.json"), Execution(overwrite=True))
    assert "could be" not in capsys.readouterr().err  # their areas say what they are


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_fractions_where_pixels_are_expected(cells: Sample, tmp_path: Path, suffix: str) -> None:
    content: Any = "image,class,x0,y0,x1,y1\ncell a,mito,0.1,0.2,0.4,0.45\n"
    if suffix == ".json":
        content = changed("annotations", 0, bbox=[0.1, 0.2, 0.3, 0.25], area=None)
        content["annotations"] = content["annotations"][:1]
    with pytest.raises(
        InputError, match=r"holds corners from 0.1 to 0.45; expected pixels, not fractions"
    ):
        imported(cells, written(tmp_path, content, f"b{suffix}"))


# JSON as pandas writes it

ROWS = [
    {"image": name, "class": 1.0, "x0": 10.0 * n, "y0": 20, "x1": 10 * n + 30, "y1": 45}
    for n, name in enumerate(NAMES, 1)
]
TABLES_IN_JSON: dict[str, Any] = {
    "records": ROWS,
    "split": {
        "columns": list(ROWS[0]),
        "index": [0, 1, 2],
        "data": [list(row.values()) for row in ROWS],
    },
    "columns": {key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]},
}


@pytest.mark.parametrize("orient", TABLES_IN_JSON)
def test_tables_of_pandas_are_read(cells: Sample, tmp_path: Path, orient: str) -> None:
    imported(cells, written(tmp_path, TABLES_IN_JSON[orient]), classes={"1": "mito"})
    assert starts_of(cells) == ALL


@pytest.mark.parametrize("orient", ["split", "columns"])
def test_coco_lists_may_be_tables_of_pandas(cells: Sample, tmp_path: Path, orient: str) -> None:
    content = coco()
    for key, rows in coco().items():
        if orient == "split":
            content[key] = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        else:
            content[key] = {
                name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]
            }
    imported(cells, written(tmp_path, content))
    assert starts_of(cells) == ALL


def test_a_list_of_detections_is_no_table_of_boxes(tmp_path: Path) -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 25], "score": 0.9}]
    with pytest.raises(
        InputError, match=r"has the columns image_id, category_id, bbox, score; expected an image"
    ):
        read_boxes(written(tmp_path, results))


# YOLO


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Labels of the three images, a box each."""
    path = tmp_path / "yolo"
    (path / "labels").mkdir(parents=True)
    (path / "classes.txt").write_text("mito\ner\n")
    for n, name in enumerate(NAMES, 1):
        (path / "labels" / f"{name}.txt").write_text(
            f"0 {(10 * n + 15) / WIDTH} {32.5 / HEIGHT} {30 / WIDTH} {25 / HEIGHT}\n"
        )
    return path


POLYGON = f"{20 / WIDTH} {20 / HEIGHT} {50 / WIDTH} {20 / HEIGHT} {50 / WIDTH} {45 / HEIGHT}"
BOX = f"{35 / WIDTH} {32.5 / HEIGHT} {30 / WIDTH} {25 / HEIGHT}"


@pytest.mark.parametrize(
    "line",
    [
        f"0 {BOX}",
        f"0 {BOX} 0.93",
        f"0 {POLYGON}",
        f"0 {POLYGON} 0.93",
        f"0.0 {BOX}".replace(".", ","),
    ],
)
def test_yolo_boxes_and_polygons(cells: Sample, yolo: Path, line: str) -> None:
    (yolo / "labels" / "cell b.txt").write_text(line)
    imported(cells, yolo)
    assert starts_of(cells) == pytest.approx(ALL)
    np.testing.assert_allclose(
        read_annotated_boxes(cells, "mito").boxes.corners[1], [20, 20, 50, 45], atol=1e-3
    )


def test_hidden_files_are_passed_over(cells: Sample, yolo: Path) -> None:
    for file in (
        "labels/._cell a.txt",
        "__MACOSX/labels/cell b.txt",
        ".git/x.txt",
        "labels/.ipynb_checkpoints/cell c.txt",
    ):
        (yolo / file).parent.mkdir(parents=True, exist_ok=True)
        (yolo / file).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \xff\xfe")
    (yolo / "._data.yaml").write_bytes(b"\0\xff")
    imported(cells, yolo)
    assert starts_of(cells) == pytest.approx(ALL)


def test_an_empty_label_file_is_an_empty_image_and_none_is_unknown(
    cells: Sample, yolo: Path
) -> None:
    (yolo / "labels" / "cell a.txt").write_text("\n")
    (yolo / "labels" / "cell c.txt").unlink()
    imported(cells, yolo)
    assert starts_of(cells) == pytest.approx({0: [], 1: [20.0]})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"0 0.5 0.5 0.5\n", "1 lines that are not 'class x y width height'"),
        (
            b"0 0.5 0.5 0.2 0.2\nmito 0.5 0.5 0.5 0.5\n",
            "1 lines that are not 'class x y width height'",
        ),
        (b"0 nan 0.5 0.5 0.5\n", "1 lines that are not 'class x y width height'"),
        (b"7 0.5 0.5 0.5 0.5\n", r"1 lines of an unknown class \(cell b.txt line 1: 7 of 0, 1\)"),
        (b"0 40 30 20 20\n", "1 lines in pixels"),
        (b"0 10 10 20 10 20 30\n", "1 lines in pixels"),
        (b"0 0.1 0.1 0.5 0.1 1.4 0.3\n", "1 boxes outside of their image"),
        (b"\xff\xfe\x00", "1 label files that cannot be read as text"),
        (b"PK\x03\x04\x00\xff", "1 label files that cannot be read as text"),
    ],
)
def test_a_wrong_label_file_makes_its_image_unknown(
    cells: Sample, yolo: Path, content: bytes, sentence: str
) -> None:
    (yolo / "labels" / "cell b.txt").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        imported(cells, yolo)
    imported(cells, yolo, on_invalid="skip", unlisted_images="empty")
    assert starts_of(cells) == pytest.approx({0: [10.0], 2: [30.0]})


def test_keypoints_are_no_polygon(cells: Sample, yolo: Path) -> None:
    (yolo / "data.yaml").write_text("kpt_shape: [1, 2]\nnames: [mito, er]\n")
    for n, name in enumerate(NAMES, 1):
        line = f"0 {(10 * n + 15) / WIDTH} {32.5 / HEIGHT} {30 / WIDTH} {25 / HEIGHT} 0.01 0.01\n"
        (yolo / "labels" / f"{name}.txt").write_text(line)
    imported(cells, yolo)
    assert starts_of(cells) == pytest.approx(ALL)


@pytest.mark.parametrize(
    "names",
    [
        "{1: er, 0: mito}",
        "{'0': mito, '1': er}",
        "[mito, er]",
        "{0: mito, 1: er}",
        "{0: mito, 5: er}",
    ],
)
def test_classes_of_a_yaml_have_their_numbers(cells: Sample, yolo: Path, names: str) -> None:
    (yolo / "classes.txt").unlink()
    (yolo / "data.yaml").write_text(f"names: {names}\n")
    (yolo / "labels" / "cell a.txt").write_text(f"{'5' if '5' in names else '1'} {BOX}\n")
    imported(cells, yolo)
    assert starts_of(cells, "er") == pytest.approx({0: [20.0], 1: [], 2: []})
    assert starts_of(cells) == pytest.approx({0: [], 1: [20.0], 2: [30.0]})


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"classes.txt": "mito\n\ner\n"}, r"classes.txt has no name in line 2"),
        (
            {"data.yaml": "names: [er, mito]"},
            r"classes.txt and data.yaml in .* name the classes differently",
        ),
        ({"labels/train/classes.txt": "er\n"}, "name the classes differently"),
        (
            {"data.yaml": "names: {a: mito}"},
            "data.yaml is not a YAML file with the names of classes",
        ),
        ({"data.yaml": "names: mito"}, "data.yaml is not a YAML file with the names of classes"),
    ],
)
def test_classes_that_are_unclear(yolo: Path, files: dict[str, str], sentence: str) -> None:
    for name, text in files.items():
        (yolo / name).parent.mkdir(exist_ok=True)
        (yolo / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_boxes(yolo)


# tables

TABLE = "image;class;x0;y0;x1;y1\ncell a;mito;10,5;20,0;40,5;45,0\ncell b;mito;20;20;50;45\n"
SAVED: dict[str, bytes] = {
    "with a byte order mark": TABLE.encode("utf-8-sig"),
    "in UTF-16": TABLE.encode("utf-16"),
    "for Windows": TABLE.replace("\n", "\r\n").encode(),
    "with empty lines and cells": TABLE.replace("\n", ";;\n").encode() + b";;;;;;;\n\n ; ; ;\n\n",
    "with its separator": b"sep=;\r\n" + TABLE.encode(),
    "with quotes": TABLE.replace("cell a;mito;10,5", '"cell a"; "mito";"10,5"').encode(),
    "with other headers": TABLE.replace(
        "image;class;x0;y0;x1;y1", " File Name ;CLASS; X_min (px);y-min [px];XMAX;Y Max"
    ).encode(),
    "with tabs": TABLE.replace(";", "\t").encode(),
    "with commas": TABLE.replace(",", ".").replace(";", ",").encode(),
    "with commas and quotes": TABLE.replace(";", '","')
    .replace("\n", '"\n"')
    .strip('"')
    .join(['"', ""])
    .encode(),
}


@pytest.mark.parametrize("how", SAVED)
def test_tables_of_spreadsheets(cells: Sample, tmp_path: Path, how: str) -> None:
    imported(cells, written(tmp_path, SAVED[how], "b.csv"))
    assert starts_of(cells) == {0: [10.5], 1: [20.0]}


REFUSED: dict[str, tuple[bytes, str]] = {
    "an encoding of Windows": (
        "image;class;x0;y0;x1;y1\ncell a;Zellkörper;1;2;30;40\n".encode("cp1252"),
        r"0xf6 in line 2.*'CSV UTF-8'",
    ),
    "no byte order mark": (
        TABLE.encode("utf-16-le"),
        "cannot be read as text: it holds bytes of 0",
    ),
    "half of UTF-16": (TABLE.encode("utf-16")[:-1], "it is not in UTF-16"),
    "a column twice": (
        b"image,class,x0,x0,y0,x1,y1\ncell a,mito,1,2,3,30,40\n",
        "has two columns called 'x0'",
    ),
    "thousands or decimals": (
        b"image;class;x0;y0;x1;y1\ncell a;mito;1.234;20;1.300;45\n",
        "may be thousands or decimals",
    ),
    "thousands or decimals with commas": (
        b'image,class,x0,y0,x1,y1\ncell a,mito,"1,234",20,"1,300",45\n',
        "may be thousands or decimals",
    ),
    "micrometers": ("image;class;x0 (µm);y0 (µm);x1 (µm);y1 (µm)\n".encode(), "expected an image"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_tables_that_are_unclear(cells: Sample, tmp_path: Path, what: str) -> None:
    content, sentence = REFUSED[what]
    with pytest.raises(InputError, match=sentence) as error:
        imported(cells, written(tmp_path, content, "b.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "complete"),
    [
        ("cell b,mito,1,2,3,30,40", [0]),  # a value too many
        ("cell b,mito,1,2", [0]),
        ("cell b,mito,one,2,30,40", [0]),
        ("cell b,,1,2,30,40", [0]),
        ("cell b,mito,30,2,1,40", [0]),
        ("cell b,mito,1,2,300,40", [0]),
        ("elsewhere,mito,1,2,30,40", [0, 1, 2]),  # of another sample
        (",mito,1,2,30,40", None),  # of any image
    ],
)
def test_rows_that_are_lost(
    cells: Sample, tmp_path: Path, row: str, complete: list[int] | None
) -> None:
    text = f"image,class,x0,y0,x1,y1\ncell a,mito,10,20,40,45\ncell b,mito,20,20,50,45\n{row}\n"
    path = written(tmp_path, text, "b.csv")
    with pytest.raises(InputError, match=r"1 (rows|boxes|images)"):
        imported(cells, path)
    settings: dict[str, Any] = {"on_invalid": "skip", "unlisted_images": "empty"}
    if complete is None:
        with pytest.raises(InputError, match="no image is completely annotated"):
            imported(cells, path, **settings)
    else:
        imported(cells, path, **settings)
        assert list(starts_of(cells)) == (complete if 1 in complete else [*complete, 2])


STYLES = {  # decimal mark, separator of thousands, separator of values
    "English": (".", ",", ","),
    "German": (",", ".", ";"),
    "French": (",", "\u202f", ";"),
    "Swiss": (".", "'", ";"),
    "programs": (".", "", ","),
    "programs, tabs": (".", "", "\t"),
    "German, plain": (",", "", ";"),
}


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 4)), min_size=1, max_size=12),
    st.sampled_from(sorted(STYLES)),
)
def test_a_number_is_read_right_or_not_at_all(drawn: list[tuple[int, int]], style: str) -> None:
    decimal, thousands, separator = STYLES[style]
    values = [number / 10**digits for number, digits in drawn]
    words = [f"{value:,.{digits}f}" for value, (_, digits) in zip(values, drawn, strict=True)]
    words = [word.replace(",", "t").replace(".", decimal).replace("t", thousands) for word in words]
    mark = decimal_mark(words, separator)
    for value, word in zip(values, words, strict=True):
        assert parse_number(word, mark) in (None, pytest.approx(value))
    clear = [word for word in words if "." in word or "," in word] and mark != "?"
    if clear:
        assert all(parse_number(word, mark) is not None for word in words)


def test_slices_counted_from_one_are_refused(
    cells: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def table(*numbers: Any) -> Path:
        rows = [f"{z},mito,10,20,40,45\n" for z in numbers]
        return written(tmp_path, "z,class,x0,y0,x1,y1\n" + "".join(rows), "b.csv")

    refused: tuple[dict[str, Any], ...] = ({}, {"on_invalid": "skip"})
    for settings in refused:
        for numbers in ((1, 2, 3), (1, 3), (2, 3), ("2.0", "3,0")):
            with pytest.raises(
                InputError,
                match=r"b.csv: z counts from 0; the file holds [12] to 3, but S.zarr has slices 0 to 2",
            ):
                imported(cells, table(*numbers), **settings)
    imported(cells, table(1, 2), SHOWN)
    assert (
        "Note: z counts from 0; b.csv holds slices 1 to 2, and no box of slice 0."
        in capsys.readouterr().err
    )
    assert list(starts_of(cells)) == [1, 2]
    with pytest.raises(InputError, match=r"2 images that are in none of the samples \(slice 3"):
        imported(cells, table(0, 3, 9))
