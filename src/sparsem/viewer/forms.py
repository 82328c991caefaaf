"""Forms that are made from settings models: the same fields, defaults and help as the options."""

from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGroupBox,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from sparsem.settings import Settings, parse


class SettingsForm(QWidget):
    """A form of a settings model.

    Args:
        model: the settings.
        first: fields that are always shown; the others are under "More settings".
        hidden: fields that are not shown.
    """

    def __init__(
        self, model: type[Settings], first: tuple[str, ...] = (), hidden: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self._model = model
        self._widgets: dict[str, QWidget] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        always = QFormLayout()
        layout.addLayout(always)
        more = QGroupBox("More settings")
        more.setCheckable(True)
        more.setChecked(False)
        inner = QWidget()
        inner.setVisible(False)
        more.toggled.connect(inner.setVisible)
        more_layout = QVBoxLayout(more)
        more_layout.addWidget(inner)
        others = QFormLayout(inner)
        for name, info in model.model_fields.items():
            if name in hidden:
                continue
            widget = _widget_of(info)
            widget.setToolTip(info.description or "")
            self._widgets[name] = widget
            row = always if name in first else others
            row.addRow(name.replace("_", " "), widget)
        if others.rowCount():
            layout.addWidget(more)

    def set_value(self, name: str, value: Any) -> None:
        """Show a value in a field."""
        widget = self._widgets[name]
        if isinstance(widget, QCheckBox):
            widget.setChecked(bool(value))
        elif isinstance(widget, QComboBox):
            widget.setCurrentText(str(value))
        else:
            widget.setText(str(value))

    def values(self) -> dict[str, Any]:
        """Return the values of all fields that differ from their defaults, after validation.

        Raises:
            SettingsError: a value is out of range; the field is named.
        """
        given = {}
        for name, widget in self._widgets.items():
            value = _value_of(widget)
            if value not in (None, ""):
                given[name] = value
        settings = parse(self._model, given, "form")
        changed = settings.model_dump(mode="json", exclude_defaults=True)
        return {name: value for name, value in changed.items() if name in given}


def _widget_of(info: FieldInfo) -> QWidget:
    """Return the widget of a field, with its default."""
    if info.annotation is bool:
        box = QCheckBox()
        box.setChecked(bool(info.default))
        return box
    if get_origin(info.annotation) is Literal:
        choice = QComboBox()
        choice.addItems([str(value) for value in get_args(info.annotation)])
        choice.setCurrentText(str(info.default))
        return choice
    line = QLineEdit()
    default = info.default
    if default not in (None, ()):
        line.setPlaceholderText(_text(default))
    return line


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value_of(widget: QWidget) -> Any:
    """Return what a widget holds; empty text where the default counts."""
    if isinstance(widget, QCheckBox):
        return widget.isChecked()
    if isinstance(widget, QComboBox):
        return widget.currentText()
    text = widget.text().strip()
    return text.split() if " " in text else text
