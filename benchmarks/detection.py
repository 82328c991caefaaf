"""Boxes: how good with little training on a CPU, what slicing costs and keeps, outlines beside true masks, one detector for all structures.

    python benchmarks/detection.py scores --data axon --detector retinanet-small --updates 300      # and epfl, deformable-detr-small
    python benchmarks/detection.py masks
    python benchmarks/detection.py merging                       # beside SAHI, if it is installed: pip install --no-deps sahi shapely fire
    python benchmarks/detection.py sizes --updates 60
    python benchmarks/detection.py parts --updates 60
    python benchmarks/detection.py phantom --seeds 0             # two trainings side by side

``SPARSEM_DATA`` names the folder of the data. Rows are appended to benchmarks/results/detection_*.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rows import keep, peak_gb
from sparsem.boxes.constrain import constrain_boxes
from sparsem.boxes.geometry import Boxes, boxes_of_labels
from sparsem.boxes.importing import BoxesSettings, import_boxes
from sparsem.boxes.tables import read_annotated_boxes, read_detected_boxes
from sparsem.detect.inference import (
    detect_in_image,
    sample_gray_statistics,
    tiling_of,
    window_reader,
)
from sparsem.detect.masks.outline import mask_in_box
from sparsem.detect.predict import detect
from sparsem.detect.score import DetectScoreSettings, score_boxes
from sparsem.detect.settings import DetectSettings, DetectTrainSettings
from sparsem.detect.tiling import TileDetections, Tiling, merge_detections
from sparsem.detect.training.recipe import load_detector
from sparsem.detect.training.train import train_detector
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.labels.constrain import StructureRoles
from sparsem.models.checkpoint import load_state, network_state
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.score.boxes import BoxComparison, box_scores
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, ROOT

SHOWN = Execution()
AGAIN = Execution(overwrite=True)
SEE = 384
AXONS, MITOCHONDRIA = ROOT / "axon_sem_2d", FOLDERS["epfl"]
# By picture: of the rats that are learnt from one gives a picture to the test, another rat only to the test.
HELD_AXONS = {
    "validation": ("sub-rat3_sample-data11",),
    "test": ("sub-rat4_sample-data12", "sub-rat3_sample-data9"),
}
HELD_EPFL = {"validation": ("epfl:36-39",), "exclude": ("epfl:40-47",), "test": ("epfl:48-79",)}
ORGANELLES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")


def samples_of(data: str, folder: Path) -> list[Sample]:
    """The pictures with their boxes: six of axons, or one stack."""
    if data == "epfl":
        stack = import_stack(
            MITOCHONDRIA / "raw.tif", folder / "epfl.zarr", ImportSettings(voxel_nm=(5, 5, 5))
        )
        import_boxes(
            [stack],
            BoxesSettings(source=str(MITOCHONDRIA / "boxes.csv"), classes={"0": "mitochondrion"}),
        )
        return [stack]
    files = sorted(AXONS.glob("*_raw.tif"))
    # No file says how large a pixel is: all of one size, and each picture a sample of its own.
    samples = [
        import_stack(
            one,
            folder / f"{one.name.split('_SEM')[0]}.zarr",
            ImportSettings(voxel_nm=(100, 100, 100)),
        )
        for one in files
    ]
    import_boxes(samples, BoxesSettings(source=str(AXONS / "boxes.csv"), min_px=0))
    return samples


def scored(data: str, detector: str, updates: int, seed: int, folder: Path) -> None:
    """Learn, and score on pictures that were not learnt from: tile by tile, in one piece, and squeezed into one tile."""
    samples = samples_of(data, folder)
    held = HELD_AXONS if data == "axon" else HELD_EPFL
    settings = DetectTrainSettings.model_validate(
        {
            "architecture": detector,
            "updates": updates,
            "input_px": SEE,
            "seed": seed,
            "weights": "none",
            "split": "none",
            "validate_every": 100,
            **held,
        }
    )
    model, started = folder / f"{detector}.safetensors", time.perf_counter()
    train_detector(samples, model, settings, on=SHOWN)
    minutes = (time.perf_counter() - started) / 60
    _, recipe = load_detector(model)
    tested = [
        sample
        for sample in samples
        if any(place.startswith(f"{sample.name}:") for place in recipe.training["test"])
    ]
    for way in ("tiles", "whole", "squeezed"):
        started = time.perf_counter()
        compared = [_found(sample, model, way) for sample in tested]
        one = box_scores(compared, recipe.structures)[0]
        numbers = {
            "map": f"{one.map:.3f}",
            "ar": f"{one.ar:.3f}",
            "ap50": f"{one.ap50:.3f}",
            "annotated": one.n_truth,
            "detected": one.n_detected,
        }
        row = {
            "data": data,
            "detector": detector,
            "updates": updates,
            "seed": seed,
            "threads": torch.get_num_threads(),
        }
        keep(
            "detection_scores",
            {
                **row,
                "minutes": f"{minutes:.1f}",
                "seen": way,
                **numbers,
                "test_s": f"{time.perf_counter() - started:.1f}",
            },
        )


def _found(sample: Sample, model: Path, way: str) -> BoxComparison:
    """What a detector finds in the test pictures of a sample."""
    network, recipe = load_detector(model)
    image, (_, height, width) = sample.image(), sample.image().shape
    edge = max(height, width)
    own = recipe
    if (
        way == "squeezed"
    ):  # a whole picture in one tile, as detectors do with what is too large for them
        own = replace(
            recipe,
            pixel_nm=(
                image.voxel_size.y * edge / recipe.input_px,
                image.voxel_size.x * edge / recipe.input_px,
            ),
        )
    if way == "whole":  # one large tile at the scale that was learnt
        seen = edge * image.voxel_size.x / recipe.pixel_nm[1]
        own = replace(recipe, input_px=int(-(-seen // 128) * 128))
    if own.input_px != recipe.input_px:
        larger = own.build()
        load_state(larger, network_state(network))
        network = larger.eval()
    names, levels = recipe.structures, sample_gray_statistics(image)
    tested = [
        int(place.rpartition(":")[2])
        for place in recipe.training["test"]
        if place.startswith(f"{sample.name}:")
    ]
    parts, slicing = (
        [],
        tiling_of((height, width), own, image.voxel_size, DetectSettings().overlap),
    )
    for z in tested:
        one = detect_in_image(
            window_reader(image, z), slicing, network, own, levels, 4, torch.device("cpu")
        )
        parts.append((np.full(len(one.kind), z), one.kind, one.corners, one.score))
    return BoxComparison(
        read_annotated_boxes(sample, names[0]).boxes,
        Boxes.from_arrays(names, *map(np.concatenate, zip(*parts, strict=True))),
        tuple(tested),
    )


def outlines() -> None:
    """Outlines in true boxes beside true masks: mitochondria in every slice of the EPFL stack, and axons."""
    raw, labels = (
        tifffile.imread(MITOCHONDRIA / name)
        for name in ("raw.tif", "labels_mitochondria_instances2d.tif")
    )
    cases = [("mitochondria", raw[z], labels[z]) for z in range(len(raw))]
    for file in sorted(AXONS.glob("*_raw.tif")):
        truth = tifffile.imread(str(file).replace("_raw", "_labels_axon1_myelin2"))
        cases.append(("axons", tifffile.imread(file), _components(truth == 1)))
    for name in ("mitochondria", "axons"):
        scores, seconds = [], 0.0
        for image, true in ((image, true) for what, image, true in cases if what == name):
            for number, corners in zip(*boxes_of_labels(true), strict=True):
                if min(corners[2:] - corners[:2]) < 12:
                    continue
                started = time.perf_counter()
                mask, (top, left) = mask_in_box(image, corners.tolist())
                seconds += time.perf_counter() - started
                here = true[top : top + mask.shape[0], left : left + mask.shape[1]] == number
                y, x = (2 * (np.arange(length) + 0.5) / length - 1 for length in mask.shape)
                ways = {
                    "outline": mask,
                    "ellipse": x[None] ** 2 + y[:, None] ** 2 <= 1,
                    "box": np.ones_like(mask),
                }
                scores.append(
                    {
                        way: np.count_nonzero(one & here) / np.count_nonzero(one | here)
                        for way, one in ways.items()
                    }
                )
        for way in scores[0]:
            own = np.array([one[way] for one in scores])
            numbers = {
                "mean_iou": f"{own.mean():.3f}",
                "median": f"{np.median(own):.3f}",
                "tenth": f"{np.percentile(own, 10):.3f}",
            }
            ms = f"{1000 * seconds / len(own):.1f}" if way == "outline" else ""
            keep(
                "detection_masks",
                {"objects": name, "count": len(own), "way": way, **numbers, "ms_each": ms},
            )


def _components(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    import cc3d

    return np.asarray(cc3d.connected_components(mask.view(np.uint8), connectivity=8), np.uint32)


def _crowd(count: int, shape: tuple[int, int], seed: int, slicing: Tiling) -> TileDetections:
    """What tiles tell of round objects that lie anywhere, also over each other, a little off."""
    random = np.random.default_rng(seed)
    center = random.uniform(0, 1, (count, 2)) * np.array(shape)[::-1]
    radius = random.uniform(10, 28, (count, 1))
    truth = np.column_stack([center - radius, center + radius]).astype(np.float32)
    parts = []
    for tile, window in enumerate(slicing.windows):
        x0, y0, x1, y1 = window.tolist()
        inside = np.clip(truth, [x0, y0, x0, y0], [x1, y1, x1, y1]).astype(np.float32)
        there = ((inside[:, 2:] - inside[:, :2]) > 4).all(axis=1)
        moved = inside[there] + random.normal(0, 0.5, (int(there.sum()), 4)).astype(np.float32)
        size = len(moved)
        parts.append(
            TileDetections(
                np.full(size, tile),
                np.zeros(size, np.int16),
                moved,
                random.uniform(0.3, 1, size).astype(np.float32),
            )
        )
    return TileDetections(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def merging() -> None:
    """Time to make one box of what tiles found, with more and more objects in a picture of 6144 x 4096, and in larger pictures."""
    for count, shape in (
        (500, (4096, 6144)),
        (1000, (4096, 6144)),
        (2000, (4096, 6144)),
        (5000, (4096, 6144)),
        (20000, (8192, 12288)),
    ):
        slicing = Tiling(shape, (2048, 2048), (410, 410))
        found = _crowd(count, shape, 0, slicing)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            kept = merge_detections(found, slicing, 8)
            times.append(time.perf_counter() - started)
        row: dict[str, object] = {
            "shape": f"{shape[1]}x{shape[0]}",
            "objects": count,
            "told": len(found.kind),
        }
        row |= {"sparsem_objects": len(kept.kind), "sparsem_ms": f"{1000 * min(times):.1f}"}
        keep("detection_merging", row | _by_sahi(found))


def _by_sahi(found: TileDetections) -> dict[str, object]:
    """The same by SAHI's default: greedy non-maximum merging, intersection over the smaller box of a half; bare, and as it is called."""
    try:
        from sahi.postprocess.combine import GreedyNMMPostprocess, greedy_nmm
        from sahi.prediction import ObjectPrediction
    except ImportError:
        return {"sahi_objects": "", "sahi_bare_ms": "", "sahi_ms": ""}
    rows = np.column_stack([found.corners, found.score, np.zeros(len(found.score))]).astype(
        np.float64
    )
    greedy_nmm(rows[:10], "IOS", 0.5)  # what compiles does so once
    bare, whole, kept = [], [], []
    told = [
        ObjectPrediction(
            bbox=row[:4].tolist(), score=float(row[4]), category_id=0, category_name="a"
        )
        for row in rows
    ]
    for _ in range(2):
        started = time.perf_counter()
        greedy_nmm(rows, "IOS", 0.5)
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        kept = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(
            list(told)
        )
        whole.append(time.perf_counter() - started)
    return {
        "sahi_objects": len(kept),
        "sahi_bare_ms": f"{1000 * min(bare):.1f}",
        "sahi_ms": f"{1000 * min(whole):.1f}",
    }


