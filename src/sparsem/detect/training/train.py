"""Training a detector: annotated boxes of samples -> a .safetensors file. Resumable at any moment; see ``train_detector``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sparsem import __version__
from sparsem.boxes.geometry import Boxes, box_sizes, concatenate_boxes
from sparsem.boxes.tables import annotated_box_structures, read_annotated_boxes
from sparsem.detect.inference import (
    GrayStatistics,
    detect_in_image,
    sample_gray_statistics,
    tiling_of,
    window_reader,
)
from sparsem.detect.models.detector import DetectionTarget, Detector
from sparsem.detect.models.networks import build_detector, detector_class, load_initial_weights
from sparsem.detect.models.weights import hash_weights
from sparsem.detect.settings import DetectSettings, DetectTrainSettings
from sparsem.detect.training.calibration import calibration_curve, counting_threshold
from sparsem.detect.training.recipe import DetectorRecipe, read_detector, save_detector
from sparsem.detect.training.splitting import ImageId, ImageRole, named_images, split_images
from sparsem.detect.training.tiles import DetectionBatch, DetectionSampler, TrainingImage
from sparsem.errors import InputError, SampleError, SettingsError
from sparsem.models.checkpoint import load_state
from sparsem.models.device import choose_device, free_memory, keep_freed_memory
from sparsem.progress import tell
from sparsem.score.boxes import BoxComparison, box_scores
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.slice_use import slice_digest
from sparsem.store.volume import Volume
from sparsem.training.files import TrainingFiles
from sparsem.training.loop import TrainingState, run_updates, update_weights
from sparsem.workflow.execution import HERE, Execution, Needs

WITHOUT_EFFECT = {"checkpoint_every_s"}  # settings that change no weight
ENLARGED = 2.0  # times that a picture is enlarged at most for small objects
SMALL, LARGE = (
    10,
    95,
)  # percentiles of the objects' sizes that tell the scale: small ones must be seen, large ones must fit into a tile
FREE = 0.5  # of the queries that objects may take in the usual tile of the most crowded picture: others hold more
FITS = 0.6  # of a tile that a large object may take
LIBRARIES = 1_000_000_000  # bytes of torch and what it works with


@dataclass(frozen=True)
class DetectionJob:
    """A training that was looked at and may begin.

    Attributes:
        recipe: of the detector.
        roles: what each annotated picture is for.
        pictures: all of them, by place.
        raw: image of each sample as it came, by which its pictures are known again under another name.
        inputs: fingerprints of what was read.
        device: where.
    """

    recipe: DetectorRecipe
    roles: Mapping[ImageId, ImageRole]
    pictures: Mapping[ImageId, TrainingImage]
    raw: Mapping[str, Volume]
    inputs: Mapping[str, str]
    device: torch.device

    def of(self, role: ImageRole) -> list[TrainingImage]:
        """The pictures that are for something, in order."""
        return [
            self.pictures[place] for place in sorted(self.pictures) if self.roles[place] is role
        ]


def train_detector(
    samples: Sequence[Sample],
    out: str | Path,
    settings: DetectTrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> DetectorRecipe:
    """Train a detector on the annotated boxes of samples and write it to ``out``.

    An interrupted training goes on where it was when called again; the weights end the same, bit for bit on a CPU. With pictures held out
    for validation the best weights are kept, and what a score means is learnt from them: how probably a box is right, and from which
    score on boxes are counted. Beside ``out`` lies NAME.training.csv.

    Args:
        samples: with annotated boxes of every structure.
        out: the checkpoint to write.
        settings: what and how to learn.
        on: ``overwrite`` and ``quiet`` are used.

    Raises:
        SampleError: boxes are missing, or were drawn on an image that was replaced.
        InputError: no picture holds a box; ``out`` is no name.
        SettingsError: unknown detector, a tile that it cannot see, weights that cannot be had, nothing to hold out.
        ResumeError: ``out`` was, or is being, trained otherwise.
    """
    settings = resolve_settings(DetectTrainSettings, settings, changes)
    out = Path(out)
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"A detector is written as NAME.safetensors; got '{out}'.")
    job = detection_job(samples, settings)
    record = {
        "version": __version__,
        **job.inputs,
        **settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
    }
    record |= {"structure": list(job.recipe.structures), "device": job.device.type}
    files = TrainingFiles(out)
    trained = files.read_existing(read_detector, on.overwrite)
    # What ``auto`` meant when a training began is what it means when it goes on, whether there is a network now or not.
    begun = files.unfinished_record() or (trained.training.get("record", {}) if trained else {})
    network, record["begins with"] = _beginning(
        job, settings, str(begun.get("begins with", "")), on.quiet
    )
    if trained and files.is_finished(trained.training.get("record", {}), record, on.overwrite):
        return trained
    needs = _needs(job, settings)
    needs.check(out.resolve().parent if out.resolve().parent.is_dir() else Path.cwd())
    _tell_plan(job, needs, on.quiet)
    state = _start(network, job, settings)
    learn, validate = job.of(ImageRole.LEARN), job.of(ImageRole.VALIDATE)
    sampler = DetectionSampler(
        learn, settings.input_px, settings.batch, settings.intensity_augmentation, settings.seed
    )
    columns = [f"validation_ap50_{name}" for name in job.recipe.structures]
    with files.locked():
        files.restore(state, record, on.overwrite)
        scores = (lambda network: _validation_ap50(network, validate, job)) if validate else None
        course = run_updates(
            state,
            sampler.draw,
            lambda batch: _step(state, batch, settings, job.device),
            scores,
            settings,
            settings.validate_every,
        )
        files.run(
            course, state, record, settings, columns, lambda one: f"loss {one.loss:.3f}", on.quiet
        )
        recipe = _finished(state, job, record)
        save_detector(out, _as_detector(state.average).cpu(), recipe)
        files.state_path.unlink(missing_ok=True)
    return recipe


def detection_job(samples: Sequence[Sample], settings: DetectTrainSettings) -> DetectionJob:
    """Look at samples and settings: what is learnt from which pictures, and at which scale.

    Raises:
        What ``train_detector`` raises before it begins.
    """
    kind = detector_class(settings.architecture)
    if len({sample.name for sample in samples}) < len(samples):
        raise InputError(
            "Two samples of one name cannot be told apart in what is held out; rename one."
        )
    structures = settings.structure or _common(samples)
    inputs: dict[str, str] = {}
    drawn: dict[str, _Drawn] = {}
    for sample in samples:
        boxes, pictures, image, prints = _annotated(sample, structures, settings.image)
        inputs |= {f"input {sample.name}/{name}": one for name, one in prints.items()}
        drawn[sample.name] = _Drawn(
            sample.image(image), sample_gray_statistics(sample.image(image)), boxes, pictures
        )
    places = [ImageId(name, z) for name, one in drawn.items() for z in one.pictures]
    validation, test, leave = (
        named_images(places, getattr(settings, role), f"--{role}")
        for role in ("validation", "test", "exclude")
    )
    roles = split_images(places, settings.split, validation, test, leave, settings.seed)
    learnt = {place for place, role in roles.items() if role is ImageRole.LEARN}
    pixel = _pixel_nm(drawn, learnt, settings, kind.smallest)
    recipe = DetectorRecipe(
        settings.architecture, structures, settings.input_px, pixel, settings.queries
    )
    pictures_of = {}
    for place in places:
        one = drawn[place.sample]
        own, edge = one.boxes.of_image(place.z), recipe.edge(one.image.voxel_size)
        pictures_of[place] = TrainingImage(
            str(place), one.image, place.z, own.corners, own.kind.astype(np.int64), one.levels, edge
        )
    if not any(len(pictures_of[place].kind) for place in learnt):
        raise InputError("No picture to learn from holds a box; annotate some, or hold others out.")
    build_detector(
        settings.architecture, 1, settings.input_px, 10
    )  # what it cannot see is told before anything is read
    raw = {sample.name: sample.image("raw") for sample in samples}
    return DetectionJob(recipe, roles, pictures_of, raw, inputs, choose_device(settings.device))


class _Drawn(NamedTuple):
    """What somebody drew in a sample: the ``image`` and its gray ``levels``, ``boxes``, and the ``pictures`` that were looked at."""

    image: Volume
    levels: GrayStatistics
    boxes: Boxes
    pictures: list[int]


def _common(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Structures that have boxes in every sample."""
    names = [annotated_box_structures(sample) for sample in samples]
    found = tuple(name for name in names[0] if all(name in own for own in names))
    if not found:
        raise SampleError(
            f"No structure has annotated boxes in {' and '.join(sample.path.name for sample in samples[:3])}; bring some in with "
            f"'sparsem detect import {samples[0].path.name} --source BOXES'."
        )
    return found


