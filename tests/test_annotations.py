"""Labeled slices: imported from masks and volumes, with classes and unlabeled pixels."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from sparsem.annotation.ground_truth import read_ground_truth
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.labeled_slices import UNKNOWN, annotated_structures, read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.errors import InputError, ResumeError, SampleError, SettingsError
from sparsem.geometry import ZBlock
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.settings import parse
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.store.volume import Kind, Volume, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage
from tests.conftest import LABELED, TISSUE, files_in, truth_of

N, Y, X = TISSUE.shape


@pytest.fixture
def masks(tissue: Sample, tmp_path: Path) -> Path:
    """A folder of masks 0 and 255 with the slice number in the name."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for z, labels in zip(LABELED, truth_of(tissue, "nucleus", LABELED), strict=True):
        cv2.imwrite(
            str(folder / f"nucleus_z{z:03d}.png"), np.where(labels > 0, 255, 0).astype(np.uint8)
        )
    return folder


def import_as(
    sample: Sample, name: str, source: Path, overwrite: bool = False, **settings: Any
) -> None:
    import_annotation(
        sample,
        name,
        source,
        AnnotationSettings(**settings),
        on=Execution(overwrite=overwrite, quiet=True),
    )


def test_a_folder_of_masks_carries_its_slice_numbers(own_tissue: Sample, masks: Path) -> None:
    import_as(own_tissue, "core", masks)
    annotation = read_annotation(own_tissue, "core")
    assert annotation.z == LABELED
    for index, labels in enumerate(truth_of(own_tissue, "nucleus", LABELED)):
        assert np.array_equal(annotation.mask(index), (labels > 0).astype(np.uint8))
    assert annotated_structures(own_tissue)["core"] == LABELED


def test_file_names_that_count_from_one(own_tissue: Sample, tmp_path: Path) -> None:
    folder = tmp_path / "from_one"
    folder.mkdir()
    for z in (1, N):
        tifffile.imwrite(folder / f"m{z}.tif", np.full((Y, X), z % 255, np.uint8))
    with pytest.raises(
        InputError, match="if the first slice is numbered 1, give --first-slice-number 1"
    ):
        import_as(own_tissue, "a", folder)
    import_as(own_tissue, "a", folder, first_slice_number=1)
    assert read_annotation(own_tissue, "a").z == (0, N - 1)


def series(folder: Path, numbers: range | list[int]) -> Path:
    """Slices whose files begin at another number than 0, each with its number as its gray level."""
    folder.mkdir()
    for number in numbers:
        tifffile.imwrite(folder / f"slice_{number:04d}.tif", np.full((8, 9), number, np.uint8))
    return folder


@pytest.mark.parametrize("missing", ["refuse", "join", "repeat"])
def test_masks_are_numbered_as_the_files_of_the_stack(tmp_path: Path, missing: Any) -> None:
    numbers = [number for number in range(5, 17) if missing == "refuse" or number not in (7, 8)]
    sample = import_stack(
        series(tmp_path / "s", numbers),
        tmp_path / "s.zarr",
        ImportSettings(voxel_nm=(8, 4, 4), missing=missing),
    )
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in (5, 10, 16):
        tifffile.imwrite(
            masks / f"mask_{number:04d}.tif", np.pad([[1]], ((2, 5), (3, 5))).astype(np.uint8)
        )
    import_as(sample, "dot", masks)
    z = read_annotation(sample, "dot").z
    assert sample.image().read(slice(None))[list(z), 0, 0].tolist() == [5, 10, 16]
    assert sample.image().repeated == ((2, 3) if missing == "repeat" else ())
    import_as(sample, "counted", masks, first_slice_number=5) if missing != "join" else None
    assert missing == "join" or read_annotation(sample, "counted").z == z
    tifffile.imwrite(masks / "mask_0017.tif", np.zeros((8, 9), np.uint8))
    with pytest.raises(
        InputError,
        match=r"carries the number 17, but the first slice is numbered 5 and the last 16, .* --first-slice-number 0",
    ):
        import_as(sample, "beyond", masks)


