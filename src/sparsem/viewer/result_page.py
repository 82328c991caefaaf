"""The page on which results are computed, measured and reported."""

import webbrowser
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QProgressBar,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from sparsem.errors import SettingsError, SparsemError
from sparsem.labels.object_index import object_index
from sparsem.settings import Settings
from sparsem.viewer.canvas import Canvas
from sparsem.viewer.errors import SHOWN_ERRORS
from sparsem.viewer.forms import SettingsForm
from sparsem.viewer.tasks import Task
from sparsem.viewer.widgets import button, heading, note, row

MAX_ROWS = 5000  # rows of a table that are shown
STOP_SECONDS = 20.0
# Columns of a table of objects that are shown first.
FIRST_COLUMNS = ("object", "volume_um3", "area_um2", "sphericity", "cell")

# Public function -> where its settings are (some import torch, which takes seconds), the settings
# that are always shown, and what the function does.
STEPS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "predict": ("segment.predict:PredictSettings", (), "predict the structures in every slice"),
    "cells": ("cells.settings:CellsSettings", ("cells",), "separate touching cells"),
    "track": ("cells.track:TrackSettings", ("cells",), "join protrusions to their cells"),
    "measure": ("measure.settings:MeasureSettings", (), "measure every object and every cell"),
}

BUTTONS = {"predict": "1 Predict", "measure": "2 Measure", "cells": "Cells", "track": "Track"}


