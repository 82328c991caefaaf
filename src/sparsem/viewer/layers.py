"""The layers of a sample for napari: data, options and kind of each.

Volumes are read lazily; positions are in nm. Only annotations can be painted in: labels are what
was computed, and change by edits.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.corrections import UNCORRECTED, Corrections, read_corrections
from sparsem.annotation.labeled_slices import annotation_attributes
from sparsem.annotation.painted import PaintedAnnotation
from sparsem.annotation.unsaved import unsaved_names
from sparsem.annotation.writing import restore_annotations
from sparsem.errors import SampleError, SparsemError
from sparsem.progress import print_note
from sparsem.report.plots.colors import N_CELL_COLORS, cell_color, structure_color, unit_rgb
from sparsem.store.cached import ChunkCache, cached_levels
from sparsem.store.names import DISAGREEMENT, RAW, REGIONS, UNCERTAINTY, base_name
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume

Layer = tuple[Any, dict[str, Any], str]  # as npe2 expects it

OPACITY = 0.5
BACKGROUND_COLOR = (0.35, 0.55, 0.8, 0.35)  # of what is labeled as background
CORRECTION_COLOR = (1.0, 0.5, 0.0, 1.0)
N_COLORS = 255  # colors of numbered objects; number 255 and its multiples are background
UNIT = "nm"


def sample_layers(sample: Sample) -> list[Layer]:
    """Return all layers of a sample, images first.

    Raises:
        SampleError: a volume is damaged.
    """
    layers = result_layers(sample, ChunkCache())
    with suppress(SampleError):  # another run holds the sample
        restore_annotations(sample)
    for name in sorted({*sample.names("annotations"), *unsaved_names(sample)}):
        try:
            painted = PaintedAnnotation(sample, name, numbered=is_numbered(sample, name))
        except SparsemError as error:  # such as an image that was replaced
            print_note(f"Note: annotations/{name} is not shown: {error}", quiet=False)
        else:
            layers.append(annotation_layer(painted))
    return layers


def result_layers(sample: Sample, cache: ChunkCache) -> list[Layer]:
    """Return all layers of a sample but its annotations, images first.

    Args:
        sample: the sample.
        cache: where decoded chunks are kept.

    Raises:
        SampleError: a volume is damaged.
    """
    layers = [
        _image_layer(sample, name, cache) for name in sample.images if _is_usable(sample, name)
    ]
    for number, (_, options, _) in enumerate(layers):
        options["visible"] = number == len(layers) - 1
    for name in sample.names("probabilities"):
        if not sample.is_stale("probabilities", name):
            layers.append(_probability_layer(sample, name, cache))
    for name in sample.names("labels"):
        if not sample.is_stale("labels", name) and not name.endswith(REGIONS):
            layers.append(labels_layer(sample, name, cache))
    for name in sample.names("corrections"):
        corrections = read_corrections(sample, name)
        is_shown = name in sample.names("labels") and not sample.is_stale("labels", name)
        if corrections is not None and corrections.n_voxels and is_shown:
            layers.append(_corrections_layer(sample, name, corrections))
    return layers


def _is_usable(sample: Sample, image: str) -> bool:
    """Return True if an image exists, and was not made on one that was replaced since."""
    if image == RAW:
        return sample.has_image
    return not sample.is_stale("images", image)


def _metadata(sample: Sample, kind: str, name: str) -> dict[str, Any]:
    """Return how the dock recognizes a layer."""
    return {"sparsem": {"sample": str(sample.path), "kind": kind, "name": name}}


def _volume_options(sample: Sample, volume: Volume, kind: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "scale": tuple(volume.voxel_size),
        "units": (UNIT,) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": _metadata(sample, kind, name),
    }


def _pyramid(volume: Volume, cache: ChunkCache) -> tuple[Any, bool]:
    """Return the levels of a volume, and True if there are several."""
    levels = cached_levels(volume, cache)
    return (levels, True) if len(levels) > 1 else (levels[0], False)


def _image_layer(sample: Sample, name: str, cache: ChunkCache) -> Layer:
    volume = sample.image(name)
    data, is_multiscale = _pyramid(volume, cache)
    options = {
        **_volume_options(sample, volume, "image", name),
        "multiscale": is_multiscale,
        "colormap": "gray",
        "contrast_limits": _gray_range(volume),
    }
    return data, options, "image"


def _gray_range(volume: Volume) -> tuple[float, float]:
    """Return the gray levels between which an image is shown: 0.2 % at either end are cut."""
    coarsest = volume.read(slice(None), volume.levels - 1)
    low, high = np.percentile(coarsest[:: max(1, len(coarsest) // 16)], (0.2, 99.8))
    return float(low), float(max(high, low + 1))


def _probability_layer(sample: Sample, name: str, cache: ChunkCache) -> Layer:
    volume = sample.volume("probabilities", name)
    data, is_multiscale = _pyramid(volume, cache)
    color = unit_rgb(structure_color(base_name(name)))
    is_doubt = name.endswith((UNCERTAINTY, DISAGREEMENT))
    options = {
        **_volume_options(sample, volume, "probability", f"{name} probability"),
        "multiscale": is_multiscale,
        "colormap": "inferno" if is_doubt else fading_color(color),
        "contrast_limits": (0, 255),
        "blending": "additive" if is_doubt else "translucent",
        "opacity": OPACITY,
        "visible": False,
    }
    if is_doubt:
        options["name"] = name
    options["metadata"] = _metadata(sample, "probability", name)
    return data, options, "image"


def fading_color(color: Sequence[float]) -> Any:
    """Return a color map from transparent to a color (red, green, blue)."""
    from napari.utils import Colormap

    return Colormap([(*color, 0.0), (*color, 1.0)])


def labels_layer(sample: Sample, name: str, cache: ChunkCache) -> Layer:
    """Return the layer of ``labels/NAME``, in the papers' color or one color for each object."""
    volume = sample.volume("labels", name)
    is_mask = volume.dtype == np.uint8
    options = {
        **_volume_options(sample, volume, "labels", name),
        "multiscale": True,
        "opacity": OPACITY,
        "colormap": mask_colors(name) if is_mask else object_colors(),
        "visible": name == base_name(name),
    }
    return _two_levels(cached_levels(volume, cache)), options, "labels"


