"""Federated averaging (McMahan et al., 2017), with the proximal term of FedProx (Li et al., 2020) as an option."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram, Update
from covey.learning.selection import Selection
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Seconds, Setting, param
from covey.runtime.node import Inbox, Message
from covey.runtime.patience import check_patience

SERVER = NodeId(0)
SAMPLES = range(1 << 53)
"""How many samples a client may say that it has."""


class FedAvg(LearningProgram):
    """Node 0 is the server, without data; every round it sends its model to some clients and averages their answers.

    Which clients take part is public randomness, so nobody needs to be told. Clients start every round from the
    server's model; their optimiser is theirs, reset or kept as the task says.
    """

    kind = "fedavg"
    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})
    clients: int | None = param(
        "How many clients take part in a round; all by default.", default=None, ge=1, lt="nodes"
    )
    weighting: Literal["samples", "equal"] = param(
        "Whether clients count by their samples or equally.", default="samples"
    )
    server_lr: float = param("How far the server moves towards the average of its clients.", default=1.0, gt=0)
    proximal: float = param(
        "The weight mu of FedProx's term, which holds clients near the server's model.", default=0.0, ge=0
    )
    patience: Seconds | None = param(
        "How long the server waits for its clients; for ever by default. A client waits as long as the server's rounds "
        "until then can take, and one more.",
        default=None,
        ge=0,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        check_patience(self, setting, self.patience)
        self._nodes = setting.nodes
        self._chosen: dict[int, list[NodeId]] = {}
        self.selection = Selection.of(setting, owner=self.named())

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def most_heard(self) -> int:
        return self.clients or self._nodes - 1

    def chosen(self, node: LearningNode, t: int) -> list[NodeId]:
        """The clients of round t, in increasing order."""
        if t not in self._chosen:
            everybody = node.nodes - 1
            count = self.clients or everybody
            draw = node.public_random("clients", t).choice(everybody, count, replace=False) + 1
            self._chosen[t] = sorted(NodeId(int(client)) for client in draw)
        return self._chosen[t]

    async def run(self, node: LearningNode) -> None:
        if node.id == SERVER:
            await self.serve(node)
        else:
            await self.take_part(node)

    async def serve(self, node: LearningNode) -> None:
        """The server: send, wait, average."""
        async for t in node.rounds():
            chosen = self.chosen(node, t)
            self.tell(node, chosen, t)
            answers = await node.receive(tag="update", round=t, senders=chosen, timeout=self.patience)
            self.average(node, answers, t)

    def tell(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        """Send the server's model."""
        node.send(chosen, {"model": self.selection.take(node.model)}, tag="model", round=t)

    def average(self, node: LearningNode, answers: Inbox, t: int) -> None:
        """Move the server's model by what clients sent; buffers become the clients' mean, however far it moves."""
        usable = node.usable(answers, model=self.selection.entry, samples=SAMPLES)
        weights = self.weights(usable)
        if not sum(weights):
            return
        parts = [self.selection.take(node.model), *(answer["model"] for answer in usable)]
        steps = [1.0 - self.server_lr, *(self.server_lr * weight for weight in weights)]
        if not self.selection.buffered or self.server_lr == 1.0:
            node.model = self.selection.put(node.model, Mixture(parts, steps))
            return
        trained, buffers = zip(*map(self.selection.split, parts), strict=True)
        node.model = self.selection.put(node.model, Mixture(trained, steps), Mixture(buffers[1:], weights))

    def weights(self, answers: Sequence[Message]) -> list[float]:
        """The share that each answer has in the mean of all."""
        counts = [answer["samples"] if self.weighting == "samples" else 1 for answer in answers]
        return [count / max(sum(counts), 1) for count in counts]

    def listens(self, node: LearningNode, t: int) -> bool:
        """Whether the server tells a client its model in round t."""
        return node.id in self.chosen(node, t)

    async def take_part(self, node: LearningNode) -> None:
        """A client: in the rounds for which it was chosen, train the server's model and send it back."""
        async for t in node.rounds():
            if self.listens(node, t):
                model = self.told(node, await self.hear(node, t))
                if model is None:
                    continue
                node.state["heard"] = t
                if node.id in self.chosen(node, t):
                    update = await node.train(model, proximal=self.proximal)
                    node.model = update.model
                    answer: Payload = {**self.answer(node, update, t), "samples": node.data.samples}
                    node.send(SERVER, answer, tag="update", round=t)

    async def hear(self, node: LearningNode, t: int) -> Inbox:
        """Wait for the server."""
        heard: int = node.state.get("heard", -1)  # type: ignore[assignment]
        timeout = None if self.patience is None else (t - heard + 1) * self.patience
        return await node.receive(tag="model", round=t, senders=[SERVER], timeout=timeout)

    def told(self, node: LearningNode, inbox: Inbox) -> Tensor | Mixture | None:
        """The server's model, if it came, with whatever is not shared as the client has it."""
        usable = node.usable(inbox, model=self.selection.entry)
        return self.selection.put(node.model, usable[0]["model"]) if usable else None

    def answer(self, node: LearningNode, update: Update, t: int) -> Payload:
        """What a client sends back of its training."""
        return {"model": self.selection.take(update.model)}
