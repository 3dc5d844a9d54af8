"""The base of topologies."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, CoveyError, described
from covey.parts.machine import demand
from covey.parts.parameters import Part, Setting

_BYTES_OF_A_LINK = 64
"""The least memory of an edge while a graph is drawn, in bytes."""

_KEPT_EDGES = 1 << 25
"""The edges of the last graphs that are kept, 16 bytes each."""


class Topology(Part):
    """The graphs of rounds. Every node computes them itself, from public randomness.

    A subclass implements `draw`. A `static` topology is drawn once.
    """

    family: ClassVar[str] = "topology"
    handles_arrays: ClassVar[bool] = False
    least_nodes: ClassVar[int] = 1
    """The number of nodes that it needs."""
    static: ClassVar[bool] = True
    foreseen: ClassVar[bool] = True
    """True if the graph of a round can be drawn before that round."""
    by_labels: ClassVar[bool] = False
    """True if the graph depends on the labels of nodes, so that it cannot be drawn before data are loaded."""
    averages: ClassVar[bool] = False
    """True if it has groups in which gradients may be averaged; see `averaging`."""
    weighted: ClassVar[bool] = False
    """True if its graphs have weights, which are then the default for merging."""

    def check(self, setting: Setting) -> None:
        """Refuse parameters that do not fit this number of nodes. Then graphs that need no labels can be drawn."""
        super().check(setting)
        if setting.nodes < self.least_nodes:
            raise ConfigurationError(
                f"The topology {self.title()} needs at least {self.least_nodes} nodes. Got {setting.nodes} instead."
            )
        self.begin(setting)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.begin(setting)

    def begin(self, setting: Setting) -> None:
        """Draw for a setting from now on, without the graphs of an earlier one."""
        self._setting = setting
        self._graphs: dict[int, Graph] = {}

    def one_way(self) -> bool:
        """True if some node may send to one that does not send back."""
        return False

    def can_be_drawn(self) -> bool:
        """True if everything that the graph depends on is known."""
        return not self.by_labels or self._setting.label_counts is not None

    def averaging(self) -> "Topology":
        """The topology along which gradients are averaged to approximate that of all data, if it `averages`."""
        raise NotImplementedError

    def most_sent(self, nodes: int) -> float:
        """The approximate number of a node's receivers in a round, known before a graph is drawn."""
        return float(getattr(self, "degree", 1))

    def contraction(self) -> float | None:
        """The expected factor by which a round shrinks the squared distance to the mean in the worst direction, with
        its own weights or, without any, equal ones; None without a formula."""
        return None

    def fragments_of_models(self) -> int:
        """The number of fragments of a model that travel along graphs of their own; 1 for whole models."""
        return 1

    def of_fragments(self, t: int) -> Sequence[Graph]:
        """The graph of each fragment in round t; the graph of the round is their union."""
        return [self.at(t)]

    def draw(self, setting: Setting, t: int) -> Graph:
        """The graph of round t, a function of the arguments and the parameters only."""
        raise NotImplementedError

    def at(self, t: int) -> Graph:
        """The graph of round t, from a cache of the last ones.

        Raises:
            ConfigurationError: the graph cannot be drawn yet.
        """
        key = 0 if self.static else t
        graph = self._graphs.get(key)
        if graph is None:
            if not self.can_be_drawn():
                raise ConfigurationError(
                    f"The topology {self.title()} depends on the labels of nodes, which are not known before "
                    f"its program is prepared."
                )
            graph = self._graphs[key] = self._drawn(key)
            if len(self._graphs) > max(2, min(64, _KEPT_EDGES // max(1, len(graph.sources)))):
                del self._graphs[next(iter(self._graphs))]
        return graph

    def _drawn(self, t: int) -> Graph:
        """The graph of round t. Errors of a user's own class become a `ConfigurationError`."""
        nodes = self._setting.nodes
        demand(_BYTES_OF_A_LINK * nodes * self.most_sent(nodes), f"A graph of the topology {self.title()}")
        try:
            graph = self.draw(self._setting, t)
        except CoveyError:
            raise
        except Exception as error:
            raise ConfigurationError(f"The topology {self.title()} fails in round {t}: {described(error)}.") from error
        if not isinstance(graph, Graph) or graph.n != nodes:
            got = f"one of {graph.n}" if isinstance(graph, Graph) else repr(graph)
            raise ConfigurationError(
                f"The topology {self.title()} must draw a Graph of {nodes} nodes. Got {got} instead."
            )
        ends = np.stack([graph.sources, graph.targets])
        wrong = (ends < 0).any(0) | (ends >= nodes).any(0) | (ends[0] == ends[1])
        wrong[1:] |= (ends[:, 1:] == ends[:, :-1]).all(0)
        if wrong.any():
            source, target = ends[:, np.flatnonzero(wrong)[0]].tolist()
            raise ConfigurationError(
                f"The topology {self.title()} draws the edge from {source} to {target} in round {t}: edges must "
                f"connect two different ids in [0, {nodes}), each pair in a direction once."
            )
        return graph
