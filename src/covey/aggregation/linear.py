"""Averages: the merged model is a linear combination of the own model and those that arrived."""

from collections.abc import Sequence

from torch import Tensor

from covey.aggregation.aggregation import Contribution, Linear, mixture
from covey.learning.mixture import Mixture
from covey.network.graph import Graph, Graphs
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.runtime.node import Node


class Mean(Linear):
    """Equal weights on the own model and on each that arrived. The network's mean is kept in expectation."""

    kind = "mean"

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        count = len(graph.senders(node))
        return [1.0 / (1 + count)] * count

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Mixture:
        count = len(contributions)
        return mixture(own, contributions, [1.0 / (1 + count)] * count)


class MetropolisHastings(Linear):
    """Weight 1 / (1 + the larger degree of the two ends) on every neighbour. Doubly stochastic on undirected graphs."""

    kind = "metropolis-hastings"

    def check_with(self, topology: Graphs) -> None:
        if topology.one_way() or (topology.can_be_drawn() and not topology.at(0).is_undirected):
            raise ConfigurationError(
                f"The aggregation metropolis-hastings needs an undirected graph, but {topology.title()} is directed. "
                f"Use aggregation 'mean'."
            )

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        return graph.metropolis(node)


class Given(Linear):
    """The edge weights of the topology."""

    kind = "given"

    def check_with(self, topology: Graphs) -> None:
        if not topology.weighted and (not topology.can_be_drawn() or topology.at(0).weights is None):
            raise ConfigurationError(
                f"The aggregation given needs a topology with weights of its own, and {topology.title()} has none. "
                f"Use aggregation 'metropolis-hastings' or 'mean'."
            )

    def weights(self, node: NodeId, graph: Graph) -> Sequence[float]:
        return graph.given(node)
