"""The stage ``predict``: a stack -> probabilities and labels, in bounded memory (paper 3.5), by one network or several together.

On disk probabilities are uint8 round(255 p), where foreground is >= 128.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.models.checkpoint import Recipe, load_checkpoint
from sparsem.models.device import Precision, choose_device, free_memory, resolve_precision
from sparsem.models.memory import prediction_bytes
from sparsem.progress import tell
from sparsem.segment.inference import (
    Forward,
    average_over_flips,
    make_forward,
    predict_slices,
    quantize_probability,
)
from sparsem.segment.tiles import scaled_shape
from sparsem.segment.uncertainty import UNCERTAINTY_SUFFIX, EnsemblePrediction, combine_predictions
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.slice_use import combined, matched_use
from sparsem.store.volume import FOREGROUND, Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, earlier_setting

GRAY_SLICES = 3  # whose gray levels are compared with those that were learnt
FURTHEST_MEAN, MOST_CONTRAST = (
    1.5,
    2.5,
)  # standard deviations off, and times the contrast, that are not told


class PredictSettings(Settings):
    """How a stack is predicted."""

    overlap: float = Field(
        0.25, ge=0, le=0.5, description="least overlap of neighboring tiles, as part of a tile"
    )
    flips: bool = Field(
        False,
        description="see every tile in four mirror images and take the mean: four times as long",
    )
    batch: int = Field(
        16, ge=1, description="tiles at once; changes the speed and the memory, not the result"
    )
    precision: Precision = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to predict; the newest one if not given")


def predict(
    sample: Sample,
    model: str | Path | Sequence[str | Path],
    settings: PredictSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> list[str]:
    """Write ``probabilities/NAME`` and ``labels/NAME`` for every structure that the model knows.

    The model sees the nm per pixel that it was trained at, whatever the voxel size of the sample. The answer of several models is their
    mean, and beside it ``probabilities/NAME-uncertainty`` says where they contradict each other: their mutual information with the answer,
    255 times its bits (``tiles.uncertainty``), which ``suggest`` goes by.

    Args:
        sample: its image is read block by block; never more than a block is in memory.
        model: a checkpoint, or several that know the same structures, as the folds of a training.
        settings: overlap, batch, precision, device, image.
        on: how the work is spread; blocks that are done are not done again.

    Returns:
        The paths of the volumes in the sample.

    Raises:
        InputError: a model file is missing or damaged, is named twice, or knows other structures than the first.
        ResumeError: there are results of another model or other settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(PredictSettings, settings, changes)
    models = [Path(one).resolve() for one in ([model] if isinstance(model, str | Path) else model)]
    recipes = _recipes_of(models)
    structures = recipes[0].structures
    image_name = settings.image or sample.newest_image
    image = sample.image(image_name)
    name = f"predict-{'-'.join(structures)}"
    earlier = earlier_setting(sample, name, "precision", on.overwrite)
    precision = resolve_precision(choose_device(settings.device), settings.precision, earlier)
    settings = changed(settings, {"image": image_name, "precision": precision})
    use = combined(
        matched_use(recipe.training.get("slices"), sample.image("raw")) for recipe in recipes
    )
    outputs = [
        replace(one, slice_use=use.record() if use else None)
        for one in _outputs(structures, len(models), image, image_name)
    ]
    hashes = [file_hash(one) for one in models]
    inputs = {
        "image": image.fingerprint,
        "model": hashes[0],
        **{f"model {n}": one for n, one in enumerate(hashes[1:], 2)},
    }
    halo = max(recipe.adjacent_slices for recipe in recipes)
    made = {path: entry["stage"] for entry in sample.history() for path in entry["outputs"]}
    before = {path for path, stage in made.items() if stage == name} - {
        output.path for output in outputs
    }
    with Stage(
        sample,
        name,
        _lasting(settings),
        inputs,
        outputs,
        on,
        partial(_needs, image, recipes, settings),
        sorted(before),
    ) as stage:
        if not stage.finished:
            for file, recipe in zip(models, recipes, strict=True):
                _tell_other_gray(image, recipe, file.name, on.quiet)
        stage.map(_predict_block, image.blocks(halo=halo), image, models, settings)
    return [output.path for output in outputs]


