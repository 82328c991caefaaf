"""Import: a stack in any format that has a reader -> the raw image of a sample."""

from pathlib import Path

import numpy as np
from pydantic import Field

from sparsem.errors import InputError
from sparsem.execution import HERE, Execution, Needs
from sparsem.geometry import ZBlock, z_blocks
from sparsem.progress import tell
from sparsem.settings import Settings
from sparsem.stage import BlockResult, Stage
from sparsem.store.readers import Stack, open_source
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec

READABLE = (np.uint8, np.uint16)


class ImportSettings(Settings):
    """How a stack becomes a sample."""

    voxel_nm: tuple[float, float, float] | None = Field(
        None, description="voxel size z y x in nm; required where the file does not state it"
    )
    dataset: str | None = Field(None, description="key of the array inside a Zarr group")
    block_depth: int = Field(16, ge=1, description="slices a z-block: the unit of work, of resuming, and of the chunks on disk")


def import_stack(source: str | Path, path: str | Path, settings: ImportSettings = ImportSettings(), on: Execution = HERE) -> Sample:
    """Copy a stack into ``path`` as the raw image of a sample, block by block; the source stays as it is.

    Args:
        source: file, folder or glob; see ``open_source``.
        path: the sample to make, by custom NAME.zarr.
        settings: voxel size where the format has none, block depth.
        on: how the work is spread.

    Returns:
        The sample; its raw image is (z, y, x), uint8 or uint16 as the source.

    Raises:
        InputError: the source cannot be read, or states no voxel size and none was given.
        ResumeError: the sample holds another import.
    """
    found = open_source(source, settings.dataset)
    voxel = found.voxel_size(settings.voxel_nm)
    if found.stack.dtype not in READABLE:
        raise InputError(
            f"{source} holds {found.stack.dtype} numbers; expected 8 or 16 bit unsigned. Convert the stack, for instance in Fiji."
        )
    z, y, x = found.stack.shape
    depth = min(settings.block_depth, z)
    output = volume_spec("", (z, y, x), found.stack.dtype, Kind.IMAGE, voxel, depth)
    inputs = {"source": str(found.identity())}
    block_bytes = depth * y * x * found.stack.dtype.itemsize
    needs = Needs(ram=5 * block_bytes, disk=output.nbytes, smaller="a smaller --block-depth needs less")
    missing = sorted(set(range(min(found.numbers, default=0), max(found.numbers, default=-1) + 1)) - set(found.numbers))
    if missing:
        tell(f"Note: {len(missing)} slice numbers are missing in {source}, the first {missing[0]}; their neighbours are joined.", on.quiet)
    sample = Sample.create(path)
    with Stage(sample, "import", settings, inputs, [output], on, needs) as stage:
        stage.map(_import_block, z_blocks(z, depth), found.stack)
    return sample


def _import_block(block: ZBlock, stack: Stack) -> BlockResult:
    return {"": np.ascontiguousarray(stack[block.own])}, {}
