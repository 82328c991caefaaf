"""The image of a sample on which labels were drawn, recognized by its shape."""

from collections.abc import Sequence

from sparsem.store.sample import Sample
from sparsem.store.volume import Volume

Shape = tuple[int, int, int]


def candidate_shapes(sample: Sample, image: str | None = None) -> list[Shape]:
    """Return the shapes (z, y, x) of the images that labels may have been drawn on.

    Args:
        sample: sample with images.
        image: name of the image, if it is known; else all images count, the raw one first.
    """
    names = [image] if image else sample.images
    return [_volume_of(sample, name).shape for name in names]


def find_annotated_image(sample: Sample, size: Sequence[int]) -> str | None:
    """Return the name of the image on whose pixel grid labels of a size are; None if none has it.

    This is the newest image of that size. If it was made without moving pixels, the image that it
    was made from counts.

    Args:
        sample: sample with images.
        size: (y, x) of slices, or (z, y, x) of a volume.
    """
    for name in (sample.newest_image, *sample.images):
        if _volume_of(sample, name).shape[-len(size) :] == tuple(size):
            return sample.grid_image(name)
    return None


def _volume_of(sample: Sample, image: str) -> Volume:
    return sample.image("raw") if image == "raw" else sample.volume("images", image)
