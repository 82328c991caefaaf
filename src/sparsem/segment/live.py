"""Training while somebody paints: rounds of a few updates that follow the annotation.

A window and the training are processes of their own. They speak through a folder of the sample:

    request.json       from the window: the slice to preview, and whether to run, pause or stop
    status.json        from the training: updates, losses, Dice of new slices, a message
    preview.npy        probability (y, x) uint8 of the requested slice, by the newest weights
    NAME.safetensors   the newest weights; the training starts from them if they exist

Whenever labels change, training continues with the weights that it has. A slice that is new is
predicted before it is trained on, so its Dice is one to expect on unlabeled slices.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import annotated_structures, annotation_names
from sparsem.errors import InputError, SampleError, SparsemError
from sparsem.models.checkpoint import Recipe, save_checkpoint
from sparsem.models.device import choose_device
from sparsem.segment.inference import make_forward, predict_slices, quantize_probability
from sparsem.segment.live_folder import HINT, LiveFolder, LiveStatus
from sparsem.segment.network_training import start_networks, training_updates
from sparsem.segment.settings import LiveSettings
from sparsem.segment.supervised import validation_dice
from sparsem.segment.training_job import TrainingJob, prepare_training
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.training.loop import TrainingState
from sparsem.training.settings import TrainSettings

Target = Literal["mask", "objects", "cells"]

POLL_S = 0.2  # pause between two looks for new labels


def train_live(
    sample: Sample,
    name: str,
    settings: LiveSettings | None = None,
    *,
    target: Target = "mask",
    **changes: Any,
) -> LiveStatus:
    """Train on an annotation while it is painted, until a stop is requested.

    See the module for the files. ``LiveFolder.of(sample, name).model`` holds the weights.

    Args:
        sample: sample with the annotation, or one that will have it.
        name: name of the structure, or of the annotation of cells.
        settings: network and training; the defaults if None.
        target: what the network learns: the mask of a structure; or its ``objects``, with the
            boundary between those that touch; or interior and boundary of touching ``cells``.
        changes: fields of the settings, by name.

    Raises:
        SettingsError: an unknown architecture, or a tile size that it does not accept.
        ResourceError: the memory is too small.
    """
    settings = resolve_settings(LiveSettings, settings, changes)
    return _LiveTraining(sample, name, settings, target).run()


class _LiveTraining:
    """The loop of a live training."""

    def __init__(self, sample: Sample, name: str, settings: LiveSettings, target: Target) -> None:
        self._sample = sample
        self._name = name
        self._folder = LiveFolder.of(sample, name)
        self._round_updates = settings.round_updates
        common = settings.model_dump(exclude={"round_updates"})
        outputs = {"mask": {"structures": (name,)}, "objects": {"objects": (name,)}}
        self._settings = TrainSettings(**{**common, **outputs.get(target, {"cells": name})})
        self._status = LiveStatus()
        self._job: TrainingJob | None = None
        self._state: TrainingState | None = None
        self._fingerprint = ""
        self._seen: set[str] = set()
        self._previewed = (-1, -1)

    def run(self) -> LiveStatus:
        """Run until a stop is requested."""
        while True:
            z, command = self._folder.requested()
            if command == "stop" or self._status.update >= self._settings.updates:
                self._show("stopped", "")
                return self._status
            if command == "pause":
                self._show("paused", "")
                time.sleep(POLL_S)
                continue
            self._follow_labels()
            if self._job is None:
                time.sleep(POLL_S)
                continue
            self._train_round()
            self._write_preview(z)
            self._show("training", "")

    def _show(self, state: str, message: str) -> None:
        if (state, message) != (self._status.state, self._status.message) or state == "training":
            self._status = replace(self._status, state=state, message=message)
            self._folder.write_status(self._status)

    def _follow_labels(self) -> None:
        """Read the labeled slices again if they changed."""
        fingerprint = self._annotation_fingerprint()
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            settings = self._next_settings()
            job = prepare_training([self._sample], self._folder.model, settings, overwrite=True)
        except (InputError, SampleError) as error:
            # Usually nothing of the structure is painted yet.
            is_empty = not annotated_structures(self._sample).get(self._name)
            self._show("waiting", HINT if is_empty else str(error))
            return
        if self._state is None:
            state = start_networks(job)
            if not isinstance(state, TrainingState):
                raise SparsemError("Live training takes no unlabeled slices; leave out --semi.")
            self._state = state
        self._score_new_slices(job)
        self._job = job
        slices = sorted({labeled.z for labeled in job.slices})
        self._status = replace(self._status, slices=slices)

    def _next_settings(self) -> TrainSettings:
        """Return the settings of the next job: it starts from the weights that exist."""
        if self._folder.model.exists():
            return changed(self._settings, {"from_model": str(self._folder.model)})
        return self._settings

    def _annotation_fingerprint(self) -> str:
        """Return the fingerprint of the annotation; empty if there is none yet."""
        holder = annotation_names(self._sample).get(self._name)
        if holder is None:
            return ""
        attributes = read_attributes(self._sample.path / "annotations" / holder)
        return str(attributes["sparsem"]["fingerprint"])

    def _score_new_slices(self, job: TrainingJob) -> None:
        """Record the Dice of slices that were not trained on before."""
        new = [labeled for labeled in job.slices if labeled.digest not in self._seen]
        self._seen |= {labeled.digest for labeled in job.slices}
        if self._state is None or not self._status.update:
            return
        for labeled in new:
            dice = validation_dice(self._state.average, [labeled], job.settings, job.device)
            if not math.isnan(dice[0]):
                self._status.dice.append((labeled.z, round(dice[0], 4)))

    def _train_round(self) -> None:
        """Do a few updates, and save the weights."""
        job, state = self._job, self._state
        if job is None or state is None:
            return
        target = state.update + self._round_updates
        settings = changed(job.settings, {"updates": target})
        round_job = replace(job, settings=settings)
        for progress in training_updates(round_job, state, job.slices, ()):
            self._status.losses.append(round(progress.loss, 5))
            self._status.update += 1
        recipe = self._recipe(job)
        save_checkpoint(self._folder.model, state.average, recipe)

    def _recipe(self, job: TrainingJob) -> Recipe:
        """Return the recipe of the newest weights, with the slices that they were trained on."""
        identities = [[labeled.z, labeled.digest] for labeled in job.slices]
        training = {
            "record": {"live": True, "updates": self._status.update},
            "trained_on": [labeled.name for labeled in job.slices],
            "held_out": [],
            "slices": {"trained": identities, "validated": []},
        }
        return replace(job.recipe, training=training)

    def _write_preview(self, z: int) -> None:
        """Predict the requested slice with the newest weights."""
        job, state = self._job, self._state
        if job is None or state is None or self._previewed == (z, self._status.update):
            return
        image = self._sample.image(self._settings.image)
        if not 0 <= z < image.shape[0]:
            return
        probability = _probability(image, z, state, job)
        self._folder.write_preview(quantize_probability(probability))
        self._previewed = (z, self._status.update)
        self._status = replace(self._status, preview=z, preview_update=self._status.update)


def _probability(image: Any, z: int, state: TrainingState, job: TrainingJob) -> NDArray[np.float32]:
    """Return what the preview of a slice shows (y, x).

    That is the probability of the structure; of objects, without the boundary between them; of
    cells, their boundary.
    """
    network = state.average.eval()
    device = choose_device(job.settings.device)
    forward = make_forward(network, device, job.settings.precision)
    halo = job.recipe.adjacent_slices
    first, stop = max(0, z - halo), min(image.shape[0], z + halo + 1)
    voxels = image.read(slice(first, stop))
    own_slice = slice(z - first, z - first + 1)
    factors = job.recipe.factors(image.voxel_size)
    slices = predict_slices(voxels, forward, job.recipe, factors, 0.25, 16, 0, own_slice)
    channels: Sequence[NDArray[np.float32]] = list(next(iter(slices)))
    if job.settings.cells is not None:
        return channels[-1]
    return np.minimum(channels[0], 1 - channels[-1]) if job.settings.objects else channels[0]
