"""Skeletons of objects: center lines, their length, branches, ends and radii.

A mask is resampled to cubes, its roughness is removed (see ``without_roughness``), it is thinned to
lines one voxel wide (see ``thinning``), and the lines become a graph: nodes are ends and branch
points, edges are branches. A branch that ends within the ball inscribed at its branch point is a
bump of the surface and is removed. Lines are smoothed before they are measured: a chain of voxels
is up to 8 % too long.

Masks are (z, y, x); lengths and positions have the unit of ``voxel``.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, maximum_filter
from scipy.spatial import cKDTree

from sparsem.labels.distance_transform import distances_inside, within_distance
from sparsem.labels.neighbors import neighbor_slices
from sparsem.measure.features.surface import Edges
from sparsem.measure.features.thinning import thin

# A branch is a bump if it is shorter than this multiple of the radius at its branch point.
BUMP_RADII = 1.5
# Roughness: gaps and whiskers of these radii, as multiples of the largest radius of an object, and
# at most so many voxels.
GAP_RADII = 1 / 2
WHISKER_RADII = 1 / 3
MAX_ROUGHNESS = 3.0
SMOOTHING_VOXELS = 2.0  # sigma by which lines are smoothed
RAY_STEP = 0.25  # voxels by which the way to the tip of an object is measured
# The numbers of a skeleton, as columns of tables.
SKELETON_COLUMNS = (
    "skeleton_length_um",
    "branches",
    "ends",
    "branch_points",
    "tortuosity",
    "min_radius_um",
    "mean_radius_um",
)
COUNT_COLUMNS = ("branches", "ends", "branch_points")
MAX_STRETCH = 8  # a voxel is cut into so many cubes along its longest edge, at most

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Branch(NamedTuple):
    """A line between two nodes of a skeleton.

    Attributes:
        nodes: numbers of the two nodes; equal ones for a closed line.
        points: (n, 3) positions along the line, those of the nodes included.
        radii: (n,) distances of the points to the surface.
    """

    nodes: tuple[int, int]
    points: Floats
    radii: Floats

    @property
    def length(self) -> float:
        """Length of the line."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    @property
    def distance(self) -> float:
        """Distance of its two ends."""
        return float(np.linalg.norm(self.points[-1] - self.points[0]))


class Skeleton(NamedTuple):
    """The skeleton of an object.

    Attributes:
        branches: lines between nodes.
        ends: number of nodes with one branch.
        branch_points: number of nodes with three branches or more.
    """

    branches: tuple[Branch, ...]
    ends: int
    branch_points: int

    @property
    def length(self) -> float:
        """Length of all branches."""
        return sum(branch.length for branch in self.branches)

    @property
    def tortuosity(self) -> float:
        """Length of the open branches over the distance of their ends; NaN without any."""
        open_branches = [branch for branch in self.branches if branch.nodes[0] != branch.nodes[1]]
        distance = sum(branch.distance for branch in open_branches)
        length = sum(branch.length for branch in open_branches)
        return length / distance if distance else float("nan")

    @property
    def radii(self) -> Floats:
        """Radii along all branches."""
        return np.concatenate([np.empty(0), *(branch.radii for branch in self.branches)])


def skeleton_numbers(skeleton: Skeleton) -> Floats:
    """Return the numbers of a skeleton in the order of ``SKELETON_COLUMNS``, (7,).

    NaN stands for radii and tortuosity without a line.
    """
    radii = skeleton.radii if len(skeleton.radii) else np.array([np.nan])
    counts = (len(skeleton.branches), skeleton.ends, skeleton.branch_points)
    return np.array([skeleton.length, *counts, skeleton.tortuosity, radii.min(), radii.mean()])


def skeleton_of(mask: Mask, voxel: Edges) -> Skeleton:
    """Return the skeleton of an object; positions are those in the box of the mask.

    Args:
        mask: (z, y, x) voxels of the object, in a box that may be tight.
        voxel: edge lengths (z, y, x).
    """
    rough, edge = to_cubes(np.pad(mask, 1), voxel)
    cubes = without_roughness(rough)
    radii = distances_inside(cubes, closed=True).astype(np.float64)
    # A line of voxels runs next to the center of a tube, where the radius is the largest nearby.
    central_radii = maximum_filter(radii, 3)
    lines = without_bumps(_trace_lines(np.argwhere(thin(cubes)), central_radii))
    degrees = _degrees(lines)
    whole = [_up_to_tips(_smoothed(line), degrees, radii) for line in lines]
    branches = tuple(_to_length(line, edge, voxel) for line in whole)
    counts = Counter(min(degree, 3) for degree in degrees.values())
    return Skeleton(branches, counts[1], counts[3])


