"""Labels of a part of a slice: outside of a box or a mask nothing is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import read_annotation
from sparsem.errors import InputError, ResumeError
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

from .conftest import truth_of

QUIET = Execution(quiet=True)


def _write(path: Path, planes: NDArray[Any]) -> Path:
    tifffile.imwrite(path, planes, photometric="minisblack")
    return path


def _objects(sample: Sample, z: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    annotation = read_annotation(sample, "cells")
    return annotation.objects(annotation.z.index(z))


@pytest.fixture
def cells(own_tissue: Sample) -> NDArray[Any]:
    return np.stack(truth_of(own_tissue, "cells", (4, 5))).astype(np.uint16)


@pytest.mark.parametrize("is_cropped", [True, False])
def test_outside_of_a_box_nothing_is_known(
    own_tissue: Sample, cells: NDArray[Any], tmp_path: Path, is_cropped: bool
) -> None:
    planes = cells[:, 10:60, 20:100] if is_cropped else cells
    file = _write(tmp_path / "crop.tif", planes)
    import_annotation(own_tissue, "cells", file, box="4:6,10:60,20:100", on=QUIET)
    for z in (4, 5):
        objects, known = _objects(own_tissue, z)
        assert known[10:60, 20:100].all()
        assert known.sum() == 50 * 80
        np.testing.assert_array_equal(objects[10:60, 20:100], cells[z - 4, 10:60, 20:100])


@pytest.mark.parametrize("n_masks", [1, 2, 19])
def test_outside_of_a_mask_nothing_is_known(
    own_tissue: Sample, cells: NDArray[Any], tmp_path: Path, n_masks: int
) -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((n_masks, *cells.shape[1:])) < 0.3).astype(np.uint8)
    file, mask_file = _write(tmp_path / "c.tif", cells), _write(tmp_path / "m.tif", masks)
    import_annotation(own_tissue, "cells", file, slices=[4, 5], within=mask_file, on=QUIET)
    for n, z in enumerate((4, 5)):
        objects, known = _objects(own_tissue, z)
        mask = masks[{1: 0, 2: n, 19: z}[n_masks]] > 0
        np.testing.assert_array_equal(known, mask)
        np.testing.assert_array_equal(objects, np.where(mask, cells[n], 0))


def test_parts_of_a_slice_add_up_and_a_contradiction_is_refused(
    own_tissue: Sample, cells: NDArray[Any], tmp_path: Path
) -> None:
    file = _write(tmp_path / "whole.tif", cells[:1])
    import_annotation(own_tissue, "cells", file, slices=[4], on=QUIET)  # a whole slice before
    file = _write(tmp_path / "cells.tif", cells[1:])
    import_annotation(own_tissue, "cells", file, box="5:6,:,:40", add=True, on=QUIET)
    import_annotation(own_tissue, "cells", file, box="5:6,:,30:70", add=True, on=QUIET)
    objects, known = _objects(own_tissue, 5)
    assert known[:, :70].all()
    assert not known[:, 70:].any()
    np.testing.assert_array_equal(objects[:, :70], cells[1, :, :70])
    assert _objects(own_tissue, 4)[1].all()
    other = _write(tmp_path / "other.tif", cells[1:] + 1)
    with pytest.raises(ResumeError, match="Slices 5 of 'cells' have other labels"):
        import_annotation(own_tissue, "cells", other, box="5:6,:,:10", add=True, on=QUIET)
    again = Execution(quiet=True, overwrite=True)
    import_annotation(own_tissue, "cells", other, box="5:6,:,:10", add=True, on=again)
    objects, known = _objects(own_tissue, 5)
    np.testing.assert_array_equal(objects[:, :10], cells[1, :, :10] + 1)
    np.testing.assert_array_equal(objects[:, 10:70], cells[1, :, 10:70])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"box": "4:6,0:200,0:10"}, "--box is 0:200 along y, but the image has 0:96"),
        ({"box": "4:6,0:10,0:10"}, "expected .96, 128. as the image has, or .10, 10. as --box"),
        ({"slices": [4, 5], "within": "small.tif"}, "within .* has slices of .8, 8. px"),
        ({"slices": [4, 5], "within": "three.tif"}, "has 3 slices; expected 1, 2 as the labels"),
        ({"slices": [4, 5], "within": "empty.tif"}, "is empty, so no pixel would be labeled"),
    ],
)
def test_impossible_parts_are_refused(
    own_tissue: Sample,
    cells: NDArray[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "small.tif", np.ones((2, 8, 8), np.uint8))
    _write(tmp_path / "three.tif", np.ones((3, 96, 128), np.uint8))
    _write(tmp_path / "empty.tif", np.zeros((2, 96, 128), np.uint8))
    planes = cells[:, :10] if options.get("box") == "4:6,0:10,0:10" else cells
    with pytest.raises(InputError, match=sentence):
        import_annotation(
            own_tissue, "cells", _write(tmp_path / "c.tif", planes), on=QUIET, **options
        )
    assert "cells" not in own_tissue.names("annotations")