def settings_for_device(device: str) -> PredictSettings:
    """Return the default settings on a device, with the precision that is fast on this machine: workers then compute alike."""
    return PredictSettings(
        device=device, precision=resolve_precision(choose_device(device), "auto")
    )


def _recipes_of(models: Sequence[Path]) -> list[Recipe]:
    """Of models that can answer together."""
    if not models or len(set(models)) < len(models):
        raise InputError(
            "Expected one model, or several that are not the same; a model was named twice."
            if models
            else "No model was named."
        )
    recipes = [load_checkpoint(one)[1] for one in models]
    for file, recipe in zip(models, recipes, strict=True):
        if set(recipe.structures) != set(recipes[0].structures):
            raise InputError(
                f"{file.name} knows {', '.join(recipe.structures)}, but {models[0].name} knows {', '.join(recipes[0].structures)}; "
                "models that answer together know the same structures. Predict with each of them by itself."
            )
    return recipes


def _tell_other_gray(image: Volume, recipe: Recipe, model: str, quiet: bool) -> None:
    """A network finds little in slices much darker, brighter or flatter than those that it learnt from."""
    y, x = (1.01 * nm for nm in recipe.pixel_nm)
    sizes = {level: image.voxel_size_of(level) for level in range(image.levels)}
    seen = max((level for level, size in sizes.items() if size.y <= y and size.x <= x), default=0)
    count = image.level(seen).shape[0]
    inner = {
        round((part + 1) * (count - 1) / (GRAY_SLICES + 1)) for part in range(GRAY_SLICES)
    }  # the ends of a stack are its worst
    planes = [image.read(slice(z, z + 1), seen)[0, ::2, ::2] for z in sorted(inner)]
    gray = np.stack(planes).astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    mean, std = float(gray.mean()), float(gray.std())
    if (
        abs(mean - recipe.mean) > FURTHEST_MEAN * recipe.std
        or not 1 / MOST_CONTRAST < std / recipe.std < MOST_CONTRAST
    ):
        tell(
            f"Note: the image has gray levels of {mean:.2f} ± {std:.2f} of their range, but {model} learnt on {recipe.mean:.2f} ± "
            f"{recipe.std:.2f} and may find little; import with --intensity-range or use 'sparsem equalize', for both stacks alike.",
            quiet,
        )


def _lasting(settings: PredictSettings) -> Settings:
    """The settings that change a result, as they turn out here; another batch size may continue an interrupted run."""
    return changed(settings, {"batch": 1, "device": choose_device(settings.device).type})


def _outputs(
    structures: Sequence[str], models: int, image: Volume, image_name: str
) -> list[VolumeSpec]:
    made_on = (image_name, image.fingerprint)
    out = []
    for name in structures:
        out.append(image.like(f"probabilities/{name}", np.uint8, Kind.PROBABILITY, made_on))
        out.append(image.like(f"labels/{name}", np.uint8, Kind.LABELS, made_on))
        if models > 1:
            out.append(
                image.like(
                    f"probabilities/{name}{UNCERTAINTY_SUFFIX}", np.uint8, Kind.PROBABILITY, made_on
                )
            )
    return out


def _needs(image: Volume, recipes: Sequence[Recipe], settings: PredictSettings) -> Needs:
    _, y, x = image.shape
    sizes = [scaled_shape((y, x), recipe.factors(image.voxel_size)) for recipe in recipes]
    structures = len(recipes[0].structures)
    several = len(recipes) > 1
    # The image, all outputs, and their chunks.
    depth = image.block_depth + 2 * max(recipe.adjacent_slices for recipe in recipes)
    block = depth * y * x * (image.dtype.itemsize + (6 if several else 4) * structures)
    planes = (
        2 + (6 if several else 2) * structures
    )  # of several models also their mean, uncertainty, and entropies
    working = y * x * 4 * planes + max(small_y * small_x for small_y, small_x in sizes) * 8 * (
        1 + structures
    )
    device = choose_device(settings.device)
    network = sum(
        prediction_bytes(recipe, settings.batch, device, settings.precision) for recipe in recipes
    )
    disk = (
        sum(spec.nbytes for spec in _outputs(recipes[0].structures, len(recipes), image, "")) // 4
    )
    if device.type == "cuda":
        smaller = "use a smaller --batch, fewer --workers, or import with a smaller --block-depth"
        return Needs(block + working, disk, smaller, gpu=network, gpu_free=free_memory(device))
    return Needs(
        block + working + network,
        disk,
        "import with a smaller --block-depth, or use fewer --workers",
    )


