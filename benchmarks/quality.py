"""Quality of slices: how well every measure follows a fault whose strength is known, and how long 24 Mpx take.

    python benchmarks/quality.py ranks                      # Spearman's correlation with the truth, on phantoms
    python benchmarks/quality.py speed --slices 100         # a stack of 6000 x 4000 px: seconds a slice, most memory
    python benchmarks/quality.py peers                      # beside one metric of piq and of scikit-image, at 24 Mpx

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

from rows import keep, peak_gb
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.phantom.phantom import PhantomSettings, draw_faults, phantom, phantom_slice
from sparsem.quality.full_reference import as_tensor
from sparsem.quality.quality import Quality, quality
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

QUIET = Execution(quiet=True)
SHAPE = (60, 512, 512)


def looked_at(folder: Path, seed: int, **faults: Any) -> tuple[PhantomSettings, Quality]:
    """A phantom with faults, and what is said of it."""
    settings = PhantomSettings(shape=SHAPE, seed=seed, **faults)
    sample = phantom(
        folder / f"{seed}-{'-'.join(f'{name}{value}' for name, value in faults.items())}.zarr",
        settings,
        on=QUIET,
    )
    return settings, quality(sample, on=QUIET)


def of_slices(true: ArrayLike, found: ArrayLike) -> float:
    """Spearman's correlation over what is known of both."""
    both = np.stack([np.asarray(true, np.float64), np.asarray(found, np.float64)])
    return float(spearmanr(*both[:, np.isfinite(both).all(axis=0)]).statistic)


def between_stacks(
    folder: Path, seed: int, fault: str, strengths: Sequence[float], measure: str
) -> float:
    """A fault that all slices of a stack share: phantoms of several strengths, by their median."""
    found = [
        float(np.nanmedian(looked_at(folder, seed, **{fault: strength})[1].columns[measure]))
        for strength in strengths
    ]
    return of_slices(strengths, found) * (-1 if measure == "snr_db" else 1)


