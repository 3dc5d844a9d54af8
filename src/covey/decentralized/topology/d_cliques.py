"""D-Cliques (Bellet et al., 2022): cliques whose nodes together hold the labels as all nodes do, sparsely connected.

Shapes: N nodes, K cliques, L labels, M nodes of a clique.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from covey.decentralized.topology.static import Drawn
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph, Ids
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param


class RandomCliques(Topology):
    """Cliques of nodes drawn at random, and an edge between some pairs of cliques, from their least connected nodes."""

    kind = "random-cliques"
    averages = True
    size: int = param("The most nodes that a clique has.", default=10, ge=1)
    between: Literal["complete", "ring", "fractal", "small-world"] = param(
        "Which pairs of cliques are connected: all, neighbours on a ring, cliques of cliques of cliques ..., or those "
        "at distances 1, 2, 4 ... and one further on a ring.",
        default="complete",
    )

    def most_sent(self, nodes: int) -> float:
        return min(self.size, nodes) + (nodes / self.size**2 if self.between == "complete" else 1)

    def averaging(self) -> Topology:
        """The cliques alone, without the edges between them."""
        cliques = self.at(0).groups
        topology = Drawn(graph=Graph.undirected(self._setting.nodes, *_pairs_within(cliques), cliques))
        return topology.ready(self._setting)

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
    swaps: int | None = param(
        "How often two cliques try to swap a node; by default until no two can, at most 100 times for each clique.",
        default=None,
        ge=0,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        check_labels(self, setting, "clique", "random-cliques")

    def cliques(self, setting: Setting) -> list[Ids]:
        counts_NL = setting.label_counts
        assert counts_NL is not None
        if ((counts_NL > 0).sum(1) <= 1).all():
            cliques = dealt(counts_NL, self.size, setting.generator("cliques"))
        else:
            cliques = super().cliques(setting)
        if len(cliques) > 1:
            swaps = self.swaps if self.swaps is not None else _SWAPS * len(cliques)
            swap_greedily(cliques, counts_NL, swaps, setting.generator("swaps"))
        return cliques


_SWAPS = 100
"""Tries for each clique. Ten cliques then have the paper's 1,000; 1,000 cliques of 10 nodes come in 2.7 s from a mean
skew of 0.517 to 0.032, and to 0.397 in 1,000 tries."""


def skew(cliques: Sequence[Ids], counts_NL: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far the labels of each clique's samples are from those of all samples: the L1 distance of the shares, K."""
    everywhere = counts_NL.sum(0) / counts_NL.sum()
    pooled_KL = np.array([counts_NL[clique].sum(0) for clique in cliques])
    return distance(pooled_KL, everywhere)


