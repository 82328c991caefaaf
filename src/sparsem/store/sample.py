"""A sample: one OME-Zarr on disk that holds the raw image and everything made from it.

    sample.zarr/            the raw image, multiscale (z, y, x); never overwritten
      images/NAME/          derived images
      annotations/NAME/     labels of the annotated slices and their z
      probabilities/NAME/   uint8, round(255 p)
      labels/NAME/          results, NGFF image-labels
      truth/NAME/           exact labels, where somebody has them (the phantom does)
      tables/NAME.parquet   one row an object
      .sparsem/             history.json, and the unfinished work of running stages

Every folder is a Zarr group, so that a listing by any Zarr program meets nothing it does not know.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sparsem.errors import InputError, SampleError
from sparsem.geometry import VoxelSize
from sparsem.settings import nearest
from sparsem.store.locks import acquired
from sparsem.store.transforms import MovedStack, Transform, joined
from sparsem.store.volume import Volume, json_bytes, read_attributes, write_atomically, write_group

FOLDERS = ("images", "annotations", "probabilities", "labels", "truth", "tables", ".sparsem")

MADE_BY = {  # the command that fills a folder, for who has none of it yet
    "labels": "'sparsem predict {} MODEL' finds structures, with a model that 'sparsem train' makes.",
    "probabilities": "'sparsem predict {} MODEL' writes them, with a model that 'sparsem train' makes.",
    "images": "'sparsem align {0}', 'sparsem equalize {0}' and 'sparsem denoise {0}' make images.",
}


def checked_name(name: str) -> str:
    """A name that may become a folder in a sample.

    Raises:
        InputError: it holds other characters than letters, digits, ``_``, ``-`` and ``.``, or is ``raw``.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name == "raw":
        raise InputError(
            f"A name is of letters, digits, '_', '-' and '.', and is not 'raw'; got '{name}'."
        )
    return name


