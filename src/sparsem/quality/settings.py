"""Settings of image quality, and of a study of protocols: groups of images from a TOML file."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sparsem.errors import SettingsError
from sparsem.preprocess.settings import DenoiseMethod
from sparsem.settings import Settings, SliceNumbers, parse, read_toml


class GroupStep(Settings):
    """A group of images that were made in the same way. Paths are relative to the file."""

    protocol: str = Field(description="preparation of the tissue")
    tissue: str = Field("", description="name of the tissue")
    microscope: str = Field("", description="name of the microscope")
    images: tuple[str, ...] = Field(
        min_length=1, description="files of images or stacks, or patterns such as bench/*.tif"
    )
    reference: tuple[str, ...] = Field(
        (), description="references, one for each file, or a pattern"
    )
    resin: tuple[str, ...] = Field(
        (), description="masks of resin, one for each file, or a pattern"
    )
    box: tuple[int, int, int, int] | None = Field(
        None, description="rows and columns of resin: top left bottom right"
    )
    slices: SliceNumbers = Field((), description="slices of stacks to measure; default: all")

    @property
    def name(self) -> str:
        """Name of the group in figures and tables."""
        return " · ".join(filter(None, (self.tissue, self.microscope, self.protocol)))

    @property
    def folder(self) -> str:
        """Name of the folder of its metrics, in the folder of the study."""
        return re.sub(r"[^\w.-]+", "_", self.name).strip("_.") or "group"


class CompareSettings(Settings):
    """A study of protocols."""

    group: tuple[GroupStep, ...] = Field(
        min_length=1, description="images that were made in the same way; one [[group]] for each"
    )
    title: str = Field("Image quality by protocol", description="title of the page")
    out: str = Field("comparison", description="folder for page, figures and tables")
    denoise: DenoiseMethod | None = Field(
        None,
        description="compare each image with its denoised version: nlm, or n2v as in the thesis",
    )
    by: Literal["image", "tile"] = Field(
        "image",
        description="unit of measurement; tiles of an image are not independent",
    )
    tile: int = Field(1024, ge=64, description="edge of the tiles, px")
    weights: str | None = Field(
        None,
        description="folder with the weights of BRISQUE and DISTS; default: the folder of torch",
    )


class ImagesSettings(Settings):
    """Settings of the quality of single images: references and resin."""

    reference: tuple[str, ...] = Field(
        (), description="image or stack to compare with, one for each image; repeat the option"
    )
    denoise: DenoiseMethod | None = Field(
        None,
        description="compare each image with its denoised version: nlm (non-local means) or n2v "
        "(Noise2Void)",
    )
    resin: tuple[str, ...] = Field(
        (), description="mask of resin, one for each image; repeat the option"
    )
    box: tuple[int, int, int, int] | None = Field(
        None, description="rows and columns of resin: top left bottom right"
    )
    polygon: tuple[float, ...] = Field((), description="corners of resin: y,x,y,x,...")
    slices: SliceNumbers = Field(
        (), description="slices of stacks to measure, such as 0,9 or 10-20; default: all"
    )
    tile: int = Field(1024, ge=64, description="edge of the tiles, px")
    weights: str | None = Field(
        None,
        description="folder with the weights of BRISQUE and DISTS; default: the folder of torch",
    )

    @field_validator("polygon")
    @classmethod
    def _has_three_corners(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) % 2 or 0 < len(value) < 6:
            raise ValueError(
                "expected at least three corners, each y and x, such as 10,10,10,200,180,90"
            )
        return value


class QualitySettings(Settings):
    """Settings of the quality of a stack."""

    image: str | None = Field(None, description="image to measure; default: the raw image")


def read_comparison(path: str | Path) -> CompareSettings:
    """Read and check a study of protocols.

    Raises:
        SettingsError: the file cannot be read, has an unknown key or a value out of range, or two
            groups have the same name.
    """
    path = Path(path)
    study = parse(CompareSettings, read_toml(path), path.name)
    folders = [group.folder.casefold() for group in study.group]
    for group, folder in zip(study.group, folders, strict=True):
        if folders.count(folder) > 1:
            raise SettingsError(
                f"{path.name}: two groups are '{group.name}'; combine their images in one group, "
                "or distinguish them by tissue or microscope."
            )
    if study.denoise and any(group.reference for group in study.group):
        raise SettingsError(
            f"{path.name}: images are compared with a reference, or with their denoised versions "
            "by denoise; give one of them."
        )
    return study
