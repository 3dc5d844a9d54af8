"""Averages: the merged model is a linear combination of the own one and those that arrived."""

from collections.abc import Sequence
from typing import ClassVar

from covey.aggregation.aggregation import Aggregation
from covey.errors import ConfigurationError
from covey.node import Mixture, Node
from covey.sharing import Contribution
from covey.topology import Graph, Topology


class Mean(Aggregation):
    """Equal weights on the own model and on every one that arrived; keeps the network's mean in expectation."""

    kind = "mean"

    def merge(self, node: Node, graph: Graph, contributions: Sequence[Contribution]) -> Mixture:
        models = [node.model, *[arrived.values for arrived in contributions]]
        return Mixture(models, [1.0 / len(models)] * len(models))


class _Weighted(Aggregation):
    """A weight for each neighbour; what is missing to 1, that of absent neighbours included, is the node's own."""

    kind: ClassVar[str] = ""

    def weights(self, node: Node, graph: Graph) -> Sequence[float]:
        raise NotImplementedError

    def merge(self, node: Node, graph: Graph, contributions: Sequence[Contribution]) -> Mixture:
        senders, weights = graph.senders(node.id), self.weights(node, graph)
        if len(contributions) < len(senders):
            weight_of = dict(zip(senders, weights, strict=True))
            weights = [weight_of[arrived.sender] for arrived in contributions]
        models = [node.model, *[arrived.values for arrived in contributions]]
        return Mixture(models, [1.0 - sum(weights), *weights])


class MetropolisHastings(_Weighted):
    """Weight 1 / (1 + the larger degree of the two ends) on every neighbour; doubly stochastic on undirected graphs."""

    kind = "metropolis-hastings"

    def check(self, topology: Topology) -> None:
        if not topology.at(0).is_undirected:
            raise ConfigurationError(
                f"The aggregation metropolis-hastings needs an undirected graph, but {topology.title()} is directed. "
                f"Use aggregation 'mean'."
            )

    def weights(self, node: Node, graph: Graph) -> Sequence[float]:
        return graph.metropolis(node.id)


class Given(_Weighted):
    """The weights that the topology itself gives to its edges."""

    kind = "given"

    def check(self, topology: Topology) -> None:
        if topology.at(0).weights is None:
            raise ConfigurationError(
                f"The aggregation given needs a topology with weights of its own, and {topology.title()} has none. "
                f"Use aggregation 'metropolis-hastings' or 'mean'."
            )

    def weights(self, node: Node, graph: Graph) -> Sequence[float]:
        return graph.given(node.id)
