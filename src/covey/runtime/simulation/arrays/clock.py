"""The clocks and counters of all nodes in rounds that are known beforehand.

Shapes: N nodes, E edges.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covey.messages.wire import Lengths
from covey.network import Network
from covey.network.graph import Graph
from covey.runtime.mailbox import REASONS
from covey.runtime.runs.schema import SPENT

_TRAINING, _WAITING = SPENT.index("training"), SPENT.index("waiting")


class Clock:
    """The time of every node, N. A node ends a round when it has trained and all messages of the round are there.

    Args:
        network: the nodes and their links, whose rates have no limits.
        seconds: the duration of a training of each node, N.
    """

    def __init__(self, network: Network, seconds: NDArray[np.float64]) -> None:
        self._latency, self._seconds = network.latency, seconds
        self._delays: tuple[Graph, NDArray[np.float64] | float] | None = None
        self.now = np.zeros(len(seconds))
        self.spent = np.zeros((len(seconds), len(SPENT)))
        """The seconds of each node by activity, N x activities."""
        self.busy = np.zeros(len(seconds))

    def train(self, trains: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Let some nodes train. Return the time at which each node sends."""
        ready = np.where(trains, self.now + self._seconds, self.now)
        self.spent[:, _TRAINING] += ready - self.now
        self.busy[trains] += self._seconds[trains]
        self.now = ready
        return ready

    def exchange(self, graph: Graph) -> None:
        """Let every node send, and wait for its messages."""
        ready, delays = self.now, self._between(graph)
        self.now = np.maximum(ready, _latest(graph, ready, delays))
        self.spent[:, _WAITING] += self.now - ready

    def _between(self, graph: Graph) -> NDArray[np.float64] | float:
        """The latency of each edge, or of all."""
        uniform = self._latency.uniform_value()
        if uniform is not None:
            return uniform
        if self._delays is None or self._delays[0] is not graph:
            self._delays = graph, self._latency.of_edges(graph.sources, graph.targets)
        return self._delays[1]


def _latest(graph: Graph, ready: NDArray[np.float64], delays: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The time at which the last message reaches each node; that of the node itself if none is sent to it."""
    latest, waits = ready.copy(), graph.in_degrees > 0
    if isinstance(delays, float | int) and ready.min() == ready.max():
        latest[waits] = ready[waits] + delays
    elif len(graph.sources):
        first_E = (np.cumsum(graph.in_degrees) - graph.in_degrees)[waits]
        latest[waits] = np.maximum.reduceat(ready[graph.sources] + delays, first_E)
    return latest


class Counters:
    """The counters of all nodes, a column of N for each."""

    def __init__(self, nodes: int) -> None:
        self.steps, self.samples = np.zeros((2, nodes), dtype=np.int64)
        self.messages_out, self.messages_in, self.posted = np.zeros((3, nodes), dtype=np.int64)
        self.bytes_out, self.bytes_in, self.values_out = np.zeros((3, nodes), dtype=np.int64)
        self.dropped = np.zeros(nodes, dtype=np.int64)
        self.indices_out = np.zeros(nodes, dtype=np.int64)
        self.drops = np.zeros((nodes, len(REASONS)), dtype=np.int64)
        self.losses = np.full(nodes, np.nan)

    def send(self, graph: Graph, lengths: Lengths) -> None:
        """Count a message over every edge of a graph."""
        sent, came = graph.out_degrees, graph.in_degrees
        self.messages_out += sent
        self.messages_in += came
        self.posted += sent > 0
        self.bytes_out += sent * lengths.frame
        self.bytes_in += came * lengths.frame
        self.values_out += sent * lengths.values
        self.indices_out += sent * lengths.indices

    def pack(self) -> dict[str, Any]:
        """The entries of a checkpoint, as `covey.runtime.snapshots.pack` orders them."""
        columns = (
            *(self.bytes_out, self.bytes_in, self.messages_out, self.messages_in, self.dropped),
            *(self.values_out, self.indices_out, self.steps, self.samples),
        )
        return {
            "counters": np.stack(columns, axis=1),
            "posted": self.posted,
            "drops": self.drops,
            "losses": self.losses,
        }

    def unpack(self, payload: Any) -> None:
        """Restore the result of `pack`."""
        columns = [column.copy() for column in payload["counters"].T]
        self.bytes_out, self.bytes_in, self.messages_out, self.messages_in, self.dropped = columns[:5]
        self.values_out, self.indices_out, self.steps, self.samples = columns[5:]
        self.posted, self.drops, self.losses = (payload[name].copy() for name in ("posted", "drops", "losses"))
