"""Losses: pure functions of tensors. Probabilities and targets are (B, C, H, W); targets are 0, 1 or 255 for not known."""

import torch
from torch import Tensor

from sparsem.annotations import UNKNOWN
from sparsem.score.overlap import dice_of_sums


def known_pixels(target: Tensor) -> tuple[Tensor, Tensor]:
    """Truth 0 or 1 and whether it is known, both as floats (B, C, H, W)."""
    known = (target != UNKNOWN).float()
    return (target == 1).float(), known


def dice_loss(probability: Tensor, target: Tensor, squared: bool = True) -> Tensor:
    """1 - soft Dice of each structure over the whole batch, averaged over structures that are known anywhere in it.

    ``squared`` sums squares in the denominator, as equation 2 and the published code have it; else plain sums.
    """
    truth, known = known_pixels(target)
    probability, truth = probability * known, truth * known
    over = (0, 2, 3)
    predicted = (probability * probability if squared else probability).sum(over)
    dice = dice_of_sums((probability * truth).sum(over), predicted, truth.sum(over))  # (C,)
    annotated = (known.sum(over) > 0).float()
    mean: Tensor = (dice * annotated).sum() / annotated.sum().clamp(min=1)
    return 1 - mean


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, averaged over known pixels."""
    truth, known = known_pixels(target)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)
