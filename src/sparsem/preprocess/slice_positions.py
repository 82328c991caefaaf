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

from sparsem.preprocess.registration import nearest_rotation
from sparsem.preprocess.settings import MotionKind
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

    @property
    def distance(self) -> int:
        """Distance of both, in slices."""
        return self.moving - self.fixed


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
    usual_similarity = _usual_similarity(pairs)
    reliable = []
    for pair in pairs:
        shift = float(np.linalg.norm((pair.motion @ center - center[:2]) * pixel_edges))
        usual = usual_similarity[pair.distance]
        is_similar = pair.similarity >= max(MIN_RELIABLE_SIMILARITY, min_similarity * usual)
        if is_similar and shift <= max_shift:
            reliable.append(pair)
    return reliable


def _usual_similarity(pairs: Sequence[RegisteredPair]) -> dict[int, float]:
    """Return the median similarity of pairs by their distance in slices."""
    usual_similarity = {}
    for distance in {pair.distance for pair in pairs}:
        similarities = [pair.similarity for pair in pairs if pair.distance == distance]
        usual_similarity[distance] = float(np.median(similarities))
    return usual_similarity


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
            if after[0] > before[-1]:
                across += _pairs_between(before, after)
            if len(after) > MAX_SIMILAR_BAD_SLICES:
                # A few slices that are similar to each other may all be bad, and the stack
                # continues after them; a longer group is not.
                break
    return across


def _pairs_between(before: Ints, after: Ints) -> list[tuple[int, int]]:
    """Return the three pairs of slices that lie closest on either side of a gap."""
    second_last, last = (int(z) for z in before[-2:])
    first, second = (int(z) for z in after[:2])
    return [(last, first), (second_last, first), (last, second)]


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
    upright = _usual_orientation(linear)
    linear = upright @ linear
    shifts = shifts @ upright.T
    offsets = shifts + center - (linear @ center)
    to_common = np.concatenate([linear, offsets[..., None]], axis=-1)
    bad, breaks = _bad_slices_and_breaks(count, pairs)
    return SlicePositions(to_common, bad, breaks)


def _usual_orientation(linear: Floats) -> Floats:
    """Return the linear part (2, 2) that brings the slice that lies as most do upright.

    All are rotated as little as possible: the common frame is that of this slice, not of the first
    one, which may be unusual.
    """
    deviation = np.linalg.norm(linear - np.median(linear, axis=0), axis=(1, 2))
    return np.asarray(np.linalg.inv(linear[int(deviation.argmin())]))


