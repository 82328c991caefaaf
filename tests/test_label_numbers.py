"""Numbers of label files: read as stored, validated, renumbered, as mask or objects."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.label_numbers import UNLABELED, SpecialNumbers, integer_labels, is_any_of
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.labeled_slices import UNKNOWN, read_annotation, read_renumbering
from sparsem.annotation.renumbering import (
    extend_renumbering,
    identity_renumbering,
    make_renumbering,
)
from sparsem.annotation.settings import AnnotationSettings
from sparsem.errors import InputError, SettingsError
from sparsem.io.ingest import import_stack
from sparsem.io.readers.open import open_source
from sparsem.io.settings import ImportSettings
from sparsem.labels.objects import objects
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.settings import parse
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

Image8 = NDArray[np.uint8]
Z, Y, X = 6, 48, 64
SLICES = (1, 4)
HUGE = 720575940621039145  # times 1 and 2: beyond 32 bits and beyond what a float64 holds exactly
QUIET = Execution(quiet=True)


def two_bodies() -> Image8:
    """Return two disjoint boxes, numbered 1 and 2.

    Of the annotated slices, 2 is on slice 4 only.
    """
    labels = np.zeros((Z, Y, X), np.uint8)
    labels[1:6, 8:30, 10:33] = 1
    labels[3:5, 34:44, 40:58] = 2
    return labels


LABELS = two_bodies()
GRAY = (np.random.default_rng(4).integers(0, 256, LABELS.shape)).astype(np.uint8)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Return a small sample of noise."""
    np.save(tmp_path / "gray.npy", GRAY)
    return import_stack(
        tmp_path / "gray.npy",
        tmp_path / "s.zarr",
        ImportSettings(voxel_nm=(8, 4, 4), block_depth=2),
        on=QUIET,
    )


def tif(path: Path, labels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, labels, **({"photometric": "minisblack"} | options))
    return path


def png_of_bits(path: Path, image: Image8, bits: int) -> None:
    """Write a gray PNG of 1, 2 or 4 bits a pixel."""
    height, width = image.shape
    packed = np.packbits(
        np.unpackbits(image[..., None], axis=2)[..., 8 - bits :].reshape(height, -1), axis=1
    )

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def indexed_png(path: Path, image: Image8, **options: Any) -> None:
    palette_image = Image.fromarray(image, "P")
    palette_image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette_image.save(path, **options)


def indexed_tif(path: Path, image: Image8) -> None:
    colors = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    tif(path, image, photometric="palette", colormap=colors)


