"""The graph of a round: its edges and their weights.

Shapes: N nodes, E directed edges.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from covey.parts.nodes import NodeId

if TYPE_CHECKING:
    import scipy.sparse as sp

Ids = NDArray[np.int64]


class Graph:
    """A directed graph over 0 .. n-1 without self-loops or repeated edges; immutable.

    Args:
        n: the number of nodes.
        sources, targets: E edges, each a message from its source to its target.
        weights: the weight that the target gives to the source's model, if the topology has weights.
        groups: the groups of nodes, if the topology has groups.
    """

    def __init__(
        self,
        n: int,
        sources: Ids,
        targets: Ids,
        weights: NDArray[np.float64] | None = None,
        groups: Sequence[Ids] = (),
    ) -> None:
        self.groups = groups
        self.n = n
        self.weights: NDArray[np.float64] | None = None
        sources, targets = np.asarray(sources, dtype=np.int64), np.asarray(targets, dtype=np.int64)
        # One number for each edge sorts in a fifth of the time of two. Wrong ids, which a topology of a user's own may
        # draw, must stay themselves, so that an error can name them.
        least, most = min(0, sources.min(initial=0), targets.min(initial=0)), max(n - 1, sources.max(initial=0))
        codes = (targets - least) * (most - least + 1) + (sources - least)
        if weights is None:
            codes.sort()
        else:
            order = np.argsort(codes, kind="stable")
            codes, self.weights = codes[order], np.asarray(weights, dtype=np.float64)[order]
        self.targets: Ids = codes // (most - least + 1)
        self.sources: Ids = codes - self.targets * (most - least + 1)
        if least:
            self.targets, self.sources = self.targets + least, self.sources + least
        for array in (self.sources, self.targets, self.weights):
            if array is not None:
                array.setflags(write=False)

    @classmethod
    def undirected(
        cls,
        n: int,
        left: Ids,
        right: Ids,
        groups: Sequence[Ids] = (),
        weights: NDArray[np.float64] | None = None,
    ) -> "Graph":
        """The graph with both directions of every given pair. Pairs may repeat, and loops are dropped.

        Args:
            n: the number of nodes.
            left, right: the nodes of each pair.
            groups: the groups of nodes, if there are any.
            weights: the weight of each pair, for both directions. The weights of repeated pairs are added.
        """
        low, high = np.minimum(left, right), np.maximum(left, right)
        distinct = low != high
        codes = low[distinct].astype(np.int64) * n + high[distinct]
        both: NDArray[np.float64] | None = None
        if weights is None:
            codes.sort()  # `np.unique` of numbers alone takes 30 times as long (numpy 2.4).
            codes = codes[np.diff(codes, prepend=-1) > 0]
        else:
            codes, pair = np.unique(codes, return_inverse=True)
        low = codes // n
        high = codes - low * n
        if weights is not None:
            both = np.tile(np.bincount(pair, weights=weights[distinct], minlength=len(codes)).astype(np.float64), 2)
        return cls(n, np.concatenate([low, high]), np.concatenate([high, low]), both, groups)

    def weighted(self, weights: NDArray[np.float64] | None) -> "Graph":
        """The same graph with other weights, one for each edge in its order. It shares the edges."""
        found = copy.copy(self)
        for name in ("_given", "_metropolis"):
            found.__dict__.pop(name, None)
        found.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        if found.weights is not None and found.weights is not self.weights:
            found.weights.setflags(write=False)
        return found

    @cached_property
    def in_degrees(self) -> Ids:
        """The number of senders of each node, N."""
        return np.bincount(self.targets, minlength=self.n).astype(np.int64)

    @cached_property
    def out_degrees(self) -> Ids:
        """The number of receivers of each node, N."""
        return np.bincount(self.sources, minlength=self.n).astype(np.int64)

    @cached_property
    def is_undirected(self) -> bool:
        """True if every edge has its reverse."""
        forward = np.sort(self.sources * self.n + self.targets)
        return bool(np.array_equal(forward, np.sort(self.targets * self.n + self.sources)))

    @cached_property
    def _senders(self) -> list[tuple[NodeId, ...]]:
        return _grouped(self.sources, self.in_degrees)

    @cached_property
    def _receivers(self) -> list[tuple[NodeId, ...]]:
        order = np.lexsort(((self.targets - self.sources) % self.n, self.sources))
        return _grouped(self.targets[order], self.out_degrees)

    def senders(self, node: int) -> Sequence[NodeId]:
        """The nodes that send to `node`, in increasing order."""
        return self._senders[node]

    def receivers(self, node: int) -> Sequence[NodeId]:
        """The nodes that `node` sends to, in cyclic order after `node`, so that not all nodes begin with the same."""
        return self._receivers[node]

    @property
    def metropolis_weights(self) -> NDArray[np.float64]:
        """The Metropolis-Hastings weight of each edge, E."""
        degrees = self.in_degrees
        return np.asarray(1.0 / (1.0 + np.maximum(degrees[self.sources], degrees[self.targets])), dtype=np.float64)

    @property
    def own_weights(self) -> NDArray[np.float64]:
        """The weight that each node gives to itself, N: 1 minus the sum of the weights of its senders, in order."""
        assert self.weights is not None
        return np.asarray(1.0 - np.bincount(self.targets, weights=self.weights, minlength=self.n), dtype=np.float64)

    @cached_property
    def _metropolis(self) -> list[tuple[float, ...]]:
        return _grouped(self.metropolis_weights, self.in_degrees)

    def metropolis(self, node: int) -> Sequence[float]:
        """The Metropolis-Hastings weight of each of `senders(node)`. The own weight is 1 minus their sum."""
        return self._metropolis[node]

    @cached_property
    def _given(self) -> list[tuple[float, ...]]:
        assert self.weights is not None
        return _grouped(self.weights, self.in_degrees)

    def given(self, node: int) -> Sequence[float]:
        """The topology's weight of each of `senders(node)`. The own weight is 1 minus their sum."""
        return self._given[node]

    def mixing(self, rule: str = "metropolis-hastings") -> "sp.csr_array":
        """The N x N mixing matrix. Row i holds the weights that node i gives.

        Args:
            rule: "metropolis-hastings", "mean" (equal weights on the own model and each that arrives) or "given".
        """
        if rule == "mean":
            values = 1.0 / (1.0 + self.in_degrees[self.targets])
        elif rule == "given":
            assert self.weights is not None
            values = self.weights
        else:
            values = self.metropolis_weights
        own = 1.0 - np.bincount(self.targets, weights=values, minlength=self.n)
        ids = np.arange(self.n)
        rows, columns = np.concatenate([self.targets, ids]), np.concatenate([self.sources, ids])
        import scipy.sparse as sp

        return sp.csr_array((np.concatenate([values, own]), (rows, columns)), shape=(self.n, self.n))

    def merging(self) -> "sp.csr_array":
        """The N x N mixing matrix of `weights`: in each row the own weight, then those of the senders in order, as
        mixtures of models are added."""
        assert self.weights is not None
        import scipy.sparse as sp

        edges, index = len(self.sources), np.int32 if self.n + len(self.sources) < 1 << 31 else np.int64
        ends = np.zeros(self.n + 1, dtype=index)
        np.cumsum(self.in_degrees + 1, out=ends[1:])
        columns, values = np.empty(edges + self.n, dtype=index), np.empty(edges + self.n)
        columns[ends[:-1]], values[ends[:-1]] = np.arange(self.n), self.own_weights
        # The k-th edge comes after the own weights of its target and of all nodes before it.
        at = self.targets + np.arange(1, edges + 1)
        columns[at], values[at] = self.sources, self.weights
        return sp.csr_array((values, columns, ends), shape=(self.n, self.n))


def _grouped(values: NDArray[np.generic], counts: Ids) -> list[tuple[Any, ...]]:
    flat = tuple(values.tolist())
    ends = np.cumsum(counts).tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


class Graphs(Protocol):
    """A source of the graph of every round."""

    weighted: ClassVar[bool]
    """True if its graphs have weights."""

    @classmethod
    def title(cls) -> str:
        """The name in messages to the user."""

    def one_way(self) -> bool:
        """True if some node may send to one that does not send back."""

    def can_be_drawn(self) -> bool:
        """True if everything that the graph depends on is known."""

    def at(self, t: int) -> Graph:
        """The graph of round t."""
