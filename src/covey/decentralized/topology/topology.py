"""The part of gossip that says who talks to whom in a round."""

from typing import ClassVar

import numpy as np

from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, CoveyError, described
from covey.parts.machine import demand
from covey.parts.parameters import Part, Setting

_BYTES_OF_A_LINK = 64
"""What a message of a round takes while a graph is drawn, at least."""


class Topology(Part):
    """Computes the graph of any round from public randomness, so every node can do it for itself.

    A subclass implements `draw`. `static` topologies are drawn once.
    """

    family: ClassVar[str] = "topology"
    handles_arrays: ClassVar[bool] = False
    static: ClassVar[bool] = True
    foreseen: ClassVar[bool] = True
    """Whether the graph of a round can be drawn before that round."""
    by_labels: ClassVar[bool] = False
    """Whether the graph depends on which labels nodes hold, and so cannot be drawn before the data are dealt out."""
    averages: ClassVar[bool] = False
    """Whether it says among whom gradients may be averaged."""
    weighted: ClassVar[bool] = False
    """Whether its graphs have weights of their own, with which models are merged where nothing else is asked for."""

    def check(self, setting: Setting) -> None:
        """Refuse what cannot give a graph of this many nodes; from then on graphs can be drawn that need no labels."""
        super().check(setting)
        self.begin(setting)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.begin(setting)

    def begin(self, setting: Setting) -> None:
        """Draw for a setting from now on, and forget the graphs of an earlier one, which knew less."""
        self._setting = setting
        self._graphs: dict[int, Graph] = {}

    def one_way(self) -> bool:
        """Whether some node may send to one that does not send back."""
        return False

    def can_be_drawn(self) -> bool:
        """Whether all that the graph depends on is known."""
        return not self.by_labels or self._setting.label_counts is not None

    def averaging(self) -> "Topology":
        """Among whom gradients are averaged so that they lead where that of all data would, if it `averages`."""
        raise NotImplementedError

    def most_sent(self, nodes: int) -> float:
        """To about how many others a node sends in a round, known before a graph is drawn."""
        return float(getattr(self, "degree", 1))

    def contraction(self) -> float | None:
        """By what factor a round shrinks the squared distance to the mean, on average and for the models that it brings
        together slowest: with its own weights, or equal ones where it has none. None where no formula is known."""
        return None

    def draw(self, setting: Setting, t: int) -> Graph:
        """The graph of round t; a function of its arguments and the parameters alone."""
        raise NotImplementedError

    def at(self, t: int) -> Graph:
        """The graph of round t. The last few are remembered.

        Raises:
            ConfigurationError: it cannot be drawn yet.
        """
        key = 0 if self.static else t
        graph = self._graphs.get(key)
        if graph is None:
            if not self.can_be_drawn():
                raise ConfigurationError(
                    f"The topology {self.title()} depends on the labels that nodes hold, which are not known before "
                    f"its program is prepared."
                )
            graph = self._graphs[key] = self._drawn(key)
            if len(self._graphs) > 64:
                del self._graphs[next(iter(self._graphs))]
        return graph

    def _drawn(self, t: int) -> Graph:
        """The graph of round t, which a user's own class may draw wrongly."""
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
                f"The topology {self.title()} draws the edge from {source} to {target} in round {t}: edges must join "
                f"two different ids in [0, {nodes}), and each two in a direction once."
            )
        return graph
