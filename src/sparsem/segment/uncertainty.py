"""How unsure networks are: one by the entropy of its answer, several by how far they contradict each other."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.segment.tiles import Probability
from sparsem.workflow.compiled import compiled

UNCERTAINTY_SUFFIX = (
    "-uncertainty"  # behind the name of a structure: the volume of what networks uncertainty
)
LEAST = 1e-9  # a probability whose logarithm is taken is no nearer to 0


class EnsemblePrediction(NamedTuple):
    """What networks say of a slice together.

    Attributes:
        mean: (C, y, x) float32 probabilities.
        uncertainty: (C, y, x) float32, bits: the mutual information of network and answer, which is the entropy of the mean less the mean of
            the entropies (where networks contradict each other; Houlsby et al. 2011); None of one network.
    """

    mean: Probability
    uncertainty: Probability | None


def combine_predictions(answers: Iterable[Probability]) -> EnsemblePrediction:
    """The mean of several networks' probabilities (C, y, x), taken one by one, and how far they contradict each other.

    Raises:
        ValueError: there is no answer.
    """
    waiting = iter(answers)
    first, second = next(waiting, None), next(waiting, None)
    if first is None:
        raise ValueError("expected the answer of at least one network")
    if second is None:
        return EnsemblePrediction(first, None)
    mean, alone, count = first + second, entropy(first) + entropy(second), 2
    for one in waiting:
        mean += one
        alone += entropy(one)
        count += 1
    mean *= np.float32(1 / count)
    alone *= np.float32(1 / count)
    return EnsemblePrediction(mean, np.maximum(entropy(mean) - alone, 0))


def entropy(probability: NDArray[Any]) -> NDArray[np.float32]:
    """Binary entropy in bits of probabilities in 0..1, of any shape."""
    values = np.ascontiguousarray(probability, np.float32)
    entropies: NDArray[np.float32] = _entropies(values.ravel())
    return entropies.reshape(values.shape)


@compiled()
def _entropies(values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty_like(values)
    for place, p in enumerate(values):
        no, yes = max(1.0 - p, LEAST), max(float(p), LEAST)
        out[place] = -(yes * np.log2(yes) + no * np.log2(no))
    return out
