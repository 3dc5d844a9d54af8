"""AD-PSGD (Lian et al., 2018): asynchronous training with symmetric pairwise averaging in parallel."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse.csgraph import breadth_first_order
from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels, check_undirected
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.node import Activity
from covey.runtime.patience import check_patience


class Offer(Content):
    """A model that its sender offers, or gives in exchange."""

    model: Tensor
    number: int
    """The number of the exchange at the active node."""


class ADPSGD(SharesModels, OnGraph):
    """Train without waiting. In parallel, active nodes average with random passive neighbours, pair by pair.

    The graph must be bipartite: one side is active, the other passive. Both ends of an exchange move by half the
    difference of the exchanged models. So only training changes the sum over nodes, even if both ends train while the
    models are in transit. An active node has at most one open exchange, and begins the next one with one of its rounds.
    """

    kind = "ad-psgd"
    synchronous = False
    topology: Topology = param(
        "The graph; static, undirected and bipartite, such as a ring of an even number of nodes."
    )
    patience: Seconds | None = param(
        "The time that an active node waits for an answer; by default, for ever.", default=None, ge=0
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def check_graphs(self) -> None:
        check_undirected(self)
        if not self.topology.can_be_drawn():
            return
        graph = self.topology.at(0)
        self._active = np.zeros(graph.n, dtype=bool)
        neighbours = graph.mixing()
        seen = np.zeros(graph.n, dtype=bool)
        for root in range(graph.n):
            if not seen[root]:
                order, parent = breadth_first_order(neighbours, root)
                seen[order] = True
                for node in order[1:]:
                    self._active[node] = not self._active[parent[node]]
        if (self._active[graph.sources] == self._active[graph.targets]).any():
            raise ConfigurationError(
                f"The 'topology' of {self.named()} must be bipartite. "
                f"Got {self.topology.title()} on {graph.n} nodes instead, "
                f"which has an odd cycle; a ring or torus with even sides is bipartite."
            )

    async def run(self, node: LearningNode) -> None:
        peers = [NodeId(peer) for peer in self.topology.at(0).receivers(node.id)]
        active = bool(self._active[node.id]) and bool(peers)
        if not active:
            node.spawn(self.answer(node, peers))
        exchange: Activity | None = None
        async for t in node.rounds():
            if active and (exchange is None or exchange.done):
                peer = peers[int(node.random("peer", t).integers(len(peers)))]
                exchange = node.spawn(self.exchange(node, peer, t))
            update = await node.train()
            node.model = self.selection.applied(update, node.model)
        if active:
            if exchange is not None:
                await exchange.wait()
            node.send(peers, {}, tag="finished")
        else:
            await node.receive(tag="finished", senders=peers, timeout=self.patience)

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        exchanged = [message for message in messages if message.tag in ("offer", "answer")]
        for offer in adversary.usable(exchanged, Offer, model=self.selection.entry):
            yield adversary.view(offer.message, offer.model, selection=self.selection)

    async def exchange(self, node: LearningNode, peer: NodeId, number: int) -> None:
        """Offer the own model to a passive neighbour, and move halfway to the model in its answer."""
        selection, asked, left = self.selection, node.now, self.patience
        offered = selection.take(node.model)
        node.arrived(tag="answer")  # Drop late answers of earlier exchanges.
        node.send(peer, Offer(model=offered, number=number), tag="offer")
        while answers := node.usable(
            await node.receive(tag="answer", senders=[peer], timeout=left), Offer, model=selection.entry
        ):
            if answers[0].number == number:
                node.model = selection.halfway(node.model, answers[0].model, offered)
                return
            if self.patience is not None:
                left = max(asked + self.patience - node.now, 0.0)

    async def answer(self, node: LearningNode, peers: Sequence[NodeId]) -> None:
        """Move halfway to every model that a neighbour offers, and answer with the own model from before."""
        async for message in node.messages("offer"):
            if message.sender not in peers:
                node.reject(message, f"it is not a neighbour of node {node.id}")
                continue
            for offer in node.usable([message], Offer, model=self.selection.entry):
                mine = self.selection.take(node.model)
                node.model = self.selection.put(node.model, Mixture([mine, offer.model], [0.5, 0.5]))
                node.send(offer.sender, Offer(model=mine, number=offer.number), tag="answer")
