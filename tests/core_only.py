"""A chain that needs the core only: import, measure, score, export, report, without torch or any other extra.

``tests/test_core.py`` runs it with the Python of an environment that has no extra.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile

import sparsem

ABSENT = ("torch", "transformers", "pyvista", "distributed", "careamics", "pandas")


def main(folder: Path) -> None:
    """Run the chain in a folder, and check what it returns."""
    installed = [name for name in ABSENT if find_spec(name) is not None]
    assert not installed, f"this environment is meant to have no {installed}"
    random = np.random.default_rng(1)
    images = random.integers(60, 180, (12, 64, 64)).astype(np.uint8)
    labels = np.zeros((12, 64, 64), np.uint8)
    labels[2:10, 8:28, 8:28] = 1
    labels[2:10, 36:60, 36:60] = 1
    tifffile.imwrite(folder / "images.tif", images, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", labels, photometric="minisblack")
    shifted = np.roll(labels, 2, axis=2)
    tifffile.imwrite(folder / "truth.tif", shifted, photometric="minisblack")

    sample = sparsem.import_stack(folder / "images.tif", folder / "s.zarr", voxel_nm=(10, 10, 10))
    sparsem.import_labels(sample.path, "nucleus", folder / "labels.tif")
    table = sparsem.measure(sample).table("nucleus")
    assert np.allclose(table.column("volume_um3").to_pylist(), [3.2e-3, 4.608e-3])
    scores = sparsem.score(sample, "nucleus", folder / "truth.tif", slices="all")
    assert 0.85 < (scores.summary(None)["dice_3d"] or 0) < 0.95
    sparsem.export(sample, ["nucleus"], folder / "nuclei.tif")
    assert np.array_equal(tifffile.imread(folder / "nuclei.tif") > 0, labels > 0)
    sparsem.report(sample, folder / "report.html")
    assert "nucleus" in (folder / "report.html").read_text(encoding="utf-8")
    assert 'pip install "sparsem[train]"' in refusal_of_training(sample, folder)
    loaded = [name for name in ABSENT if name in sys.modules]
    assert not loaded, loaded


def refusal_of_training(sample: sparsem.Sample, folder: Path) -> str:
    """Return the message of the error that training without torch raises."""
    try:
        sparsem.train(sample, folder / "m.safetensors")
    except sparsem.SparsemError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