def _annotated(
    sample: Sample, structures: Sequence[str], wanted: str | None
) -> tuple[Boxes, list[int], str, dict[str, str]]:
    """Boxes of all structures, the pictures where all of them were looked for, the image to learn from, and fingerprints."""
    kept = {name: read_annotated_boxes(sample, name) for name in structures}
    images = {one.image for one in kept.values()}
    drawn_on = next(iter(images))
    image = wanted or (
        sample.newest_image
        if sample.drawn_on(sample.newest_image) == sample.drawn_on(drawn_on)
        else drawn_on
    )
    if len(images) > 1 or sample.drawn_on(image) != sample.drawn_on(drawn_on):
        raise SampleError(
            f"Boxes in {sample.path.name} were drawn on {' and '.join(sorted(images))}, whose pixels lie elsewhere than those of "
            f"'{image}'; take --image of them, or draw all on one."
        )
    pictures = sorted(set.intersection(*(set(one.pictures) for one in kept.values())))
    prints = {name: one.fingerprint for name, one in kept.items()} | {
        f"image {image}": sample.image(image).fingerprint
    }
    return concatenate_boxes([one.boxes for one in kept.values()]), pictures, image, prints


def _pixel_nm(
    drawn: Mapping[str, _Drawn],
    learnt: set[ImageId],
    settings: DetectTrainSettings,
    smallest: float,
) -> tuple[float, float]:
    """(y, x) nm of a pixel as the detector sees it: of the first sample's aspect, so that most objects are of a size that it finds well."""
    first = next(iter(drawn.values())).image.voxel_size
    if settings.context_px is not None:
        return (
            first.y * settings.context_px / settings.input_px,
            first.x * settings.context_px / settings.input_px,
        )
    lengths, finest = [], []
    for name, one in drawn.items():
        own = one.boxes[np.isin(one.boxes.z, [place.z for place in learnt if place.sample == name])]
        voxel = one.image.voxel_size
        lengths.append(box_sizes(own.corners) * np.array([voxel.x, voxel.y]))
        finest.append(float(np.sqrt(voxel.y * voxel.x)))
    every = np.concatenate(lengths)
    if not len(every):
        raise InputError("No picture to learn from holds a box; annotate some, or hold others out.")
    for_small = float(np.percentile(np.sqrt(every.prod(axis=1)), SMALL)) / smallest
    for_large = float(np.percentile(every.max(axis=1), LARGE)) / (FITS * settings.input_px)
    pixel = max(for_small, for_large, min(finest) / ENLARGED)
    return pixel * first.y / float(np.sqrt(first.y * first.x)), pixel * first.x / float(
        np.sqrt(first.y * first.x)
    )


