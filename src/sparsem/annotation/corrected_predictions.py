"""How the labels of a slice came about: drawn by hand, or a prediction that somebody corrected.

Scores on a corrected prediction are too high, because annotation and prediction share most of their boundary. Two people, or a
person and a network, agree on the area of an organelle, but rarely pixel by pixel on its boundary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import Origin
from sparsem.annotation.renumbering import Labels
from sparsem.errors import SampleError
from sparsem.store.sample import Sample
from sparsem.store.volume import FOREGROUND, Volume

MIN_SAME_BOUNDARY = 0.5  # of its boundary that an annotation shares, pixel by pixel, with the prediction that it started as
SIMILAR_DICE = (
    0.95  # from which on a prediction may have been the start; a good network reaches it too
)
DOUBT: tuple[Origin, ...] = (
    "manual",
    "unknown",
    "corrected prediction",
)  # of several structures on a slice the last one counts

ObjectsOf = Callable[
    [int, str], Labels
]  # slice number, structure -> (y, x) ids of the structure, 0 elsewhere


class Similarity(NamedTuple):
    """How an annotated slice resembles a prediction: which, the fraction of its boundary that is the same, and Dice."""

    volume: str
    same_boundary: float
    dice: float


@dataclass(frozen=True)
class Prediction:
    """Labels or probabilities of one structure: a volume of the sample, and its name."""

    volume: Volume
    name: str

    def objects(self, z: int) -> Labels:
        """(y, x) ids, or a mask of 0 and 1, of a slice."""
        voxels = self.volume.read(slice(z, z + 1))[0]
        is_probability = self.name.startswith("probabilities/")
        return np.asarray(voxels >= FOREGROUND, np.uint8) if is_probability else np.asarray(voxels)


def predictions_of(sample: Sample, structure: str, image: str) -> list[Prediction]:
    """What was predicted of a structure with the pixels of an image."""
    names = [f"labels/{structure}{ending}" for ending in ("", "-constrained", "-regions")] + [
        f"probabilities/{structure}"
    ]
    found = []
    for name in names:
        folder, _, volume = name.partition("/")
        if volume in sample.names(folder):
            prediction = Prediction(sample.volume(folder, volume), name)
            if _has_pixels_of(sample, prediction.volume, image):
                found.append(prediction)
    return found


def infer_origins(
    sample: Sample,
    structures: Sequence[str],
    z: Sequence[int],
    objects_of: ObjectsOf,
    before: ObjectsOf,
    known: Mapping[int, Origin],
    image: str,
) -> tuple[dict[int, Origin], list[str]]:
    """The origin of newly labeled slices, as the sample's predictions show it, and sentences about those that resemble one.

    Args:
        sample: that they belong to.
        structures: names of what is labeled.
        z: slices.
        objects_of: the new labels of a slice and structure.
        before: the labels that they replace; all 0 where there were none.
        known: the origin of these; it stays where the new labels resemble them more than a prediction.
        image: on whose pixels they were drawn.
    """
    found: dict[int, Origin] = dict.fromkeys(z, "manual")
    sentences: list[str] = []
    for structure in structures:
        predictions = predictions_of(sample, structure, image)
        copied: dict[int, Similarity] = {}
        similar: dict[int, Similarity] = {}
        for number in z if predictions else ():
            objects = objects_of(number, structure)
            best = max(
                (_similarity(objects, one, number) for one in predictions), key=lambda one: one[1:]
            )
            from_before = same_boundary(objects, before(number, structure))
            if (
                number in known
                and from_before > MIN_SAME_BOUNDARY
                and from_before >= best.same_boundary
            ):
                found[number] = max(found[number], known[number], key=DOUBT.index)
            elif best.same_boundary > MIN_SAME_BOUNDARY:
                copied[number] = best
            elif best.dice > SIMILAR_DICE:
                similar[number] = best
        sentences += _sentences(structure, copied, similar)
        found |= dict.fromkeys(
            (number for number in similar if found[number] == "manual"), "unknown"
        )
        found |= dict.fromkeys(copied, "corrected prediction")
    return found, sentences


def _sentences(
    structure: str, copied: dict[int, Similarity], similar: dict[int, Similarity]
) -> list[str]:
    sentences = []
    for found, is_copy in ((copied, True), (similar, False)):
        if not found:
            continue
        slices = f"{'slice' if len(found) == 1 else 'slices'} {', '.join(map(str, found))} of {structure}"
        first = next(iter(found.values()))
        if is_copy:
            told = (
                f"{slices}: {first.same_boundary:.0%} of the boundary is that of {first.volume}; recorded as corrected predictions, on "
                "which scores are too high. If they were drawn by hand, give --origin manual."
            )
        else:
            told = (
                f"{slices}: similar to {first.volume} (Dice {first.dice:.3f}); origin recorded as unknown. Give --origin manual, or "
                "--origin corrected-prediction, on which scores are too high."
            )
        sentences.append(told)
    return sentences


def same_boundary(labels: Labels, other: Labels) -> float:
    """The fraction of the boundary of labels (y, x) that is a boundary of the others too, pixel by pixel; 0 without a boundary."""
    are_objects = len(np.unique(labels)) > 2 and len(np.unique(other)) > 2
    maps = (labels, other) if are_objects else (labels > 0, other > 0)
    shared = total = 0
    for axis in (0, 1):
        own, theirs = (_steps(one, axis) for one in maps)
        shared += int(np.count_nonzero(own & theirs))
        total += int(np.count_nonzero(own))
    return shared / total if total else 0.0


def _steps(labels: NDArray[np.generic], axis: int) -> NDArray[np.bool_]:
    """Between which neighbors along an axis the label changes."""
    before, after = (labels[:-1], labels[1:]) if axis == 0 else (labels[:, :-1], labels[:, 1:])
    return np.asarray(before != after)


def _similarity(objects: Labels, prediction: Prediction, z: int) -> Similarity:
    predicted = prediction.objects(z)
    own, theirs = objects > 0, predicted > 0
    both = int(np.count_nonzero(own & theirs))
    total = int(np.count_nonzero(own)) + int(np.count_nonzero(theirs))
    return Similarity(
        prediction.name, same_boundary(objects, predicted), 2 * both / total if total else 0.0
    )


def _has_pixels_of(sample: Sample, volume: Volume, image: str) -> bool:
    """Whether a volume lies on an image, pixel by pixel, and that was not replaced since."""
    try:
        frame, other = sample.frame(volume), sample.frame(sample.image(image))
    except SampleError:
        return False
    return volume.shape == sample.image(image).shape and frame.is_same(other)
