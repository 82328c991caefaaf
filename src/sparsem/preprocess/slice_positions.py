"""Positions of all slices of a stack, from the registrations of pairs: one graph, solved once.

Nothing is summed up from slice to slice: the position of every slice is the one that agrees best
with all its registered pairs, and pairs that contradict the others lose their weight. Slices that
are similar to none of their neighbors are bad: they get a position between their neighbors. Motions
are (2, 3) matrices over (y, x, 1) in pixels (see ``store.transforms``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from numpy.typing import NDArray

from sparsem.preprocess.registration import MotionKind, nearest_rotation
from sparsem.store.transforms import UNMOVED, Motion

REWEIGHTING_ROUNDS = 20
AGREED_PX = 0.25  # pairs that differ by more than this from the others count less and less
MAX_SIMILAR_BAD_SLICES = 5  # so many slices may be similar to each other and bad together
FAINT_WEIGHT = 1e-6  # of the link that keeps a slice without registered pairs near its neighbors
# Pairs of less similarity are rejected even if the whole stack is no better: noise reaches 0.03.
MIN_RELIABLE_SIMILARITY = 0.1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RegisteredPair:
    """Two slices that were registered.

    Attributes:
        fixed: number of the slice.
        moving: number of a later slice.
        motion: (2, 3), from a pixel of the fixed slice to the pixel of the moving slice that shows
            the same.
        similarity: of both slices, -1 to 1.
    """

    fixed: int
    moving: int
    motion: Motion
    similarity: float


@dataclass(frozen=True)
class SlicePositions:
    """The position of every slice.

    Attributes:
        to_common: (n, 2, 3), motion from each slice into a common frame.
        bad: slices that are similar to none of their neighbors.
        breaks: slices that nothing connects with those before them, apart from bad slices.
    """

    to_common: Motion
    bad: tuple[int, ...]
    breaks: tuple[int, ...]


class _Graph(NamedTuple):
    """Registered pairs as arrays.

    Attributes:
        fixed: (m,) numbers of slices.
        moving: (m,) numbers of slices.
        linear: (m, 2, 2) linear parts of the motions.
        shifts: (m, 2) of the center of the slice, px.
        base_weights: (m,) before reweighting.
        agreed: (m,) px by which a pair may differ from the others.
    """

    fixed: Ints
    moving: Ints
    linear: Floats
    shifts: Floats
    base_weights: Floats
    agreed: Floats


def reliable_pairs(
    pairs: Sequence[RegisteredPair],
    min_similarity: float,
    max_shift: float,
    shape: Sequence[int],
    pixel_edges: Sequence[float] = (1, 1),
) -> list[RegisteredPair]:
    """Return the pairs whose slices are about as similar as others at their distance.

    Pairs that lie too far apart are left out.

    Args:
        pairs: of slices.
        min_similarity: fraction of the median similarity of pairs at that distance.
        max_shift: of the center, in the unit of ``pixel_edges``.
        shape: (y, x) of a slice, px.
        pixel_edges: (y, x) of a pixel.
    """
    center = np.append((np.array(shape) - 1) / 2, 1.0)
    usual_similarity = {}
    for distance in {pair.moving - pair.fixed for pair in pairs}:
        similarities = [pair.similarity for pair in pairs if pair.moving - pair.fixed == distance]
        usual_similarity[distance] = float(np.median(similarities))
    reliable = []
    for pair in pairs:
        shift = float(np.linalg.norm((pair.motion @ center - center[:2]) * pixel_edges))
        usual = usual_similarity[pair.moving - pair.fixed]
        is_similar = pair.similarity >= max(MIN_RELIABLE_SIMILARITY, min_similarity * usual)
        if is_similar and shift <= max_shift:
            reliable.append(pair)
    return reliable


def connected_groups(count: int, pairs: Sequence[RegisteredPair]) -> list[Ints]:
    """Return the groups of slices that are connected by pairs, in the order of their first slices.

    A bad slice is a group by itself.
    """
    ends = [pair.fixed for pair in pairs], [pair.moving for pair in pairs]
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), ends), shape=(count, count))
    _, group_numbers = scipy.sparse.csgraph.connected_components(graph, directed=False)
    groups = [np.nonzero(group_numbers == number)[0] for number in np.unique(group_numbers)]
    return sorted(groups, key=lambda group: int(group[0]))


def pairs_across_gaps(count: int, pairs: Sequence[RegisteredPair]) -> list[tuple[int, int]]:
    """Return pairs of slices whose registration may connect groups that bad slices separate.

    Returns:
        Numbers of slices: (fixed, moving).
    """
    groups = [group for group in connected_groups(count, pairs) if len(group) > 1]
    across = []
    for number, before in enumerate(groups):
        for after in groups[number + 1 :]:
            last, first = int(before[-1]), int(after[0])
            if first > last:
                across += [(last, first), (int(before[-2]), first), (last, int(after[1]))]
            if len(after) > MAX_SIMILAR_BAD_SLICES:
                # A few slices that are similar to each other may all be bad, and the stack
                # continues after them; a longer group is not.
                break
    return across


def solve_slice_positions(
    count: int, pairs: Sequence[RegisteredPair], motion_kind: MotionKind, shape: Sequence[int]
) -> SlicePositions:
    """Return the positions of ``count`` slices that agree best with reliable pairs.

    Iteratively reweighted least squares (Charbonnier, then Geman-McClure weights) over the pairs:
    rotations and shears first, then shifts. A pair over a distance of k slices has the weight 1 /
    k: its error grows with the distance (measured).

    Args:
        count: of slices.
        pairs: reliable ones.
        motion_kind: the motions that are allowed.
        shape: (y, x) of a slice, px; shifts are those of its center.
    """
    center = (np.array(shape, float) - 1) / 2
    graph = _graph_of(count, pairs, center)
    linear, shifts = _solve_graph(count, graph, motion_kind, max(shape) / 2)
    # Rotate as little as possible: the common frame is that of the slice that lies as most do, not
    # of the first slice, which may be unusual.
    deviation = np.linalg.norm(linear - np.median(linear, axis=0), axis=(1, 2))
    upright = np.linalg.inv(linear[int(deviation.argmin())])
    linear = upright @ linear
    shifts = shifts @ upright.T
    offsets = shifts + center - (linear @ center)
    to_common = np.concatenate([linear, offsets[..., None]], axis=-1)
    bad, breaks = _bad_slices_and_breaks(count, pairs)
    return SlicePositions(to_common, bad, breaks)


def _graph_of(count: int, pairs: Sequence[RegisteredPair], center: Floats) -> _Graph:
    """Return registered pairs as arrays, with a faint link between all neighbors."""
    faint_links = [RegisteredPair(z, z + 1, UNMOVED, FAINT_WEIGHT) for z in range(count - 1)]
    links = [*pairs, *faint_links]
    fixed = np.array([link.fixed for link in links], np.int64).reshape(-1)
    moving = np.array([link.moving for link in links], np.int64).reshape(-1)
    motions = np.array([link.motion for link in links]).reshape(-1, 2, 3)
    distance = (moving - fixed).astype(np.float64)
    is_pair = np.arange(len(links)) < len(pairs)
    return _Graph(
        fixed=fixed,
        moving=moving,
        linear=motions[:, :, :2],
        shifts=motions[:, :, 2] + motions[:, :, :2] @ center - center,
        base_weights=np.where(is_pair, 1 / distance, FAINT_WEIGHT),
        # Two pairs over two slices then outvote a pair of neighbors that contradicts them.
        agreed=AGREED_PX * distance**1.5,
    )


def _solve_graph(
    count: int, graph: _Graph, motion_kind: MotionKind, reach: float
) -> tuple[Floats, Floats]:
    """Return linear parts (n, 2, 2) and shifts (n, 2) of all slices.

    Args:
        count: of slices.
        graph: of registered pairs.
        motion_kind: the motions that are allowed.
        reach: distance from the center at which differences of linear parts are measured, px.
    """
    fixed, moving = graph.fixed, graph.moving
    linear = np.repeat(np.eye(2)[None], count, axis=0)
    shifts = np.zeros((count, 2))
    weights = graph.base_weights
    for number in range(REWEIGHTING_ROUNDS if len(fixed) else 0):
        if motion_kind != "translation":
            linear = _solve_linear_parts(count, fixed, moving, graph.linear, weights)
            linear = nearest_rotation(linear) if motion_kind == "rigid" else linear
        rotated = (linear[moving] @ graph.shifts[..., None])[..., 0]
        shifts = _solve_differences(count, fixed, moving, -rotated, weights)
        error = np.linalg.norm(shifts[moving] - shifts[fixed] + rotated, axis=1)
        linear_error = linear[fixed] - linear[moving] @ graph.linear
        error += reach * np.linalg.norm(linear_error, axis=(1, 2))
        # Charbonnier weights always find the single best agreement; then Geman-McClure weights drop
        # what contradicts it.
        if number < REWEIGHTING_ROUNDS / 2:
            weights = graph.base_weights / np.sqrt(1 + (error / graph.agreed) ** 2)
        else:
            weights = graph.base_weights / (1 + (error / (4 * graph.agreed)) ** 2) ** 2
    return linear, shifts


def _bad_slices_and_breaks(
    count: int, pairs: Sequence[RegisteredPair]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the slices that are similar to no neighbor, and those where the stack is broken."""
    groups = connected_groups(count, pairs)
    ends = [(int(group[0]), int(group[-1])) for group in groups]
    bad: list[int] = []
    starts: list[int] = []
    for group, (first, last) in zip(groups, ends, strict=True):
        # Another group may connect slices on either side of this one.
        is_enclosed = any(low < first and last < high for low, high in ends)
        if is_enclosed or len(group) == 1 < count:
            bad += [int(z) for z in group]
        if len(group) > 1 and not is_enclosed:
            starts.append(first)
    return tuple(sorted(bad)), tuple(starts[1:])


