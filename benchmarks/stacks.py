"""Real stacks with labeled mitochondria.

``SPARSEM_DATA`` names the folder of the stacks.
"""

import os
from pathlib import Path

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.store.sample import Sample

ROOT = Path(os.environ.get("SPARSEM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FOLDERS = {
    "epfl": ROOT / "epfl_fibsem_mitochondria",
    "vnc": ROOT / "vnc_sstem",
    "sbem": ROOT / "sbem_noise_pair",
}
# In nm. The voxel size of sbem is not known.
VOXELS = {"epfl": (5, 5, 5), "vnc": (50, 4.6, 4.6), "sbem": (1, 1, 1)}
RAW = {"sbem": "noisy_z020-029.tif"}
TRUTH = {"sbem": "labels_mitochondria_z020-029.tif"}
NAME = "mitochondrion"


def raw_path(stack: str) -> Path:
    """Return the file of the slices of a stack."""
    return FOLDERS[stack] / RAW.get(stack, "raw.tif")


def truth_path(stack: str) -> Path:
    """Return the file of the labels of every slice of a stack."""
    return FOLDERS[stack] / TRUTH.get(stack, "labels_mitochondria.tif")


def labeled_sample(stack: str, folder: Path, images: Path | None = None) -> Sample:
    """Import a stack with labels on every slice; a training selects some of them.

    Args:
        stack: its name.
        folder: where the sample is written.
        images: different images of the same tissue.
    """
    sample = import_stack(
        images or raw_path(stack), folder / "s.zarr", ImportSettings(voxel_nm=VOXELS[stack])
    )
    settings = AnnotationSettings(slices="all", image="raw")
    import_annotation(sample, NAME, truth_path(stack), settings)
    return sample
