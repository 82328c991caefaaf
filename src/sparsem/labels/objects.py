"""The stage ``objects``: numbered objects of a structure, from its mask and the boundary in it.

Two methods. **components**: 26-connected components of the mask, so that objects that touch are
one. **agglomeration**: the mask is cut into fragments, basins of the probabilities of structure and
boundary, and fragments that no boundary separates are merged (see ``fragments`` and
``agglomerate``).

Both compute the parts of every block independently, join them in one graph that is resolved once,
and number objects by their first voxel. So the numbers depend neither on blocks nor on workers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import LabeledSlices, boundary_of_objects
from sparsem.annotation.precedence import apply_precedence, read_drawing
from sparsem.errors import InputError, SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.agglomerate import (
    NO_FACES,
    Faces,
    add_faces,
    agglomerate,
    faces_along,
    faces_between,
    faces_of_block,
    require_overlap,
)
from sparsem.labels.components import (
    Ints,
    ObjectNumbering,
    Parts,
    connected_parts,
    first_of_components,
    join_parts,
    join_touching,
    number_components,
    number_runs,
    part_starts,
    runs_of_slice,
    shifted_pairs,
    sizes_of_runs,
    touching_pairs,
    values_of_blocks,
)
from sparsem.labels.fragments import HALO, climb, follow, insert_drawn_objects
from sparsem.labels.results import require_same_pixels, result_labels
from sparsem.labels.runs import LabelRuns, label_runs
from sparsem.labels.settings import ObjectSettings
from sparsem.settings import changed, resolve_settings
from sparsem.store.names import OBJECTS, base_name, is_step
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, BlockResult, Stage, fingerprint_of, read_link

# Slices farther apart than this multiple of a pixel are cut into fragments one by one.
MAX_ELONGATION = 2.0


@dataclass(frozen=True)
class ObjectsResult(StageResult):
    """The result of ``objects``.

    Attributes:
        labels: the numbered objects.
        settings: the settings that were used; the method is stated.
        objects: number of objects, as they were computed.
        small_objects: number of objects that were left out, smaller than the minimum.
        small_voxels: voxels of these.
    """

    labels: Volume
    settings: ObjectSettings
    objects: int
    small_objects: int
    small_voxels: int


class _Source(NamedTuple):
    """The volumes from which objects are computed.

    Attributes:
        mask: labels of the structure; any number except 0 is the structure.
        probability: probability of the structure; None for connected components.
        boundary: probability of the boundary between objects; None for connected components.
        in_depth: fragments extend across slices.
        drawn: hand-labeled slices of the structure on the pixels of the mask; None if there are
            none.
    """

    mask: Volume
    probability: Volume | None = None
    boundary: Volume | None = None
    in_depth: bool = True
    drawn: LabeledSlices | None = None


def objects(
    sample: Sample,
    name: str,
    settings: ObjectSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ObjectsResult:
    """Write ``labels/NAME-objects`` (uint32): the objects of a structure, numbered from 1.

    Hand-labeled slices and corrections of the mask take precedence, and so do corrections of the
    objects. ``measure`` measures these objects.

    Args:
        sample: sample with ``labels/NAME``, a mask.
        name: name of the structure.
        settings: method, threshold and minimum size.
        on: how the work is distributed.
        changes: fields of the settings, by name.

    Raises:
        InputError: the name is that of a step towards a result, such as a boundary.
        SampleError: there is no such mask, its labels number objects already, or the boundary was
            not predicted, or not on the same image.
        ResumeError: objects of another mask or with other settings exist, and ``on.overwrite`` is
            not set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(ObjectSettings, settings, changes)
    if is_step(name):
        raise InputError(
            f"'{name}' is a step towards a result; name the structure, '{base_name(name)}'."
        )
    mask = result_labels(sample, name)
    if mask.dtype != np.uint8:
        raise SampleError(f"labels/{name} of {sample.path.name} numbers its objects already.")
    source = _source(sample, name, mask, settings)
    settings = _resolved(settings, source)
    output = mask.like(f"labels/{name}{OBJECTS}", np.uint32, Kind.LABELS, mask.made_on)
    inputs = {"mask": mask.fingerprint, **_source_of(sample, mask), **_predictions(source)}
    needs = _needs(source, output.nbytes)
    with Stage(sample, _stage_of(name), settings, inputs, [output], on, needs) as stage:
        summaries = _write_objects(stage, source, output.path, settings)
    apply_precedence(sample, f"{name}{OBJECTS}", on.quiet)
    summary = summaries[0]
    return ObjectsResult(
        sample=sample,
        written=(output.path,),
        labels=sample.volume("labels", f"{name}{OBJECTS}"),
        settings=settings,
        objects=int(summary["objects"]),
        small_objects=int(summary["small_objects"]),
        small_voxels=int(summary["small_voxels"]),
    )


