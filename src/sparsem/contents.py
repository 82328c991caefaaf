"""What a sample holds, at a glance."""

from typing import Any

from sparsem.annotations import annotated_structures
from sparsem.errors import SampleError
from sparsem.store.sample import Sample


def describe(sample: Sample) -> dict[str, Any]:
    """What a sample holds and what was done to it: shape, voxel size, images, structures by folder, tables, history.

    ``stale`` names what was made on an image that was replaced since.
    """
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
        "images": {name: _image(sample, name) for name in sample.names("images")},
        "newest_image": sample.newest_image if sample.has_image else None,
        **{folder: sample.names(folder) for folder in ("probabilities", "labels", "truth")},
        "numbers": list(image.numbers),
        "repeated": list(image.repeated),
        "stale": [
            f"{folder}/{name}"
            for folder in ("images", "probabilities", "labels")
            for name in sample.names(folder)
            if _is_stale(sample, folder, name)
        ],
        "tables": sample.tables,
        "history": sample.history(),
    }


def _image(sample: Sample, name: str) -> dict[str, Any]:
    volume = sample.volume("images", name)
    return {"shape": volume.shape, "made_from": volume.made_on[0] if volume.made_on else None}


def _is_stale(sample: Sample, folder: str, name: str) -> bool:
    """Whether it was made on an image that was replaced since, or is gone."""
    try:
        sample.frame(sample.volume(folder, name))
    except SampleError:
        return True
    return False
