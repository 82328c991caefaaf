"""Structures of a sample in the order in which they are drawn, with their ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsem.annotation.ground_truth import GroundTruth, read_ground_truth
from sparsem.annotation.settings import GroundTruthSettings
from sparsem.errors import SampleError, SparsemError
from sparsem.labels.results import object_labels, result_labels, result_names
from sparsem.report.plots.colors import RGB, STRUCTURE_COLORS, css_color, structure_color
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


@dataclass(frozen=True)
class StructureLayer:
    """A structure to draw.

    Attributes:
        name: name of the structure.
        labels: the result, if there is one.
        truth: ground truth of the same full resolution, if there is any.
        cells: whether every number gets its own color.
        fallback_index: which of the fallback colors a structure without a color of the papers has.
        only: numbers of the objects that are drawn; all if None.
        separate: whether every object is a mesh of its own, in its own color.
    """

    name: str
    labels: Volume | None
    truth: GroundTruth | None
    cells: bool
    fallback_index: int = 0
    only: tuple[int, ...] | None = None
    separate: bool = False

    @property
    def numbered(self) -> bool:
        """True if the labels number objects; those of a mask do not."""
        return self.labels is not None and self.labels.dtype != np.uint8

    @property
    def color(self) -> RGB:
        """Color of the structure; not used for cells, which have one each."""
        return structure_color(self.name, self.fallback_index)


def read_layers(
    sample: Sample,
    structures: Sequence[str],
    cells: str,
    truth: Mapping[str, tuple[str, GroundTruthSettings]],
    fallback_names: Sequence[str] = (),
) -> tuple[list[StructureLayer], list[str]]:
    """Return the structures of a sample, cells first and then the larger ones.

    Args:
        sample: the sample to read.
        structures: names of the structures; all results if empty.
        cells: name of the cells.
        truth: structure -> file or volume of its ground truth and which slices it labels, for
            structures whose ground truth is not in ``truth/NAME``.
        fallback_names: structures without a color of the papers, of all samples that are shown
            together; those of this sample if empty.

    Returns:
        The layers, and a sentence about everything that cannot be shown.
    """
    order = [cells, *STRUCTURE_COLORS]
    names = _sort_names(list(structures) or result_names(sample), order)
    fallback_names = fallback_names or [name for name in names if name not in order]
    layers: list[StructureLayer] = []
    problems: list[str] = []
    for name in names:
        labels = _read_labels(sample, name, problems)
        source, settings = truth.get(name, (None, GroundTruthSettings()))
        true_labels = _read_truth(sample, name, source, settings, labels, problems)
        if labels is None and true_labels is None:
            continue
        index = fallback_names.index(name) if name in fallback_names else 0
        is_cells = name == cells
        layer = StructureLayer(name, labels, true_labels, is_cells, index, separate=is_cells)
        layers.append(layer)
    return layers, problems


def _sort_names(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return names in an order; those that it lacks come last, sorted."""
    return sorted(
        names, key=lambda name: (order.index(name) if name in order else len(order), name)
    )


def with_object_meshes(layers: Sequence[StructureLayer]) -> list[StructureLayer]:
    """Return layers of which every object is a mesh of its own, where objects are numbered."""
    return [replace(layer, separate=layer.numbered) for layer in layers]


def refuse_montage(sample: Sample, labels: Volume) -> None:
    """Check that labels belong to a stack, which has a depth.

    Raises:
        SampleError: they belong to separate images.
    """
    if labels.sizes:
        raise SampleError(
            f"{sample.path.name} holds separate images (a montage), which have no depth; "
            "renderings and meshes show stacks. 'sparsem report' shows the images."
        )


def require_numbers(sample: Sample, layer: StructureLayer) -> Volume:
    """Return the labels of a layer, which number its objects.

    Raises:
        SampleError: they do not.
    """
    if layer.labels is None or not layer.numbered:
        raise SampleError(
            f"The objects of {layer.name} in {sample.path.name} have no numbers yet; run "
            f"'sparsem objects {sample.path.name} {layer.name}' first."
        )
    return layer.labels


def layer_colors(layers: Sequence[StructureLayer]) -> Mapping[str, str]:
    """Return the CSS color of every structure; empty for cells, which have a color each."""
    return {layer.name: "" if layer.cells else css_color(layer.color) for layer in layers}


def _read_labels(sample: Sample, name: str, problems: list[str]) -> Volume | None:
    """Return the result of a structure: as predicted if the constrained one is outdated."""
    try:
        return object_labels(sample, name) or result_labels(sample, name)
    except SparsemError as error:
        problems.append(str(error))
        return sample.volume("labels", name) if name in sample.names("labels") else None


def _read_truth(
    sample: Sample,
    name: str,
    source: str | None,
    settings: GroundTruthSettings,
    labels: Volume | None,
    problems: list[str],
) -> GroundTruth | None:
    """Return ground truth of the sample itself, or of ``source``."""
    if source is None and name not in sample.names("truth"):
        return None
    try:
        return read_ground_truth(sample, name, labels, source, settings, objects=True)
    except SparsemError as error:
        problems.append(f"The ground truth of {name} is not shown: {error}")
        return None
