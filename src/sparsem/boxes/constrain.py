"""Biological constraints on boxes.

Nucleoli lie in nuclei; mitochondria, endosomes and lysosomes lie in no nucleus; and no two boxes of
different structures are around one object.

Confidence decides which box is removed, that is the probability that a box is right (see
``sparsem.detect.training.calibration``): the same score means something else for another structure.
A nucleus is weighed against all boxes together that lie in it and must not: if they are more
probable than the nucleus and its nucleoli, by the sum of their log odds, the nucleus is removed;
otherwise they are.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners, box_areas, intersection_areas, overlapping_pairs
from sparsem.boxes.tables import (
    DETECTED_PREFIX,
    StoredBoxes,
    constrained_box_tables,
    detected_box_structures,
    read_detected_boxes,
    write_detected_boxes,
)
from sparsem.errors import SampleError
from sparsem.labels.settings import StructureRoles
from sparsem.settings import resolve_settings
from sparsem.store.names import CONSTRAINED
from sparsem.store.sample import Sample, now
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import fingerprint_of

NUCLEOLUS_INSIDE = 0.7  # fraction of the box of a nucleolus that must lie in the box of a nucleus
# Part of the ellipse that fits the box of a nucleus, by its radius: at the corners of the box, and
# near its edges, there is cytoplasm.
NUCLEUS_CORE = 0.85
SAME_OBJECT_IOU = 0.7  # intersection over union of two structures that are around one object
MIN_CONFIDENCE = 0.5  # from here on a box is more probably right than wrong

Mask = NDArray[np.bool_]


class BoxSet(NamedTuple):
    """Boxes of one structure in an image: ``corners`` (n, 4) float32 px, ``confidence`` (n,)."""

    corners: Corners
    confidence: NDArray[np.float32]


class BoxDecision(NamedTuple):
    """Decision on the boxes of a structure in an image.

    Attributes:
        is_allowed: (n,) bool, boxes that no constraint removes.
        must_count: (n,) bool, nuclei that count as objects, whatever their score, because a
            nucleolus in them does.
    """

    is_allowed: Mask
    must_count: Mask


NO_BOXES = BoxSet(np.empty((0, 4), np.float32), np.empty(0, np.float32))


def lies_in_nucleus(corners: Corners, nuclei: Corners) -> Mask:
    """Return True for each box (n, m) whose center lies in the core of a larger nucleus."""
    center = (corners[:, None, :2] + corners[:, None, 2:]) / 2
    nucleus_center = (nuclei[None, :, :2] + nuclei[None, :, 2:]) / 2
    semi_axes = (nuclei[None, :, 2:] - nuclei[None, :, :2]) / 2
    offset = (center - nucleus_center) / np.maximum(semi_axes, 1e-6)
    squared_radius = (offset**2).sum(axis=2)
    is_smaller = box_areas(corners)[:, None] < box_areas(nuclei)[None]
    return np.asarray((squared_radius <= NUCLEUS_CORE**2) & is_smaller)


def apply_constraints(
    boxes: Mapping[str, BoxSet], settings: StructureRoles
) -> dict[str, BoxDecision]:
    """Return which boxes of an image the biological constraints allow, structure by structure."""
    allowed = {name: np.ones(len(part.confidence), bool) for name, part in boxes.items()}
    must_count = {name: np.zeros_like(mask) for name, mask in allowed.items()}
    organelles = [name for name in settings.cytoplasm if name in boxes]
    _remove_double_names(boxes, organelles, allowed)
    if settings.nucleus in boxes:
        confirmed = _constrain_by_nuclei(boxes, organelles, allowed, settings)
        must_count[settings.nucleus][confirmed] = True
    return {name: BoxDecision(allowed[name], must_count[name]) for name in boxes}


def _constrain_by_nuclei(
    boxes: Mapping[str, BoxSet],
    organelles: list[str],
    allowed: dict[str, Mask],
    settings: StructureRoles,
) -> NDArray[np.int64]:
    """Remove boxes that contradict nuclei, and return the nuclei that probable nucleoli confirm."""
    nuclei = boxes[settings.nucleus]
    nucleoli = boxes.get(settings.nucleolus, NO_BOXES)
    is_inside = _lie_inside(nucleoli.corners, nuclei.corners)
    support = nucleoli.confidence[:, None] * is_inside
    _weigh_nuclei(boxes, nuclei, organelles, support, allowed, settings.nucleus)
    if not len(nucleoli.confidence):
        return np.empty(0, np.int64)
    is_in_allowed = is_inside & allowed[settings.nucleus][None]
    nucleus_confidence = np.where(is_in_allowed, nuclei.confidence[None], 0)
    return _constrain_nucleoli(nucleoli, nucleus_confidence, allowed[settings.nucleolus])


def _lie_inside(nucleoli: Corners, nuclei: Corners) -> Mask:
    """Return True for each nucleolus (n, m) of which enough lies in the box of a nucleus."""
    covered = intersection_areas(nucleoli, nuclei)
    return np.asarray(covered >= NUCLEOLUS_INSIDE * box_areas(nucleoli)[:, None])


def _constrain_nucleoli(
    nucleoli: BoxSet, nucleus_confidence: NDArray[np.float32], allowed: Mask
) -> NDArray[np.int64]:
    """Remove nucleoli without a nucleus, and return the nuclei that probable nucleoli confirm.

    Args:
        nucleoli: n boxes.
        nucleus_confidence: (n, m) confidence of each nucleus that a nucleolus lies in; else 0.
        allowed: (n,) nucleoli that are allowed, updated in place.
    """
    # A nucleolus is removed where it is less probable than that there is no nucleus.
    no_nucleus = 1 - nucleus_confidence.max(axis=1, initial=0)
    allowed &= no_nucleus <= nucleoli.confidence
    is_probable = allowed & (nucleoli.confidence >= MIN_CONFIDENCE)
    confirms = is_probable & nucleus_confidence.any(axis=1)
    if not confirms.any():
        return np.empty(0, np.int64)
    return np.asarray(nucleus_confidence[confirms].argmax(axis=1))


def _weigh_nuclei(
    boxes: Mapping[str, BoxSet],
    nuclei: BoxSet,
    organelles: list[str],
    support: NDArray[np.float32],
    allowed: dict[str, Mask],
    nucleus: str,
) -> None:
    """Remove each nucleus, or the organelles that lie in it, starting with the most certain one.

    Args:
        boxes: boxes of all structures.
        nuclei: those of the nuclei.
        organelles: structures that must not lie in a nucleus.
        support: (n, m) confidence of each nucleolus in each nucleus that it lies in; else 0.
        allowed: updated in place.
        nucleus: name of the nuclei.
    """
    inside = {name: lies_in_nucleus(boxes[name].corners, nuclei.corners) for name in organelles}
    for index in np.argsort(-nuclei.confidence, kind="stable"):
        confidence = nuclei.confidence[index : index + 1]
        in_nucleus = {name: inside[name][:, index] for name in organelles}
        against = _evidence_against(boxes, in_nucleus, allowed)
        for_nucleus = _log_odds(confidence).item() + _evidence(support[:, index])
        if against > 0 and against > for_nucleus:
            allowed[nucleus][index] = False
            continue
        for name in organelles:
            is_weaker = (boxes[name].confidence < confidence) | (confidence >= MIN_CONFIDENCE)
            allowed[name] &= ~(in_nucleus[name] & is_weaker)


def _evidence_against(
    boxes: Mapping[str, BoxSet], in_nucleus: Mapping[str, Mask], allowed: Mapping[str, Mask]
) -> float:
    """Return the evidence against a nucleus of the allowed boxes of organelles that lie in it."""
    against = 0.0
    for name, is_inside in in_nucleus.items():
        contradicts = is_inside & allowed[name]
        against += _evidence(boxes[name].confidence[contradicts])
    return against


def _remove_double_names(
    boxes: Mapping[str, BoxSet], names: list[str], allowed: dict[str, Mask]
) -> None:
    """Keep only the most confident of boxes of different structures around one object."""
    for first_name, second_name in itertools.combinations(names, 2):
        first_boxes = boxes[first_name]
        second_boxes = boxes[second_name]
        first, second = _same_objects(first_boxes, second_boxes)
        both_allowed = allowed[first_name][first] & allowed[second_name][second]
        first = first[both_allowed]
        second = second[both_allowed]
        is_weaker = first_boxes.confidence[first] < second_boxes.confidence[second]
        allowed[first_name][first[is_weaker]] = False
        allowed[second_name][second[~is_weaker]] = False


def _same_objects(first: BoxSet, second: BoxSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of boxes of two structures that are around one object, as indices."""
    first_index, second_index, _ = overlapping_pairs(first.corners, second.corners, SAME_OBJECT_IOU)
    return first_index, second_index


