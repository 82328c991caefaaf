"""Which slices to label next: evenly spaced at first (the papers' rule), then where a model is unsure.

How unsure a slice is: the entropy of its probabilities, or, of several models, how far they contradict each other (``tiles.uncertainty``). A
slice beside a labeled one teaches little, so uncertainty counts less there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.annotation.labeled_slices import (
    annotated_structures,
    annotation_of_output,
    outputs_of_cells,
)
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock, evenly_spaced
from sparsem.segment.uncertainty import UNCERTAINTY_SUFFIX, entropy
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

if TYPE_CHECKING:
    from sparsem.segment.predict import PredictSettings

LEVELS = np.arange(256) / 255.0  # what numbers on disk stand for
LOOKED_AT = 96  # slices that several models are asked about, at most


class SuggestSettings(Settings):
    """How many slices, and by what."""

    n: int = Field(7, ge=1, description="how many slices to label next")
    model: tuple[str, ...] = Field(
        (),
        description="a model; repeat it: where models contradict each other, a slice is worth labeling",
    )
    every: int | None = Field(
        None, ge=1, description="models look at every so many slices; about 96 in all if not given"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


class Suggestion(NamedTuple):
    """Slices to label, the most urgent first.

    Attributes:
        z: slice numbers.
        criterion: what decided: ``evenly spaced``, ``entropy`` or ``disagreement``.
        uncertainty: (n slices,) of every slice of the stack, NaN where nobody looked; empty where slices are evenly spaced.
    """

    z: tuple[int, ...]
    criterion: str
    uncertainty: NDArray[np.float64]


ENTROPY = entropy(LEVELS)  # of probabilities as they lie on disk


def select_slices(uncertainty: NDArray[np.float64], labeled: Sequence[int], n: int) -> list[int]:
    """The ``n`` slices most worth labeling, one after the other.

    A slice is worth its uncertainty, less what labeled slices near it, and those chosen before it, already tell: 1 - exp(-(d / l)^2) of it is
    left at a distance of d slices, where l is half the distance that all labeled slices would have if they lay evenly.

    Args:
        uncertainty: (slices,), NaN where it is not known.
        labeled: slices that are labeled.
        n: how many.

    Raises:
        InputError: fewer slices are left than asked for.
    """
    known = np.nonzero(~np.isnan(uncertainty))[0]
    left = [int(z) for z in known if z not in set(labeled)]
    if len(left) < n:
        raise InputError(
            f"Cannot suggest {n} slices: {len(left)} that are not labeled were looked at."
        )
    reach = max(1.0, len(uncertainty) / (len(labeled) + n) / 2)
    taken, found = list(labeled), []
    for _ in range(n):
        near = np.array(
            [min((abs(z - other) for other in taken), default=len(uncertainty)) for z in left],
            float,
        )
        worth = uncertainty[left] * (1 - np.exp(-((near / reach) ** 2)))
        best = left.pop(int(worth.argmax()))
        found.append(best)
        taken.append(best)
    return found


def spread_slices(
    n_slices: int, labeled: Sequence[int], n: int, copies: Sequence[int] = ()
) -> list[int]:
    """``n`` slices that lie evenly, or, where some are labeled, one after the other in the middle of the widest gap.

    Args:
        n_slices: of the stack.
        labeled: slices that are labeled.
        n: how many.
        copies: slices that stand in for lost ones, and are not worth labeling.

    Raises:
        InputError: fewer slices are left than asked for.
    """
    own = [z for z in range(n_slices) if z not in set(copies)]
    if not labeled:
        return [own[place] for place in evenly_spaced(len(own), n)]
    taken, found = set(labeled), []
    left = len(set(own) - taken)
    if n > left:
        raise InputError(f"Cannot suggest {n} slices: {left} are not labeled.")
    for _ in range(n):
        best = max(
            (z for z in own if z not in taken), key=lambda z: min(abs(z - other) for other in taken)
        )
        found.append(best)
        taken.add(best)
    return found


def suggest(
    sample: Sample,
    structure: str | None = None,
    settings: SuggestSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Suggestion:
    """Name the slices of a sample to label next.

    Without a model and without probabilities they lie evenly; with ``probabilities/NAME`` they are those of highest entropy; with two
    models or more (``train --folds`` leaves them), or ``probabilities/NAME-uncertainty``, which two or more that predict together leave, those
    where the models contradict each other.

    Args:
        sample: the sample.
        structure: what is labeled; all that is annotated, or predicted, together if not given.
        settings: how many, and by which models.
        on: how the work is spread.

    Raises:
        InputError: fewer slices are left than asked for, or a model does not know the structure.
        SampleError: nothing of that name is annotated or predicted.
    """
    settings = resolve_settings(SuggestSettings, settings, changes)
    there = annotated_structures(sample)
    if (
        structure is not None
        and structure not in there
        and not _outputs_of(structure, sample.names("probabilities"))
    ):
        raise SampleError(
            f"{sample.path.name} has no annotation and no probabilities of '{structure}'."
        )
    wanted = structure and annotation_of_output(structure)
    labeled = sorted(
        {z for name, numbers in there.items() if wanted in (None, name) for z in numbers}
    )
    n_slices, copies = sample.image().shape[0], sample.image("raw").repeated
    outputs = sample.names("probabilities")
    predicted = (
        _outputs_of(structure, outputs)
        if structure
        else [name for name in outputs if annotation_of_output(name) in there]
    )
    if settings.model:
        uncertainty = _disagreement(sample, structure, settings, on)
        by = "disagreement" if len(settings.model) > 1 else "entropy"
    elif predicted:
        together = [
            f"{name}{UNCERTAINTY_SUFFIX}"
            for name in predicted
            if f"{name}{UNCERTAINTY_SUFFIX}" in outputs
        ]
        by = "disagreement" if len(together) == len(predicted) else "entropy"
        uncertainty = np.sum(
            [
                _means(sample, name, on)
                for name in (together if by == "disagreement" else predicted)
            ],
            axis=0,
        )
    else:
        return Suggestion(
            tuple(spread_slices(n_slices, labeled, settings.n, copies)),
            "evenly spaced",
            np.zeros(0),
        )
    uncertainty[list(copies)] = np.nan
    return Suggestion(tuple(select_slices(uncertainty, labeled, settings.n)), by, uncertainty)


def _outputs_of(structure: str, known: Sequence[str]) -> list[str]:
    """The outputs of a network, of those that are known, that tell of a structure: its own, or interior and boundary of cells."""
    return [name for name in (structure, *outputs_of_cells(structure)) if name in known]


def _means(sample: Sample, name: str, on: Execution) -> NDArray[np.float64]:
    """(slices,) mean entropy of a structure's probabilities, or the mean of a uncertainty, which is bits already."""
    volume = sample.volume("probabilities", name)
    sample.frame(volume)  # refuses what was made on an image that was replaced since
    plane = volume.shape[1] * volume.shape[2]
    needs = Needs(ram=plane * volume.block_depth * 2, smaller="use fewer --workers")
    again = replace(on, overwrite=True)  # a question may be asked again of other probabilities
    bits = LEVELS if name.endswith(UNCERTAINTY_SUFFIX) else ENTROPY
    with Stage(
        sample,
        f"entropy-{name}",
        SuggestSettings(),
        {"probabilities": volume.fingerprint},
        [],
        again,
        needs,
    ) as stage:
        blocks = stage.map(_means_block, volume.blocks(), volume, bits)
    return np.array([value for block in blocks for value in block["bits"]])


