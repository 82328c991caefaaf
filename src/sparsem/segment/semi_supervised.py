"""Learning from unlabeled slices too: cross pseudo supervision (Chen et al. 2021; thesis 3.3.3), and a mean teacher.

Two networks that begin with other weights each learn from the labeled tiles, and from what the other one makes of mixed tiles: of the
labeled slices, which hold the structure, and of slices that nobody labeled. What a network says counts as a mask (p > 0.5), without a
gradient, and where the truth is known the truth counts instead; all losses are soft Dice; boxes of one tile are put into another (CutMix,
French et al. 2020). With a mean teacher there is one network, and its running average says the masks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.models.architectures import default_width
from sparsem.models.checkpoint import Recipe
from sparsem.segment.losses import dice_loss
from sparsem.segment.sampling import Batch, Sampling, TileSampler
from sparsem.segment.supervised import (
    build_sampler,
    compute_logits,
    labeled_loss,
    start_network,
    validation_scorer,
)
from sparsem.segment.training_slices import TrainingSlice
from sparsem.training.augment import vary_intensity
from sparsem.training.loop import Progress, TrainingState, run_updates, update_weights
from sparsem.training.settings import TrainSettings

CLIP = 1.0  # largest norm of a gradient, if the settings do not say
AREA = (0.25, 0.5)  # part of a tile that a box covers
ASPECT = 2.0  # of a box, at most
SECOND_SEED = 7_919  # added to that of the first network: other weights


@dataclass
class JointTrainingState:
    """Networks that are trained together; one alone with a mean teacher.

    Attributes:
        members: their states.
    """

    members: list[TrainingState]

    @property
    def update(self) -> int:
        """Updates done."""
        return self.members[0].update

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""
        return {
            f"{n}.{name}": tensor
            for n, one in enumerate(self.members)
            for name, tensor in one.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Take up where a saved state left off."""
        for n, one in enumerate(self.members):
            own = {
                name.removeprefix(f"{n}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{n}.")
            }
            one.restore(own, {"update": about["update"], "best_scores": about["best_scores"][n:]})


class MixedBatch(NamedTuple):
    """What an update learns from.

    Attributes:
        labeled: images and targets.
        images: (B, K, S, S) labeled tiles that hold a structure and unlabeled ones, as the teachers see them.
        boxes: (B, 1, S, S) bool, where the tile before shows through.
        mixed: (B, K, S, S) the same with boxes in, and other gray levels, as the learners see them.
        truth: (B, C, S, S) uint8 of the mixed tiles: 0, 1, or 255 where nobody labeled.
    """

    labeled: Batch
    images: NDArray[np.float32]
    boxes: NDArray[np.bool_]
    mixed: NDArray[np.float32]
    truth: NDArray[np.uint8]


class Ramp(NamedTuple):
    """The weight of unlabeled slices: 0 up to the update ``first``, ``top`` from ``last`` on, and a straight line between."""

    first: float
    last: float
    top: float

    def at(self, update: int) -> float:
        """At an update."""
        if update >= self.last:
            return self.top
        return self.top * max(0.0, (update - self.first) / (self.last - self.first))


class MixedSampler:
    """Draws batches of labeled and mixed tiles; a batch is a function of seed and update.

    Args:
        learn: labeled slices.
        unlabeled: (K, y, x) of slices without labels, standardized.
        settings: of the training.
        min_foreground_px: pixels of a structure that a tile which must hold it has.
        ramp: where it is 0 no mixed tiles are drawn.
    """

    def __init__(
        self,
        learn: Sequence[TrainingSlice],
        unlabeled: Sequence[NDArray[np.float32]],
        settings: TrainSettings,
        min_foreground_px: float,
        ramp: Ramp,
    ) -> None:
        self._labeled = build_sampler(learn, settings, min_foreground_px)
        self._ramp, self._settings = ramp, settings
        known = (settings.batch + 1) // 2  # at least half of the tiles hold the structure
        how = Sampling(settings.input_px, known, 1.0, min_foreground_px, 0.0, settings.seed + 1)
        self._holding = TileSampler(
            [each.image for each in learn], [each.target for each in learn], how
        )
        blank = [
            np.full((len(learn[0].target), *image.shape[1:]), UNKNOWN, np.uint8)
            for image in unlabeled
        ]
        free = replace(
            how,
            batch=max(1, settings.batch - known),
            foreground_fraction=0.0,
            seed=settings.seed + 2,
        )
        self._unlabeled = TileSampler(unlabeled, blank, free)

    def batch(self, update: int) -> MixedBatch:
        """The ``update``-th batch."""
        labeled = self._labeled.batch(update)
        if self._ramp.at(update) == 0:
            return MixedBatch(labeled, *4 * [np.empty((0, 0, 0, 0))])  # type: ignore[arg-type]
        random = np.random.default_rng([self._settings.seed + 3, update])
        holding, free = self._holding.batch(update), self._unlabeled.batch(update)
        images, truth = np.concatenate([holding[0], free[0]]), np.concatenate([holding[1], free[1]])
        order = random.permutation(len(images))
        images, truth = images[order], truth[order]
        boxes = (
            draw_boxes(len(images), self._settings.input_px, random)
            if self._settings.cutmix
            else np.zeros((len(images), 1, 1, 1), bool)
        )
        mixed, truth = (
            np.where(boxes, np.roll(images, 1, axis=0), images),
            np.where(boxes, np.roll(truth, 1, axis=0), truth),
        )
        if self._settings.intensity_augmentation:
            mixed = np.stack(
                [
                    vary_intensity(one, random, self._settings.intensity_augmentation)
                    for one in mixed
                ]
            )
        return MixedBatch(labeled, images, boxes, mixed, truth)


