"""Metrics that were learnt: BRISQUE, which needs no reference, and DISTS, which does (thesis 2.3). Their numbers are loaded, never shipped.

They are looked for among the files that torch keeps (``torch.hub.get_dir()/checkpoints``) or in a folder that the user names, and fetched
where there is a network. Pictures are (y, x) uint8 or uint16. Files are read as plain tensors, whatever else they hold is refused.
"""

import importlib
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.quality.full_reference import Metric, as_tensor, places

LEAST_BRISQUE = 32  # px
DISTS_PX = 256  # edge of the squares that DISTS sees; piq would shrink larger ones to it, and so hide noise

LEARNT = {
    "brisque": Metric(
        "BRISQUE",
        "",
        -1,
        "how unnatural brightness is distributed; about 0 to 100, lower is better (Mittal et al. 2012)",
    ),
    "dists": Metric(
        "DISTS",
        "",
        -1,
        "how unlike structure and texture are in VGG16's eyes; 0 is identical (Ding et al. 2020)",
    ),
}
FILES: Mapping[str, tuple[str, ...]] = {
    "brisque": (
        "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt",
    ),
    "dists": (
        "https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
}
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
CHANNELS = (3, 64, 128, 256, 512, 512)


class Loaded(NamedTuple):
    """What could be loaded.

    Attributes:
        files: of every metric that can be measured, where its numbers lie.
        missing: a sentence for every other.
    """

    files: Mapping[str, tuple[Path, ...]]
    missing: tuple[str, ...]


def loaded(folder: Path | None) -> Loaded:
    """Find, or fetch, the numbers of the learnt metrics.

    Args:
        folder: that holds the files; torch's own if None, where missing ones are fetched to.

    Raises:
        InputError: the folder is none.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"There is no folder {folder} with weights of metrics; expected {_names('brisque')} or {_names('dists')} in it."
        )
    files, missing = {}, []
    for metric, urls in FILES.items():
        try:
            files[metric] = tuple(_file(url, folder) for url in urls)
        except OSError:
            where = (
                "put them into a folder and name it with --weights"
                if folder is None
                else f"they are not in {folder}"
            )
            missing.append(
                f"{LEARNT[metric].name} is not measured: {_names(metric)} cannot be fetched ({', '.join(urls)}); {where}."
            )
    return Loaded(files, tuple(missing))


def _names(metric: str) -> str:
    return " and ".join(Path(urlparse(url).path).name for url in FILES[metric])


def _file(url: str, folder: Path | None) -> Path:
    """A file at hand, or fetched.

    Raises:
        OSError: it is neither.
    """
    import torch

    name = Path(urlparse(url).path).name
    place = (folder or Path(torch.hub.get_dir()) / "checkpoints") / name
    if place.is_file():
        return place
    if folder is not None:
        raise FileNotFoundError(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(place), progress=False)
    except (URLError, TimeoutError, ValueError) as error:
        raise OSError(str(error)) from None
    return place


def brisque(picture: NDArray[Any], files: tuple[Path, ...]) -> float:
    """BRISQUE of a tile; NaN of one that is too small or flat.

    Raises:
        InputError: the file of weights is damaged.
    """
    import torch

    if min(picture.shape) < LEAST_BRISQUE or picture.min() == picture.max():
        return math.nan
    steps = importlib.import_module("piq.brisque")  # its own last step reads its file as a pickle
    weights, vectors = _svm(files[0])
    x, features = as_tensor(picture) * 255, []
    for _ in range(2):
        features.append(steps._natural_scene_statistics(x))
        x = steps.imresize(x, sizes=(x.shape[2] // 2, x.shape[3] // 2))
    scaled = steps._scale_features(torch.cat(features, dim=-1))
    return float(steps._rbf_kernel(features=scaled, sv=vectors.T, gamma=0.05) @ weights) + 153.591


def dists(picture: NDArray[Any], reference: NDArray[Any], files: tuple[Path, ...]) -> float:
    """DISTS of a tile and its reference, the mean over squares of 256 px all over it; 0 is identical.

    Raises:
        InputError: a file of weights is damaged.
    """
    import torch

    network = _dists(*files)
    found = []
    with torch.inference_mode():
        for top, left, (height, width) in places(picture.shape, DISTS_PX):
            square = np.s_[top : top + height, left : left + width]
            one, other = (
                as_tensor(each[square]).expand(1, 3, height, width) for each in (picture, reference)
            )
            found.append(float(network(one, other)))
    return sum(found) / len(found)


@lru_cache(maxsize=1)
def _svm(file: Path) -> tuple[Any, Any]:
    """Coefficients (n, 1) and support vectors (n, 36)."""
    content = _tensors(file)
    try:
        weights, vectors = (one.float() for one in content)
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{file} does not hold the weights of BRISQUE; expected coefficients and support vectors."
        ) from None
    if vectors.ndim != 2 or vectors.shape != (len(weights), 36):
        raise InputError(
            f"{file} does not hold the weights of BRISQUE; expected (n, 36) support vectors, got {tuple(vectors.shape)}."
        )
    return weights.reshape(-1, 1), vectors


@lru_cache(maxsize=1)
def _dists(own: Path, vgg: Path) -> Any:
    """Piq's DISTS, with numbers from files."""
    import torch
    from piq.perceptual import DISTS, VGG16_LAYERS, ContentLoss
    from torchvision.models import vgg16

    factors, network = _tensors(own), vgg16(weights=None)
    try:
        weights = [
            part
            for name in ("alpha", "beta")
            for part in torch.split(factors[name], list(CHANNELS), dim=1)
        ]
        network.load_state_dict(_tensors(vgg))
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{own} and {vgg} do not hold the weights of DISTS and VGG16 ({str(error).splitlines()[0]})."
        ) from None
    made = DISTS.__new__(DISTS)  # its own way to begin reads its file as a pickle
    layers = [VGG16_LAYERS[name] for name in VGG_LAYERS]
    ContentLoss.__init__(
        made,
        network.features,
        layers,
        weights,
        replace_pooling=True,
        allow_layers_weights_mismatch=True,
    )
    return made.eval()


def _tensors(file: Path) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever reading a damaged file comes to
        raise InputError(
            f"{file} is damaged, or holds more than tensors ({str(error).splitlines()[0]}); fetch it again."
        ) from None
