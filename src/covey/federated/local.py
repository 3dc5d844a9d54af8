"""Local training: the baseline in which the clients of a federation never exchange anything."""

from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.served import Served
from covey.learning.node import LearningNode
from covey.parts.parameters import param


class Local(Served):
    """Every client trains on its own data alone. Node 0, the server of the others, has no data and rests."""

    kind = "local"
    evaluated_roles = frozenset({"client"})
    work: ClientWork = param("The work of a client with its own model.", factory=LocalTraining)

    def most_received(self) -> int:
        return 0

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            if node.role not in self.without_data:
                node.model = (await self.work.train(node, node.model, t)).model
