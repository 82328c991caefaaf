"""Whether denoising brings pictures nearer to smooth ones, and whether it helps segmentation.

    python benchmarks/denoising.py pair                              # noisy SBEM slices, denoised without seeing the smooth ones
    python benchmarks/denoising.py segmentation --stack epfl --seeds 0 1 2
    python benchmarks/denoising.py segmentation --stack sbem --seeds 0 1 2

``SPARSEM_DATA`` names the folder of the stacks. Rows are appended to benchmarks/results/denoising_*.csv.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from rows import keep
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.preprocess.denoise import DenoiseSettings, denoise
from sparsem.quality.image_metrics import METRICS, measure_metrics
from sparsem.quality.resin import propose_resin
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import PredictSettings, predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, VOXELS, labeled_sample, raw_of, truth_of

REPLACE = Execution(overwrite=True)
SMOOTH = FOLDERS["sbem"] / "clean_z020-029.tif"
LABELED = {"epfl": 7, "sbem": 5}


def paired(updates: int) -> None:
    """Every metric of the noisy slices, the denoised ones, and the smooth ones, towards the smooth ones; means over slices."""
    smooth = tifffile.imread(SMOOTH)
    with tempfile.TemporaryDirectory() as name:
        sample = import_stack(
            raw_of("sbem"), Path(name) / "s.zarr", ImportSettings(voxel_nm=VOXELS["sbem"])
        )
        versions = {"noisy": (sample.image("raw").read(slice(None)), 0.0), "smooth": (smooth, 0.0)}
        for way in ("nlm", "n2v"):
            started = time.perf_counter()
            denoise(
                sample,
                DenoiseSettings.model_validate(
                    {"way": way, "image": "raw", "out": way, "updates": updates}
                ),
            )
            versions[way] = (sample.image(way).read(slice(None)), time.perf_counter() - started)
    for version in ("noisy", "nlm", "n2v", "smooth"):
        slices, seconds = versions[version]
        rows = [
            measure_metrics(one, other, propose_resin(other), {}, 1024)[0]
            for one, other in zip(slices, smooth, strict=True)
        ]
        means = {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}
        known = {
            metric: f"{value:.4g}"
            for metric, value in means.items()
            if np.isfinite(value) and metric != "resin_noise_reference"
        }
        keep(
            "denoising_pair",
            {
                "version": version,
                "updates": updates if version == "n2v" else "",
                "seconds": f"{seconds:.0f}",
                **known,
            },
        )


def segmented(stack: str, seeds: list[int], updates: int) -> None:
    """3D Dice on slices that nobody labeled, of networks that learnt for equally long from the raw and the denoised images."""
    truth = tifffile.imread(truth_of(stack)) > 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = labeled_sample(stack, folder)
        ways = [
            DenoiseSettings.model_validate({"method": way, "image": "raw", "out": way})
            for way in ("nlm", "n2v")
        ]
        samples = {"raw": sample, **{denoise(sample, way).image: sample for way in ways}}
        if stack == "sbem":
            samples["smooth"] = labeled_sample(stack, folder / "smooth", SMOOTH)
        slices = tuple(evenly_spaced(len(truth), LABELED[stack]))
        for seed in seeds:
            for image, own in samples.items():
                dice = _dice(
                    own,
                    folder / "m.safetensors",
                    "raw" if image == "smooth" else image,
                    seed,
                    updates,
                    slices,
                    truth,
                )
                keep(
                    "denoising_segmentation",
                    {
                        "stack": stack,
                        "image": image,
                        "seed": seed,
                        "updates": updates,
                        "dice_3d": f"{dice:.4f}",
                    },
                )


def _dice(
    sample: Sample,
    model: Path,
    image: str,
    seed: int,
    updates: int,
    slices: tuple[int, ...],
    truth: np.ndarray,
) -> float:
    settings = TrainSettings(
        structures=(NAME,), seed=seed, updates=updates, slices=slices, image=image
    )
    train_network([sample], model, settings, on=REPLACE)
    predict(sample, model, PredictSettings(image=image), on=REPLACE)
    found = sample.volume("labels", NAME).read(slice(None)) > 0
    return pool_slices(
        [mask_overlap(found[z], truth[z]) for z in range(len(truth)) if z not in slices]
    ).dice


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pair", "segmentation"])
    parser.add_argument("--stack", choices=list(LABELED), default="epfl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--updates",
        type=int,
        default=1000,
        help="of the network that denoises (pair) or segments (segmentation)",
    )
    given = parser.parse_args()
    if given.what == "pair":
        paired(given.updates)
    else:
        segmented(given.stack, given.seeds, given.updates)


if __name__ == "__main__":
    main()
