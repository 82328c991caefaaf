"""Signedness of the bytes of an MRC file (mode 0), from its header or from its voxels.

The standard of 2014 says that they are signed. IMOD wrote unsigned ones before and states it; other
programs wrote them and do not. Read as the other kind, bright tissue becomes black.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced
from sparsem.io.readers.arrays import MappedStack
from sparsem.io.settings import MrcBytes

IMOD_STAMP = 1146047817
STAMP_BYTES = slice(40, 48)  # stamp and flags, in the unnamed bytes in the middle of a header
SIGNED_FLAG = 1  # bit 0 of IMOD's flags
AMBIGUOUS_FROM = 128  # smaller bytes mean the same in both
SAMPLED_SLICES = 16
# Differences of neighboring pixels in one reading, as a fraction of those in the other: below this
# the voxels show which reading is right.
CLEAR_RATIO = 0.8


class ByteSign(NamedTuple):
    """Signedness of the bytes of a file.

    Attributes:
        signed: the bytes are signed.
        limited: it is not known, as no byte of the sampled slices differs in meaning; bytes that do
            must be refused.
        notes: how it was determined, if the header does not state it.
    """

    signed: bool = True
    limited: bool = False
    notes: tuple[str, ...] = ()


def byte_sign(header: Any, stack: MappedStack, given: MrcBytes | None) -> ByteSign:
    """Determine whether the bytes of a file are signed.

    Args:
        header: of the file, in its own byte order.
        stack: the bytes, uint8.
        given: the choice of the user; it overrides the header.

    Raises:
        InputError: neither header nor voxels show it.
    """
    if given is not None:
        return ByteSign(given == "signed")
    # In the byte order of the file, unless a program swapped the rest of the header only.
    for byte_order in "<>":
        stamp, flags = struct.unpack(f"{byte_order}2i", header["extra2"].tobytes()[STAMP_BYTES])
        if stamp == IMOD_STAMP:
            return ByteSign(bool(flags & SIGNED_FLAG))
    sign = _sign_by_extremes(float(header["dmin"]), float(header["dmax"]))
    return sign or _sign_by_voxels(stack)


def _sign_by_extremes(low: float, high: float) -> ByteSign | None:
    """Determine the sign from the smallest and largest number that a header states.

    None if these do not belong to one kind of bytes only.
    """
    if not (low < high and low.is_integer() and high.is_integer()):
        return None
    if low < 0:
        fits_signed = low >= np.iinfo(np.int8).min and high <= np.iinfo(np.int8).max
        return ByteSign(signed=True) if fits_signed else None
    is_unsigned = AMBIGUOUS_FROM <= high <= np.iinfo(np.uint8).max
    return ByteSign(signed=False) if is_unsigned else None


def _sign_by_voxels(stack: MappedStack) -> ByteSign:
    """Determine the sign from the voxels of some slices.

    In the wrong reading, neighboring pixels jump from one end of the range to the other.
    """
    unsigned_steps = 0
    signed_steps = 0
    is_ambiguous = False
    n_slices = stack.shape[0]
    for z in evenly_spaced(n_slices, min(SAMPLED_SLICES, n_slices)):
        pixels = stack[z : z + 1]
        is_ambiguous = is_ambiguous or bool((pixels >= AMBIGUOUS_FROM).any())
        unsigned_steps += _sum_of_steps(pixels)
        signed_steps += _sum_of_steps(pixels.view(np.int8))
    if not is_ambiguous:
        return ByteSign(signed=False, limited=True)
    return _sign_by_steps(unsigned_steps, signed_steps, stack.path.name)


def _sign_by_steps(unsigned_steps: int, signed_steps: int, name: str) -> ByteSign:
    """Return the sign with which neighboring pixels differ less.

    Raises:
        InputError: the two do not differ clearly.
    """
    smaller, larger = sorted((unsigned_steps, signed_steps))
    if smaller >= CLEAR_RATIO * larger:
        raise InputError(
            f"{name} does not state whether its bytes are signed, and its voxels do not show it; "
            "give --mrc-bytes signed or --mrc-bytes unsigned."
        )
    signed = signed_steps < unsigned_steps
    used, alternative = ("signed", "unsigned") if signed else ("unsigned", "signed")
    note = (
        f"{name} does not state whether its bytes are signed; they are read as {used}, "
        "as neighboring pixels then differ less. "
        f"If that is wrong, give --mrc-bytes {alternative}."
    )
    return ByteSign(signed, notes=(note,))


def _sum_of_steps(pixels: NDArray[Any]) -> int:
    """Return the sum of the differences of pixels that are neighbors along x."""
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=-1))
    return int(steps.sum(dtype=np.int64))
