"""STL-FW (Le Bars et al., 2023): edges and weights that are learned from the labels of nodes.

It is the Frank-Wolfe algorithm over doubly stochastic matrices W. Each step mixes in the permutation along which the
objective falls most, so after s steps no node has more than s neighbours in either direction.

Shapes: N nodes, K classes, S permutations, R some rows of N.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph, Ids
from covey.parts.errors import ConfigurationError, ConfigurationWarning
from covey.parts.parameters import Setting, param

Floats = NDArray[np.float64]

_SHORTEST_STEP = 1e-9
"""The shortest step: a shorter one would give edges without weight."""
_ROWS = 32
"""The rows of a cost matrix that are computed at a time: they stay in the cache, which is 2.5 times as fast."""
_GRID = 0.02
"""The fraction of their spread to which the costs of an assignment are rounded; see `_cheapest`."""


class STLFW(Topology):
    """The directed weighted graph in which the senders of a node have nearly the labels of all data."""

    kind = "stl-fw"
    by_labels = True
    weighted = True
    budget: int = param("The greatest number of a node's receivers, and of its senders.", ge=1, lt="nodes")
    regularization: float = param(
        "The weight of equal weights against equal labels: the paper's lambda.", default=0.1, gt=0, le=1e6
    )
    steps: int = param("The greatest number of steps, unless the budget ends them before.", default=100, ge=1)
    until_connected: bool = param("Whether to continue beyond the budget until the graph is connected.", default=False)

    def one_way(self) -> bool:
        return True

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if setting.label_counts is None:
            raise ConfigurationError(
                f"The topology {self.title()} needs data with classes, to balance them among the senders of a node."
            )

    def draw(self, setting: Setting, t: int) -> Graph:
        assert setting.label_counts is not None
        learned, missing = Permutations.identity(setting.nodes), f"more 'steps' than {self.steps}"
        shares_NK = label_shares(setting.label_counts)
        iterates = frank_wolfe(shares_NK, self.regularization, setting.generator(self.kind, t))
        for candidate in islice(iterates, self.steps):
            if candidate.largest_degree > self.budget and not (self.until_connected and learned.components > 1):
                missing = f"a higher 'budget' than {self.budget}, or until_connected = true"
                break
            learned = candidate
        if learned.components > 1:
            warnings.warn(
                f"The graph of {self.named()} has {learned.components} unconnected parts. Give it {missing}.",
                ConfigurationWarning,
                stacklevel=2,
            )
        return Graph(setting.nodes, *learned.edges)


@dataclass(frozen=True)
class Permutations:
    """A doubly stochastic N x N matrix W, stored as a mixture of permutations."""

    permutation_SN: Ids
    """The column of the 1 in each row of each permutation."""
    coefficients_S: Floats
    """The coefficients, above 0 and with the sum 1."""

    @classmethod
    def identity(cls, n: int) -> "Permutations":
        """The matrix of nodes without senders."""
        return cls(np.arange(n)[None], np.ones(1))

    def towards(self, permutation_N: Ids, step: float) -> "Permutations":
        """The matrix after a step in [0, 1] towards a permutation."""
        permutation_SN, coefficients_S = self.permutation_SN, self.coefficients_S * (1.0 - step)
        if step == 1.0:
            permutation_SN, coefficients_S = permutation_SN[:0], coefficients_S[:0]
        return Permutations(np.vstack([permutation_SN, permutation_N]), np.append(coefficients_S, step))

    def at(self, permutation_N: Ids) -> Floats:
        """One entry of each row, N."""
        found = np.zeros(len(permutation_N))
        for indices, coefficient in zip(self.permutation_SN, self.coefficients_S, strict=True):
            found += coefficient * (indices == permutation_N)
        return found

    @cached_property
    def edges(self) -> tuple[Ids, Ids, Floats]:
        """The sources, targets and weights of the non-zero entries off the diagonal. Row i has the senders of i."""
        n = self.permutation_SN.shape[1]
        codes, which = np.unique(np.arange(n) * n + self.permutation_SN, return_inverse=True)
        weights = np.bincount(which.ravel(), weights=np.repeat(self.coefficients_S, n))
        targets, sources = codes // n, codes % n
        others = sources != targets
        return sources[others], targets[others], weights[others]

    @cached_property
    def largest_degree(self) -> int:
        """The largest in-degree or out-degree."""
        sources, targets, _ = self.edges
        return int(max(np.bincount(ends).max(initial=0) for ends in (sources, targets)))

    @cached_property
    def components(self) -> int:
        """The number of components of the graph."""
        # In a doubly stochastic matrix, edges that leave a set of nodes also lead back into it.
        sources, targets, weights = self.edges
        n = self.permutation_SN.shape[1]
        count, _ = connected_components(sp.csr_array((weights, (targets, sources)), shape=(n, n)), directed=False)
        return int(count)


def label_shares(counts_NK: NDArray[np.int64]) -> Floats:
    """The share of each class at each node.

    Raises:
        ConfigurationError: a node holds no samples.
    """
    held_N = counts_NK.sum(1)
    if not held_N.all():
        raise ConfigurationError(
            f"Every node must hold samples, so that labels can be balanced. Node {int(held_N.argmin())} has none."
        )
    return np.asarray(counts_NK / held_N[:, None], dtype=np.float64)


def frank_wolfe(shares_NK: Floats, regularization: float, generator: np.random.Generator) -> Iterator[Permutations]:
    """The matrices W after each step from the identity, until no step improves the objective.

    With the mean P of the rows of `shares_NK` in every row, a step reduces

        1/N |W shares - P|^2 + regularization/N |W - 1/N|^2

    Args:
        shares_NK: the share of each class at each node.
        regularization: lambda, above 0.
        generator: decides between equally good permutations.

    Raises:
        ConfigurationError: a row does not consist of shares.
    """
    fits_N = np.isfinite(shares_NK).all(1) & (shares_NK >= 0).all(1) & (np.abs(shares_NK.sum(1) - 1) < 1e-6)
    if not fits_N.all():
        bad = int(fits_N.argmin())
        raise ConfigurationError(
            f"Every row of label shares must be numbers of at least 0 with the sum 1. Row {bad} is {shares_NK[bad]}."
        )
    n = len(shares_NK)
    everywhere_K, mixed_NK = shares_NK.mean(0), shares_NK
    weights, squares = Permutations.identity(n), float(n)
    while True:
        permutation_N = _cheapest(weights, mixed_NK - everywhere_K, shares_NK, regularization, generator.permutation(n))
        overlap = float(weights.at(permutation_N).sum())
        change_NK = shares_NK[permutation_N] - mixed_NK
        gain = ((everywhere_K - mixed_NK) * change_NK).sum() - regularization * (overlap - squares)
        length = (change_NK**2).sum() + regularization * (n - 2 * overlap + squares)
        if gain <= _SHORTEST_STEP * length:
            return
        step = min(float(gain / length), 1.0)
        weights = weights.towards(permutation_N, step)
        mixed_NK = mixed_NK + step * change_NK
        squares = (1 - step) ** 2 * squares + 2 * step * (1 - step) * overlap + step**2 * n
        yield weights


def _cheapest(weights: Permutations, excess_NK: Floats, shares_NK: Floats, regularization: float, order_N: Ids) -> Ids:
    """The permutation along which the objective falls most. The order of columns decides between equal ones.

    Every host computes the graph itself, so sums must have the same order everywhere, which BLAS does not guarantee.
    """
    n = len(shares_NK)
    cost, term = np.zeros((n, n)), np.empty((_ROWS, n))
    # A random order of ties makes a graph that mixes well: with 100 nodes of two shards each and a budget of 10, the
    # second singular value of W is 0.59, and 0.68 with columns in their given order.
    shares_KN = np.ascontiguousarray(shares_NK[order_N].T)
    for first in range(0, n, _ROWS):
        rows = cost[first : first + _ROWS]
        for excess_R, shares_N in zip(excess_NK[first : first + _ROWS].T, shares_KN, strict=True):
            rows += np.multiply.outer(excess_R, shares_N, out=term[: len(rows)])
    column_N = np.argsort(order_N)
    for indices, coefficient in zip(weights.permutation_SN, weights.coefficients_S, strict=True):
        cost[np.arange(n), column_N[indices]] += regularization * coefficient
    spread = float(cost.std())
    cost -= cost.min(1, keepdims=True)
    cost -= cost.min(0)
    # Costs of low rank are slow for scipy: with 1,000 nodes and Dirichlet(0.1) labels, twelve assignments take 3.3 s,
    # 2.2 s after subtracting the minima, and 1.2 s with rounded costs. The objective is the same after every
    # step to 0.3 %; see bench/topologies.py.
    grid = _GRID * min(spread, regularization)
    if grid > 0:
        cost /= grid
        np.rint(cost, out=cost)
    return np.asarray(order_N[linear_sum_assignment(cost)[1]], dtype=np.int64)
