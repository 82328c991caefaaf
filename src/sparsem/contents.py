"""What a sample holds, at a glance."""

from typing import Any

from sparsem.annotations import annotated_structures
from sparsem.store.sample import Sample


def describe(sample: Sample) -> dict[str, Any]:
    """What a sample holds and what was done to it: shape, voxel size, structures by folder, tables, history."""
    names = sample.names("labels")
    image = sample.image("raw") if sample.has_image else sample.volume("labels", names[0])
    return {
        "sample": sample.path,
        "shape": image.shape,
        "dtype": str(image.dtype),
        "voxel_nm": list(image.voxel_size),
        "size_um": [round(n * nm / 1000, 2) for n, nm in zip(image.shape, image.voxel_size, strict=True)],
        "levels": image.levels,
        "annotations": annotated_structures(sample),
        **{folder: sample.names(folder) for folder in ("images", "probabilities", "labels", "truth")},
        "tables": sample.tables,
        "history": sample.history(),
    }
