"""HDF5 files in practice: file systems without locks, links to other files, compression plugins."""

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from sparsem.errors import InputError

# Registered filters of HDF5 that files of microscopes and programs use; all but the first come with
# hdf5plugin.
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
    """Open an HDF5 file for reading, and close it at the end.

    Raises:
        InputError: another program is writing to it.
    """
    file = _open(path)
    try:
        yield file
    finally:
        file.close()


def _open(path: Path) -> h5py.File:
    """Open a file with a lock, so that no half-written data are read.

    Where the file system has no locks, the file is opened without one.
    """
    try:
        return h5py.File(path, "r")
    except BlockingIOError:
        raise InputError(
            f"{path.name} is open for writing in another program; close it there first."
        ) from None
    except OSError as error:
        if "clear file consistency flags" in str(error):
            raise InputError(
                f"{path.name} is open for writing in another program, or that program crashed; "
                "close it there, or run h5clear -s."
            ) from None
        if error.errno in (errno.EACCES, errno.ENOENT) or "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def require_filters(node: h5py.Dataset, name: str) -> None:
    """Load the plugins that decompress a dataset, if they are installed.

    Raises:
        InputError: its compression cannot be read.
    """
    creation_properties = node.id.get_create_plist()
    for number in range(creation_properties.get_nfilters()):
        code, _, _, stored_name = creation_properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            _load_filter(code, stored_name, name)


def _load_filter(code: int, stored_name: bytes, dataset_name: str) -> None:
    """Load the plugin of one filter."""
    try:
        importlib.import_module(PLUGINS)
    except ImportError:
        hint = "pip install hdf5plugin, or save it with gzip (h5repack -f GZIP=1)"
    else:
        hint = "hdf5plugin does not have it; save the file with gzip"
    if not h5py.h5z.filter_avail(code):
        filter_name = stored_name.decode(errors="replace").split(";")[0].strip("\0")
        filter_name = FILTERS.get(code, filter_name or "unknown")
        raise InputError(
            f"{dataset_name} is compressed by filter {code} ({filter_name}), "
            f"which is not installed: {hint}."
        )


@dataclass(frozen=True)
class Datasets:
    """The datasets of a file that could be a stack, and the dangling links.

    Attributes:
        keys: of the datasets.
        dangling: a sentence for each link whose target is missing.
    """

    keys: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)


def find_datasets(file: h5py.File) -> Datasets:
    """Return all datasets of three axes or more, also behind soft and external links.

    Each is listed once, by its own key if it has one in this file, else by that of a link.
    """
    search = _DatasetSearch(file)
    search.visit("/")
    while search.links:
        search.visit(search.links.pop(0))
    return search.datasets


@dataclass
class _DatasetSearch:
    """A walk through a file, along hard links first.

    Attributes:
        file: the file.
        datasets: the datasets of three axes or more so far.
        links: keys of soft and external links that were not followed yet.
    """

    file: h5py.File
    datasets: Datasets = field(default_factory=Datasets)
    links: list[str] = field(default_factory=list)
    _visited: set[tuple[int, int]] = field(default_factory=set)

    def visit(self, key: str) -> None:
        """Visit a group or dataset, and all that lies below it, unless it was visited before."""
        node = _find_node(self.file, key)
        if node is None:
            target = link_target(self.file, key)
            self.datasets.dangling.append(f"'{key}' is a link to {target}, which is not there")
            return
        info = h5py.h5o.get_info(node.id)
        if (info.fileno, info.addr) in self._visited:
            return
        self._visited.add((info.fileno, info.addr))
        if isinstance(node, h5py.Dataset) and node.shape is not None and node.ndim >= 3:
            self.datasets.keys.append(key)
        if isinstance(node, h5py.Group):
            self._visit_children(node, key)

    def _visit_children(self, group: h5py.Group, key: str) -> None:
        for name in group:
            child_key = f"{key}/{name}".lstrip("/")
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                self.visit(child_key)
            else:
                self.links.append(child_key)


def find_dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    """Return a dataset by its key; None if there is none.

    Files in which a dataset keeps its numbers are expected next to ``file``.
    """
    node = _find_node(file, key)
    if not isinstance(node, h5py.Dataset):
        return None
    if not node.external:
        return node
    node.id.close()  # other access properties count only if the dataset is not open
    access_properties = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # By default the files are searched for in the working directory.
    access_properties.set_efile_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5py.h5d.open(file.id, key.encode(), access_properties))


def link_target(file: h5py.File, key: str) -> str | None:
    """Return where a link points to, for messages; None if it is no link."""
    try:
        link = file.get(key, getlink=True)
    except KeyError:
        return None
    if isinstance(link, h5py.ExternalLink):
        return f"'{link.path}' in {link.filename}"
    return f"'{link.path}'" if isinstance(link, h5py.SoftLink) else None


def _find_node(file: h5py.File, key: str) -> h5py.Dataset | h5py.Group | None:
    """Return a dataset or group by its key; None if there is none, or the link is dangling."""
    try:
        return file[key]
    except (KeyError, OSError):
        return None
