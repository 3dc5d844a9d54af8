"""Statements of parts about the noise by which they protect data, for the accounting in `covey.privacy`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import scipy.sparse as sp


NOT_REPEATED = "no round is computed again, as after a crash"
"""The assumption of fresh noise: a round that a resumed run repeats is a further release."""


@dataclass(frozen=True)
class Averaging:
    """Noise on the models of a round, which are then averaged along a graph.

    Attributes:
        mixing: the weights W, N x N, symmetric and doubly stochastic.
        deviations: the standard deviation of a node's independent noise on each number, N.
        sensitivity: the largest distance by which the protected data of a node move its model before the noise.
        steps: the number of averaging steps; messages are sent before each.
        factor: c of Chebyshev steps x <- c W x + (1 - c) x_before after the first; 1 without.
        cancels: whether each neighbour, and the node itself, gets other noise, so that their sum by weights is zero.
    """

    mixing: "sp.csr_array"
    deviations: NDArray[np.float64]
    sensitivity: float
    steps: int = 1
    factor: float = 1.0
    cancels: bool = False


@dataclass(frozen=True)
class Mechanism:
    """Noise by which a part of an experiment protects data: Gaussian, unless the epsilon of a release is given.

    A release is a noised vector that others learn. In it, the protected data move the vector by a bounded distance.

    Attributes:
        part: the name of the part in messages.
        protects: the protected data.
        against: the observer.
        delta: the probability with which the bound may fail.
        releases: the number of releases in the run.
        multiplier: the standard deviation of the noise, as a multiple of that distance.
        sampling: the probability with which the protected data take part in a release.
        correlation: the total information of all releases over that of one; None if their noises are independent.
        averaging: the graph over which noise is averaged, instead of a multiplier.
        pure: the epsilon of one release of noise that needs no delta, such as Laplace's, instead of a multiplier.
        assumes: the assumptions.
        why_not: the reason why there is no bound.
    """

    part: str
    protects: str
    against: str
    delta: float
    releases: int
    multiplier: float = 0.0
    sampling: float = 1.0
    correlation: float | None = None
    averaging: Averaging | None = None
    pure: float | None = None
    assumes: Sequence[str] = ()
    why_not: str = ""

    @property
    def together(self) -> float:
        """The information of all releases, in that of one."""
        return float(self.releases) if self.correlation is None else self.correlation
