"""Topologies that change. Every node computes the graph of a round from public randomness."""

import numpy as np

from covey.decentralized.topology.random_graphs import random_regular, recipients
from covey.decentralized.topology.static import check_regular, exponential_offsets, need_nodes
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph
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
    degree: int = param("The number of receivers of every node in a round.", ge=1, lt="nodes")

    def one_way(self) -> bool:
        return True

    def draw(self, setting: Setting, t: int) -> Graph:
        chosen = recipients(setting.nodes, self.degree, setting.generator(self.kind, t))
        return Graph(setting.nodes, np.repeat(np.arange(setting.nodes), self.degree), chosen.ravel())

    def contraction(self) -> float:
        n, s = self._setting.nodes, self.degree
        return float((1.0 - (1.0 - s / (n - 1)) ** n) / s - 1.0 / (n - 1))


class RandomMatching(Topology):
    """Random pairs of nodes in every round. With an odd number of nodes, one stays alone."""

    kind = "random-matching"
    static = False

    def check(self, setting: Setting) -> None:
        super().check(setting)
        need_nodes(self, setting.nodes, 2)

    def draw(self, setting: Setting, t: int) -> Graph:
        order = setting.generator(self.kind, t).permutation(setting.nodes)
        paired = order[: setting.nodes // 2 * 2]
        return Graph.undirected(setting.nodes, paired[0::2], paired[1::2])


class OnePeerExponential(Topology):
    """The directed exponential graph with one distance per round: 1, 2, 4 ... and again from 1."""

    kind = "one-peer-exponential"
    static = False

    def check(self, setting: Setting) -> None:
        super().check(setting)
        need_nodes(self, setting.nodes, 2)

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

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._last: tuple[int, Graph] | None = None

    def draw(self, setting: Setting, t: int) -> Graph:
        # Rounds of one period share a graph. The inner topology draws with the number of the period.
        period = t // self.every
        if self._last is None or self._last[0] != period:
            self._last = period, self.topology.draw(setting, period)
        return self._last[1]
