"""Trained metrics: BRISQUE, which needs no reference, and DISTS, which does (thesis 2.3).

Their weights are not part of the package. They are searched among the files that torch keeps
(``torch.hub.get_dir()/checkpoints``), or in a folder that the user names, and are downloaded where
there is a network. Images are (y, x) uint8 or uint16. Files are read as plain tensors; any other
content is refused.
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
from sparsem.extras import require
from sparsem.quality.full_reference import Metric, as_tensor, tile_grid

MIN_BRISQUE_PX = 32
BRISQUE_SCALES = 2
BRISQUE_FEATURES = 36
# Constants of the support vector regression of BRISQUE, as in piq.
BRISQUE_GAMMA = 0.05
BRISQUE_OFFSET = 153.591
# Edge of the squares on which DISTS is computed: piq shrinks larger ones to it, and so hides noise.
DISTS_PX = 256

TRAINED_METRICS = {
    "brisque": Metric(
        name="BRISQUE",
        unit="",
        better=-1,
        about="unnaturalness of the distribution of brightness; about 0 to 100, lower is better "
        "(Mittal et al. 2012)",
    ),
    "dists": Metric(
        name="DISTS",
        unit="",
        better=-1,
        about="difference of structure and texture in the features of VGG16; 0 is identical "
        "(Ding et al. 2020)",
    ),
}
PIQ_RELEASES = "https://github.com/photosynthesis-team/piq/releases/download"
WEIGHT_URLS: Mapping[str, tuple[str, ...]] = {
    "brisque": (f"{PIQ_RELEASES}/v0.4.0/brisque_svm_weights.pt",),
    "dists": (
        f"{PIQ_RELEASES}/v0.4.1/dists_weights.pt",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
}
# The features of which DISTS is made: the image and five layers of VGG16, with their channels.
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
CHANNELS = (3, 64, 128, 256, 512, 512)


class WeightFiles(NamedTuple):
    """The files of weights that are available.

    Attributes:
        files: of every metric that can be measured.
        missing: a sentence for every other metric.
    """

    files: Mapping[str, tuple[Path, ...]]
    missing: tuple[str, ...]


def find_weight_files(folder: Path | None) -> WeightFiles:
    """Find or download the weights of the trained metrics.

    Args:
        folder: that holds the files; if None, torch's own, to which missing files are downloaded.

    Raises:
        InputError: the folder does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"There is no folder {folder} with weights of metrics; "
            f"expected {_file_names('brisque')} or {_file_names('dists')} in it."
        )
    files = {}
    missing = []
    for metric, urls in WEIGHT_URLS.items():
        try:
            files[metric] = tuple(_find_or_download(url, folder) for url in urls)
        except OSError:
            missing.append(_missing_sentence(metric, folder))
    return WeightFiles(files, tuple(missing))


def _file_names(metric: str) -> str:
    """Return the names of a metric's files, for messages."""
    return " and ".join(Path(urlparse(url).path).name for url in WEIGHT_URLS[metric])


def _missing_sentence(metric: str, folder: Path | None) -> str:
    """Return a sentence on a metric whose files are missing, and what to do."""
    name = TRAINED_METRICS[metric].name
    files = _file_names(metric)
    addresses = ", ".join(WEIGHT_URLS[metric])
    if folder is None:
        return (
            f"{name} is not measured: {files} cannot be downloaded ({addresses}); put them into a "
            "folder and name it with --weights."
        )
    return f"{name} is not measured: {folder} lacks {files}; download them from {addresses}."


