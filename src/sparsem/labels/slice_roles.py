"""Roles of the labeled slices of a sample in the training of its labels."""

from sparsem.annotation.labeled_slices import (
    annotated_structures,
    annotation_of_output,
    outputs_of_cells,
)
from sparsem.store.names import CONSTRAINED, REGIONS
from sparsem.store.sample import Sample
from sparsem.store.slice_use import SliceUse, use_of


def slice_use_of(sample: Sample, name: str) -> SliceUse | None:
    """Return the slices on which the network of ``labels/NAME`` was trained and validated.

    None if they are unknown, as for imported labels. Cells are propagated from their annotated
    slices, so these count as trained.
    """
    base = name.removesuffix(CONSTRAINED)
    cell_annotations = [
        entry["settings"].get("cells")
        for entry in sample.history()
        if f"labels/{base}{REGIONS}" in entry["outputs"]
    ]
    if cell_annotations:
        return _use_of_cells(sample, str(cell_annotations[-1]))
    if base not in sample.names("labels"):
        return None
    return use_of(sample.volume("labels", base).slice_use)


def _use_of_cells(sample: Sample, annotation: str) -> SliceUse:
    """Return the annotated slices, and those that the network was trained on."""
    annotated = annotated_structures(sample).get(annotation_of_output(annotation), ())
    trained = set(annotated)
    validated: set[int] = set()
    for output in outputs_of_cells(annotation):
        if output not in sample.names("probabilities"):
            continue
        use = use_of(sample.volume("probabilities", output).slice_use)
        if use:
            trained |= set(use.trained)
            validated |= set(use.validated)
    return SliceUse(tuple(sorted(trained)), tuple(sorted(validated - trained)))
