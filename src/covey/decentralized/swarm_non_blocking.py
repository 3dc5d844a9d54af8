"""SwarmSGD (Nadiradze et al., 2021), non-blocking: nodes exchange copies of their models, and no node waits."""

from functools import partial
from typing import Annotated

from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels, check_undirected
from covey.decentralized.swarm import steps_of
from covey.decentralized.topology import Topology
from covey.decentralized.topology.static import Complete
from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.node import Message
from covey.runtime.patience import check_patience
from covey.runtime.state import State


class Copies(State):
    """The copy of a node's model that others may have, and its open interaction."""

    copy: Tensor | None = None
    """The model at the end of the last interaction, without the local steps since then."""
    offered: Tensor | None = None
    """The copy that was offered in the open interaction; None without one."""
    partner: int = 0
    number: int = 0
    since: float = 0.0


class Exchange(Content):
    """A copy of a model that its sender offers, or gives in exchange."""

    model: Tensor
    number: Annotated[int, range(1 << 53)]
    """The number of the interaction at the node that began it."""


class NonBlockingSwarm(SharesModels, OnGraph):
    """Train for some steps, then begin an interaction with a random neighbour, which answers with its copy at once.

    Both move by half the difference of their copies, also if they train meanwhile. So only training changes the sum of
    the models. A node has at most one open interaction of its own.
    """

    kind = "swarm-non-blocking"
    synchronous = False
    topology: Topology = param("The graph of nodes that may interact; static and undirected.", factory=Complete)
    mean_steps: int | None = param(
        "The mean of a geometric number of local steps; by default, the steps of the task.", default=None, ge=1
    )
    patience: Seconds | None = param(
        "The time after which a node gives up an interaction; by default, never.", default=None, ge=0
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def check_graphs(self) -> None:
        check_undirected(self)

    async def run(self, node: LearningNode) -> None:
        near, copies = self.topology.at(0).receivers(node.id), node.keep(Copies)
        if copies.copy is None:
            copies.copy = self.selection.take(node.model)
        node.serve("offer", partial(self.answer, node))
        node.serve("answer", partial(self.accept, node))
        async for t in node.rounds():
            update = await node.train(**steps_of(node, self.mean_steps, t))
            node.model = self.selection.applied(update, node.model)
            given_up = self.patience is not None and node.now >= copies.since + self.patience
            if near and (copies.offered is None or given_up):
                copies.partner = near[int(node.random("peer", t).integers(len(near)))]
                copies.offered, copies.number, copies.since = copies.copy, t, node.now
                node.send(NodeId(copies.partner), Exchange(model=copies.copy, number=t), tag="offer")

    async def answer(self, node: LearningNode, message: Message) -> None:
        """Answer an offer with the own copy, and move by half the difference."""
        if message.sender not in self.topology.at(0).senders(node.id):
            node.reject(message, f"it is not a neighbour of node {node.id}")
            return
        for offer in node.usable([message], Exchange, model=self.selection.entry):
            mine = node.keep(Copies).copy
            assert mine is not None
            node.send(offer.sender, Exchange(model=mine, number=offer.number), tag="answer")
            self.move(node, offer.model, mine)

    async def accept(self, node: LearningNode, message: Message) -> None:
        """Move by half the difference to the copy of the partner of the open interaction."""
        copies = node.keep(Copies)
        for answer in node.usable([message], Exchange, model=self.selection.entry):
            if copies.offered is not None and (answer.sender, answer.number) == (copies.partner, copies.number):
                offered, copies.offered = copies.offered, None
                self.move(node, answer.model, offered)

    def move(self, node: LearningNode, theirs: Tensor, mine: Tensor) -> None:
        """Move the model by half the difference of two copies, and make it the copy that others may have."""
        node.model = self.selection.halfway(node.model, theirs, mine)
        node.keep(Copies).copy = self.selection.take(node.model)
