"""The page on which slices are labeled."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QLineEdit, QListWidget, QVBoxLayout, QWidget

from sparsem.annotation.corrected_predictions import computed_slice
from sparsem.annotation.painted import PaintedAnnotation
from sparsem.cells.between import carry_labels, fill_between
from sparsem.cells.warp import Labels
from sparsem.detect.masks.outline import PlacedMask
from sparsem.detect.masks.outliner import BoxOutliner
from sparsem.errors import SampleError
from sparsem.image.flow import gray_window
from sparsem.segment.suggest import suggest
from sparsem.settings import nearest
from sparsem.store.names import checked_structure
from sparsem.viewer.background import Background
from sparsem.viewer.canvas import Canvas
from sparsem.viewer.errors import SHOWN_ERRORS
from sparsem.viewer.undo import UndoStack
from sparsem.viewer.widgets import button, heading, note, row

SHOW_EVERY_MS = 400
N_SUGGESTED = 7
BOXES = "boxes and regions"  # layer of drawn rectangles and polygons
MAX_BETWEEN = 200  # slices that are filled at once
READ_S = 6.0  # for which a sentence is shown


class LabelPage(QWidget):
    """Suggested slices, painting tools, and labels from optical flow and predictions.

    Args:
        canvas: the sample in the viewer.
    """

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self._canvas = canvas
        self.work = Background(self, self._say)
        self._outliner: BoxOutliner | None = None
        self._undo = UndoStack()
        self._said_at = -READ_S
        layout = QVBoxLayout(self)
        self.name = QComboBox()
        self.name.setEditable(True)
        self.name.setToolTip("the structure to label; type a new name and Enter to begin one")
        self.name.activated.connect(lambda _: self.paint())
        layout.addWidget(heading("Structure"))
        layout.addWidget(self.name)
        layout.addWidget(heading("Slices to label next"))
        self.suggestions = QListWidget()
        self.suggestions.setMaximumHeight(110)
        self.suggestions.itemClicked.connect(lambda item: self._go_to(item.text()))
        layout.addWidget(self.suggestions)
        layout.addWidget(
            button(
                "Suggest slices",
                self.suggest_slices,
                "where a label helps most: evenly spaced "
                "at first, then where the prediction is least certain",
            )
        )
        layout.addWidget(heading("Brush"))
        layout.addLayout(
            row(
                button("Structure", self.paint, "paint the structure", is_next=True),
                button("Background", self.paint_background, "paint what is not the structure"),
                button("Erase", self.erase, "unlabeled again: also what you are not sure of"),
            )
        )
        layout.addLayout(
            row(
                button("New object", self.new_object, "paint the next object, with a new number"),
                button("Undo", self.undo, "undo the last stroke or button (Ctrl+Z)"),
            )
        )
        layout.addWidget(heading("What is labeled"))
        layout.addLayout(
            row(
                button(
                    "Whole slice",
                    self.label_whole_slice,
                    "all other pixels of this slice are background",
                ),
                button(
                    "Visible part",
                    self.label_visible_part,
                    "all other pixels that you see are background; the rest stays unlabeled",
                ),
                button(
                    "Drawn region",
                    self.label_drawn_region,
                    "all other pixels in the drawn rectangle or polygon are background",
                ),
            )
        )
        layout.addWidget(heading("Faster"))
        layout.addLayout(
            row(
                button(
                    "Fill between",
                    self.fill_between,
                    "label the slices between the painted "
                    "slices before and after this one, by optical flow",
                ),
                button(
                    "Carry to next",
                    self.carry_to_next,
                    "copy the labels of this slice to the next one, by optical flow",
                ),
            )
        )
        layout.addLayout(
            row(
                button(
                    "Copy prediction",
                    self.copy_prediction,
                    "start from the prediction of this slice, and correct it",
                ),
                button("Draw box", self.draw_box, "draw a rectangle around an object"),
                button(
                    "Box to outline",
                    self.box_to_outline,
                    "outline the object in the last drawn rectangle",
                ),
            )
        )
        self.sam = QLineEdit()
        self.sam.setPlaceholderText("SAM for 'Box to outline': a folder, or facebook/sam-vit-base")
        self.sam.setToolTip("without a model, the outline follows the gray values")
        layout.addWidget(self.sam)
        self.status = note()
        layout.addWidget(self.status)
        layout.addStretch()
        self._list_names()
        canvas.on_change(self._list_names)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._show_status)
        self._timer.start(SHOW_EVERY_MS)

    # The annotation

    def _list_names(self) -> None:
        current = self.name.currentText()
        names = list(dict.fromkeys([*self._canvas.sample.names("annotations"), "nucleus"]))
        self.name.clear()
        self.name.addItems(names)
        self.name.setCurrentText(current or names[0])

    @property
    def structure(self) -> str:
        """Name of the structure that is labeled."""
        return str(self.name.currentText().strip())

    def layer(self) -> Any:
        """Return the layer of the annotation, which is selected.

        Raises:
            SparsemError: the name cannot be that of a structure.
        """
        checked_structure(self.structure)
        layer = self._canvas.annotation(self.structure)
        self._undo.follow(layer)
        layer.visible = True
        self._canvas.viewer.layers.selection.active = layer
        return layer

    def painted(self) -> PaintedAnnotation:
        """Return the annotation.

        Raises:
            SparsemError: the name cannot be that of a structure.
        """
        data = self.layer().data
        if not isinstance(data, PaintedAnnotation):
            raise SampleError(f"The layer of {self.structure} cannot be painted in.")
        return data

    def _attempt(self, action: Callable[[], str | None]) -> None:
        """Call a function, and show what it says or what is wrong."""
        try:
            message = action()
        except SHOWN_ERRORS as error:
            message = str(error)
        if message:
            self._say(message)

    def _say(self, message: str) -> None:
        self._canvas.show_message(message)
        self.status.setText(message)
        self._said_at = time.monotonic()

    def _show_status(self) -> None:
        if self.work.is_running:
            return
        for painted in self._canvas.annotations():
            if painted.problem:
                self.status.setText(f"Not saved yet: {painted.problem}")
                return
            if painted.unsaved:
                self.status.setText("Saving ...")
                self._said_at = -READ_S
                return
        layer = self._canvas.layer("annotation", self.structure)
        was_read = time.monotonic() - self._said_at > READ_S
        if layer is not None and was_read:
            slices = layer.data.slices
            listed = ", ".join(map(str, slices)) or "none"
            advice = " Next: page 2, Train." if slices else ""
            self.status.setText(f"Saved. Labeled slices of {self.structure}: {listed}.{advice}")

    # Slices

    def suggest_slices(self) -> None:
        """List the slices to label next."""
        self._attempt(self._suggest)

    def _suggest(self) -> str:
        sample = self._canvas.sample
        known = {*sample.names("annotations"), *sample.names("probabilities")}
        structure = self.structure if self.structure in known else None
        n_slices = sample.image().shape[0]
        result = suggest(sample, structure, n=max(1, min(N_SUGGESTED, n_slices - 1)))
        self.suggestions.clear()
        self.suggestions.addItems([f"slice {z}" for z in result.z])
        return f"Suggested because {result.criterion}."

    def _go_to(self, text: str) -> None:
        self._canvas.go_to(int(text.rpartition(" ")[2]))

    # Brush

    def paint(self) -> None:
        """Paint the structure with the brush."""
        self._attempt(lambda: self._select(1, "paint"))

    def paint_background(self) -> None:
        """Paint background with the brush."""
        self._attempt(lambda: self._select(self.painted().background, "paint"))

    def erase(self) -> None:
        """Erase labels with the brush."""
        self._attempt(lambda: self._select(1, "erase"))

    def new_object(self) -> None:
        """Paint an object with a number that none has in the slices that were looked at."""

        def select() -> None:
            painted = self.painted()
            numbers = [0]
            for z in painted.slices:
                plane = painted.plane(z)
                numbers.append(int(plane[plane != painted.background].max(initial=0)))
            limit = painted.background - 1
            if max(numbers) >= limit:
                raise SampleError(f"The numbers up to {limit} are used; take an older one again.")
            self._select(max(numbers) + 1, "paint")

        self._attempt(select)

    def _select(self, number: int, mode: str) -> None:
        layer = self.layer()
        layer.selected_label = number
        layer.mode = mode

    def undo(self) -> None:
        """Undo the last stroke, or what the last button labeled."""
        self._attempt(self._undo.undo)

    def _replace(self, layer: Any, planes: Mapping[int, Labels]) -> None:
        """Replace the labels of whole slices of a layer, so that it can be undone."""
        self._undo.remember(layer, planes)
        for z, plane in planes.items():
            layer.data[z] = plane
        layer.refresh()

    # What is labeled

    def label_whole_slice(self) -> None:
        """Label everything else in the slice as background."""
        self._attempt(lambda: self._label_background(np.s_[:, :]))

    def label_visible_part(self) -> None:
        """Label everything else in the visible part of the slice as background."""
        self._attempt(lambda: self._label_background(self._visible_part()))

    def _visible_part(self) -> tuple[slice, slice]:
        """Return rows and columns of the slice that the canvas shows."""
        corners = np.asarray(self.layer().corner_pixels)
        (top, left), (bottom, right) = corners[0, -2:], corners[1, -2:]
        rows = slice(max(0, int(top)), int(bottom) + 1)
        return rows, slice(max(0, int(left)), int(right) + 1)

    def _label_background(self, part: Any) -> str:
        painted, z = self.painted(), self._canvas.z
        plane = painted.plane(z).copy()
        n_unlabeled = int((plane == 0).sum())
        plane[part][plane[part] == 0] = painted.background
        self._replace(self.layer(), {z: plane})
        n_left = int((painted.plane(z) == 0).sum())
        return f"{n_unlabeled - n_left} more pixels of slice {z} are background."

    def label_drawn_region(self) -> None:
        """Label everything else in the last drawn shape as background."""

        def label() -> str:
            mask = self._drawn_mask()
            painted, z = self.painted(), self._canvas.z
            plane = painted.plane(z)
            labels = np.where(mask & (plane == 0), painted.background, plane)
            self._replace(self.layer(), {z: labels})
            return f"The labeled region of slice {z} has {int(mask.sum())} pixels."

        self._attempt(label)

    # Shapes

    def draw_box(self) -> None:
        """Let the person draw rectangles."""

        def draw() -> None:
            layer = self._shapes()
            self._canvas.viewer.layers.selection.active = layer
            layer.mode = "add_rectangle"

        self._attempt(draw)

    def _shapes(self) -> Any:
        viewer = self._canvas.viewer
        if BOXES not in viewer.layers:
            voxel = self._canvas.sample.voxel_size
            viewer.add_shapes(
                ndim=3,
                name=BOXES,
                scale=tuple(voxel),
                units=("nm",) * 3,
                axis_labels=("z", "y", "x"),
                face_color="transparent",
                edge_color="#56B4E9",
                edge_width=2,
            )
        return viewer.layers[BOXES]

    def _drawn_mask(self) -> Any:
        """Return the pixels (y, x) within the last drawn shape.

        Raises:
            SampleError: nothing was drawn.
        """
        layer = self._shapes()
        if not len(layer.data):
            raise SampleError("Draw a rectangle or a polygon first ('Draw box').")
        _, height, width = self.painted().shape
        corners = np.asarray(layer.data[-1])[:, 1:]  # the slices of the corners do not matter
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(corners[:, ::-1]).astype(np.int32)], 1)
        return mask > 0

    def box_to_outline(self) -> None:
        """Outline the object in the last drawn rectangle."""

        def start() -> None:
            layer = self._shapes()
            if not len(layer.data):
                raise SampleError("Draw a rectangle around an object first ('Draw box').")
            corners = np.asarray(layer.data[-1])
            z, painted, annotation = self._canvas.z, self.painted(), self.layer()
            number = int(annotation.selected_label) or 1
            (_, y0, x0), (_, y1, x1) = corners.min(axis=0), corners.max(axis=0)
            image = self._canvas.image_slice(z, painted.image)
            outliner = self._outliner_of_model(painted.image)

            def show(placed: PlacedMask) -> str:
                mask, (top, left) = placed
                rows = slice(top, top + mask.shape[0])
                columns = slice(left, left + mask.shape[1])
                plane = painted.plane(z).copy()
                plane[rows, columns][mask] = number
                self._replace(annotation, {z: plane})
                return f"Outlined {int(mask.sum())} pixels in slice {z}."

            box = (float(x0), float(y0), float(x1), float(y1))
            self.work.start("Outlining", lambda: outliner.outline(image, z, box), show)

        self._attempt(start)

    def _outliner_of_model(self, name: str) -> BoxOutliner:
        """Return what outlines objects of an image with the chosen model, which is loaded once."""
        model = self.sam.text().strip() or None
        image = self._canvas.sample.image(name)
        outliner = self._outliner
        if outliner is None or (outliner.model, outliner.image) != (model, image):
            outliner = self._outliner = BoxOutliner(image, model)
        return outliner

    # Labels from elsewhere

    def copy_prediction(self) -> None:
        """Label the slice with the result, which is then corrected."""

        def copy() -> str:
            sample, z, painted = self._canvas.sample, self._canvas.z, self.painted()
            if self.structure not in sample.names("labels"):
                names = sample.names("labels")
                raise SampleError(
                    f"There is no prediction of {self.structure}{nearest(self.structure, names)} "
                    "Predict first, on the page 'Result'."
                )
            labels = computed_slice(sample, self.structure, z, painted.image)
            layer = self.layer()
            self._undo.remember(layer, [z])
            painted.start_from_prediction(z, labels)
            layer.refresh()
            return f"Copied the prediction of slice {z}; correct it with the brush."

        self._attempt(copy)

    def _refuse_montage(self) -> None:
        if self._canvas.sample.image().sizes:
            raise SampleError("These are single images: nothing leads from one to the next.")

    def carry_to_next(self) -> None:
        """Copy the labels of the slice to the next one, by optical flow."""

        def start() -> None:
            self._refuse_montage()
            layer, painted, z = self.layer(), self.painted(), self._canvas.z
            if z + 1 >= painted.shape[0]:
                raise SampleError("This is the last slice.")
            plane = painted.plane(z)
            if not plane.any():
                raise SampleError(f"Nothing is labeled in slice {z}.")

            def carry() -> Labels:
                images = [self._canvas.image_slice(n, painted.image) for n in (z, z + 1)]
                return carry_labels(plane, images, window=gray_window(images[0]))[0]

            def show(carried: Labels) -> str:
                self._replace(layer, {z + 1: carried})
                self._canvas.go_to(z + 1)
                return f"Carried the labels to slice {z + 1}; correct them with the brush."

            self.work.start(f"Carrying the labels to slice {z + 1}", carry, show)

        self._attempt(start)

    def fill_between(self) -> None:
        """Label the slices between the labeled ones around this slice, by optical flow."""

        def start() -> None:
            self._refuse_montage()
            layer, painted, z = self.layer(), self.painted(), self._canvas.z
            below = [n for n in painted.slices if n <= z]
            above = [n for n in painted.slices if n > z]
            if not below or not above:
                raise SampleError("Label a slice before and a slice after this one first.")
            first, last = max(below), min(above)
            if last - first < 2:
                raise SampleError(f"There is no slice between {first} and {last}.")
            if last - first > MAX_BETWEEN:
                raise SampleError(f"{last - first} slices are too many; label one in between.")
            ends = painted.plane(first), painted.plane(last)

            def fill() -> list[Labels]:
                numbers = range(first, last + 1)
                images = [self._canvas.image_slice(n, painted.image) for n in numbers]
                return fill_between(*ends, images, window=gray_window(images[0]))

            def show(planes: list[Labels]) -> str:
                # Slices that were painted meanwhile stay.
                filled = enumerate(planes, first + 1)
                self._replace(layer, {n: plane for n, plane in filled if n not in painted.slices})
                return f"Filled the slices {first + 1} to {last - 1}; correct them with the brush."

            self.work.start(f"Filling the slices {first + 1} to {last - 1}", fill, show)

        self._attempt(start)
