"""The base-(k+1) graph (Takezawa et al., 2023): few peers per round, and the exact mean after some rounds, for every n.

Shapes: N nodes, G groups, S nodes of a group, E pairs.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph, Ids
from covey.parts.parameters import Setting, param


class BaseGraph(Topology):
    """A cycle of graphs, each with at most `degree` peers per node. After a cycle every node has the exact mean."""

    kind = "base-graph"
    static = False
    weighted = True
    degree: int = param("The greatest number of peers of a node in a round.", default=1, ge=1, lt="nodes")

    def draw(self, setting: Setting, t: int) -> Graph:
        graphs = cycle(setting.nodes, self.degree)
        return graphs[t % len(graphs)]


class _Pairs(NamedTuple):
    """Pairs of nodes that exchange models, and the weight that both ends give each other."""

    left_E: Ids
    right_E: Ids
    weight_E: NDArray[np.float64]

    def among(self, groups_GS: Ids) -> "_Pairs":
        """The same pairs in every group, where a node here is a position in a group."""
        weights = np.tile(self.weight_E, len(groups_GS))
        return _Pairs(groups_GS[:, self.left_E].ravel(), groups_GS[:, self.right_E].ravel(), weights)


_Round = list[_Pairs]


@lru_cache(maxsize=8)
def cycle(n: int, degree: int) -> Sequence[Graph]:
    """The graphs of one cycle: the product of their mixing matrices averages all n nodes.

    It is a base graph of fewer nodes inside groups, and then averages across groups, if that is shorter than the simple
    one on all nodes.
    """
    most, rest = degree + 1, n
    for factor in range(2, most + 1):
        while rest % factor == 0:
            rest //= factor
    rounds = _simple(n, most)
    if 1 < rest < n:
        groups_GS = np.arange(n).reshape(-1, rest)
        inside = [[pairs.among(groups_GS) for pairs in together] for together in _simple(rest, most)]
        rounds = min(rounds, inside + [[pairs] for pairs in _averages(groups_GS.T, most)], key=len)
    return [_graph(n, together) for together in rounds]


def _graph(n: int, together: _Round) -> Graph:
    left, right, weights = (np.concatenate(parts) for parts in zip(*together, strict=True))
    return Graph.undirected(n, left, right, weights=weights)


def _factors(size: int, most: int) -> list[int] | None:
    """Factors of at most `most` with the product `size`, smallest first; None if there are none."""
    found = []
    for factor in range(most, 1, -1):
        while size % factor == 0:
            found.append(factor)
            size //= factor
    return found[::-1] if size == 1 else None


def _averages(groups_GS: Ids, most: int) -> list[_Pairs]:
    """The rounds of a hyper-hypercube in every group: nodes whose positions differ in one digit average, by digit."""
    sides = _factors(groups_GS.shape[1], most)
    assert sides is not None
    lattice = groups_GS.reshape(-1, *sides)
    return [_meet(np.moveaxis(lattice, axis, -1).reshape(-1, side)) for axis, side in enumerate(sides, 1)]


def _meet(groups_GS: Ids) -> _Pairs:
    """The pairs with which every group averages."""
    size = groups_GS.shape[1]
    first, second = np.triu_indices(size, 1)
    left, right = groups_GS[:, first].ravel(), groups_GS[:, second].ravel()
    return _Pairs(left, right, np.full(len(left), 1.0 / max(size, 1)))


def _simple(n: int, most: int) -> list[_Round]:
    """The rounds of the simple base graph, which follows the digits of n in base `most`."""
    if _factors(n, most) is not None:
        return [[pairs] for pairs in _averages(np.arange(n)[None], most)]
    # For each digit other than 0, a set of nodes with as many pieces as the digit, each of a power of the base.
    digits = [(n // most**power % most, most**power) for power in reversed(range(n.bit_length()))]
    sets, begin = [], 0
    for digit, size in digits:
        if digit:
            sets.append(np.arange(begin, begin + digit * size).reshape(digit, size))
            begin += digit * size
    wholes = [_averages(pieces.reshape(1, -1), most) for pieces in sets]
    rounds = [[whole[t % len(whole)] for whole in wholes if whole] for t in range(len(wholes[0]))]
    # Each set has its own mean now. In its turn a set meets all later ones. That gives these, and the mean of each of
    # its pieces, the mean of all. Then its pieces average inside.
    insides = [_averages(pieces, most) for pieces in sets]
    for t in range(1 + len(insides[0])):
        together = [
            inside[(t - turn - 1) % len(inside)]
            for turn, inside in enumerate(insides[: min(t, len(sets) - 1)])
            if inside
        ]
        if t < len(sets) - 1:
            later = np.concatenate([pieces.ravel() for pieces in sets[t + 1 :]])
            together += _spread(sets[t], later, most)
        rounds.append(together)
    return rounds


def _spread(pieces_GS: Ids, later: Ids, most: int) -> _Round:
    """Every later node meets one of each piece, and the other nodes of the pieces average in small groups."""
    met, alone = pieces_GS[:, : len(later)], pieces_GS[:, len(later) :].ravel()
    weight = pieces_GS.size / (len(pieces_GS) * (pieces_GS.size + len(later)))
    pairs = _Pairs(np.tile(later, len(pieces_GS)), met.ravel(), np.full(met.size, weight))
    even = len(alone) // most * most
    return [pairs, _meet(alone[:even].reshape(-1, most)), _meet(alone[None, even:])]
