"""The description of a sample."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from typer.testing import CliRunner

from sparsem.cli.app import app
from sparsem.store.sample import Sample
from tests.conftest import put


def test_info_lists_labels_and_tables_as_json(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.zeros((4, 8, 8), np.uint8))
    put(sample, "labels/nucleus", np.ones((4, 8, 8), np.uint8))
    sample.write_table("nucleus", pa.table({"label": [1]}))
    result = CliRunner().invoke(app, ["info", str(sample.path), "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["labels"] == ["nucleus"]
    assert content["tables"] == ["nucleus"]
    assert content["montage"] == []
