"""What there is to show of a sample: its structures, in the order in which they lie over each other, with their truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsem.annotation.ground_truth import GroundTruth, GroundTruthSettings, read_ground_truth
from sparsem.errors import SparsemError
from sparsem.labels.results import object_labels, result_labels
from sparsem.measure.settings import result_names
from sparsem.report.plots.figures import COLORS, color_of
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


@dataclass(frozen=True)
class Layer:
    """A structure.

    Attributes:
        name: of the structure.
        labels: found, if it was.
        truth: ground truth of the same full resolution, if there is any.
        cells: whether each number gets a color of its own.
        place: among the structures that have no color of their own in the papers.
        only: numbers of the objects that are shown; all if None.
    """

    name: str
    labels: Volume | None
    truth: GroundTruth | None
    cells: bool
    place: int = 0
    only: tuple[int, ...] | None = None

    @property
    def color(self) -> tuple[int, int, int]:
        """Red, green, blue; of cells it means nothing."""
        return color_of(self.name, self.place)


def layers_of(
    sample: Sample,
    structures: Sequence[str],
    cells: str,
    truth: Mapping[str, tuple[str, GroundTruthSettings]],
    others: Sequence[str] = (),
) -> tuple[list[Layer], list[str]]:
    """Structures, cells first and then the larger ones, and a sentence on everything that cannot be shown.

    Args:
        sample: as it is.
        structures: which; all results if none is named.
        cells: name of the cells.
        truth: name to volume and what of it is labeled, for structures whose ground truth lies elsewhere than in ``truth/NAME``.
        others: structures without a color of the papers, of all samples that are shown together; those of this one if not given.
    """
    names = list(structures) or result_names(sample, cells)
    order = [cells, *COLORS]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    others = others or [name for name in names if name not in order]
    made: list[Layer] = []
    problems: list[str] = []
    for name in names:
        labels: Volume | None = None
        try:
            labels = object_labels(sample, name) or result_labels(sample, name)
        except SparsemError as error:
            problems.append(str(error))
            labels = (
                sample.volume("labels", name) if name in sample.names("labels") else None
            )  # as predicted, then
        source, how = truth.get(name, (None, GroundTruthSettings()))
        true = _truth(sample, name, source, how, labels, problems)
        if labels is not None or true is not None:
            made.append(
                Layer(
                    name, labels, true, name == cells, others.index(name) if name in others else 0
                )
            )
    return made, problems


def legend(layers: Sequence[Layer]) -> Mapping[str, str]:
    """CSS color of every structure; empty for cells, whose colors mean nothing."""
    return {
        one.name: "" if one.cells else "#{:02x}{:02x}{:02x}".format(*one.color) for one in layers
    }


def _truth(
    sample: Sample,
    name: str,
    source: str | None,
    settings: GroundTruthSettings,
    labels: Volume | None,
    problems: list[str],
) -> GroundTruth | None:
    """Return ground truth, of the sample itself or from elsewhere."""
    if source is None and name not in sample.names("truth"):
        return None
    try:
        return read_ground_truth(sample, name, labels, source, settings, objects=True)
    except SparsemError as error:
        problems.append(f"The ground truth of {name} is not shown: {error}")
        return None