def _find_or_download(url: str, folder: Path | None) -> Path:
    """Return a file of weights.

    Raises:
        OSError: it is not in the folder, or cannot be downloaded.
    """
    import torch

    name = Path(urlparse(url).path).name
    path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / name
    if path.is_file():
        return path
    if folder is not None:
        raise FileNotFoundError(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (URLError, TimeoutError, ValueError) as error:
        raise OSError(str(error)) from None
    return path


def brisque(image: NDArray[Any], files: tuple[Path, ...]) -> float:
    """Return the BRISQUE of a tile; NaN for a tile that is too small or constant.

    Raises:
        InputError: the file of weights is damaged.
    """
    import torch

    if min(image.shape) < MIN_BRISQUE_PX or image.min() == image.max():
        return math.nan
    # piq's own last step reads its file as a pickle; its other steps are used here.
    piq_brisque = importlib.import_module("piq.brisque")
    weights, support_vectors = _brisque_weights(files[0])
    features = _brisque_features(piq_brisque, as_tensor(image) * 255)
    scaled_features = piq_brisque._scale_features(torch.cat(features, dim=-1))
    kernel = piq_brisque._rbf_kernel(
        features=scaled_features, sv=support_vectors.T, gamma=BRISQUE_GAMMA
    )
    return float(kernel @ weights) + BRISQUE_OFFSET


def _brisque_features(piq_brisque: Any, image: Any) -> list[Any]:
    """Return the features of an image (1, 1, y, x) at all scales of BRISQUE."""
    features = []
    for _ in range(BRISQUE_SCALES):
        features.append(piq_brisque._natural_scene_statistics(image))
        _, _, height, width = image.shape
        image = piq_brisque.imresize(image, sizes=(height // 2, width // 2))
    return features


def dists(image: NDArray[Any], reference: NDArray[Any], files: tuple[Path, ...]) -> float:
    """Return the DISTS of a tile and its reference; 0 is identical.

    It is the mean over squares of 256 px all over the tile.

    Raises:
        InputError: a file of weights is damaged.
    """
    import torch

    network = _dists_network(*files)
    distances = []
    with torch.inference_mode():
        for top, left, (height, width) in tile_grid(image.shape, DISTS_PX):
            square = np.s_[top : top + height, left : left + width]
            first = as_tensor(image[square]).expand(1, 3, height, width)
            second = as_tensor(reference[square]).expand(1, 3, height, width)
            distances.append(float(network(first, second)))
    return sum(distances) / len(distances)


@lru_cache(maxsize=1)
def _brisque_weights(file: Path) -> tuple[Any, Any]:
    """Return the coefficients (n, 1) and support vectors (n, 36) of BRISQUE.

    Raises:
        InputError: the file holds anything else.
    """
    content = _read_tensors(file)
    try:
        weights, vectors = (tensor.float() for tensor in content)
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{file} does not hold the weights of BRISQUE; expected coefficients and support "
            "vectors."
        ) from None
    if vectors.ndim != 2 or vectors.shape != (len(weights), BRISQUE_FEATURES):
        raise InputError(
            f"{file} does not hold the weights of BRISQUE; "
            f"expected (n, {BRISQUE_FEATURES}) support vectors, got {tuple(vectors.shape)}."
        )
    return weights.reshape(-1, 1), vectors


@lru_cache(maxsize=1)
def _dists_network(dists_file: Path, vgg_file: Path) -> Any:
    """Return piq's network of DISTS with weights from files.

    Raises:
        InputError: the files hold anything else.
    """
    import torch

    require("train")
    from piq.perceptual import DISTS, VGG16_LAYERS, ContentLoss
    from torchvision.models import vgg16

    factors = _read_tensors(dists_file)
    vgg = vgg16(weights=None)
    weights: list[Any] = []
    try:
        for name in ("alpha", "beta"):
            weights += torch.split(factors[name], list(CHANNELS), dim=1)
        vgg.load_state_dict(_read_tensors(vgg_file))
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{dists_file} and {vgg_file} do not hold the weights of DISTS and VGG16 "
            f"({str(error).splitlines()[0]})."
        ) from None
    network = DISTS.__new__(DISTS)  # its own __init__ reads its file as a pickle
    ContentLoss.__init__(
        network,
        vgg.features,
        [VGG16_LAYERS[name] for name in VGG_LAYERS],
        weights,
        replace_pooling=True,
        allow_layers_weights_mismatch=True,
    )
    return network.eval()


def _read_tensors(file: Path) -> Any:
    """Return the tensors of a file.

    Raises:
        InputError: the file is damaged, or holds anything else.
    """
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors on a damaged file
        raise InputError(
            f"{file} is damaged, or holds more than tensors ({str(error).splitlines()[0]}); "
            "download it again."
        ) from None