def test_slice_number_is_found_among_the_numbers_of_a_file_name(tmp_path: Path) -> None:
    """It is neither that of the rater nor a time.

    If two numbers are possible, neither is guessed.
    """
    sample = import_stack(
        series(tmp_path / "s", range(120)), tmp_path / "s.zarr", ImportSettings(voxel_nm=(8, 4, 4))
    )
    names = {
        "labeled": ["Label01_z0010", "Label02_z0057", "Label03_z0100"],
        "timed": ["m0010_20241003101122", "m0057_20241003111533", "m0100_20241004081201"],
        "alone": ["0010_8bit", "0057_8bit", "0100_8bit"],
    }
    for name, files in names.items():
        (tmp_path / name).mkdir()
        for file in files:
            tifffile.imwrite(
                tmp_path / name / f"{file}.tif", np.pad([[1]], ((2, 5), (3, 5))).astype(np.uint8)
            )
        import_as(sample, name, tmp_path / name)
        assert read_annotation(sample, name).z == (10, 57, 100), name
    (tmp_path / "two").mkdir()
    for file in ("1_0010", "2_0057", "3_0100"):
        tifffile.imwrite(tmp_path / "two" / f"{file}.tif", np.zeros((8, 9), np.uint8))
    with pytest.raises(
        InputError,
        match=r"Which number in the file names of .* is the slice, 1, 2, 3 or 10, 57, 100",
    ):
        import_as(sample, "two", tmp_path / "two")
    import_as(sample, "two", tmp_path / "two", slices=[10, 57, 100])
    assert read_annotation(sample, "two").z == (10, 57, 100)


def test_small_and_numbered_labels_are_not_taken_for_gray_images(
    own_tissue: Sample, tmp_path: Path
) -> None:
    lines = np.zeros((N, Y, X), np.uint16)
    lines[:, :, ::2] = 7  # one pixel wide, side by side
    tifffile.imwrite(tmp_path / "lines.tif", lines, photometric="minisblack")
    import_as(own_tissue, "lines", tmp_path / "lines.tif", slices=[0])
    numbered = np.zeros((N, Y, X), np.uint16)
    for number in (1, 2, 3, 4):
        numbered[0, number, :3] = number
    numbered[0, 20:60, 20:60] = 255
    tifffile.imwrite(tmp_path / "numbered.tif", numbered, photometric="minisblack")
    import_as(own_tissue, "numbered", tmp_path / "numbered.tif", slices=[0])
    unsure = numbered.astype(np.uint8)
    tifffile.imwrite(tmp_path / "unsure.tif", unsure, photometric="minisblack")
    with pytest.raises(InputError, match="as JPEG compression and resizing cause"):
        import_as(own_tissue, "unsure", tmp_path / "unsure.tif", slices=[0])
    import_as(own_tissue, "unsure", tmp_path / "unsure.tif", slices=[0], ignore=255)
    tifffile.imwrite(tmp_path / "more.tif", unsure[:1], photometric="minisblack")
    import_as(
        own_tissue, "unsure", tmp_path / "more.tif", slices=[5], add=True
    )  # with the same meaning of its numbers
    assert read_annotation(own_tissue, "unsure").z == (0, 5)
    with pytest.raises(InputError, match="as JPEG compression and resizing cause"):
        import_labels(own_tissue.path, "smeared", tmp_path / "unsure.tif")


@pytest.mark.parametrize("compact", [True, False])
def test_a_labeled_volume_with_the_list_of_slices(
    own_tissue: Sample, tmp_path: Path, compact: bool
) -> None:
    volume = own_tissue.volume("truth", "cells").read(slice(None))
    planes = volume[[2, 7]] if compact else volume
    tifffile.imwrite(tmp_path / "cells.tif", planes.astype(np.uint16), photometric="minisblack")
    import_as(own_tissue, "cells", tmp_path / "cells.tif", slices=[2, 7])
    annotation = read_annotation(own_tissue, "cells")
    assert annotation.z == (2, 7)
    assert np.array_equal(annotation.labels[1:2][0], volume[7])  # instance ids are kept


def test_all_or_non_empty_slices(own_tissue: Sample, tmp_path: Path) -> None:
    volume = np.zeros((N, Y, X), np.uint8)
    volume[[3, 8], 5, 5] = 1
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack")
    import_as(own_tissue, "some", tmp_path / "v.tif", slices="non-empty")
    import_as(own_tissue, "every", tmp_path / "v.tif", slices="all")
    assert read_annotation(own_tissue, "some").z == (3, 8)
    assert read_annotation(own_tissue, "every").z == tuple(range(N))


