"""The labels of a structure that count, and results that are outdated."""

from collections.abc import Mapping
from typing import Any

from sparsem.annotation.labeled_slices import annotation_names
from sparsem.annotation.precedence import STAGE, is_precedence_current
from sparsem.errors import SampleError
from sparsem.store.names import CONSTRAINED, OBJECTS, base_name, is_step
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


def result_names(sample: Sample) -> list[str]:
    """Return the names of the labels that are results.

    Intermediate steps and other separations of the cells are no results; see ``store.names``.
    """
    return [name for name in sample.names("labels") if not is_step(name)]


def result_labels(sample: Sample, name: str) -> Volume:
    """Return the labels of a structure that count: the constrained ones, else ``labels/NAME``.

    Raises:
        SampleError: there are no labels, the image that they were made on was replaced, or labels
            have changed since they were constrained.
    """
    labels = sample.volume("labels", name)
    sample.transform_of(labels)
    _refuse_missing_drawing(sample, name)
    if f"{name}{CONSTRAINED}" not in sample.names("labels"):
        return labels
    inputs = _constrained_inputs(sample)
    changed = [
        structure
        for structure, fingerprint in inputs.items()
        if _differs(sample, structure, fingerprint)
    ]
    if name not in inputs:
        changed.append(name)
    if changed:
        raise SampleError(
            f"labels/{changed[0]} of {sample.path.name} has changed since labels/{name} was "
            f"constrained; run 'sparsem constrain {sample.path.name} --overwrite', or the same "
            "with --undo."
        )
    _refuse_missing_drawing(sample, f"{name}{CONSTRAINED}")
    return sample.volume("labels", f"{name}{CONSTRAINED}")


def computed_labels(sample: Sample, name: str) -> Volume:
    """Return the labels of a structure that count, without what a person drew in them.

    Only these show how good a network is.

    Raises:
        SampleError: see ``result_labels``.
    """
    return sample.computed(result_labels(sample, name).directory.name)


def _refuse_missing_drawing(sample: Sample, name: str) -> None:
    """Raise a SampleError if labels lack something that a person drew: a run was killed."""
    if not is_precedence_current(sample, name):
        raise SampleError(
            f"labels/{name} of {sample.path.name} lacks labels that were drawn by hand, because a "
            f"run was interrupted; run 'sparsem correct {sample.path.name} {name}'."
        )


def require_same_pixels(sample: Sample, labels: Mapping[str, Volume], advice: str) -> None:
    """Check that every voxel of all labels shows the same position.

    Args:
        sample: sample that holds the labels.
        labels: the labels by structure.
        advice: what the user can do, in the imperative.

    Raises:
        SampleError: labels differ in shape or voxel size, or belong to differently aligned images.
    """
    first_name, first = next(iter(labels.items()))
    for name, volume in labels.items():
        title = f"labels/{name} of {sample.path.name}"
        for attribute in ("shape", "voxel_size"):
            expected = getattr(first, attribute)
            actual = getattr(volume, attribute)
            if actual != expected:
                raise SampleError(
                    f"{title} has the {attribute.replace('_', ' ')} {tuple(actual)}, "
                    f"but labels/{first_name} {tuple(expected)}; {advice}."
                )
        if not sample.transform_of(volume).is_same(sample.transform_of(first)):
            raise SampleError(
                f"{title} belongs to the image '{sample.name_of_image(volume)}', "
                f"but labels/{first_name} to '{sample.name_of_image(first)}', "
                f"which is aligned differently; {advice}."
            )


def _constrained_inputs(sample: Sample) -> dict[str, str]:
    """Return the fingerprints of the labels that ``constrain`` read, by structure."""
    prefix = "input labels/"
    return {
        key.removeprefix(prefix): fingerprint
        for key, fingerprint in sample.last_settings("constrain").items()
        if key.startswith(prefix)
    }


def _differs(sample: Sample, name: str, fingerprint: str) -> bool:
    """Return True if ``labels/NAME`` has another fingerprint, or is missing."""
    if name not in sample.names("labels"):
        return True
    return sample.computed(name).fingerprint != fingerprint


def object_labels(sample: Sample, name: str) -> Volume | None:
    """Return ``labels/NAME-objects``, the objects of a mask that ``measure`` counts.

    None if they do not exist, or were not computed from the labels that count.

    Raises:
        SampleError: see ``result_labels``.
    """
    if f"{name}{OBJECTS}" not in sample.names("labels"):
        return None
    mask_fingerprint = sample.last_settings(f"objects-{name}").get("input mask")
    if mask_fingerprint != result_labels(sample, name).fingerprint:
        return None
    return sample.volume("labels", f"{name}{OBJECTS}")


def is_outdated(sample: Sample, name: str, table: str) -> bool:
    """Return True if a table was computed from something else than what the sample holds now.

    That is ``tables/scores_NAME`` or ``tables/NAME``, compared with the labels of the structure
    that count, or ``tables/quality_NAME``, compared with the image.

    Args:
        sample: sample that holds the table.
        name: name of the structure or image.
        table: the stage that computed it: ``score``, ``measure`` or ``quality``.
    """
    read_fingerprint = _fingerprint_of_table(sample, name, table)
    if read_fingerprint is None:
        return False
    try:
        has_changed = read_fingerprint != _fingerprint_to_read(sample, name, table)
        return has_changed or (table == "measure" and _were_objects_renumbered(sample, name))
    except SampleError:
        return True


def _fingerprint_to_read(sample: Sample, name: str, table: str) -> str:
    """Return the fingerprint of what a table would be computed from now."""
    if table == "quality":
        return sample.image(name).fingerprint
    labels = result_labels(sample, name)
    if table == "score" and not sample.last_settings(f"score-{name}").get("with_drawn"):
        return labels.computed_fingerprint  # what a person drew would be compared with itself
    return labels.fingerprint


def _were_objects_renumbered(sample: Sample, name: str) -> bool:
    """Return True if the objects of ``tables/NAME`` have other numbers or outlines now."""
    measured = sample.table_notes(name).get("objects")
    present = object_labels(sample, name) or result_labels(sample, name)
    return measured not in (None, present.fingerprint)


def _fingerprint_of_table(sample: Sample, name: str, table: str) -> str | None:
    """Return the fingerprint of what a table was computed from; None if there is no such table."""
    fingerprint: str | None
    if table == "measure":
        notes: dict[str, Any] = sample.table_notes(name) if name in sample.tables else {}
        fingerprint = notes.get("labels")
    elif table == "score":
        fingerprint = sample.last_settings(f"score-{name}").get("input labels")
    else:
        fingerprint = sample.last_settings(f"quality-{name}").get("input image")
    return fingerprint


def older_than_annotation(sample: Sample) -> list[str]:
    """Return the ``labels/NAME`` that are older than the annotation of their structure."""
    last_entry: dict[
        str, int
    ] = {}  # path -> position in the history of the entry that wrote it last
    for number, entry in enumerate(sample.history()):
        if entry["stage"].startswith(STAGE):
            continue
        for path in entry.get("outputs", ()):
            last_entry[path] = number
    annotation_of = annotation_names(sample)
    older = []
    for name in sample.names("labels"):
        structure = base_name(name)
        annotation = annotation_of.get(structure, structure)
        annotated = last_entry.get(f"annotations/{annotation}", -1)
        if annotated > last_entry.get(f"labels/{name}", annotated):
            older.append(f"labels/{name}")
    return older
