"""The facts of a graph for `covey check`."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.sparse.linalg import svds

from covey.decentralized.topology.stl_fw import label_shares
from covey.network.graph import Graph

_DENSE = 600
_DIAMETER = 2000
_SPECTRUM = 100_000
"""The greatest number of nodes for which singular values are computed."""


@dataclass(frozen=True)
class GraphFacts:
    """The facts of a graph and of its mixing matrix W. Those of W are None if merging has no fixed weights."""

    nodes: int
    edges: int
    """The number of pairs of an undirected graph, or of directed edges."""
    directed: bool
    components: int
    """The number of (strongly) connected components; 1 means connected."""
    least_degree: int
    mean_degree: float
    largest_degree: int
    """The largest in-degree."""
    diameter: int | None
    """The diameter; None if it is infinite, or the graph is too large to compute it."""
    spectral_gap: float | None
    """1 - the second largest singular value of W. The larger, the faster models converge to each other. None, too, if
    the graph is too large to compute it."""
    doubly_stochastic: bool | None
    noise_left: float | None
    """The mean squared distance from the mean that one merge leaves of independent noise, which has 1 - 1/N before:
    |W - J|^2 / N, where J averages all nodes."""
    node_heterogeneity: float | None
    """The squared distance of a node's class shares from the mean ones, averaged over nodes: |P - JP|^2 / N; None
    without classes."""
    neighbourhood_heterogeneity: float | None
    """The same for the shares of a node and its senders, averaged like their models: |WP - JP|^2 / N."""


def facts(graph: Graph, rule: str | None = "metropolis-hastings", label_counts: np.ndarray | None = None) -> GraphFacts:
    """Compute the facts of a graph.

    Args:
        graph: the graph.
        rule: the rule of merging, for `Graph.mixing`; None without fixed weights.
        label_counts: the samples of each class at each node, N x K, if known.
    """
    mixing = None if rule is None else graph.mixing(rule)
    mixing_NN = graph.mixing("mean") if mixing is None else mixing
    directed = not graph.is_undirected
    components = int(np.max(connected_components(mixing_NN, connection="strong", return_labels=True)[1])) + 1
    alone, together = _heterogeneity(mixing, label_counts)
    diameter = None
    if components == 1 and graph.n <= _DIAMETER:
        diameter = int(shortest_path(graph.mixing("mean").T, unweighted=True).max())
    return GraphFacts(
        nodes=graph.n,
        edges=len(graph.sources) if directed else len(graph.sources) // 2,
        directed=directed,
        components=components,
        least_degree=int(graph.in_degrees.min()),
        mean_degree=float(graph.in_degrees.mean()),
        largest_degree=int(graph.in_degrees.max()),
        diameter=diameter,
        spectral_gap=_spectral_gap(mixing) if mixing is not None and graph.n <= _SPECTRUM else None,
        doubly_stochastic=None if mixing is None else _is_doubly_stochastic(mixing),
        noise_left=None if mixing is None else max(0.0, (float((mixing.data**2).sum()) - 1.0) / graph.n),
        node_heterogeneity=alone,
        neighbourhood_heterogeneity=together,
    )


def _is_doubly_stochastic(mixing: sp.csr_array) -> bool:
    return bool(np.abs(np.asarray(mixing.sum(axis=0)) - 1.0).max() < 1e-9)


def _heterogeneity(mixing: sp.csr_array | None, label_counts: np.ndarray | None) -> tuple[float | None, float | None]:
    """The heterogeneity of nodes, and that of nodes with their senders."""
    if label_counts is None or not label_counts.sum(1).all():
        return None, None
    shares_NK = label_shares(label_counts)
    alone = _distance(shares_NK, shares_NK)
    return alone, None if mixing is None else _distance(mixing @ shares_NK, shares_NK)


def _distance(mixed_NK: np.ndarray, shares_NK: np.ndarray) -> float:
    """The squared distance from the mean shares of all nodes, averaged over nodes."""
    return float(((mixed_NK - shares_NK.mean(0)) ** 2).sum() / len(shares_NK))


def _spectral_gap(mixing: sp.csr_array) -> float:
    n = mixing.shape[0]
    if n == 1:
        return 1.0
    if n <= _DENSE:
        singular = np.linalg.svd(mixing.toarray(), compute_uv=False)
    else:
        singular = np.sort(svds(mixing, k=2, return_singular_vectors=False, random_state=0))[::-1]
    return float(max(0.0, 1.0 - singular[1]))
