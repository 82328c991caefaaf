"""The commands that make an image better before anything is found in it."""

from sparsem.cli.options import Outcome, SamplePath, command, in_shell, size_in_words
from sparsem.cli.score_format import alignment_lines
from sparsem.preprocess.align import AlignSettings
from sparsem.preprocess.align import align as _align
from sparsem.preprocess.equalize import EqualizeSettings
from sparsem.preprocess.equalize import equalize as _equalize
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution


@command(AlignSettings, spread=True)
def align(path: SamplePath, *, settings: AlignSettings, on: Execution) -> Outcome:
    """Put every slice where it belongs. The raw image stays; annotations and truth move along, results can be carried back.

    Example: sparsem align liver.zarr
    """
    sample = Sample.open(path)
    found = _align(sample, settings, on=on)
    shape = sample.image(found.image).shape
    lines = [
        f"Wrote {path}/images/{found.image}: {size_in_words(shape)} voxels",
        *alignment_lines(found),
    ]
    lines.append(f"Wrote {path}/tables/alignment_{found.image}.parquet and .csv")
    remarks = {"jumps": found.jumps, "bad": found.bad, "breaks": found.breaks}
    return Outcome(
        lines,
        f"sparsem equalize {in_shell(path)}",
        {"sample": sample.path, "image": found.image, "shape": shape, **remarks},
    )


@command(EqualizeSettings, spread=True)
def equalize(path: SamplePath, *, settings: EqualizeSettings, on: Execution) -> Outcome:
    """Even out brightness: flicker from slice to slice, or contrast within slices. The image it is made from stays.

    Examples: sparsem equalize liver.zarr
    or sparsem equalize liver.zarr --method clahe --image raw --out clahe
    """
    sample = Sample.open(path)
    name = _equalize(sample, settings, on=on)
    following = f"sparsem annotate import {in_shell(path)} NAME MASKS"
    return Outcome(
        [f"Wrote {path}/images/{name}"], following, {"sample": sample.path, "image": name}
    )
