"""The contents of a sample as read-only mappings, name to array or table, for Python users.

sample.labels["nucleus"][10:20]          a numpy array (z, y, x)
sample.annotations["nucleus"].slices     the numbers of the labeled slices sample.tables["nucleus"]
a pandas.DataFrame, or a pyarrow.Table where pandas is not installed
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from sparsem.errors import SampleError
from sparsem.settings import nearest
from sparsem.store.lazy import Index, LazyArray
from sparsem.store.snapshot import read_attributes

V = TypeVar("V", covariant=True)


class NamedItems(Mapping[str, V], Generic[V]):
    """A read-only mapping whose items are opened when they are looked up.

    Args:
        title: what the items are, for messages and the representation.
        names: lists the names there are now.
        open_item: opens the item of a name.
    """

    def __init__(
        self, title: str, names: Callable[[], list[str]], open_item: Callable[[str], V]
    ) -> None:
        self._title = title
        self._names = names
        self._open_item = open_item

    def __getitem__(self, name: str) -> V:
        """Open an item.

        Raises:
            SampleError: there is no item of this name.
        """
        names = self._names()
        if name not in names:
            raise SampleError(f"There is no '{name}' among the {self._title}{nearest(name, names)}")
        return self._open_item(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"<{self._title}: {', '.join(self._names()) or 'none'}>"


@dataclass(frozen=True)
class AnnotatedSlices:
    """The labels of a few slices: reads like a numpy array (n, y, x).

    Attributes:
        array: the labels on disk.
        slices: index in the stack of each of the n slices.
        image: name of the image that the labels were drawn on.
    """

    array: LazyArray
    slices: tuple[int, ...]
    image: str

    @classmethod
    def open(cls, directory: Path) -> "AnnotatedSlices":
        """Open ``annotations/NAME``.

        Raises:
            SampleError: the annotation is damaged.
        """
        record = read_attributes(directory)["sparsem"]
        slices = tuple(int(z) for z in record["z"])
        return cls(LazyArray(directory / "labels"), slices, str(record["image"]))

    def __getitem__(self, index: Index) -> Any:
        """Return a part of the labels, indexed like a numpy array (n, y, x)."""
        return self.array[index]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, y, x)."""
        return self.array.shape

    @property
    def dtype(self) -> Any:
        """Data type of the labels."""
        return self.array.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        labels = self.array[...]
        return labels if dtype is None else labels.astype(dtype)


def table_for_users(table: pa.Table) -> Any:
    """Return a table as pandas.DataFrame; as pyarrow.Table where pandas is not installed."""
    if find_spec("pandas") is None:
        return table
    return table.to_pandas()
