"""First programs, with their typical mistakes."""

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram
from covey.parts.parameters import param


class First(LearningProgram):
    """Averages with whom it hears, and reads in a way that it never sends."""

    reads: str = param("The way of reading.", default="arrived")

    async def run(self, node: LearningNode) -> None:
        others = [other for other in range(node.nodes) if other != node.id]
        async for t in node.rounds():
            update = await node.train()
            node.send(others, {"model": update.model}, round=None if self.reads == "never" else t)
            if self.reads == "right":
                inbox = await node.receive(round=t, senders=others)
            elif self.reads == "twice":
                node.send(others, {"model": update.model}, round=t)
                node.send(others, {"model": update.model}, round=t)
                inbox = await node.receive(round=t, senders=others)
                await node.sleep(0.02)
            elif self.reads == "wrong":
                inbox = node.usable(await node.receive(round=t, senders=others), weights=float)
            elif self.reads == "hurried":
                inbox = node.arrived(round=t)
            else:
                await node.sleep(0.02)
                inbox = node.arrived(tag="model") if self.reads == "never" else node.arrived()
            models = [update.model, *(message["model"] for message in inbox)]
            node.model = Mixture(models, [1 / len(models)] * len(models))
