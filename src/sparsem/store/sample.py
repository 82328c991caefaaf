"""A sample: one OME-Zarr on disk that holds the raw image and everything computed from it.

    sample.zarr/            the raw image, multiscale (z, y, x); never overwritten
      images/NAME/          derived images
      annotations/NAME/     labels of the annotated slices and their indices
      corrections/NAME/     voxels of labels/NAME that a person changed
      probabilities/NAME/   uint8, round(255 p)
      labels/NAME/          results, NGFF image-labels
      truth/NAME/           exact labels, where they are known (for a phantom)
      tables/NAME.parquet   one row per object
      .sparsem/             history.json, the unfinished work of running stages, and computed/NAME:
                            labels without what a person drew, which takes precedence in labels/NAME

Every folder is a Zarr group, so that a listing by any Zarr program meets only what it knows.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sparsem.errors import InputError, SampleError, SparsemError
from sparsem.geometry import VoxelSize
from sparsem.settings import nearest
from sparsem.store.locks import acquire
from sparsem.store.names import RAW, checked_name
from sparsem.store.snapshot import read_attributes, read_json
from sparsem.store.summary import Row, html_summary, list_first, text_summary
from sparsem.store.transforms import Transform, WarpedStack, compose
from sparsem.store.views import AnnotatedSlices, NamedItems, table_for_users
from sparsem.store.volume import Volume, json_bytes, write_atomically, write_group

FOLDERS = (
    "images",
    "annotations",
    "corrections",
    "probabilities",
    "labels",
    "truth",
    "tables",
    ".sparsem",
)

# The command that fills a folder, for samples that have nothing in it yet.
MADE_BY = {
    "labels": "'sparsem predict {} MODEL' writes labels, with a model that 'sparsem train' makes.",
    "probabilities": "'sparsem predict {} MODEL' writes them, with a model of 'sparsem train'.",
    "images": "'sparsem align {0}', 'sparsem equalize {0}' and 'sparsem denoise {0}' make images.",
}

History = list[dict[str, Any]]


@dataclass(frozen=True, repr=False)
class Sample:
    """A picklable handle on a sample; workers open it by its path.

    ``images``, ``annotations``, ``probabilities``, ``labels`` and ``tables`` are mappings from
    names to contents.

    Attributes:
        path: folder of the sample.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Sample":
        """Open a sample that ``import`` or ``phantom`` made.

        Raises:
            SampleError: there is no sample at the path, or its import was not finished.
        """
        directory = Path(path).resolve()
        if not directory.exists():
            raise SampleError(
                f"There is no sample at {path}; make one with 'sparsem import SOURCE {path}'."
            )
        if not (directory / ".sparsem").is_dir():
            raise SampleError(
                f"{path} is not a sparsem sample; make one from it with 'sparsem import {path} "
                "NAME.zarr'."
            )
        sample = cls(directory)
        if not sample.has_image and not sample.names("labels"):
            raise SampleError(
                f"{path} has no image yet: its import was interrupted. Run the same import again "
                "to finish it."
            )
        return sample

    @classmethod
    def create(cls, path: str | Path) -> "Sample":
        """Create an empty sample, or return the sample at the path.

        Raises:
            SampleError: the path holds something else.
        """
        directory = Path(path).resolve()
        is_sample = (directory / ".sparsem").is_dir()
        is_other_folder = directory.exists() and not is_sample
        if directory.is_file() or (is_other_folder and any(directory.iterdir())):
            raise SampleError(
                f"{path} exists and is not a sparsem sample; choose another name for the output."
            )
        write_group(directory / ".sparsem", {})
        return cls(directory)

    def __repr__(self) -> str:
        return text_summary(f"Sample {self.path}", self._summary())

    def _repr_html_(self) -> str:
        return html_summary(f"Sample {self.path}", self._summary())

    def _summary(self) -> list[Row]:
        """Return title and content of each line of a summary.

        It never raises, since debuggers call it.
        """
        try:
            rows = self._image_rows()
            for folder in ("annotations", "probabilities", "labels", "truth"):
                rows.append((folder, list_first(self.names(folder))))
            rows.append(("tables", list_first(self._table_names())))
        except (SparsemError, OSError) as error:
            return [("damaged", str(error))]
        return [(title, content) for title, content in rows if content]

    def _image_rows(self) -> list[Row]:
        if not self.has_image:
            return [("image", "none")]
        image = self.image(RAW)
        nm = " x ".join(f"{length:g}" for length in image.voxel_size)
        if image.sizes:
            content = (
                f"montage of {len(image.sizes)} images, voxels of {nm} nm (z y x), {image.dtype}"
            )
        else:
            z, y, x = image.shape
            content = f"{z} x {y} x {x} voxels (z y x) of {nm} nm, {image.dtype}"
        return [("image", content), ("images", list_first(self.names("images")))]

    @property
    def name(self) -> str:
        """The folder's name without its suffix."""
        return self.path.stem

    # Contents

    @property
    def images(self) -> NamedItems[Volume]:
        """All images by name, ``raw`` first."""
        return NamedItems("images", lambda: [RAW, *self.names("images")], self.image)

    @property
    def probabilities(self) -> NamedItems[Volume]:
        """Probability maps by name, uint8: round(255 p)."""
        return self._volumes("probabilities")

    @property
    def labels(self) -> NamedItems[Volume]:
        """Label volumes by name."""
        return self._volumes("labels")

    @property
    def annotations(self) -> NamedItems[AnnotatedSlices]:
        """Hand-labeled slices by name."""
        folder = self.path / "annotations"
        return NamedItems(
            "annotations",
            lambda: self.names("annotations"),
            lambda name: AnnotatedSlices.open(folder / name),
        )

    @property
    def tables(self) -> NamedItems[Any]:
        """Tables by name: pandas.DataFrame, or pyarrow.Table where pandas is not installed."""
        return NamedItems(
            "tables", self._table_names, lambda name: table_for_users(self.read_table(name))
        )

    def _volumes(self, folder: str) -> NamedItems[Volume]:
        return NamedItems(
            folder, lambda: self.names(folder), lambda name: self.volume(folder, name)
        )

    def _table_names(self) -> list[str]:
        return sorted(file.stem for file in (self.path / "tables").glob("*.parquet"))

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder (``labels``, ``annotations``, ...)."""
        groups = (self.path / folder).glob("*/zarr.json")
        return sorted(group.parent.name for group in groups)

    def volume(self, folder: str, name: str) -> Volume:
        """Open a finished volume.

        Raises:
            SampleError: there is no volume of that name; the message names the nearest.
        """
        names = self.names(folder)
        if name not in names:
            hint = MADE_BY[folder].format(self.path.name) if folder in MADE_BY and not names else ""
            raise SampleError(
                f"{self.path.name} has no {folder}/{name}{nearest(name, names)} {hint}".rstrip()
            )
        return Volume(self.path / folder / name)

    def computed(self, name: str) -> Volume:
        """Open labels as a stage computed them, without what a person drew.

        Raises:
            SampleError: there are no labels of that name.
        """
        labels = self.volume("labels", name)
        if labels.snapshot.computed is None:
            return labels
        return Volume(self.computed_folder(name))

    def computed_folder(self, name: str) -> Path:
        """Return the folder of labels as computed, where something drawn takes precedence."""
        return self.path / ".sparsem" / "computed" / name

    # Images

    def image(self, name: str | None = None) -> Volume:
        """Open an image by name; ``raw`` is the imported one. Without a name, the newest one.

        Raises:
            SampleError: there is no image of that name, or the image it was made from was replaced
                since.
        """
        if name is None:
            name = self.newest_image
        if name != RAW:
            image = self.volume("images", name)
            self._refuse_stale(image)
            return image
        if not self.has_image:
            raise SampleError(
                f"{self.path.name} has no image, only labels; add it with 'sparsem import SOURCE "
                f"{self.path.name}'."
            )
        return Volume(self.path)

    @property
    def has_image(self) -> bool:
        """True if the sample has an image; it may hold labels only."""
        return (self.path / "zarr.json").is_file()

    @property
    def newest_image(self) -> str:
        """Name of the image that stages read by default: the last derived one, else ``raw``."""
        present = self.names("images")
        for entry in reversed(self.history()):
            for path in reversed(entry["outputs"]):
                name = path.removeprefix("images/")
                if path.startswith("images/") and name in present:
                    return str(name)
        return RAW

    def image_for(self, out: str, image: str | None = None) -> str:
        """Return the image that ``images/OUT`` is made from.

        That is ``image`` if given, else the image that ``images/OUT`` was made from before, else
        the newest.

        Raises:
            InputError: ``out`` is no valid name, or names the image itself or an image that it was
                made from.
        """
        checked_name(out)
        if image is None:
            made_on = self.volume("images", out).made_on if out in self.names("images") else None
            image = made_on[0] if made_on else self.newest_image
        if out in self.lineage(image):
            source = "itself" if image == out else f"'{image}', which was made from it"
            raise InputError(
                f"The image '{out}' cannot be made from {source}; give --out another name."
            )
        return image

    def lineage(self, image: str) -> list[str]:
        """Return an image, the image that it was made from, and so on."""
        line = [image]
        while line[-1] in self.names("images"):
            made_on = self.volume("images", line[-1]).made_on
            if made_on is None:
                break
            line.append(made_on[0])
        return line

    def grid_image(self, image: str) -> str:
        """Return the image that defines the pixel grid of an image.

        That is the image that it was made from without moving pixels, or itself.
        """
        for name in self.lineage(image):
            if name == RAW or self.volume("images", name).motions is not None:
                return name
        return image

    def _refuse_stale(self, volume: Volume) -> None:
        if volume.made_on is None:
            return
        image, fingerprint = volume.made_on
        if self.image(image).fingerprint != fingerprint:
            path = volume.directory.relative_to(self.path)
            raise SampleError(
                f"{path} of {self.path.name} was made on the image '{image}', which was replaced "
                f"since; compute {path} again."
            )

    def transform_of(self, volume: Volume) -> Transform:
        """Return the transform from the pixels of any volume to those of the raw image.

        Raises:
            SampleError: the image that the volume was made on was replaced since, or is missing.
        """
        if volume.made_on is None:
            return Transform(volume.shape)
        self._refuse_stale(volume)
        before = self.transform_of(self.image(volume.made_on[0]))
        if volume.motions is None:
            return Transform(volume.shape, before.to_raw)
        if before.to_raw is None:
            return Transform(volume.shape, volume.motions)
        return Transform(volume.shape, compose(before.to_raw, volume.motions))

    def is_stale(self, folder: str, name: str) -> bool:
        """Return True if a volume was made on an image that was replaced since, or is missing."""
        try:
            self.transform_of(self.volume(folder, name))
        except SampleError:
            return True
        return False

    def resample_to(self, volume: Volume, stack: Any, outside: int = 0) -> Any:
        """Return a stack on the pixel grid of a volume.

        The stack has the pixels of the raw image, and the volume was made on a derived image.
        Stacks of another shape than the raw image are returned as they are. ``outside`` is the
        value of pixels that lie outside of the raw image.
        """
        frame = self.transform_of(volume)
        has_raw_pixels = self.has_image and tuple(stack.shape) == self.image(RAW).shape
        if frame.to_raw is None or not has_raw_pixels:
            return stack
        return WarpedStack(stack, frame.to_raw, volume.shape, outside)

    def name_of_image(self, volume: Volume | None) -> str:
        """Return the image whose pixels a volume has; without a volume the newest one."""
        if volume is None:
            return self.newest_image
        return volume.made_on[0] if volume.made_on else RAW

    @property
    def voxel_size(self) -> VoxelSize:
        """Voxel size of the raw image, nm."""
        return self.image(RAW).voxel_size

    # Writing, and the history

    @contextmanager
    def locked(self, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the sample for writing.

        The lock ends with the process, so a killed run leaves none behind.

        Args:
            wait_s: seconds to wait for another run.

        Raises:
            SampleError: another run holds the lock.
        """
        refusal = SampleError(
            f"Another run is writing to {self.path.name}; wait for it to end, or work on a copy."
        )
        with acquire(self.path / ".sparsem" / "lock", refusal, wait_s=wait_s):
            self._remove_unfinished_files()
            yield

    def _remove_unfinished_files(self) -> None:
        """Remove files that a killed run left half-written."""
        for folder in (self.path, self.path / ".sparsem", self.path / "tables"):
            for unfinished in folder.glob("*.partial"):
                unfinished.unlink(missing_ok=True)

    def history(self) -> History:
        """Return every stage that wrote to the sample, oldest first; do not change what it returns.

        Raises:
            SampleError: the history is damaged.
        """
        path = self.path / ".sparsem" / "history.json"
        if not path.exists():
            return []
        try:
            entries: History = read_json(path)
        except ValueError as error:
            raise SampleError(
                f"{path} is damaged ({error}); replace it by a copy, or remove it: the contents of "
                "the sample remain, "
                "but not the record of how they were made."
            ) from None
        return entries

    def remember(self, entry: Mapping[str, Any]) -> None:
        """Append to the history.

        The entry replaces an older one of the same stage and fingerprint. Of entries of one stage
        that are ``painted``, stroke by stroke, only the last one remains.
        """

        def is_same(old: Mapping[str, Any]) -> bool:
            is_stroke = bool(entry.get("painted") and old.get("painted"))
            is_equal = is_stroke or old.get("fingerprint") == entry.get("fingerprint")
            return is_equal and old.get("stage") == entry.get("stage")

        entries = [old for old in self.history() if not is_same(old)]
        content = json_bytes([*entries, dict(entry)])
        write_atomically(self.path / ".sparsem" / "history.json", content)

    def last_settings(self, stage: str) -> dict[str, Any]:
        """Return the settings and inputs with which a stage last ran; empty if it never did."""
        for entry in reversed(self.history()):
            if entry["stage"] == stage:
                return dict(entry["settings"])
        return {}

    def publish_names(self) -> None:
        """Update the groups' metadata: a Zarr group for each folder, and NGFF's list of labels."""
        for folder in FOLDERS:
            if not (self.path / folder).is_dir():
                continue
            attributes: dict[str, Any] = {}
            if folder == "labels":
                attributes = {"ome": {"version": "0.5", "labels": self.names("labels")}}
            group = self.path / folder / "zarr.json"
            if not group.exists() or read_attributes(self.path / folder) != attributes:
                write_group(self.path / folder, attributes)

    # Tables

    def remove_table(self, name: str) -> None:
        """Remove ``tables/NAME`` if it exists."""
        for suffix in (".parquet", ".csv"):
            (self.path / "tables" / f"{name}{suffix}").unlink(missing_ok=True)

    def write_table(self, name: str, table: pa.Table) -> Path:
        """Write ``tables/NAME.parquet`` and the same as CSV, each in one step.

        Return the Parquet file's path.
        """
        folder = self.path / "tables"
        folder.mkdir(exist_ok=True)
        for suffix in (".csv", ".parquet"):
            save_table(table, folder / f"{name}{suffix}")
        self.publish_names()
        return folder / f"{name}.parquet"

    def read_table(self, name: str) -> pa.Table:
        """Read ``tables/NAME.parquet``.

        Raises:
            SampleError: there is no table of that name.
        """
        path = self.path / "tables" / f"{name}.parquet"
        if not path.exists():
            names = self._table_names()
            raise SampleError(f"{self.path.name} has no table '{name}'{nearest(name, names)}")
        return pyarrow.parquet.read_table(path)

    def table_notes(self, name: str) -> dict[str, Any]:
        """Return how ``tables/NAME.parquet`` was made, from its metadata under ``sparsem``.

        Empty if they hold nothing.
        """
        path = self.path / "tables" / f"{name}.parquet"
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        notes: dict[str, Any] = json.loads(metadata.get(b"sparsem", b"{}"))
        return notes


