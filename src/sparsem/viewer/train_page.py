"""The page on which a network trains while somebody paints."""

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from sparsem.errors import SettingsError
from sparsem.report.plots.colors import structure_color, unit_rgb
from sparsem.segment.live_folder import LiveFolder, LiveStatus
from sparsem.segment.settings import LiveSettings
from sparsem.store.volume import FOREGROUND
from sparsem.viewer.canvas import Canvas
from sparsem.viewer.forms import SettingsForm
from sparsem.viewer.label_page import LabelPage
from sparsem.viewer.layers import fading_color
from sparsem.viewer.tasks import Task
from sparsem.viewer.widgets import Curve, button, heading, note, row

SHOW_EVERY_MS = 300
STOP_SECONDS = 20.0
MANY_UPDATES = 200  # after which a prediction of the whole stack is worth its time
HIDDEN = (
    "updates",
    "schedule",
    "semi",
    "second_architecture",
    "unlabeled_slices",
    "unlabeled_weight",
    "ramp",
    "cutmix",
    "checkpoint_every_s",
    "threads",
    "from_model",
    "pretrained",
)
PREVIEW = "preview"
# What the network learns -> words in the window.
TARGETS = {
    "mask": "mask of the structure",
    "objects": "touching organelles: mask, and boundary between them",
    "cells": "touching cells: interior and boundary",
}


class TrainPage(QWidget):
    """Live training: the loss, the Dice of new slices, and the preview of the shown slice.

    Args:
        canvas: the sample in the viewer.
        labels: the page that names the structure.
    """

    def __init__(self, canvas: Canvas, labels: LabelPage) -> None:
        super().__init__()
        self._canvas = canvas
        self._labels = labels
        self._task = Task(self)
        self._folder: LiveFolder | None = None
        self._preview_update = -1
        self._preview_z = -1
        self._requested = -1
        layout = QVBoxLayout(self)
        layout.addWidget(
            note(
                "Training follows the brush: paint, look at the preview, correct where it is "
                "wrong. It continues whenever labels are added."
            )
        )
        self.target = QComboBox()
        for target, text in TARGETS.items():
            self.target.addItem(text, target)
        layout.addWidget(self.target)
        layout.addLayout(
            row(
                button(
                    "Start",
                    self.start,
                    "train on what is labeled; resume a paused training",
                    is_next=True,
                ),
                button("Pause", self.pause, "pause the training"),
                button("Stop", self.stop, "end the training; its weights are kept"),
            )
        )
        self.state = note("Not started.")
        layout.addWidget(self.state)
        self.loss = Curve("loss")
        layout.addWidget(self.loss)
        layout.addWidget(heading("Dice on newly labeled slices, before they are trained on"))
        self.dice = note("Known after a slice is labeled that the network has not seen.")
        layout.addWidget(self.dice)
        self.form = SettingsForm(LiveSettings, hidden=HIDDEN)
        layout.addWidget(self.form)
        layout.addStretch()
        self._task.failed.connect(self._show_failure)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.poll)
        self._timer.start(SHOW_EVERY_MS)

    @property
    def is_running(self) -> bool:
        """True while the process of the training runs."""
        return self._task.is_running

    @property
    def status(self) -> LiveStatus:
        """The status of the training, as it wrote it last."""
        return self._folder.status() if self._folder is not None else LiveStatus()

    def start(self) -> None:
        """Start the training, or resume it after a pause."""
        name = self._labels.structure
        if self._task.is_running and self._folder is not None and self._folder.name != name:
            self.state.setText(f"{self._folder.name} is being trained; stop it first.")
            return
        self._folder = LiveFolder.of(self._canvas.sample, name)
        self._folder.request(self._canvas.z, "run")
        if self._task.is_running:
            return
        try:
            settings = self.form.values()
        except SettingsError as error:
            self.state.setText(str(error))
            return
        self._folder.write_status(LiveStatus(message="Loading the network ..."))
        arguments = [name]
        target = self.target.currentData()
        self._task.start(
            self._canvas.sample, "train_live", arguments, {**settings, "target": target}
        )

    def pause(self) -> None:
        """Pause the training."""
        if self._folder is not None:
            self._folder.request(self._canvas.z, "pause")

    def stop(self) -> None:
        """End the training; its weights are kept."""
        if self._folder is not None and self._task.is_running:
            self._folder.request(self._canvas.z, "stop")
            if not self._task.wait(STOP_SECONDS):
                self._task.stop()

    def poll(self) -> None:
        """Ask for the shown slice, and show the status and the newest preview."""
        if self._folder is None or not self._task.is_running:
            return
        _, command = self._folder.requested()
        if self._canvas.z != self._requested:
            self._requested = self._canvas.z
            self._folder.request(self._requested, command)
        status = self._folder.status()
        self._show_status(status)
        is_new = (status.preview, status.preview_update) != (self._preview_z, self._preview_update)
        if status.preview >= 0 and is_new:
            self._show_preview(status)

    def _show_status(self, status: LiveStatus) -> None:
        slices = ", ".join(map(str, status.slices))
        text = f"{status.state}: {status.update} updates"
        if slices:
            text += f" on slices {slices}"
        advice = " Next: page 3, Result." if status.update >= MANY_UPDATES else ""
        self.state.setText(f"{text}. {status.message}".strip() + advice)
        self.loss.show_values(status.losses)
        if status.dice:
            lines = [f"slice {z}: {dice:.3f}" for z, dice in status.dice[-6:]]
            self.dice.setText("\n".join(lines))

    def _show_preview(self, status: LiveStatus) -> None:
        """Show the preview as a layer over its slice."""
        if self._folder is None:
            return
        probability = self._folder.read_preview()
        self._preview_z, self._preview_update = status.preview, status.preview_update
        name = self._folder.name
        layer = self._canvas.layer(PREVIEW, name)
        voxel = self._canvas.sample.voxel_size
        position = (status.preview * voxel.z, 0, 0)
        if layer is None:
            color = unit_rgb(structure_color(name))
            layer = self._canvas.viewer.add_image(
                probability[None],
                name=f"{name} ({PREVIEW})",
                scale=tuple(voxel),
                units=("nm",) * 3,
                axis_labels=("z", "y", "x"),
                translate=position,
                colormap=fading_color(color),
                contrast_limits=(FOREGROUND - 64, FOREGROUND + 64),
                opacity=0.5,
                blending="translucent",
                metadata={"sparsem": {"sample": "", "kind": PREVIEW, "name": name}},
            )
            self._labels.layer()  # stays selected, so that the brush keeps painting
        else:
            layer.data = np.asarray(probability)[None]
            layer.translate = position

    def _show_failure(self, message: str) -> None:
        self.state.setText(message)
