"""D-Cliques (Bellet et al., 2022): cliques whose nodes together hold the labels as all nodes do, sparsely connected.

Shapes: N nodes, K cliques, L labels, M nodes of a clique.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.errors import ConfigurationError
from covey.parameters import Setting, param
from covey.topology.graph import Graph, Ids
from covey.topology.static import Drawn
from covey.topology.topology import Topology


class RandomCliques(Topology):
    """Cliques of nodes drawn at random, and an edge between some pairs of cliques, from their least connected nodes."""

    kind = "random-cliques"
    size: int = param("The most nodes that a clique has.", default=10, ge=1)
    between: Literal["complete", "ring", "fractal", "small-world"] = param(
        "Which pairs of cliques are connected: all, neighbours on a ring, cliques of cliques of cliques ..., or those "
        "at distances 1, 2, 4 ... and one further on a ring.",
        default="complete",
    )
    swaps: ClassVar[int] = 0

    def within(self) -> Topology:
        """The cliques alone, without the edges between them."""
        cliques = self.at(0).groups
        topology = Drawn(graph=Graph.undirected(self._setting.nodes, *_pairs_within(cliques), cliques))
        topology.prepare(self._setting)
        return topology

    def draw(self, setting: Setting, t: int) -> Graph:
        cliques = self.cliques(setting)
        (left, right), ends = _pairs_within(cliques), self._ends(cliques, setting)
        return Graph.undirected(
            setting.nodes, np.concatenate([left, ends[0]]), np.concatenate([right, ends[1]]), cliques
        )

    def cliques(self, setting: Setting) -> list[Ids]:
        """The nodes of every clique."""
        order = setting.generator("cliques").permutation(setting.nodes)
        return [order[at : at + self.size] for at in range(0, setting.nodes, self.size)]

    def _ends(self, cliques: Sequence[Ids], setting: Setting) -> tuple[Ids, Ids]:
        """The edges between cliques; both ends are the nodes of their clique with the fewest such edges so far."""
        if self.between == "fractal":
            labels = 10 if setting.label_counts is None else setting.label_counts.shape[1]
            return _ends_of_groups(_fractal(list(cliques), max(labels, 2)), setting.nodes)
        pairs = {"complete": _complete, "ring": _ring, "small-world": _small_world}[self.between](len(cliques))
        return _ends_in_turn(cliques, pairs)


class DCliques(RandomCliques):
    """Cliques that hold the labels as all nodes together do, made by swapping nodes of random cliques."""

    kind = "d-cliques"
    by_labels = True
    swaps: int = param("How often two cliques try to swap a node.", default=1000, ge=0)  # type: ignore[misc]

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if setting.parameters and setting.label_counts is None:
            raise ConfigurationError(
                f"The topology {self.title()} needs data with classes, to balance them in every clique. "
                f"Use 'random-cliques' for others."
            )

    def cliques(self, setting: Setting) -> list[Ids]:
        cliques = super().cliques(setting)
        assert setting.label_counts is not None
        if len(cliques) > 1:
            swap_greedily(cliques, setting.label_counts, self.swaps, setting.generator("swaps"))
        return cliques


def skew(cliques: Sequence[Ids], counts_NL: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far the labels of each clique's samples are from those of all samples: the L1 distance of the shares, K."""
    everywhere = counts_NL.sum(0) / counts_NL.sum()
    pooled_KL = np.array([counts_NL[clique].sum(0) for clique in cliques])
    return _distance(pooled_KL, everywhere)


