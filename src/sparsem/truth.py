"""What is known to be true of a structure: the sample's own ``truth/NAME``, or labels from elsewhere, as an image shows the tissue."""

from dataclasses import dataclass
from pathlib import Path

from sparsem.errors import InputError
from sparsem.store.readers import open_source
from sparsem.store.readers.placement import placed
from sparsem.store.readers.source import Stack
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


@dataclass(frozen=True)
class Truth:
    """True labels.

    Attributes:
        stack: (z, y, x), read when it is sliced.
        identity: a short hash that tells another truth.
    """

    stack: Stack
    identity: str


def truth_of(sample: Sample, name: str, seen: Volume | None, source: str | Path | None = None, dataset: str | None = None) -> Truth:
    """The truth of a structure.

    Args:
        sample: that it is of.
        name: of the structure.
        seen: an image, or what was made on one: a truth with the pixels of the raw image moves along with alignment to lie over it. If
            there is none the truth stays as it is.
        source: a labelled volume; the sample's own if not given.
        dataset: key inside a Zarr group or an HDF5 file.

    Raises:
        SampleError: the sample has no truth of that name, and none is given.
        InputError: it cannot be read, or has another shape.
    """
    own = sample.volume("truth", name) if source is None else None
    path = str(own.directory if own else source)
    found = open_source(path, dataset, labels=True)
    if seen is not None:
        found = placed(found, [*([sample.image("raw").shape] if sample.has_image else []), seen.shape])
    stack: Stack = own.kept() if own else found.stack  # our own tells of chunks that are lost
    if seen is not None:
        stack = sample.seen_by(seen, stack)
        if tuple(stack.shape) != seen.shape:
            what = "the image" if seen.directory == sample.path else seen.directory.relative_to(sample.path).as_posix()
            raise InputError(f"The truth {path} has the shape {tuple(stack.shape)}, but {what} has {seen.shape}.")
    return Truth(stack, found.identity())
