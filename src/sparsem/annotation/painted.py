"""An annotation as an array (z, y, x) that can be painted in, and that saves itself.

Numbers in the array differ from those on disk, since painting tools take 0 for transparent:

    0                   unlabeled: nothing is known
    BACKGROUND          labeled as background
    any other number    the number of a structure or an object, as it is stored

Planes are read when they are looked at. What is painted is written a moment later by a thread of
its own, slice by slice. If another run holds the sample, it is put aside in the sample and written
when the sample is free.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.labeled_slices import (
    Origin,
    annotation_attributes,
    read_slice,
    refuse_second_annotation,
    stored_labels,
)
from sparsem.annotation.precedence import apply_annotation
from sparsem.annotation.unsaved import (
    UnsavedSlice,
    forget_unsaved,
    put_aside,
    unsaved_slices,
)
from sparsem.annotation.writing import (
    is_being_replaced,
    refuse_other_image,
    restore_annotation,
    write_slice,
)
from sparsem.errors import SampleError, SparsemError
from sparsem.store.names import checked_structure
from sparsem.store.sample import Sample

# Number of background in the array, by the type of its numbers: the last color of 255.
BACKGROUND = {1: 255, 4: 2**32 - 256}
MAX_SMALL_NUMBER = 254
MAX_UNCHANGED_PLANES = 4  # planes that are kept after they were looked at
SAVE_AFTER_S = 0.1  # pause in painting after which planes are saved
APPLY_AFTER_S = 3.0  # pause after which labels get what was painted
POLL_S = 0.05
RETRY_S = 1.0  # pause after slices could not be saved
ATTEMPTS = 100  # to read an annotation that others write

Plane = NDArray[Any]


class PaintedAnnotation:
    """An annotation that reads and writes like a numpy array (z, y, x).

    Args:
        sample: sample that holds the annotation, or will hold it.
        name: name of the annotation.
        image: image that it is drawn on; that of the annotation if it exists.
        numbered: objects have numbers of 32 bit; if False and no number is larger than 254, 8 bit.
    """

    def __init__(
        self, sample: Sample, name: str, image: str | None = None, numbered: bool = False
    ) -> None:
        self.sample = sample
        self.name = name
        with suppress(SampleError):  # of a run that holds the sample, and restores it as well
            restore_annotation(sample, name)
        self._directory = sample.path / "annotations" / name
        attributes = self._attributes()
        if not attributes:
            refuse_second_annotation(sample, name, [checked_structure(name)])
        unsaved = unsaved_slices(sample, name)
        drawn_on = [entry.image for entry in unsaved.values()]
        self.image = str(attributes.get("image") or next(iter(drawn_on), None) or image or "")
        self.image = self.image or sample.newest_image
        if attributes:
            refuse_other_image(sample, name, attributes, self.image)
        self._volume = sample.image(self.image)
        self._sizes = self._volume.sizes
        self.shape = self._volume.shape
        self.ndim = 3
        is_wide = numbered or not _has_small_numbers(sample, name, attributes)
        self.dtype: np.dtype[Any] = np.dtype(np.uint32 if is_wide else np.uint8)
        self.background = BACKGROUND[self.dtype.itemsize]
        self._lock = threading.RLock()
        self._saving = threading.Lock()  # one thread at a time writes; the brush never waits for it
        self._planes: OrderedDict[int, Plane] = OrderedDict()
        self._prints: dict[int, str] = {}  # hashes of planes as they are on disk
        self._version: tuple[int, int] | None = None  # of the annotation that planes are of
        self._changed_at: dict[int, float] = {}
        self._aside_at: dict[int, float] = {}
        self._saver: AutoSaver | None = None
        self._origins: dict[int, Origin] = {}
        self._note = ""
        self._take_unsaved(unsaved)

    def _take_unsaved(self, unsaved: Mapping[int, UnsavedSlice]) -> None:
        """Take over slices that could not be saved, if their image is still the same."""
        image = (self.image, self._volume.fingerprint)
        for z, entry in unsaved.items():
            if (entry.image, entry.image_fingerprint) != image:
                self._note = (
                    f"Slices of {self.name} wait in .sparsem/unsaved/{self.name}: they were "
                    f"painted on '{entry.image}', which was replaced since."
                )
                continue
            # As ``_to_stored`` returns them: the numbers of the annotation come when it is saved.
            self._planes[z] = self._from_stored(entry.labels, {})
            self._origins[z] = entry.origin
            self._mark(z)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def slices(self) -> list[int]:
        """Numbers of the slices with labels, also of those that are not saved yet; ascending."""
        attributes = self._attributes()
        stored = set(attributes.get("z", ())) - set(attributes.get("unknown", ()))
        with self._lock:
            changed = {z: self._planes[z] for z in self._changed_at}
        painted = {z for z, plane in changed.items() if plane.any()}
        return sorted(stored - changed.keys() | painted)

    def plane(self, z: int) -> Plane:
        """Return the numbers (y, x) of a slice; changes of it must be announced by ``touch``."""
        with self._lock:
            self._drop_outdated_planes()
            if z not in self._planes:
                self._planes[z] = self._read(z)
                self._drop_planes()
            self._planes.move_to_end(z)
            return self._planes[z]

    def _drop_planes(self) -> None:
        """Drop planes that were not changed, but for the last ones."""
        unchanged = [z for z in self._planes if z not in self._changed_at]
        for z in unchanged[:-MAX_UNCHANGED_PLANES]:
            del self._planes[z]

    def _drop_outdated_planes(self) -> None:
        """Drop unchanged planes of slices that somebody else wrote since they were read."""
        version = self._metadata_version()
        if version is None:  # there is none, or another version takes its place at the moment
            return
        if version == self._version:
            return
        self._version = version
        prints = self._attributes().get("slices", {})
        for z in [z for z in self._planes if z not in self._changed_at]:
            if self._prints.get(z, "") != prints.get(str(z), ""):
                del self._planes[z]

    def _metadata_version(self) -> tuple[int, int] | None:
        """Return time and inode of the metadata on disk; None if there are none at the moment."""
        try:
            status = (self._directory / "zarr.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes of the annotation; empty if there is none.

        Raises:
            SampleError: they are damaged.
        """
        for _ in range(ATTEMPTS):
            before = self._metadata_version()
            try:
                return annotation_attributes(self.sample, self.name)
            except SampleError:
                # Damaged is what stood there all the time; anything else was being replaced.
                if before is not None and before == self._metadata_version():
                    raise
                if self._is_missing():
                    return {}
                time.sleep(POLL_S / 5)
        return annotation_attributes(self.sample, self.name)

    def _is_missing(self) -> bool:
        """Tell whether there is no annotation; one that is being replaced is not missing."""
        if self._directory.exists() or is_being_replaced(self.sample, self.name):
            return False
        return not self._directory.exists()  # the replacement may have ended between the two looks

    def _read(self, z: int) -> Plane:
        """Return a slice (y, x); while a new version takes its place, it is read again.

        Raises:
            SampleError: the slice is damaged.
        """
        problem = SampleError(f"annotations/{self.name} changes all the time.")
        for _ in range(ATTEMPTS):
            attributes = self._attributes()
            numbers = attributes.get("z", [])
            if z not in numbers:
                self._prints[z] = ""
                return np.zeros(self.shape[1:], self.dtype)
            try:
                stored = read_slice(stored_labels(self.sample, self.name), numbers.index(z))
            except (SampleError, OSError, ValueError, IndexError) as error:
                problem = SampleError(str(error))
                time.sleep(POLL_S / 5)
                continue
            if self._attributes().get("fingerprint") == attributes["fingerprint"]:
                self._prints[z] = attributes.get("slices", {}).get(str(z), "")
                return self._from_stored(stored, attributes)
        raise problem

    def _from_stored(self, stored: NDArray[Any], attributes: Mapping[str, Any]) -> Plane:
        """Return the numbers of the array for stored labels (y, x)."""
        ignore = attributes.get("ignore")
        is_unlabeled = (stored == UNLABELED) | (stored == (UNLABELED if ignore is None else ignore))
        is_background = (stored == 0) | (stored == attributes.get("background", 0))
        numbers = np.where(is_background & ~is_unlabeled, self.background, stored)
        return np.where(is_unlabeled, 0, numbers).astype(self.dtype)

    def _to_stored(self, plane: Plane) -> NDArray[np.uint32]:
        """Return stored labels for the numbers of the array."""
        stored = plane.astype(np.uint32)
        stored[plane == 0] = UNLABELED
        stored[plane == self.background] = 0
        return stored

    def touch(self, z: int) -> None:
        """Announce that the plane of a slice was changed, so that it is saved."""
        with self._lock:
            self._mark(z)

    def start_from_prediction(self, z: int, labels: Plane) -> None:
        """Label a slice with a prediction, which is then corrected; it is recorded as such.

        Args:
            z: slice number, which must not be labeled yet, or is replaced.
            labels: (y, x) predicted labels; 0 is background.

        Raises:
            SampleError: the annotation has too few numbers for those of the labels.
        """
        largest = int(labels.max(initial=0))
        if self.dtype == np.uint8 and largest > MAX_SMALL_NUMBER:
            raise SampleError(
                f"annotations/{self.name} takes numbers up to {MAX_SMALL_NUMBER}, and the "
                f"prediction has {largest}; open the sample again."
            )
        with self._lock:
            self._origins[z] = "corrected prediction"
            plane = self.plane(z)
            plane[...] = np.where(labels > 0, labels, self.background)
            self._mark(z)

    def _mark(self, z: int) -> None:
        if self._sizes:  # an image of a montage; the rest of the plane is padding
            height, width = self._sizes[z]
            self.plane(z)[height:] = 0
            self.plane(z)[:, width:] = 0
        self._changed_at[z] = time.monotonic()
        if self._saver is None or not self._saver.is_alive():
            self._saver = AutoSaver(self)
            self._saver.start()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return a part of the array; integers, slices, and arrays of positions."""
        z, rest = _split_index(index)
        if isinstance(z, slice):
            numbers = range(*z.indices(self.shape[0]))
            if not numbers:
                return np.zeros((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
            return np.stack([self.plane(number)[rest] for number in numbers])
        if np.ndim(z):
            values = np.empty(np.shape(z), self.dtype)
            for number in np.unique(z):
                is_here = np.asarray(z) == number
                values[is_here] = self.plane(int(number))[tuple(axis[is_here] for axis in rest)]
            return values
        return np.asarray(self.plane(int(z) % self.shape[0])[rest])

    def __setitem__(self, index: Any, values: Any) -> None:
        """Set a part of the array, and save it a moment later."""
        z, rest = _split_index(index)
        with self._lock:
            if isinstance(z, slice):
                numbers = range(*z.indices(self.shape[0]))
                parts = np.broadcast_to(values, (len(numbers), *self.plane(numbers[0])[rest].shape))
                for number, part in zip(numbers, parts, strict=True):
                    self.plane(number)[rest] = part
                    self._mark(number)
            elif np.ndim(z):
                spread = np.broadcast_to(values, np.shape(z))
                for number in np.unique(z):
                    is_here = np.asarray(z) == number
                    plane = self.plane(int(number))
                    plane[tuple(axis[is_here] for axis in rest)] = spread[is_here]
                    self._mark(int(number))
            else:
                number = int(z) % self.shape[0]
                self.plane(number)[rest] = values
                self._mark(number)

    @property
    def problem(self) -> str:
        """Why slices could not be saved; empty if they could."""
        return (self._saver.problem if self._saver is not None else "") or self._note

    @property
    def unsaved(self) -> list[int]:
        """Slices that were painted and are not on disk yet."""
        with self._lock:
            return sorted(self._changed_at)

    def due(self, now: float) -> list[int]:
        """Return the slices that are to be saved now: nobody paints in them at the moment."""
        with self._lock:
            times = dict(self._changed_at)
        return [z for z, changed_at in times.items() if now - changed_at >= SAVE_AFTER_S]

    def save(self) -> None:
        """Write every painted slice that is not on disk yet.

        Raises:
            SampleError: another run holds the sample; the slices are put aside in the sample.
            InputError: the name cannot be that of a structure.
        """
        problems = []
        for z in self.unsaved:
            try:
                self.save_slice(z)
            except (SparsemError, OSError) as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def save_slice(self, z: int) -> None:
        """Write a painted slice; see ``save``."""
        with self._saving:
            with self._lock:
                changed_at = self._changed_at.get(z)
                if changed_at is None:
                    return
                plane = self._planes[z].copy()
            origin = self._origins.get(z, "manual")
            stored = self._to_stored(plane)  # without the lock: the brush never waits for it
            try:
                print_on_disk = write_slice(self.sample, self.name, z, stored, self.image, origin)
            except (SparsemError, OSError):
                if self._aside_at.get(z) != changed_at:
                    image = (self.image, self._volume.fingerprint)
                    put_aside(self.sample, self.name, z, UnsavedSlice(stored, *image, origin))
                    self._aside_at[z] = changed_at
                raise
            forget_unsaved(self.sample, self.name, z)
            with self._lock:
                self._prints[z] = print_on_disk
                if self._changed_at.get(z) == changed_at:
                    del self._changed_at[z]

    def close(self) -> None:
        """Save everything, and write it into the labels of the structures.

        Raises:
            SampleError: another run holds the sample; what was painted is put aside in the sample.
        """
        if self._saver is not None:
            self._saver.stop()
        self.save()
        if self._attributes():
            apply_annotation(self.sample, self.name, quiet=True)


class AutoSaver(threading.Thread):
    """Saves a painted annotation a moment after every stroke; ends with the program.

    ``problem`` is why the last attempt failed; empty if it did not.

    Args:
        annotation: what is saved.
    """

    def __init__(self, annotation: PaintedAnnotation) -> None:
        super().__init__(daemon=True, name=f"save {annotation.name}")
        self._annotation = annotation
        self._stopped = threading.Event()
        self.problem = ""

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        """Save what is painted; write it into labels when nothing was painted for a while."""
        saved_at = time.monotonic()
        needs_applying = False
        pause = POLL_S
        while not self._stopped.wait(pause):
            pause = POLL_S
            now = time.monotonic()
            for z in self._annotation.due(now):
                if self._save(z):
                    saved_at, needs_applying = time.monotonic(), True
                else:
                    pause = RETRY_S
            is_idle = not self._annotation.unsaved and now - saved_at > APPLY_AFTER_S
            if needs_applying and is_idle:
                needs_applying = not self._apply()
                pause = RETRY_S if needs_applying else POLL_S

    def _save(self, z: int) -> bool:
        try:
            self._annotation.save_slice(z)
        except (SparsemError, OSError) as error:  # such as another run that holds the sample: later
            self.problem = str(error)
            return False
        self.problem = ""
        return True

    def _apply(self) -> bool:
        annotation = self._annotation
        try:
            apply_annotation(annotation.sample, annotation.name, quiet=True)
        except (SparsemError, OSError) as error:
            self.problem = str(error)
            return False
        self.problem = ""
        return True


def _has_small_numbers(sample: Sample, name: str, attributes: Mapping[str, Any]) -> bool:
    """Return True if all numbers of an annotation fit into 8 bit next to those with a meaning."""
    if name in sample.names("labels") and sample.volume("labels", name).dtype != np.uint8:
        return False  # its objects may be copied into the annotation
    if not attributes:
        return True
    special = (attributes["ignore"], attributes.get("background"))
    labels = stored_labels(sample, name)
    for index in range(labels.shape[0]):
        plane = read_slice(labels, index)
        objects = plane[~np.isin(plane, [number for number in special if number is not None])]
        if objects.size and int(objects.max()) > MAX_SMALL_NUMBER:
            return False
    return True


def _split_index(index: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the index along z, and those along y and x."""
    if index is Ellipsis:
        return slice(None), (slice(None), slice(None))
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is Ellipsis for part in parts):
        position = next(n for n, part in enumerate(parts) if part is Ellipsis)
        parts[position : position + 1] = [slice(None)] * (4 - len(parts))
    parts += [slice(None)] * (3 - len(parts))
    return parts[0], (parts[1], parts[2])
