"""EquiTopo (Song et al., 2022): circulant graphs of random shifts, whose mixing rate does not depend on the size."""

import math

import numpy as np

from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph, Ids
from covey.parts.parameters import Setting, param


class _EquiTopo(Topology):
    """A graph of shifts. A shift by a gives weight (n - 1) / n to the node that is a ids away, and 1 / n to itself."""

    least_nodes = 2
    weighted = True
    directed: bool = param("Whether a shift is one-way.", default=False)

    def one_way(self) -> bool:
        return self.directed


class EquiTopoStatic(_EquiTopo):
    """U-EquiStatic or, if directed, D-EquiStatic: the mean of some random shifts, drawn once."""

    kind = "equitopo-static"
    shifts: int = param("The number of shifts. A node has up to twice as many neighbours.", ge=1)

    def most_sent(self, nodes: int) -> float:
        return self.shifts

    def draw(self, setting: Setting, t: int) -> Graph:
        n, generator = setting.nodes, setting.generator(self.kind, t)
        shifts = generator.integers(1, n, size=self.shifts)
        while math.gcd(n, *shifts.tolist()) > 1:  # The graph would have this number of components.
            shifts = generator.integers(1, n, size=self.shifts)
        return circulant(n, shifts, self.directed)


class EquiTopoDynamic(_EquiTopo):
    """OU-EquiDyn or, if directed, OD-EquiDyn: one random shift per round, along which a node has one peer.

    Nodes that are a shift apart form cycles. In the undirected form, nodes of a cycle pair up from a random one on, and
    one stays alone if their number is odd.
    """

    kind = "equitopo-dynamic"
    static = False
    eta: float = param("The fraction of a full averaging step that a round makes.", default=0.5, gt=0, le=1)

    def draw(self, setting: Setting, t: int) -> Graph:
        n, generator = setting.nodes, setting.generator(self.kind, t)
        shift, ids = int(generator.integers(1, n)), np.arange(n)
        if self.directed:
            return Graph(n, ids, (ids + shift) % n, np.full(n, self._weight(n)))
        cycles = math.gcd(n, shift)
        length = n // cycles
        first = generator.integers(length, size=(cycles, 1))
        along = ids[:cycles, None] + shift * (first + np.arange(length // 2 * 2))
        left, right = along[:, 0::2].ravel() % n, along[:, 1::2].ravel() % n
        return Graph.undirected(n, left, right, weights=np.full(len(left), self._weight(n)))

    def _weight(self, n: int) -> float:
        return self.eta * (n - 1) / n

    def contraction(self) -> float:
        n, weight = self._setting.nodes, self._weight(self._setting.nodes)
        if self.directed:
            return 1.0 - 2.0 * self.eta + 2.0 * self.eta**2 * (1.0 - 1.0 / n)
        # The mean Laplacian of the pairs is circulant, and W^2 = I - 2 weight (1 - weight) L in every round.
        paired = np.concatenate([[0.0], _paired(n)])
        eigenvalues = 2.0 * (paired.sum() - np.fft.fft(paired).real) / (n - 1)
        return float(1.0 - 2.0 * weight * (1.0 - weight) * eigenvalues[1:].min())


def _paired(n: int) -> np.ndarray:
    """The probability that a node is paired with the one a shift further on, for the shifts 1 .. n - 1."""
    lengths = n // np.gcd(n, np.arange(1, n))
    return np.asarray(lengths // 2 / lengths)


def circulant(n: int, shifts: Ids, directed: bool) -> Graph:
    """The mean of some shifts and, if undirected, of their inverses."""
    share_N = np.bincount(shifts, minlength=n) / len(shifts) * (n - 1) / n
    if not directed:
        share_N = (share_N + share_N[-np.arange(n)]) / 2
    offsets, ids = np.flatnonzero(share_N), np.arange(n)
    targets = (offsets[:, None] + ids) % n
    return Graph(n, np.tile(ids, len(offsets)), targets.ravel(), np.repeat(share_N[offsets], n))
