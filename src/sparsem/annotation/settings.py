"""Settings of labels that a person made, and of ground truth."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sparsem.annotation.label_numbers import UNLABELED, LabelMeaning
from sparsem.geometry import Box
from sparsem.io.settings import MinIsWhite
from sparsem.settings import Settings, SliceChoice

BOX_EXAMPLE = "0:24,100:400,200:600 (z, y, x; the end is exclusive; an empty part is all)"


class _PartOfStack(Settings):
    """Settings with ``slices``, and with a ``box`` of a stack."""

    @field_validator("slices", mode="before", check_fields=False)
    @classmethod
    def _as_text(cls, value: object) -> object:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value

    @field_validator("box", check_fields=False)
    @classmethod
    def _is_a_box(cls, value: str | None) -> str | None:
        if value is not None:
            parse_box(value)
        return value


class GroundTruthSettings(_PartOfStack):
    """Labeled slices, and labeled parts of slices, in a file of ground truth."""

    dataset: str | None = Field(
        None,
        description="key of the ground truth inside a Zarr group, an HDF5 or a MATLAB file; "
        "number of the image in a TIFF with several",
    )
    slices: SliceChoice | None = Field(
        None,
        description="the slices that the ground truth labels: 3,10,17 or 10-20, or 'non-empty', "
        "or 'all' (slices without a label are background); not needed where file "
        "names carry the number, or every slice holds a label",
    )
    first_slice_number: int | None = Field(
        None,
        ge=0,
        description="number of the first slice in file names; if not given, that of the stack's "
        "own files, or 0",
    )
    box: str | None = Field(
        None,
        description=f"the part of the stack that the ground truth labels, as {BOX_EXAMPLE}; the "
        "file holds that part, or the whole stack",
    )
    ids: tuple[int, ...] = Field(
        (),
        description="numbers of the structure in the ground truth; every number except 0 if not "
        "given",
    )
    ignore: int | None = Field(
        None,
        description="number of unlabeled pixels in the ground truth, such as 255 or -1",
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' ground truth count: stored (as napari and "
        "scikit-image read them) or displayed (as in Fiji)",
    )


def parse_box(text: str) -> Box:
    """Return a box as slices (z, y, x).

    Raises:
        ValueError: it is not ``z0:z1,y0:y1,x0:x1``.
    """
    try:
        z, y, x = (_parse_range(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"a box is given as {BOX_EXAMPLE}") from None
    return z, y, x


def _parse_range(text: str) -> slice:
    start, stop = text.strip().split(":")
    return slice(
        int(start) if start.strip() else None,
        int(stop) if stop.strip() else None,
    )


class AnnotationSettings(_PartOfStack):
    """Meaning of the slices and numbers in a file of labels."""

    dataset: str | None = Field(
        None,
        description="key of the labels inside a Zarr group, an HDF5 or a MATLAB file; number of "
        "the image in a TIFF with several",
    )
    slices: SliceChoice | None = Field(
        None,
        description="labeled slices: 0,13,26 or 10-20, 'all', or 'non-empty' (those that hold a "
        "label); not needed where file names carry the number",
    )
    first_slice_number: int | None = Field(
        None,
        ge=0,
        description="number of the first slice in file names; if not given, that of the stack's "
        "own files, or 0",
    )
    classes: dict[str, tuple[int, ...]] = Field(
        {},
        description="numbers of a structure, as nucleus=1,2; repeat it for each; without it, every "
        "number except 0 is NAME",
    )
    ignore: int | None = Field(None, description="number of unlabeled pixels, such as 255 or -1")
    background: int | None = Field(
        None, description="number of background pixels, for labels whose 0 is ignored"
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' TIFF count: stored (as napari and "
        "scikit-image read them) or displayed (as in Fiji)",
    )
    origin: Literal["manual", "corrected-prediction"] | None = Field(
        None,
        description="how the labels came about; if not given, manual, unless they have their "
        "boundary in common with a prediction of the sample",
    )
    within: str | None = Field(
        None,
        description="file or folder of a mask: only pixels inside of it are labeled, the others "
        "are unlabeled",
    )
    box: str | None = Field(
        None,
        description=f"the labeled part of the stack, as {BOX_EXAMPLE}; the file holds that part, "
        "or whole slices",
    )
    image: str | None = Field(
        None,
        description="the image that the labels were drawn on; if not given, the newest one with "
        "slices of that size",
    )
    add: bool = Field(
        False,
        description="add these slices to the annotation of that name; with --overwrite, slices "
        "that differ are replaced",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _as_tuples(cls, value: object) -> object:
        if isinstance(value, list | tuple):  # as on the command line: nucleus=1,2
            value = _parse_classes(value)
        if not isinstance(value, Mapping):
            return value
        classes = {name: (ids,) if isinstance(ids, int) else ids for name, ids in value.items()}
        without_numbers = [name for name, ids in classes.items() if not ids]
        if without_numbers:
            raise ValueError(f"a class needs its numbers, such as {without_numbers[0]}=1,2")
        return classes

    @model_validator(mode="after")
    def _has_one_meaning_a_number(self) -> "AnnotationSettings":
        if self.background == 0:
            raise ValueError(
                "0 is background already; give --background another number, or leave it out"
            )
        for name, ids in self.classes.items():
            if min(ids) < 1:
                raise ValueError(
                    f"{name} has the number {min(ids)}, but the numbers of a class are 1 or more; "
                    "0 is background"
                )
            if self.background in ids:
                raise ValueError(f"{self.background} cannot be both background and {name}")
            if self.ignore in ids:
                raise ValueError(f"{self.ignore} cannot be both ignored and {name}")
        if self.background is not None and self.background == self.ignore:
            raise ValueError(f"{self.ignore} cannot be both ignored and background")
        return self

    @property
    def is_partial(self) -> bool:
        """True if only a part of the slices is labeled."""
        return self.within is not None or self.box is not None

    @property
    def meaning(self) -> LabelMeaning:
        """Meaning of the numbers in the file; pixels outside of the labeled part are ignored."""
        classes = {name: list(ids) for name, ids in self.classes.items()}
        ignore = self.ignore
        if ignore is None and self.is_partial:
            ignore = UNLABELED
        return LabelMeaning(classes, ignore, self.background)


def _parse_classes(arguments: Iterable[object]) -> dict[str, tuple[str, ...]]:
    """Return the numbers of each class from arguments such as nucleus=1,2."""
    classes: dict[str, tuple[str, ...]] = {}
    for argument in arguments:
        name, _, ids = str(argument).partition("=")
        numbers = tuple(part for part in ids.split(",") if part)
        classes[name] = classes.get(name, ()) + numbers
    return classes
