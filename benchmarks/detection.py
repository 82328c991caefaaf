"""Boxes: accuracy, merging of tiles, search of large images, and masks from boxes.

    python benchmarks/detection.py scores --data axon --detector retinanet-small --updates 300
    python benchmarks/detection.py masks
    python benchmarks/detection.py merging
    python benchmarks/detection.py sizes --updates 60
    python benchmarks/detection.py parts --updates 60
    python benchmarks/detection.py phantom --seeds 0      # two trainings at the same time

``scores`` also takes ``--data epfl`` and ``--detector deformable-detr-small``. ``merging`` compares
with SAHI, if it is installed: pip install --no-deps sahi shapely fire. ``SPARSEM_DATA`` names the
folder of the data. Rows are appended to benchmarks/results/detection_*.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rows import peak_gb, save
from sparsem.boxes.constrain import constrain_boxes
from sparsem.boxes.geometry import Boxes, boxes_of_labels
from sparsem.boxes.importing import import_boxes
from sparsem.boxes.settings import BoxesSettings
from sparsem.boxes.tables import read_annotated_boxes, read_detected_boxes
from sparsem.detect.inference import (
    detect_in_image,
    sample_gray_statistics,
    tiling_of,
    window_reader,
)
from sparsem.detect.masks.outline import mask_in_box
from sparsem.detect.predict import detect
from sparsem.detect.score import score_boxes
from sparsem.detect.settings import DetectScoreSettings, DetectSettings, DetectTrainSettings
from sparsem.detect.tiling import TileDetections, Tiling, merge_detections
from sparsem.detect.training.recipe import load_detector
from sparsem.detect.training.train import train_detector
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels.settings import StructureRoles
from sparsem.models.checkpoint import load_state, network_state
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.score.boxes import BoxComparison, box_scores
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, ROOT

DEFAULT = Execution()
REPLACE = Execution(overwrite=True)
INPUT_PX = 384
AXONS, MITOCHONDRIA = ROOT / "axon_sem_2d", FOLDERS["epfl"]
# Held out by image. The test has an image of a rat that is also in training, and an image of a rat
# that is not.
HELD_OUT_AXONS = {
    "validation": ("sub-rat3_sample-data11",),
    "test": ("sub-rat4_sample-data12", "sub-rat3_sample-data9"),
}
HELD_OUT_EPFL = {
    "validation": ("epfl:36-39",),
    "exclude": ("epfl:40-47",),
    "test": ("epfl:48-79",),
}
ORGANELLES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")


def samples_of(data: str, folder: Path) -> list[Sample]:
    """Import the images with their boxes: six of axons, or one stack."""
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
    # The files state no pixel size. All get the same one, and each image is a sample of its own.
    samples = [
        import_stack(
            file,
            folder / f"{file.name.split('_SEM')[0]}.zarr",
            ImportSettings(voxel_nm=(100, 100, 100)),
        )
        for file in files
    ]
    import_boxes(samples, BoxesSettings(source=str(AXONS / "boxes.csv"), min_px=0))
    return samples


def score_detector(data: str, detector: str, updates: int, seed: int, folder: Path) -> None:
    """Train a detector, and score it on the test images.

    The images are searched in tiles, as one large tile, and shrunk to one tile.
    """
    samples = samples_of(data, folder)
    held_out = HELD_OUT_AXONS if data == "axon" else HELD_OUT_EPFL
    settings = DetectTrainSettings.model_validate(
        {
            "architecture": detector,
            "updates": updates,
            "input_px": INPUT_PX,
            "seed": seed,
            "weights": "none",
            "split": "none",
            "validate_every": 100,
            **held_out,
        }
    )
    model, start = folder / f"{detector}.safetensors", time.perf_counter()
    train_detector(samples, model, settings, on=DEFAULT)
    minutes = (time.perf_counter() - start) / 60
    _, recipe = load_detector(model)
    test_samples = [
        sample
        for sample in samples
        if any(image_id.startswith(f"{sample.name}:") for image_id in recipe.training["test"])
    ]
    for method in ("tiles", "whole", "squeezed"):
        start = time.perf_counter()
        comparisons = [_compare_boxes(sample, model, method) for sample in test_samples]
        scores = box_scores(comparisons, recipe.structures)[0]
        numbers = {
            "map": f"{scores.map:.3f}",
            "ar": f"{scores.ar:.3f}",
            "ap50": f"{scores.ap50:.3f}",
            "annotated": scores.n_truth,
            "detected": scores.n_detected,
        }
        row = {
            "data": data,
            "detector": detector,
            "updates": updates,
            "seed": seed,
            "threads": torch.get_num_threads(),
        }
        save(
            "detection_scores",
            {
                **row,
                "minutes": f"{minutes:.1f}",
                "seen": method,
                **numbers,
                "test_s": f"{time.perf_counter() - start:.1f}",
            },
        )


def _compare_boxes(sample: Sample, model: Path, method: str) -> BoxComparison:
    """Detect boxes in the test images of a sample, and return them with the annotated ones."""
    network, trained_recipe = load_detector(model)
    image, (_, height, width) = sample.image(), sample.image().shape
    edge = max(height, width)
    recipe = trained_recipe
    # The image is shrunk to one tile, as detectors do with images that are too large for them.
    if method == "squeezed":
        recipe = replace(
            recipe,
            pixel_nm=(
                image.voxel_size.y * edge / recipe.input_px,
                image.voxel_size.x * edge / recipe.input_px,
            ),
        )
    # One large tile at the scale of the training.
    if method == "whole":
        edge_px = edge * image.voxel_size.x / recipe.pixel_nm[1]
        recipe = replace(recipe, input_px=int(-(-edge_px // 128) * 128))
    if recipe.input_px != trained_recipe.input_px:
        larger = recipe.build()
        load_state(larger, network_state(network))
        network = larger.eval()
    names, levels = recipe.structures, sample_gray_statistics(image)
    test_slices = [
        int(image_id.rpartition(":")[2])
        for image_id in recipe.training["test"]
        if image_id.startswith(f"{sample.name}:")
    ]
    columns = []
    tiling = tiling_of((height, width), recipe, image.voxel_size, DetectSettings().overlap)
    for z in test_slices:
        boxes = detect_in_image(
            window_reader(image, z), tiling, network, recipe, levels, 4, torch.device("cpu")
        )
        columns.append((np.full(len(boxes.kind), z), boxes.kind, boxes.corners, boxes.score))
    return BoxComparison(
        read_annotated_boxes(sample, names[0]).boxes,
        Boxes.from_arrays(names, *map(np.concatenate, zip(*columns, strict=True))),
        tuple(test_slices),
    )


def compare_outlines() -> None:
    """Compare outlines in true boxes with true masks: mitochondria of the EPFL stack, and axons."""
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
        images = [(image, truth) for case_name, image, truth in cases if case_name == name]
        for image, truth in images:
            for number, corners in zip(*boxes_of_labels(truth), strict=True):
                if min(corners[2:] - corners[:2]) < 12:
                    continue
                start = time.perf_counter()
                outline, (top, left) = mask_in_box(image, corners.tolist())
                seconds += time.perf_counter() - start
                height, width = outline.shape
                true_mask = truth[top : top + height, left : left + width] == number
                y, x = (2 * (np.arange(length) + 0.5) / length - 1 for length in outline.shape)
                masks = {
                    "outline": outline,
                    "ellipse": x[None] ** 2 + y[:, None] ** 2 <= 1,
                    "box": np.ones_like(outline),
                }
                scores.append({method: mask_iou(mask, true_mask) for method, mask in masks.items()})
        for method in scores[0]:
            ious = np.array([score[method] for score in scores])
            numbers = {
                "mean_iou": f"{ious.mean():.3f}",
                "median": f"{np.median(ious):.3f}",
                "tenth": f"{np.percentile(ious, 10):.3f}",
            }
            ms = f"{1000 * seconds / len(ious):.1f}" if method == "outline" else ""
            save(
                "detection_masks",
                {"objects": name, "count": len(ious), "method": method, **numbers, "ms_each": ms},
            )


def mask_iou(mask: NDArray[np.bool_], true_mask: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks."""
    return np.count_nonzero(mask & true_mask) / np.count_nonzero(mask | true_mask)


