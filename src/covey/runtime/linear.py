"""Rounds that are linear maps of the models of all nodes, which an engine may compute as arrays.

Shapes: N nodes.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covey.messages import wire
from covey.network.graph import Graph

if TYPE_CHECKING:
    import scipy.sparse as sp


class LinearRounds(ABC):
    """The rounds of a program whose course is known before the first.

    In each, some nodes train as the task says. Then every node sends its whole model over the edges of the graph, and
    replaces it by the weighted sum of its own model and those that it receives.
    """

    @property
    @abstractmethod
    def lengths(self) -> wire.Lengths:
        """The bytes of a message with a model."""

    @abstractmethod
    def trains(self, t: int) -> NDArray[np.bool_]:
        """The nodes that train in round t, as a mask of N."""

    @abstractmethod
    def graph(self, t: int) -> Graph:
        """The graph of round t, with the weights of merging."""

    def weights(self, t: int) -> "sp.csr_array":
        """The N x N matrix of round t, with which models are multiplied; see `Graph.merging`."""
        return self.graph(t).merging()

    def bytes(self, t: int) -> NDArray[np.int64]:
        """The bytes that each node sends in round t, N."""
        return self.graph(t).out_degrees * self.lengths.frame