def recorded_object_settings(sample: Sample, name: str) -> ObjectSettings:
    """Return the settings with which the objects of a structure were numbered; else the default."""
    recorded = sample.last_settings(_stage_of(name))
    fields = {key: recorded[key] for key in ObjectSettings.model_fields if key in recorded}
    return ObjectSettings(**fields)


def current_objects(sample: Sample, name: str, mask: Volume) -> Volume:
    """Return the numbered objects of a mask, ``labels/NAME-objects``.

    Raises:
        SampleError: they are missing, or the mask has changed since they were numbered.
    """
    if f"{name}{OBJECTS}" not in sample.names("labels"):
        raise SampleError(
            f"labels/{name} of {sample.path.name} is a mask, so its objects have no numbers yet; "
            f"run 'sparsem objects {sample.path.name} {name}', which numbers them."
        )
    if not are_objects_current(sample, name, mask):
        raise SampleError(
            f"labels/{name} of {sample.path.name} changed since its objects were numbered; run "
            f"'sparsem objects {sample.path.name} {name} --overwrite'."
        )
    return sample.volume("labels", f"{name}{OBJECTS}")


def numbered_objects(sample: Sample, name: str) -> Volume:
    """Return the labels that number the objects of a structure: its own, or those of its mask.

    Raises:
        SampleError: there are no such labels, or the objects of a mask are not numbered.
    """
    labels = result_labels(sample, name)
    return current_objects(sample, name, labels) if labels.dtype == np.uint8 else labels


def are_objects_current(sample: Sample, name: str, mask: Volume) -> bool:
    """Return True if ``labels/NAME-objects`` number a mask as it is, but for later corrections.

    Edits of objects correct the mask too. A mask that was predicted again, or in which other slices
    are labeled, has other objects.
    """
    recorded = sample.last_settings(_stage_of(name))
    return all(
        recorded.get(f"input {key}") == value for key, value in _source_of(sample, mask).items()
    )


def _stage_of(name: str) -> str:
    return f"objects-{name}"


def _source(sample: Sample, name: str, mask: Volume, settings: ObjectSettings) -> _Source:
    """Return the volumes that a method reads; without a method, that of which all exist.

    Raises:
        SampleError: the boundary was not predicted, or on another image than the mask.
    """
    boundary_name = boundary_of_objects(name)
    missing = sorted({name, boundary_name} - set(sample.names("probabilities")))
    if settings.method == "components" or (settings.method is None and missing):
        return _Source(mask)
    if missing:
        raise SampleError(_missing_prediction(sample, name, missing[0]))
    probability = sample.volume("probabilities", name)
    boundary = sample.volume("probabilities", boundary_name)
    volumes = {name: mask, f"{name} (probability)": probability, boundary_name: boundary}
    require_same_pixels(sample, volumes, "predict again, on the image of the labels")
    drawn = read_drawing(sample, mask.directory.name).annotation
    return _Source(mask, probability, boundary, _is_compact(mask), drawn)


def _is_compact(mask: Volume) -> bool:
    """Return True if fragments extend across the slices of a mask."""
    voxel = mask.voxel_size
    return not mask.sizes and voxel.z <= MAX_ELONGATION * max(voxel.y, voxel.x)


def _missing_prediction(sample: Sample, name: str, missing: str) -> str:
    return (
        f"{sample.path.name} has no probabilities/{missing}, which the method agglomeration needs. "
        f"Train with 'sparsem train --objects {name}' and predict, or use --method components."
    )


def _resolved(settings: ObjectSettings, source: _Source) -> ObjectSettings:
    """Return the settings with the method that is used, without what has no effect on it."""
    if source.boundary is not None:
        return changed(settings, {"method": "agglomeration"})
    threshold = ObjectSettings().boundary_threshold
    return changed(settings, {"method": "components", "boundary_threshold": threshold})


