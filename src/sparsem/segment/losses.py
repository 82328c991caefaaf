"""Losses: pure functions of tensors.

Probabilities and targets are (B, C, H, W); targets are 0, 1, or 255 where they are not known.
"""

import torch
from torch import Tensor

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.score.overlap import dice_of_sums

SMOOTH = 1e-5  # added above and below in a similarity: that of two empty tiles is 1


def known_pixels(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ground truth (0 or 1) and where it is known, both as floats (B, C, H, W)."""
    known = (target != UNKNOWN).float()
    return (target == 1).float(), known


def dice_loss(probability: Tensor, target: Tensor, squared: bool = True) -> Tensor:
    """Return 1 - soft Dice over the whole batch.

    The Dice is averaged over the structures that are known anywhere in the batch.

    Args:
        probability: (B, C, H, W).
        target: (B, C, H, W).
        squared: sum squares in the denominator, as in equation 2 and the published code; else
            sum the probabilities themselves.
    """
    truth, known = known_pixels(target)
    probability = probability * known
    truth = truth * known
    axes = (0, 2, 3)
    predicted = (probability * probability if squared else probability).sum(axes)
    dice = dice_of_sums((probability * truth).sum(axes), predicted, truth.sum(axes))  # (C,)
    is_annotated = (known.sum(axes) > 0).float()
    mean: Tensor = (dice * is_annotated).sum() / is_annotated.sum().clamp(min=1)
    return 1 - mean


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross entropy, averaged over the known pixels."""
    truth, known = known_pixels(target)
    entropies = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, truth, reduction="none"
    )
    return (entropies * known).sum() / known.sum().clamp(min=1)


def tanimoto_loss(
    probability: Tensor, target: Tensor, head_targets: Tensor | None = None
) -> Tensor:
    """Return 1 - Tanimoto similarity with its dual (Diakogiannis et al. 2020).

    The similarity is that of each tile and head, averaged.

    Args:
        probability: (B, k C, H, W): structures, and for networks with several heads their
            outlines and distances.
        target: (B, C, H, W).
        head_targets: (B, (k - 1) C, H, W) in 0..1, targets of outlines and distances; not known
            where the structure is not known.
    """
    truth, known = known_pixels(target)
    truth_of_heads = truth if head_targets is None else torch.cat([truth, head_targets], 1)
    n_structures = target.shape[1]
    n_heads = truth_of_heads.shape[1] // n_structures
    known_of_heads = known.repeat(1, n_heads, 1, 1)
    losses = []
    for head in range(n_heads):
        channels = slice(head * n_structures, (head + 1) * n_structures)
        similarity = tanimoto_similarity(
            probability[:, channels], truth_of_heads[:, channels], known_of_heads[:, channels]
        )
        losses.append(1 - similarity)
    return torch.stack(losses).mean()


def tanimoto_similarity(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Return the Tanimoto similarity (B,) with its dual over the known pixels of each tile."""
    # The order of operations decides the last bits of gradients: complements come first.
    first_complement = 1 - first
    second_complement = 1 - second
    similarity = _one_sided_tanimoto(first, second, known)
    dual = _one_sided_tanimoto(first_complement, second_complement, known)
    return 0.5 * (similarity + dual)


def _one_sided_tanimoto(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Return the Tanimoto similarity (B,) without its dual."""
    axes = (1, 2, 3)
    first = (first * known).float()
    second = (second * known).float()
    product = (first * second).sum(axes)
    numerator = product + SMOOTH
    squares = (first * first).sum(axes) + (second * second).sum(axes)
    return numerator / (squares - product + SMOOTH)
