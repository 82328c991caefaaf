"""Segmentations that 3D Slicer cropped to their segments are padded to their image, or refused."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.label_volumes import import_labels
from sparsem.annotation.labeled_slices import read_annotation, stored_labels
from sparsem.annotation.settings import AnnotationSettings
from sparsem.errors import InputError
from sparsem.io.readers.open import open_source
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.settings import ImportSettings
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.store.sample import Sample

SLICER: dict[str, Any] = {
    "space": "left-posterior-superior",
    "space directions": np.diag([4e-6, 4e-6, 8e-6]),
    "Segment0_Name": "nucleus",
    "Segment0_LabelValue": "1",
}


Shape = tuple[int, int, int]


def write_segmentation(
    path: Path, labels: NDArray[Any], offset: Shape, image: Shape | None = None, edge: float = 4e-6
) -> None:
    """Write a segmentation as 3D Slicer saves it.

    ``offset`` is (z, y, x) of its first voxel, ``image`` the shape of the image it was drawn on.
    """
    header = SLICER | {"Segmentation_ReferenceImageExtentOffset": " ".join(map(str, offset[::-1]))}
    if image is not None:
        z, y, x = (length - 1 for length in image)
        geometry = f"{edge};0;0;0;0;{edge};0;0;0;0;{2 * edge};0;0;0;0;1;0;{x};0;{y};0;{z};"
        header["Segmentation_ConversionParameters"] = (
            f"Decimation factor|0.0|Desired&Reference image geometry|{geometry}|Image geometry&"
        )
    nrrd.write(str(path), labels, header, index_order="C")


@pytest.mark.parametrize("stated", [True, False])
def test_a_cropped_segmentation_is_padded_to_its_image(
    own_tissue: Sample, tmp_path: Path, stated: bool
) -> None:
    truth = (own_tissue.volume("truth", "mitochondrion").read(slice(None)) > 0).astype(np.uint8)
    truth[:2] = truth[-3:] = truth[:, :5] = truth[:, :, -7:] = 0
    box = tuple(slice(int(along.min()), int(along.max()) + 1) for along in np.nonzero(truth))
    offset = (box[0].start, box[1].start, box[2].start)
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, truth[box], offset, truth.shape if stated else None)
    import_annotation(
        own_tissue, "drawn", path, AnnotationSettings(slices="all", classes={"drawn": (1,)})
    )
    drawn = read_annotation(own_tissue, "drawn")
    assert drawn.z == tuple(range(len(truth)))
    assert np.array_equal(stored_labels(own_tissue, "drawn")[:], truth)
    import_labels(own_tissue.path, "whole", path)
    assert np.array_equal(own_tissue.volume("labels", "whole").read(slice(None)), truth)
    assert score(own_tissue, "whole", path, ScoreSettings(slices="all")).summary()["dice_3d"] == 1
    source = uncrop_segmentation(open_source(path), [truth.shape])
    assert np.array_equal(source.stack[3:9], truth[3:9])


def test_a_cropped_segmentation_without_an_image_is_refused(tmp_path: Path) -> None:
    labels = np.ones((2, 3, 4), np.uint8)
    write_segmentation(tmp_path / "a.seg.nrrd", labels, (1, 2, 3))
    with pytest.raises(
        InputError,
        match=r"a.seg.nrrd is cropped to its segments, and it does not state the size of its image",
    ):
        import_labels(
            tmp_path / "s.zarr", "a", tmp_path / "a.seg.nrrd", ImportSettings(voxel_nm=(8, 4, 4))
        )
    write_segmentation(tmp_path / "b.seg.nrrd", labels, (1, 2, 3), (5, 9, 10))
    sample = import_labels(
        tmp_path / "t.zarr", "a", tmp_path / "b.seg.nrrd", ImportSettings(voxel_nm=(8, 4, 4))
    )
    expected = np.zeros((5, 9, 10), np.uint8)
    expected[1:3, 2:5, 3:7] = 1
    assert np.array_equal(sample.volume("labels", "a").read(slice(None)), expected)


@pytest.mark.parametrize(
    ("offset", "image", "edge", "sentence"),
    [
        (
            (18, 0, 0),
            None,
            4e-6,
            r"covers the voxels \(18, 0, 0\) to \(20, 3, 4\) \(z, y, x\), but the image has \(19, 96, 128\)",
        ),
        (
            (0, 0, 0),
            (19, 96, 127),
            4e-6,
            r"was drawn on an image of \(19, 96, 127\) .* but the image here has \(19, 96, 128\)",
        ),
        ((0, 0, 0), (19, 96, 128), 8e-6, "has other voxels than the image it was drawn on"),
    ],
)
def test_a_segmentation_of_another_image_is_refused(
    tissue: Sample, tmp_path: Path, offset: Any, image: Any, edge: float, sentence: str
) -> None:
    write_segmentation(tmp_path / "a.seg.nrrd", np.ones((2, 3, 4), np.uint8), offset, image, edge)
    with pytest.raises(
        InputError, match=f"a.seg.nrrd {sentence}.*in 3D Slicer, export it as a labelmap"
    ):
        import_annotation(tissue, "a", tmp_path / "a.seg.nrrd", AnnotationSettings(slices="all"))
