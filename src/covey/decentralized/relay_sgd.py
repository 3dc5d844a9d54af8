"""RelaySGD (Vogels et al., 2021): on a tree, nodes relay sums of models, so that each takes the exact mean of all.

A node sends, over each edge, its trained model plus the sums that it received last over its other edges. The model of a
node at distance d arrives d rounds old:

    x_i(t+1) = 1/n sum over j of y_j(t + 1 - d(i, j)),   y_j the trained model of node j, and d(i, j) at least 1

While a model of that age does not exist, or if a message is lost, the node's own takes the place of the missing ones.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import torch
from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.topology import Topology
from covey.decentralized.topology.static import is_tree
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Within
from covey.runtime.patience import PATIENCE, Heartbeats, Reception, check_patience
from covey.runtime.state import State


class Relayed(State):
    """The sums that a node received in the last round."""

    sums: dict[NodeId, Tensor] = {}
    counts: dict[NodeId, int] = {}


class Sum(Content):
    """The sum of models on the sender's side of an edge, and their number."""

    sum: Tensor
    count: Annotated[int, Within(ge=1, lt="nodes")]


class RelaySGD(SharesModels, OnGraph):
    """Train, send to each neighbour the sum of the own model and of what the others sent last, and take the mean."""

    kind = "relay-sgd"
    topology: Topology = param("The graph, a tree: a chain, a tree, or the star.")
    patience: Seconds | None = param(PATIENCE, default=None, ge=0)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def check_graphs(self) -> None:
        if self.topology.can_be_drawn() and not (self.topology.static and is_tree(self.topology.at(0))):
            raise ConfigurationError(
                f"The 'topology' of {self.named()} must be a tree, such as 'chain', 'tree', 'star' or one that spans "
                f"another topology, {{ kind = 'tree', of = ... }}. Got {self.topology.title()} instead."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._heartbeats = Heartbeats.where(setting, several=False, static=True)

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The mean of the models in each sum, if their senders follow from their number."""
        for sum in adversary.usable(messages, Sum, sum=self.selection.entry):
            behind = self._behind(sum.sender, adversary.id, sum.message.round or 0)
            if len(behind) == sum.count:
                start = adversary.begun_with(sum.message.round)
                mean = sum.sum / sum.count
                yield adversary.view(sum.message, mean, selection=self.selection, senders=behind, start=start)

    def _behind(self, node: NodeId, before: NodeId, distance: int) -> list[NodeId]:
        """The nodes within a distance of a node that are not behind an edge of it."""
        found, edges = [node], [(before, node)]
        while distance and edges:
            edges = [(at, peer) for by, at in edges for peer in self.topology.at(0).receivers(at) if peer != by]
            found, distance = [*found, *(peer for _, peer in edges)], distance - 1
        return found

    async def run(self, node: LearningNode) -> None:
        kept, graph = node.keep(Relayed), self.topology.at(0)
        async for t in node.rounds():
            reception = Reception(node, graph, t, self.patience, self._heartbeats)
            whole = (await node.train()).model
            own = self.selection.take(whole)
            total = torch.stack([own, *kept.sums.values()]).sum(0)
            count = 1 + sum(kept.counts.values())
            for peer in graph.receivers(node.id):
                others = total - kept.sums[peer] if peer in kept.sums else total
                node.send(peer, Sum(sum=others, count=count - kept.counts.get(peer, 0)), round=t)
            inbox = await reception.over(graph, self._heartbeats)("")
            sums = node.usable(inbox, Sum, sum=self.selection.entry)
            kept.sums, kept.counts = {s.sender: s.sum for s in sums}, {s.sender: s.count for s in sums}
            known = min(sum(kept.counts.values()), node.nodes - 1)
            weights = [1.0 - known / node.nodes, *[1.0 / node.nodes] * len(sums)]
            node.model = self.selection.put(whole, Mixture([own, *(s.sum for s in sums)], weights))
