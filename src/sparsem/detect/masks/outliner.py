"""The outline of an object in a box that a person drew, by a model or without one."""

import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners
from sparsem.detect.masks.outline import PlacedMask, mask_in_box
from sparsem.store.volume import Volume

if TYPE_CHECKING:
    from sparsem.detect.inference import GrayStatistics
    from sparsem.detect.masks.sam import Sam


class BoxOutliner:
    """Outlines objects in boxes of an image, one by one.

    The model is loaded once, and what it knows of a tile is computed once, so that only the first
    box in a tile takes long.

    Args:
        image: the image of the slices.
        model: folder or name of a Segment Anything Model; None for an outline without a model.
        device: device of the model.
    """

    def __init__(self, image: Volume, model: str | None = None, device: str = "auto") -> None:
        self.image = image
        self.model = model
        self._device = device

    @cached_property
    def _embeddings(self) -> Path:
        """Folder of what the model knows of the tiles; it is removed with the outliner."""
        folder = tempfile.mkdtemp(prefix="sparsem-embeddings-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def _sam(self) -> "Sam":
        # Loading torch takes seconds, and only models need it.
        from sparsem.detect.masks.sam import load_sam
        from sparsem.models.device import choose_device

        return load_sam(self.model or "", choose_device(self._device))

    @cached_property
    def _levels(self) -> "GrayStatistics":
        from sparsem.detect.inference import sample_gray_statistics

        return sample_gray_statistics(self.image)

    def outline(self, plane: NDArray[Any], z: int, box: tuple[float, ...]) -> PlacedMask:
        """Return the mask of the object in a box.

        Args:
            plane: the slice (y, x).
            z: its number.
            box: (x0, y0, x1, y1) in pixels.

        Raises:
            SettingsError: the model cannot be loaded.
        """
        if not self.model:
            return mask_in_box(plane, box)
        from sparsem.detect.masks.sam_masks import sam_masks

        corners: Corners = np.array([box], np.float32)
        return sam_masks(plane, z, corners, self._sam, self._levels, self._embeddings)[0]