def as_samples(sample: Sample | Sequence[Sample]) -> list[Sample]:
    """Return one or more samples as a list.

    Raises:
        InputError: a sample is given twice.
    """
    samples = [sample] if isinstance(sample, Sample) else list(sample)
    refuse_repeated_samples([sample.path for sample in samples])
    return samples


def refuse_repeated_samples(paths: Sequence[Path]) -> None:
    """Check that no sample is given twice, under whatever path.

    Raises:
        InputError: one is; it would be counted or trained on twice.
    """
    seen = set()
    for path in paths:
        resolved = path.resolve()
        if resolved in seen:
            raise InputError(f"The sample {path} was given twice; name every sample once.")
        seen.add(resolved)


def sample_names_of(samples: Sequence[Sample]) -> list[str]:
    """Return a name for each of several samples; see ``names_of_paths``."""
    return names_of_paths([sample.path for sample in samples])


def names_of_paths(paths: Sequence[Path]) -> list[str]:
    """Return a name for each of several samples: that of its folder, without the suffix.

    Equal names are preceded by as many parent folders as distinguish them.

    >>> names_of_paths([Path("a/liver.zarr"), Path("b/liver.zarr"), Path("b/lung.zarr")])
    ['a/liver', 'b/liver', 'lung']
    """
    parts = [path.resolve().with_suffix("").parts for path in paths]
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        counts = Counter(names)
        is_extendable = [
            counts[name] > 1 and n < len(part)
            for name, n, part in zip(names, lengths, parts, strict=True)
        ]
        if not any(is_extendable):
            return names
        lengths = [n + extend for n, extend in zip(lengths, is_extendable, strict=True)]


def open_sample(path: str | Path) -> Sample:
    """Open a sample that ``import_stack`` or ``phantom`` made; see ``Sample``.

    Raises:
        SampleError: there is no sample at the path, or its import was not finished.
    """
    return Sample.open(path)


def save_table(table: pa.Table, path: Path) -> Path:
    """Write a table in one step, as CSV or Parquet according to the path's suffix.

    Return the path.
    """
    sink = pa.BufferOutputStream()
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, sink)
    else:
        pyarrow.parquet.write_table(table, sink)
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def now() -> str:
    """Return the time for the history: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
