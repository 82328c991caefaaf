"""Scoring: boxes that a detector found beside annotated ones, on pictures that it did not learn from, over several samples together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.boxes.geometry import concatenate_boxes
from sparsem.boxes.tables import (
    METADATA_KEY,
    StoredBoxes,
    annotated_box_structures,
    detected_box_structures,
    read_annotated_boxes,
    read_detected_boxes,
)
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
from sparsem.settings import Settings, nearest, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.slice_use import slice_digest


class DetectScoreSettings(Settings):
    """Which boxes are compared."""

    structure: tuple[str, ...] = Field(
        (), description="what to compare; repeat it; all that was annotated and found if not given"
    )
    images: Literal["unseen", "all"] = Field(
        "unseen",
        description="unseen: without those that were learnt from, validated on or left out",
    )


@dataclass(frozen=True)
class StructureBoxScores:
    """How good the boxes of one structure are.

    Attributes:
        kind: ``predicted``, all that the detector told, or ``constrained``, those that biology allows.
        scores: of all boxes.
        counts: of those that are taken for objects.
        pictures: how many were compared.
    """

    kind: str
    scores: BoxScores
    counts: ObjectCounts
    pictures: int


@dataclass(frozen=True)
class BoxEvaluation:
    """How good boxes are.

    Attributes:
        names: of the structures.
        boxes: as predicted, and constrained where all samples are.
        confusion: (K + 1, K + 1), of boxes that are taken for objects, on pictures where all structures were annotated.
        pictures: ``unseen`` or ``all``, which were compared.
        made_from: fingerprints of what was compared, by sample and structure.
    """

    names: tuple[str, ...]
    boxes: tuple[StructureBoxScores, ...]
    confusion: NDArray[np.int64]
    pictures: str
    made_from: Mapping[str, str]

    def of(self, kind: str) -> dict[str, StructureBoxScores]:
        """By structure."""
        return {one.scores.name: one for one in self.boxes if one.kind == kind}

    def table(self) -> pa.Table:
        """One row a structure, and whether its boxes were held to biology (thesis, table 5)."""
        rows = [
            {"structure": one.scores.name, "boxes": one.kind, "pictures": one.pictures, "annotated": one.scores.truth,
             "found": one.scores.predicted, "map": one.scores.map, "ar": one.scores.ar, "ap50": one.scores.ap50, "ap75": one.scores.ap75,
             "counted": int(one.counts.predicted.sum()), "count_error_per_picture": one.counts.mean_error, "count_bias": one.counts.bias}
            for one in self.boxes
        ]  # fmt: skip
        return pa.Table.from_pylist(rows)

    def tables(self) -> dict[str, pa.Table]:
        """``box_scores``; and what is drawn: ``box_curves``, precision at each recall; ``box_counts``; ``box_confusion``."""
        curves = [
            {
                "structure": one.scores.name,
                "boxes": one.kind,
                "recall": recall,
                "precision": precision,
            }
            for one in self.boxes
            for recall, precision in zip(RECALLS.tolist(), one.scores.curve.tolist(), strict=True)
        ]
        numbers = [
            {
                "structure": one.scores.name,
                "boxes": one.kind,
                "sample": sample,
                "z": z,
                "annotated": truth,
                "counted": found,
            }
            for one in self.boxes
            for (sample, z), truth, found in zip(
                one.counts.images,
                one.counts.truth.tolist(),
                one.counts.predicted.tolist(),
                strict=True,
            )
        ]
        confusion = [
            {"annotated": name, **dict(zip((*self.names, "missed"), row, strict=True))}
            for name, row in zip((*self.names, "not there"), self.confusion.tolist(), strict=True)
        ]
        made = {"box_scores": self.table()}
        made |= {name: pa.Table.from_pylist(rows) for name, rows in
                 (("box_curves", curves), ("box_counts", numbers), ("box_confusion", confusion))}  # fmt: skip
        about = {
            METADATA_KEY: json.dumps(
                {"made_from": dict(self.made_from), "pictures": self.pictures}
            ).encode()
        }
        return {name: table.replace_schema_metadata(about) for name, table in made.items()}


def score_boxes(
    samples: Sequence[Sample], settings: DetectScoreSettings | None = None, **changes: Any
) -> BoxEvaluation:
    """Compare the boxes of samples, all together, and write ``tables/box_scores`` of each by itself, with what is drawn of them.

    Raises:
        SampleError: nothing was both annotated and found, or every annotated picture was learnt from.
    """
    settings = resolve_settings(DetectScoreSettings, settings, changes)
    names = settings.structure or _names(samples)
    together_ = _judged(samples, names, settings)
    for sample in samples:
        own = [
            name for name in names if _has_both(sample, name) and _pictures(sample, name, settings)
        ]
        if own:
            with sample.locked():
                for name, table in _judged([sample], own, settings).tables().items():
                    sample.write_table(name, table)
    return together_


def can_be_scored(sample: Sample, settings: DetectScoreSettings = DetectScoreSettings()) -> bool:
    """Whether there is a picture whose boxes were annotated and found, and that nobody learnt from."""
    return any(
        _has_both(sample, name) and _pictures(sample, name, settings)
        for name in detected_box_structures(sample)
    )


def _has_both(sample: Sample, name: str) -> bool:
    return name in annotated_box_structures(sample) and name in detected_box_structures(sample)


def _names(samples: Sequence[Sample]) -> tuple[str, ...]:
    names = tuple(
        dict.fromkeys(
            name
            for sample in samples
            for name in detected_box_structures(sample)
            if _has_both(sample, name)
        )
    )
    if not names:
        raise SampleError(
            f"Nothing was both annotated and found in {' and '.join(sample.path.name for sample in samples[:3])}; bring annotated boxes in "
            "with 'sparsem detect import', and find some with 'sparsem detect predict'."
        )
    return names


def _judged(
    samples: Sequence[Sample], names: Sequence[str], settings: DetectScoreSettings
) -> BoxEvaluation:
    boxes: list[StructureBoxScores] = []
    made_from: dict[str, str] = {}
    for name in names:
        own = [sample for sample in samples if _has_both(sample, name)]
        if not own:
            known = sorted(
                {
                    each
                    for sample in samples
                    for each in annotated_box_structures(sample)
                    if _has_both(sample, each)
                }
            )
            raise SampleError(
                f"No sample has both annotated and found boxes of '{name}'{nearest(name, known)}"
            )
        pictures = [_pictures(sample, name, settings) for sample in own]
        if not any(pictures):
            raise SampleError(
                f"The detector of '{name}' learnt from every annotated picture, so a score would promise too much; annotate others, or use "
                "--images all."
            )
        # Where some samples are constrained and others are not, constrained boxes would be of other pictures.
        constrained = all(
            read_detected_boxes(sample, name).about.get("made_from") for sample in own
        )
        for kind in ("predicted", *(["constrained"] if constrained else [])):
            kept = [
                read_detected_boxes(sample, name, as_predicted=kind == "predicted")
                for sample in own
            ]
            boxes.append(_compared(own, kept, name, pictures, kind))
            made_from |= {
                f"{sample.name} {name} {kind}": one.fingerprint
                for sample, one in zip(own, kept, strict=True)
            }
        made_from |= {
            f"{sample.name} {name} annotated": read_annotated_boxes(sample, name).fingerprint
            for sample in own
        }
    return BoxEvaluation(
        tuple(names),
        tuple(boxes),
        _confused(samples, names, settings),
        settings.images,
        made_from,
    )


def _compared(
    own: Sequence[Sample],
    kept: Sequence[StoredBoxes],
    name: str,
    pictures: Sequence[tuple[int, ...]],
    kind: str,
) -> StructureBoxScores:
    truth = [read_annotated_boxes(sample, name).boxes for sample in own]
    columns = list(zip(truth, kept, pictures, own, strict=True))
    every = [BoxComparison(true, one.boxes, z, sample.name) for true, one, z, sample in columns]
    counted = [
        BoxComparison(true, one.counted(), z, sample.name) for true, one, z, sample in columns
    ]
    return StructureBoxScores(
        kind, box_scores(every, [name])[0], object_counts(counted, name), sum(map(len, pictures))
    )


def _confused(
    samples: Sequence[Sample], names: Sequence[str], settings: DetectScoreSettings
) -> NDArray[np.int64]:
    """What was taken for what, where all structures were annotated."""
    compared = []
    for sample in samples:
        if all(_has_both(sample, name) for name in names):
            pictures = set.intersection(*(set(_pictures(sample, name, settings)) for name in names))
            truth = concatenate_boxes([read_annotated_boxes(sample, name).boxes for name in names])
            found = concatenate_boxes(
                [read_detected_boxes(sample, name).counted() for name in names]
            )
            compared.append(BoxComparison(truth, found, tuple(sorted(pictures)), sample.name))
    return confusion_matrix(compared, names)


def _pictures(sample: Sample, name: str, settings: DetectScoreSettings) -> tuple[int, ...]:
    """Pictures where a structure was annotated and looked for, but for those that its detector saw before."""
    drawn, found = (
        read_annotated_boxes(sample, name),
        read_detected_boxes(sample, name, as_predicted=True),
    )
    if sample.drawn_on(drawn.image) != sample.drawn_on(found.image):
        raise SampleError(
            f"Boxes of '{name}' in {sample.path.name} were drawn on '{drawn.image}' and found on '{found.image}', whose pixels lie "
            f"elsewhere; find them with --image {drawn.image}."
        )
    pictures = sorted(set(drawn.pictures) & set(found.pictures))
    seen = found.about.get("seen")
    if settings.images == "all":
        return tuple(pictures)
    if seen is None:
        raise SampleError(
            f"Nobody knows which pictures the detector of '{name}' learnt from; score all of them with --images all."
        )
    raw = sample.image("raw")
    return tuple(z for z in pictures if slice_digest(raw, z) not in seen)
