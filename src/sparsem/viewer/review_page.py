"""The page on which results are reviewed: places, and edits of objects, by keys."""

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QComboBox, QListWidget, QVBoxLayout, QWidget

from sparsem.errors import InputError
from sparsem.labels import edit
from sparsem.review.accepted import accept_place, review_places
from sparsem.review.places import ReviewPlace
from sparsem.store.names import is_step
from sparsem.viewer.canvas import Canvas
from sparsem.viewer.errors import SHOWN_ERRORS
from sparsem.viewer.tasks import Task
from sparsem.viewer.widgets import button, heading, note, row
from sparsem.workflow.execution import Execution

QUIET = Execution(quiet=True)
NO_RESULT = "There is no result yet: predict, on the page 'Result'."


class ReviewPage(QWidget):
    """Places to review, the most important first; merge, split and delete with undo.

    Args:
        canvas: the sample in the viewer.
        show_labels: shows the page on which slices of a structure are labeled.
    """

    def __init__(self, canvas: Canvas, show_labels: Callable[[str], None]) -> None:
        super().__init__()
        self._canvas = canvas
        self._show_labels = show_labels
        self._places: list[ReviewPlace] = []
        self._skipped: list[ReviewPlace] = []
        self._picked: list[tuple[int, tuple[int, int, int]]] = []
        self._task = Task(self)
        self._steps: list[str] = []
        self._done = ""  # what is said after the last step
        self.state = note()
        self._task.progressed.connect(self.state.setText)
        self._task.finished.connect(lambda _: self._end_step())
        self._task.failed.connect(self.state.setText)
        layout = QVBoxLayout(self)
        self.name = QComboBox()
        self.name.currentTextChanged.connect(self.list_places)
        layout.addWidget(heading("Result to review"))
        layout.addWidget(self.name)
        self.left = note()
        layout.addWidget(self.left)
        self.places = QListWidget()
        self.places.setMaximumHeight(170)
        self.places.currentRowChanged.connect(self._go_to)
        layout.addWidget(self.places)
        layout.addLayout(
            row(
                button("Next (N)", self.next, "go to the next place", is_next=True),
                button("Accept (A)", self.accept, "it is right; the place does not return"),
                button("Correct (C)", self.correct, "label this slice by hand"),
                button("Skip (S)", self.skip, "decide later"),
            )
        )
        layout.addWidget(
            button(
                "Find places",
                self.find_places,
                "list where the prediction of this structure is least certain; 'track' finds the "
                "places of cells",
            )
        )
        layout.addWidget(heading("Edit objects"))
        layout.addWidget(
            note(
                "Click objects with Shift: one to delete, two to merge, two points "
                "of one object to split it."
            )
        )
        self.picked = note("Nothing is picked.")
        layout.addWidget(self.picked)
        layout.addLayout(
            row(
                button("Merge (J)", self.merge, "make one object of those that are picked"),
                button("Split (K)", self.split, "split an object between two picked points"),
                button("Delete (D)", self.delete, "make picked objects background"),
                button("Undo (U)", self.undo, "undo the last edit"),
            )
        )
        layout.addWidget(heading("After labeling slices of cells"))
        layout.addWidget(
            button(
                "Recompute cells",
                self.redo,
                "compute cells again, only between the labeled slices around those that changed",
            )
        )
        layout.addWidget(self.state)
        layout.addStretch()
        viewer = canvas.viewer
        viewer.mouse_drag_callbacks.append(self._pick)
        actions: dict[str, Callable[[], None]] = {
            "N": self.next,
            "A": self.accept,
            "C": self.correct,
            "S": self.skip,
            "J": self.merge,
            "K": self.split,
            "D": self.delete,
            "U": self.undo,
        }
        for key, action in actions.items():
            viewer.bind_key(key, self._on_key(action), overwrite=True)
        canvas.on_change(self._list)
        self._list()

    def _on_key(self, action: Callable[[], None]) -> Callable[[Any], None]:
        """Return a function for a key, which acts only while the page is shown."""

        def act(_viewer: Any) -> None:
            if self.isVisible():
                action()

        return act

    # Places

    def _list(self) -> None:
        sample = self._canvas.sample
        current = self.name.currentText()
        names = [name for name in sample.names("labels") if not is_step(name)]
        names.sort(key=lambda name: f"review_{name}" not in sample.tables)
        self.name.blockSignals(True)
        self.name.clear()
        self.name.addItems(names)
        if current in names:
            self.name.setCurrentText(current)
        self.name.blockSignals(False)
        self.list_places()

    def list_places(self) -> None:
        """List the places that are left."""
        name = self.name.currentText()
        self._places = []
        if f"review_{name}" in self._canvas.sample.tables:
            places = review_places(self._canvas.sample, name)
            skipped = self._skipped
            self._places = [candidate for candidate in places if candidate not in skipped]
        self.places.blockSignals(True)
        self.places.clear()
        self.places.addItems([_in_words(review_place) for review_place in self._places])
        self.places.blockSignals(False)
        n_left = len(self._places)
        if n_left:
            self.left.setText(f"{n_left} places are left.")
        elif f"review_{name}" in self._canvas.sample.tables:
            self.left.setText("No place is left.")
        else:
            self.left.setText("No places are listed yet: 'Find places'." if name else NO_RESULT)

    def find_places(self) -> None:
        """List the places where a prediction is least certain, or those that ``track`` found."""
        name = self.name.currentText()
        if not name:
            self.state.setText(NO_RESULT)
        elif not self._task.is_running:
            self._steps = []
            self._done = "The places are listed; N leads to the first one."
            self._task.start(self._canvas.sample, "review", [name])

    @property
    def current(self) -> ReviewPlace | None:
        """The place that is shown; None if there is none."""
        number = self.places.currentRow()
        return self._places[number] if 0 <= number < len(self._places) else None

    def _go_to(self, number: int) -> None:
        if 0 <= number < len(self._places):
            review_place = self._places[number]
            self._canvas.go_to(review_place.z, review_place.y, review_place.x)
            self._canvas.mark(review_place.z, review_place.y, review_place.x)
            self._show_labels_layer()

    def _show_labels_layer(self) -> None:
        layer = self._canvas.layer("labels", self.name.currentText())
        if layer is not None:
            layer.visible = True
            self._canvas.viewer.layers.selection.active = layer

    def next(self) -> None:
        """Go to the next place."""
        if self._places:
            self.places.setCurrentRow((self.places.currentRow() + 1) % len(self._places))

    def accept(self) -> None:
        """Accept the place that is shown, and go to the next one."""
        review_place = self.current
        if review_place is not None:
            accept_place(self._canvas.sample, self.name.currentText(), review_place)
            self._continue_at(self.places.currentRow())

    def skip(self) -> None:
        """Skip the place that is shown, in this session."""
        review_place = self.current
        if review_place is not None:
            self._skipped.append(review_place)
            self._continue_at(self.places.currentRow())

    def correct(self) -> None:
        """Label the slice of the place by hand."""
        review_place = self.current
        if review_place is not None:
            self._canvas.go_to(review_place.z, review_place.y, review_place.x)
        self._show_labels(self.name.currentText())

    def _continue_at(self, number: int) -> None:
        self.list_places()
        if self._places:
            self.places.setCurrentRow(min(number, len(self._places) - 1))

    # Edits

    def _pick(self, _viewer: Any, event: Any) -> None:
        """Pick the object under the pointer, with Shift."""
        is_picking = self.isVisible() and "Shift" in event.modifiers
        if not is_picking or not self.name.currentText():
            return
        volume = self._canvas.sample.volume(
            "labels", self._canvas.objects_name(self.name.currentText())
        )
        scale = np.array(tuple(volume.voxel_size))
        z, y, x = np.floor(np.asarray(event.position) / scale + 0.5).astype(int).tolist()
        position = (z, y, x)
        if not all(0 <= n < length for n, length in zip(position, volume.shape, strict=True)):
            return
        self.pick(position)

    def pick(self, position: tuple[int, int, int]) -> None:
        """Pick the object at a voxel (z, y, x)."""
        volume = self._canvas.sample.volume(
            "labels", self._canvas.objects_name(self.name.currentText())
        )
        object_id = int(volume.lazy()[position])
        if not object_id:
            self.picked.setText("There is no object.")
            return
        self._picked.append((object_id, position))
        listed = ", ".join(str(number) for number, _ in self._picked)
        self.picked.setText(f"Picked: {listed}")

    def _picked_ids(self) -> list[int]:
        return list(dict.fromkeys(number for number, _ in self._picked))

    def merge(self) -> None:
        """Merge the picked objects."""
        name = self.name.currentText()

        def merge() -> edit.EditResult:
            if len(self._picked_ids()) < 2:
                raise InputError("Pick two objects, with Shift and a click on each.")
            return edit.merge(self._canvas.sample, name, self._picked_ids(), on=QUIET)

        self._edit(merge)

    def delete(self) -> None:
        """Delete the picked objects."""
        name = self.name.currentText()

        def delete() -> edit.EditResult:
            if not self._picked:
                raise InputError("Pick an object, with Shift and a click on it.")
            return edit.delete(self._canvas.sample, name, self._picked_ids(), on=QUIET)

        self._edit(delete)

    def split(self) -> None:
        """Split an object between two picked points."""

        def split() -> edit.EditResult:
            if len(self._picked) != 2 or len(self._picked_ids()) != 1:
                raise InputError("Pick two points of one object, with Shift and a click on each.")
            object_id = self._picked[0][0]
            first, second = ([position] for _, position in self._picked)
            name = self.name.currentText()
            return edit.split(self._canvas.sample, name, object_id, first, second, on=QUIET)

        self._edit(split)

    def undo(self) -> None:
        """Undo the last edit."""
        name = self.name.currentText()
        self._edit(lambda: edit.undo(self._canvas.sample, name, on=QUIET))

    def _edit(self, action: Callable[[], edit.EditResult]) -> None:
        """Edit objects, and show the labels as they are then."""
        if not self.name.currentText():
            self.state.setText(NO_RESULT)
            return
        try:
            result = action()
        except SHOWN_ERRORS as error:
            self.state.setText(str(error))
            return
        finally:
            self._picked = []
            self.picked.setText("Nothing is picked.")
        self.state.setText(f"Done: {result.title}")
        for path in result.written:
            self._canvas.refresh_labels(path.removeprefix("labels/"))
        self._canvas.refresh_corrections()

    # Cells

    def redo(self) -> None:
        """Compute cells again, only in the intervals whose labeled slices changed."""
        if self._task.is_running:
            return
        if not self.name.currentText():
            self.state.setText(NO_RESULT)
            return
        try:
            for painted in self._canvas.annotations():
                painted.close()
        except SHOWN_ERRORS as error:
            self.state.setText(str(error))
            return
        self._steps = ["cells", "track"]
        self._done = "Cells are computed."
        self._end_step()

    def _end_step(self) -> None:
        """Start the next step; after the last one, show the result."""
        if not self._steps:
            self.state.setText(self._done)
            self._canvas.refresh()
            self.list_places()
            return
        step = self._steps.pop(0)
        settings = {"cells": self.name.currentText()}
        self._task.start(self._canvas.sample, step, settings=settings, overwrite=True)


def _in_words(review_place: ReviewPlace) -> str:
    """Return a place as a line of the list."""
    if review_place.kind == "uncertain":
        predicted = "structure" if review_place.first else "background"
        return f"slice {review_place.z}: uncertain {predicted}, {review_place.area_um2:.2f} µm²"
    cells = (
        f"{review_place.first}"
        if not review_place.second
        else f"{review_place.first} or {review_place.second}"
    )
    reason = "which cell" if review_place.kind == "disagreement" else "jump of area"
    return f"slice {review_place.z}: {reason} ({cells}), {review_place.area_um2:.2f} µm²"
