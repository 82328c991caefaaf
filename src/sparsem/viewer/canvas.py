"""The sample in the viewer, as all pages see it: its layers, the current slice, and refreshing."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.painted import PaintedAnnotation
from sparsem.geometry import VoxelSize
from sparsem.store.cached import ChunkCache
from sparsem.store.names import OBJECTS
from sparsem.store.sample import Sample
from sparsem.viewer.errors import SHOWN_ERRORS
from sparsem.viewer.layers import (
    annotation_layer,
    is_numbered,
    labels_layer,
    result_layers,
)

MARK = "place to review"  # layer of the ring
RING_PX = 40
RING_COLOR = "#FFD700"


class Canvas:
    """A sample in a viewer.

    Args:
        viewer: the napari viewer.
        sample: the sample.
    """

    def __init__(self, viewer: Any, sample: Sample) -> None:
        self.viewer = viewer
        self.sample = sample
        self._cache = ChunkCache()
        self._listeners: list[Callable[[], None]] = []

    # Position

    @property
    def z(self) -> int:
        """Number of the slice that is shown."""
        return int(self.viewer.dims.current_step[0])

    def go_to(self, z: int, y: float | None = None, x: float | None = None) -> None:
        """Show a slice, and a position (px) of it in the middle."""
        self.viewer.dims.set_current_step(0, z)
        if y is None or x is None:
            return
        voxel = self.voxel_size
        self.viewer.camera.center = (0, y * voxel.y, x * voxel.x)

    @property
    def voxel_size(self) -> VoxelSize:
        """Voxel size of the image; of the first labels if there is none."""
        if self.sample.has_image:
            return self.sample.voxel_size
        return self.sample.volume("labels", self.sample.names("labels")[0]).voxel_size

    def mark(self, z: int, y: int, x: int) -> None:
        """Put a ring around a position (px) of a slice; there is one ring at a time."""
        if MARK in self.viewer.layers:
            self.viewer.layers[MARK].data = [(z, y, x)]
            return
        active = self.viewer.layers.selection.active
        self.viewer.add_points(
            [(z, y, x)],
            name=MARK,
            scale=tuple(self.voxel_size),
            units=("nm",) * 3,
            axis_labels=("z", "y", "x"),
            size=RING_PX,
            face_color="transparent",
            border_color=RING_COLOR,
            border_width=0.06,
        )
        self.viewer.layers.selection.active = active  # so that the brush keeps painting

    def image_slice(self, z: int, image: str | None = None) -> NDArray[Any]:
        """Return a slice (y, x) of an image; of the newest one if none is named."""
        return np.asarray(self.sample.image(image).read(slice(z, z + 1))[0])

    # Layers

    def layer(self, kind: str, name: str) -> Any | None:
        """Return the layer of a kind and name; None if there is none."""
        for layer in self.viewer.layers:
            about = layer.metadata.get("sparsem", {})
            if (about.get("kind"), about.get("name")) == (kind, name):
                return layer
        return None

    def annotation(self, name: str) -> Any:
        """Return the layer of an annotation; it is added if there is none yet.

        Raises:
            SampleError: the annotation was drawn on an image that was replaced.
        """
        layer = self.layer("annotation", name)
        if layer is None:
            painted = PaintedAnnotation(self.sample, name, numbered=is_numbered(self.sample, name))
            data, options, _ = annotation_layer(painted)
            layer = self.viewer.add_labels(data, **options)
        return layer

    def annotations(self) -> list[PaintedAnnotation]:
        """Return all annotations that can be painted in."""
        arrays = [layer.data for layer in self.viewer.layers if "sparsem" in layer.metadata]
        return [data for data in arrays if isinstance(data, PaintedAnnotation)]

    def objects_name(self, name: str) -> str:
        """Return the labels in which the objects of a result are numbered."""
        numbered = f"{name}{OBJECTS}"
        return numbered if numbered in self.sample.names("labels") else name

    def refresh_labels(self, name: str) -> None:
        """Show ``labels/NAME`` as it is on disk now; the layer is added if there is none."""
        if name not in self.sample.names("labels"):
            return
        data, options, _ = labels_layer(self.sample, name, self._cache)
        layer = self.layer("labels", name)
        if layer is None:
            options["visible"] = True
            self.viewer.add_labels(data, **options)
        else:
            layer.data = data
            layer.refresh()

    def refresh_corrections(self) -> None:
        """Show the corrected voxels as they are on disk now."""
        for layer in self.viewer.layers:
            if layer.metadata.get("sparsem", {}).get("kind") == "corrections":
                layer.refresh()

    def refresh(self) -> None:
        """Show all results as they are on disk now, and tell the pages."""
        for data, options, kind in result_layers(self.sample, self._cache):
            about = options["metadata"]["sparsem"]
            layer = self.layer(about["kind"], about["name"])
            if layer is None:
                getattr(self.viewer, f"add_{kind}")(data, **options)
            else:
                layer.data = data
        self.notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function after every change of the results."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """Tell the pages that results changed."""
        for listener in self._listeners:
            listener()

    def show_message(self, message: str) -> None:
        """Show a message in the status bar."""
        self.viewer.status = message

    def close(self) -> None:
        """Save everything that was painted; what cannot be saved is put aside in the sample."""
        for painted in self.annotations():
            with suppress(*SHOWN_ERRORS):
                painted.close()
