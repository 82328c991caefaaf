"""How much memory a training takes, of any network: found by a forward pass on tensors that have a shape and no content."""

import torch
from torch import Tensor

from sparsem.models.checkpoint import Recipe
from sparsem.models.device import Precision, autocast

COPIES = 5  # of the weights in float32: themselves, their gradient, their running average, and two moments of Adam
BESIDE = 2.0  # the peak over what is kept for the backward pass: gradients on their way, and what convolutions work with


def training_bytes(recipe: Recipe, batch: int, device: torch.device, precision: Precision) -> int:
    """Bytes at the peak of an update: weights and what belongs to them, and what a network keeps of a batch until its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.device("meta"):
        network = recipe.build().train()
        images = torch.empty(batch, 1 + 2 * recipe.neighbours, recipe.see, recipe.see)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, precision):
        logits = network(images)
    own = sum(parameter.numel() * 4 * COPIES for parameter in network.parameters())
    features = sum(size for storage, size in kept.items() if storage not in weights)
    return int(own + BESIDE * (features + logits.numel() * 4 * 4))
