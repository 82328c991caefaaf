"""Denoising: similarity to smooth images, and the effect on segmentation.

    python benchmarks/denoising.py pair    # noisy SBEM slices; denoise does not use the smooth ones
    python benchmarks/denoising.py segmentation --stack epfl --seeds 0 1 2
    python benchmarks/denoising.py segmentation --stack sbem --seeds 0 1 2

``SPARSEM_DATA`` names the folder of the stacks. Rows are appended to
benchmarks/results/denoising_*.csv.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from rows import save
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.preprocess.denoise import denoise
from sparsem.preprocess.settings import DenoiseSettings
from sparsem.quality.image_metrics import METRICS, measure_metrics
from sparsem.quality.resin import propose_resin
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, VOXELS, labeled_sample, raw_path, truth_path

REPLACE = Execution(overwrite=True)
SMOOTH = FOLDERS["sbem"] / "clean_z020-029.tif"
LABELED = {"epfl": 7, "sbem": 5}


def compare_pair(updates: int) -> None:
    """Measure every metric of the noisy, denoised and smooth slices against the smooth slices.

    The metrics are means over slices.
    """
    smooth = tifffile.imread(SMOOTH)
    with tempfile.TemporaryDirectory() as name:
        sample = import_stack(
            raw_path("sbem"), Path(name) / "s.zarr", ImportSettings(voxel_nm=VOXELS["sbem"])
        )
        versions = {"noisy": (sample.image("raw").read(slice(None)), 0.0), "smooth": (smooth, 0.0)}
        for method in ("nlm", "n2v"):
            start = time.perf_counter()
            denoise(
                sample,
                DenoiseSettings.model_validate(
                    {"method": method, "image": "raw", "out": method, "updates": updates}
                ),
            )
            seconds = time.perf_counter() - start
            versions[method] = (sample.image(method).read(slice(None)), seconds)
    for version in ("noisy", "nlm", "n2v", "smooth"):
        slices, seconds = versions[version]
        rows = [
            measure_metrics(image, reference, propose_resin(reference), {}, 1024)[0]
            for image, reference in zip(slices, smooth, strict=True)
        ]
        means = {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}
        finite_means = {
            metric: f"{value:.4g}"
            for metric, value in means.items()
            if np.isfinite(value) and metric != "resin_noise_reference"
        }
        save(
            "denoising_pair",
            {
                "version": version,
                "updates": updates if version == "n2v" else "",
                "seconds": f"{seconds:.0f}",
                **finite_means,
            },
        )


def compare_segmentations(stack: str, seeds: list[int], updates: int) -> None:
    """Measure 3D Dice on unlabeled slices of networks trained on raw and on denoised images.

    All networks are trained with the same number of updates.
    """
    truth = tifffile.imread(truth_path(stack)) > 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = labeled_sample(stack, folder)
        methods = [
            DenoiseSettings.model_validate({"method": method, "image": "raw", "out": method})
            for method in ("nlm", "n2v")
        ]
        samples = {"raw": sample, **{denoise(sample, method).image: sample for method in methods}}
        if stack == "sbem":
            samples["smooth"] = labeled_sample(stack, folder / "smooth", SMOOTH)
        slices = tuple(evenly_spaced(len(truth), LABELED[stack]))
        for seed in seeds:
            for image, image_sample in samples.items():
                dice = _dice(
                    image_sample,
                    folder / "m.safetensors",
                    "raw" if image == "smooth" else image,
                    seed,
                    updates,
                    slices,
                    truth,
                )
                save(
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
    predicted = sample.computed(NAME).read(slice(None)) > 0
    return pool_slices(
        [mask_overlap(predicted[z], truth[z]) for z in range(len(truth)) if z not in slices]
    ).dice


def main() -> None:
    """Run the benchmark that the command line names."""
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
        help="updates of the network that denoises (pair) or segments (segmentation)",
    )
    arguments = parser.parse_args()
    if arguments.what == "pair":
        compare_pair(arguments.updates)
    else:
        compare_segmentations(arguments.stack, arguments.seeds, arguments.updates)


if __name__ == "__main__":
    main()
