"""Pairwise network accounting: the information of each node's messages about each other node's model.

One round of averaging is linear in models and Gaussian noise, so the joint view of an observer is Gaussian. If the
model of node u moves by a vector of length D, the mean of the view moves, and the observer can tell the two apart as
well as two Gaussians of variance 1 whose means are m apart, with m^2 = D^2 a_u' C^+ a_u. C is the covariance of the
view, and a_u its derivative by the model of u. That is exact, for all messages of the round together. The Renyi
divergence of order alpha is alpha m^2 / 2.

If a_u is not in the range of C, some combination of the messages has no noise but depends on the model of u: m is
infinite.

Shapes: N nodes, M independent noises, K messages of a view, R directions of a view.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from covey.parts.mechanisms import Averaging

Floats = NDArray[np.float64]
_FLAT = 1e-9
"""The singular value, as a fraction of the largest, below which a direction of the view has no noise."""
_OUTSIDE = 1e-5
"""The part of a_u in directions without noise from which on its information is infinite."""


class Views:
    """The views of observers in a round of averaging."""

    def __init__(self, averaging: Averaging) -> None:
        self._averaging = averaging
        mixing = sp.csr_array(averaging.mixing)
        mixing.eliminate_zeros()
        self._mixing, self._n = mixing, mixing.shape[0]
        self._owners, self._noise, self._own = _independent(averaging, mixing)
        identity = sp.eye_array(self._n, format="csr")
        # The models before each step are models @ x + noises @ independent noise.
        self._models, self._noises = [identity], [self._own]
        for step in range(averaging.steps - 1):
            first = step == 0
            factor = 1.0 if first else averaging.factor
            before = max(step - 1, 0)
            self._models.append(self._next(self._models, step, before, factor))
            noises = self._mixed if first else self._next(self._noises, step, before, factor)
            self._noises.append(noises)

    def _next(self, known: Sequence[sp.csr_array], now: int, before: int, factor: float) -> sp.csr_array:
        mixed = self._mixing @ known[now]
        return sp.csr_array(mixed if factor == 1.0 else factor * mixed + (1.0 - factor) * known[before])

    @property
    def _mixed(self) -> sp.csr_array:
        """The noise of models after the first step."""
        if not self._averaging.cancels:
            return sp.csr_array(self._mixing @ self._own)
        coo = self._mixing.tocoo()
        # Row i sums W_ia Z_(a to i), and the noises lie in the order of their senders a.
        order = np.lexsort((coo.row, coo.col))
        rows, weights = coo.row[order], coo.data[order]
        picked = sp.csr_array((weights, (rows, np.arange(len(rows)))), shape=(self._n, len(rows)))
        return sp.csr_array(picked @ self._noise)

    def _messages(self, sender: int, receivers: Sequence[int]) -> sp.csr_array:
        """The noise in the first messages of a node to some nodes."""
        if not self._averaging.cancels:
            return self._own[[sender]]
        mixing = self._mixing.tocsc()
        start = mixing.indptr[sender]
        rows = [start + int(np.searchsorted(_column(mixing, sender), receiver)) for receiver in receivers]
        return self._noise[rows]

    def information(self, observers: Iterable[int]) -> Floats:
        """m^2 of every node's model for some nodes together, N; 0 for themselves. They know their own noise."""
        seen = sorted(set(observers))
        inside = np.zeros(self._n, dtype=bool)
        inside[seen] = True
        neighbours = {
            int(sender): [one for one in seen if self._mixing[sender, one] != 0.0]
            for sender in np.unique(self._mixing[seen].indices)
            if not inside[sender]
        }
        found = np.zeros(self._n)
        if not neighbours:
            return found
        senders = list(neighbours)
        views, noises = [], []
        for sender, receivers in neighbours.items():
            messages = self._messages(sender, receivers)
            noises.append(messages)
            views.append(self._models[0][[sender] * messages.shape[0]])
        for models, noise in zip(self._models[1:], self._noises[1:], strict=True):
            views.append(models[senders])
            noises.append(noise[senders])
        view_KN, noise_KM = sp.vstack(views).toarray(), sp.vstack(noises).tocsc()
        unknown = noise_KM[:, ~inside[self._owners]]
        some = np.flatnonzero(np.diff(unknown.indptr))
        squared = self._averaging.sensitivity**2
        found[:] = squared * _quadratic(view_KN, unknown[:, some].toarray())
        found[inside] = 0.0
        return found


