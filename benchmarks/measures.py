"""Measures: error, speed compared with pyradiomics, and the memory for a nucleus of 10^9 voxels.

    python benchmarks/measures.py shapes                 # analytic bodies, for docs/measures.md
    python benchmarks/measures.py texture                # needs pyradiomics 3.0.1
    SPARSEM_DATA=... python benchmarks/measures.py urocell
    python benchmarks/measures.py nucleus [--edge 1300]
    python benchmarks/measures.py many                   # time of a voxel with ever more objects

Times are compared within one run, with one core each (Numba, OpenMP and cc3d use one core here).
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes, mesh_surface_area, regionprops_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of tests

from tests.bodies import BODIES, body

from rows import peak_gb
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.measure.features.glcm import co_occurrence_features, co_occurrence_matrix, pair_offsets
from sparsem.measure.features.shape import shapes
from sparsem.measure.features.size_zones import size_zone_features, zones
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.phantom.settings import PhantomSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

RESULTS = Path(__file__).parent / "results"
REPEATS = 5
BALL_BOX = 12  # voxels of the cube around a ball
# What scikit-image measures of what we do, but for the surface, and for the largest diameter: for one
# of these objects it requests 260 GB.
PEER_PROPERTIES = (
    "label",
    "bbox",
    "area",
    "centroid",
    "inertia_tensor_eigvals",
    "area_convex",
    "euler_number",
)


def shapes_table() -> list[dict[str, Any]]:
    """Return the relative error of every measure of every body, for finer and finer voxels."""
    rows = []
    for name in BODIES:
        for voxel in ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0)):
            for across in (10, 20, 40, 80):
                width = across * max(voxel) if voxel[0] > 1 else across
                mask, truth = body(name, width, voxel)
                voxel_size = VoxelSize.of([1000 * edge for edge in voxel])
                measures = shapes(mask.astype(np.uint32), voxel_size)
                errors = {
                    key: measures[key][0] / value - 1 if value else measures[key][0]
                    for key, value in truth.items()
                }
                rows.append(
                    {
                        "body": name,
                        "voxel": ":".join(f"{edge:g}" for edge in voxel),
                        "across": across,
                        **errors,
                    }
                )
    return rows


def texture_table() -> list[dict[str, Any]]:
    """Compare GLCM and size zones of 128^3 voxels at 64 gray levels with pyradiomics.

    The rows hold seconds, their ratio, and the largest difference of a feature.
    """
    import logging

    import SimpleITK
    from radiomics import glcm, glszm

    logging.getLogger("radiomics").setLevel(logging.ERROR)
    rows = []
    random = np.random.default_rng(0)
    noise = random.normal(size=(128, 128, 128))
    for name, image in (
        ("noise", noise),
        ("smooth", gaussian_filter(noise, 2)),
        ("cells", gaussian_filter(noise, 6)),
    ):
        ranked = np.clip((image - image.min()) / np.ptp(image) * 64, 0, 63.999).astype(np.uint8) + 1
        itk, mask = (
            SimpleITK.GetImageFromArray(array)
            for array in (ranked.astype(np.int32), np.ones_like(ranked))
        )
        options = {"binWidth": 1, "weightingNorm": "no_weighting"}

        def by_pyradiomics(
            itk: Any = itk, mask: Any = mask, options: dict[str, Any] = options
        ) -> tuple[float, ...]:
            pairs = glcm.RadiomicsGLCM(itk, mask, **options).execute()
            sizes = glszm.RadiomicsGLSZM(itk, mask, **options).execute()
            pair_names = ("Idm", "Correlation", "SumSquares", "Contrast")
            size_names = ("ZonePercentage", "SmallAreaHighGrayLevelEmphasis")
            return (
                *(float(pairs[key]) for key in pair_names),
                *(float(sizes[key]) for key in size_names),
            )

        def by_sparsem(gray: NDArray[np.uint8] = ranked) -> tuple[float, ...]:
            pairs = co_occurrence_features(
                co_occurrence_matrix(gray, 64, pair_offsets(1, (1, 1, 1)))
            )
            return (*pairs, *size_zone_features(*zones(gray))[:2])

        times = {"theirs": _fastest(by_pyradiomics), "ours": _fastest(by_sparsem)}
        features = zip(by_sparsem(), by_pyradiomics(), strict=True)
        largest_difference = max(abs(value / reference - 1) for value, reference in features)
        rows.append(
            {
                "roi": name,
                **times,
                "times_faster": times["theirs"] / times["ours"],
                "largest_difference": largest_difference,
            }
        )
    return rows


def urocell_table() -> list[dict[str, Any]]:
    """Time the shapes of every label volume of UroCell, and the same by scikit-image."""
    folder = Path(os.environ["SPARSEM_DATA"]) / "urocell_labels"
    rows = []
    shapes(np.ones((4, 4, 4), np.uint32), VoxelSize(15, 16, 16))  # compiled before it is timed
    for file in sorted(folder.glob("*.tif")):
        labels = tifffile.imread(file).astype(np.uint32)
        start = time.monotonic()
        measures = shapes(labels, VoxelSize(15, 16, 16))
        seconds = time.monotonic() - start
        peer_s = _seconds_of_scikit_image(labels, (15.0, 16.0, 16.0))
        rows.append(
            {
                "volume": file.stem,
                "objects": len(measures["object"]),
                "seconds": seconds,
                "regionprops_s": peer_s[0],
                "marching_cubes_s": peer_s[1],
                "times_faster": sum(peer_s) / seconds,
            }
        )
        print(rows[-1], flush=True)
    return rows


def _seconds_of_scikit_image(
    labels: NDArray[np.uint32], voxel: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the seconds of regionprops, and those of the surfaces of all objects."""
    start = time.monotonic()
    table = regionprops_table(labels, properties=PEER_PROPERTIES, spacing=voxel)
    regions_end = time.monotonic()
    for index, number in enumerate(table["label"]):
        box = tuple(
            slice(table[f"bbox-{k}"][index], table[f"bbox-{k + 3}"][index]) for k in range(3)
        )
        mask = np.pad(labels[box] == number, 1)
        vertices, triangles, _, _ = marching_cubes(mask.astype(np.float32), 0.5, spacing=voxel)
        mesh_surface_area(vertices, triangles)
    return regions_end - start, time.monotonic() - regions_end


