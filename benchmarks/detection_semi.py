"""Boxes with one annotated image of axons: supervised, and with a mean teacher on the others.

    python benchmarks/detection_semi.py --detector retinanet-small --seeds 0 1 2
    python benchmarks/detection_semi.py --detector deformable-detr-small --updates 600

The moving average of the detector (the teacher) finds boxes in tiles of three images without
annotation; those with a score above a threshold are targets for the detector, which sees the tiles
with stronger changes of gray level (Unbiased Teacher, Liu et al. 2021). This begins after a third
of the updates. Seed n has the n-th of the three training images annotated. The test images are
those of detection.py. Rows are appended to benchmarks/results/detection_semi.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detection import HELD_OUT_AXONS, samples_of
from rows import save
from sparsem.detect.models.detector import DetectionTarget
from sparsem.detect.settings import DetectTrainSettings
from sparsem.detect.training.job import DetectionJob, detection_job
from sparsem.detect.training.splitting import ImageRole
from sparsem.detect.training.tiles import DetectionBatch, DetectionSampler, TrainingImage
from sparsem.detect.training.train import (
    _as_detector,
    _compare,
    _initial_network,
    _training_state,
)
from sparsem.score.boxes import box_scores
from sparsem.training.augment import vary_intensity
from sparsem.training.loop import TrainingState, run_updates, update_weights

MIN_SCORE = 0.5
BURN_IN = 1 / 3  # fraction of the updates before the teacher counts
STRONG_GRAY = 0.6  # strength of the gray-level augmentation of tiles without annotation


@dataclass(frozen=True)
class Pair:
    """Batches of one update.

    Attributes:
        update: number of the update.
        labeled: tiles of the annotated image.
        unlabeled: tiles of the other images, without boxes.
    """

    update: int
    labeled: DetectionBatch
    unlabeled: DetectionBatch


def without_boxes(image: TrainingImage) -> TrainingImage:
    """Return an image as if nobody had annotated it."""
    return image._replace(corners=image.corners[:0], kind=image.kind[:0])


def targets_of(batch: DetectionBatch) -> list[DetectionTarget]:
    """Return the annotated boxes of tiles as targets."""
    return [
        DetectionTarget(torch.from_numpy(corners), torch.from_numpy(kind))
        for corners, kind in zip(batch.corners, batch.kinds, strict=True)
    ]


def teacher_targets(state: TrainingState, batch: DetectionBatch) -> list[DetectionTarget]:
    """Return the boxes that the moving average finds in tiles, as targets."""
    with torch.no_grad():
        found = _as_detector(state.average).eval().detect(torch.from_numpy(batch.images))
    return [
        DetectionTarget(
            detections.corners[detections.score >= MIN_SCORE],
            detections.kind[detections.score >= MIN_SCORE],
        )
        for detections in found
    ]


def train(
    job: DetectionJob, settings: DetectTrainSettings, images: Sequence[TrainingImage], semi: bool
) -> TrainingState:
    """Train on the first image, and with ``semi`` on boxes of the teacher in the others."""
    network, _ = _initial_network(job, settings, "", True)
    state = _training_state(network, job, settings)
    of_labeled = DetectionSampler(
        images[:1],
        settings.input_px,
        settings.batch,
        settings.intensity_augmentation,
        settings.seed,
    )
    of_unlabeled = DetectionSampler(
        list(map(without_boxes, images[1:])), settings.input_px, settings.batch, 0, settings.seed
    )

    def step(pair: Pair) -> tuple[float, ...]:
        network = _as_detector(state.network).train()
        loss = network.loss(torch.from_numpy(pair.labeled.images), targets_of(pair.labeled))
        if semi and pair.update >= BURN_IN * settings.updates:
            targets = teacher_targets(state, pair.unlabeled)
            random = np.random.default_rng([settings.seed, pair.update, 1])
            tiles = [vary_intensity(tile, random, STRONG_GRAY) for tile in pair.unlabeled.images]
            loss = loss + network.loss(torch.from_numpy(np.stack(tiles)), targets)
        update_weights(state, loss, settings, settings.max_grad_norm)
        return (float(loss.detach()),)

    def draw(update: int) -> Pair:
        return Pair(update, of_labeled.draw(update), of_unlabeled.draw(update))

    for progress in run_updates(state, draw, step, None, settings, settings.updates):
        if progress.update % 50 == 0:
            print(f"{progress.update} updates, loss {progress.loss:.3f}", flush=True)
    return state


def main() -> None:
    """Train by both methods with every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", default="retinanet-small")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--input-px", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=["supervised", "mean-teacher"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        samples = samples_of("axon", Path(name))
        for seed in options.seeds:
            settings = DetectTrainSettings.model_validate(
                {
                    "architecture": options.detector,
                    "updates": options.updates,
                    "input_px": options.input_px,
                    "seed": seed,
                    "weights": "none",
                    "split": "none",
                    **HELD_OUT_AXONS,
                }
            )
            job = detection_job(samples, settings)
            training = job.images_of(ImageRole.TRAIN)
            first = seed % len(training)
            images = [training[first], *training[:first], *training[first + 1 :]]
            images += job.images_of(ImageRole.VALIDATE)
            for way in options.ways:
                start = time.perf_counter()
                state = train(job, settings, images, way == "mean-teacher")
                minutes = (time.perf_counter() - start) / 60
                compared = _compare(state.average, job.images_of(ImageRole.TEST), job)
                scores = box_scores(compared, job.recipe.structures)[0]
                row = {
                    "detector": options.detector,
                    "annotated_image": images[0].name,
                    "seed": seed,
                    "updates": options.updates,
                    "input_px": options.input_px,
                    "method": way,
                }
                numbers = {"map": scores.map, "ar": scores.ar, "ap50": scores.ap50}
                rounded = {key: f"{value:.3f}" for key, value in numbers.items()}
                save("detection_semi", row | rounded | {"minutes": f"{minutes:.1f}"})


if __name__ == "__main__":
    main()
