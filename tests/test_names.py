"""The grammar of names in a sample, and the names that it refuses for structures."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.label_volumes import import_labels
from sparsem.boxes.importing import import_boxes
from sparsem.cells.cells import cells
from sparsem.errors import InputError
from sparsem.labels.results import result_names
from sparsem.measure.measure import measure
from sparsem.store.names import (
    base_name,
    checked_separation,
    checked_structure,
    is_step,
    reserved_meaning,
)
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import put

QUIET = Execution(quiet=True)
RESERVED = (
    "nucleus-objects",
    "cells-regions",
    "cells-interior",
    "cells-boundary",
    "nucleus-constrained",
    "nucleus-uncertainty",
    "cells-disagreement",
    "cells-method-mask",
    "scores_nucleus",
    "boxes_nucleus",
    "measured",
    "cytoplasm",
)
FREE = ("nucleus", "cells-liver", "mito.2", "inner-membrane", "objects", "methods-a", "scores")


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_refused_for_structures(name: str) -> None:
    assert reserved_meaning(name)
    with pytest.raises(InputError, match=f"A structure cannot be called '{name}': .* another name"):
        checked_structure(name)


@pytest.mark.parametrize("name", FREE)
def test_other_names_are_free(name: str) -> None:
    assert checked_structure(name) == name
    assert not is_step(name)
    assert base_name(name) == name


def test_a_separation_of_cells_may_name_its_method() -> None:
    assert checked_separation("cells-method-mask") == "cells-method-mask"
    assert checked_separation("neurons") == "neurons"
    for name in ("cells-regions", "nucleus-objects-method-mask", "a/b", "-method-mask"):
        with pytest.raises(InputError):
            checked_separation(name)


@pytest.mark.parametrize("name", ["nucleus-objects", "scores_nucleus", "cytoplasm"])
def test_every_import_refuses_a_reserved_name(
    own_tissue: Sample, tmp_path: Path, name: str
) -> None:
    before = {folder: own_tissue.names(folder) for folder in ("annotations", "labels")}
    shape = own_tissue.image().shape
    labels = np.zeros(shape, np.uint8)
    labels[:, 20:40, 20:40] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "mask_003.tif", labels[3], photometric="minisblack")
    reason = f"cannot be called '{name}'"
    with pytest.raises(InputError, match=reason):
        import_annotation(own_tissue, name, tmp_path / "mask_003.tif")
    with pytest.raises(InputError, match=reason):
        import_annotation(own_tissue, "free", tmp_path / "mask_003.tif", classes={name: (1,)})
    with pytest.raises(InputError, match=reason):
        import_labels(own_tissue.path, name, tmp_path / "labels.tif")
    with pytest.raises(InputError, match=reason):
        cells(own_tissue, out=name)
    assert {folder: own_tissue.names(folder) for folder in before} == before


def test_a_class_of_boxes_with_a_reserved_name_needs_another(
    own_tissue: Sample, tmp_path: Path
) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("z,x0,y0,x1,y1,class\n3,10,10,40,40,nucleus-objects\n")
    with pytest.raises(InputError, match="--classes 'nucleus-objects=NAME'"):
        import_boxes(own_tissue, source=table)
    import_boxes(own_tissue, source=table, classes={"nucleus-objects": "nucleus"})


def test_structures_whose_names_only_resemble_reserved_ones_are_measured(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    labels = np.zeros((8, 40, 40), np.uint8)
    labels[2:6, 10:30, 10:30] = 1
    put(sample, "", np.full(labels.shape, 100, np.uint8))
    for name in ("cells-liver", "inner-objects-membrane", "cells-method-mask", "x-regions"):
        put(sample, f"labels/{name}", labels)
    assert result_names(sample) == ["cells-liver", "inner-objects-membrane"]
    result = measure(sample, on=QUIET)
    assert result.summary["structure"].to_pylist() == ["cells-liver", "inner-objects-membrane"]


def test_the_result_of_an_import_of_labeled_slices_names_them(
    own_tissue: Sample, tmp_path: Path
) -> None:
    mask = np.zeros(own_tissue.image().shape[1:], np.uint8)
    mask[20:40, 20:40] = 1
    mask[50:60, 20:40] = 2
    for z in (3, 7):
        tifffile.imwrite(tmp_path / f"mask_{z:03d}.tif", mask, photometric="minisblack")
    result = import_annotation(own_tissue, "free", tmp_path, classes={"a": (1,), "b": (2,)})
    assert result.written == ("annotations/free",)
    assert result.structures == ("a", "b")
    assert result.slices == (3, 7)
