"""Readers: one file a format, each giving a lazy stack and what the file states of it (see ``source``)."""

from collections.abc import Callable
from pathlib import Path

from sparsem.errors import InputError
from sparsem.io.readers.arrays import NPY_ENDINGS, open_npy
from sparsem.io.readers.hdf5 import HDF5_ENDINGS, open_hdf5
from sparsem.io.readers.matlab import MATLAB_ENDINGS, open_matlab
from sparsem.io.readers.missing import refuse_missing
from sparsem.io.readers.mrc import MRC_ENDINGS, open_mrc
from sparsem.io.readers.nrrd import NRRD_ENDINGS, open_nrrd
from sparsem.io.readers.patterns import files_of_pattern, is_pattern
from sparsem.io.readers.series import SLICE_FILE_ENDINGS, open_montage_images, open_series
from sparsem.io.readers.source import MinIsWhite, MrcBytes, Selection, Source
from sparsem.io.readers.tiff import TIFF_ENDINGS, open_tiff
from sparsem.io.readers.zarr import is_zarr, open_zarr

Opener = Callable[[Path, Selection], Source]

# What a file is, by its ending.
OPENERS: dict[tuple[str, ...], Opener] = {
    TIFF_ENDINGS: open_tiff,
    (".png",): lambda path, pick: open_series([path], str(path), pick),
    MRC_ENDINGS: open_mrc,
    HDF5_ENDINGS: open_hdf5,
    NRRD_ENDINGS: open_nrrd,
    MATLAB_ENDINGS: open_matlab,
    NPY_ENDINGS: lambda path, pick: open_npy(path),
}


def open_source(
    source: str | Path,
    dataset: str | None = None,
    channel: int | None = None,
    time: int | None = None,
    labels: bool = False,
    *,
    any_order: bool = False,
    min_is_white: MinIsWhite | None = None,
    mrc_bytes: MrcBytes | None = None,
    fill_missing: bool = False,
) -> Source:
    """Open a stack: TIFF (multi-page, BigTIFF, OME, ImageJ), MRC, HDF5, NRRD, MIB and MATLAB, NumPy, Zarr, or a series of TIFF or PNG.

    Args:
        source: path of a file or folder, or a glob pattern in quotes.
        dataset: key of the array in a Zarr group, an HDF5 or a MATLAB file, number of the image in a TIFF, where it is not the only one.
        channel: of a stack with several.
        time: of a series of stacks.
        labels: the numbers are classes or objects, not gray levels: palettes and images of few bits are read as they are stored, and
            chunks that were never written are background.
        any_order: accept a series of files whose names do not give their order; ``order_error`` of the source says why.
        min_is_white: which numbers of a "min is white" TIFF count; by default those displayed for an image, while labels are refused.
        mrc_bytes: whether the bytes of an MRC file are signed; if not given, what its header states.
        fill_missing: chunks, pages and files that the stack lacks are taken as the fill value, and noted; else they are refused.

    Raises:
        InputError: nothing there, a format that is not known, slices of unequal shape, file names that give no order, a color image,
            no numbers, a damaged file, missing parts.
    """
    found = _opened(source, Selection(dataset, channel, time, labels, min_is_white, mrc_bytes))
    if found.stack.dtype.kind not in "biuf":
        raise InputError(f"{Path(source).name} holds {found.stack.dtype}; expected real numbers.")
    if not any_order:
        found.refuse_unordered()
    refuse_missing(found.missing, labels, fill_missing)
    return found


def open_montage(source: str | Path, min_is_white: MinIsWhite | None = None) -> Source:
    """Pictures that are no stack, in a folder or of a pattern: of any size and name, each a slice; see ``open_source``.

    Raises:
        InputError: there are none, or they are not gray pictures of one type.
    """
    path, pick = Path(source).absolute(), Selection(min_is_white=min_is_white)
    if is_pattern(source):
        return open_montage_images(files_of_pattern(source), f"the pattern {source}", pick)
    if not path.exists():
        raise InputError(f"There is no file or folder {source}.")
    files = [path] if path.is_file() else list(path.iterdir())
    chosen = [
        one
        for one in files
        if one.suffix.lower() in SLICE_FILE_ENDINGS and not one.name.startswith(".")
    ]
    return open_montage_images(chosen, str(source), pick)


def _opened(source: str | Path, pick: Selection) -> Source:
    path = Path(source).absolute()  # a worker on another machine has another working directory
    if is_pattern(source):
        return open_series(
            files_of_pattern(source), f"the pattern {source}", pick, str(Path(source).parent)
        )
    if not path.exists():
        raise InputError(f"There is no file or folder {source}.")
    if is_zarr(path):
        return open_zarr(path, pick)
    if path.is_dir():
        files = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in SLICE_FILE_ENDINGS and not file.name.startswith(".")
        ]
        return open_series(files, f"the folder {source}", pick, str(source).rstrip("/"))
    for endings, opener in OPENERS.items():
        if path.suffix.lower() in endings:
            return opener(path, pick)
    known = ", ".join(ending for endings in OPENERS for ending in endings)
    raise InputError(
        f"{path.name} is of a format that is not read: expected {known}, .zarr, or a folder of slices."
    )
