"""Topologies that change. Every node computes the graph of a round from public randomness."""

from collections.abc import Sequence

import numpy as np

from covey.decentralized.topology.random_graphs import Ids, chosen, random_regular, recipients
from covey.decentralized.topology.static import check_regular, exponential_offsets
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param


class EpidemicOracle(Topology):
    """EL-Oracle (de Vos et al., 2023): a new random regular graph in every round."""

    kind = "epidemic-oracle"
    static = False
    degree: int = param("The number of peers of every node in a round.", ge=1, lt="nodes")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_regular(self, self.degree, setting.nodes)

    def draw(self, setting: Setting, t: int) -> Graph:
        # A round need not be connected: the union of several rounds is.
        edges = random_regular(setting.nodes, self.degree, setting.generator(self.kind, t))
        return Graph.undirected(setting.nodes, *edges)

    def contraction(self) -> float:
        return (1.0 - self.degree / (self._setting.nodes - 1)) / (self.degree + 1)


class EpidemicLocal(Topology):
    """EL-Local (de Vos et al., 2023): in every round each node sends to random others."""

    kind = "epidemic-local"
    static = False
    degree: int | list[int] = param(
        "The number of receivers in a round, of every node or in a list of each.", ge=1, lt="nodes"
    )
    most: int | None = param(
        "The greatest number of receivers: that of each node is drawn once, between 'degree' and this. By default, all "
        "nodes have 'degree'.",
        default=None,
        ge=1,
        lt="nodes",
    )
    among: Topology | None = param(
        "The graph that says which nodes a node can reach. It sends to random ones of them, and to all if they are "
        "fewer than its degree. By default, a node reaches all others.",
        default=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_labels = self.among is not None and self.among.by_labels  # type: ignore[misc]
        if self.most is not None and (isinstance(self.degree, list) or self.most < self.degree):
            raise ConfigurationError(
                f"The 'most' of {self.named()} must be at least its 'degree', which is then no list. "
                f"Got {self.most} instead (degree is {self.degree})."
            )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if isinstance(self.degree, list) and len(self.degree) != setting.nodes:
            raise ConfigurationError(
                f"The 'degree' of {self.named()} must have one entry for each node. "
                f"Got {len(self.degree)} instead (nodes is {setting.nodes})."
            )

    def one_way(self) -> bool:
        return True

    def most_sent(self, nodes: int) -> float:
        return float(self.most or np.max(self.degree))

    def degrees(self, setting: Setting) -> Ids:
        """The degree of each node, N."""
        if self.most is None:
            return np.broadcast_to(self.degree, setting.nodes)
        return setting.generator(f"{self.kind} degrees").integers(self.degree, self.most + 1, size=setting.nodes)

    def draw(self, setting: Setting, t: int) -> Graph:
        n, generator, degrees_N = setting.nodes, setting.generator(self.kind, t), self.degrees(setting)
        if self.among is not None:
            reached = self.among.at(t)
            chosen_E = chosen(reached.sources, degrees_N, generator)
            return Graph(n, reached.sources[chosen_E], reached.targets[chosen_E])
        most = int(degrees_N.max())
        # The receivers of a node are in random order, so the first of them are random ones, too.
        first = np.arange(most) < degrees_N[:, None]
        return Graph(n, np.repeat(np.arange(n), degrees_N), recipients(n, most, generator)[first])

    def contraction(self) -> float | None:
        n, s = self._setting.nodes, self.degree
        if isinstance(s, list) or self.most is not None or self.among is not None:
            return None
        return float((1.0 - (1.0 - s / (n - 1)) ** n) / s - 1.0 / (n - 1))


class RandomMatching(Topology):
    """Random pairs of nodes in every round. With an odd number of nodes, one stays alone."""

    kind = "random-matching"
    static = False
    least_nodes = 2

    def draw(self, setting: Setting, t: int) -> Graph:
        order = setting.generator(self.kind, t).permutation(setting.nodes)
        paired = order[: setting.nodes // 2 * 2]
        return Graph.undirected(setting.nodes, paired[0::2], paired[1::2])


class OnePeerExponential(Topology):
    """The directed exponential graph with one distance per round: 1, 2, 4 ... and again from 1."""

    kind = "one-peer-exponential"
    static = False
    least_nodes = 2

    def one_way(self) -> bool:
        return True

    def draw(self, setting: Setting, t: int) -> Graph:
        ids, offsets = np.arange(setting.nodes), exponential_offsets(setting.nodes)
        return Graph(setting.nodes, ids, (ids + offsets[t % len(offsets)]) % setting.nodes)


class Redrawn(Topology):
    """Another topology that is drawn again every `every` rounds."""

    kind = "redrawn"
    static = False
    topology: Topology = param("The topology. One without randomness, such as a ring, does not change.")
    every: int = param("The rounds for which a graph lasts.", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_labels = self.topology.by_labels  # type: ignore[misc]
        self.weighted = self.topology.weighted  # type: ignore[misc]

    def one_way(self) -> bool:
        return self.topology.one_way()

    def can_be_drawn(self) -> bool:
        return self.topology.can_be_drawn()

    def fragments_of_models(self) -> int:
        return self.topology.fragments_of_models()

    def of_fragments(self, t: int) -> Sequence[Graph]:
        return [self.at(t)] if self.fragments_of_models() == 1 else self.topology.of_fragments(t // self.every)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._last: tuple[int, Graph] | None = None

    def draw(self, setting: Setting, t: int) -> Graph:
        # Rounds of one period share a graph. The inner topology draws with the number of the period.
        period = t // self.every
        if self._last is None or self._last[0] != period:
            self._last = period, self.topology.draw(setting, period)
        return self._last[1]
