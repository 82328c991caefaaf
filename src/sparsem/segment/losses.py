"""Losses: pure functions of tensors. Probabilities and targets are (B, C, H, W); targets are 0, 1 or 255 for not known."""

import torch
from torch import Tensor

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.score.overlap import dice_of_sums

SMOOTH = 1e-5  # of a similarity: of two empty tiles it is 1


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


def tanimoto_loss(probability: Tensor, target: Tensor, beside: Tensor | None = None) -> Tensor:
    """1 - Tanimoto similarity with its dual, of each tile and head, averaged (Diakogiannis et al. 2020).

    Args:
        probability: (B, k C, H, W): structures, and for networks with several heads their outlines and depths.
        target: (B, C, H, W).
        beside: (B, (k - 1) C, H, W) 0..1, what outlines and depths are; unknown where the structure is.
    """
    truth, known = known_pixels(target)
    truths = truth if beside is None else torch.cat([truth, beside], 1)
    heads, structures = truths.shape[1] // target.shape[1], target.shape[1]
    seen = known.repeat(1, heads, 1, 1)
    losses = []
    for head in range(heads):
        part = slice(head * structures, (head + 1) * structures)
        losses.append(1 - tanimoto_similarity(probability[:, part], truths[:, part], seen[:, part]))
    return torch.stack(losses).mean()


def tanimoto_similarity(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Tanimoto similarity with its dual over the known pixels of each tile (B,)."""
    over = (1, 2, 3)
    both = []
    for a, b in ((first, second), (1 - first, 1 - second)):
        a, b = (a * known).float(), (b * known).float()
        product = (a * b).sum(over)
        both.append((product + SMOOTH) / ((a * a).sum(over) + (b * b).sum(over) - product + SMOOTH))
    return 0.5 * (both[0] + both[1])
