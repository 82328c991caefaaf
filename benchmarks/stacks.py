"""Real stacks with their mitochondria labeled; ``SPARSEM_DATA`` names the folder that holds them."""

import os
from pathlib import Path

from sparsem.annotation.importing import AnnotationSettings, import_annotation
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.store.sample import Sample

ROOT = Path(os.environ.get("SPARSEM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FOLDERS = {
    "epfl": ROOT / "epfl_fibsem_mitochondria",
    "vnc": ROOT / "vnc_sstem",
    "sbem": ROOT / "sbem_noise_pair",
}
VOXELS = {"epfl": (5, 5, 5), "vnc": (50, 4.6, 4.6), "sbem": (1, 1, 1)}  # nm; of sbem nobody says
RAW = {"sbem": "noisy_z020-029.tif"}
TRUTH = {"sbem": "labels_mitochondria_z020-029.tif"}
NAME = "mitochondrion"


def raw_of(stack: str) -> Path:
    """Its slices."""
    return FOLDERS[stack] / RAW.get(stack, "raw.tif")


def truth_of(stack: str) -> Path:
    """Labels of every slice."""
    return FOLDERS[stack] / TRUTH.get(stack, "labels_mitochondria.tif")


def labeled_sample(stack: str, folder: Path, images: Path | None = None) -> Sample:
    """A stack, labeled on every slice; trainings take some of them.

    Args:
        stack: its name.
        folder: where the sample is made.
        images: other images of the same tissue.
    """
    sample = import_stack(
        images or raw_of(stack), folder / "s.zarr", ImportSettings(voxel_nm=VOXELS[stack])
    )
    import_annotation(sample, NAME, truth_of(stack), AnnotationSettings(slices="all", image="raw"))
    return sample
