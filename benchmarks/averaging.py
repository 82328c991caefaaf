"""Averages at prediction: mirror images and several trainings, and what they cost.

    python benchmarks/averaging.py epfl --labeled 7
    python benchmarks/averaging.py vnc --labeled 5

Every single network, its average over four mirror images (``predict --flips``), the mean of all
networks, and both together, each without and with smoothing across slices. Dice, worst slice and
flicker are those of the unseen slices (see smoothing.py); the seconds are those of ``predict``.
Rows are appended to benchmarks/results/averaging.csv.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import tifffile

from rows import save
from smoothing import AGAIN, slice_scores, trained
from sparse_labels import DATA, NAME
from sparsem.geometry import evenly_spaced
from sparsem.segment.predict import predict


def main() -> None:
    """Train the networks, and predict with every average."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=DATA)
    parser.add_argument("--labeled", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nm", type=float, nargs="+", default=[0, 25])
    parser.add_argument("--folder", type=Path, help="keep samples and models here")
    options = parser.parse_args()
    data = Path(os.environ["SPARSEM_DATA"])
    truth = tifffile.imread(data / DATA[options.stack][1]) > 0
    labeled = evenly_spaced(len(truth), options.labeled)
    unseen = sorted(set(range(len(truth))) - set(labeled))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        models = []
        for seed in options.seeds:
            name = f"{options.stack}_{options.labeled}_{seed}"
            sample, model = trained(data, options.stack, options.labeled, seed, folder / name)
            models.append(model)
        choices = {
            f"seed {seed}": [model] for seed, model in zip(options.seeds, models, strict=True)
        }
        choices[f"{len(models)} networks"] = models
        for networks, chosen_models in choices.items():
            for flips in (False, True):
                for nm in options.nm:
                    start = time.perf_counter()
                    predict(sample, chosen_models, flips=flips, z_smoothing_nm=nm, on=AGAIN)
                    seconds = time.perf_counter() - start
                    predicted = sample.computed(NAME).read(slice(None)) > 0
                    row = {
                        "stack": options.stack,
                        "labeled": options.labeled,
                        "networks": networks,
                        "flips": flips,
                        "nm": f"{nm:g}",
                    }
                    scores = slice_scores(predicted, truth, unseen)
                    save("averaging", row | scores | {"predict_s": f"{seconds:.1f}"})


if __name__ == "__main__":
    main()
