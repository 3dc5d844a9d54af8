"""Zip-DL (Biswas et al., 2025): noise that cancels in the mean of all models.

Shapes: D neighbours of a node and itself, last.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.full import Whole
from covey.decentralized.sharing.noised import Noised, Sent
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.decentralized.topology import Topology
from covey.learning.noise import Noise
from covey.parts.errors import ConfigurationWarning
from covey.parts.mechanisms import Averaging, Mechanism

if TYPE_CHECKING:
    import scipy.sparse as sp


class ZipDL(Noised):
    """Sends each neighbour the model under other noise, whose sum, by the weights of merging, is zero.

    The node's own contribution has noise, too. With unequal weights, `sigma` is the least standard deviation of a
    node's messages.
    """

    kind = "zip-dl"
    needs_own_weight: ClassVar[bool] = True

    def noised(self, round: Round) -> Messages:
        node, receivers, weights = round.node, round.receivers, round.weights(round.node.id)
        weights_D = [weights[receiver] for receiver in receivers]
        weights_D.append(1.0 - sum(weights_D))
        noises = cancelling(self.noise(round), weights_D, self.sigma, len(node.model))
        for receiver in receivers:
            yield [receiver], Whole(model=node.model + next(noises).to(node.model.device))
        node.keep(Sent, self).own = node.model + next(noises).to(node.model.device)

    def stated(self, stated: Mechanism, mixing: "sp.csr_array", sensitivity: float) -> Iterable[Mechanism]:
        bases = [self.sigma * _base(_own_last(mixing, node)) for node in range(mixing.shape[0])]
        averaging = Averaging(mixing, np.array(bases), sensitivity, self.steps, cancels=True)
        rounds = stated.releases
        # Exact averaging forgets no change, so the models of round t are up to t trainings apart: the sum of t^2.
        found = replace(stated, averaging=averaging, correlation=rounds * (rounds + 1) * (2 * rounds + 1) / 6.0)
        return [replace(found, assumes=[*found.assumes, "all messages of a round arrive"])]

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        super().check_with(topology, aggregation)
        if self._losses and self.sigma and topology.can_be_drawn():
            graph = topology.at(0)
            weights_E = aggregation.of_edges(graph)
            assert weights_E is not None
            drift = self.sigma * weights_E.max(initial=0.0) / graph.n
            warnings.warn(
                f"The noise of {self.named()} cancels only if all messages of a round arrive in time, and the "
                f"experiment has {' and '.join(self._losses)}. Each message that does not moves the mean of all models "
                f"by noise of standard deviation {drift:.2g} on every number.",
                ConfigurationWarning,
                stacklevel=2,
            )


def cancelling(noise: Noise, weights_D: Sequence[float], sigma: float, size: int) -> Iterator[Tensor]:
    """Noises Z with sum of W Z = 0: Z_v = Y_v - S / (D W_v), where Y are independent and S is the sum of W Y.

    S is drawn first, and each Y given S and those before it. So two vectors are kept, whatever D is, and D - 1 others
    are drawn.

    Args:
        noise: the stream of normal numbers.
        weights_D: W, for the neighbours and for the node itself.
        sigma: the least standard deviation of the neighbours' noises.
        size: the numbers of a noise.
    """
    deviation = sigma * _base(weights_D)
    left_D = np.cumsum(np.square(weights_D)[::-1])[::-1].tolist()
    sum_ = noise.normal(size).mul_(deviation * math.sqrt(left_D[0]))
    rest = sum_.clone()  # The part of S that is not drawn yet.
    for weight, left in zip(weights_D[:-1], left_D, strict=False):
        drawn = noise.normal(size).mul_(deviation * math.sqrt(1.0 - weight * weight / left))
        drawn.add_(rest, alpha=weight / left)
        rest.sub_(drawn, alpha=weight)
        yield drawn.sub_(sum_, alpha=1.0 / (len(weights_D) * weight))
    yield rest.sub_(sum_, alpha=1.0 / len(weights_D)).div_(weights_D[-1])


def _base(weights_D: Sequence[float]) -> float:
    """The standard deviation of Y with which the least of the neighbours' noises has 1."""
    return 1.0 / min(deviations(weights_D)[:-1], default=1.0)


def _own_last(mixing: "sp.csr_array", node: int) -> list[float]:
    """The weights of a node's neighbours and of itself."""
    row = slice(*mixing.indptr[node : node + 2])
    own = mixing.indices[row] == node
    return [*mixing.data[row][~own].tolist(), *mixing.data[row][own].tolist()]


def deviations(weights_D: Sequence[float]) -> list[float]:
    """The standard deviation of each Z if that of each Y is 1."""
    weights, count = np.asarray(weights_D, np.float64), len(weights_D)
    others_D = (weights**2).sum() - weights**2
    found: list[float] = np.sqrt(((count - 1) / count) ** 2 + others_D / (count * weights) ** 2).tolist()
    return found
