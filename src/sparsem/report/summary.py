"""Short texts about a sample for the first lines of the page."""

import math
from collections.abc import Sequence

from sparsem.annotation.labeled_slices import corrected_slices
from sparsem.labels.slice_roles import slice_use_of
from sparsem.report.layers import StructureLayer
from sparsem.store.sample import Sample
from sparsem.store.slice_use import ROLES
from sparsem.store.volume import Volume

# How training used a labeled slice -> words on the page.
LABELED_USE_WORDS = {"trained": "trained on", "validated": "held out", "unseen": "not used"}


def sample_facts(
    sample: Sample, image: Volume | None, layers: Sequence[StructureLayer]
) -> dict[str, str]:
    """Return voxel size, shape and extent of a sample as text, by title.

    Args:
        sample: the sample to describe.
        image: the image that is shown, if there is one.
        layers: its structures.
    """
    labels = next((layer.labels for layer in layers if layer.labels), None)
    volume = image or labels
    if volume is None:
        return {"content": "nothing to show yet"}
    facts = _montage_facts(volume) if volume.sizes else _stack_facts(volume)
    facts["image"] = sample.name_of_image(labels) if image else "none"
    return facts


def _montage_facts(volume: Volume) -> dict[str, str]:
    """Describe images of different sizes."""
    voxel = volume.voxel_size
    smallest, largest = (pick(volume.sizes, key=math.prod) for pick in (min, max))
    area_um2 = sum(map(math.prod, volume.sizes)) * voxel.y * voxel.x * 1e-6
    sizes = f"{smallest[0]} × {smallest[1]} to {largest[0]} × {largest[1]} pixels"
    return {
        "pixel": f"{voxel.y:g} × {voxel.x:g} nm (y x)",
        "images": f"{volume.shape[0]}, of {sizes}",
        "area": f"{area_um2:.4g} µm²",
    }


def _stack_facts(volume: Volume) -> dict[str, str]:
    voxel, shape = volume.voxel_size, volume.shape
    extents_um = [n * edge / 1000 for n, edge in zip(shape, voxel, strict=True)]
    return {
        "voxel": " × ".join(f"{edge:g}" for edge in voxel) + " nm (z y x)",
        "size": " × ".join(map(str, shape)) + " voxels",
        "extent": " × ".join(f"{extent:.3g}" for extent in extents_um) + " µm",
    }


def labeled_slices_text(sample: Sample, name: str, z: Sequence[int]) -> str:
    """Return how many slices of a structure are labeled, and how training used them.

    Labeled slices that began as predictions are counted, too.
    """
    count = f"{len(z)} {'slice' if len(z) == 1 else 'slices'}"
    details = []
    use = slice_use_of(sample, name) if name in sample.names("labels") else None
    if use is not None:
        roles = [use.role(slice_number) for slice_number in z]
        if roles.count("trained") != len(z):
            details.append(_roles_text(roles))
    n_corrected = len(corrected_slices(sample, name))
    if n_corrected:
        details.append(f"{n_corrected} corrected predictions")
    return f"{count} ({'; '.join(details)})" if details else count


def _roles_text(roles: Sequence[str]) -> str:
    """Return how many slices have each role."""
    parts = []
    for role in reversed(ROLES):
        if role in roles:
            parts.append(f"{roles.count(role)} {LABELED_USE_WORDS[role]}")
    return ", ".join(parts)