@dataclass(frozen=True)
class Sample:
    """A picklable handle on a sample; workers open it by its path."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Sample":
        """Open a sample that was made by ``import`` or ``phantom``.

        Raises:
            SampleError: there is none at the path, or its import was not finished.
        """
        directory = Path(path).resolve()
        if not directory.exists():
            raise SampleError(
                f"There is no sample at {path}; make one with 'sparsem import SOURCE {path}'."
            )
        if not (directory / ".sparsem").is_dir():
            raise SampleError(
                f"{path} is not a sparsem sample; make one from it with 'sparsem import {path} NAME.zarr'."
            )
        found = cls(directory)
        if not found.has_image and not found.names("labels"):
            raise SampleError(
                f"{path} has no image yet: its import was interrupted. Run the same import again to finish it."
            )
        return found

    @classmethod
    def create(cls, path: str | Path) -> "Sample":
        """Make the empty frame of a sample, or take the one that is there.

        Raises:
            SampleError: the path holds something else.
        """
        directory = Path(path).resolve()
        if directory.is_file() or (
            directory.exists()
            and not (directory / ".sparsem").is_dir()
            and any(directory.iterdir())
        ):
            raise SampleError(
                f"{path} exists and is not a sparsem sample; choose another name for the output."
            )
        write_group(directory / ".sparsem", {})
        return cls(directory)

    @property
    def name(self) -> str:
        """The folder's name without its ending."""
        return self.path.stem

    def names(self, folder: str) -> list[str]:
        """Sorted names of what a folder (``labels``, ``annotations``, ...) holds."""
        children = (self.path / folder).glob("*/zarr.json")
        return sorted(child.parent.name for child in children)

    def volume(self, folder: str, name: str) -> Volume:
        """A finished volume.

        Raises:
            SampleError: there is none of that name; the nearest is named.
        """
        if name not in self.names(folder):
            how = (
                f" {MADE_BY[folder].format(self.path.name)}"
                if folder in MADE_BY and not self.names(folder)
                else ""
            )
            raise SampleError(
                f"{self.path.name} has no {folder}/{name}{nearest(name, self.names(folder))}{how}"
            )
        return Volume(self.path / folder / name)

    def image(self, name: str | None = None) -> Volume:
        """An image by name; ``raw`` is what was imported. Without a name, the newest one.

        Raises:
            SampleError: there is none of that name, or what it was made from was replaced since.
        """
        if name is None:
            name = self.newest_image
        if name != "raw":
            image = self.volume("images", name)
            self._refuse_stale(image)
            return image
        if not self.has_image:
            raise SampleError(
                f"{self.path.name} has no image, only labels; bring it in with 'sparsem import SOURCE {self.path.name}'."
            )
        return Volume(self.path)

    @property
    def has_image(self) -> bool:
        """Whether there is an image: a sample may hold labels only."""
        return (self.path / "zarr.json").is_file()

    @property
    def images(self) -> list[str]:
        """Names of all images, the raw one first."""
        return ["raw", *self.names("images")]

    @property
    def newest_image(self) -> str:
        """Name of the image that stages read unless told otherwise: the last derived one, else ``raw``."""
        made = [
            name
            for entry in self.history()
            for name in entry["outputs"]
            if name.startswith("images/")
        ]
        names = [path.removeprefix("images/") for path in reversed(made)]
        return next((name for name in names if name in self.names("images")), "raw")

    def image_for(self, out: str, image: str | None = None) -> str:
        """The image that ``images/OUT`` is made from: the one that is asked for, what it was made from before, else the newest.

        Raises:
            InputError: ``out`` is no name, or that of the image itself or of one that it was made from.
        """
        checked_name(out)
        if image is None:
            made_on = self.volume("images", out).made_on if out in self.names("images") else None
            image = made_on[0] if made_on else self.newest_image
        if out in self.line_of(image):
            what = "itself" if image == out else f"'{image}', which was made from it"
            raise InputError(
                f"The image '{out}' cannot be made from {what}; give --out another name."
            )
        return image

    def line_of(self, image: str) -> list[str]:
        """An image, the one that it was made from, and so on."""
        line = [image]
        while line[-1] in self.names("images") and (
            made_on := self.volume("images", line[-1]).made_on
        ):
            line.append(made_on[0])
        return line

    def drawn_on(self, image: str) -> str:
        """The image whose pixels an image has: the one that it was made from without moving anything, or itself."""
        for name in self.line_of(image):
            if name == "raw" or self.volume("images", name).motions is not None:
                return name
        return image

    def _refuse_stale(self, volume: Volume) -> None:
        if volume.made_on is None:
            return
        name, fingerprint = volume.made_on
        if self.image(name).fingerprint != fingerprint:
            what = volume.directory.relative_to(self.path)
            raise SampleError(
                f"{what} of {self.path.name} was made on the image '{name}', which was replaced since; make {what} again."
            )

    def frame(self, volume: Volume) -> Transform:
        """Where the pixels of any volume lie in the raw image.

        Raises:
            SampleError: the image that it was made on was replaced since, or is gone.
        """
        if volume.made_on is None:
            return Transform(volume.shape)
        self._refuse_stale(volume)
        before, motions = self.frame(self.image(volume.made_on[0])), volume.motions
        if motions is None or before.to_raw is None:
            return Transform(volume.shape, before.to_raw if motions is None else motions)
        return Transform(volume.shape, joined(before.to_raw, motions))

    def seen_by(self, volume: Volume, stack: Any, outside: int = 0) -> Any:
        """Return a stack with the pixels of the raw image as a volume made on a derived image sees it; other stacks stay.

        ``outside`` is the value of what lies beyond the raw image.
        """
        frame = self.frame(volume)
        of_raw = self.has_image and tuple(stack.shape) == self.image("raw").shape
        return (
            stack
            if frame.to_raw is None or not of_raw
            else MovedStack(stack, frame.to_raw, volume.shape, outside)
        )

    def name_of_image(self, volume: Volume | None) -> str:
        """The image whose pixels a volume has; without a volume the newest one."""
        if volume is None:
            return self.newest_image
        return volume.made_on[0] if volume.made_on else "raw"

    @property
    def voxel_size(self) -> VoxelSize:
        """Of the raw image, nm."""
        return self.image("raw").voxel_size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sample for writing. The lock goes with the process, so a killed run leaves none behind.

        Raises:
            SampleError: another run holds it.
        """
        refusal = SampleError(
            f"Another run is writing to {self.path.name}; wait for it to end, or work on a copy."
        )
        lock = acquired(self.path / ".sparsem" / "lock", refusal)
        try:
            for folder in (self.path, self.path / ".sparsem", self.path / "tables"):
                for unfinished in folder.glob("*.partial"):  # files that a kill left half-written
                    unfinished.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def history(self) -> list[dict[str, Any]]:
        """Every stage that wrote here, oldest first."""
        path = self.path / ".sparsem" / "history.json"
        if not path.exists():
            return []
        try:
            entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SampleError(
                f"{path} is damaged ({error}); put a copy in its place, or remove it: what the sample holds stays, but not how it was made."
            ) from None
        return entries

    def remember(self, entry: Mapping[str, Any]) -> None:
        """Append to the history, replacing an older entry of the same stage and fingerprint."""
        same = ("stage", "fingerprint")
        kept = [
            old for old in self.history() if any(old.get(key) != entry.get(key) for key in same)
        ]
        write_atomically(self.path / ".sparsem" / "history.json", json_bytes([*kept, dict(entry)]))

    def publish_names(self) -> None:
        """Bring the groups' lists up to date: a Zarr group for each folder, and NGFF's list of labels."""
        for folder in FOLDERS:
            if (self.path / folder).is_dir():
                listed = (
                    {"ome": {"version": "0.5", "labels": self.names("labels")}}
                    if folder == "labels"
                    else {}
                )
                group = self.path / folder / "zarr.json"
                if not group.exists() or read_attributes(self.path / folder) != listed:
                    write_group(self.path / folder, listed)

    @property
    def tables(self) -> list[str]:
        """Sorted names of the tables."""
        return sorted(file.stem for file in (self.path / "tables").glob("*.parquet"))

    def last_settings(self, stage: str) -> dict[str, Any]:
        """Settings and inputs with which a stage last ran; empty if it never did."""
        made = [entry["settings"] for entry in self.history() if entry["stage"] == stage]
        return dict(made[-1]) if made else {}

    def remove_table(self, name: str) -> None:
        """Take ``tables/NAME`` away, if it is there."""
        for ending in (".parquet", ".csv"):
            (self.path / "tables" / f"{name}{ending}").unlink(missing_ok=True)

    def write_table(self, name: str, table: pa.Table) -> Path:
        """Write ``tables/NAME.parquet`` and the same as CSV, each in one step; returns the Parquet file's path."""
        folder = self.path / "tables"
        folder.mkdir(exist_ok=True)
        for ending in (".csv", ".parquet"):
            save_table(table, folder / f"{name}{ending}")
        self.publish_names()
        return folder / f"{name}.parquet"

    def read_table(self, name: str) -> pa.Table:
        """Read ``tables/NAME.parquet``.

        Raises:
            SampleError: there is none of that name.
        """
        path = self.path / "tables" / f"{name}.parquet"
        if not path.exists():
            raise SampleError(f"{self.path.name} has no table '{name}'{nearest(name, self.tables)}")
        return pyarrow.parquet.read_table(path)

    def table_notes(self, name: str) -> dict[str, Any]:
        """Return what the metadata of ``tables/NAME.parquet`` hold under ``sparsem``: how it was made; empty if they hold nothing."""
        metadata = (
            pyarrow.parquet.read_schema(self.path / "tables" / f"{name}.parquet").metadata or {}
        )
        notes: dict[str, Any] = json.loads(metadata.get(b"sparsem", b"{}"))
        return notes


def save_table(table: pa.Table, path: Path) -> Path:
    """Write a table as CSV or Parquet, as the path's ending says, in one step; returns the path."""
    sink = pa.BufferOutputStream()
    (pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table)(table, sink)
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def now() -> str:
    """The time for the history, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