def test_classes_may_share_ids_and_unknown_pixels_stay_unknown(
    own_tissue: Sample, tmp_path: Path
) -> None:
    labels = np.zeros((1, Y, X), np.uint8)
    labels[0, 0, :4] = (1, 2, 3, 200)
    tifffile.imwrite(tmp_path / "v.tif", labels, photometric="minisblack")
    import_as(
        own_tissue,
        "set",
        tmp_path / "v.tif",
        slices="4",
        classes=["core=1,2", "spot=2"],
        ignore=200,
    )
    assert read_annotation(own_tissue, "core").mask(0)[0, :4].tolist() == [1, 1, 0, UNKNOWN]
    assert read_annotation(own_tissue, "spot").mask(0)[0, :4].tolist() == [0, 1, 0, UNKNOWN]
    with pytest.raises(SampleError, match="no annotation of 'cores'; did you mean 'core'"):
        read_annotation(own_tissue, "cores")
    with pytest.raises(InputError, match="'core' is annotated already, in annotations/set"):
        import_as(own_tissue, "core", tmp_path / "v.tif", slices="4")
    assert own_tissue.history()[-1]["stage"] == "annotate-set"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": ["core"]}, "a class needs its numbers, such as core=1,2"),
        ({"classes": ["core=1,2"], "ignore": 2}, "2 cannot be both ignored and core"),
    ],
)
def test_classes_without_or_with_ignored_numbers_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parse(AnnotationSettings, settings, "command line")
    assert AnnotationSettings(classes=["a=1", "a=2", "b=3"]).classes == {"a": (1, 2), "b": (3,)}


@pytest.mark.parametrize("name", ["a/b", "../labels", "", ".", "..", "raw", "with space"])
def test_names_that_cannot_be_folders_are_refused(
    own_tissue: Sample, masks: Path, name: str
) -> None:
    before = files_in(own_tissue.path)
    with pytest.raises(InputError, match="A name consists of letters, digits"):
        import_as(own_tissue, name, masks)
    assert files_in(own_tissue.path) == before


def test_large_ids_survive(own_tissue: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "v.tif", np.full((1, Y, X), 3_000_000_000, np.uint32), photometric="minisblack"
    )
    import_as(own_tissue, "big", tmp_path / "v.tif", slices="0")
    assert int(read_annotation(own_tissue, "big").labels[0:1][0, 0, 0]) == 3_000_000_000


def test_other_labels_of_a_name_are_not_lost(own_tissue: Sample, masks: Path) -> None:
    import_as(own_tissue, "core", masks)
    import_as(own_tissue, "core", masks)  # the same again is no change
    next(iter(masks.iterdir())).unlink()
    with pytest.raises(ResumeError, match="has other labels of 'core' already; use --overwrite"):
        import_as(own_tissue, "core", masks)
    assert len(read_annotation(own_tissue, "core").z) == 3
    import_as(own_tissue, "core", masks, overwrite=True)
    assert len(read_annotation(own_tissue, "core").z) == 2


