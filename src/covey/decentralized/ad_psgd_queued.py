"""The AD-PSGD with which DivShare (Biswas et al., 2025) was compared: pings of whole models, answered and queued.

It is not AD-PSGD (Lian et al., 2018), the program `ad-psgd`: no two nodes average at one moment, so the mean of the
models is not kept.
"""

from functools import partial

from torch import Tensor

from covey.decentralized.graphs import SharesModels
from covey.decentralized.peers import random_peers
from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.parts.parameters import param
from covey.runtime.content import Content
from covey.runtime.node import Message
from covey.runtime.state import State


class Queue(State):
    """The last trained model of a node, and the models that wait for its next average."""

    trained: Tensor | None = None
    arrived: dict[NodeId, Tensor] = {}
    """The newest model of each sender."""


class Exchange(Content):
    """A model that its sender pings with, or the answer to a ping."""

    model: Tensor
    ping: bool = False


class QueuedADPSGD(SharesModels):
    """Train, send the model to random peers, which answer with theirs, and average with the models that have arrived.

    No node waits. A peer answers at once with the model that it trained last.
    """

    kind = "ad-psgd-queued"
    synchronous = False
    tolerates_loss = True
    fanout: int = param("The number of peers that a node pings in a round.", default=3, ge=1, lt="nodes")

    async def run(self, node: LearningNode) -> None:
        queue = node.keep(Queue)
        node.serve("model", partial(self.receive, node))
        async for t in node.rounds():
            update = await node.train()
            queue.trained = own = self.selection.take(update.model)
            node.send(random_peers(node, self.fanout, t), Exchange(model=own, ping=True), tag="model")
            models = [own, *queue.arrived.values()]
            node.model = self.mean(update.model, models)
            queue.arrived = {}

    async def receive(self, node: LearningNode, message: Message) -> None:
        """Queue a model, and answer it if it is a ping."""
        for exchange in node.usable([message], Exchange, model=self.selection.entry):
            queue = node.keep(Queue)
            queue.arrived[exchange.sender] = exchange.model
            if exchange.ping:
                last = self.selection.take(node.model) if queue.trained is None else queue.trained
                node.send(exchange.sender, Exchange(model=last), tag="model")
