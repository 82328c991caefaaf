"""Training a detector on annotated boxes of samples; see ``train_detector``.

A training can be interrupted at any moment and resumed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsem import __version__
from sparsem.boxes.geometry import Boxes
from sparsem.detect.inference import detect_in_image, tiling_of, window_reader
from sparsem.detect.models.detector import DetectionTarget, Detector
from sparsem.detect.models.networks import detector_class, load_initial_weights
from sparsem.detect.models.weights import hash_weights
from sparsem.detect.settings import DetectSettings, DetectTrainSettings
from sparsem.detect.tiling import TileDetections
from sparsem.detect.training.calibration import calibration_curve, counting_threshold
from sparsem.detect.training.earlier_detector import (
    earlier_slices,
    load_earlier_detector,
    refuse_trained_images,
    usual_rate,
    with_earlier_detector,
)
from sparsem.detect.training.job import DetectionJob, detection_job
from sparsem.detect.training.recipe import Curve, DetectorRecipe, read_detector, save_detector
from sparsem.detect.training.splitting import ImageRole
from sparsem.detect.training.tiles import DetectionBatch, DetectionSampler, TrainingImage
from sparsem.errors import InputError, SettingsError
from sparsem.models.checkpoint import load_state
from sparsem.models.device import free_memory, keep_freed_memory
from sparsem.progress import print_note
from sparsem.score.boxes import BoxComparison, box_scores
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample, as_samples
from sparsem.store.slice_use import slice_digest
from sparsem.training.files import TrainingFiles, log_path
from sparsem.training.loop import TrainingState, run_updates, update_weights
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult

# Settings that change no weight; of an earlier detector the content is recorded, not the path.
WITHOUT_EFFECT = {"checkpoint_every_s", "from_model", "threads"}
# Fraction of the queries that objects may take in the usual tile of the most crowded image: other
# tiles hold more.
MAX_QUERY_FRACTION = 0.5
LIBRARY_BYTES = 1_000_000_000  # memory of torch and the libraries it uses
COPIES_OF_WEIGHTS = 5  # the weights, their average, gradient, and two moments of the optimizer
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class DetectorTrainResult(StageResult):
    """The result of ``train_detector``.

    Attributes:
        recipe: how to use the detector, with the scores that it reached.
    """

    recipe: DetectorRecipe


def train_detector(
    sample: Sample | Sequence[Sample],
    out: str | Path,
    settings: DetectTrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> DetectorTrainResult:
    """Train a detector on the annotated boxes of samples and write it to ``out``.

    Called again, an interrupted training continues; the weights end the same, bit for bit on a CPU.
    With images held out for validation, the best weights are kept, and scores are calibrated: the
    probability that a box is right, and the score from which boxes count. NAME.training.csv next to
    ``out`` holds the course of the training.

    Args:
        sample: one or more samples with annotated boxes of every structure.
        out: the checkpoint to write, NAME.safetensors.
        settings: structures, architecture, split and training.
        on: ``overwrite`` and ``quiet`` are used.

    Raises:
        SampleError: boxes are missing, or were drawn on an image that was replaced.
        InputError: no training image holds a box; the name of ``out`` has another ending.
        SettingsError: the architecture is unknown, the tile size is not possible, weights are not
            available, or there is nothing to hold out.
        ResumeError: ``out`` was, or is being, trained with other settings or data.
    """
    settings = resolve_settings(DetectTrainSettings, settings, changes)
    out = Path(out)
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"Expected NAME.safetensors as the name of the detector; got '{out}'.")
    settings = with_earlier_detector(settings)
    samples = as_samples(sample)
    only_sample = samples[0] if len(samples) == 1 else None
    written = (str(out), str(log_path(out)))
    job = detection_job(samples, settings)
    refuse_trained_images(job, settings)
    record = _record_of(job, settings)
    files = TrainingFiles(out)
    trained = files.read_existing(read_detector, on.overwrite)
    trained_record = trained.training.get("record", {}) if trained else {}
    # When a training continues, "auto" means what it meant at its start, whether weights can be
    # fetched now or not.
    earlier = files.unfinished_record() or trained_record
    network, record["initial_weights"] = _initial_network(
        job, settings, str(earlier.get("initial_weights", "")), on.quiet
    )
    if trained and files.is_finished(trained_record, record, on.overwrite):
        return DetectorTrainResult(trained, sample=only_sample, written=written)
    needs = _needs(job, settings)
    folder = out.resolve().parent
    needs.check(folder if folder.is_dir() else Path.cwd())
    _report_plan(job, needs, on.quiet)
    state = _training_state(network, job, settings)
    recipe = _train(out, files, state, job, record, settings, on)
    return DetectorTrainResult(recipe, sample=only_sample, written=written)


def _train(
    out: Path,
    files: TrainingFiles,
    state: TrainingState,
    job: DetectionJob,
    record: Mapping[str, Any],
    settings: DetectTrainSettings,
    on: Execution,
) -> DetectorRecipe:
    """Run the training from its beginning or where it stopped, and write the detector."""
    with files.locked():
        files.restore(state, record, on.overwrite)
        _run(files, state, job, record, settings, on.quiet)
        recipe = _finished_recipe(state, job, record, settings)
        save_detector(out, _as_detector(state.average).cpu(), recipe)
        files.state_path.unlink(missing_ok=True)
    return recipe


def _record_of(job: DetectionJob, settings: DetectTrainSettings) -> dict[str, Any]:
    """Return all that determines the weights, except the initial ones."""
    record = {
        "version": __version__,
        **job.inputs,
        **settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
    }
    record["structures"] = list(job.recipe.structures)
    record["device"] = job.device.type
    return record


def _run(
    files: TrainingFiles,
    state: TrainingState,
    job: DetectionJob,
    record: Mapping[str, Any],
    settings: DetectTrainSettings,
    quiet: bool,
) -> None:
    """Run all updates that are left."""
    sampler = _sampler_of(job, settings)
    validation_images = job.images_of(ImageRole.VALIDATE)
    validate: Callable[[torch.nn.Module], tuple[float, ...]] | None = None
    if validation_images:
        validate = partial(_validation_ap50, images=validation_images, job=job)
    updates = run_updates(
        state,
        sampler.draw,
        lambda batch: _update(state, batch, settings, job.device),
        validate,
        settings,
        settings.validate_every,
    )
    columns = [f"validation_ap50_{name}" for name in job.recipe.structures]
    files.run(
        updates,
        state,
        record,
        settings,
        columns,
        lambda progress: f"loss {progress.loss:.3f}",
        quiet,
    )


def _sampler_of(job: DetectionJob, settings: DetectTrainSettings) -> DetectionSampler:
    """Return the source of the batches of a training."""
    return DetectionSampler(
        job.images_of(ImageRole.TRAIN),
        settings.input_px,
        settings.batch,
        settings.intensity_augmentation,
        settings.seed,
    )


def _needs(job: DetectionJob, settings: DetectTrainSettings) -> Needs:
    """Return the memory of a training: copies of the weights, and the features of a batch."""
    architecture = detector_class(settings.architecture)
    with torch.device("meta"):
        parameters = list(job.recipe.build().parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    batch = settings.batch * architecture.training_bytes * settings.input_px**2
    needed = COPIES_OF_WEIGHTS * weights + batch
    smaller = "use a smaller --batch or --input-px, or a smaller --architecture"
    if job.device.type == "cuda":
        free = free_memory(job.device)
        return Needs(LIBRARY_BYTES, 0, smaller, gpu=needed, gpu_free=free)
    return Needs(LIBRARY_BYTES + needed, 0, smaller)


def _report_plan(job: DetectionJob, needs: Needs, quiet: bool) -> None:
    """Print structures, images, tiles and memory of a training."""
    recipe = job.recipe
    images = job.images_of(ImageRole.TRAIN)
    n_boxes = sum(len(image.kind) for image in images)
    n_validation = len(job.ids_of(ImageRole.VALIDATE))
    n_test = len(job.ids_of(ImageRole.TEST))
    print_note(
        f"Training {recipe.detector} to detect {', '.join(recipe.structures)} on {n_boxes} boxes "
        f"in {len(images)} images; {n_validation} are held out for validation and {n_test} for "
        f"testing. The network sees tiles of {_edge_text(images[0])} px at {recipe.input_px} px.",
        quiet,
    )
    print_note(f"It {needs}", quiet)
    _warn_of_crowded_tiles(recipe, images, quiet)


def _edge_text(image: TrainingImage) -> str:
    """Return the edge of a tile, or both edges if they differ."""
    return " x ".join(str(length) for length in dict.fromkeys(image.edge))


def _warn_of_crowded_tiles(
    recipe: DetectorRecipe, images: Sequence[TrainingImage], quiet: bool
) -> None:
    """Print a note if a tile holds about as many objects as the detector can find."""
    crowd = max(_objects_in_tile(image) for image in images)
    has_queries = detector_class(recipe.detector).has_queries
    if has_queries and crowd > recipe.queries * MAX_QUERY_FRACTION:
        print_note(
            f"Note: a tile holds about {crowd:.0f} objects, and {recipe.queries} --queries find at "
            "most as many; use more.",
            quiet,
        )


def _objects_in_tile(image: TrainingImage) -> float:
    """Return the mean number of objects in a tile of an image."""
    fraction = math.prod(image.edge) / math.prod(image.image.size_of(image.z))
    return len(image.kind) * min(1.0, fraction)


def _initial_network(
    job: DetectionJob, settings: DetectTrainSettings, earlier: str, quiet: bool
) -> tuple[Detector, str]:
    """Return a new detector, the same for the same seed, and its initial weights.

    Args:
        job: the training.
        settings: its settings.
        earlier: initial weights of an unfinished or finished training; else empty.
        quiet: print no note.

    Returns:
        The detector, and ``random``, ``coco``, or a hash of the given weights.
    """
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = job.recipe.build()
    if settings.from_model:
        return network, load_earlier_detector(network, job.recipe, Path(settings.from_model))
    if settings.weights == "none":
        return network, "random"
    if settings.weights == "auto":
        return network, _load_available_weights(network, settings.architecture, earlier, quiet)
    load_initial_weights(network, settings.architecture, settings.weights)
    is_coco = settings.weights == "coco"
    return network, "coco" if is_coco else hash_weights(Path(settings.weights))


def _load_available_weights(network: Detector, architecture: str, earlier: str, quiet: bool) -> str:
    """Load weights of COCO into a detector if there are any, and return ``coco`` or ``random``."""
    if not network.has_coco_weights or earlier == "random":
        return "random"
    if earlier == "coco":
        network.freezes_norms = True  # the weights themselves are in the files of the training
        return "coco"
    try:
        load_initial_weights(network, architecture, "coco")
    except SettingsError as error:
        print_note(f"Note: {error} The training starts with random weights.", quiet)
        return "random"
    return "coco"


def _training_state(
    network: Detector, job: DetectionJob, settings: DetectTrainSettings
) -> TrainingState:
    """Return a detector on its device, with an optimizer."""
    network = network.to(job.device)
    rate = settings.learning_rate or usual_rate(network, settings)
    groups = _parameter_groups(network)
    optimizer = torch.optim.AdamW(groups, rate, weight_decay=WEIGHT_DECAY)
    return TrainingState.beginning(network, [optimizer], rate)


def _parameter_groups(network: Detector) -> list[dict[str, Any]]:
    """Return the trained parameters of backbone and heads, with their factors of the rate."""
    backbone_ids = {id(parameter) for parameter in network.backbone().parameters()}
    backbone = []
    heads = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in backbone_ids:
            backbone.append(parameter)
        else:
            heads.append(parameter)
    return [
        {"params": backbone, "part": network.backbone_rate_factor},
        {"params": heads, "part": 1.0},
    ]


def _update(
    state: TrainingState, batch: DetectionBatch, settings: DetectTrainSettings, device: torch.device
) -> tuple[float, ...]:
    """Do one update and return the loss.

    Precision is single: in half precision, matches of Deformable DETR are not valid numbers.
    """
    network = _as_detector(state.network).train()
    targets = []
    for corners, kind in zip(batch.corners, batch.kinds, strict=True):
        corners_tensor = torch.from_numpy(corners).to(device)
        targets.append(DetectionTarget(corners_tensor, torch.from_numpy(kind).to(device)))
    loss = network.loss(torch.from_numpy(batch.images).to(device), targets)
    update_weights(state, loss, settings, settings.max_grad_norm)
    return (float(loss.detach()),)


def _as_detector(network: torch.nn.Module) -> Detector:
    """Return a network that is known to be a detector as one."""
    if not isinstance(network, Detector):
        raise TypeError(f"{type(network).__name__} is no detector")
    return network


def _compare(
    network: torch.nn.Module, images: Sequence[TrainingImage], job: DetectionJob
) -> list[BoxComparison]:
    """Return the boxes that a detector finds in annotated images, with the annotated ones.

    Each image is a comparison of its own.
    """
    detector = _as_detector(network).eval()
    return [_compare_image(detector, image, job) for image in images]


def _compare_image(detector: Detector, image: TrainingImage, job: DetectionJob) -> BoxComparison:
    """Return the boxes that a detector finds in an annotated image, with the annotated ones."""
    structures = job.recipe.structures
    objects = _objects_in_image(detector, image, job)
    true_z = np.full(len(image.kind), image.z)
    truth = Boxes.from_arrays(structures, true_z, image.kind, image.corners)
    z = np.full(len(objects.kind), image.z)
    detected = Boxes.from_arrays(structures, z, objects.kind, objects.corners, objects.score)
    return BoxComparison(truth, detected, (image.z,))


def _objects_in_image(
    detector: Detector, image: TrainingImage, job: DetectionJob
) -> TileDetections:
    """Return the objects that a detector finds in an image with the usual settings."""
    settings = DetectSettings()
    shape = image.image.size_of(image.z)
    tiling = tiling_of(shape, job.recipe, image.image.voxel_size, settings.overlap)
    window = window_reader(image.image, image.z)
    return detect_in_image(
        window, tiling, detector, job.recipe, image.levels, settings.batch, job.device
    )


def _validation_ap50(
    network: torch.nn.Module, images: Sequence[TrainingImage], job: DetectionJob
) -> tuple[float, ...]:
    """Return the AP50 of each structure on validation images."""
    compared = _compare(network, images, job)
    return tuple(scores.ap50 for scores in box_scores(compared, job.recipe.structures))


def _finished_recipe(
    state: TrainingState,
    job: DetectionJob,
    record: Mapping[str, Any],
    settings: DetectTrainSettings,
) -> DetectorRecipe:
    """Return the recipe with calibrated scores; ``state.average`` gets the best weights."""
    training: dict[str, Any] = {"record": dict(record), "weights": "last"}
    for role in ImageRole:
        training[role.value] = [str(image_id) for image_id in job.ids_of(role)]
    used, trained = earlier_slices(settings)
    training["used_slices"] = sorted({*_used_slices(job), *used})
    training["trained_slices"] = sorted({*_trained_slices(job), *trained})
    recipe = job.recipe
    validation_images = job.images_of(ImageRole.VALIDATE)
    if not validation_images:
        return replace(recipe, training=training)
    load_state(state.average, state.best)
    compared = _compare(state.average, validation_images, job)
    scores = box_scores(compared, recipe.structures)
    ap50 = {score.structure: round(score.ap50, 4) for score in scores if score.n_truth}
    training["weights"] = "best" if ap50 else "last"
    training["validation_ap50"] = ap50
    return replace(
        recipe,
        confidence=_calibration_curves(compared, recipe.structures),
        counts_from={name: counting_threshold(compared, name) for name in recipe.structures},
        training=training,
    )


def _calibration_curves(
    compared: Sequence[BoxComparison], structures: Sequence[str]
) -> dict[str, Curve]:
    """Return the calibration of each structure of which enough boxes were found."""
    curves = {}
    for name in structures:
        curve = calibration_curve(compared, name)
        if curve is not None:
            curves[name] = curve
    return curves


def _trained_slices(job: DetectionJob) -> list[str]:
    """Return digests of the slices that the detector was trained on."""
    ids = job.ids_of(ImageRole.TRAIN)
    return [slice_digest(job.raw[image_id.sample], image_id.z) for image_id in ids]


def _used_slices(job: DetectionJob) -> list[str]:
    """Return digests of all slices that a score must leave out.

    Excluded slices are among them: they are near to those of the training.
    """
    digests = set()
    for image_id, role in job.roles.items():
        if role is not ImageRole.TEST:
            digests.add(slice_digest(job.raw[image_id.sample], image_id.z))
    return sorted(digests)
