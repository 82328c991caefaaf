"""Where every slice of a stack lies, from the registrations of pairs: one graph, solved once.

Nothing is summed up from slice to slice: the place of every slice is the one that agrees best with all its links, and links that
contradict the others lose their weight. Slices that look like none of their neighbors are bad: they get a place between them.
Places and motions are (2, 3) matrices over (y, x, 1) in pixels (see ``store.frame``); a place leads from a slice into a common frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from numpy.typing import NDArray

from sparsem.preprocess.registration import Kind, rotation_nearest
from sparsem.store.transforms import UNMOVED, Motion

ROUNDS = 20  # of reweighting
AGREED_PX = 0.25  # links that differ by more than this from the others count less and less
FEW_SLICES = 5  # so many alike may be bad together
FAINT = 1e-6  # weight by which a slice without links stays with its neighbors
ALIKE = 0.1  # likeness below which even whole stacks are not believed: noise reaches 0.03


@dataclass(frozen=True)
class Link:
    """A registered pair: ``motion`` leads from a pixel of slice ``fixed`` to the one of slice ``moving`` that shows the same."""

    fixed: int
    moving: int
    motion: Motion
    likeness: float


@dataclass(frozen=True)
class Drift:
    """Where every slice lies.

    Attributes:
        places: (n, 2, 3), from each slice into the common frame.
        bad: slices that look like none of their neighbors.
        breaks: slices that nothing connects with those before them, bad ones aside.
    """

    places: Motion
    bad: tuple[int, ...]
    breaks: tuple[int, ...]


def believed(
    links: Sequence[Link],
    least_likeness: float,
    max_shift: float,
    shape: Sequence[int],
    edges: Sequence[float] = (1, 1),
) -> list[Link]:
    """Links whose slices are about as like as others at that distance, and which do not lead too far.

    Args:
        links: of slices (y, x) of ``shape``.
        least_likeness: part of what is usual at that distance.
        max_shift: of the center, in the unit of ``edges``.
        shape: (y, x) px.
        edges: of a pixel, (y, x).
    """
    center = np.append((np.array(shape) - 1) / 2, 1.0)
    usual = {}
    for distance in {link.moving - link.fixed for link in links}:
        usual[distance] = float(
            np.median([link.likeness for link in links if link.moving - link.fixed == distance])
        )
    kept = []
    for link in links:
        shift = float(np.linalg.norm((link.motion @ center - center[:2]) * edges))
        if (
            link.likeness >= max(ALIKE, least_likeness * usual[link.moving - link.fixed])
            and shift <= max_shift
        ):
            kept.append(link)
    return kept


def groups(count: int, links: Sequence[Link]) -> list[NDArray[np.int64]]:
    """Slices that are connected with each other, group by group along z; a bad slice is a group of its own."""
    pairs = [link.fixed for link in links], [link.moving for link in links]
    graph = scipy.sparse.coo_array((np.ones(len(links)), pairs), shape=(count, count))
    _, member = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return sorted(
        (np.nonzero(member == one)[0] for one in np.unique(member)), key=lambda group: int(group[0])
    )


def gaps(count: int, links: Sequence[Link]) -> list[tuple[int, int]]:
    """Pairs of slices whose registration might connect groups that bad slices hold apart: (fixed, moving)."""
    connected = [group for group in groups(count, links) if len(group) > 1]
    pairs = []
    for place, before in enumerate(connected):
        for after in connected[place + 1 :]:
            last, first = int(before[-1]), int(after[0])
            if first > last:
                pairs += [(last, first), (int(before[-2]), first), (last, int(after[1]))]
            if len(after) > FEW_SLICES:
                break  # a few slices that are alike among themselves may all be bad: beyond them the stack goes on
    return pairs


def drift(count: int, links: Sequence[Link], kind: Kind, shape: Sequence[int]) -> Drift:
    """The places of ``count`` slices that agree best with believed links.

    Iteratively reweighted least squares (Charbonnier, then Geman-McClure weights) over the links; turns and shears first, then
    shifts. A link over a distance of k slices has the weight 1 / k: its error grows with the distance (measured).

    Args:
        count: slices.
        links: believed ones.
        kind: what motion is allowed.
        shape: (y, x) of a slice; its center is what is shifted.
    """
    faint = [Link(z, z + 1, UNMOVED, FAINT) for z in range(count - 1)]
    everything = [*links, *faint]
    fixed, moving = (
        np.array([getattr(link, end) for link in everything], np.int64).reshape(-1)
        for end in ("fixed", "moving")
    )
    motions = np.array([link.motion for link in everything]).reshape(-1, 2, 3)
    distance = (moving - fixed).astype(np.float64)
    base = np.where(np.arange(len(everything)) < len(links), 1 / distance, FAINT)
    agreed = (
        AGREED_PX * distance**1.5
    )  # so that two links over two slices outvote one between neighbors that contradicts them
    center, reach = (np.array(shape, float) - 1) / 2, max(shape) / 2
    shifts = motions[:, :, 2] + motions[:, :, :2] @ center - center  # of the center
    linear = np.repeat(np.eye(2)[None], count, axis=0)
    weights, place = base, np.zeros((count, 2))
    for number in range(ROUNDS if len(everything) else 0):
        if kind != "translation":
            linear = _linear_parts(count, fixed, moving, motions[:, :, :2], weights)
            linear = rotation_nearest(linear) if kind == "rigid" else linear
        turned = (linear[moving] @ shifts[..., None])[..., 0]
        place = _differences(count, fixed, moving, -turned, weights)
        off = np.linalg.norm(place[moving] - place[fixed] + turned, axis=1)
        off += reach * np.linalg.norm(
            linear[fixed] - linear[moving] @ motions[:, :, :2], axis=(1, 2)
        )
        # First weights that always find the one best agreement, then such as let go what contradicts it.
        weights = (
            base / np.sqrt(1 + (off / agreed) ** 2)
            if number < ROUNDS / 2
            else base / (1 + (off / (4 * agreed)) ** 2) ** 2
        )
    # As little as possible turns: the frame is that of the slice that lies as most do, and not of the first one, which may be odd.
    middle = int(np.linalg.norm(linear - np.median(linear, axis=0), axis=(1, 2)).argmin())
    upright = np.linalg.inv(linear[middle])
    linear, place = upright @ linear, place @ upright.T
    places = np.concatenate([linear, (place + center - (linear @ center))[..., None]], axis=-1)
    found = groups(count, links)
    ends = [(int(group[0]), int(group[-1])) for group in found]
    within = [
        any(low < first and last < high for low, high in ends) for first, last in ends
    ]  # what others reach across
    bad = tuple(
        int(z)
        for group, inside in zip(found, within, strict=True)
        for z in group
        if inside or len(group) == 1 < count
    )
    starts = tuple(
        int(group[0])
        for group, inside in zip(found, within, strict=True)
        if len(group) > 1 and not inside
    )[1:]
    return Drift(places, tuple(sorted(bad)), starts)


def common_rectangle(
    corners: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest rectangle along y and x that lies within all of many convex pieces.

    Args:
        corners: (n, k, 2) y and x, one after the other along the rim of each piece.

    Returns:
        Its lowest and its highest corner, (y, x); the highest below the lowest where nothing is shared.
    """
    ahead = np.roll(corners, -1, axis=1) - corners
    outward = np.stack(
        [ahead[..., 1], -ahead[..., 0]], axis=-1
    )  # inside lies where outward . (p - corner) <= 0
    turn = np.sign(
        (ahead[:, :-1, 0] * ahead[:, 1:, 1] - ahead[:, :-1, 1] * ahead[:, 1:, 0]).sum(axis=1)
    )
    outward = (turn[:, None, None] * outward).reshape(-1, 2)
    limits = (outward * corners.reshape(-1, 2)).sum(axis=1)
    # A rectangle lies in a half-plane if its furthest corner does: that is linear in its center and its half edges.
    reach = np.abs(outward)

    def widest(log_shape: float) -> tuple[float, NDArray[np.float64]]:
        """The largest rectangle of half edges w exp(+-shape / 2), as minus the logarithm of w, and (center y, center x, w)."""
        half = np.exp([log_shape / 2, -log_shape / 2])
        found = scipy.optimize.linprog(
            [0, 0, -1],
            np.column_stack([outward, reach @ half]),
            limits,
            bounds=[(None, None)] * 2 + [(0, None)],
        )
        return (
            (-np.log(max(float(found.x[2]), 1e-9)), found.x)
            if found.status == 0
            else (np.inf, np.array([0, 0, -1.0]))
        )

    best = scipy.optimize.minimize_scalar(
        lambda log_shape: widest(log_shape)[0],
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-3},
    )
    y, x, w = widest(best.x)[1]
    half = w * np.exp([best.x / 2, -best.x / 2])
    return np.array([y, x]) - half, np.array([y, x]) + half


