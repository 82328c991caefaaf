"""Pictures from files: their quality, one row a picture and one row a tile. A stack counts as many pictures.

What was measured of a picture is kept in the folder of the results, so that a run that was stopped goes on where it was.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sparsem import __version__
from sparsem.annotation.label_numbers import integer_labels
from sparsem.errors import InputError
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.io.gray_levels import GrayMapping, gray_mapping, refuse_non_finite
from sparsem.io.readers.open import open_source
from sparsem.io.readers.source import Source
from sparsem.preprocess.denoise import DenoiseMethod, DenoiseSettings, denoise
from sparsem.progress import Meter, tell
from sparsem.quality.image_metrics import Picture, Tile, Weights, measured, tables
from sparsem.quality.learned_metrics import loaded
from sparsem.quality.resin import Box, Resin, area_of_boxes, area_of_polygon, overlay, proposal
from sparsem.settings import Settings, SliceNumbers, resolve_settings
from sparsem.store.sample import Sample, save_table
from sparsem.store.volume import Kind, volume_spec, write_atomically
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

GATHERED = 4  # slices a block of pictures that are denoised together


class ImagesSettings(Settings):
    """What pictures are compared with, and where resin is in them."""

    reference: tuple[str, ...] = Field(
        (), description="picture or stack to compare with, one for each; repeat it"
    )
    denoise: DenoiseMethod | None = Field(
        None, description="compare each with itself denoised: non-local means, or Noise2Void"
    )
    resin: tuple[str, ...] = Field((), description="mask of resin, one for each; repeat it")
    box: tuple[int, int, int, int] | None = Field(
        None, description="rows and columns of resin: top left bottom right"
    )
    polygon: tuple[float, ...] = Field((), description="corners of resin: y,x,y,x,...")
    slices: SliceNumbers = Field(
        (), description="slices of stacks to measure, such as 0,9 or 10-20; all if not given"
    )
    tile: int = Field(1024, ge=64, description="edge of the tiles, px")
    weights: str | None = Field(
        None, description="folder with the files of BRISQUE and DISTS; torch's own if not given"
    )

    @field_validator("polygon")
    @classmethod
    def _in_pairs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) % 2 or 0 < len(value) < 6:
            raise ValueError(
                "expected at least three corners, each y and x, such as 10,10,10,200,180,90"
            )
        return value


@dataclass(frozen=True)
class Planes:
    """Pictures of one source, and what belongs to them.

    Attributes:
        name: of its file, or folder.
        file: where it lies.
        numbers: of the pictures in the source.
        source: where they are read.
        reference: what they are compared with, or None.
        mask: of resin, or None; by the numbers of the source.
        single: the source holds one picture.
        gathered: source and reference hold these pictures alone, one after the other.
    """

    name: str
    file: str
    numbers: tuple[int, ...]
    source: Source
    reference: Source | None
    mask: Source | None
    single: bool
    gathered: bool = False

    def title(self, z: int) -> str:
        """Of one picture."""
        return self.name if self.single else f"{self.name}_z{z:04d}"

    def place(self, z: int) -> int:
        """Where a picture lies in source and reference."""
        return self.numbers.index(z) if self.gathered else z


def pictures(
    sources: Sequence[str | Path],
    folder: str | Path,
    settings: ImagesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> list[Picture]:
    """Measure pictures, one after the other: never more than one, its reference and its mask are in memory.

    Args:
        sources: files of pictures or stacks, folders, or patterns.
        folder: where what was measured is kept, with a picture of every resin, and denoised pictures if they are made.
        settings: references, resin, tiles, weights.
        on: ``quiet`` shows no progress; how denoising is spread.

    Raises:
        InputError: what cannot be opened, is no gray picture, is constant or too small, holds NaN, or does not fit its reference or mask.
    """
    settings = resolve_settings(ImagesSettings, settings, changes)
    planes = planes_of(sources, settings)
    return measure_planes(planes, Path(folder), settings, weights_of(settings.weights, on), on)


def weights_of(folder: str | None, on: Execution) -> Weights:
    """Where the numbers of learnt metrics lie; those that are not at hand are told."""
    known = loaded(Path(folder) if folder else None)
    for sentence in known.missing:
        tell(sentence, on.quiet)
    return known.files


def planes_of(sources: Sequence[str | Path], settings: ImagesSettings) -> list[Planes]:
    """All that is to be measured; what does not open or fit is found before anything is measured.

    Raises:
        InputError: as ``pictures``, as far as headers tell.
    """
    if sum(map(bool, (settings.resin, settings.box, settings.polygon))) > 1:
        raise InputError(
            "Resin is marked by masks, --resin, by a --box, or by a --polygon; give one of them."
        )
    if settings.denoise and settings.reference:
        raise InputError(
            "Pictures are compared with others, --reference, or with themselves, --denoise; give one of them."
        )
    opened = [open_source(source, any_order=True) for source in sources]
    files = [one.files[0] if len(one.files) == 1 else one.files[0].parent for one in opened]
    names: list[str] = []
    for one, file in zip(opened, files, strict=True):
        name = file.stem if len(one.files) == 1 else file.name
        others = (name, *(f"{name}-{place}" for place in range(2, len(opened) + 2)))
        taken = [
            other.casefold() for other in names
        ]  # of which a file is named: some systems take a and A for the same
        names.append(next(other for other in others if other.casefold() not in taken))
        if settings.box:
            area_of_boxes([Box(*settings.box)], (one.stack.shape[1], one.stack.shape[2]))
    numbers = [_numbers(one, settings.slices) for one in opened]
    single = [one.stack.shape[0] == 1 for one in opened]
    beside = [
        _one_each(given, opened, what)
        for given, what in ((settings.reference, "reference"), (settings.resin, "resin"))
    ]
    return [
        Planes(*each)
        for each in zip(names, map(str, files), numbers, opened, *beside, single, strict=True)
    ]


def measure_planes(
    planes: Sequence[Planes],
    folder: Path,
    settings: ImagesSettings,
    weights: Weights,
    on: Execution,
) -> list[Picture]:
    """What ``pictures`` does once everything is open."""
    made_from = [_made_from(one, settings, weights) for one in planes]
    if settings.denoise:
        planes = [
            _denoised_of(one, place, len(planes), folder, settings.denoise, on)
            for place, one in enumerate(planes)
        ]
    found = []
    with Meter("quality", sum(len(one.numbers) for one in planes), quiet=on.quiet) as meter:
        for one, before in zip(planes, made_from, strict=True):
            gray = gray_mapping(one.source)
            if not gray.unchanged:
                told = f"{one.name} holds {one.source.stack.dtype}: {gray}. Its strengths are parts of that range; compare within it only."
                tell(told, on.quiet)
            for z in one.numbers:
                found.append(
                    _once(
                        one, z, gray, folder, fingerprint_of({"z": z, **before}), settings, weights
                    )
                )
                meter.step()
    return found


def _numbers(source: Source, slices: tuple[int, ...]) -> tuple[int, ...]:
    there = source.stack.shape[0]
    if there == 1 or not slices:
        return tuple(range(there))
    if beyond := [z for z in slices if not 0 <= z < there]:
        raise InputError(
            f"{source.title} has slices 0 to {there - 1}; --slices asks for {beyond[0]}."
        )
    return tuple(sorted(set(slices)))


def _one_each(given: Sequence[str], opened: Sequence[Source], what: str) -> list[Source | None]:
    """What belongs to every source, if anything was given."""
    if not given:
        return [None] * len(opened)
    if len(given) != len(opened):
        raise InputError(
            f"{len(opened)} pictures and {len(given)} of --{what} were given; expected one for each, in the same order."
        )
    found = [open_source(one, labels=what == "resin", any_order=True) for one in given]
    for one, own in zip(found, opened, strict=True):
        if one.stack.shape != own.stack.shape:
            shapes = [" x ".join(map(str, each.stack.shape)) for each in (own, one)]
            raise InputError(
                f"{own.title} has {shapes[0]} (z y x) px, its {what} {one.title} {shapes[1]}; expected the same."
            )
    return list(found)


def _identity(one: Source) -> list[str]:
    """Of a source: two files may have the same name, size and time of change."""
    return [one.identity(), *(str(file.resolve()) for file in one.files)]


def _made_from(own: Planes, settings: ImagesSettings, weights: Weights) -> dict[str, Any]:
    """What the numbers of a source's pictures depend on."""
    files = {
        name: _identity(one)
        for name, one in (("own", own.source), ("reference", own.reference), ("resin", own.mask))
        if one
    }
    how = settings.model_dump(mode="json", exclude={"reference", "resin", "slices", "weights"})
    stamps = {
        metric: [[one.stat().st_size, one.stat().st_mtime_ns] for one in found]
        for metric, found in weights.items()
    }
    numbers = (
        list(own.numbers) if settings.denoise == "n2v" else []
    )  # what is denoised together is learnt together
    return {"files": files, "weights": stamps, "version": __version__, "together": numbers, **how}