def dealt(counts_NL: NDArray[np.int64], size: int, generator: np.random.Generator) -> list[Ids]:
    """Cliques that have every class as often as each other, or once more, of nodes that hold one class each."""
    order = generator.permutation(len(counts_NL))
    by_class = order[np.argsort(counts_NL[order].argmax(1), kind="stable")]
    count = -(-len(order) // size)
    return [by_class[first::count].copy() for first in range(count)]


def swap_greedily(
    cliques: Sequence[Ids], counts_NL: NDArray[np.int64], steps: int, generator: np.random.Generator
) -> None:
    """Swap, in place, one pair of nodes of two cliques in each step: any of those that lessen their skew.

    Cliques meet in pairs at random, each two of them once before any meet again. Those that meet at the same time are
    looked at together. It ends where none of all pairs has a swap left that lessens their skew.
    """
    swapping = _Swapping(cliques, counts_NL, generator)
    while steps > 0 and not swapping.is_done:
        swaps = 0
        for pairs in _meetings(len(cliques), generator):
            swaps += swapping.swap(pairs[:steps])
            steps -= min(len(pairs), steps)
            if steps == 0:
                break
        else:
            if not swaps:
                break
    for clique, members in zip(cliques, swapping.members_KM, strict=True):
        clique[:] = members[: len(clique)]


class _Swapping:
    """Cliques as they become; short ones end with a node that holds nothing and stays."""

    def __init__(self, cliques: Sequence[Ids], counts_NL: NDArray[np.int64], generator: np.random.Generator) -> None:
        self._generator = generator
        self._everywhere_L = counts_NL.sum(0) / counts_NL.sum()
        self._nobody = len(counts_NL)
        self._counts_NL = np.concatenate([counts_NL, np.zeros_like(counts_NL[:1])]).astype(np.float64)
        self.members_KM = np.full((len(cliques), max(map(len, cliques))), self._nobody, dtype=np.int64)
        for members, clique in zip(self.members_KM, cliques, strict=True):
            members[: len(clique)] = clique
        self._pooled_KL = self._counts_NL[self.members_KM].sum(1)
        self._skew_K = distance(self._pooled_KL, self._everywhere_L)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to lessen."""
        return bool(self._skew_K.max() < 1e-12)

    def swap(self, pairs: Ids) -> int:
        """Let pairs of cliques swap, none of them in two pairs; how many did."""
        _, size = self.members_KM.shape
        at_once = max(1, _LOOKED_AT // (size * size * self._counts_NL.shape[1]))
        return sum(self._swap(pairs[at : at + at_once]) for at in range(0, len(pairs), at_once))

    def _swap(self, pairs: Ids) -> int:
        a_K, b_K = pairs.T
        of_a_KM, of_b_KM = self.members_KM[a_K], self.members_KM[b_K]
        change_KMML = self._counts_NL[of_b_KM][:, None, :, :] - self._counts_NL[of_a_KM][:, :, None, :]
        then_a, then_b = (
            pooled_KL[:, None, None, :] + sign * change_KMML
            for pooled_KL, sign in ((self._pooled_KL[a_K], 1.0), (self._pooled_KL[b_K], -1.0))
        )
        after_KMM = distance(then_a, self._everywhere_L) + distance(then_b, self._everywhere_L)
        better_KMM = after_KMM < (self._skew_K[a_K] + self._skew_K[b_K])[:, None, None] - 1e-12
        better_KMM &= (of_a_KM != self._nobody)[:, :, None] & (of_b_KM != self._nobody)[:, None, :]
        drawn = np.where(better_KMM, self._generator.random(better_KMM.shape), -1.0).reshape(len(pairs), -1)
        chosen, ids = drawn.argmax(1), np.arange(len(pairs))
        some = np.flatnonzero(drawn[ids, chosen] >= 0.0)
        u, v = np.divmod(chosen[some], of_b_KM.shape[1])
        a, b = a_K[some], b_K[some]
        self.members_KM[a, u], self.members_KM[b, v] = of_b_KM[some, v], of_a_KM[some, u]
        self._pooled_KL[a], self._pooled_KL[b] = then_a[some, u, v], then_b[some, u, v]
        both = np.concatenate([a, b])
        self._skew_K[both] = distance(self._pooled_KL[both], self._everywhere_L)
        return len(some)


_LOOKED_AT = 1 << 17
"""So many numbers of a swap's outcome are looked at together: 1 MB, which stays in the cache."""


def _meetings(count: int, generator: np.random.Generator) -> Iterator[Ids]:
    """Pairs of numbers in rounds: in a round nobody is in two of them, and over all rounds all meet all once."""
    order = generator.permutation(count + count % 2)  # Of an odd number one sits out.
    for turn in range(len(order) - 1):
        table = np.concatenate([order[:1], np.roll(order[1:], turn)])
        pairs = np.stack([table, table[::-1]], axis=1)[: len(order) // 2]
        yield pairs[(pairs < count).all(1)]


def check_labels(topology: Topology, setting: Setting, where: str, otherwise: str) -> None:
    """Raise ConfigurationError where data have no classes that a topology could balance."""
    if setting.label_counts is None:
        raise ConfigurationError(
            f"The topology {topology.title()} needs data with classes, to balance them in every {where}. "
            f"Use '{otherwise}' for others."
        )


def distance(
    counts: NDArray[np.integer] | NDArray[np.floating], everywhere: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The L1 distance of the shares of pooled counts from those of all samples."""
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return np.asarray(np.abs(shares - everywhere).sum(-1))


def _pairs_within(cliques: Sequence[Ids]) -> tuple[Ids, Ids]:
    """All pairs of nodes of one clique."""
    pairs = [np.triu_indices(len(clique), 1) for clique in cliques]
    left, right = ([clique[ends[side]] for clique, ends in zip(cliques, pairs, strict=True)] for side in (0, 1))
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
