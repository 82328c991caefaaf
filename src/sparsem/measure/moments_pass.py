"""The first pass over z-blocks: sums over the voxels of every object, and overlaps with containers.

The sums of the blocks add up to those of the volume, so no result depends on the blocks.
Labels are (z, y, x).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import Overlaps, add_overlaps
from sparsem.labels.runs import label_runs, overlaps_of_runs
from sparsem.measure.features.moments import Moments, combine_moments, moments_of_runs
from sparsem.measure.links import run_links
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import MeasuredStructure
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage


class MomentsLink(NamedTuple):
    """A block of the numbered objects of all structures.

    Attributes:
        volumes: labels that number the objects of every structure, by name.
        block: slices of the block.
        containers: names of the cells and nuclei that may contain the objects, by structure.
    """

    volumes: Mapping[str, Volume]
    block: ZBlock
    containers: Mapping[str, Sequence[str]]


def sum_voxels(
    stage: Stage, volumes: Mapping[str, Volume], settings: MeasureSettings
) -> dict[str, MeasuredStructure]:
    """Sum over the voxels of the objects of every structure.

    Args:
        stage: stage that the pass belongs to.
        volumes: numbered objects of every structure, by name.
        settings: settings with the names of cells and nuclei.
    """
    containers = _containers(volumes, settings)
    blocks = next(iter(volumes.values())).blocks()
    links = {_link_name(block): MomentsLink(volumes, block, containers) for block in blocks}
    results = run_links(stage, "voxels", block_moments, links)
    arrays = [results.arrays(name) for name in links]
    return {
        name: _combine_blocks(arrays, name, volume, containers[name])
        for name, volume in volumes.items()
    }


def block_moments(link: MomentsLink, _previous: None) -> Arrays:
    """Sum over the voxels of the objects of a block, and count the voxels shared with containers.

    The labels of every structure are read once.

    Returns:
        The fields of ``Moments`` as ``STRUCTURE.FIELD``, and the fields of ``Overlaps`` as
        ``STRUCTURE.CONTAINER.FIELD``.
    """
    arrays: dict[str, NDArray[Any]] = {}
    all_containers = {name for names in link.containers.values() for name in names}
    labels = {name: link.volumes[name].read(link.block.own) for name in sorted(all_containers)}
    for name, volume in link.volumes.items():
        objects = labels[name] if name in labels else volume.read(link.block.own)
        runs = label_runs(objects)
        moments = moments_of_runs(runs, volume.shape[1:], link.block.start)
        arrays |= {f"{name}.{field}": column for field, column in moments._asdict().items()}
        for container in link.containers[name]:
            shared = overlaps_of_runs(runs, labels[container])
            for field, column in shared._asdict().items():
                arrays[f"{name}.{container}.{field}"] = column
    return arrays


def _containers(volumes: Mapping[str, Volume], settings: MeasureSettings) -> dict[str, list[str]]:
    """Return for every structure the cells and nuclei that may contain its objects."""
    names = [name for name in (settings.cells, settings.nucleus) if name in volumes]
    return {structure: [name for name in names if name != structure] for structure in volumes}


def _link_name(block: ZBlock) -> str:
    """Return the name of the link of a block."""
    return f"moments.{block.start}"


def _combine_blocks(
    arrays: Sequence[Arrays], structure: str, volume: Volume, containers: Sequence[str]
) -> MeasuredStructure:
    """Return the objects of a structure from the arrays of all blocks."""
    moments = [Moments(*_fields(block, structure, Moments._fields)) for block in arrays]
    total_overlaps = {}
    for container in containers:
        name = f"{structure}.{container}"
        parts = [Overlaps(*_fields(block, name, Overlaps._fields)) for block in arrays]
        total_overlaps[container] = add_overlaps(parts)
    return MeasuredStructure(volume, combine_moments(moments), total_overlaps)


def _fields(arrays: Arrays, name: str, fields: Sequence[str]) -> list[NDArray[Any]]:
    """Return the arrays of some fields of a structure."""
    return [arrays[f"{name}.{field}"] for field in fields]
