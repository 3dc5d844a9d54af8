"""Topologies that do not change."""

from typing import Any, ClassVar

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, connected_components

from covey.decentralized.topology.random_graphs import erdos_renyi, random_regular
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param

_TRIES = 200


def is_connected(graph: Graph) -> bool:
    """True if every node can be reached from every other along directed edges."""
    _, labels = connected_components(graph.mixing("mean"), connection="strong", return_labels=True)
    return bool((labels == 0).all())


def is_tree(graph: Graph) -> bool:
    """True if there is exactly one path between any two nodes, in both directions."""
    return graph.is_undirected and len(graph.sources) == 2 * (graph.n - 1) and is_connected(graph)


class Ring(Topology):
    """A ring: the neighbours of a node are the previous and the next one."""

    kind = "ring"
    least_nodes = 2

    def draw(self, setting: Setting, t: int) -> Graph:
        ids = np.arange(setting.nodes)
        return Graph.undirected(setting.nodes, ids, (ids + 1) % setting.nodes)


class Chain(Topology):
    """A path: each node is connected to the next one. It is the tree with the largest diameter."""

    kind = "chain"
    least_nodes = 2

    def draw(self, setting: Setting, t: int) -> Graph:
        ids = np.arange(setting.nodes)
        return Graph.undirected(setting.nodes, ids[:-1], ids[1:])