def folder_of(
    tmp_path: Path,
    write: Callable[[Path, Image8], Any],
    ending: str = "tif",
    labels: NDArray[Any] = LABELS,
) -> Path:
    """Write the annotated slices, one file each, and return their folder."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for z in SLICES:
        write(folder / f"m_{z:03d}.{ending}", labels[z])
    return folder


def annotated(sample: Sample, source: Path, name: str = "n", **settings: Any) -> list[Image8]:
    """Import an annotation and return the masks of its slices."""
    import_annotation(sample, name, source, AnnotationSettings(**settings))
    annotation = read_annotation(sample, next(iter(settings.get("classes", {name: ()}))))
    return [annotation.mask(index) for index in range(len(annotation.z))]


def assert_masks(masks: list[Image8], expected: NDArray[Any]) -> None:
    for mask, z in zip(masks, SLICES, strict=True):
        np.testing.assert_array_equal(mask, expected[z])


# Numbers as they are stored, gray levels as they are displayed.

INDEXED: dict[str, tuple[str, Callable[[Path, Image8], Any]]] = {
    "palette PNG": ("png", indexed_png),
    "palette PNG of 2 bits": ("png", lambda path, image: indexed_png(path, image, bits=2)),
    "palette PNG with transparency": (
        "png",
        lambda path, image: indexed_png(path, image, transparency=0),
    ),
    "gray PNG with transparency": (
        "png",
        lambda path, image: Image.fromarray(image).save(path, transparency=0),
    ),
    "gray PNG of 2 bits": ("png", lambda path, image: png_of_bits(path, image, 2)),
    "gray PNG of 4 bits": ("png", lambda path, image: png_of_bits(path, image, 4)),
    "gray PNG of 16 bits": (
        "png",
        lambda path, image: cv2.imwrite(str(path), image.astype(np.uint16)),
    ),
    "palette TIFF": ("tif", indexed_tif),
    "TIFF of 2 bits": ("tif", lambda path, image: tif(path, image, bitspersample=2)),
    "TIFF of 4 bits": ("tif", lambda path, image: tif(path, image, bitspersample=4)),
    "TIFF of 12 bits": (
        "tif",
        lambda path, image: tif(path, image.astype(np.uint16), bitspersample=12),
    ),
}


@pytest.mark.parametrize("kind", INDEXED)
def test_palette_indices_and_few_bits_are_class_numbers(
    sample: Sample, tmp_path: Path, kind: str
) -> None:
    ending, write = INDEXED[kind]
    folder = folder_of(tmp_path, write, ending)
    assert_masks(
        annotated(sample, folder, "set", classes={"first": (1,), "second": (2,)}), LABELS == 1
    )
    assert [
        mask.max() for mask in (read_annotation(sample, "second").mask(index) for index in (0, 1))
    ] == [0, 1]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_images_of_few_bits_fill_the_range(tmp_path: Path, bits: int) -> None:
    few = GRAY >> (8 - bits)
    png_of_bits(tmp_path / "a.png", few[0], bits)
    tif(tmp_path / "a.tif", few > 0 if bits == 1 else few, bitspersample=bits)
    expected = few * (255 // (2**bits - 1))
    np.testing.assert_array_equal(open_source(tmp_path / "a.png").stack[0:1], expected[:1])
    np.testing.assert_array_equal(open_source(tmp_path / "a.tif").stack[2:5], expected[2:5])
    np.testing.assert_array_equal(open_source(tmp_path / "a.png", labels=True).stack[0:1], few[:1])


def test_a_gray_palette_is_applied_and_a_color_palette_is_refused(tmp_path: Path) -> None:
    levels = (255 - np.arange(256)) * 257
    tif(
        tmp_path / "gray.tif",
        GRAY,
        photometric="palette",
        colormap=np.tile(levels.astype(np.uint16), (3, 1)),
    )
    np.testing.assert_array_equal(open_source(tmp_path / "gray.tif").stack[0:Z], 255 - GRAY)
    indexed_tif(tmp_path / "color.tif", GRAY)
    indexed_png(tmp_path / "color.png", LABELS[4])
    for name in ("color.tif", "color.png"):
        with pytest.raises(InputError, match=f"{name} has a color palette; expected a gray image"):
            open_source(tmp_path / name)
    palette_image = Image.fromarray(GRAY[0], "P")
    palette_image.putpalette([level for gray in range(256) for level in [255 - gray] * 3])
    palette_image.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(open_source(tmp_path / "gray.png").stack[0:1], 255 - GRAY[:1])


@pytest.mark.parametrize(
    ("image", "labels", "sentence"),
    [
        (
            np.dstack([LABELS[4] * 100] * 3),
            True,
            r"\(48, 64, 3\) whose channels are equal; save it as a gray image, which keeps",
        ),
        (
            np.dstack([LABELS[4] * 100] * 3 + [LABELS[4] * 0 + 255]),
            True,
            r"\(48, 64, 4\) whose channels are equal; save it as a gray",
        ),
        (
            np.dstack([LABELS[4] * 100, LABELS[4], LABELS[4]]),
            True,
            "converting it to gray mixes classes up. Export the numbers of classes",
        ),
        (np.dstack([LABELS[4] * 100, LABELS[4], LABELS[4]]), False, "convert it to gray first"),
        (
            np.dstack([LABELS[4], LABELS[4]]),
            True,
            r"has an alpha channel \(48, 64, 2\); save it as a gray image without one",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_advice_about_color_is_right(
    tmp_path: Path, image: Any, labels: bool, sentence: str, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "png":
        Image.fromarray(image).save(path)
    else:
        alpha = ["unassalpha"] if image.shape[-1] in (2, 4) else []
        photometric = "minisblack" if image.shape[-1] == 2 else "rgb"
        tifffile.imwrite(
            path, image, photometric=photometric, planarconfig="contig", extrasamples=alpha
        )
    with pytest.raises(InputError, match=sentence):
        open_source(path, labels=labels)
    if "equal" in sentence:  # the advice, followed
        Image.fromarray(image).convert("L").save(tmp_path / "gray.png")
        np.testing.assert_array_equal(
            open_source(tmp_path / "gray.png", labels=True).stack[0:1], image[None, ..., 0]
        )


# "Min is white": stored and displayed numbers are opposite.


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_masks_with_white_as_0_have_two_meanings(sample: Sample, tmp_path: Path, kind: Any) -> None:
    inside = LABELS == 1
    labels = (
        inside if kind is bool else inside.astype(np.uint8) * 255
    )  # as tifffile, and as Fiji with an inverting lookup table
    folder = folder_of(
        tmp_path, lambda path, array: tif(path, array, photometric="miniswhite"), labels=labels
    )
    with pytest.raises(
        InputError,
        match=r"m_001.tif is a 'min is white' TIFF: .* Give --min-is-white stored or displayed .*Invert LUT",
    ):
        annotated(sample, folder)
    assert_masks(annotated(sample, folder, "a", min_is_white="stored"), inside)
    assert_masks(annotated(sample, folder, "b", min_is_white="displayed"), ~inside)
    for z in (
        SLICES
    ):  # what Fiji's Image > Lookup Tables > Invert LUT leaves: the same numbers, black as 0
        tif(folder / f"m_{z:03d}.tif", labels[z])
    assert_masks(annotated(sample, folder, "c"), inside)


def test_labels_with_white_as_0_are_inverted_only_as_masks(sample: Sample, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda path, array: tif(path, array, photometric="miniswhite"))
    with pytest.raises(
        InputError,
        match=r"m_001.tif holds the number 1, and only masks of 0 and 255 can be inverted; use --min-is",
    ):
        annotated(sample, folder, min_is_white="displayed")
    assert_masks(annotated(sample, folder, min_is_white="stored"), LABELS > 0)
    wide = tif(tmp_path / "wide.tif", LABELS.astype(np.int32), photometric="miniswhite")
    with pytest.raises(
        InputError, match="'min is white' TIFF of int32, whose inverse is not defined"
    ):
        annotated(sample, wide, slices="all", min_is_white="displayed")


def test_labels_of_every_slice_and_truth_with_white_as_0(sample: Sample, tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", LABELS == 1, photometric="miniswhite")
    with pytest.raises(InputError, match="is a 'min is white' TIFF"):
        import_labels(sample.path, "n", path, on=QUIET)
    import_labels(sample.path, "n", path, ImportSettings(min_is_white="stored"), on=QUIET)
    np.testing.assert_array_equal(sample.volume("labels", "n").read(slice(None)), LABELS == 1)
    with pytest.raises(InputError, match="is a 'min is white' TIFF"):
        score(sample, "n", path, ScoreSettings(slices="all"), on=QUIET)
    assert (
        score(
            sample, "n", path, ScoreSettings(slices="all", min_is_white="stored"), on=QUIET
        ).summary()["dice_3d"]
        == 1
    )
    assert (
        score(
            sample, "n", path, ScoreSettings(slices="all", min_is_white="displayed"), on=QUIET
        ).summary()["dice_3d"]
        == 0
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_images_with_white_as_0_are_taken_as_displayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    stack = GRAY.astype(kind) * (1 if kind == np.uint8 else 200)
    tif(tmp_path / "a.tif", stack, photometric="miniswhite")
    (tmp_path / "slices").mkdir()
    for z in range(Z):
        tif(tmp_path / "slices" / f"s{z}.tif", stack[z], photometric="miniswhite")
    for source, name in (("a.tif", "a.tif"), ("slices", "s0.tif")):
        imported_sample = import_stack(
            tmp_path / source,
            tmp_path / f"{source}.zarr",
            ImportSettings(voxel_nm=(8, 4, 4)),
            on=Execution(),
        )
        np.testing.assert_array_equal(
            imported_sample.image().read(slice(None)), np.iinfo(kind).max - stack
        )
        assert f"Note: {name} is a 'min is white' TIFF: its gray levels are inverted" in " ".join(
            capsys.readouterr().err.split()
        )
    settings = ImportSettings(voxel_nm=(8, 4, 4), min_is_white="stored")
    stored = import_stack(tmp_path / "a.tif", tmp_path / "stored.zarr", settings, on=QUIET)
    np.testing.assert_array_equal(stored.image().read(slice(None)), stack)


# Numbers of unlabeled pixels.


@pytest.mark.parametrize(
    ("kind", "mark"),
    [(kind, -1) for kind in (np.int8, np.int16, np.int32, np.int64, np.float32, np.float64)]
    + [
        (np.int16, -2),
        (np.uint8, 255),
        (np.uint16, 65535),
        (np.uint32, 2**32 - 1),
        (np.uint64, 2**64 - 1),
        (np.int64, 2**63 - 1),
    ],
)
def test_a_number_for_unlabeled_pixels(
    sample: Sample, tmp_path: Path, kind: Any, mark: int
) -> None:
    labels = (LABELS == 1).astype(kind)
    labels[:, :4] = mark
    folder = folder_of(tmp_path, tif, labels=labels)
    expected = np.where(labels == kind(mark), UNKNOWN, LABELS == 1)
    assert_masks(annotated(sample, folder, "known", ignore=mark), expected)
    if mark < 0 or mark >= 2**63 - 1:
        with pytest.raises(
            InputError,
            match=rf"Slice 1 of .* holds {mark}, but .*; give --ignore {mark} if these pixels are unlabeled",
        ):
            annotated(sample, folder)
    truth = tif(tmp_path / "truth.tif", labels)
    import_labels(
        sample.path, "n", tif(tmp_path / "n.tif", (LABELS == 1).astype(np.uint8)), on=QUIET
    )
    objects(sample, "n", min_voxels=1, on=QUIET)
    assert (
        score(
            sample, "n", truth, ScoreSettings(slices="all", ignore=mark, instances=True), on=QUIET
        ).summary()["dice_3d"]
        == 1
    )


def test_the_largest_number_of_a_type_is_reported(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cases: void of Pascal VOC, 255 objects, a mask that is 1 on a slice and 255 on another."""
    void = LABELS.copy()
    void[:, :4] = 255
    folder = folder_of(tmp_path, tif, labels=void)
    import_annotation(sample, "a", folder, on=Execution())
    assert "Note: pixels of 255 in" in (message := " ".join(capsys.readouterr().err.split()))
    assert "count as the structure; if they are unlabeled, give --ignore 255." in message
    import_annotation(sample, "b", folder, AnnotationSettings(classes={"b": (1,)}), on=Execution())
    assert "count as background; if they are unlabeled, give --ignore 255." in " ".join(
        capsys.readouterr().err.split()
    )
    import_annotation(
        sample, "c", folder, AnnotationSettings(ignore=255, classes={"c": (9,)}), on=Execution()
    )
    assert "the numbers of c=9; it holds 0, 1, 2, 255." in " ".join(capsys.readouterr().err.split())
    for z in SLICES:
        tif(folder / f"m_{z:03d}.tif", (LABELS[z] == 1) * np.uint8(1 if z == 1 else 255))
    import_annotation(sample, "d", folder, on=Execution())
    assert "255" not in capsys.readouterr().err


