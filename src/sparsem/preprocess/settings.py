"""Settings of the stages ``align``, ``equalize`` and ``denoise``."""

from typing import Literal

from pydantic import Field

from sparsem.settings import Interpolation, Precision, Settings

MotionKind = Literal["translation", "rigid", "affine"]
DenoiseMethod = Literal["n2v", "nlm"]
EqualizeMethod = Literal["flicker", "histogram", "clahe", "reference", "standard"]
# Larger slices are shrunk first: a fiftieth of a pixel of the smaller slice is less than a tenth of
# a pixel of the larger one.
WORKING_MPX = 2.0


class RegisterSettings(Settings):
    """Settings of the registration of pairs of slices."""

    motion: MotionKind = Field(
        "translation",
        description="motions of a slice: translation, rigid (also rotation), "
        "affine (also shear and scale)",
    )
    reference_slices: int = Field(
        2,
        ge=1,
        le=16,
        description="number of preceding slices to which each slice is registered; registrations "
        "that contradict the others are ignored",
    )
    working_mpx: float = Field(
        WORKING_MPX,
        gt=0.01,
        description="slices of more megapixels are shrunk to this size for registration",
    )
    image: str | None = Field(
        None, description="image to align; default: the newest image that was not aligned"
    )


class AlignSettings(RegisterSettings):
    """Settings of the alignment of a stack."""

    max_shift_nm: float | None = Field(
        None,
        gt=0,
        description="registrations with a larger shift are rejected; no limit by default",
    )
    min_similarity: float = Field(
        0.4,
        ge=0,
        le=1,
        description="slices whose similarity to their neighbors is below this fraction of the "
        "median are bad",
    )
    report_jump_nm: float | None = Field(
        None,
        gt=0,
        description="report larger steps between slices as jumps; default: ten median steps, at "
        "least 10 px",
    )
    canvas: Literal["common", "whole"] = Field(
        "common",
        description="common: crop to the area that all slices show; whole: keep every slice as a "
        "whole, with black around it",
    )
    interpolation: Interpolation = Field(
        "cubic",
        description="cubic, linear, or nearest: shift by whole pixels, gray levels stay unchanged",
    )
    out: str = Field("aligned", description="name of the aligned image")


class DenoiseSettings(Settings):
    """Settings of denoising."""

    method: DenoiseMethod = Field(
        "n2v",
        description="n2v: Noise2Void, a network that is trained on the sample itself; "
        "nlm: non-local means, without training",
    )
    updates: int = Field(1000, ge=1, description="n2v: number of weight updates")
    batch: int = Field(16, ge=1, description="n2v: patches for each update")
    learning_rate: float = Field(1e-3, gt=0, description="n2v: highest learning rate, of Adam")
    seed: int = Field(
        0, ge=0, lt=2**31, description="n2v: seed of weights, patches and masked pixels"
    )
    strength: float = Field(
        0.7,
        gt=0,
        description="nlm: how much patches may differ that are averaged, in standard deviations of "
        "the noise",
    )
    precision: Precision = Field(
        "auto", description="n2v: auto: bfloat16 where the processor computes it fast"
    )
    device: str = Field("auto", description="n2v: auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to denoise; default: the newest image")
    out: str = Field("denoised", description="name of the denoised image")


class EqualizeSettings(Settings):
    """Settings of the equalization of gray levels."""

    method: EqualizeMethod = Field(
        "flicker",
        description="flicker: match each slice to the running median of the slices around it; "
        "histogram: make all gray levels of a slice equally frequent (the paper); clahe: the same "
        "locally; reference: match every slice to one slice; standard: bring the whole stack to a "
        "fixed mean and standard deviation",
    )
    window: int = Field(
        25,
        ge=3,
        description="flicker: number of slices of the running median; an even number counts as the "
        "next odd one",
    )
    reference: int | None = Field(
        None,
        ge=0,
        description="reference: number of the slice to match; default: the middle slice",
    )
    clip_limit: float = Field(
        2.0,
        gt=0,
        description="clahe: maximum frequency of a gray level, as a multiple of the mean frequency",
    )
    tile_nm: float = Field(
        2_000, gt=0, description="clahe: edge of the squares that are equalized separately"
    )
    image: str | None = Field(None, description="image to equalize; default: the newest image")
    out: str = Field("equalized", description="name of the equalized image")
