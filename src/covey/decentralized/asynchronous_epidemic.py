"""Asynchronous Epidemic Learning: EL-Local (de Vos et al., 2023) without rounds that nodes share.

A node averages the models that have arrived, whatever rounds they are of. So did a variant in the paper's public code.
"""

from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.topology import Topology
from covey.decentralized.topology.static import Complete
from covey.learning.node import LearningNode
from covey.parts.parameters import param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content


class Push(Content):
    """A model."""

    model: Tensor


class AsynchronousEpidemic(SharesModels, OnGraph):
    """Train, push the model to random neighbours, wait for a time, and average with the models that have arrived.

    Of several models of one sender, the newest is averaged. What an uplink has not sent of a model when the next one
    is trained is withdrawn, because it would be older.
    """

    kind = "asynchronous-epidemic"
    synchronous = False
    tolerates_loss = True
    topology: Topology = param("The graph of nodes that may push to each other.", factory=Complete)
    fanout: int = param(
        "The greatest number of neighbours to which a node pushes in a round.", default=6, ge=1, lt="nodes"
    )
    wait: Seconds = param("The time that a node waits for models after its push.", default=0.0, ge=0)

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            update = await node.train()
            own, near = self.selection.take(update.model), self.topology.at(t).receivers(node.id)
            drawn = node.random("push", t).permutation(len(near))[: self.fanout]
            node.log(withdrawn=node.withdraw("model"))
            node.send([near[index] for index in drawn], Push(model=own), tag="model")
            await node.sleep(self.wait)
            pushes = node.usable(node.arrived(tag="model"), Push, model=self.selection.entry)
            models = [own, *{push.sender: push.model for push in pushes}.values()]
            node.model = self.mean(update.model, models)
