"""Open a stack of any format: one module a format, each of which returns a ``Source``."""

from collections.abc import Callable, Iterable
from pathlib import Path

from sparsem.errors import InputError
from sparsem.io.readers.arrays import NPY_ENDINGS, open_npy
from sparsem.io.readers.hdf5 import HDF5_ENDINGS, open_hdf5
from sparsem.io.readers.matlab import MATLAB_ENDINGS, open_matlab
from sparsem.io.readers.missing import refuse_missing
from sparsem.io.readers.mrc import MRC_ENDINGS, open_mrc
from sparsem.io.readers.nrrd import NRRD_ENDINGS, open_nrrd
from sparsem.io.readers.patterns import files_of_pattern, is_pattern
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.series import SLICE_FILE_ENDINGS, open_montage_images, open_series
from sparsem.io.readers.source import Source
from sparsem.io.readers.tiff import TIFF_ENDINGS, open_tiff
from sparsem.io.readers.zarr import is_zarr, open_zarr
from sparsem.io.settings import MinIsWhite, MrcBytes

Opener = Callable[[Path, Selection], Source]

# The reader of a file, by the ending of its name.
OPENERS: dict[tuple[str, ...], Opener] = {
    TIFF_ENDINGS: open_tiff,
    (".png",): lambda path, selection: open_series([path], str(path), selection),
    MRC_ENDINGS: open_mrc,
    HDF5_ENDINGS: open_hdf5,
    NRRD_ENDINGS: open_nrrd,
    MATLAB_ENDINGS: open_matlab,
    NPY_ENDINGS: lambda path, selection: open_npy(path),
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
    """Open a stack of any format.

    Formats: TIFF (multi-page, BigTIFF, OME, ImageJ), MRC, HDF5, NRRD, models of Microscopy Image
    Browser and MATLAB files, NumPy, Zarr, or a series of TIFF or PNG files.

    Args:
        source: path of a file or folder, or a glob pattern in quotes.
        dataset: key of the array in a Zarr group, an HDF5 or a MATLAB file, or number of the image
            in a TIFF; needed if there are several.
        channel: number of the channel, for a stack with several.
        time: number of the time point, for a series of stacks.
        labels: the numbers are classes or objects, not gray levels: palettes and images of few
            bits are read as they are stored, and chunks that were never written are background.
        any_order: accept a series of files whose names do not give their order; ``order_error`` of
            the source says why.
        min_is_white: numbers to read from a "min is white" TIFF. By default, images are read as
            displayed, and labels are refused.
        mrc_bytes: signedness of the bytes of an MRC file; by default, as its header states.
        fill_missing: replace chunks, pages and files that the stack lacks by the fill value, and
            note it; otherwise they are refused.

    Raises:
        InputError: the source does not exist, has an unknown format, slices of unequal shape, file
            names that give no order, colors, other values than numbers, or missing parts, or is
            damaged.
    """
    selection = Selection(dataset, channel, time, labels, min_is_white, mrc_bytes)
    opened = _open_by_kind(source, selection)
    if opened.stack.dtype.kind not in "biuf":
        raise InputError(f"{Path(source).name} holds {opened.stack.dtype}; expected real numbers.")
    if not any_order:
        opened.refuse_unordered()
    refuse_missing(opened.missing, labels, fill_missing)
    return opened


def open_montage(source: str | Path, min_is_white: MinIsWhite | None = None) -> Source:
    """Open images that form no stack: files of any size and name, each a slice of its own.

    Args:
        source: path of a file or folder, or a glob pattern in quotes.
        min_is_white: see ``open_source``.

    Raises:
        InputError: there are no images, or they are not gray images of one type.
    """
    path = Path(source).absolute()
    selection = Selection(min_is_white=min_is_white)
    if is_pattern(source):
        return open_montage_images(files_of_pattern(source), f"the pattern {source}", selection)
    _require_existing(path, source)
    files = [path] if path.is_file() else path.iterdir()
    return open_montage_images(_slice_files(files), str(source), selection)


def _open_by_kind(source: str | Path, selection: Selection) -> Source:
    """Open a pattern, a Zarr, a folder of slices, or a file by its ending."""
    path = Path(source).absolute()  # a worker on another machine has another working directory
    if is_pattern(source):
        folder = str(Path(source).parent)
        files = files_of_pattern(source)
        return open_series(files, f"the pattern {source}", selection, folder)
    _require_existing(path, source)
    if is_zarr(path):
        return open_zarr(path, selection)
    if path.is_dir():
        files = _slice_files(path.iterdir())
        return open_series(files, f"the folder {source}", selection, str(source).rstrip("/"))
    return _opener_of(path)(path, selection)


def _opener_of(path: Path) -> Opener:
    """Return the reader of a file by the ending of its name.

    Raises:
        InputError: no reader has this ending.
    """
    for endings, opener in OPENERS.items():
        if path.suffix.lower() in endings:
            return opener
    known_endings = ", ".join(ending for endings in OPENERS for ending in endings)
    raise InputError(
        f"{path.name} is of a format that is not read: "
        f"expected {known_endings}, .zarr, or a folder of slices."
    )


def _require_existing(path: Path, source: str | Path) -> None:
    if not path.exists():
        raise InputError(f"There is no file or folder {source}.")


def _slice_files(files: Iterable[Path]) -> list[Path]:
    """Return the visible TIFF and PNG files."""
    return [
        file
        for file in files
        if file.suffix.lower() in SLICE_FILE_ENDINGS and not file.name.startswith(".")
    ]
