"""AdaSGD (Damaskinos et al., 2020): stale gradients are dampened, and those of rare labels less.

A gradient of staleness tau has the weight min(1, L(tau) / sim). L(tau) = exp(-beta tau) meets the inverse rule
1 / (tau + 1) at half of tau_thres, the staleness that a share s of the gradients so far does not exceed. sim is the
Bhattacharyya coefficient of the labels of its mini-batch and of all labels that the model has seen.

Shapes: K gradients, C classes, T values of staleness.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from covey.federated.staleness import Inverse, Staleness
from covey.parts.parameters import Part, param

Floats = NDArray[np.float64]
LONGEST = 1023
"""The greatest staleness with a place of its own in the histogram."""
_LEAST_SIMILARITY = 1e-6
_INVERSE = Inverse()


@dataclass
class History:
    """The gradients that a model has seen. Its size does not grow with them."""

    classes: int
    staleness: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LONGEST + 1, dtype=np.int64))
    """The number of gradients of each staleness, T."""
    labels: Floats = field(init=False)
    """The number of samples of each class, by the weights of their gradients if these count, C."""

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.classes)


class AdaSGD(Part):
    """The weights of gradients, by their staleness and their labels."""

    kind = "weights"
    handles_arrays = False
    dampening: Staleness | None = param(
        "A rule in place of AdaSGD's: the weight depends on nothing but the staleness.", default=None
    )
    boost: bool = param("Whether gradients of rare labels are dampened less.", default=True)
    s: float = param(
        "The percentile of the staleness up to which a client is no straggler.", default=99.7, gt=0, le=100
    )
    bootstrap: int = param("The gradients before s is taken. Until then, L is the inverse rule.", default=100, ge=1)
    clamp_at_threshold: bool = param("Whether L of a straggler is L of tau_thres.", default=False)
    histogram: Literal["seen", "applied-weight"] = param(
        "The share of a gradient's labels that counts as seen: all, or its weight.", default="seen"
    )

    def threshold(self, history: History) -> int | None:
        """tau_thres; None before enough gradients."""
        cumulative = np.cumsum(history.staleness)
        if cumulative[-1] < self.bootstrap:
            return None
        return int(np.searchsorted(cumulative, self.s / 100.0 * cumulative[-1]))

    def dampened(self, staleness: int, threshold: int | None) -> float:
        """L of a staleness."""
        if threshold is None:
            return _INVERSE.weight(staleness)
        if self.clamp_at_threshold:
            staleness = min(staleness, threshold)
        return math.exp(-beta(threshold) * staleness)

    def weights(self, history: History, staleness: Sequence[int], label_counts: NDArray[np.int64]) -> Floats:
        """The weights of K gradients that are applied together.

        Args:
            history: the gradients before.
            staleness: the staleness of each.
            label_counts: the labels of each one's mini-batch, K x C.
        """
        if self.dampening is not None:
            return np.array([self.dampening.weight(one) for one in staleness])
        threshold = self.threshold(history)
        found = np.array([self.dampened(one, threshold) for one in staleness])
        if not self.boost:
            return found
        return np.minimum(1.0, found / np.maximum(similarity(label_counts, history.labels), _LEAST_SIMILARITY))

    def add(
        self, history: History, staleness: Sequence[int], label_counts: NDArray[np.int64], weights: Floats
    ) -> History:
        """The history after K gradients were applied."""
        known = np.minimum(np.asarray(staleness), LONGEST)
        after = History(history.classes, history.staleness + np.bincount(known, minlength=LONGEST + 1))
        counted = label_counts.sum(0) if self.histogram == "seen" else weights @ label_counts
        after.labels = history.labels + counted
        return after


def beta(threshold: float) -> float:
    """The decay with which exp(-beta tau) is 1 / (tau + 1) at tau = threshold / 2; its limit 1 at 0."""
    half = threshold / 2.0
    return math.log1p(half) / half if half > 0 else 1.0


def similarity(label_counts: NDArray[np.integer], seen: Floats) -> Floats:
    """The Bhattacharyya coefficient of each histogram, ... x C, with that of all labels; 1 if there are none yet."""
    total = seen.sum()
    if not total > 0:
        return np.ones(label_counts.shape[:-1])
    shares = label_counts / label_counts.sum(-1, keepdims=True)
    return np.asarray(np.minimum(np.sqrt(shares * (seen / total)).sum(-1), 1.0), dtype=np.float64)
