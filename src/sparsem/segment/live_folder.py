"""The folder through which a window and a live training speak; see ``live``."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsem.store.sample import Sample
from sparsem.store.volume import json_bytes, write_atomically

MAX_LOSSES = 2000  # losses in the status, the last ones
HINT = (
    "Paint some of the structure and some of the background in the annotation; training starts by "
    "itself."
)


@dataclass
class LiveStatus:
    """State of a live training, as the window shows it.

    Attributes:
        state: ``waiting`` for labels, ``training``, ``paused`` or ``stopped``.
        message: what the person should do, or why nothing happens; may be empty.
        update: number of updates done.
        losses: losses of the last updates.
        slices: numbers of the labeled slices.
        dice: Dice of slices that were new, before they were trained on: slice and Dice.
        preview: number of the slice in ``preview.npy``; -1 before the first.
        preview_update: number of updates of the weights that predicted it.
    """

    state: str = "waiting"
    message: str = HINT
    update: int = 0
    losses: list[float] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    dice: list[tuple[int, float]] = field(default_factory=list)
    preview: int = -1
    preview_update: int = 0


@dataclass(frozen=True)
class LiveFolder:
    """The folder through which a window and a live training speak.

    Attributes:
        path: the folder.
        name: name of the structure, or of the annotation of cells.
    """

    path: Path
    name: str

    @classmethod
    def of(cls, sample: Sample, name: str) -> "LiveFolder":
        """Return the folder of a structure of a sample; it is created if it does not exist."""
        path = sample.path / ".sparsem" / "live" / name
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, name)

    @property
    def model(self) -> Path:
        """Path of the newest weights."""
        return self.path / f"{self.name}.safetensors"

    @property
    def preview(self) -> Path:
        """Path of the preview."""
        return self.path / "preview.npy"

    def request(self, z: int, command: str = "run") -> None:
        """Ask for the preview of a slice, and to ``run``, ``pause`` or ``stop``."""
        write_atomically(self.path / "request.json", json_bytes({"z": z, "command": command}))

    def requested(self) -> tuple[int, str]:
        """Return the requested slice, and the command."""
        file = self.path / "request.json"
        if not file.exists():
            return 0, "run"
        content = json.loads(file.read_text(encoding="utf-8"))
        return int(content["z"]), str(content["command"])

    def write_status(self, status: LiveStatus) -> None:
        """Write the status in one step."""
        content = {**vars(status), "losses": status.losses[-MAX_LOSSES:]}
        write_atomically(self.path / "status.json", json_bytes(content))

    def status(self) -> LiveStatus:
        """Return the status; that of a training that waits if there is none."""
        file = self.path / "status.json"
        if not file.exists():
            return LiveStatus()
        content = json.loads(file.read_text(encoding="utf-8"))
        content["dice"] = [(int(z), float(dice)) for z, dice in content["dice"]]
        return LiveStatus(**content)

    def write_preview(self, probability: NDArray[np.uint8]) -> None:
        """Write a preview (y, x) in one step."""
        unfinished = self.path / "preview.partial"
        with unfinished.open("wb") as handle:
            np.save(handle, probability, allow_pickle=False)
        os.replace(unfinished, self.preview)

    def read_preview(self) -> NDArray[np.uint8]:
        """Return the preview (y, x)."""
        return np.asarray(np.load(self.preview, allow_pickle=False), np.uint8)