def nucleus_table(edge: int) -> list[dict[str, Any]]:
    """Measure everything of a nucleus with ten nucleoli in a cube of ``edge`` voxels.

    The row holds time and peak memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n.zarr"
        voxels = _draw_nucleus(path, edge)
        code = f"from measures import measure_sample; measure_sample({str(path)!r})"
        start = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parent,
        )
        row = dict(part.split("=") for part in process.stdout.split())
        return [
            {"edge": edge, "nucleus_voxels": voxels, "seconds": time.monotonic() - start, **row}
        ]


def measure_sample(path: str) -> None:
    """Measure a sample, in a process whose peak memory is that of measuring."""
    measurement = measure(Sample.open(path), MeasureSettings(), on=Execution(quiet=True))
    level = next(
        row["texture_level"]
        for row in measurement.summary.to_pylist()
        if row["structure"] == "nucleus"
    )
    n_objects = sum(measurement.objects.values())
    print(f"peak_gb={peak_gb():.2f} objects={n_objects} texture_level={level}")


def _draw_nucleus(path: Path, edge: int) -> int:
    """Draw nucleus and nucleoli, and return the number of voxels of the nucleus."""
    sample = Sample.create(path)
    voxel, shape = VoxelSize(4, 4, 4), (edge, edge, edge)
    specs = [volume_spec("", shape, np.uint8, Kind.IMAGE, voxel, 16)]
    specs += [
        volume_spec(f"labels/{name}", shape, np.uint8, Kind.LABELS, voxel, 16)
        for name in ("nucleus", "nucleolus")
    ]
    with Stage(sample, "draw", PhantomSettings(), {}, specs) as stage:
        summaries = stage.map(_nucleus_block, z_blocks(edge, 16), edge)
    return int(sum(summary["voxels"] for summary in summaries))


def _nucleus_block(block: ZBlock, edge: int) -> BlockResult:
    """Draw a ball with furrows, and in it smaller balls with holes."""
    y, x = (
        (np.arange(edge, dtype=np.float32) - edge / 2)[:, None],
        (np.arange(edge, dtype=np.float32) - edge / 2)[None],
    )
    nucleus = np.zeros((block.stop - block.start, edge, edge), np.uint8)
    nucleolus = np.zeros_like(nucleus)
    for k, z in enumerate(range(block.start, block.stop)):
        dz = z - edge / 2
        radius = np.sqrt(dz**2 + y**2 + x**2)
        nucleus[k] = radius < 0.484 * edge + 0.008 * edge * np.sin(y / 31) * np.sin(x / 37)
        for number in range(10):
            a, b = 0.63 * number, 2.4 * number
            center = (
                0.27 * edge * np.array([np.sin(a), np.cos(a) * np.sin(b), np.cos(a) * np.cos(b)])
            )
            is_inside = (dz - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 < (
                0.06 * edge
            ) ** 2
            nucleolus[k] |= is_inside & ~((np.sin(z / 9) + np.sin(y / 9) + np.sin(x / 9)) > 2.0)
    grain = ((np.arange(edge)[:, None] * 7 + np.arange(edge)[None] * 13) % 29).astype(np.uint8)
    image = (120 + grain[None] + 40 * nucleolus - 20 * nucleus).astype(np.uint8)
    return {"": image, "labels/nucleus": nucleus, "labels/nucleolus": nucleolus}, {
        "voxels": int(nucleus.sum())
    }


def many_table() -> list[dict[str, Any]]:
    """Measure ever more balls, a thousand in each cell: the time of an object must not grow."""
    rows = []
    for edge in (20, 30, 50):  # cells of ten balls along each axis
        with tempfile.TemporaryDirectory() as folder:
            sample = _draw_balls(Path(folder) / "s.zarr", edge)
            start = time.monotonic()
            result = measure(sample, MeasureSettings(), on=Execution(quiet=True))
            seconds = time.monotonic() - start
        objects = result.objects["mitochondrion"]
        rows.append(
            {
                "objects": objects,
                "cells": result.objects["cells"],
                "seconds": seconds,
                "ms_an_object": 1000 * seconds / objects,
            }
        )
        print(rows[-1], flush=True)
    return rows


def _draw_balls(path: Path, edge: int) -> Sample:
    """Draw balls, ``edge`` of them along each axis, in cells that are cubes."""
    sample = Sample.create(path)
    shape = (BALL_BOX * edge,) * 3
    voxel = VoxelSize(8, 8, 8)
    specs = [
        volume_spec("", shape, np.uint8, Kind.IMAGE, voxel, BALL_BOX),
        volume_spec("labels/mitochondrion", shape, np.uint8, Kind.LABELS, voxel, BALL_BOX),
        volume_spec("labels/cells", shape, np.uint32, Kind.LABELS, voxel, BALL_BOX),
    ]
    with Stage(sample, "draw", PhantomSettings(), {}, specs) as stage:
        stage.map(_balls_block, z_blocks(shape[0], BALL_BOX), edge)
    return sample


def _balls_block(block: ZBlock, edge: int) -> BlockResult:
    """Draw one layer of balls, and the cells that they lie in."""
    position = np.arange(BALL_BOX) - (BALL_BOX - 1) / 2
    z, y, x = np.meshgrid(position, position, position, indexing="ij")
    ball = (z**2 + y**2 + x**2 < (BALL_BOX / 3) ** 2).astype(np.uint8)
    balls = np.tile(ball, (1, edge, edge))
    cells_along = edge // 10
    row = np.arange(BALL_BOX * edge) // (10 * BALL_BOX)
    layer = block.start // (10 * BALL_BOX)
    cells = (layer * cells_along + row[:, None]) * cells_along + row[None] + 1
    image = (100 + 50 * balls + (np.arange(BALL_BOX * edge) % 7).astype(np.uint8)).astype(np.uint8)
    return {
        "": image,
        "labels/mitochondrion": balls,
        "labels/cells": np.broadcast_to(cells, balls.shape).astype(np.uint32),
    }, {}


def _fastest(function: Callable[[], Any]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    file = RESULTS / f"measures_{name}.csv"
    file.parent.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.DictWriter(sink, columns)
        writer.writeheader()
        writer.writerows(
            [
                {
                    key: f"{value:.4g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
                for row in rows
            ]
        )
    print(file.read_text(encoding="utf-8"))


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("shapes", "texture", "urocell", "nucleus", "many"))
    parser.add_argument(
        "--edge", type=int, default=1300, help="edge of the cube around the nucleus, voxels"
    )
    arguments = parser.parse_args()
    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "shapes": shapes_table,
        "texture": texture_table,
        "urocell": urocell_table,
        "nucleus": lambda: nucleus_table(arguments.edge),
        "many": many_table,
    }
    _write(arguments.what, tables[arguments.what]())


if __name__ == "__main__":
    main()