def _differences(
    count: int,
    fixed: NDArray[np.int64],
    moving: NDArray[np.int64],
    steps: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, 2) places whose differences moving - fixed are nearest to ``steps``; the first lies at 0."""
    lines = np.arange(len(fixed))
    ends = np.concatenate([np.ones(len(fixed)), -np.ones(len(fixed))])
    incidence = scipy.sparse.csr_array(
        (ends, (np.tile(lines, 2), np.concatenate([moving, fixed]))), shape=(len(fixed), count)
    )
    rest = incidence[:, 1:]  # the first slice is where it is
    weighted = rest.T.multiply(weights).tocsr()
    solved = (
        scipy.sparse.linalg.spsolve((weighted @ rest).tocsc(), weighted @ steps)
        if count > 1
        else np.zeros((0, 2))
    )
    return np.concatenate([np.zeros((1, 2)), solved.reshape(count - 1, 2)])


def _linear_parts(
    count: int,
    fixed: NDArray[np.int64],
    moving: NDArray[np.int64],
    links: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, 2, 2) turns and shears A with A[fixed] nearest to A[moving] @ link; those of the first slice are none."""
    # One row of A has two numbers; equation e, k: A[fixed, k] - sum over m of A[moving, m] link[m, k] = 0.
    equations = np.arange(2 * len(fixed)).reshape(-1, 2)
    lines = [equations.ravel()] + [equations.ravel()] * 2
    places = [(2 * fixed[:, None] + np.arange(2)).ravel()] + [
        np.repeat(2 * moving + m, 2) for m in range(2)
    ]
    values = [np.ones(equations.size)] + [-links[:, m].ravel() for m in range(2)]
    whole = scipy.sparse.csr_array(
        (np.concatenate(values), (np.concatenate(lines), np.concatenate(places))),
        shape=(equations.size, 2 * count),
    )
    rest, known = whole[:, 2:], whole[:, :2]
    weighted = rest.T.multiply(np.repeat(weights, 2)).tocsr()
    right = -(
        weighted @ (known @ np.eye(2))
    )  # rows of A are columns here: the first slice's are those of the unit matrix
    solved = (
        scipy.sparse.linalg.spsolve((weighted @ rest).tocsc(), right).reshape(count - 1, 2, 2)
        if count > 1
        else np.zeros((0, 2, 2))
    )
    return np.concatenate([np.eye(2)[None], np.swapaxes(solved, 1, 2)])