def test_labels_of_every_slice_with_a_number_for_background(sample: Sample, tmp_path: Path) -> None:
    labels = np.full(LABELS.shape, 2**64 - 1, np.uint64)
    labels[LABELS == 1] = 7
    labels[LABELS == 2] = 9
    path = tif(tmp_path / "clefts.tif", labels)
    with pytest.raises(
        InputError,
        match=r"Slice 0 of clefts.tif holds 18446744073709551615, .* give --background 18446744073709551615",
    ):
        import_labels(sample.path, "clefts", path, on=QUIET)
    import_labels(sample.path, "clefts", path, ImportSettings(background=2**64 - 1), on=QUIET)
    np.testing.assert_array_equal(
        sample.volume("labels", "clefts").read(slice(None)), np.array([0, 7, 9])[LABELS]
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"background": 0}, "0 is background already"),
        (
            {"classes": ["a=0,1"]},
            "a has the number 0, but the numbers of a class are 1 or more; 0 is background",
        ),
        ({"classes": ["a=-1"], "ignore": -1}, "a has the number -1"),
        ({"ignore": -1, "background": -1}, "-1 cannot be both ignored and background"),
    ],
)
def test_numbers_with_contradictory_meanings_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parse(AnnotationSettings, settings, "command line")


# Numbers beyond 32 bits.