def swap_greedily(
    cliques: Sequence[Ids], counts_NL: NDArray[np.int64], steps: int, generator: np.random.Generator
) -> None:
    """Swap, in place, one pair of nodes of two random cliques in each step: one of those that lessen their skew."""
    everywhere = counts_NL.sum(0) / counts_NL.sum()
    pooled_KL = np.array([counts_NL[clique].sum(0) for clique in cliques])
    now_K = _distance(pooled_KL, everywhere)
    for _ in range(steps):
        a, b = generator.choice(len(cliques), 2, replace=False)
        change_MML = counts_NL[cliques[b]][None, :, :] - counts_NL[cliques[a]][:, None, :]
        then_a, then_b = pooled_KL[a] + change_MML, pooled_KL[b] - change_MML
        after_a, after_b = _distance(then_a, everywhere), _distance(then_b, everywhere)
        better = np.flatnonzero(after_a + after_b < now_K[a] + now_K[b] - 1e-12)
        if len(better):
            u, v = divmod(int(generator.choice(better)), len(cliques[b]))
            cliques[a][u], cliques[b][v] = cliques[b][v], cliques[a][u]
            pooled_KL[a], pooled_KL[b] = then_a[u, v], then_b[u, v]
            now_K[a], now_K[b] = after_a[u, v], after_b[u, v]


def _distance(counts: NDArray[np.int64], everywhere: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return np.asarray(np.abs(shares - everywhere).sum(-1))


def _pairs_within(cliques: Sequence[Ids]) -> tuple[Ids, Ids]:
    """All pairs of nodes of one clique."""
    places = [np.triu_indices(len(clique), 1) for clique in cliques]
    left, right = ([clique[ends[side]] for clique, ends in zip(cliques, places, strict=True)] for side in (0, 1))
    return np.concatenate(left), np.concatenate(right)


def _ends_in_turn(cliques: Sequence[Ids], pairs: Ids) -> tuple[Ids, Ids]:
    """The nodes that join pairs of cliques: those of a clique with the fewest edges so far are its nodes in turn.

    With 1,000 cliques, all joined, this takes 0.1 s, and a search for the fewest for each of them 1.3 s.
    """
    sides = pairs.ravel()
    order = np.argsort(sides, kind="stable")
    met = np.bincount(sides, minlength=len(cliques))
    turns = np.empty_like(sides)
    turns[order] = np.arange(len(sides)) - np.repeat(np.cumsum(met) - met, met)
    sizes = np.array([len(clique) for clique in cliques])
    firsts = np.cumsum(sizes) - sizes
    ends = np.concatenate(cliques)[firsts[sides] + turns % sizes[sides]]
    return ends[0::2], ends[1::2]


def _ends_of_groups(pairs: Iterator[tuple[Ids, Ids]], nodes: int) -> tuple[Ids, Ids]:
    """The same for groups that overlap, one pair after the other."""
    edges_of = np.zeros(nodes, dtype=np.int64)

    def least(members: Ids) -> int:
        chosen = int(members[edges_of[members].argmin()])
        edges_of[chosen] += 1
        return chosen

    ends = np.array([(least(a), least(b)) for a, b in pairs], dtype=np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def _complete(count: int) -> Ids:
    return np.stack(np.triu_indices(count, 1), axis=1)


def _ring(count: int) -> Ids:
    ids = np.arange(count if count > 2 else count - 1)
    return np.stack([ids, (ids + 1) % count], axis=1)


def _small_world(count: int) -> Ids:
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    distances = [1 << power for power in range((count - 1).bit_length())]
    for k in range(count):
        for distance in distances:
            for other in (k - distance, k + distance, k - distance - 1, k + distance + 1):
                low, high = sorted((k, other % count))
                if low != high:
                    seen.setdefault((low, high), (k, other % count))
    return np.array(list(seen.values()), dtype=np.int64).reshape(-1, 2)


def _fractal(groups: list[Ids], width: int) -> Iterator[tuple[Ids, Ids]]:
    """Pairs of groups; `width` groups that are connected to each other become one group of the next level."""
    while len(groups) > 1:
        together = [groups[at : at + width] for at in range(0, len(groups), width)]
        for united in together:
            yield from combinations(united, 2)
        groups = [np.concatenate(united) for united in together]
