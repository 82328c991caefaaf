"""Quality of slices: correlation of every measure with known faults, and time for 24 Mpx.

    python benchmarks/quality.py ranks                # Spearman's correlation with ground truth
    python benchmarks/quality.py speed --slices 100   # 6000 x 4000 px: seconds a slice, peak memory
    python benchmarks/quality.py peers                # compared with metrics of piq, scikit-image

Rows are appended to benchmarks/results/quality_*.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import piq
import tifffile
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from rows import peak_gb, save
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.phantom.phantom import draw_faults, phantom, phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.quality.full_reference import as_tensor
from sparsem.quality.quality import Quality, quality
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

QUIET = Execution(quiet=True)
SHAPE = (60, 512, 512)


def faulty_phantom(folder: Path, seed: int, **faults: Any) -> tuple[PhantomSettings, Quality]:
    """Draw a phantom with faults, and measure its quality."""
    settings = PhantomSettings(shape=SHAPE, seed=seed, **faults)
    sample = phantom(
        folder / f"{seed}-{'-'.join(f'{name}{value}' for name, value in faults.items())}.zarr",
        settings,
        on=QUIET,
    )
    return settings, quality(sample, on=QUIET)


def rank_correlation(true: ArrayLike, measured: ArrayLike) -> float:
    """Return Spearman's correlation over the slices where both values are finite."""
    values = np.stack([np.asarray(true, np.float64), np.asarray(measured, np.float64)])
    return float(spearmanr(*values[:, np.isfinite(values).all(axis=0)]).statistic)


def correlate_stacks(
    folder: Path, seed: int, fault: str, strengths: Sequence[float], measure: str
) -> float:
    """Correlate a fault that all slices of a stack share with the median of a measure.

    A phantom is drawn for each strength of the fault.
    """
    medians = []
    for strength in strengths:
        _, measured = faulty_phantom(folder, seed, **{fault: strength})
        medians.append(float(np.nanmedian(measured.columns[measure])))
    return rank_correlation(strengths, medians) * (-1 if measure == "snr_db" else 1)


