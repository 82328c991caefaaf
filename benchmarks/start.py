"""Time until a command that searches many images reads its first tile.

    python benchmarks/start.py detect --images 50 5000

The detector has random weights: only the work before the first tile is timed. Each number is the
fastest of three runs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from rows import save
from sparsem.detect import predict as prediction
from sparsem.detect.models.networks import build_detector
from sparsem.detect.training.recipe import DetectorRecipe, save_detector
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

SHAPE = (100, 120)
QUIET = Execution(quiet=True)


class FirstTileError(Exception):
    """Raised in place of the search of the first tiles."""


def montage_of(folder: Path, n_images: int) -> Sample:
    """Return a sample with a montage of small images."""
    images = folder / f"images_{n_images}"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    for number in range(n_images):
        tifffile.imwrite(images / f"image_{number:05d}.tif", pixels, photometric="minisblack")
    settings = ImportSettings(voxel_nm=(8, 8, 8), montage=True)
    return import_stack(images, folder / f"{n_images}.zarr", settings, on=QUIET)


def random_detector(path: Path) -> Path:
    """Write a small detector with random weights, and return its file."""
    recipe = DetectorRecipe("retinanet-small", ("disc",), 128, (8.0, 8.0), 300)
    save_detector(path, build_detector("retinanet-small", 1, 128, 300), recipe)
    return path


def seconds_to_first_tile(sample: Path, model: Path) -> float:
    """Return the seconds from opening a sample to the first tile that is read."""

    def stop(*_: Any) -> None:
        raise FirstTileError

    search: Callable[..., Any] = prediction._search_group
    prediction._search_group = stop  # type: ignore[assignment]
    begin = time.perf_counter()
    try:
        prediction.detect(Sample.open(sample), model, on=QUIET)
    except FirstTileError:
        return time.perf_counter() - begin
    finally:
        prediction._search_group = search
    raise RuntimeError("no tile was searched")


def detect(counts: list[int]) -> None:
    """Print and save the seconds for each number of images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_detector(folder / "m.safetensors")
        samples = {count: montage_of(folder, count).path for count in counts}
        for count, path in samples.items():
            seconds = min(seconds_to_first_tile(path, model) for _ in range(3))
            save(
                "start",
                {"command": "detect predict", "images": count, "seconds": round(seconds, 3)},
            )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["detect"])
    parser.add_argument("--images", type=int, nargs="+", default=[50, 5000])
    arguments = parser.parse_args()
    detect(arguments.images)


if __name__ == "__main__":
    main()