def _needs(job: DetectionJob, settings: DetectTrainSettings) -> Needs:
    """Memory of a training: the weights with their average, gradient and two moments, and what is kept of a batch."""
    kind = detector_class(settings.architecture)
    with torch.device("meta"):
        weights = sum(one.numel() * one.element_size() for one in job.recipe.build().parameters())
    batch = settings.batch * kind.learning_bytes * settings.input_px**2
    smaller = "use a smaller --batch or --input-px, or a smaller --architecture"
    if job.device.type == "cuda":
        return Needs(
            LIBRARIES, 0, smaller, gpu=5 * weights + batch, gpu_free=free_memory(job.device)
        )
    return Needs(LIBRARIES + 5 * weights + batch, 0, smaller)


def _tell_plan(job: DetectionJob, needs: Needs, quiet: bool) -> None:
    """What is learnt from what, for people."""
    learn, counts = (
        job.of(ImageRole.LEARN),
        [
            sum(role is one for role in job.roles.values())
            for one in (ImageRole.VALIDATE, ImageRole.TEST)
        ],
    )
    boxes = sum(len(one.kind) for one in learn)
    edge = " x ".join(str(one) for one in dict.fromkeys(learn[0].edge))
    tell(
        f"{job.recipe.detector} learns {', '.join(job.recipe.structures)} from {boxes} boxes in {len(learn)} pictures; {counts[0]} are "
        f"held out for validation and {counts[1]} for the test. A tile of {edge} px is seen at {job.recipe.see} px.",
        quiet,
    )
    tell(f"It {needs}", quiet)
    crowd = max(
        len(one.kind) * min(1.0, math.prod(one.edge) / math.prod(one.image.size_of(one.z)))
        for one in learn
    )
    if detector_class(job.recipe.detector).asks and crowd > job.recipe.queries * FREE:
        tell(
            f"Note: about {crowd:.0f} objects lie in a tile, and {job.recipe.queries} --queries find as many at most; ask for more.",
            quiet,
        )