def mosaics(folder: Path, updates: int) -> tuple[Path, list[Sample]]:
    """A detector of axons, and mosaics of one, four and sixteen times the same piece of a picture."""
    samples = samples_of("axon", folder)
    model = folder / "m.safetensors"
    settings = {
        "updates": updates,
        "input_px": SEE,
        "weights": "none",
        "split": "none",
        "validate_every": 100,
        **HELD_AXONS,
    }
    train_detector(samples, model, DetectTrainSettings.model_validate(settings), on=SHOWN)
    piece, made = samples[-1].image().read(slice(0, 1))[0, :1024, :1536], []
    for times in (1, 2, 4):
        tifffile.imwrite(
            folder / f"x{times}.tif", np.tile(piece, (times, times)), photometric="minisblack"
        )
        made.append(
            import_stack(
                folder / f"x{times}.tif",
                folder / f"x{times}.zarr",
                ImportSettings(voxel_nm=(100, 100, 100)),
            )
        )
    return model, made


def sized(updates: int) -> None:
    """Core seconds and memory to search pictures of more and more pixels, with as many axons to a pixel."""
    with tempfile.TemporaryDirectory() as name:
        model, made = mosaics(Path(name), updates)
        for sample in made:
            started = time.process_time()  # whatever else the machine does
            found = detect(sample, model, DetectSettings(), on=SHOWN).boxes["axon"]
            seconds = time.process_time() - started
            _, height, width = sample.image().shape
            mpx = height * width / 1e6
            row = {
                "shape": f"{width}x{height}",
                "mpx": f"{mpx:.1f}",
                "boxes": len(found.boxes),
                "core_s": f"{seconds:.1f}",
            }
            keep(
                "detection_sizes",
                {**row, "core_s_per_mpx": f"{seconds / mpx:.2f}", "peak_gb": f"{peak_gb():.2f}"},
            )


