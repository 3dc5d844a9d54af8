"""The standard round of federated learning, made of parts.

Plain, it is federated averaging (McMahan et al., 2017); with other parts it is FedProx (Li et al., 2020), FedAvgM,
FedAdagrad, FedAdam and FedYogi (Reddi et al., 2021), sparse ternary compression (Sattler et al., 2019), the median of
clients, and what these have in common with each other.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

import numpy as np

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.aggregation.linear import Given
from covey.federated.client_selection import ClientSelection, Uniform
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.downlink import CompressedDown, WholeDown
from covey.federated.ends import SERVER
from covey.federated.server_optimizers import ServerOptimizer, ServerSGD
from covey.federated.uplink import CompressedUp, WholeUp
from covey.learning.node import LearningNode, LearningProgram
from covey.learning.selection import Selection
from covey.messages.compression import Compressor
from covey.network.graph import Graph
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.node import Inbox
from covey.runtime.patience import check_patience


class FedAvg(LearningProgram):
    """Node 0 is the server, without data; every round it sends its model to some clients and merges their answers.

    Clients start every round from the server's model; their optimiser is theirs, reset or kept as the task says.
    """

    kind = "fedavg"
    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})
    clients: ClientSelection = param("Which clients take part in a round.", factory=Uniform)
    work: ClientWork = param("What a client does with the server's model.", factory=LocalTraining)
    up: Compressor | None = param(
        "What makes messages of the changes that clients made; by default they send whole models.", default=None
    )
    down: Compressor | None = param(
        "What makes messages of the changes of the server's model, which all clients get; "
        "by default those chosen get the whole model.",
        default=None,
    )
    aggregation: Aggregation = param(
        "How clients are merged: given weighs them by their samples, mean equally.", factory=Given
    )
    server_optimizer: ServerOptimizer = param("How the server moves by what clients changed.", factory=ServerSGD)
    patience: Seconds | None = param(
        "How long the server waits for its clients; for ever by default. A client waits as long as the server's rounds "
        "until then can take, and one more.",
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

    async def run(self, node: LearningNode) -> None:
        if node.id == SERVER:
            await self.serve(node)
        else:
            await self.take_part(node)

    async def serve(self, node: LearningNode) -> None:
        """The server: send, wait, merge."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            self._down.tell(node, chosen, t)
            answers = await node.receive(tag="update", round=t, senders=chosen, timeout=self.patience)
            self.merge(node, answers)
            self._down.end(node, t)

    def merge(self, node: LearningNode, answers: Inbox) -> None:
        """Move the server's model by what clients sent."""
        found = [answer for answer in self._up.parts(node, answers, self._down.origin(node)) if answer[0]["samples"]]
        if not found:
            return
        found.sort(key=lambda answer: answer[0].sender)
        (_, first), *others = found
        graph = merging(node.nodes, {int(answer.sender): answer["samples"] for answer, _ in found})
        with node.measured("mixing"):
            contributions = [Contribution(answer.sender, part) for answer, part in others]
            merged = self.aggregation.merge(node, graph, first, contributions)
        node.model = self.server_optimizer.moved(node.model, merged, self.selection, node.state)

    async def take_part(self, node: LearningNode) -> None:
        """A client: in the rounds for which it was chosen, train the server's model and send it back."""
        async for t in node.rounds():
            chosen = self.clients.chosen(t)
            if not self._down.listens(node, chosen):
                continue
            self._down.ask(node, t)
            inbox = await node.receive(tag="model", round=t, senders=[SERVER], timeout=self.timeout(node, t))
            model = self._down.model(node, inbox)
            if model is None:
                continue
            node.state["received"] = t
            if node.id in chosen:
                update = await self.work.train(node, model, t)
                node.model = update.model
                answer = {**self._up.answer(node, update, t), "samples": node.data.samples}
                node.send(SERVER, answer, tag="update", round=t)

    def timeout(self, node: LearningNode, t: int) -> float | None:
        """How long a client waits for the server."""
        received: int = node.state.get("received", -1)  # type: ignore[assignment]
        return None if self.patience is None else (t - received + 1) * self.patience


def merging(nodes: int, samples: Mapping[int, int]) -> Graph:
    """Who is merged at the server, by the share of each client in all samples.

    The server has no model of its own to add, so that of the first client stands in its place; the others send to it.
    """
    _, *others = samples
    weights = np.array([samples[client] for client in others], np.float64) / sum(samples.values())
    return Graph(nodes, np.array(others, np.int64), np.full(len(others), SERVER, np.int64), weights)


class Answers:
    """The graphs of all rounds, as an aggregation checks them: who answers is known when the time comes."""

    weighted: ClassVar[bool] = True

    @classmethod
    def title(cls) -> str:
        return "that of clients and their server"

    def one_way(self) -> bool:
        return True

    def can_be_drawn(self) -> bool:
        return False

    def at(self, t: int) -> NoReturn:
        raise NotImplementedError
