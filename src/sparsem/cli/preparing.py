"""The commands that make an image better before anything is found in it."""

from sparsem.cli.options import Outcome, SamplePath, command, size_in_words
from sparsem.execution import Execution
from sparsem.prepare.align import Alignment, AlignSettings
from sparsem.prepare.align import align as _align
from sparsem.prepare.equalize import EqualizeSettings
from sparsem.prepare.equalize import equalize as _equalize
from sparsem.store.sample import Sample

MOST_LISTED = 12


@command(AlignSettings, spread=True)
def align(path: SamplePath, *, settings: AlignSettings, on: Execution) -> Outcome:
    """Put every slice where it belongs. The raw image stays; annotations and truth move along, results can be carried back.

    Example: sparsem align liver.zarr
    """
    sample = Sample.open(path)
    found = _align(sample, settings, on)
    shape = sample.image(found.image).shape
    lines = [f"Wrote {path}/images/{found.image}: {size_in_words(shape)} voxels", *_remarks(found)]
    lines.append(f"Wrote {path}/tables/alignment_{found.image}.parquet and .csv")
    remarks = {"jumps": found.jumps, "bad": found.bad, "breaks": found.breaks}
    return Outcome(lines, f"sparsem equalize {path}", {"sample": sample.path, "image": found.image, "shape": shape, **remarks})


@command(EqualizeSettings, spread=True)
def equalize(path: SamplePath, *, settings: EqualizeSettings, on: Execution) -> Outcome:
    """Even out brightness: flicker from slice to slice, or contrast within slices. The image it is made from stays.

    Examples: sparsem equalize liver.zarr
    or sparsem equalize liver.zarr --way clahe --out clahe
    """
    sample = Sample.open(path)
    name = _equalize(sample, settings, on)
    return Outcome([f"Wrote {path}/images/{name}"], f"sparsem annotate import {path} NAME MASKS", {"sample": sample.path, "image": name})


def _remarks(found: Alignment) -> list[str]:
    """What should be looked at."""
    sentences = (
        ("put right, but look at them", "lie far from the slice before", found.jumps),
        ("they were left where their neighbours are", "look like none of their neighbours", found.bad),
        ("there the stack goes on as if it had not drifted", "are connected with nothing before", found.breaks),
    )
    return [f"{_listed(which)} {what}: {then}" for then, what, which in sentences if which]


def _listed(numbers: tuple[int, ...]) -> str:
    more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
    return f"Slices {', '.join(map(str, numbers[:MOST_LISTED]))}{more}" if len(numbers) > 1 else f"Slice {numbers[0]}"
