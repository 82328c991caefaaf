"""How much labeling is enough, and which slices? Suggested slices, the promise of folds, and flicker, on real mitochondria.

    python benchmarks/labeling.py suggest --seeds 0 1 2     # 3 labeled slices and 4 suggested ones, against 7 evenly spaced ones
    python benchmarks/labeling.py folds --folds 3 5 7       # the Dice promised by folds, against that on slices nobody labeled
    python benchmarks/labeling.py flicker --seeds 0 1 2     # brightness that flickers, without and with equalize

EPFL (80 slices), ``SPARSEM_DATA`` names the folder of the stacks. Rows are appended to benchmarks/results/labeling_*.csv.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from rows import keep
from sparsem.annotation.importing import AnnotationSettings, import_annotation
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.preprocess.equalize import EqualizeSettings, equalize
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.cross_validation import cross_validate, fold_path
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.suggest import SuggestSettings, suggest
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, VOXELS, labeled_sample, truth_of

RAW = FOLDERS["epfl"] / "raw.tif"
REPLACE = Execution(overwrite=True)


def dice_after(
    sample: Sample,
    model: Path,
    settings: TrainSettings,
    slices: Sequence[int],
    others: Sequence[int] = (),
) -> float:
    """3D Dice, on slices that are in neither list, of a network that learnt from ``slices``."""
    train_network([sample], model, changed(settings, {"slices": tuple(sorted(slices))}), on=REPLACE)
    predict(sample, model, on=REPLACE)
    return dice_on(sample, [*slices, *others])


def dice_on(sample: Sample, learnt: Sequence[int]) -> float:
    """3D Dice of what was predicted, on all slices but those learnt from."""
    truth = tifffile.imread(truth_of("epfl")) > 0
    found = sample.volume("labels", NAME).read(slice(None)) > 0
    return pool_slices(
        [mask_overlap(found[z], truth[z]) for z in range(len(truth)) if z not in set(learnt)]
    ).dice


def suggested(seed: int, updates: int, ways: Sequence[str]) -> None:
    """Three labeled slices, four more by each way; and seven evenly spaced ones."""
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
        for way in ways:
            unlabeled = _without_other_labels(sample, folder / f"{way}.zarr", first)
            models: tuple[str, ...] = (str(folder / "three.safetensors"),)
            if way == "disagreement":
                cross_validate(
                    [sample],
                    folder / "f.safetensors",
                    changed(settings, {"folds": 3, "slices": tuple(first)}),
                    REPLACE,
                )
                models = tuple(str(fold_path(folder / "f.safetensors", k + 1)) for k in range(3))
            more = suggest(unlabeled, NAME, SuggestSettings(n=4, model=models)).z
            chosen = sorted({*first, *more})
            rows[way] = (
                chosen,
                dice_after(sample, folder / f"{way}.safetensors", settings, chosen),
            )
    for way, (slices, dice) in rows.items():
        keep(
            "labeling_suggest",
            {
                "seed": seed,
                "updates": updates,
                "way": way,
                "slices": " ".join(map(str, slices)),
                "dice_3d": f"{dice:.4f}",
            },
        )


def _without_other_labels(sample: Sample, path: Path, slices: Sequence[int]) -> Sample:
    """The same stack of which only some slices are labeled, as a user has it."""
    other = import_stack(RAW, path, ImportSettings(voxel_nm=VOXELS["epfl"]))
    import_annotation(
        other, NAME, truth_of("epfl"), AnnotationSettings(slices=",".join(map(str, slices)))
    )
    return other


def promised(folds: Sequence[int], labeled: int, seed: int, updates: int) -> None:
    """The Dice that folds promise, and the true one of the network trained on all labeled slices."""
    settings = TrainSettings(structures=(NAME,), seed=seed, updates=updates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = labeled_sample("epfl", folder)
        slices = evenly_spaced(sample.image().shape[0], labeled)
        true = dice_after(sample, folder / "all.safetensors", settings, slices)
        for count in folds:
            own = changed(settings, {"folds": count, "slices": tuple(slices)})
            (promise,) = cross_validate([sample], folder / f"{count}.safetensors", own, REPLACE)
            predict(
                sample,
                [fold_path(folder / f"{count}.safetensors", n + 1) for n in range(count)],
                on=REPLACE,
            )
            together = dice_on(sample, slices)
            row: dict[str, Any] = {
                "labeled": labeled,
                "seed": seed,
                "updates": updates,
                "folds": count,
            }
            row |= {
                "promised": f"{promise.mean:.4f}",
                "spread": f"{promise.spread:.4f}",
                "true": f"{true:.4f}",
            }
            keep(
                "labeling_folds",
                row | {"off": f"{promise.mean - true:+.4f}", "mean_of_folds": f"{together:.4f}"},
            )


def flickering(seed: int, updates: int) -> None:
    """Every slice with a brightness and contrast of its own; seven labeled slices."""
    settings = TrainSettings(structures=(NAME,), seed=seed, updates=updates)
    random = np.random.default_rng(seed)
    raw = tifffile.imread(RAW).astype(np.float64)
    gain, offset = np.exp(random.normal(0, 0.15, len(raw))), random.normal(0, 20, len(raw))
    made = np.clip(
        (raw - raw.mean()) * gain[:, None, None] + raw.mean() + offset[:, None, None], 1, 255
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tifffile.imwrite(folder / "flicker.tif", made.astype(np.uint8), photometric="minisblack")
        sample = labeled_sample("epfl", folder, folder / "flicker.tif")
        still = labeled_sample("epfl", folder / "still")
        slices = evenly_spaced(len(raw), 7)
        rows = {"no flicker": dice_after(still, folder / "still.safetensors", settings, slices)}
        rows["flicker"] = dice_after(sample, folder / "m.safetensors", settings, slices)
        for way in ("flicker", "histogram", "clahe"):
            equalize(
                sample,
                EqualizeSettings.model_validate({"way": way, "image": "raw", "out": way}),
                on=REPLACE,
            )
            rows[f"flicker, equalize --way {way}"] = dice_after(
                sample, folder / f"{way}.safetensors", settings, slices
            )
    for what, dice in rows.items():
        keep(
            "labeling_flicker",
            {"seed": seed, "updates": updates, "stack": what, "dice_3d": f"{dice:.4f}"},
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["suggest", "folds", "flicker"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=TrainSettings().updates)
    parser.add_argument("--folds", type=int, nargs="+", default=[5])
    parser.add_argument("--labeled", type=int, default=7)
    parser.add_argument("--ways", nargs="+", default=["entropy", "disagreement"])
    given = parser.parse_args()
    for seed in given.seeds:
        if given.what == "suggest":
            suggested(seed, given.updates, given.ways)
        elif given.what == "folds":
            promised(given.folds, given.labeled, seed, given.updates)
        else:
            flickering(seed, given.updates)


if __name__ == "__main__":
    main()
