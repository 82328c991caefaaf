"""Labeling: which slices, how many, and with flickering brightness; on real mitochondria.

    python benchmarks/labeling.py suggest --seeds 0 1 2    # 3 slices and 4 suggested ones, and 7
    python benchmarks/labeling.py folds --folds 3 5 7      # Dice of folds, and of unlabeled slices
    python benchmarks/labeling.py flicker --seeds 0 1 2    # flicker, without and with equalize

``suggest`` compares 3 labeled slices and 4 suggested ones with 7 evenly spaced slices. ``folds``
compares the Dice of cross-validation with the Dice on unlabeled slices. The stack is EPFL
(80 slices); ``SPARSEM_DATA`` names the folder of the stacks. Rows are appended to
benchmarks/results/labeling_*.csv.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from rows import save
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.cross_validation import cross_validate, fold_path
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import SuggestSettings
from sparsem.segment.suggest import suggest
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, VOXELS, labeled_sample, truth_path

RAW = FOLDERS["epfl"] / "raw.tif"
REPLACE = Execution(overwrite=True)


def dice_after(
    sample: Sample,
    model: Path,
    settings: TrainSettings,
    slices: Sequence[int],
    excluded: Sequence[int] = (),
) -> float:
    """Train a network on ``slices``, and return its 3D Dice on slices that are in neither list."""
    train_network([sample], model, changed(settings, {"slices": tuple(sorted(slices))}), on=REPLACE)
    predict(sample, model, on=REPLACE)
    return dice_without(sample, [*slices, *excluded])


def dice_without(sample: Sample, excluded: Sequence[int]) -> float:
    """Return the 3D Dice of the predicted labels on all slices except the excluded ones."""
    truth = tifffile.imread(truth_path("epfl")) > 0
    predicted = sample.computed(NAME).read(slice(None)) > 0
    return pool_slices(
        [mask_overlap(predicted[z], truth[z]) for z in range(len(truth)) if z not in set(excluded)]
    ).dice


def compare_suggestions(seed: int, updates: int, methods: Sequence[str]) -> None:
    """Compare three slices, three and four suggested by each method, and seven evenly spaced."""
    settings = TrainSettings(structures=(NAME,), seed=seed, updates=updates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = labeled_sample("epfl", folder)
        n = sample.image().shape[0]
        first, even = evenly_spaced(n, 3), evenly_spaced(n, 7)
        rows: dict[str, tuple[list[int], float]] = {
            "even": (even, dice_after(sample, folder / "even.safetensors", settings, even))
        }
        rows["three"] = (first, dice_after(sample, folder / "three.safetensors", settings, first))
        for method in methods:
            sparse = _sparse_sample(folder / f"{method}.zarr", first)
            models: tuple[str, ...] = (str(folder / "three.safetensors"),)
            if method == "disagreement":
                cross_validate(
                    [sample],
                    folder / "f.safetensors",
                    changed(settings, {"folds": 3, "slices": tuple(first)}),
                    REPLACE,
                )
                models = tuple(str(fold_path(folder / "f.safetensors", k + 1)) for k in range(3))
            suggested = suggest(sparse, NAME, SuggestSettings(n=4, model=models)).z
            slices = sorted({*first, *suggested})
            dice = dice_after(sample, folder / f"{method}.safetensors", settings, slices)
            rows[method] = (slices, dice)
    for method, (slices, dice) in rows.items():
        save(
            "labeling_suggest",
            {
                "seed": seed,
                "updates": updates,
                "method": method,
                "slices": " ".join(map(str, slices)),
                "dice_3d": f"{dice:.4f}",
            },
        )


def _sparse_sample(path: Path, slices: Sequence[int]) -> Sample:
    """Import the stack with labels on these slices only, as a user does."""
    sample = import_stack(RAW, path, ImportSettings(voxel_nm=VOXELS["epfl"]))
    import_annotation(
        sample, NAME, truth_path("epfl"), AnnotationSettings(slices=",".join(map(str, slices)))
    )
    return sample


def compare_folds(folds: Sequence[int], labeled: int, seed: int, updates: int) -> None:
    """Compare the Dice of cross-validation with that of the network trained on all slices."""
    settings = TrainSettings(structures=(NAME,), seed=seed, updates=updates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = labeled_sample("epfl", folder)
        slices = evenly_spaced(sample.image().shape[0], labeled)
        true = dice_after(sample, folder / "all.safetensors", settings, slices)
        for count in folds:
            fold_settings = changed(settings, {"folds": count, "slices": tuple(slices)})
            model = folder / f"{count}.safetensors"
            (estimate,) = cross_validate([sample], model, fold_settings, REPLACE)
            fold_models = [fold_path(model, n + 1) for n in range(count)]
            predict(sample, fold_models, on=REPLACE)
            dice_of_all = dice_without(sample, slices)
            row: dict[str, Any] = {
                "labeled": labeled,
                "seed": seed,
                "updates": updates,
                "folds": count,
            }
            row |= {
                "estimated": f"{estimate.mean:.4f}",
                "spread": f"{estimate.spread:.4f}",
                "true": f"{true:.4f}",
                "difference": f"{estimate.mean - true:+.4f}",
                "mean_of_folds": f"{dice_of_all:.4f}",
            }
            save("labeling_folds", row)


def compare_flicker(seed: int, updates: int) -> None:
    """Give every slice a random brightness and contrast, equalize, and train on seven slices."""
    settings = TrainSettings(structures=(NAME,), seed=seed, updates=updates)
    random = np.random.default_rng(seed)
    raw = tifffile.imread(RAW).astype(np.float64)
    gain, offset = np.exp(random.normal(0, 0.15, len(raw))), random.normal(0, 20, len(raw))
    flickering = np.clip(
        (raw - raw.mean()) * gain[:, None, None] + raw.mean() + offset[:, None, None], 1, 255
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "flicker.tif"
        tifffile.imwrite(path, flickering.astype(np.uint8), photometric="minisblack")
        sample = labeled_sample("epfl", folder, path)
        original = labeled_sample("epfl", folder / "still")
        slices = evenly_spaced(len(raw), 7)
        rows = {"no flicker": dice_after(original, folder / "still.safetensors", settings, slices)}
        rows["flicker"] = dice_after(sample, folder / "m.safetensors", settings, slices)
        for method in ("flicker", "histogram", "clahe"):
            equalize(
                sample,
                EqualizeSettings.model_validate({"method": method, "image": "raw", "out": method}),
                on=REPLACE,
            )
            rows[f"flicker, equalize --method {method}"] = dice_after(
                sample, folder / f"{method}.safetensors", settings, slices
            )
    for stack, dice in rows.items():
        save(
            "labeling_flicker",
            {"seed": seed, "updates": updates, "stack": stack, "dice_3d": f"{dice:.4f}"},
        )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["suggest", "folds", "flicker"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=TrainSettings().updates)
    parser.add_argument("--folds", type=int, nargs="+", default=[5])
    parser.add_argument("--labeled", type=int, default=7)
    parser.add_argument(
        "--ways",
        dest="methods",
        nargs="+",
        default=["entropy", "disagreement"],
        help="methods that suggest slices",
    )
    arguments = parser.parse_args()
    updates = arguments.updates
    for seed in arguments.seeds:
        if arguments.what == "suggest":
            compare_suggestions(seed, updates, arguments.methods)
        elif arguments.what == "folds":
            compare_folds(arguments.folds, arguments.labeled, seed, updates)
        else:
            compare_flicker(seed, updates)


if __name__ == "__main__":
    main()