def draw_boxes(count: int, edge: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """(count, 1, edge, edge) masks of a box each: a quarter to a half of the tile, at most twice as long as wide."""
    out = np.zeros((count, 1, edge, edge), bool)
    for box in out[:, 0]:
        area, aspect = (
            random.uniform(*AREA),
            np.exp(random.uniform(-np.log(ASPECT), np.log(ASPECT))),
        )
        height, width = (
            min(edge, max(1, round(edge * float(np.sqrt(part)))))
            for part in (area * aspect, area / aspect)
        )
        top, left = random.integers(edge - height + 1), random.integers(edge - width + 1)
        box[top : top + height, left : left + width] = True
    return out


def start_joint_networks(
    recipe: Recipe, settings: TrainSettings, device: torch.device
) -> JointTrainingState:
    """Fresh networks: two for cross pseudo supervision, one for a mean teacher."""
    first = start_network(recipe, settings, device)
    if settings.semi == "mean-teacher":
        return JointTrainingState([first])
    return JointTrainingState(
        [
            first,
            start_network(
                second_recipe(recipe, settings), settings, device, settings.seed + SECOND_SEED
            ),
        ]
    )


def second_recipe(recipe: Recipe, settings: TrainSettings) -> Recipe:
    """Of the second network, which may be of another architecture."""
    model = settings.second_architecture or recipe.architecture
    return replace(recipe, architecture=model, width=settings.width or default_width(model))


def fit_with_unlabeled(
    state: JointTrainingState,
    learn: Sequence[TrainingSlice],
    unlabeled: Sequence[NDArray[np.float32]],
    validate: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
    min_foreground_px: float,
) -> Iterator[Progress]:
    """As ``fit``, with slices that nobody labeled, (K, y, x) each, beside those to learn from."""
    first, last = (part * settings.updates for part in settings.ramp)
    ramp = Ramp(first, last, settings.unlabeled_weight)
    sampler = MixedSampler(learn, unlabeled, settings, min_foreground_px, ramp)

    def update(batch: MixedBatch) -> tuple[float, float]:
        return step_with_unlabeled(state, batch, ramp.at(state.update), settings, device)

    yield from run_updates(
        state,
        sampler.batch,
        update,
        validation_scorer(validate, settings, device),
        settings,
        settings.validate_every,
    )


def step_with_unlabeled(
    state: JointTrainingState,
    batch: MixedBatch,
    weight: float,
    settings: TrainSettings,
    device: torch.device,
) -> tuple[float, float]:
    """One update of every network; returns the loss and the soft Dice of the first on its labeled tiles."""
    masks = _masks(state, batch, settings, device) if weight else []
    mixed = torch.from_numpy(np.ascontiguousarray(batch.mixed)).to(device)
    told: list[tuple[float, float]] = []
    for number, one in enumerate(state.members):
        one.network.train()
        loss, dice = labeled_loss(one.network, batch.labeled, settings, device)
        if weight:
            teacher = masks[(number + 1) % len(masks)]  # of two networks the other one
            loss = loss + weight * dice_loss(
                compute_logits(one.network, mixed, settings).sigmoid(),
                teacher,
                settings.loss != "linear-dice",
            )
        update_weights(one, loss, settings, settings.max_grad_norm or CLIP)
        told.append((float(loss.detach()), 1 - float(dice.detach())))
    return told[0]


@torch.no_grad()
def _masks(
    state: JointTrainingState, batch: MixedBatch, settings: TrainSettings, device: torch.device
) -> list[Tensor]:
    """What each teacher says of the mixed tiles, (B, C, S, S) uint8: it sees the tiles unmixed, and its masks are mixed as they are.

    The truth, where it is known, knows better (EPFL, 3 labeled slices: see benchmarks).
    """
    images = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
    boxes, truth = (
        torch.from_numpy(batch.boxes).to(device),
        torch.from_numpy(batch.truth).to(device),
    )
    found = []
    for one in state.members:
        mask = (compute_logits(_teacher(one, settings), images, settings) > 0).to(torch.uint8)
        found.append(
            torch.where(truth == UNKNOWN, torch.where(boxes, mask.roll(1, 0), mask), truth)
        )
    return found


def _teacher(state: TrainingState, settings: TrainSettings) -> nn.Module:
    """The network itself, as it learns; or its running average."""
    return state.average.eval() if settings.semi == "mean-teacher" else state.network.train()