def _means_block(block: ZBlock, volume: Volume, bits: NDArray[np.float64]) -> BlockResult:
    counts = (np.bincount(one.ravel(), minlength=256) for one in volume.read(block.own))
    return {}, {"bits": [float(count @ bits / count.sum()) for count in counts]}


def _disagreement(
    sample: Sample, structure: str | None, settings: SuggestSettings, on: Execution
) -> NDArray[np.float64]:
    """(slices,) mean mutual information of several models and their answer, or the entropy of one; NaN where they were not asked."""
    from sparsem.models.checkpoint import (
        read_recipe,  # torch takes seconds to load, and only models need it
    )
    from sparsem.models.device import choose_device
    from sparsem.segment.predict import file_hash, settings_for_device

    models = [Path(one).resolve() for one in settings.model]
    known = {model: read_recipe(model).structures for model in models}
    names = _outputs_of(structure, known[models[0]]) if structure else sorted(known[models[0]])
    for model, structures in known.items():
        if (
            not names
            or not set(names) <= set(structures)
            or (structure is None and len(structures) > len(names))
        ):
            asked = (
                f"'{structure}'"
                if structure
                else f"what {models[0].name} knows: {', '.join(names)}"
            )
            raise InputError(
                f"{model.name} does not know {asked}; it knows {', '.join(structures)}. Name one structure that all know."
            )
    image = sample.image()
    every = settings.every or -(-image.shape[0] // LOOKED_AT)
    inputs = {"image": image.fingerprint, "structures": ", ".join(names)}
    inputs |= {f"model {n}": file_hash(model) for n, model in enumerate(models)}
    plane = image.shape[1] * image.shape[2]
    most = max(len(structures) for structures in known.values())
    needs = Needs(
        ram=plane * (8 * most + 16 * len(names) + 16), smaller="use fewer --workers"
    )  # an answer, their mean, and entropies
    lasting = changed(
        settings, {"n": 1, "device": choose_device(settings.device).type, "every": every}
    )
    with Stage(
        sample, "disagreement", lasting, inputs, [], replace(on, overwrite=True), needs
    ) as stage:
        blocks = stage.map(
            _disagreement_block,
            image.blocks(),
            image,
            models,
            names,
            every,
            settings_for_device(settings.device),
        )
    uncertainty = np.full(image.shape[0], np.nan)
    for block in blocks:
        for z, value in block["uncertainty"]:
            uncertainty[z] = value
    return uncertainty


def _disagreement_block(
    block: ZBlock,
    image: Volume,
    models: Sequence[Path],
    structures: Sequence[str],
    every: int,
    how: "PredictSettings",
) -> BlockResult:
    from sparsem.segment.predict import predict_slice

    uncertainty = []
    for z in (z for z in range(block.start, block.stop) if z % every == every // 2):
        _, answer = predict_slice(image, z, models, how, structures)
        unsure = entropy(answer.mean) if answer.uncertainty is None else answer.uncertainty
        uncertainty.append([z, float(unsure.mean(dtype=np.float64))])
    return {}, {"uncertainty": uncertainty}