class ResultPage(QWidget):
    """Buttons for the stages, their progress, and the table of objects.

    Args:
        canvas: the sample in the viewer.
    """

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self._canvas = canvas
        self._task = Task(self)
        self._task.progressed.connect(self._show_progress)
        self._task.finished.connect(self._finish)
        self._task.failed.connect(self._fail)
        self._function = ""
        layout = QVBoxLayout(self)
        layout.addWidget(heading("Model"))
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.setToolTip("NAME.safetensors; live training writes one for each structure")
        layout.addLayout(
            row(self.model, button("Open ...", self._choose_model, "choose a model file"))
        )
        layout.addWidget(heading("Steps"))
        self.forms: dict[str, SettingsForm] = {}
        buttons = {
            name: button(text, self._starter(name), STEPS[name][2], is_next=name == "predict")
            for name, text in BUTTONS.items()
        }
        hint = "write a page and open it in the browser"
        report_button = button("3 Report", self.report, hint)
        layout.addLayout(row(buttons["predict"], buttons["measure"], report_button))
        layout.addWidget(note("Touching cells are separated between 1 and 2:"))
        stop_button = button("Stop", self.stop, "stop; the same button resumes")
        layout.addLayout(row(buttons["cells"], buttons["track"], stop_button))
        self.step = QComboBox()
        self.step.addItems(["settings of ...", *STEPS])
        self.step.currentTextChanged.connect(self._show_form)
        layout.addWidget(self.step)
        self._forms_layout = QVBoxLayout()
        layout.addLayout(self._forms_layout)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1)
        layout.addWidget(self.bar)
        self.state = note()
        layout.addWidget(self.state)
        layout.addWidget(heading("Objects"))
        self.structure = QComboBox()
        self.structure.currentTextChanged.connect(self.show_table)
        layout.addWidget(self.structure)
        self.table = QTableWidget()
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.itemSelectionChanged.connect(self._go_to_selected)
        layout.addWidget(self.table)
        canvas.on_change(self._list)
        canvas.viewer.mouse_double_click_callbacks.append(self._select_clicked)
        self._list()

    # Steps

    def _starter(self, name: str) -> Any:
        return lambda: self.start(name)

    def _choose_model(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "Model", "", "Models (*.safetensors)")
        if file:
            self.model.setEditText(file)

    def _list(self) -> None:
        """List the models of live trainings, and the tables of objects."""
        sample = self._canvas.sample
        live = sorted((sample.path / ".sparsem" / "live").glob("*/*.safetensors"))
        text = self.model.currentText()
        self.model.clear()
        self.model.addItems([str(path) for path in live])
        if text:
            self.model.setEditText(text)
        structure = self.structure.currentText()
        names = [name for name in sample.names("labels") if name in sample.tables]
        self.structure.blockSignals(True)
        self.structure.clear()
        self.structure.addItems(names)
        if structure in names:
            self.structure.setCurrentText(structure)
        self.structure.blockSignals(False)
        self.show_table()

    def showEvent(self, event: Any) -> None:
        """List the models and tables that are there by now."""
        self._list()
        super().showEvent(event)

    def form(self, name: str) -> SettingsForm:
        """Return the form of a step, which is made when it is first needed."""
        if name not in self.forms:
            where, first, _ = STEPS[name]
            module, _, class_name = where.partition(":")
            model: type[Settings] = getattr(import_module(f"sparsem.{module}"), class_name)
            self.forms[name] = SettingsForm(model, first)
            self._forms_layout.addWidget(self.forms[name])
        return self.forms[name]

    def _show_form(self, name: str) -> None:
        if name in STEPS:
            self.form(name)
        for title, form in self.forms.items():
            form.setVisible(title == name)

    def start(self, function: str, overwrite: bool = True) -> None:
        """Run a stage in a process of its own."""
        try:
            settings = self.forms[function].values() if function in self.forms else {}
        except SettingsError as error:
            self.state.setText(str(error))
            return
        arguments: list[str] = []
        if function == "predict":
            model = self.model.currentText().strip()
            if not model:
                self.state.setText("Choose a model first; live training writes one.")
                return
            arguments = [model]
        self._run(function, arguments, settings, overwrite)

    def report(self) -> None:
        """Write the report, and open it in the browser."""
        path = self._canvas.sample.path.with_suffix(".report.html")
        self._run("report", [str(path)], {}, True)

    def _run(
        self, function: str, arguments: list[str], settings: dict[str, Any], overwrite: bool
    ) -> None:
        if self._task.is_running:
            self.state.setText(f"{self._function} is running; stop it, or wait for its end.")
            return
        self._save_annotations()
        self._function = function
        self.bar.setRange(0, 0)
        self.state.setText(f"{function} ...")
        self._task.start(self._canvas.sample, function, arguments, settings, overwrite)

    def _save_annotations(self) -> None:
        """Save what was painted, since a stage that runs holds the sample."""
        for painted in self._canvas.annotations():
            try:
                painted.close()
            except SHOWN_ERRORS as error:
                self.state.setText(str(error))

    def stop(self) -> None:
        """Stop the stage that runs."""
        if self._task.is_running:
            self._task.stop()
            self._task.wait(STOP_SECONDS)

    @property
    def is_running(self) -> bool:
        """True while a stage runs."""
        return self._task.is_running

    def _show_progress(self, line: str) -> None:
        self.state.setText(line)
        done, _, total = line.rpartition(":")[2].split(",")[0].partition(" of ")
        if done.strip().isdigit() and total.strip().isdigit():
            self.bar.setRange(0, int(total))
            self.bar.setValue(int(done))

    def _finish(self, result: dict[str, Any]) -> None:
        self.bar.setRange(0, 1)
        self.bar.setValue(1)
        self.state.setText(f"{self._function}: done.")
        if self._function == "report":
            webbrowser.open(Path(result["written"][0]).resolve().as_uri())
            return
        self._canvas.refresh()

    def _fail(self, message: str) -> None:
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.state.setText(message)

    # The table of objects

    def show_table(self) -> None:
        """Show the measured objects of the chosen structure."""
        name = self.structure.currentText()
        self.table.setSortingEnabled(False)
        self.table.setRowCount(0)
        if not name or name not in self._canvas.sample.tables:
            return
        table = self._canvas.sample.read_table(name)
        columns = [column for column in FIRST_COLUMNS if column in table.column_names]
        columns += [column for column in table.column_names if column not in columns]
        rows = table.select(columns).slice(0, MAX_ROWS).to_pylist()
        self.table.setColumnCount(len(columns))
        self.table.setHorizontalHeaderLabels(columns)
        self.table.setRowCount(len(rows))
        for number, content in enumerate(rows):
            for index, column in enumerate(columns):
                item = QTableWidgetItem()
                item.setData(Qt.ItemDataRole.DisplayRole, content[column])
                self.table.setItem(number, index, item)
        self.table.setSortingEnabled(True)

    def _go_to_selected(self) -> None:
        items = self.table.selectedItems()
        if not items:
            return
        object_id = int(self.table.item(items[0].row(), 0).data(Qt.ItemDataRole.DisplayRole))
        name = self._canvas.objects_name(self.structure.currentText())
        try:
            box = object_index(self._canvas.sample, name, quiet=True).box_of([object_id])
        except SparsemError as error:
            self.state.setText(str(error))
            return
        z, y, x = ((axis.start + axis.stop) // 2 for axis in box)
        self._canvas.go_to(z, y, x)
        layer = self._canvas.layer("labels", name)
        mask = self._canvas.layer("labels", self.structure.currentText())
        if mask is not None and mask is not layer:
            mask.visible = False  # its color would mix with those of the objects
        if layer is not None:
            layer.visible = True
            layer.selected_label = object_id
            self._canvas.viewer.layers.selection.active = layer

    def _select_clicked(self, _viewer: Any, event: Any) -> None:
        """Select the row of the object that was clicked twice."""
        layer = self._canvas.layer(
            "labels", self._canvas.objects_name(self.structure.currentText())
        )
        if layer is None:
            return
        value = layer.get_value(event.position, world=True)
        number = value[1] if isinstance(value, tuple) else value
        if number:
            self.select(int(np.asarray(number)))

    def select(self, object_id: int) -> None:
        """Select the row of an object, if it was measured."""
        for number in range(self.table.rowCount()):
            if self.table.item(number, 0).data(Qt.ItemDataRole.DisplayRole) == object_id:
                self.table.selectRow(number)
                return