class Tree(Topology):
    """A balanced tree with its root at node 0, or a spanning tree of another topology."""

    kind = "tree"
    least_nodes = 2
    children: int = param("The number of children of a node; unused in a spanning tree.", default=2, ge=1)
    of: Topology | None = param(
        "The static, undirected and connected topology that the tree spans: each node's parent is its neighbour on a "
        "shortest path to node 0. By default, the tree is balanced.",
        default=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_labels = self.of is not None and self.of.by_labels  # type: ignore[misc]
        if self.of is not None and (not self.of.static or self.of.one_way()):
            raise ConfigurationError(
                f"The 'of' of {self.named()} must be static and undirected. Got {self.of.title()} instead."
            )

    def draw(self, setting: Setting, t: int) -> Graph:
        ids = np.arange(1, setting.nodes)
        if self.of is None:
            return Graph.undirected(setting.nodes, ids, (ids - 1) // self.children)
        reached, parents = breadth_first_order(self.of.at(t).mixing("mean"), 0)
        if len(reached) < setting.nodes:
            raise ConfigurationError(f"The 'of' of {self.named()} must be connected. Got {self.of.title()} instead.")
        return Graph.undirected(setting.nodes, ids, parents[1:].astype(np.int64))


class _Rectangle(Topology):
    """A rectangle of rows and columns."""

    least_nodes = 2
    rows: int | None = param("The number of rows; by default, as near to a square as possible.", default=None, ge=1)
    wraps: ClassVar[bool] = False

    def check(self, setting: Setting) -> None:
        super().check(setting)
        nodes = setting.nodes
        if self.rows is not None and nodes % self.rows:
            raise ConfigurationError(
                f"The 'rows' of {self.named()} must divide the number of nodes. "
                f"Got {self.rows} instead (nodes is {nodes})."
            )
        if self.rows is None and self._sides(nodes)[0] == 1 and nodes > 3:
            raise ConfigurationError(
                f"The topology {self.title()} needs a number of nodes that is a product of two sides. "
                f"Got {nodes} instead, which is prime."
            )

    def _sides(self, nodes: int) -> tuple[int, int]:
        rows = self.rows or max(r for r in range(1, int(nodes**0.5) + 1) if nodes % r == 0)
        return rows, nodes // rows

    def draw(self, setting: Setting, t: int) -> Graph:
        rows, columns = self._sides(setting.nodes)
        index = np.arange(setting.nodes).reshape(rows, columns)
        if self.wraps:
            left = np.concatenate([index.ravel(), index.ravel()])
            right = np.concatenate([np.roll(index, -1, axis=1).ravel(), np.roll(index, -1, axis=0).ravel()])
        else:
            left = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
            right = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
        return Graph.undirected(setting.nodes, left, right)


class Torus(_Rectangle):
    """A rectangle whose rows and columns are rings: four neighbours each."""

    kind = "torus"
    wraps = True


class Grid(_Rectangle):
    """A rectangle with borders: two to four neighbours each."""

    kind = "grid"


class Star(Topology):
    """A star: node 0 is connected to all others."""

    kind = "star"
    least_nodes = 2

    def draw(self, setting: Setting, t: int) -> Graph:
        others = np.arange(1, setting.nodes)
        return Graph.undirected(setting.nodes, np.zeros_like(others), others)


class Complete(Topology):
    """The complete graph, with which averaging is an all-reduce."""

    kind = "complete"

    def most_sent(self, nodes: int) -> float:
        return nodes - 1

    def draw(self, setting: Setting, t: int) -> Graph:
        left, right = np.triu_indices(setting.nodes, 1)
        return Graph.undirected(setting.nodes, left, right)


class RandomRegular(Topology):
    """A random connected regular graph."""

    kind = "random-regular"
    degree: int = param("The number of neighbours of every node.", ge=1, lt="nodes")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        nodes = setting.nodes
        check_regular(self, self.degree, nodes)
        if self.degree == 1 and nodes > 2:
            raise ConfigurationError(
                f"The 'degree' of {self.named()} must be at least 2 to connect more than two nodes. "
                f"Got 1 instead (nodes is {nodes})."
            )

    def draw(self, setting: Setting, t: int) -> Graph:
        generator = setting.generator(self.kind, t)
        for _ in range(_TRIES):
            graph = Graph.undirected(setting.nodes, *random_regular(setting.nodes, self.degree, generator))
            if is_connected(graph):
                return graph
        raise _never_connected(self, "degree", self.degree, setting.nodes)


def check_regular(topology: Topology, degree: int, nodes: int) -> None:
    """Refuse a degree for which there is no regular graph."""
    if nodes * degree % 2:
        raise ConfigurationError(
            f"The 'degree' of {topology.named()} must be even if the number of nodes is odd. "
            f"Got {degree} instead (nodes is {nodes})."
        )


def _never_connected(topology: Topology, name: str, value: Any, nodes: int) -> ConfigurationError:
    return ConfigurationError(
        f"The '{name}' of {topology.named()} must be high enough for a connected graph. "
        f"Got {value} instead: none of {_TRIES} draws with {nodes} nodes was connected."
    )


class ErdosRenyi(Topology):
    """A random graph in which every pair of nodes is connected with the same probability."""

    kind = "erdos-renyi"
    probability: float = param("The probability that a pair is connected.", ge=0, le=1)
    connected: bool = param("Whether to draw again until the graph is connected.", default=True)

    def most_sent(self, nodes: int) -> float:
        return self.probability * (nodes - 1)

    def draw(self, setting: Setting, t: int) -> Graph:
        generator = setting.generator(self.kind, t)
        for _ in range(_TRIES):
            graph = Graph.undirected(setting.nodes, *erdos_renyi(setting.nodes, self.probability, generator))
            if not self.connected or is_connected(graph):
                return graph
        raise _never_connected(self, "probability", self.probability, setting.nodes)


class SmallWorld(Topology):
    """The graph of Watts and Strogatz: a ring of nearest neighbours with some edges rewired."""

    kind = "small-world"
    least_nodes = 3
    neighbours: int = param(
        "The number of nearest neighbours before rewiring. It must be even.", default=4, ge=2, lt="nodes"
    )
    rewiring: float = param("The probability that an edge is rewired.", default=0.1, ge=0, le=1)

    def most_sent(self, nodes: int) -> float:
        return self.neighbours

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.neighbours % 2:
            raise ConfigurationError(
                f"The 'neighbours' of {self.named()} must be an even int. Got {self.neighbours} instead."
            )

    def draw(self, setting: Setting, t: int) -> Graph:
        n, generator = setting.nodes, setting.generator(self.kind, t)
        for _ in range(_TRIES):
            left = np.tile(np.arange(n), self.neighbours // 2)
            right = (left + np.repeat(np.arange(1, self.neighbours // 2 + 1), n)) % n
            taken = set((np.minimum(left, right) * n + np.maximum(left, right)).tolist())
            for edge in np.flatnonzero(generator.random(len(left)) < self.rewiring).tolist():
                source, old = int(left[edge]), int(right[edge])
                new = int(generator.integers(n))
                code = min(source, new) * n + max(source, new)
                if new != source and code not in taken:
                    taken.remove(min(source, old) * n + max(source, old))
                    taken.add(code)
                    right[edge] = new
            graph = Graph.undirected(n, left, right)
            if is_connected(graph):
                return graph
        raise _never_connected(self, "neighbours", self.neighbours, n)


def exponential_offsets(n: int) -> list[int]:
    """The distances 1, 2, 4 ... of the exponential graph."""
    return [1 << k for k in range(max(1, (n - 1).bit_length()))]


class Exponential(Topology):
    """The directed exponential graph (Ying et al., 2021): nodes send to those 1, 2, 4, 8 ... ids further on."""

    kind = "exponential"
    least_nodes = 2

    def one_way(self) -> bool:
        return True

    def draw(self, setting: Setting, t: int) -> Graph:
        ids, offsets = np.arange(setting.nodes), exponential_offsets(setting.nodes)
        targets = np.concatenate([(ids + offset) % setting.nodes for offset in offsets])
        return Graph(setting.nodes, np.tile(ids, len(offsets)), targets)


class Drawn(Topology):
    """A given graph, for use within the library."""

    graph: Any = param("The graph.")

    def one_way(self) -> bool:
        return not self.graph.is_undirected

    def draw(self, setting: Setting, t: int) -> Graph:
        graph: Graph = self.graph
        return graph


class FromNetworkx(Topology):
    """A networkx graph, for use from Python. The order of nodes is the graph's own."""

    graph: Any = param("The graph. If every edge has the attribute 'weight', that is the weight of the edge.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(hasattr(self.graph, name) for name in ("nodes", "edges", "is_directed")):
            raise ConfigurationError(
                f"The 'graph' of {self.named()} must be a networkx graph. Got {self.graph!r} instead."
            )

    def one_way(self) -> bool:
        return bool(self.graph.is_directed())

    def check(self, setting: Setting) -> None:
        super().check(setting)
        nodes = setting.nodes
        if self.graph.number_of_nodes() != nodes:
            raise ConfigurationError(
                f"The networkx graph must have as many nodes as the network. "
                f"Got {self.graph.number_of_nodes()} instead (nodes is {nodes})."
            )

    def draw(self, setting: Setting, t: int) -> Graph:
        index = {name: number for number, name in enumerate(self.graph.nodes)}
        found = [(index[a], index[b], w) for a, b, w in self.graph.edges(data="weight") if a != b]
        if not self.one_way():
            found += [(b, a, w) for a, b, w in found]
        pairs = np.array([edge[:2] for edge in found], dtype=np.int64).reshape(-1, 2)
        weighted = bool(found) and all(weight is not None for _, _, weight in found)
        weights = np.array([weight for _, _, weight in found], dtype=np.float64) if weighted else None
        return Graph(setting.nodes, pairs[:, 0], pairs[:, 1], weights)