def _predict_block(
    block: ZBlock, image: Volume, models: Sequence[Path], settings: PredictSettings
) -> BlockResult:
    voxels = image.read(block.read)
    structures, answers = _answers(voxels, image, models, (), settings, block.inner)
    several, shape = len(models) > 1, (len(structures), block.stop - block.start, *voxels.shape[1:])
    probabilities, doubts = (
        np.empty(shape, np.uint8) for _ in range(2)
    )  # pages that nobody writes cost nothing
    for z, answer in enumerate(answers):
        probabilities[:, z] = quantize_probability(answer.mean)
        if answer.uncertainty is not None:
            doubts[:, z] = quantize_probability(answer.uncertainty)
    arrays: dict[str, NDArray[Any]] = {}
    for name, probability, uncertainty in zip(structures, probabilities, doubts, strict=True):
        arrays[f"probabilities/{name}"] = probability
        arrays[f"labels/{name}"] = (probability >= FOREGROUND).view(np.uint8)
        arrays |= {f"probabilities/{name}{UNCERTAINTY_SUFFIX}": uncertainty} if several else {}
    return arrays, {}


def predict_slice(
    image: Volume,
    z: int,
    models: Sequence[Path],
    settings: PredictSettings,
    structures: Sequence[str] = (),
) -> tuple[tuple[str, ...], EnsemblePrediction]:
    """What models say of one slice together; nothing is written.

    Args:
        image: that they see.
        z: the slice.
        models: checkpoints that all know the structures.
        settings: how they see it.
        structures: which are asked for; all that the first model knows if none is given.

    Returns:
        The structures, and the answer (C, y, x).
    """
    halo = max(recipe.adjacent_slices for _, recipe in _ready(models, settings))
    first, stop = max(0, z - halo), min(image.shape[0], z + halo + 1)
    names, answers = _answers(
        image.read(slice(first, stop)),
        image,
        models,
        structures,
        settings,
        slice(z - first, z - first + 1),
    )
    return names, next(answers)


def _answers(
    voxels: NDArray[Any],
    image: Volume,
    models: Sequence[Path],
    structures: Sequence[str],
    settings: PredictSettings,
    own: slice,
) -> tuple[tuple[str, ...], Iterator[EnsemblePrediction]]:
    """Of the slices ``own`` of ``voxels`` (z, y, x), one after the other."""
    names: tuple[str, ...] = tuple(structures)
    prefetch = 0 if choose_device(settings.device).type == "cpu" else 2
    ways = []
    for forward, recipe in _ready(models, settings):
        names = names or recipe.structures
        channels = (
            slice(None)
            if names == recipe.structures
            else [recipe.structures.index(name) for name in names]
        )
        factors = recipe.factors(image.voxel_size)
        ways.append(
            (
                channels,
                predict_slices(
                    voxels,
                    forward,
                    recipe,
                    factors,
                    settings.overlap,
                    settings.batch,
                    prefetch,
                    own,
                ),
            )
        )

    def answers() -> Iterator[EnsemblePrediction]:
        for _ in range(*own.indices(len(voxels))):
            yield combine_predictions(next(found)[channels] for channels, found in ways)

    return names, answers()


def _ready(models: Sequence[Path], settings: PredictSettings) -> list[tuple[Forward, Recipe]]:
    """The networks as the settings want them."""
    found = _loaded(
        tuple((model, model.stat().st_mtime_ns) for model in models),
        settings.device,
        settings.precision,
    )
    return [
        (average_over_flips(forward) if settings.flips else forward, recipe)
        for forward, recipe in found
    ]


@lru_cache(maxsize=1)
def _loaded(
    models: tuple[tuple[Path, int], ...], device: str, precision: Precision
) -> list[tuple[Forward, Recipe]]:
    """The networks of this process; blocks that follow find them loaded."""
    loaded = [load_checkpoint(model) for model, _ in models]
    return [
        (make_forward(network, choose_device(device), precision), recipe)
        for network, recipe in loaded
    ]


def file_hash(file: Path) -> str:
    """Of what a model file holds."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
