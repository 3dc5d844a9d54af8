"""Topologies: STL-FW against the plain algorithm, the construction of D-Cliques, and random graphs against networkx."""

from collections.abc import Callable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any

import networkx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from covey.decentralized.topology import ErdosRenyi, RandomRegular, SmallWorld, Topology, stl_fw
from covey.decentralized.topology.d_cliques import DCliques
from covey.decentralized.topology.stl_fw import frank_wolfe
from covey.parts.parameters import Setting

NODES, CLASSES, BUDGET, LAMBDA = 1_000, 10, 10, 0.1
MANY, DEGREE = 10_000, 8
TIMES = 3


class _Timed:
    """A function that counts its seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *given: Any) -> Any:
        began = perf_counter()
        result = self.function(*given)
        self.seconds += perf_counter() - began
        return result


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    yield from _learned()
    counts = np.random.default_rng(0).integers(0, 9, (MANY, CLASSES)) + 1
    for nodes in (NODES, MANY):
        for between in ("small-world", "complete"):
            topology = DCliques(size=10, between=between)
            seconds = min(_drawing(topology, nodes, counts[:nodes]) for _ in range(TIMES))
            detail = f"{len(topology.at(0).sources) // 2:,} edges"
            yield [f"D-Cliques of 10, {nodes:,} nodes, {between}: seconds", f"{seconds:.2f}", "", detail]
    chance = DEGREE / (MANY - 1)
    theirs: list[tuple[Topology, Callable[[], Any]]] = [
        (RandomRegular(degree=DEGREE), lambda: networkx.random_regular_graph(DEGREE, MANY, seed=1)),
        (ErdosRenyi(probability=chance, connected=False), lambda: networkx.fast_gnp_random_graph(MANY, chance, seed=1)),
        (
            SmallWorld(neighbours=DEGREE, rewiring=0.1),
            lambda: networkx.connected_watts_strogatz_graph(MANY, DEGREE, 0.1, seed=1),
        ),
    ]
    for topology, make in theirs:
        ours = min(_drawing(topology, MANY) for _ in range(TIMES))
        other = min(_seconds(make) for _ in range(TIMES))
        detail = f"{ours * 1e3:.0f} against {other * 1e3:.0f} ms"
        yield [f"{topology.title()}, {MANY:,} nodes: times faster than networkx", f"{other / ours:.1f}", ">= 1", detail]


def _seconds(function: Callable[[], Any]) -> float:
    began = perf_counter()
    function()
    return perf_counter() - began


def _drawing(topology: Topology, nodes: int, counts: NDArray[np.int64] | None = None) -> float:
    topology.ready(Setting(nodes, 1, label_counts=counts))
    return _seconds(lambda: topology.at(0))


def _learned() -> Iterator[list[str]]:
    shares = np.random.default_rng(0).dirichlet([0.1] * CLASSES, NODES)
    assigning = _Timed(linear_sum_assignment)
    costing = _Timed(stl_fw._cheapest)
    usual = stl_fw.linear_sum_assignment, stl_fw._cheapest
    stl_fw.linear_sum_assignment, stl_fw._cheapest = assigning, costing  # type: ignore[assignment]
    try:
        began = perf_counter()
        iterates = frank_wolfe(shares, LAMBDA, np.random.default_rng(0))
        for steps, weights in enumerate(iterates, 1):  # noqa: B007
            if weights.largest_degree >= BUDGET:
                break
        ours = perf_counter() - began
    finally:
        stl_fw.linear_sum_assignment, stl_fw._cheapest = usual  # type: ignore[assignment]
    plain = _Timed(linear_sum_assignment)
    began = perf_counter()
    matrix = next(islice(_plain(shares, plain), steps - 1, None))
    other = perf_counter() - began
    parts = {
        "covey": {
            "assignments": assigning.seconds,
            "costs": costing.seconds - assigning.seconds,
            "rest": ours - costing.seconds,
        },
        "plain": {"assignments": plain.seconds, "rest": other - plain.seconds},
    }
    detail = "; ".join(
        f"{who}: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in of.items()) for who, of in parts.items()
    )
    what = f"STL-FW, {NODES:,} nodes, budget {BUDGET}, Dirichlet(0.1), {steps} steps"
    yield [f"{what}: times faster than the plain loop", f"{other / ours:.1f}", "> 1", detail]
    sources, targets, values = weights.edges
    learned = np.zeros((NODES, NODES))
    learned[targets, sources] = values
    learned[np.arange(NODES), np.arange(NODES)] = 1 - learned.sum(1)
    reached = [_objective(found, shares) for found in (learned, matrix)]
    detail = f"{reached[0]:.5f} against {reached[1]:.5f}"
    yield [f"{what}: objective over that of the plain loop", f"{reached[0] / reached[1]:.3f}", "<= 1.01", detail]


def _objective(matrix: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    away = ((matrix @ shares - shares.mean(0)) ** 2).sum()
    return float(away + LAMBDA * ((matrix - 1 / len(shares)) ** 2).sum()) / len(shares)


def _plain(shares: NDArray[np.float64], assign: Callable[..., Any]) -> Iterator[NDArray[np.float64]]:
    """The algorithm as the paper has it, with dense matrices."""
    matrix, ids = np.eye(len(shares)), np.arange(len(shares))
    while True:
        gradient = (matrix @ shares - shares.mean(0)) @ shares.T + LAMBDA * (matrix - 1 / len(shares))
        towards = np.zeros_like(matrix)
        towards[ids, assign(gradient)[1]] = 1
        change = towards - matrix
        curve = ((change @ shares) ** 2).sum() + LAMBDA * (change**2).sum()
        matrix = matrix + min(max(-(gradient * change).sum() / curve, 0), 1) * change
        yield matrix
