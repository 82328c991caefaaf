"""What the labeled slices of a sample were to the training of its labels."""

from sparsem.annotation.labeled_slices import (
    annotated_structures,
    annotation_of_output,
    outputs_of_cells,
)
from sparsem.labels.results import CONSTRAINED
from sparsem.store.sample import Sample
from sparsem.store.slice_use import SliceUse, use_of


def slice_use_of(sample: Sample, name: str) -> SliceUse | None:
    """Return what slices were to the training of ``labels/NAME``; None if that is not known, as of labels made elsewhere.

    Cells are carried from their annotated slices, so these count as trained.
    """
    base = name.removesuffix(CONSTRAINED)
    made_of = [
        entry["settings"].get("cells")
        for entry in sample.history()
        if f"labels/{base}-regions" in entry["outputs"]
    ]
    if made_of:
        return _use_of_cells(sample, str(made_of[-1]))
    if base not in sample.names("labels"):
        return None
    return use_of(sample.volume("labels", base).slice_use)


def _use_of_cells(sample: Sample, annotation: str) -> SliceUse:
    """Return the annotated slices, and those that the network was trained on."""
    annotated = annotated_structures(sample).get(annotation_of_output(annotation), ())
    known = [name for name in outputs_of_cells(annotation) if name in sample.names("probabilities")]
    uses = [use_of(sample.volume("probabilities", name).slice_use) for name in known]
    trained = {*annotated, *(z for use in uses if use for z in use.trained)}
    validated = {z for use in uses if use for z in use.validated} - trained
    return SliceUse(tuple(sorted(trained)), tuple(sorted(validated)))
