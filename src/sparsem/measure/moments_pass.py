"""The first pass over z-blocks: sums over the voxels of every object, and overlaps with containers.

The sums of the blocks add up to those of the volume, so no result depends on the blocks.
Labels are (z, y, x).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps
from sparsem.measure.features.moments import Moments, combine_moments, object_moments
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import MeasuredStructure
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage


class MomentsLink(NamedTuple):
    """A block of numbered objects.

    Attributes:
        volume: labels that number the objects.
        block: slices of the block.
        containers: labels of the cells and nuclei that may contain the objects, by name.
    """

    volume: Volume
    block: ZBlock
    containers: Mapping[str, Volume]


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
    links = {}
    for name, volume in volumes.items():
        for block in volume.blocks():
            links[_link_name(name, block)] = MomentsLink(volume, block, containers[name])
    results = run_links(stage, "voxels", block_moments, links)
    return {
        name: _combine_blocks(results, name, volume, containers[name])
        for name, volume in volumes.items()
    }


def block_moments(link: MomentsLink, _previous: None) -> Arrays:
    """Sum over the voxels of the objects of a block, and count the voxels shared with containers.

    Returns:
        The fields of ``Moments``, and the fields of ``Overlaps`` as ``CONTAINER.FIELD``.
    """
    labels = link.volume.read(link.block.own).astype(np.uint32, copy=False)
    arrays: dict[str, NDArray[Any]] = dict(object_moments(labels, link.block.start)._asdict())
    for name, container in link.containers.items():
        shared = overlaps(labels, container.read(link.block.own), labels > 0)
        for field in Overlaps._fields:
            arrays[f"{name}.{field}"] = getattr(shared, field)
    return arrays


def _containers(
    volumes: Mapping[str, Volume], settings: MeasureSettings
) -> dict[str, dict[str, Volume]]:
    """Return for every structure the cells and nuclei that may contain its objects."""
    names = [name for name in (settings.cells, settings.nucleus) if name in volumes]
    return {
        structure: {name: volumes[name] for name in names if name != structure}
        for structure in volumes
    }


def _link_name(structure: str, block: ZBlock) -> str:
    """Return the name of the link of a block."""
    return f"moments.{structure}.{block.start}"


def _combine_blocks(
    results: LinkResults, structure: str, volume: Volume, containers: Mapping[str, Volume]
) -> MeasuredStructure:
    """Return the objects of the volume from the objects of its blocks."""
    moments: list[Moments] = []
    shared: dict[str, list[Overlaps]] = {name: [] for name in containers}
    for block in volume.blocks():
        arrays = results.arrays(_link_name(structure, block))
        moments.append(Moments(*(arrays[field] for field in Moments._fields)))
        for name, parts in shared.items():
            parts.append(_overlaps_with(name, arrays))
    total_overlaps = {name: add_overlaps(parts) for name, parts in shared.items()}
    return MeasuredStructure(volume, combine_moments(moments), total_overlaps)


def _overlaps_with(container: str, arrays: Arrays) -> Overlaps:
    """Return the overlaps of the objects of a block with a container, from its arrays."""
    return Overlaps(*(arrays[f"{container}.{field}"] for field in Overlaps._fields))
