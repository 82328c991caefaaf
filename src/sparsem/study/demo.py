"""The demo: a whole study of a synthetic tumor volume, with its input and its results."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.geometry import evenly_spaced
from sparsem.io.writers import write_tiff
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.report.plots.figures import (
    ComparedCells,
    ComparedSlice,
    write_cell_comparison,
    write_dice_along_z,
    write_slice_comparison,
)
from sparsem.store.sample import Sample
from sparsem.study.study import StudyResult, run
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution

STRUCTURES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")
PHANTOM = PhantomSettings(shape=(64, 512, 512), voxel_nm=(16, 16, 16), cells=6, seed=1)
TRAINING = TrainSettings(structures=STRUCTURES, cells="cells", updates=1100)

# Smaller components are errors of the network, in tissue whose nuclei measure 2 µm³.
MIN_VOLUME_UM3 = {"nucleus": 0.05, "nucleolus": 0.005}
MIN_CELL_VOXELS = 5000


def demo(
    folder: str | Path,
    tissue: PhantomSettings = PHANTOM,
    training: TrainSettings = TRAINING,
    labeled: int = 7,
    *,
    on: Execution = HERE,
) -> StudyResult:
    """Run the whole study on a phantom, as a microscopist would run it, in a folder.

    The folder gets a raw TIFF stack, masks of ``labeled`` slices for each structure and for cells,
    and a study.toml that leads from them to labels of every slice, cells with their protrusions,
    scores against the exact ground truth, and figures. Files that exist stay as they are, so masks
    and study can be changed.

    Args:
        folder: created if it does not exist.
        tissue: the synthetic volume.
        training: the network.
        labeled: number of labeled slices, evenly spaced.
        on: how the work is run.

    Raises:
        InputError: more slices are to be labeled than the volume has.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    slices = evenly_spaced(tissue.shape[0], labeled)
    truth = phantom(folder / "phantom.zarr", tissue, on=on)
    if not (folder / "raw.tif").exists():
        write_tiff(truth.image("raw"), folder / "raw.tif", quiet=on.quiet)
    for name in _annotated(training):
        _write_masks(truth, name, slices, folder / "masks" / name, name == training.cells)
    if not (folder / "study.toml").exists():
        (folder / "study.toml").write_text(_study_toml(training), encoding="utf-8")
    result = run(folder / "study.toml", on=on)
    figures = _write_figures(folder, result, truth, training, slices)
    return replace(result, files=(*result.files, *figures))


def _annotated(training: TrainSettings) -> list[str]:
    """Return the names of all annotations."""
    names = list(training.structures)
    if training.cells:
        names.append(training.cells)
    return names


def _write_masks(
    truth: Sample, name: str, slices: Sequence[int], folder: Path, is_cells: bool
) -> None:
    """Write an image for each labeled slice: white on black, or the numbers of cells in 16 bit."""
    folder.mkdir(parents=True, exist_ok=True)
    for z in slices:
        file = folder / f"{name}_z{z:04d}.png"
        if file.exists():
            continue  # a person may have improved it
        labels = _slice_of(truth, "truth", name, z)
        mask = (labels > 0).astype(np.uint8) * UNKNOWN
        cv2.imwrite(str(file), labels.astype(np.uint16) if is_cells else mask)


def _slice_of(sample: Sample, folder: str, name: str, z: int) -> Any:
    return sample.volume(folder, name).read(slice(z, z + 1))[0]


def _study_toml(training: TrainSettings) -> str:
    """Return the text of a study.toml with all steps from import to report."""
    lines = ['sample = "sample.zarr"', "", "[import]", 'source = "raw.tif"', ""]
    for name in _annotated(training):
        lines += [f"[annotate.{name}]", f'source = "masks/{name}"', ""]
    lines.append("[train]")
    for key, value in training.model_dump().items():
        if value != TrainSettings.model_fields[key].default:
            lines.append(f"{key} = {_toml_value(value)}")
    lines.append("")
    for name in training.structures:
        lines += [f"[score.{name}]", f'truth = "phantom.zarr/truth/{name}"', 'slices = "all"', ""]
    if training.cells:
        lines += [
            f"[score.{training.cells}]",
            f'truth = "phantom.zarr/truth/{training.cells}"',
            'slices = "all"',
            "instances = true",
            f"min_voxels = {MIN_CELL_VOXELS}",
            "",
        ]
    volumes = ", ".join(
        f"{name} = {volume}"
        for name, volume in MIN_VOLUME_UM3.items()
        if name in training.structures
    )
    lines += ["[constrain]", "", "[measure]", f"min_volume_um3 = {{ {volumes} }}", ""]
    lines += ["[export]", 'folder = "results"', "", "[report]", 'out = "report.html"', ""]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _write_figures(
    folder: Path,
    result: StudyResult,
    truth: Sample,
    training: TrainSettings,
    slices: Sequence[int],
) -> list[Path]:
    """Compare the results with the ground truth on slices that were not labeled."""
    dice = {
        name: ([score.dice for score in scores.slices], scores.group("trained"))
        for name, scores in result.scores.items()
        if not scores.cells
    }
    unlabeled = unlabeled_slices_between(slices, truth.image("raw").shape[0])
    rows = [_compared_slice(result.sample, truth, training.structures, z) for z in unlabeled]
    figures = [
        write_slice_comparison(rows, folder / "overlays.png"),
        write_dice_along_z(dice, folder / "dice.png"),
    ]
    if training.cells and result.cells:
        cell_rows = [_compared_cells(result, truth, training.cells, z) for z in unlabeled]
        figures.append(write_cell_comparison(cell_rows, folder / "cells.png"))
    return figures


def unlabeled_slices_between(labeled: Sequence[int], n_slices: int) -> list[int]:
    """Return up to two slices that are not labeled, far from labeled ones.

    >>> unlabeled_slices_between([0, 10, 20, 30], 31)
    [15, 15]
    >>> unlabeled_slices_between([5], 11)
    [0, 10]
    """
    middles = [(first + second) // 2 for first, second in pairwise(labeled) if second - first > 1]
    if middles:
        third = len(middles) // 3
        return [middles[third], middles[-1 - third]]
    others = [z for z in range(n_slices) if z not in labeled]
    others.sort(key=lambda z: min(abs(z - labeled_z) for labeled_z in labeled))
    return sorted(others[-2:])


def _compared_slice(
    sample: Sample, truth: Sample, structures: Sequence[str], z: int
) -> ComparedSlice:
    true_masks = {name: _slice_of(truth, "truth", name, z) > 0 for name in structures}
    masks = {name: _slice_of(sample, "labels", name, z) > 0 for name in structures}
    image = sample.image().read(slice(z, z + 1))[0]
    return ComparedSlice(f"slice {z}, not labeled", image, true_masks, masks)


def _compared_cells(result: StudyResult, truth: Sample, name: str, z: int) -> ComparedCells:
    review = result.cells.review if result.cells else ()
    positions = [(mark.y, mark.x) for mark in review if mark.z == z]
    return ComparedCells(
        f"slice {z}, not labeled",
        result.sample.image().read(slice(z, z + 1))[0],
        _slice_of(truth, "truth", name, z),
        _slice_of(result.sample, "labels", name, z),
        positions,
    )
