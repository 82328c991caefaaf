"""The detectors by name.

The large ones are those of the thesis and of their libraries, and can be initialized with weights
trained on COCO. The small ones have a ResNet-18 and need a tenth of the computation: they can be
trained on a CPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparsem.detect.models.deformable_detr import DeformableDetr, SmallDeformableDetr
from sparsem.detect.models.detector import Detector
from sparsem.detect.models.retinanet import RetinaNet, SmallRetinaNet
from sparsem.errors import SettingsError
from sparsem.settings import nearest

COARSEST_STRIDE = 128  # edges of tiles are multiples of the stride of the coarsest level

DETECTORS: dict[str, Callable[[int, int, int], Detector]] = {
    "retinanet": RetinaNet,
    "retinanet-small": SmallRetinaNet,
    "deformable-detr": DeformableDetr,
    "deformable-detr-small": SmallDeformableDetr,
}


def detector_class(name: str) -> Any:
    """Return the class of a detector.

    Raises:
        SettingsError: there is no detector of that name; the nearest name is suggested.
    """
    if name not in DETECTORS:
        raise SettingsError(f"There is no detector '{name}'{nearest(name, DETECTORS)}")
    return DETECTORS[name]


def build_detector(name: str, n_structures: int, input_px: int, queries: int) -> Detector:
    """Return a detector with random weights.

    Args:
        name: name in DETECTORS.
        n_structures: number of structures that it distinguishes.
        input_px: edge of its tiles, px.
        queries: maximum number of boxes in a tile, of Deformable DETR.

    Raises:
        SettingsError: there is no detector of that name, or it cannot see tiles of that size.
    """
    kind = detector_class(name)
    if input_px % COARSEST_STRIDE or input_px <= 0:
        raise SettingsError(
            f"Detectors see tiles whose edge is a multiple of {COARSEST_STRIDE} px; got --input-px "
            f"{input_px}."
        )
    network: Detector = kind(n_structures, input_px, queries)
    return network


def load_initial_weights(network: Detector, name: str, weights: str) -> None:
    """Load weights trained on COCO into a detector.

    Args:
        network: detector, changed in place.
        name: its name in DETECTORS.
        weights: ``coco`` to fetch those of its library, or a file or folder.

    Raises:
        SettingsError: there are no weights for that detector, they cannot be fetched, or they do
            not fit.
    """
    if not network.has_coco_weights:
        raise SettingsError(
            f"There are no initial weights for '{name}', only for 'retinanet' and "
            "'deformable-detr'. Leave out --weights."
        )
    try:
        network.load_coco(None if weights == "coco" else Path(weights))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"The weights '{weights}' for '{name}' cannot be loaded ({reason}); give a file or "
            "folder of them with --weights, or --weights none to start with random weights."
        ) from None
    network.freezes_norms = True
