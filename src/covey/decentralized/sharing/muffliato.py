"""Muffliato (Cyffers et al., 2022): noise on every model, then several averaging steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.full import Whole
from covey.decentralized.sharing.noised import Noised, Sent
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.decentralized.topology import Topology
from covey.decentralized.weights import mixing_of, second_eigenvalue
from covey.learning.mixture import Mixture
from covey.learning.noise import Noise, key_of
from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import Averaging, Mechanism
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param

if TYPE_CHECKING:
    import scipy.sparse as sp


class Muffliato(Noised):
    """Sends all neighbours the model under the same noise, which the node's own contribution has, too."""

    kind = "muffliato"
    accelerated: bool = param(
        "Whether averaging steps after the first are Chebyshev steps, which reach the mean sooner. They need a static "
        "topology.",
        default=False,
    )
    anticorrelated: bool = param(
        "Whether a round's noise is the difference between two draws, of which the earlier is subtracted again: over "
        "many rounds, noise adds up to little.",
        default=False,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._keys: dict[tuple[NodeId, int], bytes] = {}
        """The fresh keys of draws, by node and number."""

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        super().check_with(topology, aggregation)
        self._factor = 1.0
        if not self.accelerated or not topology.can_be_drawn():
            return
        if not topology.static:
            raise ConfigurationError(
                f"The 'accelerated' of {self.named()} must be false over a topology that changes, such as "
                f"{topology.title()}: Chebyshev steps need the eigenvalues of the weights. Got True instead."
            )
        gap = 1.0 - second_eigenvalue(mixing_of(self, topology, aggregation))
        self._factor = chebyshev(gap, self.named())

    def stated(self, stated: Mechanism, mixing: "sp.csr_array", sensitivity: float) -> Iterable[Mechanism]:
        rounds, multiplier = stated.releases, self.sigma / sensitivity
        # Sum over i, j of the inverse covariance of rounds with variance 1 and correlation -1/2 to the next.
        correlation = rounds * (rounds + 1) * (rounds + 2) / 6.0 if self.anticorrelated else None
        yield replace(stated, against="all who see all messages", multiplier=multiplier, correlation=correlation)
        if not self.anticorrelated:
            deviations = np.full(mixing.shape[0], self.sigma)
            averaging = Averaging(mixing, deviations, sensitivity, self.steps, self._factor)
            yield replace(stated, averaging=averaging)

    def noised(self, round: Round) -> Messages:
        model = round.node.model
        noise = self._drawn(round).mul_(self.sigma).to(model.device)
        round.node.keep(Sent, self).own = noised = noise.add_(model)
        return [(round.receivers, Whole(model=noised))]

    def _drawn(self, round: Round) -> Tensor:
        """Noise of standard deviation 1."""
        size = len(round.node.model)
        if not self.anticorrelated:
            return self.noise(round).normal(size)
        before, now = (Noise(self._key(round, round.t + later)).normal(size) for later in (0, 1))
        return now.sub_(before).mul_(math.sqrt(0.5))

    def _key(self, round: Round, number: int) -> bytes:
        """The key of a draw that two rounds use. Fresh ones are in memory only; after a crash, they are new."""
        if not self._fresh:
            return key_of(round.node, self.kind, number, fresh=False)
        id = round.node.id
        self._keys.pop((id, number - 2), None)
        return self._keys.setdefault((id, number), key_of(round.node, self.kind, number, fresh=True))

    def averaged(
        self, round: Round, before: Tensor, own: Tensor, contributions: Sequence[Contribution]
    ) -> Tensor | Mixture:
        merged = round.merge(own, contributions)
        if self._factor == 1.0 or not isinstance(merged, Mixture) or merged.models is None:
            return merged
        weights = [self._factor * weight for weight in merged.weights]
        return Mixture([*merged.models, before], [*weights, 1.0 - self._factor])


def chebyshev(gap: float, owner: str) -> float:
    """The factor c of the steps x <- c W x + (1 - c) x_before.

    Args:
        gap: 1 minus the second largest eigenvalue of W.
        owner: the sharing, for messages.

    Raises:
        ConfigurationError: the graph is not connected.
    """
    if gap < 1e-9:
        raise ConfigurationError(f"The 'accelerated' of {owner} needs a connected topology. Got True instead.")
    return 2.0 * (1.0 - math.sqrt(gap * (1.0 - gap / 4.0))) / (1.0 - gap / 2.0) ** 2
