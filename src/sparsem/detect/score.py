"""Scoring: boxes that a detector found beside annotated ones, on pictures that it did not learn from, over several samples together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.box_tables import FOUND, Kept, annotated_names, found_names, read_annotated, read_found
from sparsem.boxes import Boxes, together
from sparsem.contents import CONSTRAINED
from sparsem.errors import SampleError
from sparsem.score.boxes import BoxScores, Compared, Counts, box_scores, confusion, counts
from sparsem.settings import Settings, nearest
from sparsem.store.sample import Sample


class DetectScoreSettings(Settings):
    """Which boxes are compared."""

    structure: tuple[str, ...] = Field((), description="what to compare; repeat it; all that was annotated and found if not given")
    pictures: Literal["unseen", "all"] = Field("unseen", description="unseen: without those that the detector learnt from or was chosen by")


@dataclass(frozen=True)
class Judged:
    """How good boxes are.

    Attributes:
        names: of the structures.
        as_predicted: scores of each, of all boxes that the detector told.
        constrained: the same, of those that biology allows; empty where nobody asked for that.
        counts: of each, of boxes that are taken for objects.
        confusion: (K + 1, K + 1), of these, on pictures where all structures were annotated.
        pictures: how many were compared for each.
    """

    names: tuple[str, ...]
    as_predicted: tuple[BoxScores, ...]
    constrained: tuple[BoxScores, ...]
    counts: Mapping[str, Counts]
    confusion: NDArray[np.int64]
    pictures: Mapping[str, int]

    def table(self) -> pa.Table:
        """One row a structure, and whether its boxes were held to biology (thesis, table 5)."""
        rows = []
        for kind, found in (("predicted", self.as_predicted), ("constrained", self.constrained)):
            for one in found:
                own = self.counts[one.name]
                rows.append(
                    {"structure": one.name, "boxes": kind, "pictures": self.pictures[one.name], "annotated": one.truth, "found": one.found,
                     "map": one.map, "ar": one.ar, "ap50": one.ap50, "ap75": one.ap75, "counted": int(own.found.sum()),
                     "count_error_per_picture": own.mean_error, "count_bias": own.bias}
                )  # fmt: skip
        return pa.Table.from_pylist(rows)

    def tables(self) -> dict[str, pa.Table]:
        """What is drawn: ``box_curves``, precision at each recall; ``box_counts``, a row a picture; ``box_confusion``."""
        curves = [
            {"structure": one.name, "boxes": kind, "recall": recall, "precision": precision}
            for kind, found in (("predicted", self.as_predicted), ("constrained", self.constrained))
            for one in found
            for recall, precision in zip(np.linspace(0, 1, len(one.curve)).tolist(), one.curve.tolist(), strict=True)
        ]
        numbers = [
            {"structure": name, "sample": sample, "z": z, "annotated": truth, "counted": found}
            for name, own in self.counts.items()
            for (sample, z), truth, found in zip(own.pictures, own.truth.tolist(), own.found.tolist(), strict=True)
        ]
        columns = (*self.names, "missed")
        confusion = [
            {"annotated": name, **dict(zip(columns, row, strict=True))}
            for name, row in zip((*self.names, "not there"), self.confusion.tolist(), strict=True)
        ]
        return {name: pa.Table.from_pylist(rows) for name, rows in
                (("box_curves", curves), ("box_counts", numbers), ("box_confusion", confusion))}  # fmt: skip


def score_boxes(samples: Sequence[Sample], settings: DetectScoreSettings = DetectScoreSettings()) -> Judged:
    """Compare the boxes of samples, all together, and write ``tables/box_scores`` of each by itself, with what is drawn of them.

    Raises:
        SampleError: nothing was both annotated and found, or every annotated picture was learnt from.
    """
    names = settings.structure or _names(samples)
    for sample in samples:
        own = [name for name in names if name in annotated_names(sample) and name in found_names(sample)]
        if own and _pictures(sample, own, settings, all_of_them=False):
            judged = _judged([sample], own, settings)
            for name, table in {"box_scores": judged.table(), **judged.tables()}.items():
                sample.write_table(name, table)
    return _judged(samples, names, settings)


def _names(samples: Sequence[Sample]) -> tuple[str, ...]:
    both = [[name for name in found_names(sample) if name in annotated_names(sample)] for sample in samples]
    names = tuple(dict.fromkeys(name for own in both for name in own))
    if not names:
        raise SampleError(
            f"Nothing was both annotated and found in {' and '.join(sample.path.name for sample in samples[:3])}; bring annotated boxes in "
            "with 'sparsem detect import', and find some with 'sparsem detect predict'."
        )
    return names


def _judged(samples: Sequence[Sample], names: Sequence[str], settings: DetectScoreSettings) -> Judged:
    with_both = {name: [one for one in samples if name in annotated_names(one) and name in found_names(one)] for name in names}
    for name, own in with_both.items():
        if not own:
            known = sorted({each for sample in samples for each in annotated_names(sample)})
            raise SampleError(f"No sample has both annotated and found boxes of '{name}'{nearest(name, known)}")
    before = {name: [_compared(one, [name], settings, as_predicted=True) for one in own] for name, own in with_both.items()}
    held = {name: [_compared(one, [name], settings) for one in own if _is_constrained(one, name)] for name, own in with_both.items()}
    for name, compared in before.items():
        if not any(one.pictures for one in compared):
            raise SampleError(
                f"The detector of '{name}' learnt from every annotated picture, so a score would promise too much; annotate others, or use "
                "--pictures all."
            )
    counted = {name: [_compared(one, [name], settings, counted=True) for one in own] for name, own in with_both.items()}
    everything = [_compared(one, names, settings, counted=True) for one in samples if all(one in own for own in with_both.values())]
    return Judged(
        tuple(names),
        tuple(box_scores(compared, [name])[0] for name, compared in before.items()),
        tuple(box_scores(compared, [name])[0] for name, compared in held.items() if compared),
        {name: counts(compared, name) for name, compared in counted.items()},
        confusion(everything, names),
        {name: sum(len(one.pictures) for one in compared) for name, compared in before.items()},
    )


def _is_constrained(sample: Sample, name: str) -> bool:
    return f"{FOUND}{name}{CONSTRAINED}" in sample.tables


def _compared(
    sample: Sample, names: Sequence[str], settings: DetectScoreSettings, as_predicted: bool = False, counted: bool = False
) -> Compared:
    truth = together([read_annotated(sample, name).boxes for name in names])
    parts: list[Boxes] = []
    for name in names:
        kept: Kept = read_found(sample, name, as_predicted)
        parts.append(kept.counted() if counted else kept.boxes)
    return Compared(truth, together(parts), _pictures(sample, names, settings), sample.name)


def _pictures(sample: Sample, names: Sequence[str], settings: DetectScoreSettings, all_of_them: bool = True) -> tuple[int, ...]:
    """Pictures where all structures, or any, were annotated, but for those that a detector saw before."""
    kept: dict[str, Any] = {name: (read_annotated(sample, name), read_found(sample, name, as_predicted=True)) for name in names}
    for name, (drawn, found) in kept.items():
        if sample.drawn_on(drawn.image) != sample.drawn_on(found.image):
            raise SampleError(
                f"Boxes of '{name}' in {sample.path.name} were drawn on '{drawn.image}' and found on '{found.image}', whose pixels lie "
                f"elsewhere; find them with --image {drawn.image}."
            )
    sets = [set(drawn.pictures) & set(found.pictures) for drawn, found in kept.values()]
    pictures = set.intersection(*sets) if all_of_them else set.union(*sets)
    if settings.pictures == "unseen":
        raw = sample.image("raw").fingerprint  # whatever the sample is called now
        pictures -= {z for _, found in kept.values() for z in found.about.get("seen", {}).get(raw, ())}
    return tuple(sorted(pictures))
