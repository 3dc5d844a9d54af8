"""Sharings in which every node has a public copy, which its neighbours follow by hearing how it changes.

A node keeps its own copy, and of its neighbours' the weighted sum alone: s_i = sum_j W_ij c_j, its own included. So the
weights must never change, and nobody may miss a message.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from covey.aggregation import Aggregation, Linear
from covey.errors import ConfigurationError, ProgramError
from covey.node import Inbox, Mixture, Node, NodeId, Payload
from covey.parameters import param
from covey.sharing.compressed import Compressed
from covey.topology import Graph, Topology

_ROUNDING = 1e-6
"""Weights that a file gives may be rounded."""


class PublicCopies(Compressed):
    """Sends the compressed difference between a node's model and its public copy, and adds it to the copy."""

    gamma: float = param(
        "How far a node moves towards its neighbours' copies in a round; to be tuned together with the compression.",
        gt=0,
        le=1,
    )

    def check(self, topology: Topology, aggregation: Aggregation) -> None:
        if not topology.static:
            raise ConfigurationError(
                f"The sharing {self.title()} needs a topology that never changes, for a node hears only how its "
                f"neighbours change. Got the topology {topology.title()} instead. Use a static one such as "
                f"'random-regular', or a sharing that remembers nobody, such as 'top-k', 'random' or 'quantized'."
            )
        needs = f"The sharing {self.title()} needs an aggregation with constant, doubly stochastic weights, "
        if not isinstance(aggregation, Linear):
            raise ConfigurationError(
                f"{needs}and {aggregation.title()} has no weights at all. Use 'metropolis-hastings' instead."
            )
        self._linear = aggregation
        graph = topology.at(0)
        weights_E = aggregation.of_edges(graph)
        rows, columns = (np.bincount(ends_E, weights_E, graph.n) for ends_E in (graph.targets, graph.sources))
        over = f"but over the topology {topology.title()} the weights of {aggregation.title()} give"
        for node in range(graph.n):
            if abs(rows[node] - columns[node]) > _ROUNDING:
                raise ConfigurationError(
                    f"{needs}{over} node {node} a total of {columns[node]:.4g} at its neighbours, and the neighbours "
                    f"{rows[node]:.4g} at it. Use 'metropolis-hastings' on an undirected graph."
                )
            if rows[node] > 1.0 + _ROUNDING:
                raise ConfigurationError(
                    f"{needs}{over} the neighbours of node {node} a total of {rows[node]:.4g}, which is more than 1."
                )

    def first_copy(self, start: Tensor) -> Tensor:
        """The public copy before the first message: what all neighbours know of it.

        Args:
            start: what `outgoing` gets.
        """
        raise NotImplementedError

    @property
    def moves_first(self) -> bool:
        """Whether a node moves by what it knew before a round's messages, or by what it knows after them."""
        return False

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        copy, total = self._known(node, t, start)
        if self.moves_first:
            node.model = torch.add(node.model, total - copy, alpha=self.gamma)
        payload, change = self.compress(node.id, t, node.model - copy)
        copy, total = copy.clone(), total.clone()
        change.add_to(copy)
        change.add_to(total, 1.0 - sum(self._linear.weights(node.id, graph)))
        node.state["public copy"], node.state["sum of copies"] = copy, total
        return [(graph.receivers(node.id), payload)]

    def _known(self, node: Node, t: int, start: Tensor) -> tuple[Tensor, Tensor]:
        """A node's public copy, and the weighted sum of its own and its neighbours'.

        Raises:
            ProgramError: it was away, and missed how they changed.
        """
        complete: int = node.state.get("copies complete", 0)  # type: ignore[assignment]
        if complete != t:
            silent = f"{complete}" if complete == t - 1 else f"{complete} to {t - 1}"
            raise ProgramError(self._broken(f"Node {node.id} was away in round {silent}", "its neighbours' copies"))
        if t == 0:
            first = self.first_copy(start)
            return first, first
        return node.state["public copy"], node.state["sum of copies"]  # type: ignore[return-value]

    def merge(self, node: Node, graph: Graph, t: int, inbox: Inbox, aggregation: Aggregation) -> Tensor | Mixture:
        total = cast(Tensor, node.state["sum of copies"]).clone()
        changes = self.heard(node, inbox)
        for sender, weight in zip(graph.senders(node.id), self._linear.weights(node.id, graph), strict=True):
            if sender not in changes:
                missing = f"Node {node.id} has no valid message of node {sender} in round {t}"
                raise ProgramError(self._broken(missing, "the copy of that node"))
            changes[sender].add_to(total, weight)
        node.state["sum of copies"], node.state["copies complete"] = total, t + 1
        if self.moves_first:
            return node.model
        copy = cast(Tensor, node.state["public copy"])
        return Mixture([node.model, total, copy], [1.0, self.gamma, -self.gamma])

    def _broken(self, what: str, copies: str) -> str:
        return (
            f"{what}, and so can never again know {copies}, which the sharing {self.title()} needs. Use it without "
            f"'patience', 'churn', 'loss' and faults, or use a sharing that forgives missing messages: 'top-k', "
            f"'random' or 'quantized'."
        )