def rank_faults(seeds: Sequence[int]) -> None:
    """Write one row for each fault and seed, and the counts of lost and repeated slices."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = {
                fault: correlate_stacks(folder, seed, *arguments)
                for fault, arguments in STACK_FAULTS.items()
            }
            settings, measured = faulty_phantom(
                folder, seed, flicker=6.0, drift_nm=16.0, charging=40.0, defocus=3.0
            )
            faults, columns = draw_faults(settings), measured.columns
            is_sharp, is_uncharged = faults.blur_px == 0, faults.charge == 0
            rows["brightness of a slice"] = rank_correlation(
                faults.offset[is_uncharged], columns["brightness"][is_uncharged]
            )
            drift = (
                np.vstack([np.zeros(2), np.diff(faults.drift_nm, axis=0)]) / settings.voxel_nm[1]
            )
            for column, axis in enumerate("yx"):
                rows[f"drift along {axis}"] = rank_correlation(
                    -drift[1:, column], columns[f"shift_{axis}_px"][1:]
                )
            rows["charging (slices that charge)"] = rank_correlation(
                faults.charge[~is_uncharged], columns["charging"][~is_uncharged]
            )
            rows["blur, by sharpness (blurred slices)"] = -rank_correlation(
                faults.blur_px[~is_sharp], columns["sharpness"][~is_sharp]
            )
            rows["blur, by resolution (blurred slices)"] = rank_correlation(
                faults.blur_px[~is_sharp], columns["resolution_px"][~is_sharp]
            )
            rows["saturation"] = saturation(seed)
        for fault, rank in rows.items():
            save("quality_ranks", {"seed": seed, "fault": fault, "rank_correlation": f"{rank:.3f}"})
        count_reported_slices(seed)


# Fault, strengths and measure of the faults that all slices of a stack share.
STACK_FAULTS = {
    "noise": ("noise", (0.0, 3.0, 6.0, 12.0, 24.0), "noise"),
    "noise, by SNR, which falls": ("noise", (3.0, 6.0, 12.0, 24.0), "snr_db"),
    "curtaining": ("curtaining", (0.0, 2.0, 4.0, 8.0, 16.0), "stripes"),
}


def saturation(seed: int) -> float:
    """Return the correlation on slices with more and more brightness."""
    settings = PhantomSettings(shape=SHAPE, seed=seed)
    fractions: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        stack = np.stack(
            [
                np.clip(phantom_slice(settings, z).image * (1 + 0.02 * z), 0, 255).astype(np.uint8)
                for z in range(30)
            ]
        )
        tifffile.imwrite(Path(name) / "s.tif", stack, photometric="minisblack")
        sample = import_stack(
            Path(name) / "s.tif",
            Path(name) / "s.zarr",
            ImportSettings(voxel_nm=(8, 8, 8)),
            on=QUIET,
        )
        measured = quality(sample, on=QUIET).columns["saturated"]
        fractions = [
            float(np.mean(phantom_slice(settings, z).image * (1 + 0.02 * z) >= 255))
            for z in range(30)
        ]
    return rank_correlation(fractions, measured)


def count_reported_slices(seed: int) -> None:
    """Remove slices and repeat others, and count how many are reported, and correctly."""
    settings, random = (
        PhantomSettings(shape=(80, 512, 512), seed=seed, drift_nm=8.0),
        np.random.default_rng(seed),
    )
    faulty = np.sort(random.choice(np.arange(6, 74, 4), 8, replace=False))
    lost, repeated = set(faulty[::2].tolist()), set(faulty[1::2].tolist())
    slices: list[NDArray[Any]] = []
    true_lost: list[int] = []
    true_repeated: list[int] = []
    for z in range(80):
        if z in lost:
            true_lost.append(len(slices))  # the slice that follows is reported
            continue
        slices.append(phantom_slice(settings, z).image)
        if z in repeated:
            true_repeated.append(len(slices))
            repetition = slices[-1] + random.normal(0, 4, slices[-1].shape)
            slices.append(np.clip(np.round(repetition), 0, 255).astype(np.uint8))
    with tempfile.TemporaryDirectory() as name:
        tifffile.imwrite(Path(name) / "s.tif", np.stack(slices), photometric="minisblack")
        measured = quality(
            import_stack(
                Path(name) / "s.tif",
                Path(name) / "s.zarr",
                ImportSettings(voxel_nm=(8, 8, 8)),
                on=QUIET,
            ),
            on=QUIET,
        )
    for fault, true, text in (
        ("lost", true_lost, "lost before it"),
        ("repeated", true_repeated, "repeats the slice before"),
    ):
        reported = [
            z
            for z, flag in enumerate(measured.flags)
            if any(text in remark for remark in flag.remarks)
        ]
        save(
            "quality_told",
            {
                "seed": seed,
                "fault": fault,
                "true": len(true),
                "reported": len(reported),
                "right": len(set(reported) & set(true)),
            },
        )


def large_slice() -> NDArray[np.uint8]:
    """Return a slice of a phantom, enlarged to 6000 x 4000 px, to which noise is added."""
    settings = PhantomSettings(shape=(8, 1000, 1500), noise=0, curtaining=0)
    smooth = np.asarray(
        cv2.resize(phantom_slice(settings, 4).image, (6000, 4000), interpolation=cv2.INTER_CUBIC),
        np.float32,
    )
    smooth += np.random.default_rng(0).normal(0, 9, smooth.shape).astype(np.float32)
    return np.asarray(np.clip(smooth, 1, 255), np.uint8)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def stack_speed(slices: int) -> None:
    """Measure seconds a slice on one core, and peak memory, for slices of 24 Mpx."""
    plane, random = large_slice(), np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.tif"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            for _ in range(slices):
                y, x = random.integers(-3, 4, 2)
                shifted = np.roll(plane, (y, x), (0, 1))
                file.write(shifted, contiguous=True, photometric="minisblack")
        sample = import_stack(
            path, Path(name) / "s.zarr", ImportSettings(voxel_nm=(8, 8, 8), block_depth=4), on=QUIET
        )
        before = peak_gb()
        start = time.perf_counter()
        quality(Sample.open(sample.path), on=QUIET)
        seconds = time.perf_counter() - start
        row = {
            "slices": slices,
            "seconds_a_slice": f"{seconds / slices:.2f}",
            "peak_gb_import": f"{before:.2f}",
            "peak_gb": f"{peak_gb():.2f}",
        }
        save("quality_speed", row)


def peers() -> None:
    """Time all measures of a slice of 24 Mpx, and single metrics of libraries, in one run.

    The metrics of the libraries need a reference image.
    """
    from sparsem.quality.quality import _measure_slice

    image = large_slice()
    reference = cv2.GaussianBlur(image, (0, 0), 1.0)
    # The libraries hold many maps of the whole image. Their times are scaled up from a crop.
    crop = np.s_[:2048, :2048]
    image_crop, reference_crop = image[crop], reference[crop]
    scale = image.size / image_crop.size
    pair = [as_tensor(pixels) for pixels in (image_crop, reference_crop)]
    sparsem_s = timed(lambda: _measure_slice(image))
    rows = {
        "sparsem, all measures of a slice": sparsem_s,
        "scikit-image, SSIM": scale
        * timed(
            lambda: structural_similarity(
                image_crop, reference_crop, gaussian_weights=True, sigma=1.5
            )
        ),
        "piq, SSIM": scale * timed(lambda: piq.ssim(pair[0], pair[1], downsample=False)),
        "piq, SR-SIM": scale * timed(lambda: piq.srsim(pair[0], pair[1])),
    }
    for name, seconds in rows.items():
        save(
            "quality_peers",
            {
                "what": name,
                "seconds_24_mpx": f"{seconds:.2f}",
                "times_ours": f"{seconds / sparsem_s:.1f}",
            },
        )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ranks", "speed", "peers"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--slices", type=int, default=100)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if arguments.what == "ranks":
        rank_faults(arguments.seeds)
    elif arguments.what == "speed":
        stack_speed(arguments.slices)
    else:
        peers()


if __name__ == "__main__":
    main()
