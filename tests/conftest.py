"""Helpers of many tests: small phantoms, drawn label maps, and the path of the real data."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from sparsem.annotation.writing import write_annotation
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.measure.dictionary import feature_columns
from sparsem.models.checkpoint import Recipe, save_checkpoint
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, volume_spec
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

if "PYTEST_XDIST_WORKER" in os.environ:
    # One test process a core: more threads than cores make each other wait.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first, beside all others."""
    items.sort(key=lambda item: item.name != "test_the_window")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Take back what others did: compiled loops of napari let torch use all cores again."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


hypothesis.settings.register_profile("shared", deadline=None)  # another process may hold the core
hypothesis.settings.load_profile("shared")

TISSUE = PhantomSettings(shape=(19, 96, 128), voxel_nm=(20, 20, 20), cells=3, seed=5, block_depth=7)
LABELED = (0, 9, 18)
QUICK = TrainSettings(
    structures=("nucleus",),
    width=4,
    context_px=64,
    input_px=32,
    batch=2,
    updates=12,
    warmup=2,
    checkpoint_every_s=0,
)


def drawn(*rows: str) -> NDArray[np.uint8]:
    """A label map from ASCII: ``.`` is 0, digits are themselves."""
    return np.array([[0 if mark == "." else int(mark) for mark in row] for row in rows], np.uint8)


def truth_of(sample: Sample, name: str, slices: tuple[int, ...]) -> list[NDArray[Any]]:
    return [sample.volume("truth", name).read(slice(z, z + 1))[0] for z in slices]


def write_liver(tissue: Sample, folder: Path) -> None:
    """The files from which the README and the pages of the documentation start."""
    tifffile.imwrite(
        folder / "liver.tif", tissue.image().read(slice(None)), photometric="minisblack"
    )
    for name, file in (("nucleus", "all_nuclei.tif"), ("cells", "all_cells.tif")):
        truth = tissue.volume("truth", name).read(slice(None))
        tifffile.imwrite(
            folder / file,
            truth.astype(np.uint16 if name == "cells" else np.uint32),
            photometric="minisblack",
        )
    for name in ("nucleus", "mitochondrion", "cells"):
        (folder / "masks" / name).mkdir(parents=True)
        for z, labels in zip(LABELED, truth_of(tissue, name, LABELED), strict=True):
            mask = labels.astype(np.uint16) if name == "cells" else (labels > 0).astype(np.uint8)
            tifffile.imwrite(folder / "masks" / name / f"{name}_{z:04d}.tif", mask)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without those that contain times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name not in ("history.json", "lock")
    }


def voxels(volume: Volume) -> list[NDArray[Any]]:
    """All levels of a volume."""
    return [np.asarray(volume.level(level)[:]) for level in range(volume.levels)]


@pytest.fixture(scope="session")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A small phantom with nuclei, nucleoli and mitochondria annotated on three slices.

    Not to be changed.
    """
    sample = phantom(tmp_path_factory.mktemp("tissue") / "tissue.zarr", TISSUE)
    for name in ("nucleus", "nucleolus", "mitochondrion"):
        write_annotation(sample, name, LABELED, truth_of(sample, name, LABELED))
    return sample


@pytest.fixture
def own_tissue(tissue: Sample, tmp_path: Path) -> Sample:
    """A copy of it that a test may write to."""
    return copy_of(tissue, tmp_path / "own.zarr")


@pytest.fixture
def few_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plot few features on a page: sixty take as long as the rest, and test_report.py has them."""
    from sparsem.report import charts

    monkeypatch.setattr(charts, "feature_columns", lambda columns: feature_columns(columns)[:4])


def copy_of(sample: Sample, path: Path) -> Sample:
    shutil.copytree(sample.path, path)
    return Sample.open(path)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path of a file of the real EM data; the test is skipped where they are not at hand."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("SPARSEM_DATA", root.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"real data not found: {folder / name}; set SPARSEM_DATA to their folder")
        return folder / name

    return find


def kill_ten_times(what: str, given: dict[str, Any], seed: int = 1, kills: int = 10) -> int:
    """Return how many of ten runs died before they ended; the eleventh ends by itself."""
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), what, json.dumps(given), str(kills), str(seed)]
    # A fork copies locks that other threads hold, so the parent has none: not that of pyarrow's
    # allocator, and not those of OpenBLAS.
    one_thread = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        env=os.environ | one_thread,
    )
    assert result.returncode == 0, result.stderr
    return int(json.loads(result.stdout)["died"])


def random_model(
    path: Path,
    structures: tuple[str, ...] = ("nucleus",),
    width: int = 2,
    see: int = 32,
    pixel_nm: float = 16.0,
) -> Path:
    """A checkpoint of random weights."""
    recipe = Recipe("resunet", width, structures, see, (pixel_nm, pixel_nm), 0.5, 0.15)
    save_checkpoint(path, recipe.build(), recipe)
    return path


def put(
    sample: Sample,
    path: str,
    array: NDArray[Any],
    depth: int | None = None,
    voxel: VoxelSize | None = None,
    made_on: tuple[str, str] | None = None,
    motions: NDArray[np.float64] | None = None,
) -> Volume:
    """Write an array into a sample as a volume: image, probabilities or labels, by its path."""
    kind = (
        Kind.IMAGE
        if path == "" or path.startswith("images")
        else Kind.PROBABILITY
        if path.startswith("probabilities")
        else Kind.LABELS
    )
    shape = (array.shape[0], array.shape[1], array.shape[2])
    spec = volume_spec(
        path,
        shape,
        array.dtype,
        kind,
        voxel or VoxelSize(10, 10, 10),
        depth or len(array),
        made_on,
        motions,
    )
    name = f"put-{path.replace('/', '-')}"
    settings = PhantomSettings(
        seed=int(array.sum(dtype=np.int64) % 2**31)
    )  # other contents, other fingerprint
    inputs = {"image": made_on[1]} if made_on else {}
    with Stage(
        sample, name, settings, inputs, [spec], Execution(overwrite=True, quiet=True)
    ) as stage:
        stage.map(_given, z_blocks(shape[0], spec.block_depth), path, array)
    return sample.volume(*path.split("/")) if path else sample.image("raw")


def _given(block: ZBlock, path: str, array: NDArray[Any]) -> BlockResult:
    return {path: array[block.own]}, {}
