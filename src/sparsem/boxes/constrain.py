"""Biological constraints on boxes: nucleoli in nuclei; mitochondria, endosomes and lysosomes in no nucleus, and not two in one place.

Which box goes is decided by confidence, that is by how probably boxes are right (see ``calibration``): a score of one structure means
something else than the same score of another. A nucleus stands against all that lies in it and may not, together: if these are more
probable than it and its nucleoli, by the sum of their log odds, it goes; else they do.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners, box_areas, intersection_areas, overlapping_pairs
from sparsem.boxes.tables import (
    DETECTED_PREFIX,
    StoredBoxes,
    detected_box_structures,
    read_detected_boxes,
    write_detected_boxes,
)
from sparsem.errors import SampleError
from sparsem.labels.constrain import StructureRoles
from sparsem.labels.results import CONSTRAINED
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample, now
from sparsem.workflow.stage import fingerprint_of

WITHIN = 0.7  # of a nucleolus' box that must lie in a nucleus' box
CORE = 0.85  # of the ellipse that fits a nucleus' box: at the corners of the box, and near its edge, there is cytoplasm
ONE_PLACE = (
    0.7  # intersection over union from which on two boxes of different structures are one object
)
COUNTS = 0.5  # confidence from which on a box is more probably right than not

Mask = NDArray[np.bool_]


class BoxSet(NamedTuple):
    """Boxes of one structure in a picture: ``corners`` (n, 4) float32 px, ``confidence`` (n,) in 0..1."""

    corners: Corners
    confidence: NDArray[np.float32]


class BoxDecision(NamedTuple):
    """What biology says of the boxes of a structure in a picture.

    Attributes:
        stays: (n,) bool.
        must_count: (n,) bool, nuclei that are there because a nucleolus is, however little a detector is sure of them.
    """

    stays: Mask
    must_count: Mask


def lies_in_nucleus(corners: Corners, nuclei: Corners) -> Mask:
    """(n, m) whether the center of a box lies within the core of a nucleus, which is larger than it."""
    center = (corners[:, None, :2] + corners[:, None, 2:]) / 2
    middle, half = (
        (nuclei[None, :, :2] + nuclei[None, :, 2:]) / 2,
        (nuclei[None, :, 2:] - nuclei[None, :, :2]) / 2,
    )
    radius = (((center - middle) / np.maximum(half, 1e-6)) ** 2).sum(axis=2)
    return np.asarray((radius <= CORE**2) & (box_areas(corners)[:, None] < box_areas(nuclei)[None]))


def apply_constraints(
    boxes: Mapping[str, BoxSet], settings: StructureRoles
) -> dict[str, BoxDecision]:
    """Which boxes of a picture biology allows, structure by structure."""
    stays = {name: np.ones(len(one.confidence), bool) for name, one in boxes.items()}
    must = {name: np.zeros(len(one.confidence), bool) for name, one in boxes.items()}
    others = [name for name in settings.cytoplasm if name in boxes]
    _not_two_in_one_place(boxes, others, stays)
    nuclei, nested = boxes.get(settings.nucleus), boxes.get(settings.nucleolus)
    if nuclei is not None:
        nested = nested or BoxSet(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        inner = (
            intersection_areas(nested.corners, nuclei.corners)
            >= WITHIN * box_areas(nested.corners)[:, None]
        )
        _nuclei_against_others(
            boxes, nuclei, others, nested.confidence[:, None] * inner, stays, settings.nucleus
        )
        if len(nested.confidence):
            sure = np.where(inner & stays[settings.nucleus][None], nuclei.confidence[None], 0)
            stays[settings.nucleolus] &= 1 - sure.max(axis=1, initial=0) <= nested.confidence
            there = stays[settings.nucleolus] & (nested.confidence >= COUNTS) & sure.any(axis=1)
            if there.any():
                must[settings.nucleus][sure[there].argmax(axis=1)] = True
    return {name: BoxDecision(stays[name], must[name]) for name in boxes}


def _nuclei_against_others(
    boxes: Mapping[str, BoxSet],
    nuclei: BoxSet,
    others: list[str],
    inner: NDArray[np.float32],
    stays: dict[str, Mask],
    nucleus: str,
) -> None:
    """The surest nucleus first: it goes, or what lies in it and may not; ``inner`` (n, m) is the confidence of nucleoli that lie in it."""
    there = {name: lies_in_nucleus(boxes[name].corners, nuclei.corners) for name in others}
    for place in np.argsort(-nuclei.confidence, kind="stable"):
        sure = nuclei.confidence[place : place + 1]
        against = sum(
            _evidence(boxes[name].confidence[there[name][:, place] & stays[name]])
            for name in others
        )
        if against > 0 and against > _log_odds(sure).item() + _evidence(inner[:, place]):
            stays[nucleus][place] = False
            continue
        for name in others:
            weaker = (boxes[name].confidence < sure) | (sure >= COUNTS)
            stays[name] &= ~(there[name][:, place] & weaker)


def _not_two_in_one_place(
    boxes: Mapping[str, BoxSet], names: list[str], stays: dict[str, Mask]
) -> None:
    """Of boxes of different structures around one object the surest stays."""
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            first, second, _ = overlapping_pairs(
                boxes[one].corners, boxes[other].corners, ONE_PLACE
            )
            there = stays[one][first] & stays[other][second]
            first, second = first[there], second[there]
            weaker = boxes[one].confidence[first] < boxes[other].confidence[second]
            stays[one][first[weaker]] = False
            stays[other][second[~weaker]] = False


def _evidence(confidence: NDArray[np.float32]) -> float:
    """Log odds that boxes are there together, of those that are more probable than not."""
    return float(_log_odds(confidence[confidence > COUNTS]).sum())


def _log_odds(confidence: NDArray[np.floating]) -> NDArray[np.float64]:
    p = np.clip(np.asarray(confidence, np.float64), 1e-3, 1 - 1e-3)
    return np.asarray(np.log(p / (1 - p)))


def structures_with_roles(sample: Sample, settings: StructureRoles) -> list[str]:
    """The structures that rules know and a detector found."""
    return [
        name
        for name in (settings.nucleus, settings.nucleolus, *settings.cytoplasm)
        if name in detected_box_structures(sample)
    ]


def constrain_boxes(
    sample: Sample, settings: StructureRoles | None = None, **changes: Any
) -> dict[str, int]:
    """Write ``tables/boxes_NAME-constrained`` of every structure that a detector found; ``boxes_NAME`` stays as it was.

    What comes later (masks, score, counts, report) reads the constrained boxes where there are any.

    Returns:
        How many boxes of each structure went that were taken for objects.

    Raises:
        SampleError: fewer than two of the structures have boxes, or they were not found on one image.
    """
    settings = resolve_settings(StructureRoles, settings, changes)
    names = structures_with_roles(sample, settings)
    if len(names) < 2:
        known = ", ".join((settings.nucleus, settings.nucleolus, *settings.cytoplasm))
        raise SampleError(
            f"Rules are between two of {known}; {sample.path.name} has found boxes of {', '.join(detected_box_structures(sample)) or 'nothing'}."
        )
    kept = {name: read_detected_boxes(sample, name, as_predicted=True) for name in names}
    if len({one.image for one in kept.values()}) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} were not all found on one image; find them again with one --image."
        )
    stays = {name: np.ones(len(one.boxes), bool) for name, one in kept.items()}
    counts = {name: one.counts.copy() for name, one in kept.items()}
    for z in sorted({z for one in kept.values() for z in one.boxes.z.tolist()}):
        places = {name: np.flatnonzero(one.boxes.z == z) for name, one in kept.items()}
        here = {
            name: BoxSet(one.boxes.corners[places[name]], one.confidence[places[name]])
            for name, one in kept.items()
        }
        for name, verdict in apply_constraints(here, settings).items():
            stays[name][places[name]] = verdict.stays
            counts[name][places[name][verdict.must_count]] = True
    made_from = {name: one.fingerprint for name, one in kept.items()}
    fingerprint = fingerprint_of({"made_from": made_from, **settings.model_dump(mode="json")})
    with sample.locked():
        _remove_constrained(
            sample
        )  # also those of structures that were constrained before, and are not now
        for name, one in kept.items():
            own = stays[name]
            about = {**one.about, "made_from": made_from, "fingerprint": fingerprint}
            allowed = StoredBoxes(
                one.boxes[own],
                one.pictures,
                one.image,
                about,
                one.confidence[own],
                counts[name][own],
            )
            write_detected_boxes(sample, f"{DETECTED_PREFIX}{name}{CONSTRAINED}", allowed)
        record = {
            "stage": "detect-constrain",
            "fingerprint": fingerprint,
            "settings": settings.model_dump(mode="json"),
        }
        sample.remember({**record, "outputs": [], "finished": now()})
    return {name: int((one.counts & ~stays[name]).sum()) for name, one in kept.items()}


def remove_constrained_boxes(sample: Sample) -> list[str]:
    """Take the constrained boxes away; what was found is what counts again. Returns the names of the tables."""
    with sample.locked():
        tables = _remove_constrained(sample)
        if tables:
            sample.remember(
                {
                    "stage": "detect-release",
                    "fingerprint": "",
                    "settings": {},
                    "outputs": [],
                    "finished": now(),
                }
            )
    return tables


def _remove_constrained(sample: Sample) -> list[str]:
    tables = [
        name
        for name in sample.tables
        if name.startswith(DETECTED_PREFIX) and name.endswith(CONSTRAINED)
    ]
    for name in tables:
        sample.remove_table(name)
    return tables
