"""Federated averaging, composed of parts.

The defaults are federated averaging (McMahan et al., 2017). Other parts make it FedProx (Li et al., 2020), FedAvgM (Hsu
et al., 2019), FedAdagrad, FedAdam and FedYogi (Reddi et al., 2021), sparse ternary compression (Sattler et al., 2019),
a median of clients, or a combination of these.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Given
from covey.federated.client_selection import ClientSelection, Uniform
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.downlink import CompressedDown, WholeDown
from covey.federated.ends import SERVER
from covey.federated.merging import Answers, merge
from covey.federated.server_optimizers import ServerOptimizer, ServerSGD
from covey.federated.uplink import CompressedUp, WholeUp
from covey.learning.node import LearningNode, LearningProgram
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.patience import check_patience


class FedAvg(LearningProgram):
    """Node 0 is the server and has no data. In every round it sends its model to some clients and merges their answers.

    Clients start every round from the server's model. The task says whether their optimiser state is kept or reset.
    """

    kind = "fedavg"
    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})
    clients: ClientSelection = param("The choice of a round's clients.", factory=Uniform)
    work: ClientWork = param("The work of a client with the server's model.", factory=LocalTraining)
    up: Compressor | None = param(
        "The compressor of clients' changes. By default, clients send whole models.", default=None
    )
    down: Compressor | None = param(
        "The compressor of changes of the server's model, which all clients then get. By default, the chosen clients "
        "get the whole model.",
        default=None,
    )
    aggregation: Aggregation = param(
        "The rule that merges clients: given weighs them by their samples, mean equally.", factory=Given
    )
    server_optimizer: ServerOptimizer = param(
        "The server's optimizer. It takes the merged change of clients for a negative gradient.", factory=ServerSGD
    )
    patience: Seconds | None = param(
        "The time that the server waits for its clients; by default, for ever. A client waits this long for each round "
        "since its last model, and once more.",
        default=None,
        ge=0,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)
        self.aggregation.check_with(Answers())

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.selection = Selection.of(setting, owner=self.named())
        for key, compressor in (("up", self.up), ("down", self.down)):
            if compressor is not None:
                compressor.need_contraction(self, self.selection.trained, key)
        self._up = WholeUp(self, setting) if self.up is None else CompressedUp(self, setting, self.up)
        self._down = WholeDown(self, setting) if self.down is None else CompressedDown(self, setting, self.down)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def most_received(self) -> int:
        return self.clients.most()

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server sees clients' models; a client sees the server's, which is the mean of the clients before it."""
        if adversary.id == SERVER:
            yield from self._up.views(adversary, [message for message in messages if message.tag == "update"])
            return
        for view in self._down.views(adversary, [message for message in messages if message.tag == "model"]):
            if view.round:
                yield replace(view, senders=tuple(map(int, self.clients.chosen(view.round - 1))))

    async def run(self, node: LearningNode) -> None:
        await (self.serve(node) if node.id == SERVER else self.take_part(node))

    async def serve(self, node: LearningNode) -> None:
        """Run the server: send, wait, merge."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            self._down.send(node, chosen, t)
            answers = await node.receive(tag="update", round=t, senders=chosen, timeout=self.patience)
            parts = self._up.parts(node, answers, self._down.origin(node))
            merged = merge(node, self.aggregation, parts)
            if merged is not None:
                node.model = self.server_optimizer.moved(node, merged, self.selection)
            self._down.end(node, t)

    async def take_part(self, node: LearningNode) -> None:
        """Run a client: train the server's model and send it back, in the rounds for which it was chosen."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            model = await self._down.receive(node, chosen, t)
            if model is None:
                continue
            node.model = model  # A client is evaluated with the server's model.
            if node.id in chosen:
                self._up.send(node, await self.work.train(node, model, t), t)