def _column(mixing: sp.csc_array, node: int) -> NDArray[np.int32]:
    """The neighbours of a node and itself, in order."""
    found: NDArray[np.int32] = mixing.indices[mixing.indptr[node] : mixing.indptr[node + 1]]
    return found


def _independent(averaging: Averaging, mixing: sp.csr_array) -> tuple[NDArray[np.int64], sp.csr_array, sp.csr_array]:
    """The owner of each independent noise, M; the noise of each message, by sender and receiver; that of own copies."""
    n = mixing.shape[0]
    if not averaging.cancels:
        own = sp.diags_array(averaging.deviations, format="csr")
        return np.arange(n), own, own
    columns, blocks, kept = mixing.tocsc(), [], []
    owners: list[int] = []
    for node in range(n):
        near = _column(columns, node)
        weights_D = columns.data[columns.indptr[node] : columns.indptr[node + 1]]
        map_DD = np.eye(len(near)) - weights_D[None, :] / (len(near) * weights_D[:, None])
        kept.append(len(owners) + int(np.searchsorted(near, node)))
        owners += [node] * len(near)
        blocks.append(averaging.deviations[node] * map_DD)
    noise = sp.csr_array(sp.block_diag(blocks))
    return np.array(owners), noise, noise[kept]


def _quadratic(view_KN: Floats, noise_KM: Floats) -> Floats:
    """a' C^+ a for each column a of the view, where C is the covariance of the noise; infinite outside of its range."""
    # C is that of the triangle, too, which is smaller if there are more noises than messages.
    triangle: Any = np.linalg.qr(noise_KM.T, mode="r")
    left_KR, singular_R, _ = np.linalg.svd(triangle.T, full_matrices=False)
    noisy_R = singular_R > _FLAT * max(float(singular_R.max(initial=0.0)), 1e-300)
    range_KR = left_KR[:, noisy_R]
    turned_RN = range_KR.T @ view_KN
    outside_N = np.linalg.norm(view_KN - range_KR @ turned_RN, axis=0)
    sizes_N = np.linalg.norm(view_KN, axis=0)
    found: Floats = ((turned_RN / singular_R[noisy_R, None]) ** 2).sum(0)
    found[outside_N > _OUTSIDE * np.maximum(sizes_N, 1e-300)] = np.inf
    return found


def matrix(averaging: Averaging, observers: Sequence[int] | None = None) -> Floats:
    """m^2 of the model of each node (column) for each observer (row), alone; by default for all nodes."""
    views = Views(averaging)
    return np.stack([views.information([one]) for one in (range(views._n) if observers is None else observers)])


def sum_over_steps(averaging: Averaging) -> Floats:
    """The sum by which Cyffers et al. (2022) bound m^2 of the model of each node (column) for each observer (row).

    It adds up what single messages tell, each alone, up to what a node's own noised model tells. All messages together
    may tell more: noise that several of them share can be subtracted.
    """
    mixing, n = averaging.mixing.toarray(), averaging.mixing.shape[0]
    neighbours = (mixing != 0.0) & ~np.eye(n, dtype=bool)
    power, single = np.eye(n), np.zeros((n, n))
    for _ in range(averaging.steps):
        single += power**2 / (power**2 * averaging.deviations**2).sum(1, keepdims=True)
        power = mixing @ power
    summed: Floats = averaging.sensitivity**2 * np.minimum(neighbours @ single, averaging.deviations**-2.0)
    np.fill_diagonal(summed, 0.0)
    return summed


def renyi(alpha: float, information: float) -> float:
    """The Renyi divergence of order alpha of two Gaussians with m^2 = information."""
    return alpha * information / 2.0