def without_roughness(mask: Mask) -> Mask:
    """Return a mask without cavities, narrow gaps and thin whiskers, which no line should follow.

    A predicted outline is rough where the network was uncertain. Thinning keeps every tunnel and
    every tip, so that rough outlines would have more lines than the object. The mask is closed by a
    ball, and opened by another one; both are small next to the largest ball in the object. Thin
    parts that are long, or that connect others, stay.

    Args:
        mask: (z, y, x) cubes, with a margin of one voxel.
    """
    margin = math.ceil(MAX_ROUGHNESS) + 1
    padded = np.pad(mask, margin)
    largest = float(distances_inside(padded).max())
    closed = _closed(padded, min(GAP_RADII * largest, MAX_ROUGHNESS))
    background = cc3d.connected_components(~closed, connectivity=6)
    solid = background != background[0, 0, 0]
    whisker = min(WHISKER_RADII * largest, MAX_ROUGHNESS)
    if whisker >= 1:
        solid = _without_whiskers(solid, whisker, BUMP_RADII * largest)
    inner = (slice(margin, -margin),) * 3
    return np.asarray(solid[inner])


def _without_whiskers(mask: Mask, radius: float, min_length: float) -> Mask:
    """Return a mask opened by a ball, with the thin parts that are no whiskers.

    These are as long as ``min_length``, or connect bodies that opening would part.
    """
    core = mask & ~within_distance(~mask, None, radius)
    opened = mask & within_distance(core, None, radius)
    thin_parts, count = cc3d.connected_components(mask & ~opened, connectivity=26, return_N=True)
    lengths = np.zeros(count + 1)
    is_thin = thin_parts > 0
    np.maximum.at(lengths, thin_parts[is_thin], distances_inside(~opened)[is_thin])
    bodies = cc3d.connected_components(opened, connectivity=26)
    is_part = (lengths >= min_length) | (_bodies_that_touch(thin_parts, bodies, count) > 1)
    return np.asarray(opened | is_part[thin_parts])


def _bodies_that_touch(parts: NDArray[Any], bodies: NDArray[Any], count: int) -> Ints:
    """Return the number (count + 1,) of bodies that have a face in common with each part."""
    pairs = [np.empty((0, 2), np.int64)]
    for axis in range(3):
        first, second = neighbor_slices(axis)
        for near, far in ((first, second), (second, first)):
            touch = (parts[near] > 0) & (bodies[far] > 0)
            pairs.append(np.column_stack([parts[near][touch], bodies[far][touch]]))
    part_of_pair = np.unique(np.concatenate(pairs), axis=0)[:, 0]
    return np.bincount(part_of_pair.astype(np.int64), minlength=count + 1)


def _closed(mask: Mask, radius: float) -> Mask:
    """Return a mask closed by a ball, which keeps all its voxels."""
    dilated = within_distance(mask, None, radius)
    return ~within_distance(~dilated, None, radius) | mask


def _smoothed(line: Branch) -> Branch:
    """Return a line without the stairs of its voxels; its ends stay where they are."""
    if line.nodes[0] == line.nodes[1]:
        closed = gaussian_filter1d(line.points[:-1], SMOOTHING_VOXELS, axis=0, mode="wrap")
        return line._replace(points=np.concatenate([closed, closed[:1]]))
    points = gaussian_filter1d(line.points, SMOOTHING_VOXELS, axis=0, mode="nearest")
    points[[0, -1]] = line.points[[0, -1]]
    return line._replace(points=points)


def _up_to_tips(line: Branch, degrees: Mapping[int, int], radii: Floats) -> Branch:
    """Return a line whose ends are the centers of the balls that touch the tips of the object.

    Thinning leaves a line that ends anywhere between this center and the surface, or before it.
    """
    if degrees[line.nodes[1]] == 1:
        line = _extended(_shortened(line), radii)
    if degrees[line.nodes[0]] == 1:
        line = _reversed(_extended(_shortened(_reversed(line)), radii))
    return line


