"""Objects that touch: separation against connected components, and its cost.

    python benchmarks/objects.py separate phantom --seeds 1 2 3
    python benchmarks/objects.py separate urocell epfl
    python benchmarks/objects.py contacts
    python benchmarks/objects.py scale --tiles 8

``separate`` trains a network on seven evenly spaced labeled slices (``train --objects``), predicts,
numbers the objects by both methods, and scores those of unlabeled slices, or of the whole volume in
3D. ``phantom``: mitochondria that touch and form networks. ``urocell``: the label volumes of UroCell,
drawn as electron micrographs. ``epfl``: a real stack, whose objects are known slice by slice.
``--target core`` trains, instead of the boundary, the pixels of every object that are at least half
as deep as its deepest one: a distance, from which objects grow by a watershed. ``--views 3`` also
predicts slices across y and x.
``contacts`` measures contacts between the mitochondria of UroCell and compares them with a plain
version. ``scale`` times objects and contacts of a large volume of repeated UroCell predictions.

``SPARSEM_DATA`` names the folder of the stacks. The package ``edt`` must be installed for
``urocell``. Rows are appended to benchmarks/results/objects.csv, objects_contacts.csv and
objects_speed.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cc3d
import cv2
import edt
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import maximum
from scipy.spatial import cKDTree
from skimage.segmentation import watershed

from rows import peak_gb, save
from sparsem.annotation.writing import write_annotation
from sparsem.geometry import VoxelSize, ZBlock, evenly_spaced, z_blocks
from sparsem.io.ingest import import_stack
from sparsem.labels.objects import objects
from sparsem.measure.contacts import contacts
from sparsem.measure.features.surface_points import nearby_labels, surface_points
from sparsem.phantom.anatomy import Anatomy
from sparsem.phantom.draw import SliceRenderer
from sparsem.phantom.phantom import phantom
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.predict import predict
from sparsem.segment.train import train
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage
from stacks import ROOT, raw_path

NAME, CORE = "mitochondrion", "mitochondrion-core"
LABELED = 7
UROCELL_NM = (15, 16, 16)
SPACING_NM = 5500.0  # of cells in the phantom, in which mitochondria have the size of UroCell's
NOISE = 9.0  # gray levels, as in the phantom
# Smallest objects that count, in prediction and ground truth. Pieces that the border cuts off are
# smaller than any whole mitochondrion of the phantom.
MIN_VOXELS = {"phantom": 500, "urocell": 500, "epfl": 27}
UPDATES = 2000
REPLACE = Execution(overwrite=True, quiet=True)

Labels = NDArray[np.uint32]


@dataclass(frozen=True)
class Volume:
    """A sample with seven labeled slices, and the ground truth of all of them.

    Attributes:
        name: name of the volume.
        sample: the sample.
        truth: numbers of objects (z, y, x).
        context_px: edge of a tile of the network: 128 is full resolution.
    """

    name: str
    sample: Sample
    truth: Labels
    context_px: int


def label_slices(sample: Sample, truth: Labels) -> tuple[int, ...]:
    """Annotate seven evenly spaced slices with their ground truth, and return the slices."""
    slices = tuple(evenly_spaced(len(truth), LABELED))
    write_annotation(sample, NAME, slices, [truth[z] for z in slices])
    return slices


def phantom_volumes(folder: Path, seeds: list[int]) -> Iterator[Volume]:
    """Yield phantoms of mitochondria that touch."""
    for seed in seeds:
        sample = phantom(folder / f"phantom{seed}.zarr", touching=True, seed=seed, on=REPLACE)
        truth = sample.volume("truth", NAME).read(slice(None))
        yield Volume(f"phantom {seed}", sample, truth, 128)


def urocell_labels() -> Iterator[tuple[str, Labels]]:
    """Yield the label volumes of UroCell with their names."""
    for file in sorted((ROOT / "urocell_labels").glob("*_labels_mitochondria_inst.tif")):
        yield file.name.split("_")[0], tifffile.imread(file).astype(np.uint32)


def drawn_as_micrograph(labels: Labels, seed: int = 1) -> NDArray[np.uint8]:
    """Draw mitochondria of given shapes in cytoplasm, as the phantom draws its own."""
    voxel = np.array(UROCELL_NM, float)
    anatomy = Anatomy(np.array(labels.shape) * voxel, SPACING_NM, ())
    renderer = SliceRenderer(anatomy, seed, (float(voxel[1]), float(voxel[2])), 0.0)
    inside = edt.edt(labels, anisotropy=tuple(voxel), black_border=False)
    outside = edt.edt(labels == 0, anisotropy=tuple(voxel), black_border=False)
    half = voxel.mean() / 2
    depth = np.where(labels > 0, inside - half, half - outside).astype(np.float32)
    y, x = (
        (np.arange(n) + 0.5) * edge for n, edge in zip(labels.shape[1:], voxel[1:], strict=True)
    )
    random = np.random.default_rng(seed)
    slices = []
    for z, depth_of_slice in enumerate(depth):
        gray = renderer.draw_shapes(NAME, depth_of_slice, (z + 0.5) * voxel[0], y, x)
        noisy = cv2.GaussianBlur(gray, (0, 0), 0.6) + random.normal(0, NOISE, gray.shape)
        slices.append(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    return np.stack(slices)


def urocell_volumes(folder: Path) -> Iterator[Volume]:
    """Yield the volumes of UroCell, drawn as micrographs."""
    for name, labels in urocell_labels():
        file = folder / f"{name}.tif"
        tifffile.imwrite(file, drawn_as_micrograph(labels))
        sample = import_stack(file, folder / f"{name}.zarr", voxel_nm=UROCELL_NM, on=REPLACE)
        yield Volume(f"urocell {name}", sample, labels, 128)


def epfl_volumes(folder: Path) -> Iterator[Volume]:
    """Yield the stack of EPFL, whose objects are numbered slice by slice."""
    file = raw_path("epfl").with_name("labels_mitochondria_instances2d.tif")
    truth = tifffile.imread(file).astype(np.uint32)
    sample = import_stack(raw_path("epfl"), folder / "epfl.zarr", voxel_nm=(5, 5, 5), on=REPLACE)
    yield Volume("epfl", sample, truth, 256)


def volumes_of(name: str, folder: Path, seed: int) -> Iterator[Volume]:
    """Return the volumes of a kind."""
    if name == "phantom":
        return phantom_volumes(folder, [seed])
    return urocell_volumes(folder) if name == "urocell" else epfl_volumes(folder)


def separate(volume: Volume, folder: Path, seed: int, given: argparse.Namespace) -> None:
    """Train, predict, number the objects by all methods, and save their scores."""
    sample = volume.sample
    slices = label_slices(sample, volume.truth)
    model = folder / f"{volume.name.replace(' ', '-')}.safetensors"
    started = time.perf_counter()
    training: dict[str, Any] = {
        "updates": given.updates,
        "seed": seed,
        "context_px": volume.context_px,
        "adjacent_slices": given.adjacent_slices,
    }
    if given.target == "core":
        write_annotation(sample, CORE, slices, [cores_of(volume.truth[z]) for z in slices])
        train(sample, model, structures=(NAME, CORE), on=REPLACE, **training)
    else:
        train(sample, model, objects=(NAME,), on=REPLACE, **training)
    row: dict[str, object] = {
        "volume": volume.name,
        "seed": seed,
        "updates": given.updates,
        "adjacent_slices": given.adjacent_slices,
        "training_minutes": round((time.perf_counter() - started) / 60, 1),
    }
    truth = folder / f"{volume.name.replace(' ', '-')}-truth.tif"
    tifffile.imwrite(truth, volume.truth.astype(np.uint16 if volume.truth.max() < 2**16 else "u4"))
    min_voxels = MIN_VOXELS[volume.name.split()[0]]
    for views in given.views:
        predict(sample, model, views=views, on=REPLACE)
        score_methods(volume, folder, truth, given, row | {"views": views}, min_voxels)


def score_methods(
    volume: Volume,
    folder: Path,
    truth: Path,
    given: argparse.Namespace,
    row: dict[str, object],
    min_voxels: int,
) -> None:
    """Number the objects of a prediction by all methods, and save their scores."""
    sample = volume.sample
    if given.target == "core":
        grown = Sample.create(folder / f"{volume.name.replace(' ', '-')}-grown.zarr")
        labels = grown_from_cores(sample)
        write_volumes(grown, {"": labels.astype(np.uint8), f"labels/{NAME}": labels}, UROCELL_NM)
        add_scores(row | {"method": "cores", "threshold": None}, grown, truth, min_voxels)
        return
    methods = [("components", None)] + [("agglomeration", limit) for limit in given.thresholds]
    for method, limit in methods:
        settings = {} if limit is None else {"boundary_threshold": limit}
        objects(sample, NAME, method=method, min_voxels=min_voxels, on=REPLACE, **settings)
        add_scores(row | {"method": method, "threshold": limit}, sample, truth, min_voxels)


def cores_of(labels: Labels) -> NDArray[np.uint8]:
    """Return the pixels of every object that are at least half as deep as its deepest one."""
    depth = edt.edt(labels, black_border=False)
    deepest = maximum(depth, labels, np.arange(labels.max() + 1))
    is_core: NDArray[np.bool_] = (labels > 0) & (depth >= deepest[labels] / 2)
    return is_core.astype(np.uint8)


def grown_from_cores(sample: Sample) -> Labels:
    """Return the objects that grow from the predicted cores, in descending order of the core."""
    mask = sample.volume("labels", NAME).read(slice(None)) > 0
    core = sample.volume("probabilities", CORE).read(slice(None)).astype(np.int16)
    seeds = cc3d.connected_components(core >= 128, connectivity=26)
    grown = np.asarray(watershed(-core, seeds, mask=mask | (seeds > 0)))
    missed = cc3d.connected_components(mask & (grown == 0), connectivity=26)
    return np.where(missed > 0, missed + grown.max(), grown).astype(np.uint32)


def add_scores(row: dict[str, object], sample: Sample, truth: Path, min_voxels: int) -> None:
    """Save the scores of the objects of a sample."""
    scoring = ScoreSettings(instances=True, slices="all", min_voxels=min_voxels)
    scores = score(sample, NAME, truth, scoring, on=REPLACE)
    numbers = scores.of_cells() if scores.in_3d else scores.of_cells("unseen")
    dimension = "3d" if scores.in_3d else "2d"
    summary = scores.summary("unseen" if scores.use else None)
    row = row | {"matched_in": dimension, "dice": round(summary["dice_3d"] or 0, 4)}
    for name in ("pq", "f1_50", "f1_75", "ap50", "map", "true", "predicted"):
        row[name] = round(numbers[f"{name}_{dimension}"] or 0, 4)
    for name in ("splits", "merges"):
        row[name] = numbers[f"{name}_{dimension}"]
    save("objects", row)


def plain_contacts(labels: Labels, distance_nm: float) -> dict[tuple[int, int], float]:
    """Return the area of every pair in contact, um2, from all points at once."""
    z, y, x = map(float, UROCELL_NM)
    voxel = (z, y, x)
    nearby = nearby_labels(labels, distance_nm, voxel)
    whole = slice(0, len(labels))
    points, _ = surface_points(labels, whole, whole, 0, voxel, nearby, True)
    numbers = np.unique(points.labels)
    trees = {n: cKDTree(points.positions[points.labels == n]) for n in numbers.tolist()}
    areas: dict[tuple[int, int], float] = {}
    for first in trees:
        is_first = points.labels == first
        for second in trees:
            if first != second:
                away, _ = trees[second].query(
                    points.positions[is_first], distance_upper_bound=distance_nm
                )
                area = float(points.areas[is_first][away <= distance_nm].sum())
                pair = (min(first, second), max(first, second))
                areas[pair] = areas.get(pair, 0) + area / 2e6
    return {pair: area for pair, area in areas.items() if area}


def measure_contacts(distance_nm: float) -> None:
    """Compare the contacts of the mitochondria of UroCell with a plain version."""
    for name, labels in urocell_labels():
        with tempfile.TemporaryDirectory() as folder:
            sample = Sample.create(Path(folder) / "s.zarr")
            write_volumes(sample, {"labels/m": labels}, UROCELL_NM)
            result = contacts(sample, "m", "m", distance_nm=distance_nm, on=REPLACE)
            table = sample.read_table("contacts_m_m").to_pydict()
        pairs = zip(table["first"], table["second"], strict=True)
        areas = dict(zip(pairs, table["area_um2"], strict=True))
        plain = plain_contacts(labels, distance_nm)
        assert areas.keys() == plain.keys()
        largest = max((abs(areas[pair] / plain[pair] - 1) for pair in plain), default=0.0)
        row = {
            "volume": name,
            "objects": int(labels.max()),
            "distance_nm": distance_nm,
            "pairs": result.pairs,
            "sites": result.sites,
            "area_um2": round(result.area_um2, 4),
            "largest_difference": f"{largest:.1e}",
        }
        save("objects_contacts", row)


def write_volumes(sample: Sample, arrays: dict[str, NDArray[Any]], voxel_nm: Any) -> None:
    """Write arrays as volumes of a sample, in blocks of 16 slices."""
    kinds = {"": Kind.IMAGE, "labels": Kind.LABELS, "probabilities": Kind.PROBABILITY}
    specs = [
        volume_spec(
            path, array.shape, array.dtype, kinds[path.split("/")[0]], VoxelSize(*voxel_nm), 16
        )
        for path, array in arrays.items()
    ]
    n_slices = len(next(iter(arrays.values())))
    with Stage(sample, "write", Settings(), {}, specs, REPLACE) as stage:
        stage.map(_given, z_blocks(n_slices, 16), arrays)


def _given(block: ZBlock, arrays: dict[str, NDArray[Any]]) -> BlockResult:
    return {path: array[block.own] for path, array in arrays.items()}, {}


def measure_speed(tiles: int) -> None:
    """Time objects and contacts of a volume of repeated labels, in one process."""
    _, labels = list(urocell_labels())[2]
    mask = np.tile((labels > 0).astype(np.uint8), (1, tiles, tiles))
    noise = np.random.default_rng(0).integers(0, 40, labels.shape, np.uint8)
    probability = np.where(labels > 0, 255 - noise, noise).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample.create(Path(folder) / "s.zarr")
        arrays = {
            "": mask,
            "labels/m": mask,
            "probabilities/m": np.tile(probability, (1, tiles, tiles)),
            "probabilities/m-boundary": np.tile(noise, (1, tiles, tiles)),
        }
        write_volumes(sample, arrays, UROCELL_NM)
        gigavoxels = mask.size / 1e9
        del arrays, mask
        # Every stage in a process of its own, whose peak memory is that of the stage; the first two
        # compile.
        context = get_context("spawn")
        for turn, stage in enumerate(("objects", "contacts", "objects", "contacts")):
            with ProcessPoolExecutor(1, mp_context=context) as process:
                run = process.submit(_run_once, sample.path, stage, turn)
                number, seconds, peak = run.result()
            row = {
                "stage": stage,
                "gigavoxels": round(gigavoxels, 3),
                "number": number,
                "core_seconds_per_gigavoxel": round(seconds / gigavoxels, 1),
                "peak_gb": round(peak, 2),
            }
            save("objects_speed", row)


def _run_once(path: Path, stage: str, turn: int) -> tuple[int, float, float]:
    """Return the number of objects or pairs, core seconds, and peak memory in GB of a stage.

    Every turn has other settings, so that nothing is finished already.
    """
    sample = Sample.open(path)
    before = peak_gb()
    started = time.process_time()
    if stage == "objects":
        number = objects(sample, "m", on=REPLACE, boundary_threshold=0.4 + turn / 100).objects
    else:
        number = contacts(sample, "m", "m", on=REPLACE, distance_nm=30 + turn / 100).pairs
    seconds = time.process_time() - started
    print(f"{stage}: the libraries alone take {before:.2f} GB")
    return number, seconds, peak_gb()


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    separation = commands.add_parser("separate")
    separation.add_argument("volumes", nargs="+", choices=("phantom", "urocell", "epfl"))
    separation.add_argument("--seeds", type=int, nargs="+", default=[1])
    separation.add_argument("--updates", type=int, default=UPDATES)
    separation.add_argument("--adjacent-slices", type=int, default=1)
    separation.add_argument("--views", type=int, nargs="+", default=[1, 3], choices=(1, 3))
    separation.add_argument("--target", choices=("boundary", "core"), default="boundary")
    separation.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    in_contact = commands.add_parser("contacts")
    in_contact.add_argument("--distance-nm", type=float, default=30)
    scale = commands.add_parser("scale")
    scale.add_argument("--tiles", type=int, default=4)
    given = parser.parse_args()
    if given.command == "contacts":
        measure_contacts(given.distance_nm)
    elif given.command == "scale":
        measure_speed(given.tiles)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name in given.volumes:
                for seed in given.seeds:
                    for volume in volumes_of(name, Path(folder), seed):
                        separate(volume, Path(folder), seed, given)


if __name__ == "__main__":
    main()
