from typing import Annotated

from torch import Tensor

from covey import Content, LearningNode, LearningProgram, param
from covey.decentralized.topology import Topology
from covey.learning.node import MODEL


class Model(Content):
    """The entries of a message."""

    model: Annotated[Tensor, MODEL]  # float32 numbers, as many as the node's model has


class Mixing(LearningProgram):
    """Train, send the model to the neighbours, and move towards the mean of their models."""

    # Each parameter is a key of [program] in the experiment, and is checked against its type and bounds.
    topology: Topology = param("The graph of a round.")
    mix: float = param(
        "The step towards the mean: 0 ignores the neighbours, 1 takes their mean.", default=0.5, ge=0, le=1
    )

    async def run(self, node: LearningNode) -> None:  # runs once for each node, all at the same time
        async for t in node.rounds():  # the end of an iteration ends the round: evaluation, checkpoint
            graph = self.topology.at(t)  # every node computes the same graph
            node.model = (await node.train()).model  # local steps on the node's own data
            node.send(graph.receivers(node.id), Model(model=node.model), round=t)  # does not wait
            inbox = await node.receive(round=t, senders=graph.senders(node.id))  # waits for one message of each
            models = [message.model for message in node.usable(inbox, Model)]  # drops malformed messages
            if models:
                mean = sum(models) / len(models)
                node.model = (1 - self.mix) * node.model + self.mix * mean
                node.log(moved=float((mean - node.model).norm()))  # a column of run.metrics
