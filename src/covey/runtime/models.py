"""The models of all nodes as one array, for engines that compute whole rounds.

Shapes: N nodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from covey.messages.payloads import Payload

if TYPE_CHECKING:
    import scipy.sparse as sp


class Models(ABC):
    """The models of all nodes, and the states of their optimisers."""

    samples: NDArray[np.int64]
    """The number of samples of a training of each node, N."""
    steps: NDArray[np.int64]
    """The number of steps of a training of each node, N."""

    @abstractmethod
    def train(self, t: int, nodes: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.int64]:
        """Train the models of some nodes in round t.

        Args:
            t: the round.
            nodes: the ids of the nodes, ascending.
            losses: the loss of each node's last training, N, in which theirs are replaced.

        Returns:
            The nodes whose models are not finite afterwards.
        """

    @abstractmethod
    def not_finite(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some nodes whose models are not finite."""

    @abstractmethod
    def mix(self, weights: "sp.csr_array") -> None:
        """Replace the models by their products with a matrix of N x N."""

    @abstractmethod
    def judge(self, nodes: Sequence[int]) -> list[tuple[Any, Mapping[str, float]]]:
        """The model of each of some nodes, in the form that a `Summary` takes, and its figures."""

    @abstractmethod
    def pack(self) -> dict[str, Any]:
        """The entries of a checkpoint. They share memory with the models."""

    @abstractmethod
    def unpack(self, payload: Payload) -> None:
        """Restore the result of `pack`, or of the task's own `pack` for all nodes."""

    @abstractmethod
    def result(self) -> Any:
        """The models for the run, N x P."""
