"""The SWIFT with which DivShare (Biswas et al., 2025) was compared: pushes of whole models to random peers.

It is not SWIFT (Bornstein et al., 2023), the program `swift`: there is no graph, and no model is stored.
"""

from torch import Tensor

from covey.decentralized.graphs import SharesModels
from covey.decentralized.peers import random_peers
from covey.learning.node import LearningNode
from covey.parts.parameters import param
from covey.runtime.content import Content


class Push(Content):
    """A model."""

    model: Tensor


class SwiftPush(SharesModels):
    """Train, push the model to random peers, and average with the models that have arrived, the newest of each sender.

    No node waits, and what an uplink has not sent stays in its queue.
    """

    kind = "swift-push"
    synchronous = False
    tolerates_loss = True
    fanout: int = param("The number of peers to which a node pushes in a round.", default=6, ge=1, lt="nodes")

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            update = await node.train()
            own = self.selection.take(update.model)
            node.send(random_peers(node, self.fanout, t), Push(model=own), tag="model")
            pushes = node.usable(node.arrived(tag="model"), Push, model=self.selection.entry)
            models = [own, *{push.sender: push.model for push in pushes}.values()]
            node.model = self.mean(update.model, models)
