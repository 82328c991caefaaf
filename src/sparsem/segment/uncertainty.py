"""Uncertainty of networks: the entropy of one, the disagreement of several."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.segment.tiles import Probability

MIN_PROBABILITY = 1e-9  # a probability is at least this before its logarithm is taken


class EnsemblePrediction(NamedTuple):
    """The prediction of one or several networks on a slice.

    Attributes:
        mean: mean probabilities (C, y, x) float32.
        uncertainty: (C, y, x) float32, bits: the mutual information of network and prediction,
            which is the entropy of the mean minus the mean of the entropies. It is large where
            the networks contradict each other (Houlsby et al. 2011). None for one network.
    """

    mean: Probability
    uncertainty: Probability | None


def combine_predictions(predictions: Iterable[Probability]) -> EnsemblePrediction:
    """Combine the probabilities (C, y, x) of several networks, which are read one by one.

    Raises:
        ValueError: there is no prediction.
    """
    remaining = iter(predictions)
    first = next(remaining, None)
    if first is None:
        raise ValueError("expected the prediction of at least one network")
    second = next(remaining, None)
    if second is None:
        return EnsemblePrediction(first, None)
    mean = first + second
    mean_entropy = entropy(first) + entropy(second)
    count = 2
    for probability in remaining:
        mean += probability
        mean_entropy += entropy(probability)
        count += 1
    mean *= np.float32(1 / count)
    mean_entropy *= np.float32(1 / count)
    return EnsemblePrediction(mean, np.maximum(entropy(mean) - mean_entropy, 0))


def entropy(probability: NDArray[Any]) -> NDArray[np.float32]:
    """Return the binary entropy in bits of probabilities in 0..1, of any shape."""
    values = np.ascontiguousarray(probability, np.float32)
    entropies: NDArray[np.float32] = _entropies(values.ravel())
    return entropies.reshape(values.shape)


@compiled()
def _entropies(values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty_like(values)
    for index, p in enumerate(values):
        no, yes = max(1.0 - p, MIN_PROBABILITY), max(float(p), MIN_PROBABILITY)
        out[index] = -(yes * np.log2(yes) + no * np.log2(no))
    return out