@pytest.mark.parametrize("kind", [np.uint64, np.int64])
def test_numbers_beyond_32_bits_are_renumbered_in_order(
    sample: Sample, tmp_path: Path, kind: Any
) -> None:
    labels = LABELS.astype(kind) * HUGE
    folder = folder_of(tmp_path, tif, labels=labels)
    assert_masks(
        annotated(sample, folder, "set", classes={"first": (HUGE,), "second": (2 * HUGE,)}),
        LABELS == 1,
    )
    assert read_annotation(sample, "second").ids == (2,)
    assert sample.read_table("annotation_ids_set").to_pydict() == {
        "id": [1, 2],
        "file_id": [HUGE, 2 * HUGE],
    }
    import_labels(sample.path, "big", tif(tmp_path / "big.tif", labels), on=QUIET)
    np.testing.assert_array_equal(sample.volume("labels", "big").read(slice(None)), LABELS)
    assert sample.read_table("label_ids_big")["file_id"].to_pylist() == [HUGE, 2 * HUGE]
    score(
        sample, "big", tmp_path / "big.tif", ScoreSettings(slices="all", instances=True), on=QUIET
    )
    assert sample.read_table("dice_big").to_pydict()["dice"] == [1, 1]
    assert sample.read_table("truth_ids_big")["file_id"].to_pylist() == [HUGE, 2 * HUGE]
    only = score(
        sample, "big", tmp_path / "big.tif", ScoreSettings(slices="all", ids=(HUGE,)), on=QUIET
    ).summary()
    assert only["recall_3d"] == 1
    assert only["precision_3d"] == pytest.approx((LABELS == 1).sum() / (LABELS > 0).sum())
    assert "truth_ids_big" not in sample.tables  # of the last score, which numbers nothing