def ranked(seeds: Sequence[int]) -> None:
    """One row a fault and seed. Lost and repeated slices are counted: how many of those told are true, and of the true ones told."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = {fault: between_stacks(folder, seed, *how) for fault, how in BETWEEN.items()}
            settings, found = looked_at(
                folder, seed, flicker=6.0, drift_nm=16.0, charging=40.0, defocus=3.0
            )
            faults, own = draw_faults(settings), found.columns
            sharp, quiet = faults.blur_px == 0, faults.charge == 0
            rows["brightness of a slice"] = of_slices(
                faults.offset[quiet], own["brightness"][quiet]
            )
            drift = (
                np.vstack([np.zeros(2), np.diff(faults.drift_nm, axis=0)]) / settings.voxel_nm[1]
            )
            for place, axis in enumerate("yx"):
                rows[f"drift along {axis}"] = of_slices(
                    -drift[1:, place], own[f"shift_{axis}_px"][1:]
                )
            rows["charging (slices that charge)"] = of_slices(
                faults.charge[~quiet], own["charging"][~quiet]
            )
            rows["blur, by sharpness (blurred slices)"] = -of_slices(
                faults.blur_px[~sharp], own["sharpness"][~sharp]
            )
            rows["blur, by resolution (blurred slices)"] = of_slices(
                faults.blur_px[~sharp], own["resolution_px"][~sharp]
            )
            rows["saturation"] = saturation(seed)
        for fault, rank in rows.items():
            keep("quality_ranks", {"seed": seed, "fault": fault, "rank_correlation": f"{rank:.3f}"})
        told_slices(seed)


BETWEEN = {
    "noise": ("noise", (0.0, 3.0, 6.0, 12.0, 24.0), "noise"),
    "noise, by SNR, which falls": ("noise", (3.0, 6.0, 12.0, 24.0), "snr_db"),
    "curtaining": ("curtaining", (0.0, 2.0, 4.0, 8.0, 16.0), "stripes"),
}


def saturation(seed: int) -> float:
    """Slices that are made brighter and brighter."""
    settings = PhantomSettings(shape=SHAPE, seed=seed)
    shares: list[float] = []
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
        found = quality(sample, on=QUIET).columns["saturated"]
        shares = [
            float(np.mean(phantom_slice(settings, z).image * (1 + 0.02 * z) >= 255))
            for z in range(30)
        ]
    return of_slices(shares, found)


def told_slices(seed: int) -> None:
    """Slices taken out and put in twice: which are told."""
    settings, random = (
        PhantomSettings(shape=(80, 512, 512), seed=seed, drift_nm=8.0),
        np.random.default_rng(seed),
    )
    chosen = np.sort(random.choice(np.arange(6, 74, 4), 8, replace=False))
    lost, twice = set(chosen[::2].tolist()), set(chosen[1::2].tolist())
    slices: list[NDArray[Any]] = []
    true_lost: list[int] = []
    true_twice: list[int] = []
    for z in range(80):
        if z in lost:
            true_lost.append(len(slices))  # the slice that follows is told
            continue
        slices.append(phantom_slice(settings, z).image)
        if z in twice:
            true_twice.append(len(slices))
            again = slices[-1] + random.normal(0, 4, slices[-1].shape)
            slices.append(np.clip(np.round(again), 0, 255).astype(np.uint8))
    with tempfile.TemporaryDirectory() as name:
        tifffile.imwrite(Path(name) / "s.tif", np.stack(slices), photometric="minisblack")
        found = quality(
            import_stack(
                Path(name) / "s.tif",
                Path(name) / "s.zarr",
                ImportSettings(voxel_nm=(8, 8, 8)),
                on=QUIET,
            ),
            on=QUIET,
        )
    for what, true, word in (
        ("lost", true_lost, "lost before it"),
        ("repeated", true_twice, "repeats the slice before"),
    ):
        told = [
            z for z, one in enumerate(found.flags) if any(word in remark for remark in one.remarks)
        ]
        right = len(set(told) & set(true))
        keep(
            "quality_told",
            {"seed": seed, "fault": what, "true": len(true), "told": len(told), "right": right},
        )


def large_slice() -> NDArray[np.uint8]:
    """6000 x 4000 px of a phantom, enlarged, with noise of its own."""
    settings = PhantomSettings(shape=(8, 1000, 1500), noise=0, curtaining=0)
    smooth = np.asarray(
        cv2.resize(phantom_slice(settings, 4).image, (6000, 4000), interpolation=cv2.INTER_CUBIC),
        np.float32,
    )
    smooth += np.random.default_rng(0).normal(0, 9, smooth.shape).astype(np.float32)
    return np.asarray(np.clip(smooth, 1, 255), np.uint8)


def timed(work: Callable[[], object]) -> float:
    """Seconds, the best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def stack_speed(slices: int) -> None:
    """A stack of 24 Mpx: seconds a slice on one core, and the most memory that was held."""
    own, random = large_slice(), np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.tif"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            for _ in range(slices):
                y, x = random.integers(-3, 4, 2)
                file.write(np.roll(own, (y, x), (0, 1)), contiguous=True, photometric="minisblack")
        sample = import_stack(
            path, Path(name) / "s.zarr", ImportSettings(voxel_nm=(8, 8, 8), block_depth=4), on=QUIET
        )
        before = peak_gb()
        started = time.perf_counter()
        quality(Sample.open(sample.path), on=QUIET)
        seconds = time.perf_counter() - started
        row = {
            "slices": slices,
            "seconds_a_slice": f"{seconds / slices:.2f}",
            "peak_gb_import": f"{before:.2f}",
            "peak_gb": f"{peak_gb():.2f}",
        }
        keep("quality_speed", row)


def peers() -> None:
    """All measures of a slice of 24 Mpx beside a single metric of a library, which needs a reference, in one run."""
    from sparsem.quality.quality import _measure_slice

    own = large_slice()
    other = cv2.GaussianBlur(own, (0, 0), 1.0)
    crop = np.s_[
        :2048, :2048
    ]  # a library holds many maps of the whole picture: scaled up from a part
    scale = own.size / own[crop].size
    pair = [as_tensor(one[crop]) for one in (own, other)]
    ours = timed(lambda: _measure_slice(own))
    rows = {
        "sparsem, all measures of a slice": ours,
        "scikit-image, SSIM": scale
        * timed(
            lambda: structural_similarity(own[crop], other[crop], gaussian_weights=True, sigma=1.5)
        ),
        "piq, SSIM": scale * timed(lambda: piq.ssim(pair[0], pair[1], downsample=False)),
        "piq, SR-SIM": scale * timed(lambda: piq.srsim(pair[0], pair[1])),
    }
    for what, seconds in rows.items():
        keep(
            "quality_peers",
            {
                "what": what,
                "seconds_24_mpx": f"{seconds:.2f}",
                "times_ours": f"{seconds / ours:.1f}",
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ranks", "speed", "peers"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--slices", type=int, default=100)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if given.what == "ranks":
        ranked(given.seeds)
    elif given.what == "speed":
        stack_speed(given.slices)
    else:
        peers()


if __name__ == "__main__":
    main()
