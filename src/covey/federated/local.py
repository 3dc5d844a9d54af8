"""Local training: the baseline in which the clients of a federation never exchange anything."""

from collections.abc import Mapping, Sequence

from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.ends import SERVER
from covey.learning.node import LearningNode, LearningProgram
from covey.parts.parameters import param


class Local(LearningProgram):
    """Every client trains on its own data alone. Node 0, the server of the others, has no data and rests."""

    kind = "local"
    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"client"})
    work: ClientWork = param("The work of a client with its own model.", factory=LocalTraining)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def most_received(self) -> int:
        return 0

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            if node.role not in self.without_data:
                node.model = (await self.work.train(node, node.model, t)).model
