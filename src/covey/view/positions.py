"""Positions of the nodes of a graph in a picture: a function of the graph, within a unit circle or a rectangle.

Shapes: N nodes, K groups, E edges, Q nodes that push in a step, S nodes from which distances are measured.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from covey.network.graph import Graph, Ids

Floats = NDArray[np.float64]

_ON_A_CIRCLE = 64
"""The greatest number of nodes of any graph that are placed on a circle."""
_FOLDED = 200
"""A ring of more nodes than this is folded, because nodes would overlap on a circle."""
_STEPS = 80
_PUSHES = 300_000
"""The approximate number of repelling pairs in a step. It bounds memory and time."""
_PIVOTS = 50


def positions(graph: Graph, main_N: Ids | None = None) -> Floats:
    """The position of each node, N x 2: grids in rows, groups together, rings closed, others near their neighbours.

    Args:
        graph: the graph.
        main_N: the sort key of the nodes of a group; by default, their ids.
    """
    ids = np.arange(graph.n)
    columns = columns_of(graph)
    if columns is not None:
        row_N, column_N = np.divmod(ids, columns)
        return np.stack([column_N, -row_N], axis=1) * 2.0 / max(columns, graph.n // columns)
    if len(graph.groups) > 1:
        main_N = ids if main_N is None else main_N
        alone = np.setdiff1d(ids, np.concatenate(graph.groups))
        groups = [members[np.argsort(main_N[members], kind="stable")] for members in graph.groups]
        return _in_groups(graph.n, [*groups, *alone[:, None]])
    degrees_N = graph.in_degrees + graph.out_degrees
    if graph.n > 3 and len(graph.sources) == degrees_N.max() == 2 * (graph.n - 1):
        position_N2 = np.zeros((graph.n, 2))
        position_N2[ids != degrees_N.argmax()] = _circle(graph.n - 1)
        return position_N2
    steps_E = (graph.targets - graph.sources) % graph.n
    around = len(np.unique(graph.sources[steps_E == 1])) + len(np.unique(graph.targets[steps_E == graph.n - 1]))
    if graph.n <= _ON_A_CIRCLE or around > graph.n / 2:
        return _folded(graph.n) if graph.n > _FOLDED and len(graph.sources) <= 2 * graph.n else _circle(graph.n)
    return _spread(graph)


def columns_of(graph: Graph) -> int | None:
    """The columns of a grid or torus whose nodes are in row-major order; None if the graph is neither."""
    step_E = np.abs(graph.targets - graph.sources)
    for columns in (int(step) for step in np.unique(step_E)[:4] if step > 1 and graph.n % step == 0 and step < graph.n):
        (row_E, column_E), (to_row_E, to_column_E) = (
            np.divmod(graph.sources, columns),
            np.divmod(graph.targets, columns),
        )
        down_E, right_E = np.abs(to_row_E - row_E), np.abs(to_column_E - column_E)
        near_E = down_E + right_E == 1
        rows = graph.n // columns
        wraps_E = ((down_E == 0) & (right_E == columns - 1)) | ((right_E == 0) & (down_E == rows - 1))
        if (near_E | wraps_E).all() and near_E.sum() == 2 * (rows * (columns - 1) + (rows - 1) * columns):
            return columns
    return None


def nearest(position_N2: Floats) -> float:
    """The distance to the nearest node that 90 % of the nodes exceed."""
    if len(position_N2) < 2:
        return 1.0
    distances_N2 = np.asarray(cKDTree(position_N2).query(position_N2, k=2)[0])
    return float(np.quantile(distances_N2[:, 1], 0.1))


def _circle(count: int) -> Floats:
    """Positions on a circle, clockwise from its top."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(count) / max(count, 1)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _folded(count: int) -> Floats:
    """Positions on a closed wavy curve, at equal distances along it."""
    turn = np.linspace(0, 2 * np.pi, 20_000)
    radius = 0.75 + 0.25 * np.cos(round(count**0.5) * turn)
    curve = np.stack([radius * np.sin(turn), radius * np.cos(turn)], axis=1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.arange(count) * length[-1] / count
    return np.stack([np.interp(at, length, curve[:, axis]) for axis in (0, 1)], axis=1)


def _in_groups(n: int, groups: Sequence[Ids]) -> Floats:
    """Positions on small circles, one per group. The groups are on a large circle, or on several if they are many."""
    count = len(groups)
    rings = max(1, round((count / 10) ** 0.5))
    slots = -(-count // rings) * rings
    turn = 2 * np.pi * rings / slots
    # On the innermost circle, the distance between groups is that between circles.
    gap = turn / (1 + turn * (rings - 1))
    slot_K = np.arange(count)
    centre_K2 = _circle(slots)[:count] * (1 - gap * (slot_K % rings))[:, None]
    radius = 0.36 * min(nearest(centre_K2), 1.0)
    position_N2 = np.zeros((n, 2))
    for centre, members in zip(centre_K2, groups, strict=True):
        position_N2[members] = centre + (radius * _circle(len(members)) if len(members) > 1 else 0.0)
    return position_N2


def _spread(graph: Graph) -> Floats:
    """Positions by the forces of Fruchterman and Reingold, starting from `_by_distance`."""
    n = graph.n
    ones = np.ones(len(graph.sources), dtype=np.float32)
    joined_NN = sp.csr_array((ones, (graph.sources, graph.targets)), shape=(n, n))
    joined_NN = ((joined_NN + joined_NN.T) > 0).astype(np.float32)
    pull_N1 = np.maximum(joined_NN.sum(axis=1), 1)[:, None]
    position_N2 = _by_distance(joined_NN).astype(np.float32)
    wish = (np.pi / n) ** 0.5
    stride = -(-n * n // _PUSHES)
    for step in range(_STEPS):
        pushing_Q2 = position_N2[step % stride :: stride]
        away_NQ2 = position_N2[:, None] - pushing_Q2[None]
        square_NQ = np.maximum(np.einsum("nqd,nqd->nq", away_NQ2, away_NQ2), 1e-6)
        move_N2 = stride * wish**2 * np.einsum("nqd,nq->nd", away_NQ2, 1 / square_NQ)
        # The pull is normalised to two edges per node, so that the degree does not change the size of the picture.
        length_E1 = np.linalg.norm(position_N2[graph.sources] - position_N2[graph.targets], axis=1)
        pulls_NN = sp.csr_array((length_E1 / wish, (graph.sources, graph.targets)), shape=(n, n))
        pulls_NN = pulls_NN + pulls_NN.T
        move_N2 += (pulls_NN @ position_N2 - pulls_NN.sum(axis=1)[:, None] * position_N2) * 2 / pull_N1
        far_N1 = np.linalg.norm(move_N2, axis=1, keepdims=True)
        position_N2 = position_N2 + move_N2 / np.maximum(far_N1, 1e-9) * np.minimum(far_N1, 0.15 * (1 - step / _STEPS))
    position_N2 = position_N2 - position_N2.mean(axis=0)
    # Halfway to a disc of uniform density: otherwise the middle is crowded.
    far_N = np.linalg.norm(position_N2, axis=1)
    even_N = ((far_N.argsort().argsort() + 0.5) / n) ** 0.5
    return np.asarray(position_N2 * ((far_N / far_N.max() + even_N) / 2 / np.maximum(far_N, 1e-9))[:, None], np.float64)


def _by_distance(joined_NN: sp.csr_array) -> Floats:
    """Positions whose distances approximate those along edges, by pivot multidimensional scaling (Brandes and Pich)."""
    n = joined_NN.shape[0]
    pivots = np.unique(np.linspace(0, n - 1, min(_PIVOTS, n)).astype(int))
    distance_NS = dijkstra(joined_NN, unweighted=True, indices=pivots).T
    finite = np.isfinite(distance_NS)
    distance_NS[~finite] = distance_NS[finite].max() + 1
    square_NS = distance_NS**2
    square_NS = square_NS - square_NS.mean(axis=0) - square_NS.mean(axis=1, keepdims=True) + square_NS.mean()
    _, _, axes = np.linalg.svd(square_NS, full_matrices=False)
    position_N2 = np.zeros((n, 2))
    position_N2[:, : min(2, len(axes))] = square_NS @ axes[:2].T
    position_N2 *= np.sign(position_N2[np.abs(position_N2).argmax(axis=0), [0, 1]])
    # A small offset separates nodes with equal distances.
    apart = _circle(n) * 1e-3
    return np.asarray(position_N2 / max(np.abs(position_N2).max(), 1e-9) + apart)
