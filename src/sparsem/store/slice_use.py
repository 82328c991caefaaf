"""The use of the labeled slices of a stack by a model: trained, validated or unseen.

A slice is recognized by its number and its pixels in the raw image, whatever its sample is called.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sparsem.store.volume import Volume

DIGEST_PX = 256  # edge of the part of a slice that is hashed: noise alone distinguishes two slices

Role = Literal["unseen", "validated", "trained"]
ROLES: tuple[Role, ...] = ("unseen", "validated", "trained")


def slice_digest(raw: Volume, z: int) -> str:
    """Return a short hash of the size of a slice and of the pixels in its middle."""
    shape = raw.size_of(z)
    rows, columns = (
        slice(max(0, (length - DIGEST_PX) // 2), min(length, (length + DIGEST_PX) // 2))
        for length in shape
    )
    content = hashlib.blake2b(repr(shape).encode(), digest_size=8)
    content.update(np.ascontiguousarray(raw.lazy(0)[slice(z, z + 1), rows, columns]).tobytes())
    return content.hexdigest()


@dataclass(frozen=True)
class SliceUse:
    """The slices of one stack that training used.

    Attributes:
        trained: numbers of the slices that weights were trained on, ascending.
        validated: numbers of the slices that only chose the weights, ascending.
    """

    trained: tuple[int, ...]
    validated: tuple[int, ...] = ()

    def role(self, z: int) -> Role:
        """Return what a slice was to the training."""
        if z in self.trained:
            return "trained"
        return "validated" if z in self.validated else "unseen"

    def record(self) -> dict[str, list[int]]:
        """Return the same as JSON, as a volume's attributes hold it."""
        return {"trained": list(self.trained), "validated": list(self.validated)}


def use_of(record: Any) -> SliceUse | None:
    """Return what ``SliceUse.record`` wrote; None if nothing is known."""
    if not record:
        return None
    return SliceUse(tuple(record["trained"]), tuple(record["validated"]))


def combined(uses: Iterable[SliceUse | None]) -> SliceUse | None:
    """Return the use by several models together; None if that of any of them is not known."""
    known = list(uses)
    if not known or None in known:
        return None
    trained = {z for use in known if use for z in use.trained}
    validated = {z for use in known if use for z in use.validated} - trained
    return SliceUse(tuple(sorted(trained)), tuple(sorted(validated)))


def matched_use(used: dict[str, Sequence[Sequence[Any]]] | None, raw: Volume) -> SliceUse | None:
    """Return which slices of a stack a model used.

    Args:
        used: by ``trained`` and ``validated`` the number and ``slice_digest`` of every slice, as a
            model records them; None of a model that does not.
        raw: the raw image of the stack.
    """
    if used is None:
        return None
    slices_by_role: dict[str, tuple[int, ...]] = {}
    for role in ("trained", "validated"):
        digests: dict[int, set[str]] = {}
        for z, digest in used[role]:
            digests.setdefault(int(z), set()).add(str(digest))
        inside = sorted(z for z in digests if z < raw.shape[0])
        slices_by_role[role] = tuple(z for z in inside if slice_digest(raw, z) in digests[z])
    return SliceUse(slices_by_role["trained"], slices_by_role["validated"])
