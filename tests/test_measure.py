"""The stage ``measure``: tables compared with measures of arrays in memory, kills, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sparsem.errors import InputError, ResumeError, SampleError, SettingsError
from sparsem.geometry import VoxelSize
from sparsem.labels.inventory import remove_pieces
from sparsem.labels.results import is_outdated, result_names
from sparsem.measure import tables
from sparsem.measure.crops import (
    batches_of_objects,
    crop_around,
    crop_groups,
    finest_level_within,
    level_nearest_to,
    near_isotropic_level,
)
from sparsem.measure.dictionary import describe_column, dictionary_markdown, feature_columns
from sparsem.measure.features.shape import shapes
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, files_in, kill_ten_times, put

ROOT = Path(__file__).resolve().parents[1]
VOXEL = VoxelSize(20, 10, 10)
SHAPE = (19, 60, 70)
QUICK = MeasureSettings(min_voxels=8, spectrum_sizes=3, protrusion_nm=60)


def ball(center: tuple[float, float, float], radius_nm: float) -> NDArray[np.bool_]:
    z, y, x = np.indices(SHAPE)
    squared = sum(
        ((axis - at) * edge) ** 2 for axis, at, edge in zip((z, y, x), center, VOXEL, strict=True)
    )
    return np.asarray(squared < radius_nm**2)


def tissue_of(path: Path, depth: int = 7) -> Sample:
    """Draw two cells with a nucleus, a nucleolus and mitochondria each, and a third, cut cell.

    One nucleolus is hollow, and one mitochondrion lies in no cell.
    """
    sample = Sample.create(path)
    image = np.clip(
        128 + 40 * gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1) * 4, 0, 255
    ).astype(np.uint8)
    cells = np.zeros(SHAPE, np.uint32)
    cells[1:18, 4:56, 3:34], cells[1:18, 4:56, 36:66], cells[:, 58:, :] = 7, 300, 70_000
    nucleus = ball((9, 30, 18), 125) | ball((9, 30, 50), 100)
    nucleolus = (ball((9, 30, 21), 60) & ~ball((9, 30, 21), 30)) | ball((9, 30, 50), 45)
    mitochondrion = (
        ball((9, 10, 12), 50)
        | ball((9, 10, 50), 40)
        | ball((9, 50, 52), 40)
        | ball((9, 50, 69), 35)
    )
    put(sample, "", image, depth, VOXEL)
    put(sample, "labels/cells", cells, depth, VOXEL)
    masks = {"nucleus": nucleus, "nucleolus": nucleolus, "mitochondrion": mitochondrion}
    for name, mask in masks.items():
        put(sample, f"labels/{name}", mask.astype(np.uint8), depth, VOXEL)
    tracks = {"track": [0], "identity": pa.array([70_000], pa.uint32()), "in_cell": [False]}
    sample.write_table("tracks_cells", pa.table(tracks))
    return sample


@pytest.fixture(scope="module")
def measured_tissue(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = tissue_of(tmp_path_factory.mktemp("measured") / "s.zarr")
    measure(sample, QUICK)
    return sample


def columns_of(sample: Sample, name: str) -> dict[str, NDArray[Any]]:
    table = sample.read_table(name)
    return {column: table[column].to_numpy() for column in table.column_names}


def test_shapes_equal_those_of_arrays_in_memory(measured_tissue: Sample) -> None:
    for name in ("nucleus", "nucleolus", "mitochondrion"):
        labels = measured_tissue.volume("labels", f"{name}-objects").read(slice(None))
        expected = shapes(labels, VOXEL)
        measured = columns_of(measured_tissue, name)
        for column, values in expected.items():
            np.testing.assert_allclose(measured[column], values, rtol=1e-12, err_msg=column)
    cells = columns_of(measured_tissue, "cells")
    expected = shapes(measured_tissue.volume("labels", "cells").read(slice(None)), VOXEL)
    assert cells["cell"].tolist() == [7, 300, 70_000]
    assert cells["annotated"].tolist() == [True, True, False]  # 70,000 meets no annotated cell
    for column in set(expected) - {"object"}:
        np.testing.assert_allclose(cells[column], expected[column], rtol=1e-12, err_msg=column)


def test_volumes_equal_those_of_balls(measured_tissue: Sample) -> None:
    nuclei = columns_of(measured_tissue, "nucleus")
    expected = [4 / 3 * np.pi * r**3 for r in (0.125, 0.1)]
    np.testing.assert_allclose(nuclei["volume_um3"], expected, rtol=0.04)
    np.testing.assert_allclose(nuclei["solidity"], 1)
    np.testing.assert_allclose(
        nuclei["surface_um2"], [4 * np.pi * r**2 for r in (0.125, 0.1)], rtol=0.05
    )
    np.testing.assert_allclose(nuclei["centroid_x_um"], [0.185, 0.505], atol=1e-9)


def test_nucleoli_have_their_nucleus_and_their_cavity(measured_tissue: Sample) -> None:
    nucleoli, nuclei = (
        columns_of(measured_tissue, "nucleolus"),
        columns_of(measured_tissue, "nucleus"),
    )
    assert nucleoli["nucleus"].tolist() == [1, 2]
    assert nuclei["nucleoli"].tolist() == [1, 1]
    np.testing.assert_allclose(nuclei["nucleoli_volume_um3"], nucleoli["volume_um3"])
    hole = int(ball((9, 30, 21), 30).sum()) * VOXEL.volume_um3
    whole = int(ball((9, 30, 21), 60).sum()) * VOXEL.volume_um3
    np.testing.assert_allclose(nucleoli["filled_volume_um3"][0], whole)
    np.testing.assert_allclose(nucleoli["fenestrated_percent"], [100 * hole / whole, 0])
    np.testing.assert_allclose(nucleoli["solidity_filled"], [1, 1])
    to_surface = 0.125 - 0.03  # the nucleolus lies 30 nm from the middle of a nucleus of 125 nm
    np.testing.assert_allclose(nucleoli["centroid_to_membrane_um"][0], to_surface, atol=0.006)
    np.testing.assert_allclose(
        nucleoli["proximity_to_membrane"][0], 0.03 / (0.03 + to_surface), atol=0.02
    )
    np.testing.assert_allclose(nucleoli["proximity_to_membrane"][1], 0, atol=1e-6)


def test_every_organelle_counts_once(measured_tissue: Sample) -> None:
    organelles, cells = (
        columns_of(measured_tissue, "mitochondrion"),
        columns_of(measured_tissue, "cells"),
    )
    assert sorted(organelles["cell"].tolist()) == [0, 7, 300, 300]
    assert cells["mitochondrion_count"].tolist() == [1, 2, 0]
    in_cells = organelles["cell"] > 0
    np.testing.assert_allclose(
        cells["mitochondrion_volume_um3"].sum(), organelles["volume_um3"][in_cells].sum()
    )
    np.testing.assert_allclose(
        cells["mitochondrion_density_per_um3"], cells["mitochondrion_count"] / cells["volume_um3"]
    )
    in_nuclei = [*columns_of(measured_tissue, "nucleus")["volume_um3"], 0]
    np.testing.assert_allclose(cells["nucleus_volume_fraction"] * cells["volume_um3"], in_nuclei)
    np.testing.assert_allclose(
        cells["cytoplasm_volume_um3"], cells["volume_um3"] - cells["nucleus_volume_um3"]
    )
    rows = {row["structure"]: row for row in measured_tissue.read_table("measured").to_pylist()}
    row = rows["mitochondrion"]
    assert (row["objects"], row["in_no_cell"], row["cut_by_edge"], row["small_components"]) == (
        4,
        1,
        1,
        0,
    )


def test_distances_run_from_surface_to_surface(measured_tissue: Sample) -> None:
    organelles = columns_of(measured_tissue, "mitochondrion")
    first = int(np.flatnonzero(organelles["cell"] == 7)[0])
    between = np.hypot(200, 60) / 1000 - 0.125 - 0.05  # centers in one slice, less both radii
    to_next_center = between + 0.01
    assert organelles["distance_to_nucleus_um"][first] == pytest.approx(to_next_center, abs=0.012)
    # The first row of the object is 6, the last row outside the cell is 3.
    assert organelles["distance_to_membrane_um"][first] == pytest.approx(0.03)
    cells = columns_of(measured_tissue, "cells")
    for target in ("nucleus", "membrane"):
        distances = organelles[f"distance_to_{target}_um"]
        medians = [np.median(distances[organelles["cell"] == cell]) for cell in (7, 300)]
        expected = [*medians, np.nan]
        np.testing.assert_allclose(cells[f"mitochondrion_distance_to_{target}_um"], expected)
    in_no_cell = organelles["cell"] == 0
    assert np.isnan(organelles["distance_to_nucleus_um"][in_no_cell]).all()


def test_texture_equals_that_of_arrays_in_memory(measured_tissue: Sample) -> None:
    from sparsem.measure.features.texture import (
        TEXTURE_COLUMNS,
        GrayScale,
        TextureScale,
        texture_features,
    )

    image = measured_tissue.image().read(slice(None))
    labels = measured_tissue.volume("labels", "mitochondrion-objects").read(slice(None))
    table = measured_tissue.read_table("mitochondrion")
    notes = json.loads(table.schema.metadata[b"sparsem"])["texture"]
    assert (notes["level"], notes["distance_nm"], notes["gray"]["levels"]) == (0, 20, 64)
    scale = TextureScale((20, 10, 10), 20, 3, 20, "ball")
    for number in (1, 4):
        values, spectrum = texture_features(image, labels == number, GrayScale(0, 256, 64), scale)
        for column in TEXTURE_COLUMNS:
            assert table[column][number - 1].as_py() == pytest.approx(values[column], rel=1e-12), (
                column
            )
        pattern = columns_of(measured_tissue, "pattern_mitochondrion")
        np.testing.assert_allclose(
            pattern["part"][pattern["object"] == number], spectrum, rtol=1e-12
        )


@pytest.mark.parametrize(("depth", "workers"), [(1, 0), (16, 2)])
def test_results_do_not_depend_on_blocks_or_workers(
    measured_tissue: Sample, tmp_path: Path, depth: int, workers: int
) -> None:
    sample = tissue_of(tmp_path / "o.zarr", depth)
    summary = measure(sample, QUICK, on=Execution(workers=workers, quiet=True))
    assert summary.tables == measure(measured_tissue, QUICK).tables
    for name in summary.tables:
        assert sample.read_table(name).equals(measured_tissue.read_table(name)), name


@pytest.mark.xdist_group("killing")
def test_killed_ten_times_it_ends_in_the_same_bytes(
    measured_tissue: Sample, tmp_path: Path
) -> None:
    sample = tissue_of(tmp_path / "s.zarr")
    job = {"sample": str(sample.path), "settings": QUICK.model_dump(), "seconds": 2.5}
    assert kill_ten_times("measure", job) > 0
    tables = {
        name: content
        for name, content in files_in(measured_tissue.path).items()
        if name.startswith("tables") and name.endswith("parquet")
    }
    assert {name: files_in(sample.path)[name] for name in tables} == tables


def test_a_small_budget_uses_a_coarser_level_which_the_row_contains(tmp_path: Path) -> None:
    large = np.zeros((64, 640, 640), np.uint8)
    z, y, x = np.ogrid[:64, :640, :640]
    large[(z - 32) ** 2 * 25 + (y - 300) ** 2 / 4 + (x - 300) ** 2 / 4 < 110**2] = 1
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", large * 90 + 20, 16)
    put(sample, "labels/nucleus", large, 16)
    fine, coarse = (
        columns_of(copy, "nucleus")
        for copy, budget in ((sample, 32.0), (copy_of(sample, tmp_path / "c.zarr"), 1.0))
        if measure(copy, MeasureSettings(max_mvoxels=budget, spectrum_sizes=2))
    )
    assert (fine["texture_level"][0], coarse["texture_level"][0]) == (0, 1)
    for column in ("volume_um3", "surface_um2", "solidity", "sphericity"):
        assert fine[column][0] == coarse[column][0]  # shape is always that of the full resolution
    assert coarse["gray_mean"][0] == pytest.approx(fine["gray_mean"][0], rel=0.03)


def test_levels_crops_and_groups(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    volume = put(
        sample, "labels/nucleus", np.zeros((40, 1100, 1100), np.uint8), 8, VoxelSize(40, 10, 10)
    )
    assert [tuple(volume.voxel_size_of(level)) for level in range(volume.levels)] == [
        (40, 10, 10),
        (40, 20, 20),
        (40, 40, 40),
    ]
    low, high = (
        np.array([[0, 0, 0], [30, 1000, 1000]]),
        np.array([[40, 100, 100], [40, 1100, 1090]]),
    )
    assert [
        finest_level_within(volume, low, high, budget) for budget in (400_000, 399_999, 10)
    ] == [
        0,
        1,
        2,
    ]
    assert near_isotropic_level(volume) == 2
    assert [level_nearest_to(volume, edge) for edge in (1, 40, 999)] == [0, 0, 0]
    crop = crop_around(volume, 1, [3, 11, 20], [7, 14, 1100], margin=1)
    assert (crop.low, crop.high) == ((2, 4, 9), (8, 8, 550))
    assert [group.tolist() for group in crop_groups(volume, 0, low, high, 10**7)] == [[0], [1]]
    assert [group.tolist() for group in crop_groups(volume, 0, low, high, 10**9)] == [[0, 1]]
    boxes = np.repeat(low[:1], 5, axis=0), np.repeat(high[:1], 5, axis=0)  # of 400,000 voxels
    for budget, expected in ((10**6, [[0, 1], [2, 3], [4]]), (10, [[0], [1], [2], [3], [4]])):
        batches = batches_of_objects(volume, 0, *boxes, budget)
        assert [batch.tolist() for batch in batches] == expected
    assert batches_of_objects(volume, 0, boxes[0][:0], boxes[1][:0]) == []


def test_settings_that_change_numbers_are_refused_and_replaced_on_request(
    measured_tissue: Sample, tmp_path: Path
) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")
    with pytest.raises(ResumeError, match=r"gray_levels: 64 -> 32.*--overwrite"):
        measure(sample, changed(QUICK, {"gray_levels": 32}))
    measure(sample, changed(QUICK, {"gray_levels": 32}), on=Execution(overwrite=True, quiet=True))
    assert not sample.read_table("nucleus")["glcm_contrast"].equals(
        measured_tissue.read_table("nucleus")["glcm_contrast"]
    )


def test_a_refused_run_does_not_number_objects_again(
    measured_tissue: Sample, tmp_path: Path
) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")
    before = sample.volume("labels", "mitochondrion-objects").fingerprint
    larger = changed(QUICK, {"min_voxels": 200})
    with pytest.raises(ResumeError, match=r"min_voxels: .* -> 200"):
        measure(sample, larger)
    assert sample.volume("labels", "mitochondrion-objects").fingerprint == before
    measure(sample, larger, on=Execution(overwrite=True, quiet=True))
    assert sample.volume("labels", "mitochondrion-objects").fingerprint != before


def test_empty_structures_small_components_and_missing_cells(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.zeros(SHAPE, np.uint8), 7, VOXEL)
    put(sample, "labels/nucleus", np.zeros(SHAPE, np.uint8), 7, VOXEL)
    small_components = np.zeros(SHAPE, np.uint8)
    small_components[3, 3, 3:6] = 1
    small_components[9, 9, 9] = 1
    put(sample, "labels/nucleolus", small_components, 7, VOXEL)
    result = measure(sample, QUICK)
    assert dict(result.objects) == {"nucleolus": 0, "nucleus": 0}
    rows = {row["structure"]: row for row in result.summary.to_pylist()}
    row = rows["nucleolus"]
    assert (row["small_components"], row["in_no_cell"]) == (2, None)
    assert row["small_components_volume_um3"] == pytest.approx(4 * VOXEL.volume_um3)
    assert "volume_um3" in sample.read_table("nucleus").column_names


def test_tables_of_an_earlier_run_are_removed_and_lost_tables_are_written_again(
    measured_tissue: Sample, tmp_path: Path
) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")
    files = {path.name for path in (sample.path / "tables").glob("*.parquet")}
    assert {"pattern_nucleus.parquet", "protrusions.parquet", "mitochondrion.parquet"} <= files
    (sample.path / "tables" / "nucleolus.parquet").unlink()
    measure(sample, QUICK)
    assert sample.read_table("nucleolus").equals(measured_tissue.read_table("nucleolus"))
    nucleus_only = changed(QUICK, {"structures": ("nucleus",), "texture": False})
    result = measure(sample, nucleus_only, on=Execution(overwrite=True, quiet=True))
    remaining = {path.stem for path in (sample.path / "tables").glob("*.parquet")} - {
        "tracks_cells"
    }
    others = {
        "nucleolus",
        "pattern_nucleolus",
        "mitochondrion",
        "pattern_mitochondrion",
        "cells",
        "protrusions",
    }
    # The pattern spectra of the nuclei are gone.
    assert (
        remaining
        == set(result.tables)
        == {
            "nucleus",
            "dictionary",
            "measured",
            "statistics",
            *others,
        }
    )
    for name in others:
        assert sample.read_table(name).equals(measured_tissue.read_table(name)), name
    assert sorted(result.objects) == sorted(
        measured_tissue.read_table("measured")["structure"].to_pylist()
    )
    assert not is_outdated(sample, "cells", "measure")
    cells = sample.volume("labels", "cells").read(slice(None))
    cells[:3] = 0
    put(sample, "labels/cells", cells, 7, sample.voxel_size)
    assert is_outdated(sample, "cells", "measure")
    remove_pieces(sample, ["labels/mitochondrion"])
    measure(
        sample,
        changed(nucleus_only, {"spectrum_sizes": 2}),
        on=Execution(overwrite=True, quiet=True),
    )
    assert "mitochondrion" not in sample.tables  # its labels are gone
    everything = measure(
        sample, changed(QUICK, {"texture": False}), on=Execution(overwrite=True, quiet=True)
    )
    assert set(everything.tables) == {
        "nucleus",
        "nucleolus",
        "cells",
        "protrusions",
        "dictionary",
        "measured",
        "statistics",
    }


def test_a_killed_replacement_does_not_count_as_the_old_result(
    measured_tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(tables, "_summary_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(
                sample,
                changed(QUICK, {"gray_levels": 8}),
                on=Execution(overwrite=True, quiet=True),
            )
    measure(sample, QUICK, on=Execution(overwrite=True, quiet=True))
    for name in ("nucleus", "nucleolus", "cells", "measured"):
        assert sample.read_table(name).equals(measured_tissue.read_table(name)), name


def test_reserved_and_unknown_names_are_refused(measured_tissue: Sample, tmp_path: Path) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")
    with pytest.raises(
        SettingsError,
        match="min_volume_um3 names 'nucleos', which is not measured; did you mean 'nucleolus'",
    ):
        measure(sample, changed(QUICK, {"min_volume_um3": {"nucleos": 1.0}}))
    put(sample, "labels/protrusions", np.ones(SHAPE, np.uint8), 7, VOXEL)
    with pytest.raises(InputError, match="A structure cannot be called 'protrusions'"):
        measure(sample, QUICK)


def test_an_object_that_fills_the_volume_has_no_distances(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    whole = np.ones(SHAPE, np.uint8)
    for name, mask in (
        ("cells", whole.astype(np.uint32)),
        ("nucleus", whole),
        ("nucleolus", ball((9, 30, 18), 60)),
        ("er", ball((9, 30, 50), 60)),
    ):
        put(
            sample,
            f"labels/{name}",
            mask.astype(np.uint32 if name == "cells" else np.uint8),
            7,
            VOXEL,
        )
    measure(sample, QUICK)
    nucleolus, organelle = columns_of(sample, "nucleolus"), columns_of(sample, "er")
    assert np.isnan(nucleolus["centroid_to_membrane_um"]).all()
    assert np.isnan(nucleolus["proximity_to_membrane"]).all()
    assert np.isnan(organelle["distance_to_membrane_um"]).all()
    assert (nucleolus["nucleus_cut_by_edge"].tolist(), nucleolus["cut_by_edge"].tolist()) == (
        [True],
        [False],
    )
    assert (organelle["cell_cut_by_edge"].tolist(), organelle["cut_by_edge"].tolist()) == (
        [True],
        [False],
    )


def test_gray_levels_of_16_bit_come_from_the_full_resolution(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    noise = np.random.default_rng(0).normal(30_000, 3000, (8, 1100, 600))
    put(sample, "", noise.astype(np.uint16), 8)
    put(
        sample,
        "labels/nucleus",
        np.pad(np.ones((4, 40, 40), np.uint8), ((2, 2), (500, 560), (300, 260))),
        8,
    )
    measure(sample, QUICK)
    gray = json.loads(sample.read_table("nucleus").schema.metadata[b"sparsem"])["texture"]["gray"]
    assert (gray["low"], gray["high"]) == pytest.approx(
        tuple(np.percentile(noise, (0.1, 99.9))), rel=0.005
    )


def test_invalid_inputs_are_refused(measured_tissue: Sample, tmp_path: Path) -> None:
    sample = copy_of(measured_tissue, tmp_path / "s.zarr")
    with pytest.raises(SampleError, match="has no labels/lysosome"):
        measure(sample, MeasureSettings(structures=("lysosome",)))
    put(sample, "labels/other", np.ones((19, 60, 71), np.uint8), 7, VOXEL)
    with pytest.raises(
        SampleError,
        match=r"labels/other of s.zarr has the shape \(19, 60, 71\), but labels/mitochondrion",
    ):
        measure(sample, QUICK)
    put(sample, "labels/other", np.ones(SHAPE, np.uint8), 7, VoxelSize(20, 20, 20))
    with pytest.raises(
        SampleError, match=r"labels/other of s.zarr has the voxel size .*--structure"
    ):
        measure(sample, QUICK)
    put(sample, "labels/other", np.ones((9, 9, 9), np.uint8), 7, VOXEL)
    with pytest.raises(SampleError, match=r"image raw of s.zarr has the shape .*--no-texture"):
        measure(sample, MeasureSettings(structures=("other",)))
    empty = Sample.create(tmp_path / "e.zarr")
    put(empty, "", np.zeros(SHAPE, np.uint8), 7, VOXEL)
    with pytest.raises(SampleError, match="has no labels to measure; run 'sparsem predict' first"):
        measure(empty)


def test_a_sample_without_an_image_is_measured_without_texture(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "labels/nucleus", ball((9, 30, 18), 125).astype(np.uint8), 7, VOXEL)
    measure(sample, QUICK)
    assert "glcm_contrast" not in sample.read_table("nucleus").column_names
    assert sample.read_table("nucleus")["volume_um3"][0].as_py() == pytest.approx(
        4 / 3 * np.pi * 0.125**3, rel=0.01
    )


def test_intermediate_labels_are_no_results(measured_tissue: Sample) -> None:
    assert result_names(measured_tissue) == [
        "cells",
        "mitochondrion",
        "nucleolus",
        "nucleus",
    ]


def test_the_dictionary_describes_every_column_and_the_docs_contain_it(
    measured_tissue: Sample,
) -> None:
    for name in measure(measured_tissue, QUICK).objects:
        for column in measured_tissue.read_table(name).column_names:
            description = describe_column(column)
            assert description, column
            unit = {"um3": "µm³", "um2": "µm²", "um": "µm"}.get(column.rsplit("_", 1)[-1])
            assert unit is None or unit in description.unit, column
    written = {row["column"]: row for row in measured_tissue.read_table("dictionary").to_pylist()}
    assert written["fenestrated_percent"]["source"].startswith("equation 8")
    assert written["mitochondrion_density_per_um3"]["unit"] == "1/µm³"
    assert feature_columns(["object", "volume_um3", "voxels", "no such"]) == ["volume_um3"]
    assert dictionary_markdown() in (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fib1-0-0-0_labels_mitochondria_inst.tif"])
def test_real_labels_have_plausible_shapes(real_data: Any, name: str) -> None:
    import tifffile

    columns = shapes(
        tifffile.imread(real_data(f"urocell_labels/{name}")).astype(np.uint32),
        VoxelSize(15, 16, 16),
    )
    assert len(columns["object"]) == 39
    assert (columns["solidity"] <= 1).all()
    whole = ~columns["cut_by_edge"] & (columns["voxels"] > 1000)
    assert ((columns["sphericity"][whole] > 0.3) & (columns["sphericity"][whole] < 1.02)).all()