def _evidence(confidence: NDArray[np.float32]) -> float:
    """Return the summed log odds of the boxes that are more probable than not."""
    return float(_log_odds(confidence[confidence > MIN_CONFIDENCE]).sum())


def _log_odds(confidence: NDArray[np.floating]) -> NDArray[np.float64]:
    p = np.clip(np.asarray(confidence, np.float64), 1e-3, 1 - 1e-3)
    return np.asarray(np.log(p / (1 - p)))


def structures_with_roles(sample: Sample, settings: StructureRoles) -> list[str]:
    """Return the structures with a role in the constraints that a detector found."""
    detected = detected_box_structures(sample)
    roles = (settings.nucleus, settings.nucleolus, *settings.cytoplasm)
    return [name for name in roles if name in detected]


@dataclass(frozen=True)
class BoxConstraintResult(StageResult):
    """The result of ``constrain_boxes``.

    Attributes:
        removed: number of boxes of each structure that counted as objects and were removed.
    """

    removed: dict[str, int]


def constrain_boxes(
    sample: Sample, settings: StructureRoles | None = None, *, on: Execution = HERE, **changes: Any
) -> BoxConstraintResult:
    """Write ``tables/boxes_NAME-constrained`` of every structure with detected boxes.

    ``tables/boxes_NAME`` stays as it was. Masks, scores, counts and report read the constrained
    boxes where there are any.

    Args:
        sample: sample with detected boxes.
        settings: names of the structures.
        on: has no effect; the boxes fit into memory.
        changes: fields of the settings, by name.

    Raises:
        SampleError: fewer than two of the structures have boxes, or they lie on several images.
    """
    settings = resolve_settings(StructureRoles, settings, changes)
    stored = _boxes_to_constrain(sample, settings)
    allowed, counts = _constrain_images(stored, settings)
    made_from = {name: boxes.fingerprint for name, boxes in stored.items()}
    record_settings = settings.model_dump(mode="json")
    fingerprint = fingerprint_of({"made_from": made_from, **record_settings})
    origin = {"made_from": made_from, "fingerprint": fingerprint}
    with sample.locked():
        # Remove also the tables of structures that were constrained before, and are not now.
        _remove_constrained_tables(sample)
        for name, boxes in stored.items():
            constrained = _select_constrained(boxes, allowed[name], counts[name], origin)
            write_detected_boxes(sample, _constrained_table(name), constrained)
        _record_stage(sample, "detect-constrain", fingerprint, record_settings)
    removed = {name: int((boxes.counts & ~allowed[name]).sum()) for name, boxes in stored.items()}
    tables = tuple(f"tables/{_constrained_table(name)}" for name in stored)
    return BoxConstraintResult(removed, sample=sample, written=tables)