def _once(
    own: Planes,
    z: int,
    gray: GrayMapping,
    folder: Path,
    made_from: str,
    settings: ImagesSettings,
    weights: Weights,
) -> Picture:
    """Measure a picture, unless that was done."""
    file, shown = (
        folder / "measured" / f"{own.title(z)}.json",
        folder / "resin" / f"{own.title(z)}.png",
    )
    if file.exists() and shown.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["made from"] == made_from:
            return _restored(before["picture"])
    try:
        picture = _gray(own.source, own.place(z), gray)
        reference = _gray(own.reference, own.place(z), gray) if own.reference else None
        resin = _resin(picture, own.mask, z, settings)
        values, tiles = measured(picture, reference, resin, weights, settings.tile)
    except InputError as error:
        raise InputError(f"{own.title(z)}: {error}") from None
    found = Picture(
        own.title(z),
        own.file,
        (picture.shape[0], picture.shape[1]),
        values,
        tuple(tiles),
        not resin.is_proposal,
    )
    for place, content in (
        (shown, bytes(cv2.imencode(".png", overlay(picture, resin)[..., ::-1])[1])),
        (file, json.dumps({"made from": made_from, "picture": asdict(found)}).encode()),
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content)
    return found


def _restored(kept: dict[str, Any]) -> Picture:
    tiles = tuple(
        Tile(one["top"], one["left"], tuple(one["edge"]), one["values"]) for one in kept["tiles"]
    )
    return Picture(
        kept["name"],
        kept["source"],
        tuple(kept["shape"]),
        kept["values"],
        tiles,
        kept["resin_marked"],
    )


