"""Programs whose nodes send along the edges of a graph, and functions of such programs."""

from collections.abc import Sequence

from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningProgram
from covey.learning.selection import Selection
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.node import Program


class OnGraph(LearningProgram):
    """A program in which nodes send along the edges of a round's graph."""

    topology: Topology = param("The graph.")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self.check_graphs()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.topology.by_labels:
            self.check_graphs()

    def check_graphs(self) -> None:
        """Raise ConfigurationError if the topology does not fit.

        It is called when the program is checked and, if graphs depend on labels, again when it is prepared, because
        only then can they be drawn.
        """

    def graph(self, t: int) -> Graph:
        return merging_graph(self, t)

    @property
    def has_one_graph(self) -> bool:  # type: ignore[override]
        return self.topology.static


class SharesModels(LearningProgram):
    """A program whose nodes send the shared part of their models: trained tensors and buffers."""

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.selection = Selection.of(setting, owner=self.named())

    def mean(self, model: Tensor, parts: Sequence[Tensor]) -> Tensor | Mixture:
        """A model whose shared part is the mean of several."""
        return self.selection.put(model, Mixture(parts, [1.0 / len(parts)] * len(parts)))


def check_undirected(program: OnGraph) -> None:
    """Refuse a topology that changes or is directed.

    Raises:
        ConfigurationError: it is.
    """
    topology = program.topology
    if topology.can_be_drawn() and not (topology.static and topology.at(0).is_undirected):
        raise ConfigurationError(
            f"The 'topology' of {program.named()} must be static and undirected. Got {topology.title()} instead."
        )


def topology_of(program: Program) -> Topology | None:
    """The topology of a program, or None."""
    found = getattr(program, "topology", None)
    return found if isinstance(found, Topology) else None


def selection_of(program: Program) -> Selection | None:
    """The shared part of models of a prepared program, or None."""
    found = getattr(getattr(program, "sharing", program), "selection", None)
    return found if isinstance(found, Selection) else None


def merging_graph(program: Program, t: int, fragment: int | None = None) -> Graph:
    """The graph of round t of a prepared program with a topology, with the weights of merging.

    It has no weights if these depend on the models or differ between fragments, or if the program has its own rule.

    Args:
        fragment: the number of a fragment of models, for the graph of this fragment.
    """
    topology, aggregation = topology_of(program), getattr(program, "aggregation", None)
    assert topology is not None
    graph = topology.at(t) if fragment is None else topology.of_fragments(t)[fragment]
    weights_E = graph.weights if aggregation is None else None
    differs = fragment is None and topology.fragments_of_models() > 1
    if isinstance(aggregation, Aggregation) and not differs:
        weights_E = aggregation.of_edges(graph)
    return graph.weighted(weights_E)