def _min_voxels(source: _Source, settings: ObjectSettings) -> int:
    """Return the minimum number of voxels of an object."""
    voxel_um3 = source.mask.voxel_size.volume_um3
    return max(settings.min_voxels, math.ceil(settings.min_volume_um3 / voxel_um3))


def _source_of(sample: Sample, mask: Volume) -> dict[str, str]:
    """Return fingerprints of a mask without its corrections."""
    mask_name = mask.directory.name
    drawing = read_drawing(sample, mask_name)
    return {
        "computed mask": sample.computed(mask_name).fingerprint,
        "labeled slices": fingerprint_of(drawing.record["annotation"]),
    }


def _predictions(source: _Source) -> dict[str, str]:
    """Return the fingerprints of the probabilities."""
    if source.probability is None or source.boundary is None:
        return {}
    return {
        "probability": source.probability.fingerprint,
        "boundary": source.boundary.fingerprint,
    }


def _needs(source: _Source, output_bytes: int) -> Needs:
    """Return what it takes to number the objects of a mask."""
    mask = source.mask
    _, y, x = mask.shape
    n_slices = mask.block_depth + (1 if source.boundary is None else 2 * HALO)
    # Of every voxel: mask, two probabilities, pointer, fragment, number, and what counts them and
    # writes the coarser levels (measured); and slices of heights.
    return Needs(
        n_slices * y * x * 24 + y * x * 64,
        output_bytes // 16,
        "import with a smaller --block-depth, or use fewer --workers",
    )


