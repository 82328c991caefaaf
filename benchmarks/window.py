"""Times of the window on slices of 24 Mpx: opening, showing a slice, a brush stroke.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/window.py [--folder /tmp]

The sample has 48 slices of 4000 x 6000 px with labels and an annotation. Everything is drawn by
software, without a graphics card. A slice counts as shown when the canvas is drawn.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QApplication

from rows import save
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.viewer.window import make_window
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

SHAPE = (48, 4000, 6000)
DEPTH = 16
QUIET = Execution(quiet=True)


def _block(block: ZBlock) -> BlockResult:
    """Return image and labels of a block: smooth noise, and a grid of squares."""
    random = np.random.default_rng(block.start)
    depth = block.stop - block.start
    coarse = random.integers(60, 200, (depth, SHAPE[1] // 8, SHAPE[2] // 8), np.uint8)
    image = coarse.repeat(8, axis=1).repeat(8, axis=2)
    image += random.integers(0, 30, image.shape, np.uint8)
    y, x = np.arange(SHAPE[1]), np.arange(SHAPE[2])
    squares = ((y % 400 < 200)[:, None] & (x % 400 < 200)[None, :]).astype(np.uint8)
    return {"": image, "labels/nucleus": np.repeat(squares[None], depth, axis=0)}, {}


def make_sample(path: Path) -> Sample:
    """Write the sample."""
    shutil.rmtree(path, ignore_errors=True)
    sample = Sample.create(path)
    voxel = VoxelSize(8, 4, 4)
    specs = [
        volume_spec("", SHAPE, np.uint8, Kind.IMAGE, voxel, DEPTH),
        volume_spec("labels/nucleus", SHAPE, np.uint8, Kind.LABELS, voxel, DEPTH),
    ]
    with Stage(sample, "synthetic", Settings(), {}, specs, QUIET) as stage:
        stage.map(_block, z_blocks(SHAPE[0], DEPTH))
    return sample


def settle(viewer: Any) -> None:
    """Draw the canvas, and let the window finish what it began."""
    viewer.window._qt_viewer.canvas.native.repaint()
    QApplication.processEvents()


def time_slices(viewer: Any, numbers: list[int]) -> list[float]:
    """Return the seconds until each slice is shown."""
    seconds = []
    for z in numbers:
        started = time.perf_counter()
        viewer.dims.set_current_step(0, z)
        settle(viewer)
        seconds.append(time.perf_counter() - started)
    return seconds


def time_strokes(viewer: Any, layer: Any, n: int) -> list[float]:
    """Return the seconds of each step of a stroke of the brush, from the event to the canvas."""
    layer.selected_label = 1
    layer.brush_size = 60
    seconds = []
    z = int(viewer.dims.current_step[0])
    for number in range(n):
        started = time.perf_counter()
        layer.paint((z, 1000 + 10 * number, 2000 + 12 * number), 1)
        settle(viewer)
        seconds.append(time.perf_counter() - started)
    return seconds


def report(what: str, seconds: list[float]) -> None:
    """Save the median and the maximum of some times."""
    row = {
        "what": what,
        "n": len(seconds),
        "median_ms": round(1000 * statistics.median(seconds)),
        "max_ms": round(1000 * max(seconds)),
    }
    save("window", row)


def main() -> None:
    """Open the window, and time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    path = parser.parse_args().folder / "window24.zarr"
    sample = make_sample(path)
    started = time.perf_counter()
    viewer = make_window(sample)
    viewer.window._qt_window.resize(1600, 1000)
    settle(viewer)
    report("open the window", [time.perf_counter() - started])
    dock = next(iter(viewer.window.dock_widgets.values()))
    report("show the next slice", time_slices(viewer, list(range(1, 16))))
    report("show a slice far away", time_slices(viewer, [40, 3, 24, 47, 8, 30]))
    dock.label_page.name.setCurrentText("nucleus")
    layer = dock.label_page.layer()
    settle(viewer)
    report("show the next slice, with an annotation", time_slices(viewer, list(range(1, 12))))
    report("step of a brush stroke", time_strokes(viewer, layer, 40))
    viewer.camera.zoom *= 6
    settle(viewer)
    report("show the next slice, zoomed in", time_slices(viewer, list(range(12, 22))))
    report("step of a brush stroke, zoomed in", time_strokes(viewer, layer, 40))
    started = time.perf_counter()
    while layer.data.unsaved:
        time.sleep(0.01)
    report("until the stroke is on disk", [time.perf_counter() - started])
    dock.close_all()
    viewer.close()
    shutil.rmtree(path)


if __name__ == "__main__":
    main()