@pytest.mark.parametrize(
    ("labels", "settings", "sentence"),
    [
        (
            np.zeros((2, Y, X), np.uint8),
            {},
            r"Which slices of .* are annotated\? Give --slices 0,13,26",
        ),
        (
            np.zeros((2, Y, X), np.uint8),
            {"slices": "all"},
            "has 2 slices and the image 19; name the annotated ones with --slices",
        ),
        (
            np.zeros((2, Y, X), np.uint8),
            {"slices": "1,2,3"},
            "has 2 slices; expected 19 as the image, or 3, one for each of --slices",
        ),
        (np.zeros((2, Y, X), np.uint8), {"slices": "3,99"}, "99 is outside 0 to 18"),
        (np.zeros((2, Y, X), np.uint8), {"slices": "3,3"}, "--slices: slice 3 is given twice"),
        (
            np.zeros((2, Y, X), np.uint8),
            {"slices": "three"},
            "--slices: expected .*; got 'three'. It takes 0,13,26 or 10-20, 'all' .* or 'non-",
        ),
        (
            np.zeros((2, Y - 1, X), np.uint8),
            {"slices": "1,2"},
            r"has slices of \(95, 128\) px, but the image has \(96, 128\)",
        ),
        (
            np.full((1, Y, X), 0.5, np.float32),
            {"slices": "1"},
            "Labels must be whole numbers, but slice 1 of .* holds float32 values such as 0.5",
        ),
        (
            np.full((1, Y, X), -3, np.int16),
            {"slices": "1"},
            "Slice 1 of .* holds -3, but labels cannot be negative; give --ignore -3",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_sentence(
    own_tissue: Sample, tmp_path: Path, labels: Any, settings: dict[str, Any], sentence: str
) -> None:
    tifffile.imwrite(tmp_path / "v.tif", labels, photometric="minisblack")
    with pytest.raises(InputError, match=sentence):
        import_as(own_tissue, "x", tmp_path / "v.tif", **settings)
    assert "x" not in own_tissue.names("annotations")


def write_mask(folder: Path, name: str, labels: Any) -> Path:
    tifffile.imwrite(folder / name, np.asarray(labels, np.uint16), photometric="minisblack")
    return folder / name


def test_slices_are_added_and_replaced_one_by_one(
    own_tissue: Sample, masks: Path, tmp_path: Path
) -> None:
    import_as(own_tissue, "core", masks, ignore=7)
    fresh = np.full((Y, X), 3)
    with pytest.raises(InputError, match="--add takes labels whose numbers have the same meaning"):
        import_as(
            own_tissue, "core", write_mask(tmp_path, "core_z005.tif", fresh), add=True, ignore=3
        )
    import_as(own_tissue, "core", tmp_path / "core_z005.tif", add=True)
    annotation = read_annotation(own_tissue, "core")
    assert annotation.z == (0, 5, 9, 18)
    assert (annotation.labels[1:2] == 3).all()
    assert annotation.ignore == 7  # as before
    import_as(
        own_tissue, "core", masks, ignore=7
    )  # the first folder again, as a study does: what was added stays
    assert read_annotation(own_tissue, "core").z == (0, 5, 9, 18)
    with pytest.raises(
        ResumeError, match="Slices 9 of 'core' have other labels already; use --overwrite"
    ):
        import_as(own_tissue, "core", write_mask(tmp_path, "core_z009.tif", fresh), add=True)
    import_as(own_tissue, "core", tmp_path / "core_z009.tif", add=True, overwrite=True)
    assert (read_annotation(own_tissue, "core").labels[2:3] == 3).all()
    with pytest.raises(ResumeError, match="has other labels of 'core' already"):
        import_as(
            own_tissue, "core", masks, ignore=7
        )  # slice 9 was corrected, which the folder does not undo unless asked


def test_classes_can_be_added_to(own_tissue: Sample, tmp_path: Path) -> None:
    folder = tmp_path / "organs"
    folder.mkdir()
    for z in (1, 2):
        write_mask(folder, f"o_{z}.tif", np.eye(Y, X) + z)
    import_as(own_tissue, "organs", folder, classes={"shell": (1,), "yolk": (2,)})
    import_as(own_tissue, "organs", write_mask(tmp_path, "o_4.tif", np.eye(Y, X)), add=True)
    assert annotated_structures(own_tissue)["yolk"] == (1, 2, 4)


def test_slice_number_in_the_name_of_a_single_mask(own_tissue: Sample, tmp_path: Path) -> None:
    for name, z in (
        ("mask_z0013_8bit.tif", 13),
        ("sample2_slice 4 final3.tif", 4),
        ("core17.tif", 17),
    ):
        import_as(own_tissue, "core", write_mask(tmp_path, name, np.ones((Y, X))), overwrite=True)
        assert read_annotation(own_tissue, "core").z == (z,)
    with pytest.raises(InputError, match=r"Which slices of .*sample2_run3"):
        import_as(
            own_tissue,
            "core",
            write_mask(tmp_path, "sample2_run3.tif", np.ones((Y, X))),
            overwrite=True,
        )


def test_labels_replaced_by_a_killed_run_are_restored(
    own_tissue: Sample, masks: Path, tmp_path: Path
) -> None:
    import_as(own_tissue, "core", masks)
    aside = own_tissue.path / ".sparsem" / "work" / "annotation-core-replaced"
    aside.parent.mkdir(exist_ok=True)
    (own_tissue.path / "annotations" / "core").rename(
        aside
    )  # a kill between the two renames of a replacement
    import_as(own_tissue, "core", write_mask(tmp_path, "core_z005.tif", np.ones((Y, X))), add=True)
    assert read_annotation(own_tissue, "core").z == (0, 5, 9, 18)
    assert not aside.exists()


def test_label_volumes_are_imported_as_masks_or_with_their_numbers(
    own_tissue: Sample, tmp_path: Path
) -> None:
    truth = own_tissue.volume("truth", "mitochondrion").read(slice(None))
    tifffile.imwrite(tmp_path / "numbers.tif", truth, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "mask.tif", (truth > 0).astype(np.uint8) * 255, photometric="minisblack"
    )
    import_labels(own_tissue.path, "numbers", tmp_path / "numbers.tif")
    import_labels(own_tissue.path, "mask", tmp_path / "mask.tif")
    np.testing.assert_array_equal(own_tissue.volume("labels", "numbers").read(slice(None)), truth)
    mask = own_tissue.volume("labels", "mask")
    assert mask.dtype == np.uint8
    assert mask.voxel_size == own_tissue.voxel_size
    np.testing.assert_array_equal(mask.read(slice(None)), truth > 0)
    with pytest.raises(ResumeError, match="--overwrite"):
        import_labels(own_tissue.path, "mask", tmp_path / "numbers.tif")
    alone = import_labels(
        tmp_path / "alone.zarr",
        "mask",
        tmp_path / "mask.tif",
        ImportSettings(voxel_nm=(20, 20, 20), block_depth=5),
    )
    assert not Sample.open(alone.path).has_image
    with pytest.raises(
        SampleError,
        match=r"alone.zarr has no image, only labels; add it with 'sparsem import SOURCE alone.zarr'",
    ):
        alone.image()


def test_a_missing_slice_of_a_label_volume_is_reported(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for z in (0, 1, 3):
        tifffile.imwrite(
            tmp_path / "labels" / f"l{z}.tif",
            np.full((40, 60), z, np.uint8),
            photometric="minisblack",
        )
    with pytest.raises(InputError, match="slice 2 of the series is missing"):
        import_labels(
            tmp_path / "s.zarr", "mito", tmp_path / "labels", ImportSettings(voxel_nm=(8, 8, 8))
        )
    made = import_labels(
        tmp_path / "s.zarr",
        "mito",
        tmp_path / "labels",
        ImportSettings(voxel_nm=(8, 8, 8), missing="repeat"),
    )
    assert made.volume("labels", "mito").shape == (4, 40, 60)


def test_masks_can_be_imported_again_after_equalization(own_tissue: Sample, masks: Path) -> None:
    import_annotation(own_tissue, "nucleus", masks, on=Execution(overwrite=True, quiet=True))
    equalize(own_tissue)
    import_annotation(own_tissue, "nucleus", masks)
    assert read_annotation(own_tissue, "nucleus").image == "raw"
    import_annotation(own_tissue, "mito", masks)
    assert (
        read_annotation(own_tissue, "mito").image == "raw"
    )  # equalization moves no pixel, so the labels belong to the raw image
    equalize(own_tissue, EqualizeSettings(method="clahe"), on=Execution(overwrite=True, quiet=True))
    assert (
        read_annotation(own_tissue, "mito", "equalized").z
        == read_annotation(own_tissue, "nucleus").z
    )


def test_label_volumes_that_do_not_fit_are_refused(own_tissue: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "short.tif", np.ones((3, 96, 128), np.uint8), photometric="minisblack"
    )
    with pytest.raises(
        InputError,
        match=r"short.tif has the shape \(3, 96, 128\), but the image of own.zarr has \(19, 96, 128\)",
    ):
        import_labels(own_tissue.path, "nucleus", tmp_path / "short.tif")
    with pytest.raises(InputError, match="does not state its voxel size"):
        import_labels(tmp_path / "new.zarr", "nucleus", tmp_path / "short.tif")
    tifffile.imwrite(
        tmp_path / "half.tif", np.full((3, 96, 128), 0.5, np.float32), photometric="minisblack"
    )
    with pytest.raises(InputError, match="Labels must be whole numbers"):
        import_labels(
            tmp_path / "new.zarr",
            "nucleus",
            tmp_path / "half.tif",
            ImportSettings(voxel_nm=(5, 5, 5)),
        )
    assert not own_tissue.names("labels")


def test_label_volumes_belong_to_the_image_of_their_shape(
    own_tissue: Sample, tmp_path: Path
) -> None:
    image = own_tissue.image("raw")
    made_on = ("raw", image.fingerprint)
    motions = np.repeat(np.array([[[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]]), N, axis=0)
    spec = volume_spec(
        "images/aligned",
        (N, Y - 4, X - 6),
        image.dtype,
        Kind.IMAGE,
        image.voxel_size,
        7,
        made_on,
        motions,
    )
    with Stage(own_tissue, "cut", EqualizeSettings(), {}, [spec]) as stage:
        stage.map(_cut, image.blocks(), image)
    labels = own_tissue.volume("truth", "cells").read(slice(None))
    tifffile.imwrite(tmp_path / "raw.tif", labels.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "aligned.tif", labels[:, 2:-2, 3:-3].astype(np.uint16), photometric="minisblack"
    )
    tifffile.imwrite(
        tmp_path / "neither.tif", labels[:, 1:].astype(np.uint16), photometric="minisblack"
    )
    for name in ("raw", "aligned"):
        import_labels(own_tissue.path, f"on-{name}", tmp_path / f"{name}.tif")
    assert own_tissue.volume("labels", "on-raw").made_on is None
    on_aligned = own_tissue.volume("labels", "on-aligned")
    assert own_tissue.name_of_image(on_aligned) == "aligned"
    seen = own_tissue.resample_to(on_aligned, own_tissue.volume("labels", "on-raw").level())
    assert np.array_equal(np.asarray(seen[0:N]), on_aligned.read(slice(None)))
    with Stage(
        own_tissue,
        "cut",
        EqualizeSettings(method="clahe"),
        {},
        [spec],
        Execution(overwrite=True, quiet=True),
    ) as stage:
        stage.map(_cut, image.blocks(), image)  # another image of that name
    with pytest.raises(SampleError, match="was replaced since"):
        own_tissue.transform_of(on_aligned)
    import_labels(
        own_tissue.path,
        "on-aligned",
        tmp_path / "aligned.tif",
        on=Execution(overwrite=True, quiet=True),
    )
    own_tissue.transform_of(own_tissue.volume("labels", "on-aligned"))
    with pytest.raises(InputError, match=r"neither\.tif has the shape"):
        import_labels(own_tissue.path, "neither", tmp_path / "neither.tif")


def _cut(block: ZBlock, image: Volume) -> BlockResult:
    return {"images/aligned": image.read(block.own)[:, 2:-2, 3:-3]}, {}


# Origin of labels, and what is reported.


def recorded_origin(sample: Sample, name: str) -> dict[str, str]:
    return dict(read_attributes(sample.path / "annotations" / name)["sparsem"]["origin"])


def hand_drawn(mask: Any, seed: int) -> Any:
    """Return a mask with a random boundary, as another person would draw it."""
    noise = cv2.GaussianBlur(
        np.random.default_rng(seed).normal(0, 1, mask.shape).astype(np.float32), (0, 0), 4
    )
    return (cv2.GaussianBlur((mask > 0).astype(np.float32), (0, 0), 3) + 3 * noise > 0.5).astype(
        np.uint8
    )


@pytest.fixture
def predicted(own_tissue: Sample, tmp_path: Path) -> Any:
    """Import nuclei as a prediction, and return their masks (N, y, x)."""
    nuclei = own_tissue.volume("truth", "nucleus").read(slice(None)) > 0
    tifffile.imwrite(tmp_path / "predicted.tif", nuclei.astype(np.uint8), photometric="minisblack")
    import_labels(own_tissue.path, "core", tmp_path / "predicted.tif")
    return nuclei


def test_a_corrected_prediction_is_recorded(
    own_tissue: Sample, predicted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrected = predicted[9].copy()
    corrected[:, : int(np.median(np.nonzero(corrected)[1]))] = 0  # half of it is removed
    write_mask(tmp_path, "core_z009.tif", corrected)
    import_annotation(own_tissue, "core", tmp_path / "core_z009.tif", on=Execution())
    assert recorded_origin(own_tissue, "core") == {"9": "corrected prediction"}
    message = " ".join(capsys.readouterr().err.split())
    assert "Note: slice 9 of core: " in message
    assert (
        "of the boundary is that of labels/core; recorded as corrected predictions, on which "
        "scores are too high" in message
    )
    write_mask(tmp_path, "core_z005.tif", hand_drawn(predicted[5], 1))
    import_annotation(
        own_tissue, "core", tmp_path / "core_z005.tif", AnnotationSettings(add=True), on=Execution()
    )
    assert recorded_origin(own_tissue, "core") == {"5": "manual", "9": "corrected prediction"}
    assert capsys.readouterr().err == ""
    import_as(own_tissue, "core", tmp_path / "core_z009.tif", origin="manual", add=True)
    assert recorded_origin(own_tissue, "core") == {"5": "manual", "9": "manual"}
    import_as(own_tissue, "core", tmp_path / "core_z009.tif", add=True, overwrite=True)
    assert recorded_origin(own_tissue, "core")["9"] == "manual"  # the same labels keep their origin


def test_origin_of_existing_labels_can_be_stated(
    own_tissue: Sample, predicted: Any, masks: Path, tmp_path: Path
) -> None:
    import_as(own_tissue, "core", masks)
    assert set(recorded_origin(own_tissue, "core").values()) == {"corrected prediction"}
    import_as(own_tissue, "core", masks, origin="manual")
    assert set(recorded_origin(own_tissue, "core").values()) == {"manual"}
    fingerprint = read_annotation(own_tissue, "core").fingerprint
    import_as(own_tissue, "core", masks)
    assert set(recorded_origin(own_tissue, "core").values()) == {"manual"}
    assert read_annotation(own_tissue, "core").fingerprint == fingerprint
    import_as(own_tissue, "other", masks)
    assert set(recorded_origin(own_tissue, "other").values()) == {
        "manual"
    }  # there is no prediction of that name


def test_origin_of_labels_similar_to_a_prediction_is_unknown(
    own_tissue: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = np.zeros((N, Y, X), np.uint8)
    drawn[:, 10:80, 20:100] = 1
    tifffile.imwrite(
        tmp_path / "predicted.tif", np.roll(drawn, (1, 1), (1, 2)), photometric="minisblack"
    )  # shifted by a pixel
    import_labels(own_tissue.path, "core", tmp_path / "predicted.tif")
    import_annotation(
        own_tissue, "core", write_mask(tmp_path, "core_z009.tif", drawn[9]), on=Execution()
    )
    assert recorded_origin(own_tissue, "core") == {"9": "unknown"}
    assert "similar to labels/core (Dice 0.97" in " ".join(capsys.readouterr().err.split())


def test_empty_slices_are_recorded(own_tissue: Sample, tmp_path: Path) -> None:
    labels = np.zeros((N, Y, X), np.uint8)
    labels[2, :20, :20], labels[4, :20, 30:40], labels[6] = 1, 2, 9
    tifffile.imwrite(tmp_path / "v.tif", labels, photometric="minisblack")
    import_as(
        own_tissue, "set", tmp_path / "v.tif", slices="0,2,4,6", classes=["a=1", "b=2"], ignore=9
    )
    about = read_attributes(own_tissue.path / "annotations" / "set")["sparsem"]
    assert about["empty"] == {"a": [0, 4], "b": [0, 2]}
    assert about["unknown"] == [6]


def test_a_refusal_names_the_slices_that_differ(
    own_tissue: Sample, masks: Path, tmp_path: Path
) -> None:
    import_as(own_tissue, "core", masks)
    (masks / "nucleus_z000.png").rename(masks / "nucleus_z003.png")
    cv2.imwrite(str(masks / "nucleus_z018.png"), np.eye(Y, X, dtype=np.uint8))
    with pytest.raises(
        ResumeError, match=r"or another name \(slices: 18 differ; 0 now missing; 3 new\)"
    ):
        import_as(own_tissue, "core", masks)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (
            (X, Y),
            r"has slices of \(128, 96\) px, but the image has \(96, 128\); y and x are exchanged, transpose it",
        ),
        (
            (Y, X - 1),
            r"has slices of \(96, 127\) px, but the image has \(96, 128\); labels must cover the whole slice",
        ),
    ],
)
def test_masks_of_another_size_or_orientation_are_refused(
    own_tissue: Sample, tmp_path: Path, shape: tuple[int, int], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        import_as(own_tissue, "core", write_mask(tmp_path, "core_z009.tif", np.ones(shape)))


def test_a_volume_with_its_axes_in_another_order_is_refused(
    own_tissue: Sample, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "v.tif", np.ones((X, Y, N), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="its axes are in another order than z, y, x"):
        import_labels(own_tissue.path, "core", tmp_path / "v.tif")
    tifffile.imwrite(tmp_path / "v.tif", np.ones((N, X, Y), np.uint8), photometric="minisblack")
    with pytest.raises(
        InputError, match=r"v\.tif has slices of .*; y and x are exchanged, transpose it"
    ):
        read_ground_truth(own_tissue, "nucleus", own_tissue.image(), tmp_path / "v.tif")