def parted(updates: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        model, made = mosaics(Path(name), updates)
        _parts_beside_whole(made[-1], model)


def _parts_beside_whole(sample: Sample, model: Path) -> None:
    """Boxes of a mosaic beside those of its right half and of its lower half, which begin where a tile of the mosaic does."""
    network, recipe = load_detector(model)
    image, cpu = sample.image(), torch.device("cpu")
    _, height, width = image.shape
    levels, edge = sample_gray_statistics(image), recipe.tile_shape(image.voxel_size)
    slicing, window = (
        tiling_of((height, width), recipe, image.voxel_size, DetectSettings().overlap),
        window_reader(image, 0),
    )
    whole = detect_in_image(
        window, slicing, network, recipe, levels, 1, cpu
    )  # numbers round otherwise where more tiles are seen at once
    for part, axis in (("right half", 1), ("lower half", 0)):
        begins = slicing.offsets[axis]
        shift = [0, 0]
        shift[axis] = begins[len(begins) // 2]
        y, x = shift
        own = tiling_of((height - y, width - x), recipe, image.voxel_size, DetectSettings().overlap)
        moved = lambda x0, y0, x1, y1, x=x, y=y: window(x0 + x, y0 + y, x1 + x, y1 + y)  # noqa: E731
        found = detect_in_image(moved, own, network, recipe, levels, 1, cpu)
        corners = found.corners + np.array([x, y, x, y], np.float32)
        away = [
            one[one[:, 1 - axis] > shift[axis] + edge[axis]] for one in (whole.corners, corners)
        ]
        others = away[1][
            cKDTree(away[0]).query(away[1], p=np.inf)[0] > 0.015
        ]  # corners are rounded to 0.01 px
        reach = ((others[:, 1 - axis] - shift[axis]) / edge[axis]).max(initial=0)
        row = {
            "part": part,
            "boxes_of_whole": len(away[0]),
            "boxes_of_part": len(away[1]),
            "others": len(others),
        }
        keep("detection_parts", {**row, "tiles_from_the_cut": f"{reach:.2f}"})


def phantoms(seeds: Sequence[int], updates: int) -> None:
    """One detector for all structures, which learns as long as each of five for one or as long as all of them; and what biology changes."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tissue = PhantomSettings(
                shape=(40, 512, 512), voxel_nm=(60, 16, 16), cells=6, seed=seed
            )
            sample = phantom(folder / "tissue.zarr", tissue, on=SHOWN)
            import_boxes(
                [sample],
                BoxesSettings(from_labels=tuple(f"truth/{one}" for one in ORGANELLES), min_px=8),
            )
            held = {
                "split": "none",
                "validation": ("tissue:24-27",),
                "test": ("tissue:30-39",),
                "leave": ("tissue:28-29",),
            }
            common = {
                "input_px": SEE,
                "read": 512,
                "weights": "none",
                "seed": seed,
                "validate_every": 100,
                **held,
            }
            long = updates * len(ORGANELLES)
            jobs = [
                (ORGANELLES, long),
                *(((one,), updates) for one in ORGANELLES),
                (ORGANELLES, updates),
            ]
            settings = [
                DetectTrainSettings.model_validate(
                    {**common, "structures": names, "updates": count}
                )
                for names, count in jobs
            ]
            models = [folder / f"{'-'.join(names)}-{count}.safetensors" for names, count in jobs]
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as beside:
                list(beside.map(train_detector, [[sample]] * len(jobs), models, settings))
            for model in models[1:-1]:
                detect(sample, model, DetectSettings(), on=AGAIN)
            _phantom_rows(sample, "one each", updates, seed)
            for model, count in ((models[-1], updates), (models[0], long)):
                detect(sample, model, DetectSettings(), on=AGAIN)
                _phantom_rows(sample, "all in one", count, seed)


def _phantom_rows(sample: Sample, detectors: str, updates: int, seed: int) -> None:
    gone = constrain_boxes(sample, StructureRoles()).removed
    judged = score_boxes([sample], DetectScoreSettings(structures=ORGANELLES))
    for name in ORGANELLES:
        before, after = (judged.of_kind(kind)[name].scores for kind in ("predicted", "constrained"))
        counted = int(read_detected_boxes(sample, before.structure, as_predicted=True).counts.sum())
        numbers = {key: f"{getattr(before, key):.3f}" for key in ("map", "ar", "ap50")}
        held = {f"constrained_{key}": f"{getattr(after, key):.3f}" for key in ("map", "ar", "ap50")}
        row = {
            "detectors": detectors,
            "structure": before.structure,
            "updates": updates,
            "seed": seed,
            "annotated": before.n_truth,
        }
        keep(
            "detection_phantom",
            {**row, **numbers, **held, "objects": counted, "of_them_gone": gone[before.structure]},
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scores", "masks", "merging", "sizes", "parts", "phantom"])
    parser.add_argument("--data", choices=["axon", "epfl"], default="axon")
    parser.add_argument("--detector", default="retinanet-small")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "scores":
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as name:
                scored(given.data, given.detector, given.updates, seed, Path(name))
    elif given.what == "masks":
        outlines()
    elif given.what == "merging":
        merging()
    elif given.what == "sizes":
        sized(given.updates)
    elif given.what == "parts":
        parted(given.updates)
    else:
        phantoms(given.seeds, given.updates)


if __name__ == "__main__":
    main()