def test_slices_that_are_added_keep_numbers(sample: Sample, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tif, labels=LABELS.astype(np.uint64) * HUGE)
    import_annotation(sample, "n", folder, AnnotationSettings(ignore=3))
    more = LABELS[3].astype(np.uint64) * (2 * HUGE)
    more[LABELS[3] == 2] = HUGE - 1
    more[0, 0] = 3
    import_annotation(sample, "n", tif(tmp_path / "m_003.tif", more), AnnotationSettings(add=True))
    import_annotation(
        sample, "n", folder, AnnotationSettings(ignore=3), on=QUIET
    )  # the first folder again: nothing is lost
    annotation = read_annotation(sample, "n")
    assert annotation.z == (1, 3, 4)
    assert annotation.ignore == UNLABELED
    labels = np.asarray(annotation.labels[0:3])
    np.testing.assert_array_equal(labels[[0, 2]], LABELS[list(SLICES)])
    assert labels[1][LABELS[3] == 1].tolist() == [2] * int((LABELS[3] == 1).sum())
    assert labels[1][LABELS[3] == 2].tolist() == [3] * int((LABELS[3] == 2).sum())
    assert labels[1, 0, 0] == UNLABELED
    assert sample.read_table("annotation_ids_n").to_pydict() == {
        "id": [1, 2, 3],
        "file_id": [HUGE, 2 * HUGE, HUGE - 1],
    }


def test_small_numbers_stay_when_huge_ones_are_added(sample: Sample, tmp_path: Path) -> None:
    small = LABELS * np.uint8(7)
    small[:, 0] = 200
    import_annotation(
        sample, "n", folder_of(tmp_path, tif, labels=small), AnnotationSettings(ignore=200)
    )
    more = LABELS[3].astype(np.uint64) * 7
    more[LABELS[3] == 2] = HUGE
    more[0] = 200
    import_annotation(sample, "n", tif(tmp_path / "m_003.tif", more), AnnotationSettings(add=True))
    annotation = read_annotation(sample, "n")
    expected = LABELS.astype(np.uint32) * 7
    expected[3][LABELS[3] == 2] = 15  # the next after 7 and 14
    for index, z in enumerate(annotation.z):
        objects, known = annotation.objects(index)
        assert not known[0].any()
        assert known[1:].all()
        np.testing.assert_array_equal(objects, expected[z])
    assert read_renumbering(sample, "n").stored_number(HUGE) == 15