def annotation_layer(painted: PaintedAnnotation) -> Layer:
    """Return the layer of an annotation, which can be painted in and saves itself."""
    volume = painted.sample.image(painted.image)
    is_wide = painted.dtype == np.uint32
    name = f"{painted.name} (annotation)"
    options = {
        **_volume_options(painted.sample, volume, "annotation", name),
        "opacity": OPACITY,
        "colormap": object_colors() if is_wide else mask_colors(painted.name, painted.background),
    }
    options["metadata"] = _metadata(painted.sample, "annotation", painted.name)
    return painted, options, "labels"


def is_numbered(sample: Sample, name: str) -> bool:
    """Return True if an annotation numbers objects, as that of cells does."""
    is_of_cells = name.startswith("cell")
    if name not in sample.names("annotations"):
        return is_of_cells
    return is_of_cells and not annotation_attributes(sample, name)["classes"]


class _EverySecondPixel:
    """Every second pixel along y and x of an array (z, y, x), as a coarser level.

    napari lets nobody paint in a layer of several levels, so small labels get a second one.
    """

    def __init__(self, fine: Any) -> None:
        self._fine = fine
        z, y, x = fine.shape
        self.shape = (z, -(-y // 2), -(-x // 2))
        self.dtype = fine.dtype
        self.ndim = 3
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> NDArray[Any]:
        parts = index if isinstance(index, tuple) else (index,)
        planes = np.asarray(self._fine[parts[0]])[..., ::2, ::2]
        rest: tuple[Any, ...] = parts[1:]
        if isinstance(parts[0], slice):
            rest = (slice(None), *rest)
        part: NDArray[Any] = planes[rest]
        return part


def _two_levels(levels: list[Any]) -> list[Any]:
    """Return levels, with a coarser one where there is only one."""
    return levels if len(levels) > 1 else [levels[0], _EverySecondPixel(levels[0])]


class _CorrectedMask:
    """Corrected voxels as a mask (z, y, x) of 0 and 1, in the version that is on disk now."""

    def __init__(self, sample: Sample, name: str, shape: tuple[int, int, int]) -> None:
        self._sample = sample
        self._name = name
        self.shape = shape
        self.dtype = np.dtype(np.uint8)
        self.ndim = 3
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        parts = list(index) if isinstance(index, tuple) else [index]
        parts += [slice(None)] * (3 - len(parts))
        box = [slice(part, part + 1) if not isinstance(part, slice) else part for part in parts]
        rest = tuple(0 if not isinstance(part, slice) else slice(None) for part in parts)
        corrections = read_corrections(self._sample, self._name)
        if corrections is None or corrections.shape != self.shape:
            lengths = [
                len(range(*part.indices(n))) for part, n in zip(box, self.shape, strict=True)
            ]
            return np.zeros(lengths, np.uint8)[rest]
        values = corrections[box[0], box[1], box[2]]
        return np.asarray(values != UNCORRECTED, np.uint8)[rest]


def _corrections_layer(sample: Sample, name: str, corrections: Corrections) -> Layer:
    volume = sample.volume("labels", name)
    options = {
        **_volume_options(sample, volume, "corrections", f"{name} (corrections)"),
        "multiscale": True,
        "colormap": _direct_colors({1: CORRECTION_COLOR}),
        "opacity": OPACITY,
        "visible": False,
    }
    options["metadata"] = _metadata(sample, "corrections", name)
    mask = _CorrectedMask(sample, name, corrections.shape)
    return _two_levels([mask]), options, "labels"


def mask_colors(name: str, background: int | None = None) -> Any:
    """Return the colors of a mask: that of the structure, and that of labeled background."""
    colors: dict[int | None, tuple[float, ...]] = {}
    colors[1] = (*unit_rgb(structure_color(base_name(name))), 1.0)
    for number in range(2, 20):
        colors[number] = (*unit_rgb(cell_color(number)), 1.0)
    if background is not None:
        colors[background] = BACKGROUND_COLOR
    return _direct_colors(colors)


def _direct_colors(colors: Mapping[int | None, tuple[float, ...]]) -> Any:
    from napari.utils.colormaps import DirectLabelColormap

    all_colors: dict[int | None, tuple[float, ...]] = {None: (1.0, 1.0, 1.0, 1.0)}
    all_colors |= {0: (0.0, 0.0, 0.0, 0.0), **colors}
    return DirectLabelColormap(color_dict=all_colors)


def object_colors() -> Any:
    """Return a color for every object: that of the report, and the last for background."""
    from napari.utils.colormaps import CyclicLabelColormap

    colors = np.zeros((N_COLORS + 1, 4), np.float32)
    for number in range(1, N_COLORS):
        colors[number] = (*unit_rgb(cell_color(number % N_CELL_COLORS)), 1.0)
    colors[N_COLORS] = BACKGROUND_COLOR
    return CyclicLabelColormap(colors=colors)
