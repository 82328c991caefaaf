"""Undoing what was labeled: strokes of the brush, and whole slices that a button changed."""

from collections.abc import Iterable
from typing import Any

from sparsem.cells.warp import Labels

MAX_STEPS = 30

# A layer, and its planes as they were (None: unlabeled); without planes it is a stroke.
Step = tuple[Any, dict[int, Labels | None] | None]


class UndoStack:
    """Strokes and buttons in their order, of all annotations."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def follow(self, layer: Any) -> None:
        """Remember every stroke in a layer from now on, and let Ctrl+Z undo the last step."""
        if layer.metadata.get("undo") is not self:
            layer.metadata["undo"] = self
            layer.events.paint.connect(lambda _: self._add(layer, None))
            layer.bind_key("Control-Z", lambda _: self.undo(), overwrite=True)

    def remember(self, layer: Any, slices: Iterable[int]) -> None:
        """Remember slices as they are, before a button changes them."""
        before = {z: layer.data.plane(z) for z in slices}
        self._add(layer, {z: plane.copy() if plane.any() else None for z, plane in before.items()})

    def _add(self, layer: Any, planes: dict[int, Labels | None] | None) -> None:
        self._steps = [*self._steps, (layer, planes)][-MAX_STEPS:]

    def undo(self) -> str:
        """Undo the last step, and return a sentence about it."""
        if not self._steps:
            return "There is nothing to undo."
        layer, planes = self._steps.pop()
        if planes is None:
            layer.undo()
            return "Took the last stroke back."
        for z, plane in planes.items():
            layer.data[z] = 0 if plane is None else plane
        layer.refresh()
        numbers = ", ".join(map(str, planes))
        return f"Took back what the last button did in slice {numbers}."
