"""Places to review that a person accepted, so that they do not return.

After a result was computed again, a place is the same if it concerns the same cells, or the same
prediction, in a slice and at a position nearby.
"""

import json
from pathlib import Path

from sparsem.review.places import ReviewPlace
from sparsem.store.sample import Sample
from sparsem.store.volume import json_bytes, write_atomically

MAX_SLICES_APART = 3
MAX_PX_APART = 50


def review_places(sample: Sample, name: str) -> list[ReviewPlace]:
    """Return the places to review that were not accepted, the most important first.

    Args:
        sample: sample with ``tables/review_NAME``, as ``track`` and ``review`` write it.
        name: name of the structure or the cells.

    Raises:
        SampleError: the sample has no such table.
    """
    rows = sample.read_table(f"review_{name}").select(list(ReviewPlace._fields)).to_pylist()
    places = [ReviewPlace(**row) for row in rows]
    accepted = accepted_places(sample, name)
    return [
        candidate
        for candidate in places
        if not any(is_same_place(candidate, earlier) for earlier in accepted)
    ]


def accepted_places(sample: Sample, name: str) -> list[ReviewPlace]:
    """Return the places that a person accepted."""
    file = _file_of(sample, name)
    if not file.exists():
        return []
    return [ReviewPlace(*fields) for fields in json.loads(file.read_text(encoding="utf-8"))]


def accept_place(sample: Sample, name: str, review_place: ReviewPlace) -> None:
    """Record that a place is right as it is."""
    accepted = [*accepted_places(sample, name), review_place]
    file = _file_of(sample, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json_bytes([list(entry) for entry in accepted]))


def is_same_place(first: ReviewPlace, second: ReviewPlace) -> bool:
    """Return True if two places concern the same cells, nearby."""
    has_same_cells = {first.first, first.second} == {second.first, second.second}
    is_near = abs(first.z - second.z) <= MAX_SLICES_APART
    is_near &= max(abs(first.y - second.y), abs(first.x - second.x)) <= MAX_PX_APART
    return first.kind == second.kind and has_same_cells and is_near


def _file_of(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "accepted" / f"{name}.json"
