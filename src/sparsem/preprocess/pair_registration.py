"""Registration of every slice to those before it, and across bad slices: two stages of their own.

The shape of an aligned image follows from the registrations, so that they are computed before it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsem.geometry import ZBlock, z_blocks
from sparsem.preprocess.detail import Detail, extract_detail
from sparsem.preprocess.registration import Registration, register
from sparsem.preprocess.settings import RegisterSettings
from sparsem.preprocess.slice_positions import RegisteredPair
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage


def register_neighbors(
    sample: Sample,
    image: Volume,
    image_name: str,
    settings: RegisterSettings,
    out: str,
    on: Execution,
) -> list[RegisteredPair]:
    """Register every slice to the ``reference_slices`` before it.

    Args:
        sample: in which the stage is recorded.
        image: read block by block.
        image_name: name of the image in the sample.
        settings: of the registration.
        out: name of the aligned image, part of the name of the stage.
        on: how the work is distributed.
    """
    slices_in_memory = image.block_depth + settings.reference_slices
    with Stage(
        sample,
        f"register-{out}",
        settings,
        {"image": image.fingerprint, "name": image_name},
        [],
        on,
        _registration_needs(image, settings, slices_in_memory),
    ) as stage:
        blocks = image.blocks(halo=settings.reference_slices)
        summaries = stage.map(_register_block, blocks, image, settings)
    pairs = []
    for summary in summaries:
        pairs += [_pair_from_json(entry) for entry in summary["pairs"]]
    return pairs


def register_across_gaps(
    sample: Sample,
    image: Volume,
    slice_pairs: Sequence[tuple[int, int]],
    settings: RegisterSettings,
    out: str,
    on: Execution,
) -> list[RegisteredPair]:
    """Register pairs of slices on either side of bad slices.

    Args:
        sample: in which the stage is recorded.
        image: read slice by slice.
        slice_pairs: numbers of slices, (fixed, moving).
        settings: of the registration.
        out: name of the aligned image, part of the name of the stage.
        on: how the work is distributed.
    """
    if not slice_pairs:
        return []
    # The pairs follow from settings that are not part of the registration: what was registered
    # before may be replaced.
    with Stage(
        sample,
        f"bridge-{out}",
        settings,
        {"image": image.fingerprint, "pairs": str(slice_pairs)},
        [],
        replace(on, overwrite=True),
        _registration_needs(image, settings, 1),
    ) as stage:
        summaries = stage.map(
            _register_single_pair,
            z_blocks(len(slice_pairs), 1),
            image,
            settings,
            of_block=lambda block: slice_pairs[block.start],
        )
    return [_pair_from_json(summary["pair"]) for summary in summaries]


def _register_block(block: ZBlock, image: Volume, settings: RegisterSettings) -> BlockResult:
    """Register the slices of a block to those before them."""
    details: dict[int, Detail] = {}  # of the last slices, in ascending order
    pairs = []
    slices = image.read(slice(block.read_start, block.stop))
    for z, voxels in enumerate(slices, block.read_start):
        detail = extract_detail(voxels, settings.working_mpx)
        if z >= block.start:
            for fixed, fixed_detail in details.items():
                registration = register(fixed_detail, detail, settings.motion)
                pairs.append(_pair_to_json(fixed, z, registration))
        details[z] = detail
        details.pop(z - settings.reference_slices, None)
    return {}, {"pairs": pairs}


def _register_single_pair(
    _: ZBlock, image: Volume, settings: RegisterSettings, slice_pair: tuple[int, int]
) -> BlockResult:
    """Register one pair of slices."""
    fixed, moving = (
        extract_detail(image.read(slice(z, z + 1))[0], settings.working_mpx) for z in slice_pair
    )
    registration = register(fixed, moving, settings.motion)
    return {}, {"pair": _pair_to_json(*slice_pair, registration)}


def _pair_to_json(fixed: int, moving: int, registration: Registration) -> list[Any]:
    """Return a pair of slices as the summary of a block has it."""
    return [fixed, moving, registration.motion.tolist(), registration.similarity]


def _pair_from_json(entry: Sequence[Any]) -> RegisteredPair:
    """Return a pair from the summary of a block."""
    fixed, moving, motion, similarity = entry
    return RegisteredPair(int(fixed), int(moving), np.array(motion), float(similarity))


def _registration_needs(image: Volume, settings: RegisterSettings, slices: int) -> Needs:
    """Return the memory for so many slices at once, their details, and a registration."""
    _, y, x = image.shape
    working_bytes = min(y * x, settings.working_mpx * 1e6) * 4
    slice_bytes = slices * y * x * image.dtype.itemsize
    detail_bytes = (settings.reference_slices + 1) * working_bytes * 2
    registration_bytes = y * x * 8 + working_bytes * 12
    return Needs(
        ram=int(slice_bytes + detail_bytes + registration_bytes),
        smaller="a smaller --working-mpx, or fewer --workers, need less",
    )
