"""Semi-supervised training: cross pseudo supervision (CPS), and a mean teacher.

With cross pseudo supervision (Chen et al. 2021; thesis 3.3.3), two networks with different initial
weights are each trained on labeled tiles, and on the predictions of the other network for mixed
tiles: tiles of the labeled slices, which contain the structure, and tiles of unlabeled slices. A
prediction counts as a mask (p > 0.5), without a gradient; where the ground truth is known it
replaces the prediction. All losses are soft Dice. A box of one tile is pasted into another one
(CutMix, French et al. 2020). With a mean teacher there is one network, and its moving average
predicts the masks.
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

DEFAULT_MAX_GRAD_NORM = 1.0  # maximum norm of a gradient, if the settings give none
BOX_AREA = (0.25, 0.5)  # fraction of a tile that a box covers
MAX_BOX_ASPECT = 2.0  # maximum ratio of the edges of a box
SECOND_SEED = 7_919  # added to the seed of the first network, for different initial weights


@dataclass
class JointTrainingState:
    """State of the networks that are trained together: two with CPS, one with a mean teacher.

    Attributes:
        members: the states of the networks.
    """

    members: list[TrainingState]

    @property
    def update(self) -> int:
        """Number of updates done."""
        return self.members[0].update

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of all networks under flat names."""
        tensors: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            for name, tensor in member.tensors().items():
                tensors[f"{number}.{name}"] = tensor
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Load a saved state; see ``TrainingState.restore``."""
        for number, member in enumerate(self.members):
            prefix = f"{number}."
            member_tensors = {}
            for name, tensor in tensors.items():
                if name.startswith(prefix):
                    member_tensors[name.removeprefix(prefix)] = tensor
            best_scores = about["best_scores"][number:]
            member_about = {"update": about["update"], "best_scores": best_scores}
            member.restore(member_tensors, member_about)


class MixedBatch(NamedTuple):
    """Labeled tiles and mixed tiles of one update.

    Attributes:
        labeled: images and targets of labeled tiles.
        images: (B, K, S, S) tiles of labeled slices that contain a structure, and of unlabeled
            slices, as the teachers see them.
        boxes: (B, 1, S, S) bool, where the previous tile of the batch is pasted in.
        mixed: (B, K, S, S) the same tiles with boxes pasted in and intensities varied, as the
            trained networks see them.
        truth: (B, C, S, S) uint8, ground truth of the mixed tiles: 0, 1, or 255 where it is not
            known.
    """

    labeled: Batch
    images: NDArray[np.float32]
    boxes: NDArray[np.bool_]
    mixed: NDArray[np.float32]
    truth: NDArray[np.uint8]


class Ramp(NamedTuple):
    """Weight of the unlabeled slices during a training.

    It is 0 up to the update ``first``, rises linearly, and is ``top`` from the update ``last`` on.
    """

    first: float
    last: float
    top: float

    def at(self, update: int) -> float:
        """Return the weight at an update."""
        if update >= self.last:
            return self.top
        return self.top * max(0.0, (update - self.first) / (self.last - self.first))


class MixedSampler:
    """Sampler of labeled and mixed tiles; a batch is a function of seed and update.

    Args:
        training: labeled slices.
        unlabeled: unlabeled slices (K, y, x), standardized.
        settings: settings of the training.
        min_foreground_px: minimum pixels of a structure in a tile that must contain it.
        ramp: weight of the unlabeled slices; while it is 0 no mixed tiles are drawn.
    """

    def __init__(
        self,
        training: Sequence[TrainingSlice],
        unlabeled: Sequence[NDArray[np.float32]],
        settings: TrainSettings,
        min_foreground_px: float,
        ramp: Ramp,
    ) -> None:
        self._labeled = build_sampler(training, settings, min_foreground_px)
        self._ramp = ramp
        self._settings = settings
        foreground_rules = _foreground_rules(settings, min_foreground_px)
        images = [labeled.image for labeled in training]
        targets = [labeled.target for labeled in training]
        self._foreground = TileSampler(images, targets, foreground_rules)
        unlabeled_rules = replace(
            foreground_rules,
            batch=max(1, settings.batch - foreground_rules.batch),
            foreground_fraction=0.0,
            seed=settings.seed + 2,
        )
        unknown_targets = _unknown_targets(unlabeled, len(training[0].target))
        self._unlabeled = TileSampler(unlabeled, unknown_targets, unlabeled_rules)

    def batch(self, update: int) -> MixedBatch:
        """Return the batch of an update."""
        settings = self._settings
        labeled = self._labeled.batch(update)
        if self._ramp.at(update) == 0:
            return MixedBatch(labeled, *4 * [np.empty((0, 0, 0, 0))])  # type: ignore[arg-type]
        random = np.random.default_rng([settings.seed + 3, update])
        images, truth = self._draw_unmixed(update, random)
        if settings.cutmix:
            boxes = draw_boxes(len(images), settings.input_px, random)
        else:
            boxes = np.zeros((len(images), 1, 1, 1), bool)
        mixed = _paste_boxes(images, boxes)
        truth = _paste_boxes(truth, boxes)
        if settings.intensity_augmentation:
            strength = settings.intensity_augmentation
            mixed = np.stack([vary_intensity(image, random, strength) for image in mixed])
        return MixedBatch(labeled, images, boxes, mixed, truth)

    def _draw_unmixed(self, update: int, random: np.random.Generator) -> Batch:
        """Draw the tiles to mix, of labeled and of unlabeled slices, in random order."""
        foreground_images, foreground_targets = self._foreground.batch(update)
        unlabeled_images, unlabeled_targets = self._unlabeled.batch(update)
        images = np.concatenate([foreground_images, unlabeled_images])
        truth = np.concatenate([foreground_targets, unlabeled_targets])
        order = random.permutation(len(images))
        return images[order], truth[order]


def _paste_boxes(tiles: NDArray[Any], boxes: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the tiles of a batch with boxes of the previous tile each."""
    return np.where(boxes, np.roll(tiles, 1, axis=0), tiles)


