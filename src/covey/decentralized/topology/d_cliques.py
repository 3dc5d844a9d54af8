"""D-Cliques (Bellet et al., 2022): sparsely connected cliques, each with labels in the proportions of all data.

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
    """Random cliques, with an edge between some pairs of cliques at their least connected nodes."""

    kind = "random-cliques"
    averages = True
    size: int = param("The greatest number of nodes of a clique.", default=10, ge=1)
    between: Literal["complete", "ring", "fractal", "small-world"] = param(
        "The pairs of cliques that are connected: all, neighbours on a ring, cliques of cliques of cliques ..., or "
        "those at distances 1, 2, 4 ... and one more on a ring.",
        default="complete",
    )

    def most_sent(self, nodes: int) -> float:
        return min(self.size, nodes) + (nodes / self.size**2 if self.between == "complete" else 1)

    def averaging(self) -> Topology:
        """The cliques without the edges between them."""
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
        """The edges between cliques. Both ends are the nodes of their clique with the fewest such edges so far."""
        if self.between == "fractal":
            labels = 10 if setting.label_counts is None else setting.label_counts.shape[1]
            return _ends_of_groups(_fractal(list(cliques), max(labels, 2)), setting.nodes)
        pairs = {"complete": _complete, "ring": _ring, "small-world": _small_world}[self.between](len(cliques))
        return _ends_in_turn(cliques, pairs)


class DCliques(RandomCliques):
    """Cliques with labels in the proportions of all data, made by swapping nodes of random cliques."""

    kind = "d-cliques"
    by_labels = True
    swaps: int | None = param(
        "The attempts of two cliques to swap a node. By default, until no swap helps, at most 100 per clique.",
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
"""Attempts per clique. Ten cliques have the paper's 1,000 attempts. 1,000 cliques of 10 nodes get from a mean skew of
0.517 to 0.032 in 2.7 s, and to 0.397 with 1,000 attempts."""


def skew(cliques: Sequence[Ids], counts_NL: NDArray[np.int64]) -> NDArray[np.float64]:
    """The skew of each clique, K: the L1 distance of its class shares from those of all samples."""
    everywhere = counts_NL.sum(0) / counts_NL.sum()
    pooled_KL = np.array([counts_NL[clique].sum(0) for clique in cliques])
    return distance(pooled_KL, everywhere)


def dealt(counts_NL: NDArray[np.int64], size: int, generator: np.random.Generator) -> list[Ids]:
    """Cliques of nodes with one class each, in which the counts of classes differ by at most one."""
    order = generator.permutation(len(counts_NL))
    by_class = order[np.argsort(counts_NL[order].argmax(1), kind="stable")]
    count = -(-len(order) // size)
    return [by_class[first::count].copy() for first in range(count)]


def swap_greedily(
    cliques: Sequence[Ids], counts_NL: NDArray[np.int64], steps: int, generator: np.random.Generator
) -> None:
    """Swap, in place, one random pair of nodes of two cliques in each step, among the pairs that reduce their skew.

    Pairs of cliques are random; every pair has its turn before any repeats. Disjoint pairs are computed together. It
    ends when no swap of any pair reduces the skew.
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
    """The cliques during swaps. Short ones are padded with a node without samples that stays."""

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
        """True if the skew is zero."""
        return bool(self._skew_K.max() < 1e-12)

    def swap(self, pairs: Ids) -> int:
        """Swap in disjoint pairs of cliques, and return the number of swaps."""
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
"""The numbers that are computed at a time: 1 MB, which stays in the cache."""


def _meetings(count: int, generator: np.random.Generator) -> Iterator[Ids]:
    """A round-robin of numbers: pairs of a round are disjoint, and over all rounds every pair occurs once."""
    order = generator.permutation(count + count % 2)  # With an odd count, one is without a partner.
    for turn in range(len(order) - 1):
        table = np.concatenate([order[:1], np.roll(order[1:], turn)])
        pairs = np.stack([table, table[::-1]], axis=1)[: len(order) // 2]
        yield pairs[(pairs < count).all(1)]


def check_labels(topology: Topology, setting: Setting, where: str, otherwise: str) -> None:
    """Raise ConfigurationError if the data have no classes that a topology could balance."""
    if setting.label_counts is None:
        raise ConfigurationError(
            f"The topology {topology.title()} needs data with classes, to balance them in every {where}. "
            f"Use '{otherwise}' for others."
        )


def distance(
    counts: NDArray[np.integer] | NDArray[np.floating], everywhere: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The L1 distance of the class shares of pooled counts from those of all samples."""
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return np.asarray(np.abs(shares - everywhere).sum(-1))


def _pairs_within(cliques: Sequence[Ids]) -> tuple[Ids, Ids]:
    """All pairs of nodes of one clique."""
    pairs = [np.triu_indices(len(clique), 1) for clique in cliques]
    left, right = ([clique[ends[side]] for clique, ends in zip(cliques, pairs, strict=True)] for side in (0, 1))
    return np.concatenate(left), np.concatenate(right)


def _ends_in_turn(cliques: Sequence[Ids], pairs: Ids) -> tuple[Ids, Ids]:
    """The end nodes of edges between cliques. A clique uses its nodes in turn, which have the fewest edges so far.

    With 1,000 cliques, all connected, this takes 0.1 s, and a search for the fewest 1.3 s.
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
    """The same for overlapping groups, one pair after the other."""
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
    """Pairs of groups. `width` connected groups become one group of the next level."""
    while len(groups) > 1:
        together = [groups[at : at + width] for at in range(0, len(groups), width)]
        for united in together:
            yield from combinations(united, 2)
        groups = [np.concatenate(united) for united in together]