def _shortened(line: Branch) -> Branch:
    """Return a line without its end as far as that is a bump of the ball at a later point.

    At least half of the points stay.
    """
    steps = np.linalg.norm(np.diff(line.points[::-1], axis=0), axis=1)
    to_end = np.concatenate([[0.0], np.cumsum(steps)])
    is_bump = to_end + line.radii[-1] <= BUMP_RADII * line.radii[::-1]
    n_bump = int(np.flatnonzero(is_bump).max(initial=0))
    stop = len(line.points) - min(n_bump, len(line.points) // 2)
    return line._replace(points=line.points[:stop], radii=line.radii[:stop])


def _extended(line: Branch, radii: Floats) -> Branch:
    """Return a line that is extended at its last point, straight on."""
    end = line.points[-1]
    steps_back = min(round(float(line.radii.max())) + 1, len(line.points) - 1)
    direction = end - line.points[-1 - steps_back]
    length = float(np.linalg.norm(direction))
    if not length:
        return line
    direction = direction / length
    extension = _way_to_tip(radii, end, direction) - float(line.radii[-1 - steps_back])
    if extension <= 0:
        return line
    points = np.concatenate([line.points, [end + direction * extension]])
    return line._replace(points=points, radii=np.append(line.radii, line.radii[-1]))


def _way_to_tip(radii: Floats, end: Floats, direction: Floats) -> float:
    """Return how far an object continues from a point in it, along a unit vector."""
    way = 0.0
    while True:
        index = np.round(end + direction * way).astype(int)
        is_inside = (index >= 0).all() and (index < radii.shape).all()
        if not is_inside or radii[tuple(index)] == 0:
            return way
        way += RAY_STEP


def _to_length(line: Branch, edge: float, voxel: Edges) -> Branch:
    """Return a line of cubes in units of length, from the corner of the mask without its margin."""
    points = (line.points + 0.5) * edge - np.array(voxel)
    return line._replace(points=points, radii=line.radii * edge)


def to_cubes(mask: Mask, voxel: Edges) -> tuple[Mask, float]:
    """Return a mask in cubes, and their edge: the shortest edge of the voxels.

    Between slices the surface is where the distances to it, inside and outside, are equal.
    """
    edge = max(min(voxel), max(voxel) / MAX_STRETCH)
    if max(voxel) < 1.05 * edge:
        return mask, edge
    inside = distances_inside(mask, voxel)
    outside = distances_inside(~mask, voxel)
    distance = (inside - outside).astype(np.float64)
    for axis, length in enumerate(voxel):
        if not np.isclose(length, edge, rtol=0.01):
            distance = _resampled(distance, axis, edge / length)
    return distance > 0, edge


def _resampled(field: Floats, axis: int, step: float) -> Floats:
    """Return a field at steps of a fraction of a voxel along an axis, between its voxels."""
    last = field.shape[axis] - 1
    centers = np.arange(0.5, round((last + 1) / step)) * step
    positions = np.clip(centers - 0.5, 0, last)
    first = np.minimum(positions.astype(int), max(last - 1, 0))
    second = np.minimum(first + 1, last)
    weight = np.expand_dims(positions - first, tuple({0, 1, 2} - {axis}))
    return np.asarray(field.take(first, axis) * (1 - weight) + field.take(second, axis) * weight)


def _trace_lines(voxels: Ints, radii: Floats) -> list[Branch]:
    """Return the lines between the nodes of a thinned mask, in voxels.

    Args:
        voxels: (n, 3) voxels of the lines.
        radii: (z, y, x) distance of every voxel to the surface.
    """
    if not len(voxels):
        return []
    neighbors = _neighbors(voxels)
    node = _nodes(neighbors)
    centers = _centers(voxels, node)
    lines = []
    for path in _paths(neighbors, node):
        points = voxels[path].astype(np.float64)
        nodes = int(node[path[0]]), int(node[path[-1]])
        for position, number in zip((0, -1), nodes, strict=True):
            points[position] = centers.get(number, points[position])
        lines.append(Branch(nodes, points, radii[tuple(voxels[path].T)]))
    return lines


def _centers(voxels: Ints, node: Ints) -> dict[int, Floats]:
    """Return the mean position (3,) of the voxels of every node."""
    numbers = np.unique(node[node >= 0]).tolist()
    return {number: voxels[node == number].mean(axis=0) for number in numbers}


def _neighbors(voxels: Ints) -> list[list[int]]:
    """Return the indices of the voxels that touch each voxel, also across edges and corners."""
    pairs = cKDTree(voxels).query_pairs(1.75, output_type="ndarray")
    neighbors: list[list[int]] = [[] for _ in voxels]
    for first, second in pairs.tolist():
        neighbors[first].append(second)
        neighbors[second].append(first)
    return neighbors


def _nodes(neighbors: Sequence[Sequence[int]]) -> Ints:
    """Return the node of every voxel, -1 for those on a line.

    Voxels with three neighbors or more that touch are one node; an end is a node of its own.
    """
    degrees = np.array([len(near) for near in neighbors])
    group = np.arange(len(degrees))
    for voxel in np.flatnonzero(degrees > 2).tolist():
        for near in neighbors[voxel]:
            if degrees[near] > 2 and group[near] != group[voxel]:
                group[group == group[near]] = group[voxel]
    return np.where(degrees == 2, -1, group)


def _paths(neighbors: Sequence[Sequence[int]], node: Ints) -> Iterator[list[int]]:
    """Yield the voxels of every line, from a voxel of a node to one of a node.

    A closed line without a node begins and ends at one of its voxels.
    """
    is_used = node >= 0
    begun: set[tuple[int, int]] = set()
    for voxel in np.flatnonzero(node >= 0).tolist():
        for near in neighbors[voxel]:
            if node[near] != node[voxel] and (voxel, near) not in begun:
                path = _follow([voxel, near], neighbors, node)
                begun.add((path[-1], path[-2]))
                is_used[path] = True
                yield path
    for voxel in np.flatnonzero(~is_used).tolist():
        if not is_used[voxel]:
            path = _follow([voxel, neighbors[voxel][0]], neighbors, node)
            is_used[path] = True
            yield path


def _follow(path: list[int], neighbors: Sequence[Sequence[int]], node: Ints) -> list[int]:
    """Return a path that is continued to the next node, or to its beginning."""
    while node[path[-1]] < 0 and path[-1] != path[0]:
        first, second = neighbors[path[-1]]
        path.append(second if first == path[-2] else first)
    return path


def _degrees(lines: Sequence[Branch]) -> Counter[int]:
    """Return the number of branches at every node; a closed line without a node has none."""
    return Counter(node for line in lines for node in line.nodes if node >= 0)


def without_bumps(lines: list[Branch]) -> list[Branch]:
    """Return lines without branches that end within the ball at their branch point.

    The shortest is removed first; two branches that then meet at a node become one.
    """
    while True:
        degrees = _degrees(lines)
        bumps = [line for line in lines if _is_bump(line, degrees)]
        if not bumps:
            return lines
        shortest = min(bumps, key=lambda line: line.length)
        lines = _joined([line for line in lines if line is not shortest])


def _is_bump(line: Branch, degrees: Mapping[int, int]) -> bool:
    """Return whether a branch leads from a branch point to an end nearby.

    So does the line of a body that is about as wide as long.
    """
    if degrees[line.nodes[0]] == degrees[line.nodes[1]] == 1:
        return line.length < BUMP_RADII * float(line.radii.max())
    for node, position in zip(line.nodes, (0, -1), strict=True):
        opposite = line.nodes[1 + position]
        if degrees[node] > 2 and degrees[opposite] == 1:
            return line.length < BUMP_RADII * float(line.radii[position])
    return False


def _joined(lines: list[Branch]) -> list[Branch]:
    """Return lines of which two that meet at a node without others are one."""
    for node, degree in _degrees(lines).items():
        meeting = [line for line in lines if node in line.nodes]
        if degree == 2 and len(meeting) == 2:
            rest = [line for line in lines if node not in line.nodes]
            first, second = meeting
            return _joined([*rest, _join(first, second, node)])
    return lines


def _join(first: Branch, second: Branch, node: int) -> Branch:
    """Return two lines that meet at a node as one."""
    if first.nodes[1] != node:
        first = _reversed(first)
    if second.nodes[0] != node:
        second = _reversed(second)
    points = np.concatenate([first.points, second.points[1:]])
    radii = np.concatenate([first.radii, second.radii[1:]])
    return Branch((first.nodes[0], second.nodes[1]), points, radii)


def _reversed(line: Branch) -> Branch:
    return Branch(line.nodes[::-1], line.points[::-1], line.radii[::-1])
