"""Training of a detector that starts from an earlier one (``detect train --from``)."""

from pathlib import Path

from sparsem.detect.models.detector import Detector
from sparsem.detect.models.networks import build_detector
from sparsem.detect.settings import DetectTrainSettings
from sparsem.detect.training.job import DetectionJob
from sparsem.detect.training.recipe import DetectorRecipe, read_detector
from sparsem.detect.training.splitting import ImageRole
from sparsem.errors import InputError, SettingsError
from sparsem.models.checkpoint import file_digest, load_tensors
from sparsem.models.transfer import RATE_FACTOR, take_over_weights
from sparsem.settings import changed
from sparsem.store.slice_use import slice_digest
from sparsem.training.settings import refuse_other_network

# Fields of the settings that are those of the earlier detector, and their names in its recipe.
NETWORK_FIELDS = {"architecture": "detector", "input_px": "input_px", "queries": "queries"}


def with_earlier_detector(settings: DetectTrainSettings) -> DetectTrainSettings:
    """Return settings whose network is that of the earlier detector, if they name one.

    Raises:
        InputError: there is no such detector.
        SettingsError: settings state another network than it has, or other initial weights.
    """
    if not settings.from_model:
        return settings
    path = Path(settings.from_model)
    recipe = read_detector(path)
    network = {
        name: getattr(recipe, name_in_recipe) for name, name_in_recipe in NETWORK_FIELDS.items()
    }
    refuse_other_network(settings, network, path)
    if settings.weights != "auto":
        raise SettingsError("A training starts from --weights or from --from, not both.")
    return changed(settings, network)


def usual_rate(network: Detector, settings: DetectTrainSettings) -> float:
    """Return the highest learning rate of a detector, lower if it starts from an earlier one."""
    return network.default_rate * (RATE_FACTOR if settings.from_model else 1.0)


def load_earlier_detector(network: Detector, recipe: DetectorRecipe, path: Path) -> str:
    """Load the weights of an earlier detector into a new one, and return a hash of its file.

    Raises:
        InputError: there is no such detector, or its weights do not fit.
    """
    tensors, _ = load_tensors(path)
    earlier = read_detector(path)

    def build(n_structures: int) -> Detector:
        return build_detector(recipe.detector, n_structures, recipe.input_px, recipe.queries)

    take_over_weights(
        network,
        recipe.structures,
        tensors,
        earlier.structures,
        build,
        path,
        network.nameless_outputs,
    )
    return file_digest(path)


def earlier_slices(settings: DetectTrainSettings) -> tuple[list[str], list[str]]:
    """Return digests of the slices that the earlier detector used, and that it was trained on."""
    if not settings.from_model:
        return [], []
    training = read_detector(Path(settings.from_model)).training
    used = list(training.get("used_slices", ()))
    return used, list(training.get("trained_slices", used))


def refuse_trained_images(job: DetectionJob, settings: DetectTrainSettings) -> None:
    """Refuse to hold out images that the earlier detector was trained on: scores are too high.

    Raises:
        InputError: there are such images; the first is named.
    """
    _, trained = earlier_slices(settings)
    if not trained:
        return
    for role in (ImageRole.VALIDATE, ImageRole.TEST):
        for image_id in job.ids_of(role):
            if slice_digest(job.raw[image_id.sample], image_id.z) in trained:
                raise InputError(
                    f"{Path(settings.from_model or '').name} was trained on {image_id}, so scores "
                    "on it would be too high; hold out other images with --validation and --test, "
                    "or none with --split none."
                )
