"""The reader of napari: a sample that is dropped on a window, or opened by its menu."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sparsem.store.sample import Sample
from sparsem.viewer.layers import Layer, sample_layers

Paths = str | Sequence[str]


def napari_get_reader(path: Paths) -> Callable[[Paths], list[Layer]] | None:
    """Return a function that reads a sample; None for anything else, which other readers take."""
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) == 1 and (Path(paths[0]) / ".sparsem").is_dir():
        return _read
    return None


def _read(path: Paths) -> list[Layer]:
    only_path = path if isinstance(path, str) else path[0]
    return sample_layers(Sample.open(only_path))