def _constrained_table(name: str) -> str:
    """Return the name of the table with the constrained boxes of a structure."""
    return f"{DETECTED_PREFIX}{name}{CONSTRAINED}"


def _select_constrained(
    boxes: StoredBoxes, is_allowed: Mask, counts: Mask, origin: Mapping[str, Any]
) -> StoredBoxes:
    """Return the allowed boxes of a structure, with the origin of the constraints as metadata."""
    return StoredBoxes(
        boxes.boxes[is_allowed],
        boxes.slices,
        boxes.image,
        {**boxes.metadata, **origin},
        boxes.confidence[is_allowed],
        counts[is_allowed],
    )


def _record_stage(
    sample: Sample, stage: str, fingerprint: str, settings: Mapping[str, Any]
) -> None:
    """Add a stage without outputs to the history of a sample."""
    record = {"stage": stage, "fingerprint": fingerprint, "settings": settings}
    sample.remember({**record, "outputs": [], "finished": now()})


def _boxes_to_constrain(sample: Sample, settings: StructureRoles) -> dict[str, StoredBoxes]:
    """Return the detected boxes of the structures with a role, all on one image."""
    names = structures_with_roles(sample, settings)
    if len(names) < 2:
        known = ", ".join((settings.nucleus, settings.nucleolus, *settings.cytoplasm))
        detected = ", ".join(detected_box_structures(sample)) or "no structure"
        raise SampleError(
            f"Expected detected boxes of at least two of {known}; {sample.path.name} has boxes of "
            f"{detected}."
        )
    stored = {name: read_detected_boxes(sample, name, as_predicted=True) for name in names}
    if len({boxes.image for boxes in stored.values()}) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} were found on several images; find all of them again on "
            "one --image."
        )
    return stored


def _constrain_images(
    stored: Mapping[str, StoredBoxes], settings: StructureRoles
) -> tuple[dict[str, Mask], dict[str, Mask]]:
    """Return which boxes are allowed, and which count as objects, by structure (N,)."""
    allowed = {name: np.ones(len(boxes.boxes), bool) for name, boxes in stored.items()}
    counts = {name: boxes.counts.copy() for name, boxes in stored.items()}
    for z in _slices_with_boxes(stored):
        indices = {name: np.flatnonzero(boxes.boxes.z == z) for name, boxes in stored.items()}
        box_sets = {name: _box_set(stored[name], indices[name]) for name in stored}
        for name, decision in apply_constraints(box_sets, settings).items():
            allowed[name][indices[name]] = decision.is_allowed
            counts[name][indices[name][decision.must_count]] = True
    return allowed, counts


def _box_set(boxes: StoredBoxes, indices: NDArray[np.intp]) -> BoxSet:
    """Return some boxes with their confidence."""
    return BoxSet(boxes.boxes.corners[indices], boxes.confidence[indices])


def _slices_with_boxes(stored: Mapping[str, StoredBoxes]) -> list[int]:
    """Return the indices of the slices in which any structure has a box, ascending."""
    slices: set[int] = set()
    for boxes in stored.values():
        slices.update(boxes.boxes.z.tolist())
    return sorted(slices)


def remove_constrained_boxes(sample: Sample) -> list[str]:
    """Remove the constrained boxes, so that all predicted boxes count again.

    Returns:
        Names of the removed tables.
    """
    with sample.locked():
        tables = _remove_constrained_tables(sample)
        if tables:
            _record_stage(sample, "detect-release", "", {})
    return tables


def _remove_constrained_tables(sample: Sample) -> list[str]:
    tables = constrained_box_tables(sample)
    for name in tables:
        sample.remove_table(name)
    return tables
