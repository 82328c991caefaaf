"""HDF5 files as people keep them: on file systems without locks, with links to other files, with compression by plugins."""

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from sparsem.errors import InputError

# Registered filters of HDF5 that files of microscopes and programs use; all but the first come with hdf5plugin.
FILTERS = {
    4: "SZIP",
    307: "BZip2",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstd",
    32017: "SZ",
    32019: "FCIDECOMP",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
PLUGINS = "hdf5plugin"


@contextmanager
def hdf5_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading.

    Raises:
        InputError: another program is writing to it.
    """
    file = _opened(path)
    try:
        yield file
    finally:
        file.close()


def _opened(path: Path) -> h5py.File:
    """Open a file with a lock, so that no half-written data are read; without one where the file system has no locks."""
    try:
        return h5py.File(path, "r")
    except BlockingIOError:
        raise InputError(
            f"{path.name} is open for writing in another program; close it there first."
        ) from None
    except OSError as error:
        if "clear file consistency flags" in str(error):
            raise InputError(
                f"{path.name} is open for writing in another program, or that program crashed; close it there, or run h5clear -s."
            ) from None
        if error.errno in (errno.EACCES, errno.ENOENT) or "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def require_filters(node: h5py.Dataset, name: str) -> None:
    """Load the plugins that a dataset needs to be unpacked, if they are installed.

    Raises:
        InputError: its compression cannot be read here.
    """
    plist = node.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, stored_name = plist.get_filter(number)
        if h5py.h5z.filter_avail(code):
            continue
        known = FILTERS.get(
            code, stored_name.decode(errors="replace").split(";")[0].strip("\0") or "unknown"
        )
        try:
            importlib.import_module(PLUGINS)
        except ImportError:
            hint = "pip install hdf5plugin, or save it with gzip (h5repack -f GZIP=1)"
        else:
            hint = "hdf5plugin does not have it; save the file with gzip"
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{name} is compressed by filter {code} ({known}), which is not installed: {hint}."
            )


@dataclass(frozen=True)
class Datasets:
    """The datasets of a file that could be a stack, and the links that lead nowhere.

    Attributes:
        keys: of the datasets.
        dangling: a sentence for each link whose target is missing.
    """

    keys: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)


def find_datasets(file: h5py.File) -> Datasets:
    """All datasets of three axes or more, also behind soft and external links: each once, by its own name before that of a link."""
    found = Datasets()
    seen: set[tuple[int, int]] = set()
    links: list[str] = []

    def visit(key: str) -> None:
        node = _node(file, key)
        if node is None:
            found.dangling.append(
                f"'{key}' is a link to {link_target(file, key)}, which is not there"
            )
            return
        about = h5py.h5o.get_info(node.id)
        if (about.fileno, about.addr) in seen:
            return
        seen.add((about.fileno, about.addr))
        if isinstance(node, h5py.Dataset) and node.shape is not None and node.ndim >= 3:
            found.keys.append(key)
        if not isinstance(node, h5py.Group):
            return
        for name in node:
            below = f"{key}/{name}".lstrip("/")
            if isinstance(node.get(name, getlink=True), h5py.HardLink):
                visit(below)
            else:
                links.append(below)

    visit("/")
    while links:
        visit(links.pop(0))
    return found


def find_dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    """A dataset by its key; numbers that it keeps in other files lie next to it. None if there is none."""
    node = _node(file, key)
    if not isinstance(node, h5py.Dataset):
        return None
    if not node.external:
        return node
    node.id.close()  # it can be opened otherwise only when it is not open
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(
        b"${ORIGIN}"
    )  # else the files are looked for where the program was started
    return h5py.Dataset(h5py.h5d.open(file.id, key.encode(), access))


def link_target(file: h5py.File, key: str) -> str | None:
    """Where a link points to, for messages; None if it is no link."""
    try:
        link = file.get(key, getlink=True)
    except KeyError:
        return None
    if isinstance(link, h5py.ExternalLink):
        return f"'{link.path}' in {link.filename}"
    return f"'{link.path}'" if isinstance(link, h5py.SoftLink) else None


def _node(file: h5py.File, key: str) -> h5py.Dataset | h5py.Group | None:
    """What has a key; None if nothing has, or a link leads nowhere."""
    try:
        return file[key]
    except (KeyError, OSError):
        return None
