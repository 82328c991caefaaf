"""The public interface: imported lazily, with one signature for all stages, and mappings of a sample's contents."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparsem
from sparsem import arrays
from sparsem.errors import InputError, SettingsError
from sparsem.workflow.execution import HERE
from tests.layers import SOURCE

NO_STAGES = ("Execution", "Sample", "SparsemError", "arrays", "edit", "open", "remove")
STAGES = [name for name in sparsem.__all__ if name not in NO_STAGES]


def test_the_public_names_are_pinned() -> None:
    assert sparsem.__all__ == [
        "Execution",
        "Sample",
        "SparsemError",
        "align",
        "arrays",
        "box_masks",
        "cells",
        "compare",
        "constrain",
        "contacts",
        "correct",
        "count_boxes",
        "demo",
        "denoise",
        "detect",
        "edit",
        "equalize",
        "export",
        "import_annotation",
        "import_boxes",
        "import_labels",
        "import_stack",
        "measure",
        "measure_image_quality",
        "objects",
        "open",
        "phantom",
        "predict",
        "quality",
        "remove",
        "render",
        "report",
        "review",
        "run",
        "score",
        "score_boxes",
        "skeletons",
        "suggest",
        "track",
        "train",
        "train_detector",
    ]
    assert sorted(arrays.__all__) == [
        "AlignedImages",
        "align",
        "contacts",
        "equalize",
        "measure",
        "predict",
        "quality",
        "score",
        "separate_cells",
        "separate_objects",
        "skeletons",
        "track",
    ]


def test_the_import_loads_no_library() -> None:
    code = (
        "import sys, sparsem; print([name for name in "
        "('numpy', 'torch', 'vtkmodules', 'zarr', 'pydantic', 'rich') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sparsem.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(sparsem, name)
    assert value.__doc__
    assert value.__doc__[0].isupper()


def test_folders_do_not_hide_functions_of_the_same_name() -> None:
    code = (
        "import sparsem.measure.settings, sparsem.report.charts, sparsem; "
        "print(callable(sparsem.measure), callable(sparsem.report), callable(sparsem.cells))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True"]


# These take a file with settings, or make their own.
NO_SETTINGS = ("compare", "demo", "run")


@pytest.mark.parametrize("name", [name for name in STAGES if name not in NO_SETTINGS])
def test_all_stages_have_one_signature(name: str) -> None:
    parameters = inspect.signature(getattr(sparsem, name)).parameters
    assert parameters["settings"].default is None
    assert parameters["on"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["on"].default is HERE
    assert parameters["changes"].kind is inspect.Parameter.VAR_KEYWORD


def test_an_unknown_change_names_the_nearest_field(tissue: sparsem.Sample) -> None:
    with pytest.raises(SettingsError, match="unknown key 'min_voxel'; did you mean 'min_voxels'"):
        sparsem.measure(tissue, min_voxel=3)


def test_the_type_checkers_list_is_the_runtime_list() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = []
    for node in block.body:
        if isinstance(node, ast.ImportFrom):  # only ``import NAME as NAME`` exports a name
            names += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    assert sorted(names) == sparsem.__all__


def test_a_sample_reads_like_arrays_and_tables(own_tissue: sparsem.Sample) -> None:
    image = own_tissue.images["raw"]
    whole = image.read(slice(None))
    assert list(own_tissue.images) == ["raw"]
    assert np.array_equal(image[2:5], whole[2:5])
    assert np.array_equal(image[3], whole[3])
    assert np.array_equal(image[-1, 5:9, ::2], whole[-1, 5:9, ::2])
    assert np.array_equal(image[..., 7], whole[..., 7])
    assert np.array_equal(image[::-3, 4], whole[::-3, 4])
    assert np.array_equal(np.asarray(image), whole)
    assert len(image) == len(whole)
    with pytest.raises(IndexError, match="outside of axis 0"):
        image[len(whole)]
    with pytest.raises(sparsem.SparsemError, match="no 'nucleos' among the labels"):
        own_tissue.labels["nucleos"]
    assert len(own_tissue.tables["phantom_slices"]) == len(whole)


def test_annotations_read_like_arrays(own_tissue: sparsem.Sample) -> None:
    truth = own_tissue.volume("truth", "nucleus")
    from sparsem.annotation.writing import write_annotation

    labels = [truth[z].astype(np.uint8) for z in (3, 9)]
    write_annotation(own_tissue, "core", [3, 9], labels)
    annotation = own_tissue.annotations["core"]
    assert annotation.slices == (3, 9)
    assert annotation.image == "raw"
    assert np.array_equal(annotation[1], labels[1])
    assert annotation.shape == (2, *truth.shape[1:])


def test_a_sample_shows_its_contents(own_tissue: sparsem.Sample, tmp_path: Path) -> None:
    text = repr(own_tissue)
    assert "19 x 96 x 128 voxels (z y x)" in text
    assert "nucleolus" in text
    assert "<table>" in own_tissue._repr_html_()
    assert "damaged" in repr(sparsem.Sample(tmp_path / "missing.zarr")) or "none" in repr(
        sparsem.Sample(tmp_path / "missing.zarr")
    )


def test_progress_is_visible_in_notebooks_only_by_default() -> None:
    code = (
        "import sys, types; sys.modules['ipykernel'] = types.ModuleType('ipykernel'); "
        "from sparsem.workflow.execution import HERE; print(HERE.quiet)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    assert HERE.quiet


@pytest.mark.parametrize("name", [name for name in arrays.__all__ if name != "AlignedImages"])
def test_examples_of_arrays_run(name: str, tmp_path: Path) -> None:
    function = getattr(arrays, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, module=arrays)
    names = {"checkpoint": checkpoint(tmp_path)} if name == "predict" else {}
    for example in examples:
        assert example.examples
        example.globs.update(names)
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert result.failed == 0


def checkpoint(folder: Path) -> Path:
    """Write a network with random weights."""
    from sparsem.models.checkpoint import Recipe, save_checkpoint

    recipe = Recipe("resunet", 8, ("nucleus",), 32, (8.0, 8.0), 0.5, 0.2)
    save_checkpoint(folder / "m.safetensors", recipe.build(), recipe)
    return folder / "m.safetensors"


def test_arrays_equal_the_stages(own_tissue: sparsem.Sample, tmp_path: Path) -> None:
    image = own_tissue.images["raw"][...]
    sparsem.equalize(own_tissue)
    expected = own_tissue.images["equalized"][...]
    z, y, x = own_tissue.voxel_size
    assert np.array_equal(arrays.equalize(image, (z, y, x)), expected)


def test_contacts_of_two_arrays_and_of_masks() -> None:
    first, second = np.zeros((20, 20, 40), np.uint16), np.zeros((20, 20, 40), np.uint16)
    first[4:16, 4:16, 2:10], first[4:16, 4:16, 30:38] = 1, 2
    second[4:16, 4:16, 12:28] = 7
    pairs = arrays.contacts(first, second, (10, 10, 10), distance_nm=30)
    assert (list(pairs["first"]), list(pairs["second"])) == ([1, 2], [1, 1])
    mask = ((first + second) > 0).astype(np.uint8)
    within = arrays.contacts(mask, voxel_nm=(10, 10, 10), distance_nm=30)
    assert list(zip(within["first"], within["second"], strict=True)) == [(1, 2), (2, 3)]
    far = arrays.contacts(mask, voxel_nm=(10, 10, 10), distance_nm=5)
    assert len(far["first"]) == 0


def test_numbers_of_connectomes_come_back() -> None:
    """They need 64 bits, and are replaced in the sample."""
    first, second = 864691135000000123, 864691135000000999
    labels = np.zeros((20, 20, 60), np.uint64)
    labels[6:14, 6:14, 2:28], labels[6:14, 6:14, 30:58] = first, second
    pairs = arrays.contacts(labels, voxel_nm=(10, 10, 10))
    assert (list(pairs["first"]), list(pairs["second"])) == ([first], [second])
    table, lines = arrays.skeletons(labels, (10, 10, 10))
    assert list(table["object"]) == [first, second]
    assert set(lines["object"]) == {first, second}


def test_arrays_that_do_not_fit_are_refused() -> None:
    ones = np.ones((4, 8, 8), np.uint8)
    with pytest.raises(InputError, match=r"'second' has the shape \(2, 8, 8\), but the first"):
        arrays.contacts(ones, ones[:2])
    with pytest.raises(InputError, match="'boundary' has the shape"):
        arrays.separate_objects(ones, ones[:2])
    with pytest.raises(InputError, match="probability has to be uint8"):
        arrays.separate_objects(ones / 255, ones)  # type: ignore[arg-type]
    empty = arrays.contacts(ones * 0 + np.eye(8, dtype=np.uint8), np.zeros_like(ones))
    assert len(empty["first"]) == 0