def _graph_of(count: int, pairs: Sequence[RegisteredPair], center: Floats) -> _Graph:
    """Return registered pairs as arrays, with a faint link between all neighbors."""
    faint_links = [RegisteredPair(z, z + 1, UNMOVED, FAINT_WEIGHT) for z in range(count - 1)]
    links = [*pairs, *faint_links]
    motions = np.array([link.motion for link in links]).reshape(-1, 2, 3)
    linear, offsets = motions[:, :, :2], motions[:, :, 2]
    distance = np.array([link.distance for link in links], np.float64)
    is_pair = np.arange(len(links)) < len(pairs)
    return _Graph(
        fixed=np.array([link.fixed for link in links], np.int64),
        moving=np.array([link.moving for link in links], np.int64),
        linear=linear,
        shifts=offsets + linear @ center - center,
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
    rounds = REWEIGHTING_ROUNDS if len(fixed) else 0
    linear = np.repeat(np.eye(2)[None], count, axis=0)
    shifts = np.zeros((count, 2))
    weights = graph.base_weights
    for number in range(rounds):
        if motion_kind != "translation":
            linear = _solve_linear_parts(count, graph, weights)
        if motion_kind == "rigid":
            linear = nearest_rotation(linear)
        rotated = (linear[moving] @ graph.shifts[..., None])[..., 0]
        shifts = _solve_differences(count, graph, -rotated, weights)
        error = np.linalg.norm(shifts[moving] - shifts[fixed] + rotated, axis=1)
        error += reach * _linear_error(graph, linear)
        weights = _reweighted(graph, error, number)
    return linear, shifts


def _linear_error(graph: _Graph, linear: Floats) -> Floats:
    """Return (m,) by how much the linear part of each pair differs from those of its slices."""
    difference = linear[graph.fixed] - linear[graph.moving] @ graph.linear
    return np.asarray(np.linalg.norm(difference, axis=(1, 2)))


def _reweighted(graph: _Graph, error: Floats, round_number: int) -> Floats:
    """Return (m,) weights of the pairs for the round after this one.

    Charbonnier weights always find the single best agreement; then Geman-McClure weights drop what
    contradicts it.

    Args:
        graph: of registered pairs.
        error: (m,) px by which each pair differs from the others.
        round_number: from 0 on.
    """
    if round_number < REWEIGHTING_ROUNDS / 2:
        return np.asarray(graph.base_weights / np.sqrt(1 + (error / graph.agreed) ** 2))
    return graph.base_weights / (1 + (error / (4 * graph.agreed)) ** 2) ** 2


def _bad_slices_and_breaks(
    count: int, pairs: Sequence[RegisteredPair]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the slices that are similar to no neighbor, and those where the stack is broken."""
    groups = connected_groups(count, pairs)
    bad: list[int] = []
    starts: list[int] = []
    for group in groups:
        is_enclosed = _is_enclosed(group, groups)
        if is_enclosed or len(group) == 1 < count:
            bad += [int(z) for z in group]
        if len(group) > 1 and not is_enclosed:
            starts.append(int(group[0]))
    return tuple(sorted(bad)), tuple(starts[1:])


def _is_enclosed(group: Ints, groups: Sequence[Ints]) -> bool:
    """Return whether another group connects slices on either side of this one."""
    return any(outer[0] < group[0] and group[-1] < outer[-1] for outer in groups)


def _solve_differences(count: int, graph: _Graph, steps: Floats, weights: Floats) -> Floats:
    """Return (n, 2) shifts whose differences moving - fixed are nearest to ``steps``.

    The shift of the first slice is 0.
    """
    if count == 1:
        return np.zeros((1, 2))
    unknown = _incidence(count, graph)[:, 1:]  # the first slice stays where it is
    weighted = unknown.T.multiply(weights).tocsr()
    solution = scipy.sparse.linalg.spsolve((weighted @ unknown).tocsc(), weighted @ steps)
    return np.concatenate([np.zeros((1, 2)), solution.reshape(count - 1, 2)])


def _incidence(count: int, graph: _Graph) -> scipy.sparse.csr_array:
    """Return a sparse matrix (m, n) from positions of slices to differences moving - fixed."""
    n_pairs = len(graph.fixed)
    signs = np.concatenate([np.ones(n_pairs), -np.ones(n_pairs)])
    entries = np.tile(np.arange(n_pairs), 2), np.concatenate([graph.moving, graph.fixed])
    return scipy.sparse.csr_array((signs, entries), shape=(n_pairs, count))


def _solve_linear_parts(count: int, graph: _Graph, weights: Floats) -> Floats:
    """Return (n, 2, 2) linear parts A with A[fixed] nearest to A[moving] @ graph.linear.

    The linear part of the first slice is the unit matrix.
    """
    if count == 1:
        return np.eye(2)[None]
    matrix = _linear_equations(count, graph)
    unknown, known = matrix[:, 2:], matrix[:, :2]
    weighted = unknown.T.multiply(np.repeat(weights, 2)).tocsr()
    # Rows of A are columns here: those of the first slice are the columns of the unit matrix.
    right = -(weighted @ (known @ np.eye(2)))
    solved = scipy.sparse.linalg.spsolve((weighted @ unknown).tocsc(), right)
    solution = solved.reshape(count - 1, 2, 2)
    return np.concatenate([np.eye(2)[None], np.swapaxes(solution, 1, 2)])


def _linear_equations(count: int, graph: _Graph) -> scipy.sparse.csr_array:
    """Return a sparse matrix (2 m, 2 n) that is zero on linear parts that agree with all pairs.

    A row of a linear part A has two numbers, which are neighbors along the columns. Equation (e,
    k): A[fixed, k] - sum over m of A[moving, m] linear[m, k] = 0.
    """
    n_equations = 2 * len(graph.fixed)
    equations = np.arange(n_equations)
    columns = [(2 * graph.fixed[:, None] + np.arange(2)).ravel()]
    values = [np.ones(n_equations)]
    for m in range(2):
        columns.append(np.repeat(2 * graph.moving + m, 2))
        values.append(-graph.linear[:, m].ravel())
    entries = np.tile(equations, 3), np.concatenate(columns)
    shape = (n_equations, 2 * count)
    return scipy.sparse.csr_array((np.concatenate(values), entries), shape=shape)
