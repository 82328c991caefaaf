"""The stage ``detect score``: detected boxes against annotated ones, over several samples together.

Images that the detector was trained on are left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.boxes.geometry import concatenate_boxes
from sparsem.boxes.tables import (
    METADATA_KEY,
    StoredBoxes,
    annotated_box_structures,
    detected_box_structures,
    read_annotated_boxes,
    read_detected_boxes,
)
from sparsem.detect.settings import DetectScoreSettings
from sparsem.errors import SampleError
from sparsem.score.boxes import (
    RECALLS,
    BoxComparison,
    BoxScores,
    ObjectCounts,
    box_scores,
    confusion_matrix,
    object_counts,
)
from sparsem.settings import nearest, resolve_settings
from sparsem.store.sample import Sample, as_samples, sample_names_of
from sparsem.store.slice_use import slice_digest
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class StructureBoxScores:
    """Scores of the boxes of one structure.

    Attributes:
        kind: ``predicted``, all boxes of the detector, or ``constrained``, those that biological
            constraints allow.
        scores: scores of all these boxes.
        counts: counts of those that count as objects.
        images: number of compared images.
    """

    kind: str
    scores: BoxScores
    counts: ObjectCounts
    images: int

    @property
    def keys(self) -> dict[str, str]:
        """The columns that identify it in tables."""
        return {"structure": self.scores.structure, "boxes": self.kind}


@dataclass(frozen=True)
class BoxEvaluation(StageResult):
    """Scores of the boxes of several structures.

    Attributes:
        names: the structures.
        boxes: scores of the predicted boxes, and of the constrained ones if all samples have them.
        confusion: (K + 1, K + 1) of boxes that count as objects, on images that are annotated with
            all structures.
        images: ``unseen`` or ``all``.
        made_from: fingerprints of the boxes, by sample and structure.
    """

    names: tuple[str, ...]
    boxes: tuple[StructureBoxScores, ...]
    confusion: NDArray[np.int64]
    images: str
    made_from: Mapping[str, str]

    def of_kind(self, kind: str) -> dict[str, StructureBoxScores]:
        """Return the scores of ``predicted`` or ``constrained`` boxes by structure."""
        return {part.scores.structure: part for part in self.boxes if part.kind == kind}

    def score_table(self) -> pa.Table:
        """Return a row for each structure and kind of boxes (thesis, table 5)."""
        rows = []
        for part in self.boxes:
            scores = part.scores
            row = {
                **part.keys,
                "images": part.images,
                "annotated": scores.n_truth,
                "detected": scores.n_detected,
                "map": scores.map,
                "ar": scores.ar,
                "ap50": scores.ap50,
                "ap75": scores.ap75,
                "counted": int(part.counts.detected.sum()),
                "count_error_per_image": part.counts.mean_error,
                "count_bias": part.counts.bias,
            }
            rows.append(row)
        return pa.Table.from_pylist(rows)

    def tables(self) -> dict[str, pa.Table]:
        """Return ``box_scores``, and the tables of its figures.

        These are ``box_curves``, precision at each recall; ``box_counts``, objects in each image;
        and ``box_confusion``.
        """
        tables = {
            "box_scores": self.score_table(),
            "box_curves": pa.Table.from_pylist(self._curve_rows()),
            "box_counts": pa.Table.from_pylist(self._count_rows()),
            "box_confusion": pa.Table.from_pylist(self._confusion_rows()),
        }
        content = json.dumps({"made_from": dict(self.made_from), "images": self.images})
        metadata = {METADATA_KEY: content.encode()}
        return {name: table.replace_schema_metadata(metadata) for name, table in tables.items()}

    def _curve_rows(self) -> Rows:
        rows: Rows = []
        for part in self.boxes:
            curve = part.scores.curve.tolist()
            for recall, precision in zip(RECALLS.tolist(), curve, strict=True):
                rows.append({**part.keys, "recall": recall, "precision": precision})
        return rows

    def _count_rows(self) -> Rows:
        rows: Rows = []
        for part in self.boxes:
            counts = part.counts
            truth = counts.truth.tolist()
            detected = counts.detected.tolist()
            for index, (sample, z) in enumerate(counts.images):
                numbers = {"annotated": truth[index], "counted": detected[index]}
                rows.append({**part.keys, "sample": sample, "z": z, **numbers})
        return rows

    def _confusion_rows(self) -> Rows:
        columns = (*self.names, "missed")
        rows: Rows = []
        for name, counts in zip((*self.names, "background"), self.confusion.tolist(), strict=True):
            rows.append({"annotated": name, **dict(zip(columns, counts, strict=True))})
        return rows


def score_boxes(
    sample: Sample | Sequence[Sample],
    settings: DetectScoreSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> BoxEvaluation:
    """Compare detected boxes of samples with annotated ones, all samples together.

    Also write ``tables/box_scores`` and the tables of its figures into each sample, of this sample
    alone.

    Raises:
        SampleError: no structure was both annotated and detected, or the detector was trained on
            every annotated image.
    """
    settings = resolve_settings(DetectScoreSettings, settings, changes)
    samples = as_samples(sample)
    names = settings.structures or _common_structures(samples)
    evaluation = _evaluate(samples, names, settings)
    for scored in samples:
        own_names = [name for name in names if _can_score(scored, name, settings)]
        if own_names:
            with scored.locked():
                own_evaluation = _evaluate([scored], own_names, settings)
                for table_name, table in own_evaluation.tables().items():
                    scored.write_table(table_name, table)
    return evaluation


def can_be_scored(sample: Sample, settings: DetectScoreSettings = DetectScoreSettings()) -> bool:
    """Return True if an annotated image was searched, and not used to train the detector."""
    return any(_can_score(sample, name, settings) for name in detected_box_structures(sample))


def _can_score(sample: Sample, name: str, settings: DetectScoreSettings) -> bool:
    return _has_both(sample, name) and bool(_compared_slices(sample, name, settings))


def _has_both(sample: Sample, name: str) -> bool:
    """Return True if a sample has annotated and detected boxes of a structure."""
    is_annotated = name in annotated_box_structures(sample)
    return is_annotated and name in detected_box_structures(sample)


def _structures_with_both(samples: Sequence[Sample]) -> list[str]:
    """Return the structures with annotated and detected boxes in a sample, in their order."""
    names: dict[str, None] = {}
    for sample in samples:
        for name in detected_box_structures(sample):
            if _has_both(sample, name):
                names[name] = None
    return list(names)


def _common_structures(samples: Sequence[Sample]) -> tuple[str, ...]:
    names = _structures_with_both(samples)
    if not names:
        sample_names = " and ".join(sample.path.name for sample in samples[:3])
        raise SampleError(
            f"No structure has both annotated and detected boxes in {sample_names}; import "
            "annotated boxes with 'sparsem detect import', and find some with 'sparsem detect "
            "predict'."
        )
    return tuple(names)


def _evaluate(
    samples: Sequence[Sample], names: Sequence[str], settings: DetectScoreSettings
) -> BoxEvaluation:
    """Return the scores of all structures, and their confusion."""
    scores: list[StructureBoxScores] = []
    made_from: dict[str, str] = {}
    for name in names:
        structure_scores, fingerprints = _evaluate_structure(samples, name, settings)
        scores += structure_scores
        made_from |= fingerprints
    confusion = _confusion(samples, names, settings)
    return BoxEvaluation(tuple(names), tuple(scores), confusion, settings.images, made_from)


def _evaluate_structure(
    samples: Sequence[Sample], name: str, settings: DetectScoreSettings
) -> tuple[list[StructureBoxScores], dict[str, str]]:
    """Return the scores of a structure, and the fingerprints of its boxes."""
    with_both = _samples_with_both(samples, name)
    slices = [_compared_slices(sample, name, settings) for sample in with_both]
    if not any(slices):
        raise SampleError(
            f"The detector of '{name}' was trained on every annotated image, so a score would be "
            "too high; annotate other images, or use --images all."
        )
    scores = []
    fingerprints: dict[str, str] = {}
    for kind in _kinds_of_boxes(with_both, name):
        is_predicted = kind == "predicted"
        stored = [read_detected_boxes(sample, name, is_predicted) for sample in with_both]
        scores.append(_compare_structure(with_both, stored, name, slices, kind))
        fingerprints |= _fingerprints(with_both, stored, f"{name} {kind}")
    annotated = [read_annotated_boxes(sample, name) for sample in with_both]
    fingerprints |= _fingerprints(with_both, annotated, f"{name} annotated")
    return scores, fingerprints


def _fingerprints(
    samples: Sequence[Sample], stored: Sequence[StoredBoxes], description: str
) -> dict[str, str]:
    """Return the fingerprints of boxes of several samples, by sample and description."""
    sample_names = sample_names_of(samples)
    fingerprints = {}
    for sample_name, boxes in zip(sample_names, stored, strict=True):
        fingerprints[f"{sample_name} {description}"] = boxes.fingerprint
    return fingerprints


def _samples_with_both(samples: Sequence[Sample], name: str) -> list[Sample]:
    """Return the samples with annotated and detected boxes of a structure, at least one."""
    with_both = [sample for sample in samples if _has_both(sample, name)]
    if not with_both:
        known = sorted(_structures_with_both(samples))
        raise SampleError(
            f"No sample has both annotated and detected boxes of '{name}'{nearest(name, known)}"
        )
    return with_both


def _kinds_of_boxes(samples: Sequence[Sample], name: str) -> list[str]:
    """Return the kinds of boxes that are compared: predicted, and perhaps constrained ones."""
    # Where only some samples are constrained, constrained boxes would be of other images.
    if all(read_detected_boxes(sample, name).metadata.get("made_from") for sample in samples):
        return ["predicted", "constrained"]
    return ["predicted"]


def _compare_structure(
    samples: Sequence[Sample],
    stored: Sequence[StoredBoxes],
    name: str,
    slices: Sequence[tuple[int, ...]],
    kind: str,
) -> StructureBoxScores:
    """Return the scores of detected boxes of one structure.

    Args:
        samples: samples with annotated boxes.
        stored: detected boxes of each sample.
        name: structure.
        slices: slices of each sample that are compared.
        kind: ``predicted`` or ``constrained``.
    """
    all_boxes = []
    counted = []
    sample_names = sample_names_of(samples)
    parts = zip(samples, sample_names, stored, slices, strict=True)
    for sample, sample_name, boxes, indices in parts:
        truth = read_annotated_boxes(sample, name).boxes
        all_boxes.append(BoxComparison(truth, boxes.boxes, indices, sample_name))
        counted.append(BoxComparison(truth, boxes.counted(), indices, sample_name))
    scores = box_scores(all_boxes, [name])[0]
    n_images = sum(map(len, slices))
    return StructureBoxScores(kind, scores, object_counts(counted, name), n_images)


def _confusion(
    samples: Sequence[Sample], names: Sequence[str], settings: DetectScoreSettings
) -> NDArray[np.int64]:
    """Return the confusion of structures on images that are annotated with all of them."""
    compared = []
    sample_names = sample_names_of(samples)
    for sample, sample_name in zip(samples, sample_names, strict=True):
        if all(_has_both(sample, name) for name in names):
            compared.append(_comparison_of_all(sample, sample_name, names, settings))
    return confusion_matrix(compared, names)


def _comparison_of_all(
    sample: Sample, sample_name: str, names: Sequence[str], settings: DetectScoreSettings
) -> BoxComparison:
    """Return the boxes of all structures on the images of a sample that all can be compared on."""
    slice_sets = [set(_compared_slices(sample, name, settings)) for name in names]
    slices = tuple(sorted(set.intersection(*slice_sets)))
    truth = concatenate_boxes([read_annotated_boxes(sample, name).boxes for name in names])
    detected = [read_detected_boxes(sample, name).counted() for name in names]
    return BoxComparison(truth, concatenate_boxes(detected), slices, sample_name)


def _compared_slices(sample: Sample, name: str, settings: DetectScoreSettings) -> tuple[int, ...]:
    """Return the slices that were annotated and searched, and that its detector did not use.

    Raises:
        SampleError: annotated and detected boxes lie on images with other pixels, or it is not
            known which slices the detector used.
    """
    annotated = read_annotated_boxes(sample, name)
    detected = read_detected_boxes(sample, name, as_predicted=True)
    _refuse_other_pixels(sample, name, annotated.image, detected.image)
    slices = sorted(set(annotated.slices) & set(detected.slices))
    if settings.images == "all":
        return tuple(slices)
    used_slices = detected.metadata.get("used_slices")
    if used_slices is None:
        raise SampleError(
            f"It is not known which images the detector of '{name}' was trained on; score all of "
            "them with --images all."
        )
    raw = sample.image("raw")
    return tuple(z for z in slices if slice_digest(raw, z) not in used_slices)


def _refuse_other_pixels(sample: Sample, name: str, drawn_on: str, detected_on: str) -> None:
    """Raise a SampleError if the pixels of two images lie elsewhere."""
    if sample.grid_image(drawn_on) != sample.grid_image(detected_on):
        raise SampleError(
            f"Boxes of '{name}' in {sample.path.name} were drawn on '{drawn_on}' and detected on "
            f"'{detected_on}', whose pixels lie elsewhere; detect them with --image {drawn_on}."
        )