def _write_objects(
    stage: Stage, source: _Source, path: str, settings: ObjectSettings
) -> list[dict[str, Any]]:
    """Number the objects of all blocks, and return the summaries of the blocks."""
    numbers: list[Parts] = []
    summary: dict[str, int] = {}
    folder = None
    if not stage.finished:
        blocks = _label_blocks(stage, source)
        folder = blocks.folder
        numbering = _number_parts(blocks, source, settings)
        numbers = numbering.numbers
        summary = {
            "objects": numbering.objects,
            "small_objects": numbering.small_components,
            "small_voxels": numbering.small_voxels,
        }
    depth = source.mask.block_depth
    return stage.map(
        _number_block,
        _blocks(source),
        source,
        path,
        summary,
        folder,
        of_block=lambda block: numbers[block.start // depth] if numbers else None,
    )


def _blocks(source: _Source) -> list[ZBlock]:
    """Return the blocks of the mask, with the slices around them that their parts depend on."""
    return source.mask.blocks(halo=HALO if source.boundary is not None and source.in_depth else 0)


class _BlockParts(NamedTuple):
    """The parts of all blocks, on disk.

    Attributes:
        folder: folder of the results of blocks and seams.
        parts: name of the result of every block.
        seams: name of the result for every block but the last and the one after it.
    """

    folder: Path
    parts: Sequence[str]
    seams: Sequence[str]

    def of_parts(self, name: str) -> list[NDArray[Any]]:
        """Return an array of every block."""
        return [_read_link(self.folder, link, name) for link in self.parts]

    def of_seams(self, name: str) -> list[NDArray[Any]]:
        """Return an array of every seam."""
        return [_read_link(self.folder, link, name) for link in self.seams]


def _label_blocks(stage: Stage, source: _Source) -> _BlockParts:
    """Label the parts of all blocks, and find those that belong together."""
    blocks = _blocks(source)
    part_links = {_link_name("parts", block): [block] for block in blocks}
    is_small = source.boundary is None  # no array has a value for every voxel
    folder = stage.chain(
        f"{stage.name}, parts", _label_parts, part_links, source, in_one_file=is_small
    )
    seam_links = {_link_name("seam", upper): [(upper, lower)] for upper, lower in pairwise(blocks)}
    stage.chain(f"{stage.name}, seams", _join_blocks, seam_links, source, folder, in_one_file=True)
    return _BlockParts(folder, list(part_links), list(seam_links))


def _number_parts(
    blocks: _BlockParts, source: _Source, settings: ObjectSettings
) -> ObjectNumbering:
    """Return the objects that the parts of all blocks form."""
    voxels, firsts = blocks.of_parts("voxels"), blocks.of_parts("firsts")
    pairs = blocks.of_seams("pairs")
    min_voxels = _min_voxels(source, settings)
    if source.boundary is None:
        return join_parts(voxels, firsts, pairs, min_voxels)
    fragments = _join_fragments(voxels, firsts, pairs, _read_faces(blocks, part_starts(voxels)))
    object_of = _merge_fragments(fragments, source, settings)
    component = object_of[fragments.of_part] - 1
    return number_components(component, fragments.number, voxels, firsts, min_voxels)


def _merge_fragments(
    fragments: "_JoinedFragments", source: _Source, settings: ObjectSettings
) -> Ints:
    """Return the object of every fragment, (number + 1,)."""
    faces = fragments.faces
    if not source.in_depth:
        faces = require_overlap(faces, fragments.sizes)
    z, y, x = source.mask.voxel_size
    areas = np.array([y * x, z * x, z * y])
    return agglomerate(faces, fragments.number, areas, 255 * settings.boundary_threshold)


class _JoinedFragments(NamedTuple):
    """The fragments of the whole volume.

    Attributes:
        number: number of fragments.
        of_part: (parts,) fragment of the parts of all blocks, from 1, in the order of their first
            voxels: it does not depend on the blocks.
        sizes: (number,) voxels of the fragments.
        faces: common faces of the fragments.
    """

    number: int
    of_part: Ints
    sizes: Ints
    faces: Faces


def _join_fragments(
    voxels: Sequence[Ints], firsts: Sequence[Ints], pairs: Sequence[Ints], faces: Faces
) -> _JoinedFragments:
    """Return the fragments of the volume from those of its blocks.

    Args:
        voxels: see ``join_parts``.
        firsts: see ``join_parts``.
        pairs: for every block but the last, its fragments and those of the next one that are parts
            of one fragment, (n, 2).
        faces: faces between the fragments of blocks, all numbered from 1.
    """
    number, fragment = join_touching(part_starts(voxels), pairs)
    order = np.argsort(first_of_components(fragment, number, firsts))
    rank = np.empty(number, np.int64)
    rank[order] = np.arange(1, number + 1)
    of_part = rank[fragment]
    sizes = np.zeros(number, np.int64)
    np.add.at(sizes, of_part - 1, values_of_blocks(voxels))
    joined = add_faces([faces._replace(pairs=of_part[faces.pairs - 1])])
    return _JoinedFragments(number, of_part, sizes, joined)


def _read_faces(blocks: _BlockParts, starts: Ints) -> Faces:
    """Return the faces between the fragments of all blocks, which are numbered from 1."""
    parts = [NO_FACES]
    columns = [blocks.of_parts(f"face_{name}") for name in Faces._fields]
    for start, pairs, counts, evidence in zip(starts, *columns, strict=False):
        parts.append(Faces(pairs + start, counts, evidence))
    pairs = shifted_pairs(starts, blocks.of_seams("face_pairs")) + 1
    counts = values_of_blocks(blocks.of_seams("face_counts"))
    evidence = values_of_blocks(blocks.of_seams("face_evidence"))
    return add_faces([*parts, faces_along(0, pairs, counts, evidence)])


def _read_link(folder: Path, link: str, name: str) -> NDArray[Any]:
    """Return an array of a finished link."""
    return read_link(folder, link, [name])[name]


def _link_name(content: str, block: ZBlock) -> str:
    return f"{content}-{block.start}"


def _label_parts(block: ZBlock, _previous: None, source: _Source) -> Arrays:
    """Return voxels and first voxels of the parts of a block, and what joins them with others.

    Those are the runs of connected parts; of fragments the first and last slice, where they
    continue, and the faces between them.
    """
    if source.probability is None or source.boundary is None:
        runs = connected_parts(source.mask.read(block.own))
        return {**_part_arrays(*sizes_of_runs(runs), source, block), **runs._asdict()}
    probability, boundary = _read_predictions(block.read, source)
    mask = source.mask.read(block.read)
    pointers = climb(probability, boundary, mask, block.inner, source.in_depth)
    fragments, exits = follow(pointers)
    faces = faces_of_block(fragments, boundary[block.inner])
    return {
        **_part_arrays(*sizes_of_runs(label_runs(fragments)), source, block),
        "bottom": fragments[0],
        "top": fragments[-1],
        "exits": exits,
        "pointers": pointers,
        **{f"face_{name}": column for name, column in faces._asdict().items()},
    }


def _part_arrays(
    voxels: Ints, firsts: Ints, source: _Source, block: ZBlock
) -> dict[str, NDArray[Any]]:
    _, rows, columns = source.mask.shape
    return {"voxels": voxels, "firsts": firsts + block.start * rows * columns}


def _read_runs(folder: Path, link: str) -> LabelRuns:
    """Return the runs of the connected parts of a block."""
    return LabelRuns(**read_link(folder, link, LabelRuns._fields))


def _read_predictions(
    slices: slice, source: _Source
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return probability and boundary (z, y, x), in hand-labeled slices those that were drawn."""
    assert source.probability is not None
    assert source.boundary is not None
    probability = source.probability.read(slices)
    boundary = source.boundary.read(slices)
    if source.drawn is None:
        return probability, boundary
    for index, z in enumerate(source.drawn.z):
        if slices.start <= z < slices.stop:
            position = z - slices.start
            drawn, known = source.drawn.separate_objects(index)
            insert_drawn_objects(probability[position], boundary[position], drawn, known)
    return probability, boundary


def _join_blocks(
    blocks: tuple[ZBlock, ZBlock], _previous: None, source: _Source, folder: Path
) -> Arrays:
    """Return the parts of a block that belong to parts of the next one.

    For fragments also the faces between those of the two blocks.
    """
    upper, lower = (_link_name("parts", block) for block in blocks)
    are_images = bool(source.mask.sizes)  # of a montage, one a block, which are not connected
    if source.boundary is None:
        if are_images:
            return {"pairs": np.empty((0, 2), np.int64)}
        _, *shape = source.mask.shape
        pixels = math.prod(shape)
        upper_runs, lower_runs = _read_runs(folder, upper), _read_runs(folder, lower)
        last = runs_of_slice(upper_runs, blocks[0].stop - blocks[0].start - 1, pixels)
        first = runs_of_slice(lower_runs, 0, pixels)
        return {"pairs": touching_pairs(last, first, (shape[0], shape[1]))}
    top = _read_link(folder, upper, "top")
    bottom = _read_link(folder, lower, "bottom")
    if are_images:
        top = np.zeros_like(top)
    upper_exits, lower_exits = (_read_link(folder, link, "exits") for link in (upper, lower))
    first_lower = blocks[1].start
    _, boundary = _read_predictions(slice(first_lower - 1, first_lower + 1), source)
    pairs, counts, evidence = faces_between(
        top[None], bottom[None], boundary[:1], boundary[1:], same_numbers=False
    )
    return {
        "pairs": _continued_fragments(top, bottom, upper_exits, lower_exits),
        "face_pairs": pairs,
        "face_counts": counts,
        "face_evidence": evidence,
    }


def _continued_fragments(
    top: Parts, bottom: Parts, upper_exits: NDArray[Any], lower_exits: NDArray[Any]
) -> Ints:
    """Return the pairs (n, 2) of fragments of two blocks that are parts of one fragment.

    Args:
        top: (y, x) fragments in the last slice of the upper block.
        bottom: (y, x) fragments in the first slice of the lower block.
        upper_exits: (n, 2) where the fragments of the upper block continue.
        lower_exits: (n, 2) where those of the lower block continue.
    """
    downwards = np.flatnonzero(upper_exits[:, 0] == 1)
    upwards = np.flatnonzero(lower_exits[:, 0] == -1)
    reached_below = bottom.reshape(-1)[upper_exits[downwards, 1]]
    reached_above = top.reshape(-1)[lower_exits[upwards, 1]]
    upper = np.concatenate([downwards + 1, reached_above])
    lower = np.concatenate([reached_below, upwards + 1])
    return np.stack([upper, lower], axis=1).astype(np.int64)


def _number_block(
    block: ZBlock,
    source: _Source,
    path: str,
    summary: dict[str, int],
    folder: Path | None,
    numbers: Parts,
) -> BlockResult:
    assert folder is not None
    link = _link_name("parts", block)
    if source.boundary is None:
        shape = (block.stop - block.start, *source.mask.shape[1:])
        return {path: number_runs(_read_runs(folder, link), numbers, shape)}, summary
    parts, _ = follow(_read_link(folder, link, "pointers"))
    return {path: numbers[parts]}, summary
