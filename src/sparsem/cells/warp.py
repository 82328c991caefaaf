"""Labels carried along optical flow from one slice to another.

Labels are (y, x) unsigned integers; flow is that of ``image.flow``.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.image.flow import Flow, remap_values, resize_flow

Labels = NDArray[Any]

# OpenCV samples 16 bit labels and no more.
MAX_LABELS = 2**16
# Up to this id, a lookup table of 16 bit is small: 32 MB.
MAX_TABLE_ID = 2**24


def warp_labels(labels: Labels, flow: Flow) -> Labels:
    """Carry labels (y, x) of the slice that ``flow`` leads to back to the slice where it starts.

    Sampling is nearest neighbor; a pixel whose flow leads out of the slice gets 0. Any ids are
    allowed: they are replaced by 16 bit numbers for OpenCV.
    """
    if flow.shape[:2] != labels.shape:
        flow = resize_flow(flow, labels.shape)
    ids, compact = compact_labels(labels)
    warped = remap_values(compact, flow, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    return np.asarray(ids[warped])


def compact_labels(labels: Labels) -> tuple[Labels, NDArray[np.uint16]]:
    """Replace the ids of a slice by consecutive 16 bit numbers.

    Returns:
        The ids, ascending and beginning with 0; and the slice with the index of each id instead of
        the id.

    Raises:
        ValueError: there are more than 65,536 ids in the slice, 0 included.
    """
    ids = np.union1d(np.zeros(1, labels.dtype), labels.ravel()[_run_starts(labels)])
    if len(ids) > MAX_LABELS:
        raise ValueError(f"{len(ids)} ids in one slice; expected at most {MAX_LABELS:,}")
    if ids[-1] < MAX_TABLE_ID:
        table = np.zeros(int(ids[-1]) + 1, np.uint16)
        table[ids] = np.arange(len(ids), dtype=np.uint16)
        return ids, table[labels]
    return ids, np.searchsorted(ids, labels).astype(np.uint16)


def _run_starts(labels: Labels) -> NDArray[np.int64]:
    """Return the flat indices at which runs of equal labels begin: far fewer than pixels."""
    if not labels.size:
        return np.empty(0, int)
    changes = np.flatnonzero(np.diff(labels.ravel())) + 1
    return np.concatenate([[0], changes])
