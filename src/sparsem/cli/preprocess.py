"""The commands that improve an image before structures are predicted."""

from typing import TYPE_CHECKING

import sparsem
from sparsem.cli.format import in_shell, size_in_words
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.cli.score_format import alignment_lines
from sparsem.preprocess.settings import AlignSettings, DenoiseSettings, EqualizeSettings
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.store.sample import Sample


@command(AlignSettings, spread=True)
def align_command(path: SamplePath, *, settings: AlignSettings, on: Execution) -> Outcome:
    """Register every slice to the slices before it. The raw image stays; annotations and ground
    truth move along.

    sparsem align liver.zarr
    """
    sample = sparsem.Sample.open(path)
    alignment = sparsem.align(sample, settings, on=on)
    shape = sample.image(alignment.image).shape
    lines = [
        f"Wrote {path}/images/{alignment.image}: {size_in_words(shape)} voxels",
        *alignment_lines(alignment),
        f"Wrote {path}/tables/alignment_{alignment.image}.parquet and .csv",
    ]
    data = {
        "sample": sample.path,
        "image": alignment.image,
        "shape": shape,
        "jumps": alignment.jumps,
        "bad": alignment.bad,
        "breaks": alignment.breaks,
    }
    return Outcome(lines, f"sparsem equalize {in_shell(path)}", data)


@command(EqualizeSettings, spread=True)
def equalize_command(path: SamplePath, *, settings: EqualizeSettings, on: Execution) -> Outcome:
    """Equalize brightness from slice to slice (flicker), or contrast within slices. The image it is
    made from stays.

    sparsem equalize liver.zarr
    sparsem equalize liver.zarr --method clahe --image raw --out clahe
    """
    sample = sparsem.Sample.open(path)
    image = sparsem.equalize(sample, settings, on=on).image
    following = f"sparsem annotate import {in_shell(path)} NAME MASKS"
    return _image_outcome(path, sample, image, following)


@command(DenoiseSettings, spread=True)
def denoise_command(path: SamplePath, *, settings: DenoiseSettings, on: Execution) -> Outcome:
    """Remove noise. The image it is made from stays; later stages read the denoised image, unless
    --image names another.

    sparsem denoise liver.zarr
    sparsem denoise liver.zarr --method nlm --image raw --out smooth
    """
    sample = sparsem.Sample.open(path)
    image = sparsem.denoise(sample, settings, on=on).image
    following = f"sparsem quality {in_shell(path)} --image {image}"
    return _image_outcome(path, sample, image, following)


def _image_outcome(path: SamplePath, sample: "Sample", image: str, following: str) -> Outcome:
    data = {"sample": sample.path, "image": image}
    return Outcome([f"Wrote {path}/images/{image}"], following, data)