def _beginning(
    job: DetectionJob, settings: DetectTrainSettings, before: str, quiet: bool
) -> tuple[Detector, str]:
    """A fresh detector, the same for the same seed, and what it begins with: ``random``, ``coco``, or a hash of the weights given."""
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = job.recipe.build()
    if settings.weights == "none" or (
        settings.weights == "auto" and (not network.has_coco or before == "random")
    ):
        return network, "random"
    if settings.weights == "auto" and before == "coco":
        network.keeps_norms = True  # the weights themselves lie in what was saved
        return network, "coco"
    if settings.weights == "auto":
        try:
            load_initial_weights(network, settings.architecture, "coco")
        except SettingsError as error:
            tell(f"Note: {error} It begins with random weights.", quiet)
            return network, "random"
        return network, "coco"
    load_initial_weights(network, settings.architecture, settings.weights)
    return network, "coco" if settings.weights == "coco" else hash_weights(Path(settings.weights))


def _start(network: Detector, job: DetectionJob, settings: DetectTrainSettings) -> TrainingState:
    """A detector on its device, with an optimizer."""
    network = network.to(job.device)
    rate = settings.learning_rate or network.usual_rate
    looks = {id(parameter) for parameter in network.backbone().parameters()}
    groups = [
        {
            "params": [
                one
                for one in network.parameters()
                if one.requires_grad and (id(one) in looks) is own
            ],
            "part": part,
        }
        for own, part in ((True, network.backbone_part), (False, 1.0))
    ]
    return TrainingState.beginning(
        network, torch.optim.AdamW(groups, rate, weight_decay=1e-4), rate
    )


def _step(
    state: TrainingState, batch: DetectionBatch, settings: DetectTrainSettings, device: torch.device
) -> tuple[float, ...]:
    """One update; returns the loss. In single precision: in half of it matches of Deformable DETR are not valid numbers."""
    network = _as_detector(state.network).train()
    targets = [
        DetectionTarget(torch.from_numpy(corners).to(device), torch.from_numpy(kind).to(device))
        for corners, kind in zip(batch.corners, batch.kinds, strict=True)
    ]
    loss = network.loss(torch.from_numpy(batch.images).to(device), targets)
    update_weights(state, loss, settings, settings.max_grad_norm)
    return (float(loss.detach()),)


def _as_detector(network: torch.nn.Module) -> Detector:
    if not isinstance(network, Detector):
        raise TypeError(f"{type(network).__name__} is no detector")
    return network


def _compared(
    network: torch.nn.Module, pictures: Sequence[TrainingImage], job: DetectionJob
) -> list[BoxComparison]:
    """What a detector finds in annotated pictures, beside what is there; every picture by itself."""
    detector, overlap, out = _as_detector(network).eval(), float(DetectSettings().overlap), []
    for one in pictures:
        slicing = tiling_of(one.image.size_of(one.z), job.recipe, one.image.voxel_size, overlap)
        batch = int(DetectSettings().batch)
        found = detect_in_image(
            window_reader(one.image, one.z),
            slicing,
            detector,
            job.recipe,
            one.levels,
            batch,
            job.device,
        )
        names = job.recipe.structures
        truth = Boxes.from_arrays(names, np.full(len(one.kind), one.z), one.kind, one.corners)
        said = Boxes.from_arrays(
            names, np.full(len(found.kind), one.z), found.kind, found.corners, found.score
        )
        out.append(BoxComparison(truth, said, (one.z,)))
    return out


def _validation_ap50(
    network: torch.nn.Module, validate: Sequence[TrainingImage], job: DetectionJob
) -> tuple[float, ...]:
    return tuple(
        one.ap50 for one in box_scores(_compared(network, validate, job), job.recipe.structures)
    )


def _finished(state: TrainingState, job: DetectionJob, record: Mapping[str, Any]) -> DetectorRecipe:
    """The recipe with what held-out pictures tell; the network's average then has the best weights."""
    validate = job.of(ImageRole.VALIDATE)
    about: dict[str, Any] = {"record": dict(record), "weights": "last"}
    about |= {
        role.value: [str(place) for place in sorted(job.roles) if job.roles[place] is role]
        for role in ImageRole
    }
    touched = [
        place for place in sorted(job.roles) if job.roles[place] is not ImageRole.TEST
    ]  # what is left out is near to them
    about["seen"] = sorted({slice_digest(job.raw[place.sample], place.z) for place in touched})
    recipe = job.recipe
    if validate:
        load_state(state.average, state.best)
        compared = _compared(state.average, validate, job)
        scores = box_scores(compared, recipe.structures)
        known = {one.name: round(one.ap50, 4) for one in scores if one.truth}
        about |= {"weights": "best" if known else "last", "validation ap50": known}
        recipe = replace(
            recipe,
            confidence={
                name: curve
                for name in recipe.structures
                if (curve := calibration_curve(compared, name)) is not None
            },
            counts_from={name: counting_threshold(compared, name) for name in recipe.structures},
        )
    return replace(recipe, training=about)