def _foreground_rules(settings: TrainSettings, min_foreground_px: float) -> Sampling:
    """Return how tiles of labeled slices, all with a structure, are drawn for mixed tiles."""
    return Sampling(
        tile=settings.input_px,
        batch=(settings.batch + 1) // 2,  # at least half of the tiles contain a structure
        foreground_fraction=1.0,
        min_foreground_px=min_foreground_px,
        intensity_augmentation=0.0,
        seed=settings.seed + 1,
    )


def _unknown_targets(
    images: Sequence[NDArray[np.float32]], n_structures: int
) -> list[NDArray[np.uint8]]:
    """Return targets (C, y, x) of images that are known nowhere."""
    shapes = [(n_structures, *image.shape[1:]) for image in images]
    return [np.full(shape, UNKNOWN, np.uint8) for shape in shapes]


def draw_boxes(count: int, edge: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Draw masks (count, 1, edge, edge) of one box each.

    A box covers a quarter to a half of the tile, and is at most twice as long as wide.
    """
    masks = np.zeros((count, 1, edge, edge), bool)
    for mask in masks[:, 0]:
        height, width = _draw_box_size(edge, random)
        top = random.integers(edge - height + 1)
        left = random.integers(edge - width + 1)
        mask[top : top + height, left : left + width] = True
    return masks


def _draw_box_size(edge: int, random: np.random.Generator) -> tuple[int, int]:
    """Draw height and width of a box."""
    max_log_aspect = np.log(MAX_BOX_ASPECT)
    area = random.uniform(*BOX_AREA)
    aspect = np.exp(random.uniform(-max_log_aspect, max_log_aspect))
    return _box_edge(area * aspect, edge), _box_edge(area / aspect, edge)


def _box_edge(squared_fraction: float, edge: int) -> int:
    """Return the edge of a box, px, from the square of its fraction of the tile's edge."""
    return min(edge, max(1, round(edge * float(np.sqrt(squared_fraction)))))


def start_joint_networks(
    recipe: Recipe, settings: TrainSettings, device: torch.device
) -> JointTrainingState:
    """Return the initial state of two networks for CPS, or of one for a mean teacher."""
    first = start_network(recipe, settings, device)
    if settings.semi == "mean-teacher":
        return JointTrainingState([first])
    recipe = second_recipe(recipe, settings)
    second = start_network(recipe, settings, device, settings.seed + SECOND_SEED)
    return JointTrainingState([first, second])


def second_recipe(recipe: Recipe, settings: TrainSettings) -> Recipe:
    """Return the recipe of the second network, which may have another architecture."""
    architecture = settings.second_architecture or recipe.architecture
    width = settings.width or default_width(architecture)
    return replace(recipe, architecture=architecture, width=width)


def fit_with_unlabeled(
    state: JointTrainingState,
    training: Sequence[TrainingSlice],
    unlabeled: Sequence[NDArray[np.float32]],
    validation: Sequence[TrainingSlice],
    settings: TrainSettings,
    device: torch.device,
    min_foreground_px: float,
) -> Iterator[Progress]:
    """Train as ``fit`` does, also on unlabeled slices (K, y, x)."""
    first, last = (fraction * settings.updates for fraction in settings.ramp)
    ramp = Ramp(first, last, settings.unlabeled_weight)
    sampler = MixedSampler(training, unlabeled, settings, min_foreground_px, ramp)

    def update(batch: MixedBatch) -> tuple[float, float]:
        return step_with_unlabeled(state, batch, ramp.at(state.update), settings, device)

    yield from run_updates(
        state,
        sampler.batch,
        update,
        validation_scorer(validation, settings, device),
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
    """Update the weights of every network once.

    Args:
        state: the networks; changed in place.
        batch: labeled and mixed tiles.
        weight: weight of the loss of the mixed tiles; with 0 they are not used.
        settings: settings of the training.
        device: device of the networks.

    Returns:
        The loss, and the soft Dice of the labeled tiles, of the first network.
    """
    masks = _teacher_masks(state, batch, settings, device) if weight else []
    mixed = torch.from_numpy(np.ascontiguousarray(batch.mixed)).to(device)
    results: list[tuple[float, float]] = []
    for number, member in enumerate(state.members):
        member.network.train()
        loss, dice = labeled_loss(member.network, batch.labeled, settings, device)
        if weight:
            teacher_mask = masks[(number + 1) % len(masks)]  # of two networks that of the other
            mixed_loss = _mixed_loss(member.network, mixed, teacher_mask, settings)
            loss = loss + weight * mixed_loss
        max_grad_norm = settings.max_grad_norm or DEFAULT_MAX_GRAD_NORM
        update_weights(member, loss, settings, max_grad_norm)
        results.append((float(loss.detach()), 1 - float(dice.detach())))
    return results[0]


def _mixed_loss(
    network: nn.Module, mixed: Tensor, teacher_mask: Tensor, settings: TrainSettings
) -> Tensor:
    """Return the Dice loss of mixed tiles against the masks of a teacher."""
    probability = compute_logits(network, mixed, settings).sigmoid()
    squared = settings.loss != "linear-dice"
    return dice_loss(probability, teacher_mask, squared)


@torch.no_grad()
def _teacher_masks(
    state: JointTrainingState, batch: MixedBatch, settings: TrainSettings, device: torch.device
) -> list[Tensor]:
    """Return the mask (B, C, S, S) uint8 of the mixed tiles by each teacher.

    A teacher sees the tiles before they are mixed, and its masks are mixed in the same way. Where
    the ground truth is known it replaces them, which is better (EPFL, 3 labeled slices: see
    benchmarks).
    """
    images = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
    boxes = torch.from_numpy(batch.boxes).to(device)
    truth = torch.from_numpy(batch.truth).to(device)
    masks = []
    for member in state.members:
        logits = compute_logits(_teacher(member, settings), images, settings)
        mask = (logits > 0).to(torch.uint8)
        mixed_mask = torch.where(boxes, mask.roll(1, 0), mask)
        masks.append(torch.where(truth == UNKNOWN, mixed_mask, truth))
    return masks


def _teacher(state: TrainingState, settings: TrainSettings) -> nn.Module:
    """Return the network that predicts the masks: itself in training mode, or its average."""
    return state.average.eval() if settings.semi == "mean-teacher" else state.network.train()
