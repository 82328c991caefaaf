"""The sample on disk, opened by programs that do not know sparsem."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import ome_zarr_models
import pyarrow as pa
import pytest
import zarr

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, create_volume, volume_spec
from tests.conftest import TISSUE


def test_ome_zarr_models_accepts_image_and_labels(tissue: Sample) -> None:
    for path in (tissue.path, tissue.path / "truth" / "nucleus"):
        group: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
        assert group.ome_zarr_version == "0.5"
        scale = group.attributes.ome.multiscales[0].datasets[0].coordinateTransformations[0].scale
        assert list(scale) == list(TISSUE.voxel_nm)


def test_a_plain_listing_meets_nothing_unknown(tissue: Sample) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        members = dict(zarr.open_group(tissue.path, mode="r").members())
    assert {"0", "annotations", "truth", "tables"} <= set(members)
    raw = members["0"]
    assert isinstance(raw, zarr.Array)
    assert raw.shape == TISSUE.shape
    assert raw.metadata.dimension_names == ("z", "y", "x")  # type: ignore[union-attr]


def test_ome_zarr_reads_image_and_scale(tissue: Sample) -> None:
    location = ome_zarr.io.parse_url(tissue.path)
    assert location is not None
    nodes = list(ome_zarr.reader.Reader(location)())
    assert nodes[0].data[0].shape == TISSUE.shape
    assert np.array_equal(np.asarray(nodes[0].data[0][3]), tissue.image().read(slice(3, 4))[0])
    assert nodes[0].metadata["axes"][0] == {"name": "z", "type": "space", "unit": "nanometer"}


def test_levels_halve_until_they_are_small_and_stay_in_place() -> None:
    spec = volume_spec("labels/x", (40, 3000, 1200), np.uint8, Kind.LABELS, VoxelSize(20, 5, 5), 16)
    assert spec.level_factors() == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert spec.level_shapes() == [
        (40, 3000, 1200),
        (40, 1500, 600),
        (40, 750, 300),
        (20, 375, 150),
    ]
    assert spec.level_runs() == [[(0, 16), (1, 16), (2, 16), (3, 8)]]


def test_level_transformations_say_where_the_centers_lie(tmp_path: Path) -> None:
    spec = volume_spec("", (4, 2000, 600), np.uint8, Kind.IMAGE, VoxelSize(4, 4, 4), 2)
    create_volume(tmp_path / "a.zarr", spec, "f")
    datasets = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"][
        "multiscales"
    ][0]["datasets"]
    assert [dataset["coordinateTransformations"][0]["scale"][1] for dataset in datasets] == [
        4,
        8,
        16,
    ]
    # The center of the first cell of level 2 is that of 4 fine voxels: 1.5 voxels of 4 nm beyond
    # the first voxel's.
    assert datasets[2]["coordinateTransformations"][1]["translation"] == [6, 6, 6]


def test_a_missing_sample_is_reported_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        SampleError, match=r"There is no sample at .*; make one with 'sparsem import"
    ):
        Sample.open(tmp_path / "none.zarr")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(SampleError, match="is not a sparsem sample"):
        Sample.open(tmp_path / "other")
    with pytest.raises(SampleError, match="choose another name"):
        Sample.create(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "precious"


def test_a_missing_structure_names_the_nearest(tissue: Sample) -> None:
    with pytest.raises(SampleError, match="did you mean 'nucleus'"):
        tissue.volume("truth", "nuclei")


def test_a_damaged_group_is_reported(own_tissue: Sample) -> None:
    (own_tissue.path / "truth" / "nucleus" / "zarr.json").write_text('{"attributes": ')
    with pytest.raises(SampleError, match="missing or damaged"):
        _ = own_tissue.volume("truth", "nucleus").voxel_size


def test_tables_are_written_twice_and_read_back(own_tissue: Sample) -> None:
    table = pa.table({"z": [1, 2], "dice": [0.5, 1.0]})
    own_tissue.write_table("scores_x", table)
    assert own_tissue.read_table("scores_x").equals(table)
    assert (own_tissue.path / "tables" / "scores_x.csv").read_text().splitlines()[1] == "1,0.5"
    with pytest.raises(SampleError, match="has no table 'scores_y'; did you mean 'scores_x'"):
        own_tissue.read_table("scores_y")


def test_a_volume_is_picklable_and_says_what_it_is(tissue: Sample) -> None:
    volume = tissue.volume("truth", "cells")
    assert (volume.shape, volume.dtype, volume.block_depth) == (
        TISSUE.shape,
        np.dtype(np.uint32),
        7,
    )
    assert volume.voxel_size == VoxelSize(20, 20, 20)
    assert len(volume.fingerprint) == 32
    with pytest.raises(SampleError, match="not a Zarr v3 group"):
        Volume(tissue.path / "nowhere")
