"""MATCHA (Wang et al., 2019): a round activates random matchings of a graph, useful ones more often.

Shapes: N nodes, E edges, M matchings, V eigenvalues.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize, minimize_scalar

from covey.decentralized.topology.static import is_connected
from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph, Ids
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param

Numbers = NDArray[np.float64]

_TOLERANCE = 1e-3
"""The relative tolerance of the algebraic connectivity below its maximum."""
_DECIMALS = 6
"""The decimals to which probabilities are rounded down, so that hosts with other last bits draw the same rounds."""


class Matcha(Topology):
    """A static graph, decomposed into matchings, of which a round activates some to save messages."""

    kind = "matcha"
    least_nodes = 2
    static = False
    weighted = True
    topology: Topology = param("The graph; static, undirected and connected.")
    budget: float = param("The mean fraction of matchings that are active in a round.", ge=0.001, le=1)
    periodic: bool = param(
        "Whether a round activates all matchings or none, the control, instead of each independently.",
        default=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_labels = self.topology.by_labels  # type: ignore[misc]

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not self.topology.static or self.topology.one_way():
            raise self._wrong("static and undirected", self.topology.title())
        if self.can_be_drawn():
            self._check_graph()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.by_labels:
            self._check_graph()

    def _check_graph(self) -> None:
        graph = self.topology.at(0)
        if not graph.is_undirected:
            raise self._wrong("static and undirected", self.topology.title())
        if not is_connected(graph):
            raise self._wrong("connected", f"{self.topology.title()}, which is not connected,")

    def _wrong(self, expected: str, found: str) -> ConfigurationError:
        return ConfigurationError(f"The 'topology' of {self.named()} must be {expected}. Got {found} instead.")

    def plan(self) -> "Plan":
        """The matchings, probabilities and weight from which rounds are drawn."""
        graph = self.topology.at(0)
        once = graph.sources < graph.targets
        edges = graph.sources[once].tobytes(), graph.targets[once].tobytes()
        return _plan(graph.n, *edges, self.budget, self.periodic)

    def draw(self, setting: Setting, t: int) -> Graph:
        plan, generator = self.plan(), setting.generator(self.kind, t)
        chance = generator.random() if self.periodic else generator.random(len(plan.probability_M))
        active = (chance < plan.probability_M)[plan.matching_E]
        left, right = plan.left_E[active], plan.right_E[active]
        return Graph.undirected(setting.nodes, left, right, weights=np.full(len(left), plan.weight))

    def contraction(self) -> float:
        return self.plan().contraction


@dataclass(frozen=True)
class Plan:
    """The edges of a graph, their matchings, the probabilities of these, and the weight of active edges."""

    left_E: Ids
    right_E: Ids
    matching_E: Ids
    probability_M: Numbers
    """The probability that each matching is active in a round."""
    weight: float
    """The weight that both ends of an active edge give each other."""
    contraction: float
    """The spectral norm of E[W^T W] - J, where J averages all nodes."""


@lru_cache(maxsize=8)
def _plan(n: int, left: bytes, right: bytes, budget: float, periodic: bool) -> Plan:
    left_E, right_E = np.frombuffer(left, np.int64), np.frombuffer(right, np.int64)
    matching_E = matchings(n, left_E, right_E)
    count = int(matching_E.max()) + 1
    probability_M = np.full(count, budget) if periodic else probabilities(n, left_E, right_E, matching_E, budget)
    mean_NN = laplacian(n, left_E, right_E, probability_M[matching_E])
    if periodic:
        square_NN = mean_NN @ mean_NN / budget
    else:
        spread = 2.0 * laplacian(n, left_E, right_E, (probability_M * (1.0 - probability_M))[matching_E])
        square_NN = mean_NN @ mean_NN + spread
    return Plan(left_E, right_E, matching_E, probability_M, *_best_weight(mean_NN, square_NN))


def laplacian(n: int, left_E: Ids, right_E: Ids, weight_E: Numbers) -> Numbers:
    """The N x N Laplacian of a weighted graph, each edge given once."""
    adjacency_NN = np.zeros((n, n))
    adjacency_NN[left_E, right_E] = weight_E
    adjacency_NN += adjacency_NN.T
    return np.diag(adjacency_NN.sum(1)) - adjacency_NN


def _best_weight(mean_NN: Numbers, square_NN: Numbers) -> tuple[float, float]:
    """The weight a for which rounds I - a L contract most, and that contraction, from the means of L and L^2."""
    n = len(mean_NN)
    projection_NN = np.eye(n) - 1.0 / n

    def contraction(weight: float) -> float:
        return float(np.linalg.eigvalsh(projection_NN - 2.0 * weight * mean_NN + weight**2 * square_NN)[-1])

    # The best weight of a direction v is v'E[L]v / v'E[L^2]v, at most 1 over the connectivity of E[L].
    upper = 1.0 / np.linalg.eigvalsh(mean_NN)[1]
    found = minimize_scalar(contraction, bounds=(0.0, upper), method="bounded", options={"xatol": 1e-9 * upper})
    return float(found.x), float(found.fun)


def matchings(n: int, left_E: Ids, right_E: Ids) -> Ids:
    """The matching of each edge, E numbers from 0: at most one more than the largest degree (Misra and Gries).

    Args:
        left_E, right_E: the ends of the edges, each edge once.
    """
    colours = int(np.bincount(np.concatenate([left_E, right_E]), minlength=n).max()) + 1
    at = [[-1] * colours for _ in range(n)]
    """The other end of a node's edge of each colour; -1 if it has none."""

    def paint(node: int, other: int, colour: int) -> None:
        at[node][colour], at[other][colour] = other, node

    for node, first in zip(left_E.tolist(), right_E.tolist(), strict=True):
        shared = next((c for c, ends in enumerate(zip(at[node], at[first], strict=True)) if ends == (-1, -1)), -1)
        if shared >= 0:
            paint(node, first, shared)
            continue
        fan = [first]
        while (following := _next_of_fan(at, node, fan)) >= 0:
            fan.append(following)
        here, there = at[node].index(-1), at[fan[-1]].index(-1)
        _swap_along_path(at, node, here, there)
        # The part of the fan that is still valid, up to a node at which the colour that is free at `node` is free, too.
        taken = [at[node].index(end) for end in fan[1:]]
        last = 0
        while at[fan[last]][there] >= 0:
            last += 1
        for end, colour in zip(fan[1 : last + 1], taken, strict=False):
            at[node][colour] = at[end][colour] = -1
        for end, colour in zip(fan[:last], taken, strict=False):
            paint(node, end, colour)
        paint(node, fan[last], there)
    found_E = np.array([at[node].index(end) for node, end in zip(left_E.tolist(), right_E.tolist(), strict=True)])
    return np.unique(found_E, return_inverse=True)[1]