def _solve_differences(
    count: int, fixed: Ints, moving: Ints, steps: Floats, weights: Floats
) -> Floats:
    """Return (n, 2) shifts whose differences moving - fixed are nearest to ``steps``.

    The shift of the first slice is 0.
    """
    equations = np.arange(len(fixed))
    signs = np.concatenate([np.ones(len(fixed)), -np.ones(len(fixed))])
    entries = np.tile(equations, 2), np.concatenate([moving, fixed])
    incidence = scipy.sparse.csr_array((signs, entries), shape=(len(fixed), count))
    unknown = incidence[:, 1:]  # the first slice stays where it is
    weighted = unknown.T.multiply(weights).tocsr()
    solution = np.zeros((0, 2))
    if count > 1:
        solution = scipy.sparse.linalg.spsolve((weighted @ unknown).tocsc(), weighted @ steps)
    return np.concatenate([np.zeros((1, 2)), solution.reshape(count - 1, 2)])


def _solve_linear_parts(
    count: int, fixed: Ints, moving: Ints, linear: Floats, weights: Floats
) -> Floats:
    """Return (n, 2, 2) linear parts A with A[fixed] nearest to A[moving] @ linear.

    The linear part of the first slice is the unit matrix.
    """
    # A row of A has two numbers. Equation (e, k):
    # A[fixed, k] - sum over m of A[moving, m] linear[m, k] = 0.
    equations = np.arange(2 * len(fixed)).reshape(-1, 2)
    rows = [equations.ravel()] + [equations.ravel()] * 2
    columns = [(2 * fixed[:, None] + np.arange(2)).ravel()]
    values = [np.ones(equations.size)]
    for m in range(2):
        columns.append(np.repeat(2 * moving + m, 2))
        values.append(-linear[:, m].ravel())
    entries = np.concatenate(rows), np.concatenate(columns)
    matrix = scipy.sparse.csr_array(
        (np.concatenate(values), entries), shape=(equations.size, 2 * count)
    )
    unknown, known = matrix[:, 2:], matrix[:, :2]
    weighted = unknown.T.multiply(np.repeat(weights, 2)).tocsr()
    # Rows of A are columns here: those of the first slice are the columns of the unit matrix.
    right = -(weighted @ (known @ np.eye(2)))
    solution = np.zeros((0, 2, 2))
    if count > 1:
        solved = scipy.sparse.linalg.spsolve((weighted @ unknown).tocsc(), right)
        solution = solved.reshape(count - 1, 2, 2)
    return np.concatenate([np.eye(2)[None], np.swapaxes(solution, 1, 2)])
