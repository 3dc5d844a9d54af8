"""Federated averaging, composed of parts.

The defaults are federated averaging (McMahan et al., 2017). Other parts make it FedProx (Li et al., 2020), FedAvgM (Hsu
et al., 2019), FedAdagrad, FedAdam and FedYogi (Reddi et al., 2021), sparse ternary compression (Sattler et al., 2019),
a median of clients, or a combination of these.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Given
from covey.federated.client_selection import ClientSelection, Uniform
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.downlink import CompressedDown, Start, WholeDown
from covey.federated.ends import SERVER
from covey.federated.merging import Answers, Part, merge, weighed
from covey.federated.served import Served
from covey.federated.server_optimizers import ServerOptimizer, ServerSGD
from covey.federated.uplink import CompressedUp, WholeUp
from covey.learning.node import LearningNode, Update
from covey.learning.selection import Buffers, Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.node import Message, Wanted
from covey.runtime.patience import check_patience


class FedAvg(Served):
    """Node 0 is the server and has no data. In every round it sends its model to some clients and merges their answers.

    Clients start every round from the server's model. The task says whether their optimiser state is kept or reset.
    """

    kind = "fedavg"
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
    share: Literal["trained"] | list[str] = param(
        'The trained tensors that are shared: "trained" for all, or patterns of their names. Clients keep the others.',
        default="trained",
    )
    average_buffers: bool = param(
        "Whether buffers, such as BatchNorm's statistics, are averaged; else each client keeps its own, as in FedBN.",
        default=True,
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
        buffers: Buffers = "average" if self.average_buffers else "keep"
        self.selection = Selection.of(setting, self.share, buffers, owner=self.named())
        everything = Selection.of(setting, owner=self.named())
        self._ordered: dict[str, Wanted] = {}
        """The further entries of the server's messages that clients need."""
        self._personal = self.selection.size < everything.size
        for key, compressor in (("up", self.up), ("down", self.down)):
            if compressor is not None:
                compressor.need_contraction(self, self.selection.trained, key)
        self._up = WholeUp(self, setting) if self.up is None else CompressedUp(self, setting, self.up)
        self._down = WholeDown(self, setting) if self.down is None else CompressedDown(self, setting, self.down)

    def judged_roles(self) -> frozenset[str] | None:
        return self.evaluated_roles if self.share == "trained" and self.average_buffers else frozenset({"client"})

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

    # ------------------------------------------------------------------ the server

    async def serve(self, node: LearningNode) -> None:
        """Run the server: send, wait, merge."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            self.order(node, chosen, t)
            found = self.read(node, await self.answers(node, chosen, t))
            merged = merge(node, self.aggregation, found)
            if merged is not None:
                node.model = self.server_optimizer.moved(node, merged, self.selection)
            self._down.end(node, t)

    def order(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        """Send the model to the clients of a round."""
        self._down.send(node, chosen, t)

    async def answers(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> Sequence[Message]:
        """The answers of clients, as many as the selection waits for, that arrive in time."""
        wanted = self.clients.awaited(chosen)
        if wanted >= len(chosen):
            return await node.receive(tag="update", round=t, senders=chosen, timeout=self.patience)
        found: list[Message] = []
        ends = None if self.patience is None else node.now + self.patience
        while (left := wanted - len(found)) and (ends is None or node.now <= ends):
            timeout = None if ends is None else ends - node.now
            inbox = await node.receive(tag="update", round=t, count=left, timeout=timeout)
            found += [answer for answer in inbox if answer.sender in chosen]
            if len(inbox) < left:
                break
        return found

    def read(self, node: LearningNode, answers: Iterable[Message]) -> Sequence[Part]:
        """The models in the answers that can be used."""
        return weighed(node, self._up.parts(node, answers, self._down.origin(node)))

    # ------------------------------------------------------------------ a client

    async def take_part(self, node: LearningNode) -> None:
        """Run a client: train the server's model and send it back, in the rounds for which it was chosen."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            start = await self._down.receive(node, chosen, t, **self._ordered)
            if start is None:
                continue
            node.model = start.model  # A client is evaluated with the server's model.
            if node.id in chosen:
                update = await self.learn(node, start, t)
                if self._personal:
                    node.model = self.selection.put(update.model, self.selection.take(node.model))

    async def learn(self, node: LearningNode, start: Start, t: int) -> Update:
        """Train the server's model, and send the result back."""
        update = await self.work.train(node, start.model, t)
        self._up.send(node, update, t)
        return update
