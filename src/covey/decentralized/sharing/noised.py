"""Sharings that add noise to the shared part of a model, and then average it once or several times in a round."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.full import Whole
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.topology import Topology
from covey.decentralized.weights import check_symmetric, mixing_of
from covey.learning.mixture import Mixture, computed
from covey.learning.noise import Noise, key_of
from covey.learning.views import Adversary, Arrived, View
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import NOT_REPEATED, Mechanism
from covey.parts.parameters import Setting, param
from covey.parts.seeds import Seeds, is_fresh, seeds
from covey.runtime.node import Inbox
from covey.runtime.state import State

if TYPE_CHECKING:
    import scipy.sparse as sp

_LEAST = 1e-6
"""The least weight of a node's own model."""


class Sent(State):
    """The noised model of a node."""

    own: Tensor
    """The node's own contribution to its merged model, until it is merged."""


class Noised(Sharing):
    """Sends whole models with noise. Weights must be symmetric and doubly stochastic, so that merging keeps the mean.

    The noise is on the trained numbers. Buffers are sent beside them as they are.
    """

    content = Whole
    needs_own_weight: ClassVar[bool] = False
    """Whether every node must give its own model some weight."""
    sigma: float = param(
        "The standard deviation of the noise on each number of a message, in the unit of the model's numbers.", ge=0
    )
    steps: int = param(
        "The number of averaging steps in a round. Only the models of the first have noise of their own.",
        default=1,
        ge=1,
        le=1000,
    )
    seeds: Seeds = seeds()
    delta: float = param("The probability with which the stated epsilon may fail.", default=1e-5, gt=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.several = self.steps > 1  # type: ignore[misc]

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._losses = [*setting.losses, *(["a 'patience'"] if setting.patient else [])]

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._fresh = is_fresh(self.seeds, setting.clock)
        self._checked: Graph | None = None

    def beside(self, of: str) -> Sharing:
        raise ConfigurationError(
            f"{self.named().capitalize()} adds noise to models only, and {of} are sent, too. Use the program gossip."
        )

    # ------------------------------------------------------------------ accounting

    def mechanisms(self, setting: Setting) -> Iterable[Mechanism]:
        topology, aggregation = self._on
        stated = Mechanism(
            part=self.named(),
            protects="all samples of a node",
            against="any one node",
            delta=self.delta,
            releases=setting.rounds,
        )
        if setting.largest_update is None:
            why = "the change of a training has no bound: set the 'clip' of the task, and use the optimizer sgd"
            return [replace(stated, why_not=why)]
        if not self.sigma:
            return [replace(stated, why_not="there is no noise")]
        mixing = mixing_of(self, topology, aggregation)
        assumes = [
            NOT_REPEATED if self._fresh else "the keys of the noise are fresh, which they are not in this run",
            *(["buffers, which are sent as they are, tell nothing"] if self.selection.buffered else []),
            *([] if topology.static else ["all rounds have a graph like the first"]),
        ]
        return self.stated(replace(stated, assumes=assumes), mixing, 2.0 * setting.largest_update)

    def stated(self, stated: Mechanism, mixing: "sp.csr_array", sensitivity: float) -> Iterable[Mechanism]:
        """The mechanisms of bounded updates.

        Args:
            stated: the statement without noise.
            mixing: the weights, N x N.
            sensitivity: the largest distance between two models of a node that differ by its data.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ weights

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        self._on = topology, aggregation
        if topology.can_be_drawn():
            self.check_weights(topology, aggregation, 0)

    def check_weights(self, topology: Topology, aggregation: Aggregation, t: int) -> None:
        """Raise ConfigurationError if the weights of a round are not symmetric and doubly stochastic."""
        graph, matrix = topology.at(t), check_symmetric(self, topology, aggregation, t)
        own_N, weights_E = matrix.diagonal(), aggregation.of_edges(graph)
        assert weights_E is not None
        if weights_E.min(initial=1.0) <= 0.0:
            raise ConfigurationError(
                f"The weights of {self.named()} must be above 0 on every edge. Got {weights_E.min():.4g} instead."
            )
        if self.needs_own_weight and own_N.min() < _LEAST:
            raise ConfigurationError(
                f"The weights of {self.named()} must be above 0 on a node's own model. Got {own_N.min():.4g} at node "
                f"{own_N.argmin()} instead. Use aggregation 'metropolis-hastings'."
            )
        alone = np.flatnonzero(graph.in_degrees == 0)
        if topology.static and len(alone):
            raise ConfigurationError(
                f"{self.named().capitalize()} needs a neighbour of every node, and node {alone[0]} has none. Use a "
                f"connected topology."
            )

    # ------------------------------------------------------------------ a round

    async def send(self, round: Round) -> None:
        if not round.topology.static and self._checked is not round.graph:
            self.check_weights(round.topology, round.aggregation, round.t)
            self._checked = round.graph
        with round.node.measured("encoding"):
            # One by one: noise differs by receiver, and the models of all would take as much memory as there are.
            for receivers, payload in self.outgoing(round):
                round.send(receivers, payload)

    def outgoing(self, round: Round) -> Messages:
        if self.sigma:
            return self.noised(round)
        model = round.node.model
        round.node.keep(Sent, self).own = model
        return [(round.receivers, Whole(model=model))]

    def noised(self, round: Round) -> Messages:
        """The messages with noise. The state `Sent` gets the node's own contribution."""
        raise NotImplementedError

    def noise(self, round: Round) -> Noise:
        """The stream of a node's noise in a round."""
        return Noise(key_of(round.node, self.kind, round.t, fresh=self._fresh))

    def contribution(self, message: Whole) -> Contribution:
        return Contribution(message.sender, message.model)

    async def receive(self, round: Round) -> Tensor | Mixture:
        before = round.node.keep(Sent, self).own
        merged = await super().receive(round)
        for step in range(1, self.steps):
            own, tag = computed(merged), f"{self.kind} {step}"
            round.send(round.receivers, Whole(model=own), tag)
            inbox = await round.receive(tag)
            with round.node.measured("mixing"):
                merged = self.averaged(round, before, own, self.contributions(round, inbox))
            before = own
        return merged

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        sent = round.node.keep(Sent, self)
        own = sent.own
        del sent.own
        return round.merge(own, self.contributions(round, inbox))

    def averaged(
        self, round: Round, before: Tensor, own: Tensor, contributions: Sequence[Contribution]
    ) -> Tensor | Mixture:
        """The result of an averaging step after the first.

        Args:
            before: the node's model before the last step.
            own: its model before this step.
        """
        return round.merge(own, contributions)

    # ------------------------------------------------------------------ attacks

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        later = {f"{self.kind} {step}" for step in range(1, self.steps)}
        # Models before later steps tell of their senders, too.
        alike = (message.renamed("") if message.tag in later else message for message in messages)
        return super().views(adversary, topology, aggregation, alike)