def _next_of_fan(at: list[list[int]], node: int, fan: list[int]) -> int:
    """A further neighbour whose edge's colour is free at the last node of a fan; -1 if there is none."""
    for colour, end in enumerate(at[node]):
        if end >= 0 and at[fan[-1]][colour] < 0 and end not in fan:
            return end
    return -1


def _swap_along_path(at: list[list[int]], node: int, here: int, there: int) -> None:
    """Swap two colours on their path that begins at a node at which `here` is free. Then `there` is free."""
    path, colour = [node], there
    while (end := at[path[-1]][colour]) >= 0:
        path.append(end)
        colour = here + there - colour
    for end in path:
        at[end][here], at[end][there] = at[end][there], at[end][here]


class _Connectivity:
    """The smoothed algebraic connectivity of the mean graph, concave in the M probabilities.

    Equal eigenvalues have equal weights, so it does not depend on the eigenvectors that a machine finds for them.
    """

    def __init__(self, n: int, left_E: Ids, right_E: Ids, matching_E: Ids) -> None:
        self.n, self.left_E, self.right_E, self.matching_E = n, left_E, right_E, matching_E
        self.count = int(matching_E.max()) + 1

    def at(self, probability_M: Numbers, sharpness: float) -> tuple[float, Numbers, float]:
        """The smoothed connectivity, its gradient (M), and the true one. Greater sharpness smooths less."""
        # Shift the eigenvalue of the constant vector above all others.
        raised_NN = laplacian(self.n, self.left_E, self.right_E, probability_M[self.matching_E])
        values_V, vectors_NV = np.linalg.eigh(raised_NN + (2.0 * self.count + 1.0) / self.n)
        values_V, lowest = values_V[:-1], float(values_V[0])
        share_V = np.exp(sharpness * (lowest - values_V))
        total = float(share_V.sum())
        kept = np.flatnonzero(share_V > 1e-15 * total)
        along_EV = vectors_NV[self.left_E][:, kept] - vectors_NV[self.right_E][:, kept]
        slope_E = along_EV**2 @ (share_V[kept] / total)
        slope_M = np.bincount(self.matching_E, weights=slope_E, minlength=self.count).astype(np.float64)
        return lowest - float(np.log(total)) / sharpness, slope_M, lowest

    def loss(self, probability_M: Numbers, sharpness: float) -> tuple[float, Numbers]:
        """The function to minimise, and its gradient."""
        value, slope_M, _ = self.at(probability_M, sharpness)
        return -value, -slope_M


def probabilities(n: int, left_E: Ids, right_E: Ids, matching_E: Ids, budget: float) -> Numbers:
    """The probabilities of matchings, M, that maximise the algebraic connectivity of the mean graph.

    Args:
        n: the number of nodes.
        left_E, right_E, matching_E: the edges and the matching of each.
        budget: the mean of the probabilities.
    """
    connectivity = _Connectivity(n, left_E, right_E, matching_E)
    count = connectivity.count
    total = budget * count
    spent = LinearConstraint(np.ones((1, count)), ub=total)
    found_M = np.full(count, budget)
    sharpness = 4.0 / connectivity.at(found_M, 1.0)[2]
    for _ in range(12):
        found_M = minimize(
            connectivity.loss,
            found_M,
            args=(sharpness,),
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * count,
            constraints=spent,
            options={"ftol": 1e-6 / sharpness, "maxiter": 200},
        ).x
        _, slope_M, now = connectivity.at(found_M, sharpness)
        # The linear upper bound: the budget goes to the steepest slopes.
        bound = np.sort(slope_M)[::-1] @ np.clip(total - np.arange(count), 0.0, 1.0)
        if bound - now <= _TOLERANCE * now:
            break
        sharpness *= 4.0
    # The small offset prevents rounding down because of floating-point errors.
    rounded_M: Numbers = np.floor(np.clip(found_M, 0.0, 1.0) * 10**_DECIMALS + 0.01) / 10**_DECIMALS
    return rounded_M
