"""A program that waits for ever in any network."""

from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import MODEL, LearningNode, LearningProgram
from covey.parts.parameters import param


class Impatient(LearningProgram):
    """Averages with its neighbours' models, and goes on when all of them are here."""

    topology: Topology = param("The graph.", default="ring")

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            update = await node.train()
            graph = self.topology.at(t)
            node.send(graph.receivers(node.id), {"model": update.model}, round=t)
            inbox = await node.receive(round=t, senders=graph.senders(node.id))
            models = [update.model, *(message["model"] for message in node.usable(inbox, model=MODEL))]
            node.model = Mixture(models, [1.0 / len(models)] * len(models))