def test_annotations_move_along_with_the_highest_numbers(sample: Sample, tmp_path: Path) -> None:
    """An object of number 2^32 - 1 would be lost: the number stands for pixels outside the image."""
    labels = LABELS.astype(np.uint32) * (2**31)
    labels[LABELS == 2] = 2**32 - 1
    import_annotation(sample, "n", folder_of(tmp_path, tif, labels=labels))
    np.testing.assert_array_equal(
        np.asarray(read_annotation(sample, "n").labels[0:2]), LABELS[list(SLICES)]
    )


big_numbers = st.sets(st.integers(1, 2**64 - 2), min_size=1, max_size=12)


@given(big_numbers, big_numbers, st.sampled_from([None, -1, 0, 255, 2**64 - 1]))
def test_renumbering_is_one_to_one_and_extends(
    first: set[int], second: set[int], ignore: int | None
) -> None:
    special = SpecialNumbers(ignore)
    once = make_renumbering(first, special)
    more = extend_renumbering(once, first, second)
    marks = set() if ignore is None else {ignore}
    for numbers, mapping in ((first, once), (first | second, more)):
        objects = sorted(numbers - marks - {0})
        stored = [mapping.stored_number(number) for number in objects]
        assert len(set(stored)) == len(stored)
        assert not set(stored) & {0, *(mapping.stored_number(number) for number in marks)}
        assert max(stored, default=0) < 2**32
        file = np.array([*objects, 0], np.uint64)
        assert mapping.apply(file).tolist() == [*stored, 0]
    assert [more.stored_number(number) for number in first - marks] == [
        once.stored_number(number) for number in first - marks
    ]
    assert (
        sorted(once.stored.tolist()) == once.stored.tolist()
    )  # in ascending order of the file's numbers


def test_numbers_beyond_the_type_of_an_array_match_nothing() -> None:
    numbers = np.array([1, 2, 200], np.uint8)
    assert is_any_of(numbers, (1, 257, -1, 2**64 - 1)).tolist() == [True, False, False]
    wide = np.array([2**63 + 1, 2**63], np.uint64)
    assert is_any_of(wide, (2**63 + 1, 1)).tolist() == [True, False]
    with pytest.raises(KeyError):
        make_renumbering([HUGE]).apply(np.array([HUGE + 1], np.uint64))
    assert identity_renumbering(SpecialNumbers(-1)).apply(
        np.array([-1, 0, 3], np.int16)
    ).tolist() == [
        UNLABELED,
        0,
        3,
    ]


# Floats.


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            np.where(LABELS, np.nan, 0).astype(np.float32),
            r"slice 1 of .* holds NaN; replace them by a number that is not used",
        ),
        (np.where(LABELS, np.inf, 0).astype(np.float32), r"slice 1 of .* holds infinite values"),
        (
            LABELS * np.float32(0.37),
            r"slice 1 of .* holds float32 values such as 0.37; if it is a probability map, threshold it",
        ),
        (LABELS * 1.37, r"slice 1 of .* holds float64 values such as 1.37; save whole numbers"),
        (
            LABELS * np.float32(2**24),
            r"Slice 1 of .* holds float32 numbers up to 16777216, but these are exact only below 16777216",
        ),
        (
            LABELS * np.float64(2**53),
            r"but these are exact only below 9007199254740992: several objects may have the same number",
        ),
    ],
)
def test_floats_that_are_not_labels_are_refused_in_one_sentence(
    sample: Sample, tmp_path: Path, labels: NDArray[Any], sentence: str
) -> None:
    folder = folder_of(tmp_path, tif, labels=labels)
    with pytest.raises(InputError, match=sentence):
        annotated(sample, folder)
    path = tif(tmp_path / "all.tif", labels)
    for command in (
        lambda: import_labels(sample.path, "n", path, on=QUIET),
        lambda: score(sample, "m", path, ScoreSettings(slices="all"), on=QUIET),
    ):
        if "m" not in sample.names("labels"):
            import_labels(sample.path, "m", tif(tmp_path / "m.tif", LABELS), on=QUIET)
        with pytest.raises(InputError, match=sentence.replace(r" of .*", " of .*all.tif.*")):
            command()


