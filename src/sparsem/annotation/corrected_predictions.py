"""Origin of the labels of a slice: drawn by hand, or a prediction that was corrected.

Scores on a corrected prediction are too high, because annotation and prediction have most of their
boundary in common. Two people, or a person and a network, agree on the area of an organelle, but
rarely pixel by pixel on its boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.file_labels import FileLabels, StoredAnnotation
from sparsem.annotation.label_numbers import Labels
from sparsem.annotation.labeled_slices import Origin
from sparsem.errors import SampleError
from sparsem.store.names import CONSTRAINED, REGIONS
from sparsem.store.sample import Sample
from sparsem.store.transforms import WarpedStack
from sparsem.store.volume import FOREGROUND, Volume

# An annotation began as a prediction if more than this fraction of its boundary is that of the
# prediction.
MIN_SAME_BOUNDARY = 0.5
# Above this Dice a prediction may have been the start; but a good network reaches it as well.
SIMILAR_DICE = 0.95
# Of the structures on a slice, the one whose origin comes last in this order determines that of the
# slice.
ORIGINS_BY_PRECEDENCE: tuple[Origin, ...] = ("manual", "unknown", "corrected prediction")


class Similarity(NamedTuple):
    """Similarity of an annotated slice and a prediction.

    Attributes:
        volume: name of the prediction.
        same_boundary: fraction of the annotation's boundary that is a boundary of the prediction.
        dice: Dice of their masks.
    """

    volume: str
    same_boundary: float
    dice: float


@dataclass(frozen=True)
class PredictedVolume:
    """Labels or probabilities of one structure: a volume of the sample, and its name."""

    volume: Volume
    name: str

    def objects(self, z: int) -> Labels:
        """Return the labels (y, x) of a slice; thresholded probabilities are a mask of 0 and 1."""
        voxels = self.volume.read(slice(z, z + 1))[0]
        is_probability = self.name.startswith("probabilities/")
        return np.asarray(voxels >= FOREGROUND, np.uint8) if is_probability else np.asarray(voxels)


def computed_slice(sample: Sample, structure: str, z: int, image: str) -> Labels:
    """Return a slice (y, x) of ``labels/NAME`` as computed, on the pixel grid of an image.

    Raises:
        SampleError: there are no such labels, or an image was replaced.
    """
    labels = sample.computed(structure)
    target = sample.image(image)
    grid, target_grid = sample.transform_of(labels), sample.transform_of(target)
    if grid.is_same(target_grid):
        return np.asarray(labels.read(slice(z, z + 1))[0])
    moved = WarpedStack(labels.lazy(), grid.motions_from(target_grid), target.shape)
    return np.asarray(moved[z : z + 1][0])


def predictions_of(sample: Sample, structure: str, image: str) -> list[PredictedVolume]:
    """Return the predictions of a structure that have the pixel grid of an image."""
    names = [f"labels/{structure}{ending}" for ending in ("", CONSTRAINED, REGIONS)]
    names.append(f"probabilities/{structure}")
    predictions = []
    for name in names:
        folder, _, volume_name = name.partition("/")
        if volume_name not in sample.names(folder):
            continue
        if folder == "labels":
            volume = sample.computed(volume_name)
        else:
            volume = sample.volume(folder, volume_name)
        if _is_on_image(sample, volume, image):
            predictions.append(PredictedVolume(volume, name))
    return predictions


def slice_origins(
    sample: Sample,
    name: str,
    labels: FileLabels,
    previous: StoredAnnotation | None,
    stated: Origin | None,
) -> tuple[dict[int, Origin], list[str]]:
    """Return how the labels of a file came about, slice by slice.

    It is the stated origin. If none is stated, slices that did not change keep the recorded one,
    and the others are compared with the predictions of the sample.

    Args:
        sample: sample that the labels belong to.
        name: name of the annotation.
        labels: labels of the file.
        previous: annotation that they replace or extend, if any.
        stated: origin that the user stated, if any.

    Returns:
        The origin of each slice, and notes about slices that are similar to a prediction.
    """
    if stated:
        return dict.fromkeys(labels.z, stated), []
    recorded = previous.origins if previous else {}
    unchanged = [z for z in labels.z if z in recorded and _is_unchanged(labels, previous, z)]
    changed = [z for z in labels.z if z not in unchanged]
    origins: dict[int, Origin] = {z: recorded[z] for z in unchanged}
    origins |= dict.fromkeys(changed, "manual")
    notes: list[str] = []
    for structure in list(labels.classes) or [name]:
        predictions = predictions_of(sample, structure, labels.image)
        if predictions:
            comparison = _compare_slices(structure, changed, labels, previous, predictions)
            _update_origins(origins, comparison)
            notes += _notes(structure, comparison)
    return origins, notes


def _is_unchanged(labels: FileLabels, previous: StoredAnnotation | None, z: int) -> bool:
    """Return True if the labels of a slice are those that it had before."""
    return np.array_equal(_previous_labels(labels, previous, z), labels.labels(z))


class _Comparison(NamedTuple):
    """Changed slices of a structure, compared with predictions and with the previous labels.

    Attributes:
        from_previous: slices that are most similar to the previous labels, with the origin of
            these.
        copied: slices that began as a prediction.
        similar: slices that may have begun as a prediction.
    """

    from_previous: dict[int, Origin]
    copied: dict[int, Similarity]
    similar: dict[int, Similarity]


def _compare_slices(
    structure: str,
    slices: Sequence[int],
    labels: FileLabels,
    previous: StoredAnnotation | None,
    predictions: Sequence[PredictedVolume],
) -> _Comparison:
    """Compare the labels of slices with predictions and with their previous labels."""
    recorded = previous.origins if previous else {}
    comparison = _Comparison({}, {}, {})
    for z in slices:
        objects = labels.objects(labels.labels(z), structure)
        best = _most_similar(objects, predictions, z)
        previous_objects = labels.objects(_previous_labels(labels, previous, z), structure)
        previous_boundary = same_boundary(objects, previous_objects)
        is_from_previous = (
            previous_boundary > MIN_SAME_BOUNDARY and previous_boundary >= best.same_boundary
        )
        if z in recorded and is_from_previous:
            comparison.from_previous[z] = recorded[z]
        elif best.same_boundary > MIN_SAME_BOUNDARY:
            comparison.copied[z] = best
        elif best.dice > SIMILAR_DICE:
            comparison.similar[z] = best
    return comparison


def _most_similar(objects: Labels, predictions: Sequence[PredictedVolume], z: int) -> Similarity:
    """Return the similarity to the prediction that has most in common with objects of a slice."""
    similarities = [_similarity(objects, prediction, z) for prediction in predictions]
    return max(similarities, key=lambda similarity: similarity[1:])


def _update_origins(origins: dict[int, Origin], comparison: _Comparison) -> None:
    """Set the origins of slices that are similar to a prediction or to the previous labels."""
    for z, origin in comparison.from_previous.items():
        origins[z] = max(origins[z], origin, key=ORIGINS_BY_PRECEDENCE.index)
    for z in comparison.similar:
        if origins[z] == "manual":
            origins[z] = "unknown"
    for z in comparison.copied:
        origins[z] = "corrected prediction"


def _previous_labels(labels: FileLabels, previous: StoredAnnotation | None, z: int) -> Labels:
    """Return the labels (y, x) that a slice had in the sample; all 0 where it had none."""
    shape = labels.stack.shape[1:]
    if previous is None or z not in previous.z or previous.labels.shape[1:] != shape:
        return np.zeros(shape, np.uint32)
    if previous.renumbering.special == labels.renumbering.special:
        return previous.converted(z, labels.renumbering)
    return previous.read(z)


def _notes(structure: str, comparison: _Comparison) -> list[str]:
    notes = []
    if comparison.copied:
        first = next(iter(comparison.copied.values()))
        notes.append(
            f"{_list_slices(comparison.copied)} of {structure}: {first.same_boundary:.0%} of the "
            f"boundary is that of {first.volume}; recorded as corrected predictions, on which "
            "scores are too high. If they were drawn by hand, give --origin manual."
        )
    if comparison.similar:
        first = next(iter(comparison.similar.values()))
        notes.append(
            f"{_list_slices(comparison.similar)} of {structure}: similar to {first.volume} (Dice "
            f"{first.dice:.3f}); origin recorded as unknown. Give --origin manual, or --origin "
            "corrected-prediction, on which scores are too high."
        )
    return notes


def _list_slices(slices: Mapping[int, Similarity]) -> str:
    noun = "slice" if len(slices) == 1 else "slices"
    return f"{noun} {', '.join(map(str, slices))}"


def same_boundary(labels: Labels, reference: Labels) -> float:
    """Return the fraction of the boundary of labels (y, x) that the reference has as well.

    Boundaries are compared pixel by pixel; 0 if the labels have none. Where both hold several
    objects, boundaries between objects count too.
    """
    have_objects = len(np.unique(labels)) > 2 and len(np.unique(reference)) > 2
    shared = total = 0
    for axis in (0, 1):
        steps = _label_steps(labels if have_objects else labels > 0, axis)
        reference_steps = _label_steps(reference if have_objects else reference > 0, axis)
        shared += int(np.count_nonzero(steps & reference_steps))
        total += int(np.count_nonzero(steps))
    return shared / total if total else 0.0


def _label_steps(labels: NDArray[np.generic], axis: int) -> NDArray[np.bool_]:
    """Return where the label changes between neighbors along an axis."""
    if axis == 0:
        return np.asarray(labels[:-1] != labels[1:])
    return np.asarray(labels[:, :-1] != labels[:, 1:])


def _similarity(objects: Labels, prediction: PredictedVolume, z: int) -> Similarity:
    predicted = prediction.objects(z)
    annotated_mask = objects > 0
    predicted_mask = predicted > 0
    intersection = int(np.count_nonzero(annotated_mask & predicted_mask))
    total = int(np.count_nonzero(annotated_mask)) + int(np.count_nonzero(predicted_mask))
    dice = 2 * intersection / total if total else 0.0
    return Similarity(prediction.name, same_boundary(objects, predicted), dice)


def _is_on_image(sample: Sample, volume: Volume, image: str) -> bool:
    """Return True if a volume has the pixel grid of an image that was not replaced since."""
    try:
        grid = sample.transform_of(volume)
        image_grid = sample.transform_of(sample.image(image))
    except SampleError:
        return False
    return volume.shape == sample.image(image).shape and grid.is_same(image_grid)
