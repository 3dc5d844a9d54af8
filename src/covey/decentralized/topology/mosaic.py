"""Mosaic Learning (Biswas et al., 2026): a graph of its own for every fragment of a model."""

from dataclasses import replace
from typing import Literal

import numpy as np

from covey.decentralized.topology.dynamic import EpidemicLocal, EpidemicOracle
from covey.decentralized.topology.static import check_regular
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph
from covey.parts import rng
from covey.parts.parameters import Setting, param

_ROUNDS = 8
"""The number of rounds whose graphs are kept. Nodes that do not wait for each other may be in different ones."""


class Mosaic(Topology):
    """In every round, each fragment of a model travels along a new graph of Epidemic Learning.

    A round's graph is the union of these. That of the first fragment is the graph of Epidemic Learning without
    fragments.
    """

    kind = "mosaic"
    static = False
    graphs: Literal["local", "oracle"] = param(
        "The graph of a fragment: each node sends to random others (EL-Local), or a random regular graph (EL-Oracle).",
        default="local",
    )
    degree: int = param("The number of receivers of a fragment of every node in a round.", ge=1, lt="nodes")
    fragments: int = param("The number of fragments of a model; with 1, it is Epidemic Learning.", ge=1)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.graphs == "oracle":
            check_regular(self, self.degree, setting.nodes)

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._inner = (EpidemicLocal if self.graphs == "local" else EpidemicOracle)(degree=self.degree)
        self._inner.begin(setting)
        # The first fragment has the seed of the experiment, so that one fragment is Epidemic Learning.
        key = rng.purpose_key(setting.seed, "graphs of a fragment")
        others = [replace(setting, seed=rng.mix(key, fragment)) for fragment in range(1, self.fragments)]
        self._settings = [setting, *others]
        self._of_fragments: dict[int, list[Graph]] = {}

    def one_way(self) -> bool:
        return self._inner.one_way()

    def most_sent(self, nodes: int) -> float:
        return float(min(self.degree * self.fragments, nodes - 1))

    def contraction(self) -> float | None:
        return self._inner.contraction()

    def fragments_of_models(self) -> int:
        return self.fragments

    def of_fragments(self, t: int) -> list[Graph]:
        found = self._of_fragments.get(t)
        if found is None:
            found = [self._inner.draw(setting, t) for setting in self._settings]
            self._of_fragments[t] = found
            if len(self._of_fragments) > _ROUNDS:
                del self._of_fragments[next(iter(self._of_fragments))]
        return found

    def draw(self, setting: Setting, t: int) -> Graph:
        n, graphs = setting.nodes, self.of_fragments(t)
        edges = np.unique(np.concatenate([graph.sources * n + graph.targets for graph in graphs]))
        return Graph(n, edges // n, edges % n)