def _components(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    import cc3d

    return np.asarray(cc3d.connected_components(mask.view(np.uint8), connectivity=8), np.uint32)


def _random_detections(
    count: int, shape: tuple[int, int], seed: int, tiling: Tiling
) -> TileDetections:
    """Return the boxes of random, overlapping round objects in all tiles, with small errors."""
    random = np.random.default_rng(seed)
    center = random.uniform(0, 1, (count, 2)) * np.array(shape)[::-1]
    radius = random.uniform(10, 28, (count, 1))
    truth = np.column_stack([center - radius, center + radius]).astype(np.float32)
    parts = []
    for tile, window in enumerate(tiling.windows):
        x0, y0, x1, y1 = window.tolist()
        inside = np.clip(truth, [x0, y0, x0, y0], [x1, y1, x1, y1]).astype(np.float32)
        is_visible = ((inside[:, 2:] - inside[:, :2]) > 4).all(axis=1)
        errors = random.normal(0, 0.5, (int(is_visible.sum()), 4)).astype(np.float32)
        corners = inside[is_visible] + errors
        size = len(corners)
        parts.append(
            TileDetections(
                np.full(size, tile),
                np.zeros(size, np.int16),
                corners,
                random.uniform(0.3, 1, size).astype(np.float32),
            )
        )
    return TileDetections(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def compare_merging() -> None:
    """Time the merging of the boxes of tiles, with more and more objects, and in a larger image."""
    for count, shape in (
        (500, (4096, 6144)),
        (1000, (4096, 6144)),
        (2000, (4096, 6144)),
        (5000, (4096, 6144)),
        (20000, (8192, 12288)),
    ):
        tiling = Tiling(shape, (2048, 2048), (410, 410))
        detections = _random_detections(count, shape, 0, tiling)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            merged = merge_detections(detections, tiling, 8)
            times.append(time.perf_counter() - start)
        row: dict[str, object] = {
            "shape": f"{shape[1]}x{shape[0]}",
            "objects": count,
            "tile_boxes": len(detections.kind),
        }
        row |= {"sparsem_objects": len(merged.kind), "sparsem_ms": f"{1000 * min(times):.1f}"}
        save("detection_merging", row | _merge_with_sahi(detections))


def _merge_with_sahi(detections: TileDetections) -> dict[str, object]:
    """Merge the boxes with SAHI's defaults, by the kernel alone and by the public class.

    The default is greedy non-maximum merging; boxes match if their intersection is at least half of
    the smaller box.
    """
    try:
        from sahi.postprocess.combine import GreedyNMMPostprocess, greedy_nmm
        from sahi.prediction import ObjectPrediction
    except ImportError:
        return {"sahi_objects": "", "sahi_bare_ms": "", "sahi_ms": ""}
    rows = np.column_stack(
        [detections.corners, detections.score, np.zeros(len(detections.score))]
    ).astype(np.float64)
    greedy_nmm(rows[:10], "IOS", 0.5)  # compiled before it is timed
    kernel_times, class_times, merged = [], [], []
    predictions = [
        ObjectPrediction(
            bbox=row[:4].tolist(), score=float(row[4]), category_id=0, category_name="a"
        )
        for row in rows
    ]
    for _ in range(2):
        start = time.perf_counter()
        greedy_nmm(rows, "IOS", 0.5)
        kernel_times.append(time.perf_counter() - start)
        start = time.perf_counter()
        merge = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)
        merged = merge(list(predictions))
        class_times.append(time.perf_counter() - start)
    return {
        "sahi_objects": len(merged),
        "sahi_bare_ms": f"{1000 * min(kernel_times):.1f}",
        "sahi_ms": f"{1000 * min(class_times):.1f}",
    }


def mosaics(folder: Path, updates: int) -> tuple[Path, list[Sample]]:
    """Train a detector of axons, and tile one, four and sixteen copies of a crop of an image."""
    samples = samples_of("axon", folder)
    model = folder / "m.safetensors"
    settings = {
        "updates": updates,
        "input_px": INPUT_PX,
        "weights": "none",
        "split": "none",
        "validate_every": 100,
        **HELD_OUT_AXONS,
    }
    train_detector(samples, model, DetectTrainSettings.model_validate(settings), on=DEFAULT)
    crop = samples[-1].image().read(slice(0, 1))[0, :1024, :1536]
    mosaic_samples = []
    for times in (1, 2, 4):
        tifffile.imwrite(
            folder / f"x{times}.tif", np.tile(crop, (times, times)), photometric="minisblack"
        )
        mosaic_samples.append(
            import_stack(
                folder / f"x{times}.tif",
                folder / f"x{times}.zarr",
                ImportSettings(voxel_nm=(100, 100, 100)),
            )
        )
    return model, mosaic_samples


def compare_sizes(updates: int) -> None:
    """Measure core seconds and memory for larger and larger images with the same axon density."""
    with tempfile.TemporaryDirectory() as name:
        model, samples = mosaics(Path(name), updates)
        for sample in samples:
            start = time.process_time()  # does not depend on the load of the machine
            axons = detect(sample, model, DetectSettings(), on=DEFAULT).boxes["axon"]
            seconds = time.process_time() - start
            _, height, width = sample.image().shape
            mpx = height * width / 1e6
            row = {
                "shape": f"{width}x{height}",
                "mpx": f"{mpx:.1f}",
                "boxes": len(axons.boxes),
                "core_s": f"{seconds:.1f}",
            }
            save(
                "detection_sizes",
                {**row, "core_s_per_mpx": f"{seconds / mpx:.2f}", "peak_gb": f"{peak_gb():.2f}"},
            )


def compare_parts(updates: int) -> None:
    """Compare the boxes of the largest mosaic with those of its right and of its lower half."""
    with tempfile.TemporaryDirectory() as name:
        model, samples = mosaics(Path(name), updates)
        _compare_halves(samples[-1], model)


def _compare_halves(sample: Sample, model: Path) -> None:
    """Search a mosaic and its halves; a half starts where a tile of the mosaic starts."""
    network, recipe = load_detector(model)
    image, cpu = sample.image(), torch.device("cpu")
    _, height, width = image.shape
    levels, edge = sample_gray_statistics(image), recipe.tile_shape(image.voxel_size)
    overlap = DetectSettings().overlap
    tiling = tiling_of((height, width), recipe, image.voxel_size, overlap)
    window = window_reader(image, 0)
    # One tile at a time: with larger batches, numbers are rounded differently.
    whole = detect_in_image(window, tiling, network, recipe, levels, 1, cpu)
    for part, axis in (("right half", 1), ("lower half", 0)):
        offsets = tiling.offsets[axis]
        shift = [0, 0]
        shift[axis] = offsets[len(offsets) // 2]
        y, x = shift
        part_tiling = tiling_of((height - y, width - x), recipe, image.voxel_size, overlap)

        def part_window(x0: int, y0: int, x1: int, y1: int, x: int = x, y: int = y) -> NDArray[Any]:
            return window(x0 + x, y0 + y, x1 + x, y1 + y)

        detections = detect_in_image(part_window, part_tiling, network, recipe, levels, 1, cpu)
        part_corners = detections.corners + np.array([x, y, x, y], np.float32)
        # Only boxes more than a tile away from the cut are compared.
        whole_boxes, part_boxes = (
            corners[corners[:, 1 - axis] > shift[axis] + edge[axis]]
            for corners in (whole.corners, part_corners)
        )
        # Corners are rounded to 0.01 px.
        is_unmatched = cKDTree(whole_boxes).query(part_boxes, p=np.inf)[0] > 0.015
        unmatched = part_boxes[is_unmatched]
        reach = ((unmatched[:, 1 - axis] - shift[axis]) / edge[axis]).max(initial=0)
        row = {
            "part": part,
            "boxes_of_whole": len(whole_boxes),
            "boxes_of_part": len(part_boxes),
            "unmatched": len(unmatched),
        }
        save("detection_parts", {**row, "tiles_from_the_cut": f"{reach:.2f}"})


def compare_detectors(seeds: Sequence[int], updates: int) -> None:
    """Compare one detector for all structures with five detectors for one structure each.

    The single detector is trained with the updates of one of the five, and with those of all five.
    The boxes are scored before and after the biological constraints.
    """
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tissue = PhantomSettings(
                shape=(40, 512, 512), voxel_nm=(60, 16, 16), cells=6, seed=seed
            )
            sample = phantom(folder / "tissue.zarr", tissue, on=DEFAULT)
            labels = tuple(f"truth/{organelle}" for organelle in ORGANELLES)
            import_boxes([sample], BoxesSettings(from_labels=labels, min_px=8))
            held_out = {
                "split": "none",
                "validation": ("tissue:24-27",),
                "test": ("tissue:30-39",),
                "exclude": ("tissue:28-29",),
            }
            common = {
                "input_px": INPUT_PX,
                "context_px": 512,
                "weights": "none",
                "seed": seed,
                "validate_every": 100,
                **held_out,
            }
            all_updates = updates * len(ORGANELLES)
            jobs = [
                (ORGANELLES, all_updates),
                *(((organelle,), updates) for organelle in ORGANELLES),
                (ORGANELLES, updates),
            ]
            settings = [
                DetectTrainSettings.model_validate(
                    {**common, "structures": names, "updates": count}
                )
                for names, count in jobs
            ]
            models = [folder / f"{'-'.join(names)}-{count}.safetensors" for names, count in jobs]
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
                list(executor.map(train_detector, [[sample]] * len(jobs), models, settings))
            for model in models[1:-1]:
                detect(sample, model, DetectSettings(), on=REPLACE)
            _save_phantom_rows(sample, "one each", updates, seed)
            for model, count in ((models[-1], updates), (models[0], all_updates)):
                detect(sample, model, DetectSettings(), on=REPLACE)
                _save_phantom_rows(sample, "all in one", count, seed)


def _save_phantom_rows(sample: Sample, detectors: str, updates: int, seed: int) -> None:
    removed = constrain_boxes(sample, StructureRoles()).removed
    evaluation = score_boxes([sample], DetectScoreSettings(structures=ORGANELLES))
    keys = ("map", "ar", "ap50")
    for name in ORGANELLES:
        before = evaluation.of_kind("predicted")[name].scores
        after = evaluation.of_kind("constrained")[name].scores
        boxes = read_detected_boxes(sample, before.structure, as_predicted=True)
        predicted_scores = {key: f"{getattr(before, key):.3f}" for key in keys}
        constrained_scores = {f"constrained_{key}": f"{getattr(after, key):.3f}" for key in keys}
        row = {
            "detectors": detectors,
            "structure": before.structure,
            "updates": updates,
            "seed": seed,
            "annotated": before.n_truth,
        }
        save(
            "detection_phantom",
            {
                **row,
                **predicted_scores,
                **constrained_scores,
                "objects": int(boxes.counts.sum()),
                "removed": removed[before.structure],
            },
        )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scores", "masks", "merging", "sizes", "parts", "phantom"])
    parser.add_argument("--data", choices=["axon", "epfl"], default="axon")
    parser.add_argument("--detector", default="retinanet-small")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    updates = arguments.updates
    torch.set_num_threads(arguments.threads)
    if arguments.what == "scores":
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as name:
                score_detector(arguments.data, arguments.detector, updates, seed, Path(name))
    elif arguments.what == "masks":
        compare_outlines()
    elif arguments.what == "merging":
        compare_merging()
    elif arguments.what == "sizes":
        compare_sizes(updates)
    elif arguments.what == "parts":
        compare_parts(updates)
    else:
        compare_detectors(arguments.seeds, updates)


if __name__ == "__main__":
    main()
