"""The detectors by name.

The large ones are those of the thesis and of their libraries, and can begin with weights learnt on COCO; the small ones have a ResNet-18
and a tenth of the work: they learn on a CPU.
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

COARSEST = 128  # tiles are multiples of it: the stride of the coarsest level

DETECTORS: dict[str, Callable[[int, int, int], Detector]] = {
    "retinanet": RetinaNet,
    "retinanet-small": SmallRetinaNet,
    "deformable-detr": DeformableDetr,
    "deformable-detr-small": SmallDeformableDetr,
}


def detector_class(name: str) -> Any:
    """The class of a detector.

    Raises:
        SettingsError: there is none of that name; the nearest is named.
    """
    if name not in DETECTORS:
        raise SettingsError(f"There is no detector '{name}'{nearest(name, DETECTORS)}")
    return DETECTORS[name]


def build_detector(name: str, kinds: int, see: int, queries: int) -> Detector:
    """A detector with random weights.

    Args:
        name: in DETECTORS.
        kinds: how many structures it tells apart.
        see: edge of its tiles, px.
        queries: most boxes in a tile, of Deformable DETR.

    Raises:
        SettingsError: no detector of that name, or it cannot see tiles of that size.
    """
    kind = detector_class(name)
    if see % COARSEST or see <= 0:
        raise SettingsError(
            f"Detectors see tiles whose edge is a multiple of {COARSEST} px; got --input-px {see}."
        )
    network: Detector = kind(kinds, see, queries)
    return network


def load_initial_weights(network: Detector, name: str, weights: str) -> None:
    """Let a detector begin with weights learnt on COCO: ``coco`` fetches its library's, anything else is a file or folder.

    Raises:
        SettingsError: there are none of that detector, they cannot be fetched, or they do not fit.
    """
    if not network.has_coco:
        raise SettingsError(
            f"There are no weights that '{name}' can begin with; 'retinanet' and 'deformable-detr' can. Leave out --weights."
        )
    try:
        network.load_coco(None if weights == "coco" else Path(weights))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"The weights '{weights}' for '{name}' cannot be had ({reason}); give a file or folder of them with --weights, or "
            "--weights none to begin with random ones."
        ) from None
    network.keeps_norms = True