def test_whole_floats_are_labels(sample: Sample, tmp_path: Path) -> None:
    assert_masks(
        annotated(sample, folder_of(tmp_path, tif, labels=LABELS.astype(np.float32))), LABELS > 0
    )
    assert integer_labels(np.array([[2.0**52, 0]]), "x").tolist() == [[2**52, 0]]


# Interpolated masks.


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("method", ["jpeg", "resized"])
def test_interpolated_masks_are_refused_everywhere(
    sample: Sample, tmp_path: Path, kind: Any, method: str
) -> None:
    def interpolated(mask: Image8) -> NDArray[Any]:
        if method == "jpeg":
            return np.asarray(
                cv2.imdecode(cv2.imencode(".jpg", mask, [1, 60])[1], cv2.IMREAD_UNCHANGED)
            )
        return np.asarray(
            cv2.resize(
                cv2.resize(mask, (X // 2 + 3, Y // 2 + 1), interpolation=cv2.INTER_AREA), (X, Y)
            )
        )

    yy, xx = np.mgrid[0:Y, 0:X]
    disc = ((yy - 24) ** 2 + (xx - 30) ** 2 < 200).astype(np.uint8) * 255
    labels = np.stack([interpolated(disc)] * Z).astype(kind)
    path = tif(tmp_path / "all.tif", labels)
    import_labels(sample.path, "n", tif(tmp_path / "n.tif", LABELS), on=QUIET)
    for command, options in (
        (lambda: annotated(sample, path, slices="all"), "--classes or --ignore"),
        (lambda: import_labels(sample.path, "m", path, on=QUIET), "--label-type objects"),
        (
            lambda: score(sample, "n", path, ScoreSettings(slices="all"), on=QUIET),
            "--ids or --ignore",
        ),
    ):
        with pytest.raises(
            InputError,
            match=rf"[Ss]lice 0 of .* is a mask of 0 and 255, but .*, or state what its numbers mean with {options}",
        ):
            command()


# A mask, or numbers of objects.


@pytest.mark.parametrize("value", [1, 2, 128, 255, 70000, 2**32 - 1])
def test_labels_of_every_slice_with_one_number_are_a_mask(
    sample: Sample, tmp_path: Path, value: int
) -> None:
    kind = np.uint8 if value < 256 else np.uint32
    path = tif(tmp_path / "a.tif", np.where(LABELS > 0, value, 0).astype(kind))
    import_labels(sample.path, "n", path, on=QUIET)
    assert sample.last_settings("import-n")["input reading"] == f"a mask (value {value})"
    volume = sample.volume("labels", "n")
    assert volume.dtype == np.uint8
    np.testing.assert_array_equal(volume.read(slice(None)), LABELS > 0)
    settings = ImportSettings(label_type="objects")
    import_labels(sample.path, "n", path, settings, on=Execution(quiet=True, overwrite=True))
    volume = sample.volume("labels", "n")
    assert volume.dtype == np.uint32
    np.testing.assert_array_equal(volume.read(slice(None)), (LABELS > 0) * np.uint32(value))


def test_numbers_can_be_read_as_a_mask(sample: Sample, tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", LABELS)
    import_labels(sample.path, "n", path, ImportSettings(label_type="mask"), on=QUIET)
    np.testing.assert_array_equal(sample.volume("labels", "n").read(slice(None)), LABELS > 0)
    with pytest.raises(
        InputError,
        match="--label-type is for labels; give the name of their structure as --as-labels NAME",
    ):
        import_stack(
            path, tmp_path / "o.zarr", ImportSettings(voxel_nm=(8, 4, 4), label_type="mask")
        )


def test_unusual_masks_are_reported(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_labels(
        sample.path, "a", tif(tmp_path / "a.tif", (LABELS > 0) * np.uint8(7)), on=Execution()
    )
    assert (
        "all labels of a.tif have the number 7 and were read as a mask. With --label-type objects "
        "they are one object." in " ".join(capsys.readouterr().err.split())
    )
    import_labels(sample.path, "b", tif(tmp_path / "b.tif", LABELS * np.uint8(0)), on=Execution())
    assert "Note: b.tif holds no labels, every voxel is 0." in capsys.readouterr().err