def _gray(source: Source, place: int, gray: GrayMapping) -> NDArray[Any]:
    """One picture; a reference of other numbers than whole ones becomes gray as the picture itself did."""
    voxels = np.asarray(source.stack[place : place + 1])
    refuse_non_finite(voxels, source.title, place)
    return np.asarray(voxels[0] if gray.unchanged else gray.apply(voxels)[0])


def _denoised_of(
    own: Planes, place: int, of: int, folder: Path, way: DenoiseMethod, on: Execution
) -> Planes:
    tell(f"denoising {own.name}, {place + 1} of {of}", on.quiet)
    quietly = on if way == "n2v" else replace(on, quiet=True)  # which takes minutes
    return _beside_denoised(own, folder / "denoised" / f"{own.name}.zarr", way, quietly)


def _beside_denoised(own: Planes, path: Path, way: DenoiseMethod, on: Execution) -> Planes:
    """Pictures beside themselves without noise: those of a source together, by the stage that samples are denoised by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    on = replace(on, overwrite=True)  # nobody keeps anything of his own here
    sample, gray = Sample.create(path), gray_mapping(own.source)
    _, y, x = own.source.stack.shape
    depth, dtype = min(GATHERED, len(own.numbers)), np.uint8 if gray.top == 255 else np.uint16
    # No length counts here, and a picture seldom states how thick it is.
    raw = volume_spec("", (len(own.numbers), y, x), dtype, Kind.IMAGE, VoxelSize(1, 1, 1), depth)
    inputs = {
        "source": fingerprint_of({"files": _identity(own.source)}),
        "slices": " ".join(map(str, own.numbers)),
        "gray levels": str(gray),
    }
    needs = Needs(3 * depth * y * x * own.source.stack.dtype.itemsize, raw.nbytes)
    with Stage(sample, "pictures", Settings(), inputs, [raw], on, needs) as stage:
        stage.map(_gather, z_blocks(len(own.numbers), depth), own, gray)
    name = denoise(sample, DenoiseSettings(method=way, image="raw"), on=on)
    return replace(
        own, source=open_source(path), reference=open_source(path / "images" / name), gathered=True
    )


def _gather(block: ZBlock, own: Planes, gray: GrayMapping) -> BlockResult:
    return {"": np.stack([_gray(own.source, z, gray) for z in own.numbers[block.own]])}, {}


def _resin(picture: NDArray[Any], mask: Source | None, z: int, settings: ImagesSettings) -> Resin:
    """Where resin is marked, or else the most featureless squares."""
    shape = (picture.shape[0], picture.shape[1])
    if mask is not None:
        return Resin(
            (integer_labels(np.asarray(mask.stack[z : z + 1])[0], f"the mask {mask.title}") > 0,),
            False,
        )
    if settings.box:
        return Resin((area_of_boxes([Box(*settings.box)], shape),), False)
    if settings.polygon:
        return Resin(
            (
                area_of_polygon(
                    list(zip(settings.polygon[::2], settings.polygon[1::2], strict=True)), shape
                ),
            ),
            False,
        )
    return proposal(picture)


def write_tables(found: Sequence[Picture], folder: str | Path) -> tuple[Path, Path]:
    """``pictures.csv`` and ``tiles.csv`` (see ``tables``)."""
    whole, parts = tables(found)
    return save_table(whole, Path(folder) / "pictures.csv"), save_table(
        parts, Path(folder) / "tiles.csv"
    )
