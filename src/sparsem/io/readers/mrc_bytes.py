"""Whether the bytes of an MRC file (mode 0) are signed: as the header states it, in one way or another, or as its voxels show it.

The standard of 2014 says that they are; IMOD wrote unsigned ones before and states it, other programs wrote them and do not.
Read as the other kind, bright tissue becomes black.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced
from sparsem.io.readers.arrays import MappedStack
from sparsem.io.readers.source import MrcBytes

IMOD = 1146047817  # its stamp; bit 0 of the number after it says that bytes are signed
STAMP = slice(40, 48)  # of the unnamed bytes in the middle of a header
AMBIGUOUS_FROM = 128  # smaller bytes mean the same in both
SAMPLED = 16  # slices
CLEARLY = (
    0.8  # differences of neighboring pixels in one reading, as a fraction of those in the other
)


class ByteSign(NamedTuple):
    """Whether bytes are signed.

    Attributes:
        signed: they are.
        limited: it was not found, as no byte of the sampled slices differs in meaning; one that does is to be refused.
        notes: how it was found, if the header does not state it.
    """

    signed: bool = True
    limited: bool = False
    notes: tuple[str, ...] = ()


def byte_sign(header: Any, stack: MappedStack, given: MrcBytes | None) -> ByteSign:
    """Whether the bytes of a file are signed.

    Args:
        header: of the file, in its own byte order.
        stack: the bytes, uint8.
        given: what was asked for; it holds against the header.

    Raises:
        InputError: neither header nor voxels show it.
    """
    if given is not None:
        return ByteSign(given == "signed")
    for order in "<>":  # that of the file, unless a program turned the rest of the header only
        stamp, flags = struct.unpack(f"{order}2i", header["extra2"].tobytes()[STAMP])
        if stamp == IMOD:
            return ByteSign(bool(flags & 1))
    by_extremes = _by_extremes(float(header["dmin"]), float(header["dmax"]))
    return by_extremes or _by_voxels(stack)


def _by_extremes(low: float, high: float) -> ByteSign | None:
    """From the smallest and largest number, where a header states them: they are those of one kind of bytes only."""
    if not (low < high and low.is_integer() and high.is_integer()):
        return None
    if low < 0:
        return ByteSign(signed=True) if low >= -128 and high <= 127 else None
    return ByteSign(signed=False) if AMBIGUOUS_FROM <= high <= 255 else None


def _by_voxels(stack: MappedStack) -> ByteSign:
    """From the voxels of some slices: in the wrong reading, neighboring pixels leap from one end of the range to the other."""
    steps = {np.uint8: 0, np.int8: 0}
    ambiguous = False
    n_slices = stack.shape[0]
    for z in evenly_spaced(n_slices, min(SAMPLED, n_slices)):
        pixels = stack[z : z + 1]
        ambiguous = ambiguous or bool((pixels >= AMBIGUOUS_FROM).any())
        for kind in steps:
            steps[kind] += _steps(pixels.view(kind))
    if not ambiguous:
        return ByteSign(signed=False, limited=True)
    smaller, larger = sorted(steps.values())
    name = stack.path.name
    if smaller >= CLEARLY * larger:
        raise InputError(
            f"{name} does not state whether its bytes are signed, and its voxels do not show it; give --mrc-bytes signed or "
            "--mrc-bytes unsigned."
        )
    signed = steps[np.int8] < steps[np.uint8]
    taken, other = ("signed", "unsigned") if signed else ("unsigned", "signed")
    note = (
        f"{name} does not state whether its bytes are signed; they are read as {taken}, as neighboring pixels then differ less. "
        f"--mrc-bytes {other} reads them otherwise."
    )
    return ByteSign(signed, notes=(note,))


def _steps(pixels: NDArray[Any]) -> int:
    return int(np.abs(np.diff(pixels.astype(np.int16), axis=-1)).sum(dtype=np.int64))
