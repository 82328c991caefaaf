"""The stage ``suggest``: which slices to label next.

They are evenly spaced at first (the papers' rule), and later those where models are uncertain. The
uncertainty of a slice is the entropy of its probabilities, or, for several models, how far they
contradict each other (see ``uncertainty.EnsemblePrediction``). A slice next to a labeled one adds
little to a training, so its uncertainty counts less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import (
    annotated_structures,
    annotation_of_output,
    outputs_of_cells,
)
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock
from sparsem.segment.settings import SuggestSettings
from sparsem.segment.slice_selection import select_uncertain_slices, spread_slices
from sparsem.segment.uncertainty import entropy
from sparsem.settings import changed, resolve_settings
from sparsem.store.names import UNCERTAINTY
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage

if TYPE_CHECKING:
    from sparsem.segment.settings import PredictSettings

LEVELS = np.arange(256) / 255.0  # probabilities or bits of the 256 values on disk
MAX_EXAMINED = 96  # slices that models predict if ``every`` is not given, about


@cache
def stored_entropies() -> NDArray[np.float32]:
    """Return the bits of entropy of each of the probabilities on disk, (256,)."""
    return entropy(LEVELS)


@dataclass(frozen=True)
class Suggestion(StageResult):
    """Slices to label next.

    Attributes:
        z: slice numbers, the most valuable first.
        criterion: how they were selected: ``evenly spaced``, ``entropy`` or ``disagreement``.
        uncertainty: (n slices,) of the stack in bits, NaN for slices that were not examined;
            empty if slices are evenly spaced.
    """

    z: tuple[int, ...]
    criterion: str
    uncertainty: NDArray[np.float64]


def suggest(
    sample: Sample,
    structure: str | None = None,
    settings: SuggestSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Suggestion:
    """Suggest the slices of a sample to label next.

    Without a model and without probabilities they are evenly spaced. With ``probabilities/NAME``
    they are the slices of highest entropy. With two or more models (``train --folds`` writes
    them), or with the ``probabilities/NAME-uncertainty`` that two or more models write when they
    predict together, they are the slices where the models contradict each other.

    Args:
        sample: the sample.
        structure: the structure to label; everything annotated or predicted together if None.
        settings: number of slices, models; the defaults if None.
        on: how the work is distributed.
        changes: single settings that replace those of ``settings``.

    Raises:
        InputError: fewer slices are left than requested, or a model does not know the structure.
        SampleError: the structure is neither annotated nor predicted.
    """
    settings = resolve_settings(SuggestSettings, settings, changes)
    annotated = annotated_structures(sample)
    _require_structure(sample, structure, annotated)
    labeled = _labeled_slices(annotated, structure)
    copies = sample.image("raw").repeated
    predicted = _predicted_outputs(sample, structure, annotated)
    if settings.model:
        uncertainty = _uncertainty_of_models(sample, structure, settings, on)
        criterion = "disagreement" if len(settings.model) > 1 else "entropy"
    elif predicted:
        uncertainty, criterion = _uncertainty_on_disk(sample, predicted, on)
    else:
        slices = spread_slices(sample.image().shape[0], labeled, settings.n, copies)
        return Suggestion(tuple(slices), "evenly spaced", np.zeros(0))
    uncertainty[list(copies)] = np.nan
    slices = select_uncertain_slices(uncertainty, labeled, settings.n)
    return Suggestion(tuple(slices), criterion, uncertainty, sample=sample)


def _require_structure(
    sample: Sample, structure: str | None, annotated: Mapping[str, Sequence[int]]
) -> None:
    """Refuse a structure that is neither annotated nor predicted.

    Raises:
        SampleError: the structure is named.
    """
    if structure is None or structure in annotated:
        return
    if not _outputs_of(structure, sample.names("probabilities")):
        raise SampleError(
            f"{sample.path.name} has no annotation and no probabilities of '{structure}'."
        )


def _labeled_slices(annotated: Mapping[str, Sequence[int]], structure: str | None) -> list[int]:
    """Return the slices on which the structure, or else any structure, is labeled; ascending."""
    annotation = annotation_of_output(structure) if structure else None
    labeled: set[int] = set()
    for name, numbers in annotated.items():
        if annotation is None or name == annotation:
            labeled.update(numbers)
    return sorted(labeled)


def _predicted_outputs(
    sample: Sample, structure: str | None, annotated: Mapping[str, Sequence[int]]
) -> list[str]:
    """Return the predicted outputs of the structure, or else of all annotated structures."""
    outputs = sample.names("probabilities")
    if structure:
        return _outputs_of(structure, outputs)
    return [name for name in outputs if annotation_of_output(name) in annotated]


def _outputs_of(structure: str, outputs: Sequence[str]) -> list[str]:
    """Return the outputs of a structure: its own, its boundary, or the interior of cells."""
    return [name for name in (structure, *outputs_of_cells(structure)) if name in outputs]


def _uncertainty_on_disk(
    sample: Sample, predicted: Sequence[str], on: Execution
) -> tuple[NDArray[np.float64], str]:
    """Return the uncertainty (n slices,) from volumes of the sample, and the criterion.

    The disagreement of several models counts if it is known for all outputs.
    """
    outputs = sample.names("probabilities")
    uncertainties = [f"{name}{UNCERTAINTY}" for name in predicted]
    if all(name in outputs for name in uncertainties):
        volumes = uncertainties
        criterion = "disagreement"
    else:
        volumes = list(predicted)
        criterion = "entropy"
    means = [_mean_bits(sample, name, on) for name in volumes]
    return np.sum(means, axis=0), criterion


def _mean_bits(sample: Sample, name: str, on: Execution) -> NDArray[np.float64]:
    """Return the mean (n slices,) of an uncertainty, or of the entropy of probabilities."""
    volume = sample.volume("probabilities", name)
    sample.transform_of(volume)  # refuses a volume of an image that was replaced since
    plane = volume.shape[1] * volume.shape[2]
    needs = Needs(ram=plane * volume.block_depth * 2, smaller="use fewer --workers")
    # The result of an earlier call may be that of other probabilities.
    on = replace(on, overwrite=True)
    bits = LEVELS if name.endswith(UNCERTAINTY) else stored_entropies()
    inputs = {"probabilities": volume.fingerprint}
    with Stage(sample, f"entropy-{name}", SuggestSettings(), inputs, [], on, needs) as stage:
        blocks = stage.map(_mean_bits_of_block, volume.blocks(), volume, bits)
    return np.array([value for block in blocks for value in block["bits"]])


def _mean_bits_of_block(block: ZBlock, volume: Volume, bits: NDArray[np.float64]) -> BlockResult:
    """Return the mean of each slice; ``bits`` are those of the 256 values on disk."""
    means = []
    for plane in volume.read(block.own):
        counts = np.bincount(plane.ravel(), minlength=256)
        means.append(float(counts @ bits / counts.sum()))
    return {}, {"bits": means}


def _uncertainty_of_models(
    sample: Sample, structure: str | None, settings: SuggestSettings, on: Execution
) -> NDArray[np.float64]:
    """Return the mean uncertainty (n slices,) of the models; NaN for slices not examined.

    It is the mutual information of several models and their prediction, or the entropy of one.
    """
    # Loading torch takes seconds, and only models need it.
    from sparsem.models.checkpoint import file_digest
    from sparsem.models.device import choose_device
    from sparsem.segment.ensemble import settings_for_device

    models = [Path(path).resolve() for path in settings.model]
    structures, max_outputs = _common_structures(models, structure)
    image = sample.image()
    every = settings.every or -(-image.shape[0] // MAX_EXAMINED)
    inputs = {"image": image.fingerprint, "structures": ", ".join(structures)}
    for number, path in enumerate(models):
        inputs[f"model {number}"] = file_digest(path)
    needs = _needs_of_models(image, max_outputs, len(structures))
    device = choose_device(settings.device).type
    recorded = changed(settings, {"n": 1, "device": device, "every": every})
    on = replace(on, overwrite=True)
    with Stage(sample, "disagreement", recorded, inputs, [], on, needs) as stage:
        blocks = stage.map(
            _uncertainty_of_block,
            image.blocks(),
            image,
            models,
            structures,
            every,
            settings_for_device(settings.device),
        )
    return _join_blocks(blocks, image.shape[0])


def _needs_of_models(image: Volume, max_outputs: int, n_structures: int) -> Needs:
    """Return the memory of a prediction, of the mean of all, and of entropies."""
    plane = image.shape[1] * image.shape[2]
    ram = plane * (8 * max_outputs + 16 * n_structures + 16)
    return Needs(ram=ram, smaller="use fewer --workers")


def _join_blocks(blocks: Sequence[Mapping[str, Any]], n_slices: int) -> NDArray[np.float64]:
    """Return the uncertainty (n slices,) of all blocks; NaN for slices not examined."""
    uncertainty = np.full(n_slices, np.nan)
    for block in blocks:
        for z, value in block["uncertainty"]:
            uncertainty[z] = value
    return uncertainty


def _common_structures(models: Sequence[Path], structure: str | None) -> tuple[list[str], int]:
    """Return the outputs that all models are asked for, and the maximum outputs of a model.

    Raises:
        InputError: a model does not know the structure, or, without one, the structures of the
            models differ.
    """
    from sparsem.models.checkpoint import read_recipe

    structures_of_models = [read_recipe(path).structures for path in models]
    first_structures = structures_of_models[0]
    if structure:
        names = _outputs_of(structure, first_structures)
        expected = f"'{structure}'"
    else:
        names = sorted(first_structures)
        expected = f"what {models[0].name} knows: {', '.join(names)}"
    for path, structures in zip(models, structures_of_models, strict=True):
        has_others = structure is None and len(structures) > len(names)
        if has_others or not _knows(structures, names):
            raise InputError(
                f"{path.name} does not know {expected}; it knows {', '.join(structures)}. "
                "Name one structure that all know."
            )
    return names, max(len(structures) for structures in structures_of_models)


def _knows(structures: Sequence[str], names: Sequence[str]) -> bool:
    """Return True if there are names, and all of them are among the structures of a model."""
    return bool(names) and set(names) <= set(structures)


def _uncertainty_of_block(
    block: ZBlock,
    image: Volume,
    models: Sequence[Path],
    structures: Sequence[str],
    every: int,
    settings: "PredictSettings",
) -> BlockResult:
    """Return slice number and mean uncertainty of every ``every``-th slice of a block."""
    from sparsem.segment.predict import predict_slice

    values = []
    for z in range(block.start, block.stop):
        if z % every != every // 2:
            continue
        _, prediction = predict_slice(image, z, models, settings, structures)
        uncertainty = prediction.uncertainty
        if uncertainty is None:
            uncertainty = entropy(prediction.mean)
        values.append([z, float(uncertainty.mean(dtype=np.float64))])
    return {}, {"uncertainty": values}
