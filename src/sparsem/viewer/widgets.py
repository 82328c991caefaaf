"""Small widgets of several pages."""

from collections.abc import Callable, Sequence

from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLayout, QPushButton, QWidget

CURVE_COLOR = "#56B4E9"
NEXT_COLOR = "#0072B2"
GRID_COLOR = "#808080"
MARGIN = 6
TITLE_HEIGHT = 16


def button(
    text: str, action: Callable[[], object], hint: str, is_next: bool = False
) -> QPushButton:
    """Return a button that calls a function.

    Args:
        text: its text.
        action: the function.
        hint: what happens.
        is_next: it is what a person usually needs next on its page, and stands out.
    """
    widget = QPushButton(text)
    if is_next:
        widget.setStyleSheet(f"background-color: {NEXT_COLOR}; color: white; font-weight: bold")
    widget.setToolTip(hint)
    widget.clicked.connect(lambda: action())
    return widget


def row(*widgets: QWidget) -> QLayout:
    """Return widgets side by side."""
    layout = QHBoxLayout()
    for widget in widgets:
        layout.addWidget(widget)
    return layout


def heading(text: str) -> QLabel:
    """Return a heading."""
    label = QLabel(f"<b>{text}</b>")
    label.setContentsMargins(0, 8, 0, 0)
    return label


def note(text: str = "") -> QLabel:
    """Return a text of several lines."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class Curve(QWidget):
    """A curve of numbers, such as the loss of a training, and the last of them."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._values: list[float] = []
        self.setMinimumHeight(110)

    def show_values(self, values: Sequence[float]) -> None:
        """Show other numbers."""
        self._values = list(values)
        self.update()

    def paintEvent(self, _event: object) -> None:
        """Draw the curve."""
        painter = QPainter(self)
        top = MARGIN + TITLE_HEIGHT
        width, height = self.width() - 2 * MARGIN, self.height() - top - MARGIN
        painter.setPen(QPen(QColor(GRID_COLOR)))
        painter.drawRect(MARGIN, top, width, height)
        text = self._title
        if self._values:
            text += f": {self._values[-1]:.3f}"
            low, high = min(self._values), max(self._values)
            span = (high - low) or 1.0
            steps = max(1, len(self._values) - 1)
            points = [
                QPointF(MARGIN + width * n / steps, top + height * (1 - (value - low) / span))
                for n, value in enumerate(self._values)
            ]
            painter.setPen(QPen(QColor(CURVE_COLOR), 1.5))
            painter.drawPolyline(QPolygonF(points))
        painter.setPen(QPen(self.palette().text().color()))
        painter.drawText(MARGIN, MARGIN + TITLE_HEIGHT - 4, text)
        painter.end()
