"""Cells: accuracy of every separation method of Table 2, and its speed.

    python benchmarks/cells.py neurites --every 25 50   # FIB-25; SPARSEM_DATA names the folder
    python benchmarks/cells.py protrusions              # phantom of similar, touching cells
    python benchmarks/cells.py speed                    # one core, 24 Mpx, seconds a slice by step
    python benchmarks/cells.py growth                   # 16, 32 and 64 slices: time and memory

The phantom has filopodia and 7 labeled slices of 64; it is also separated with coarser grids of the
flow. ``speed`` uses 20 cells and 500 islands. ``growth`` runs both stages. Results: README.md.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cc3d
import cv2
import numpy as np
from numpy.typing import NDArray

from rows import peak_gb
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.cells.cells import cells
from sparsem.cells.disagreement import disagreement_map, largest_disagreements, nearer_front
from sparsem.cells.linking import link_slices, relabel_islands
from sparsem.cells.propagate import ArrivalCarrier, Carrier, FlowCarrier, GridSlice, PerFrameCarrier
from sparsem.cells.refine import number_islands, refine_labels
from sparsem.cells.separate import Evidence, separate_cells
from sparsem.cells.settings import CellsSettings, TrackSettings
from sparsem.cells.track import track
from sparsem.experiment.cells import compare_cell_methods
from sparsem.experiment.settings import CellMethodsSettings
from sparsem.geometry import VoxelSize, ZBlock, evenly_spaced
from sparsem.image.flow import flow_between, reduce_to_grid
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels.overlaps import label_sizes, resample_labels
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

RESULTS = Path(__file__).with_name("results")
SHAPE, CELLS, ISLANDS, BASE = (4000, 6000), 20, 500, 20


def tissue(z: int, shape: tuple[int, int] = SHAPE) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Draw a slice of similar cells that move from slice to slice, with islands between them.

    Returns:
        image and labels; an island has the label of one of the cells.
    """
    random = np.random.default_rng(0)
    height, width = shape
    scale = height / SHAPE[0]
    small = (height // 8, width // 8)
    y, x = np.mgrid[: small[0], : small[1]].astype(np.float32) * 8
    centers = random.uniform((0, 0), shape, (CELLS, 2)) + z * random.normal(
        0, 3 * scale, (CELLS, 2)
    )
    distance = np.stack([np.hypot(y - cy, x - cx) for cy, cx in centers])
    order = np.sort(distance, axis=0)
    labels = np.where(order[1] - order[0] > 40 * scale, distance.argmin(axis=0) + 1, 0).astype(
        np.uint32
    )
    labels = resample_labels(labels, shape).copy()
    island_centers = random.uniform((0, 0), shape, (ISLANDS, 2)) + z * random.normal(
        0, 3 * scale, (ISLANDS, 2)
    )
    for number, (cy, cx) in enumerate(island_centers):
        rows, columns = (
            slice(max(0, int(c - 30 * scale)), max(0, int(c + 30 * scale))) for c in (cy, cx)
        )
        labels[rows, columns] = 0
        disc = (slice(max(0, int(c - 22 * scale)), max(0, int(c + 22 * scale))) for c in (cy, cx))
        labels[tuple(disc)] = number % CELLS + 1
    gray = np.where(labels > 0, 150, 70).astype(np.float32) + 20 * cv2.resize(
        random.standard_normal((height // 16, width // 16)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    return np.clip(gray, 0, 255).astype(np.uint8), labels


def network_output(labels: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return interior and boundary like the output of a network: soft at the boundaries."""
    inside = (labels > 0).astype(np.uint8) * 255
    edge = (
        cv2.morphologyEx(
            (labels % 251).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)
        )
        > 0
    )
    return np.asarray(cv2.blur(inside, (5, 5)), np.uint8), np.asarray(
        cv2.blur(edge.astype(np.uint8) * 230, (5, 5)), np.uint8
    )


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the median time of several runs, and the result of the last one."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], result


def speed() -> list[dict[str, Any]]:
    """Measure the seconds for a slice of 24 Mpx on one core."""
    cv2.setNumThreads(1)
    settings = CellsSettings()
    grid = settings.grid_shape(SHAPE)
    (image, labels), (image_above, labels_above) = tissue(5), tissue(6)
    volumes = (image, *network_output(labels))
    volumes_above = (image_above, *network_output(labels_above))
    rows: list[dict[str, Any]] = []

    def row(what: str, seconds: float) -> None:
        rows.append({"what": what, "seconds": round(seconds, 3)})
        print(f"{what:48} {seconds:7.3f} s", flush=True)

    reduce_s, _ = timed(lambda: [reduce_to_grid(volume, grid) for volume in volumes])
    row("to the grid: image, interior, boundary", reduce_s)
    reduced, reduced_above = grid_slice(volumes, grid), grid_slice(volumes_above, grid)
    flow_s, _ = timed(lambda: flow_between(reduced.image, reduced_above.image, settings))
    row("flow of a pair on the grid", flow_s)
    start, known = resample_labels(labels_above, grid), np.ones(grid, bool)
    mask = volumes[1] >= 128
    carriers: dict[str, Carrier] = {
        "arrival": ArrivalCarrier(settings, 0.25),
        "per_frame": PerFrameCarrier(settings),
        "flow": FlowCarrier(settings),
    }
    for name, carrier in carriers.items():
        state = carrier.begin(start, known, reduced_above)
        advance_s, next_state = timed(partial(carrier.advance, state, reduced))
        front = carrier.front(next_state)
        row(f"{name}: a step of one direction, with its flow", advance_s)
        if name != "flow":
            finish_s, _ = timed(partial(finish_slice, front, front, mask, volumes[2] >= 128))
            row(
                f"{name}: both directions, and full resolution",
                reduce_s * 2 + advance_s * 2 + finish_s,
            )
            continue
        for method in ("selective", "mask_flow", "mask_border", "mask"):
            evidence = Evidence(
                reduced.interior, reduced.boundary, front.labels, front.seeds, reduced.margin
            )
            separate_s, _ = timed(partial(separate_cells, method, evidence, 0.3))
            row(
                f"{method}: both directions, and full resolution",
                reduce_s * 3 + advance_s * 2 + separate_s + finish_s,
            )
    main = cells_and_islands(labels)
    main_above = cells_and_islands(labels_above)
    islands = int(main.max()) - BASE
    link_s, _ = timed(lambda: link_slices(main, main_above, BASE, 512))
    name_s, relabeled = timed(lambda: relabel_islands(main, np.ones(islands, np.uint32), BASE))
    size_s, _ = timed(lambda: label_sizes(relabeled))
    row(f"tracking: {islands} islands, links, names, areas", link_s + name_s + size_s)
    return rows


def grid_slice(volumes: tuple[NDArray[np.uint8], ...], grid: tuple[int, int]) -> GridSlice:
    """Return image, interior and boundary of a slice on the grid of the flow."""
    image, interior, boundary = (reduce_to_grid(volume, grid) for volume in volumes)
    return GridSlice(
        image,
        interior.astype(np.float32) / np.float32(255),
        boundary.astype(np.float32) / np.float32(255),
        1.0,
    )


def finish_slice(
    below: Any, above: Any, mask: NDArray[np.bool_], boundary: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Compute the final labels of a slice when labels have arrived from both sides."""
    labels = nearer_front(below, above).labels
    disagreement_map(below, above)
    largest_disagreements(below, above, resample_labels(mask, labels.shape))
    return number_islands(refine_labels(labels, mask), mask, BASE, 100, boundary)


def cells_and_islands(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Number the components that are smaller than a cell as islands."""
    parts = cc3d.connected_components(labels, connectivity=8)
    small = (np.bincount(parts.ravel()) < 10_000)[parts] & (labels > 0)
    return number_islands(np.where(small, 0, labels), labels > 0, BASE, 1)


def growth() -> list[dict[str, Any]]:
    """Run both stages on deeper and deeper stacks: seconds a slice, and peak memory."""
    rows = []
    for slices in (16, 32, 64):
        with tempfile.TemporaryDirectory() as folder:
            sample = draw_stack(Path(folder) / "s.zarr", slices, (2000, 3000))
            command = [sys.executable, __file__, "run", str(sample.path)]
            measured = subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.split()
        numbers = dict(zip(("cells_s", "track_s", "peak_gb"), map(float, measured), strict=True))
        a_slice = {
            f"{key}_a_slice": round(numbers[key] / slices, 3) for key in ("cells_s", "track_s")
        }
        rows.append({"slices": slices, **numbers, **a_slice})
        print(rows[-1], flush=True)
    return rows


def _draw_block(block: ZBlock, shape: tuple[int, int]) -> BlockResult:
    slices = [tissue(z, shape) for z in range(block.start, block.stop)]
    outputs = [network_output(labels) for _, labels in slices]
    volumes = (
        np.stack([image for image, _ in slices]),
        np.stack([interior for interior, _ in outputs]),
        np.stack([boundary for _, boundary in outputs]),
    )
    return dict(
        zip(
            ("", "probabilities/cells-interior", "probabilities/cells-boundary"),
            volumes,
            strict=True,
        )
    ), {}


def draw_stack(path: Path, slices: int, shape: tuple[int, int]) -> Sample:
    """Draw a sample with images and network output.

    The first of every sixteen slices and the last slice are labeled.
    """
    sample, voxel = Sample.create(path), VoxelSize(8, 8, 8)
    kinds = {
        "": Kind.IMAGE,
        "probabilities/cells-interior": Kind.PROBABILITY,
        "probabilities/cells-boundary": Kind.PROBABILITY,
    }
    specs = [
        volume_spec(name, (slices, *shape), np.uint8, kind, voxel, 8)
        for name, kind in kinds.items()
    ]
    with Stage(sample, "draw", Settings(), {}, specs) as stage:
        stage.map(_draw_block, [ZBlock(z, z + 8, z, z + 8) for z in range(0, slices, 8)], shape)
    labeled_slices = [*range(0, slices, 16), slices - 1]
    labels = [tissue(z, shape)[1] for z in labeled_slices]
    write_annotation(sample, "cells", labeled_slices, labels)
    return sample


def run(path: str) -> None:
    """Run both stages in this process; print the seconds of each, and the peak memory in GB."""
    sample, times = Sample.open(path), [time.perf_counter()]
    cells(sample)
    times.append(time.perf_counter())
    track(sample)
    times.append(time.perf_counter())
    print(round(times[1] - times[0], 2), round(times[2] - times[1], 2), round(peak_gb(), 3))


def neurites(every: list[int]) -> list[dict[str, Any]]:
    """Compare the methods on FIB-25.

    The stack has 250 slices of 250 x 250 px at 10 nm with 525 neurites, of which 126 have more than
    5,000 voxels.
    """
    data = Path(os.environ["SPARSEM_DATA"]) / "fib25_fibsem_neurites"
    rows = []
    for step in every:
        with tempfile.TemporaryDirectory() as folder:
            sample = import_stack(
                data / "raw.tif", Path(folder) / "s.zarr", ImportSettings(voxel_nm=(10, 10, 10))
            )
            slices = AnnotationSettings(slices=",".join(map(str, range(0, 250, step))))
            import_annotation(sample, "cells", data / "labels_cells.tif", slices)
            train_and_predict(
                sample,
                TrainSettings(
                    cells="cells", adjacent_slices=2, context_px=128, input_px=128, updates=1000
                ),
            )
            scores = compare_cell_methods(
                sample,
                data / "labels_cells.tif",
                CellMethodsSettings(min_voxels=5000),
                on=Execution(),
            )
        rows += [
            {"stack": f"FIB-25, every {step}th", "method": method, **rounded(numbers)}
            for method, numbers in scores.items()
        ]
        show(rows[-len(scores) :])
    return rows


PROTRUSIONS = PhantomSettings(shape=(64, 768, 768), voxel_nm=(16, 8, 8), cells=4, seed=1)


def protrusions(updates: int = 1500) -> list[dict[str, Any]]:
    """Compare all methods on the unlabeled slices of a phantom, and how accurate islands are."""
    with tempfile.TemporaryDirectory() as folder:
        sample = predicted_phantom(Path(folder) / "s.zarr", updates)
        scores = compare_cell_methods(
            sample, None, CellMethodsSettings(min_voxels=5000), on=Execution()
        )
        islands = {method: island_accuracy(sample, f"cells-{method}") for method in scores}
        rows = [
            {"stack": "phantom", "method": method, **rounded(numbers), **rounded(islands[method])}
            for method, numbers in scores.items()
        ]
        show(rows)
        grid_rows = compare_grids(sample)
    return rows + grid_rows


def compare_grids(sample: Sample) -> list[dict[str, Any]]:
    """Separate the cells of the phantom with coarser grids of the flow."""
    rows = []
    for grid in (2, 4, 8):
        start = time.perf_counter()
        cells(sample, CellsSettings(flow_downsampling=grid, out=f"grid-{grid}"), on=Execution())
        seconds = time.perf_counter() - start
        track(sample, TrackSettings(cells=f"grid-{grid}"), on=Execution())
        scoring = ScoreSettings(instances=True, min_voxels=5000, slices="all")
        numbers = score(
            sample, f"grid-{grid}", sample.volume("truth", "cells").directory, scoring
        ).of_cells("unseen")
        islands = island_accuracy(sample, f"grid-{grid}")
        print(f"grid {grid}: {seconds:.0f} s")
        rows.append(
            {
                "stack": "phantom",
                "method": f"arrival, grid {grid}",
                **rounded(numbers),
                **rounded(islands),
            }
        )
    show(rows)
    return rows


def predicted_phantom(path: Path, updates: int) -> Sample:
    """Draw the phantom, label 7 slices, train a network on them, and predict."""
    sample = phantom(path, PROTRUSIONS, on=Execution())
    slices = evenly_spaced(PROTRUSIONS.shape[0], 7)
    write_annotation(
        sample,
        "cells",
        slices,
        [sample.volume("truth", "cells").read(slice(z, z + 1))[0] for z in slices],
    )
    return train_and_predict(
        sample,
        TrainSettings(
            cells="cells", adjacent_slices=2, context_px=192, input_px=192, updates=updates
        ),
    )


def train_and_predict(sample: Sample, training: TrainSettings) -> Sample:
    """Train a network on the labeled slices, and predict."""
    model = sample.path.with_name("model.safetensors")
    train_network([sample], model, training, on=Execution())
    predict(sample, model, PredictSettings(), on=Execution())
    return sample


def island_accuracy(sample: Sample, name: str) -> dict[str, float | None]:
    """Return how much of the true islands on unlabeled slices has the right identity.

    An island is every component of a cell in a slice except its largest. ``island_px_right`` is the
    fraction of their pixels with the right identity. ``islands_right`` is the fraction of their
    area in islands of which more than half of the pixels have the right identity.
    """
    truth, labels = (
        sample.volume("truth", "cells").read(slice(None)),
        sample.computed(name).read(slice(None)),
    )
    labeled_slices = read_annotation(sample, "cells").z
    area = correct_px = area_of_correct_islands = 0
    for z in (z for z in range(len(truth)) if z not in labeled_slices):
        components = cc3d.connected_components(truth[z], connectivity=8)
        pixels = np.bincount(components.ravel())
        cell = np.zeros(int(components.max()) + 1, np.int64)
        cell[components.ravel()] = truth[z].ravel()
        correct = np.bincount(components.ravel(), weights=(truth[z] == labels[z]).ravel())
        main = {
            cell_id: max(np.flatnonzero(cell == cell_id), key=lambda component: pixels[component])
            for cell_id in np.unique(cell[1:])
        }
        islands = [island for island in range(1, len(cell)) if main[cell[island]] != island]
        area += int(pixels[islands].sum())
        correct_px += int(correct[islands].sum())
        area_of_correct_islands += int(
            sum(pixels[island] for island in islands if 2 * correct[island] > pixels[island])
        )
    return {
        "island_px": area,
        "island_px_right": correct_px / area,
        "islands_right": area_of_correct_islands / area,
    }


def rounded(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the numbers with four decimals."""
    return {name: value if value is None else round(value, 4) for name, value in numbers.items()}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the main columns of the rows."""
    keys = (
        "method",
        "dice_cells",
        "arand_3d",
        "voi_split_3d",
        "voi_merge_3d",
        "pq_3d",
        "island_px_right",
        "islands_right",
    )
    for row in rows:
        print("  ".join(f"{key} {row[key]}" for key in keys if key in row), flush=True)


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("neurites", "protrusions", "speed", "growth", "run"))
    parser.add_argument("path", nargs="?", help="sample for run, a process that growth starts")
    parser.add_argument("--every", type=int, nargs="+", default=[25, 50])
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.path)
        return
    benchmarks = {"protrusions": protrusions, "speed": speed, "growth": growth}
    if arguments.what == "neurites":
        rows = neurites(arguments.every)
    else:
        rows = benchmarks[arguments.what]()
    path = RESULTS / f"cells_{arguments.what}.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
