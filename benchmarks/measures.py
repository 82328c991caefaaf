"""Measures: how near to the truth, how fast beside pyradiomics, and how much memory a nucleus of 10^9 voxels takes.

    python benchmarks/measures.py shapes                 # analytic bodies, for docs/measures.md
    python benchmarks/measures.py texture                # needs pyradiomics 3.0.1 in the environment
    SPARSEM_DATA=... python benchmarks/measures.py urocell
    python benchmarks/measures.py nucleus [--edge 1300]

Times are compared within one run, one core each (NUMBA, OpenMP and cc3d use one here).
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
from tests.bodies import BODIES, body

from rows import peak_gb
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.measure.features.glcm import co_occurrence_features, co_occurrence_matrix, pair_offsets
from sparsem.measure.features.shape import shapes
from sparsem.measure.features.size_zones import size_zone_features, zones
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.phantom.phantom import PhantomSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

RESULTS = Path(__file__).parent / "results"
REPEATS = 5


def shapes_table() -> list[dict[str, Any]]:
    """Error of every measure of every body, as a part of the analytic value, for finer and finer voxels."""
    rows = []
    for name in BODIES:
        for voxel in ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0)):
            for across in (10, 20, 40, 80):
                made = body(name, across * max(voxel) if voxel[0] > 1 else across, voxel)
                found = shapes(
                    made.mask.astype(np.uint32), VoxelSize.of([1000 * edge for edge in voxel])
                )
                errors = {
                    key: found[key][0] / value - 1 if value else found[key][0]
                    for key, value in made.truth.items()
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
    """GLCM and size zones of a 128^3 ROI at 64 levels, beside pyradiomics: seconds, ratio, and the largest difference of a feature."""
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
            SimpleITK.GetImageFromArray(one)
            for one in (ranked.astype(np.int32), np.ones_like(ranked))
        )
        options = {"binWidth": 1, "weightingNorm": "no_weighting"}

        def theirs(
            itk: Any = itk, mask: Any = mask, options: dict[str, Any] = options
        ) -> tuple[float, ...]:
            pairs, sizes = (
                glcm.RadiomicsGLCM(itk, mask, **options),
                glszm.RadiomicsGLSZM(itk, mask, **options),
            )
            found = [pairs.execute(), sizes.execute()]
            first = [
                float(found[0][key]) for key in ("Idm", "Correlation", "SumSquares", "Contrast")
            ]
            return (
                *first,
                *(
                    float(found[1][key])
                    for key in ("ZonePercentage", "SmallAreaHighGrayLevelEmphasis")
                ),
            )

        def ours(gray: NDArray[np.uint8] = ranked) -> tuple[float, ...]:
            pairs = co_occurrence_features(
                co_occurrence_matrix(gray, 64, pair_offsets(1, (1, 1, 1)))
            )
            return (*pairs, *size_zone_features(*zones(gray))[:2])

        times = {"theirs": _best(theirs), "ours": _best(ours)}
        apart = max(abs(a / b - 1) for a, b in zip(ours(), theirs(), strict=True))
        rows.append(
            {
                "roi": name,
                **times,
                "times_faster": times["theirs"] / times["ours"],
                "largest_difference": apart,
            }
        )
    return rows


def urocell_table() -> list[dict[str, Any]]:
    """All shapes of every label volume of UroCell."""
    folder = Path(os.environ["SPARSEM_DATA"]) / "urocell_labels"
    rows = []
    shapes(np.ones((4, 4, 4), np.uint32), VoxelSize(15, 16, 16))  # compiled before the clock runs
    for file in sorted(folder.glob("*.tif")):
        labels = tifffile.imread(file).astype(np.uint32)
        started = time.monotonic()
        found = shapes(labels, VoxelSize(15, 16, 16))
        rows.append(
            {
                "volume": file.stem,
                "objects": len(found["object"]),
                "seconds": time.monotonic() - started,
            }
        )
    return rows


def nucleus_table(edge: int) -> list[dict[str, Any]]:
    """Time and peak memory of everything that is measured of one nucleus with ten nucleoli in a cube of ``edge`` voxels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n.zarr"
        voxels = _make_nucleus(path, edge)
        code = f"from benchmarks.measures import measured; measured({str(path)!r})"
        started = time.monotonic()
        told = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        row = dict(part.split("=") for part in told.stdout.split())
        return [
            {"edge": edge, "nucleus_voxels": voxels, "seconds": time.monotonic() - started, **row}
        ]


def measured(path: str) -> None:
    """In a process of its own: its peak memory is that of measuring."""
    found = measure(Sample.open(path), MeasureSettings(), on=Execution(quiet=True))
    level = next(
        row["texture_level"] for row in found.summary.to_pylist() if row["structure"] == "nucleus"
    )
    print(f"peak_gb={peak_gb():.2f} objects={sum(found.objects.values())} texture_level={level}")


def _make_nucleus(path: Path, edge: int) -> int:
    sample = Sample.create(path)
    voxel, shape = VoxelSize(4, 4, 4), (edge, edge, edge)
    specs = [volume_spec("", shape, np.uint8, Kind.IMAGE, voxel, 16)]
    specs += [
        volume_spec(f"labels/{name}", shape, np.uint8, Kind.LABELS, voxel, 16)
        for name in ("nucleus", "nucleolus")
    ]
    with Stage(sample, "made", PhantomSettings(), {}, specs) as stage:
        done = stage.map(_nucleus_block, z_blocks(edge, 16), edge)
    return int(sum(one["voxels"] for one in done))


def _nucleus_block(block: ZBlock, edge: int) -> BlockResult:
    """A ball with furrows, and smaller balls with holes in it."""
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
            near = (dz - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 < (
                0.06 * edge
            ) ** 2
            nucleolus[k] |= near & ~((np.sin(z / 9) + np.sin(y / 9) + np.sin(x / 9)) > 2.0)
    grain = ((np.arange(edge)[:, None] * 7 + np.arange(edge)[None] * 13) % 29).astype(np.uint8)
    image = (120 + grain[None] + 40 * nucleolus - 20 * nucleus).astype(np.uint8)
    return {"": image, "labels/nucleus": nucleus, "labels/nucleolus": nucleolus}, {
        "voxels": int(nucleus.sum())
    }


def _best(function: Callable[[], Any]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def _kept(name: str, rows: list[dict[str, Any]]) -> None:
    file = RESULTS / f"measures_{name}.csv"
    file.parent.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.DictWriter(sink, columns)
        writer.writeheader()
        writer.writerows(
            [
                {key: f"{one:.4g}" if isinstance(one, float) else one for key, one in row.items()}
                for row in rows
            ]
        )
    print(file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("shapes", "texture", "urocell", "nucleus"))
    parser.add_argument(
        "--edge", type=int, default=1300, help="voxels along the cube of the nucleus"
    )
    given = parser.parse_args()
    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "shapes": shapes_table,
        "texture": texture_table,
        "urocell": urocell_table,
        "nucleus": lambda: nucleus_table(given.edge),
    }
    _kept(given.what, tables[given.what]())


if __name__ == "__main__":
    main()
