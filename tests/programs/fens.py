"""FENS (Allouah et al., 2024): models of all clients stay as they are; an aggregator of their outputs is learned."""

from collections.abc import Mapping, Sequence

import torch

from covey.learning.models import MLP
from covey.learning.node import Further, LearningNode, LearningProgram
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param

SERVER = NodeId(0)


class FENS(LearningProgram):
    """One model of every client, once; then federated Adam on the aggregator, whose proxy is the validation split."""

    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})
    epochs: int = param("The number of passes of the local training.", default=10, ge=1)
    lr: float = param("The server's learning rate.", default=0.001, gt=0)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        assert setting.label_counts is not None
        models, classes = setting.nodes - 1, setting.label_counts.shape[1]
        return {"aggregator": Further(MLP(hidden=[4 * models]), inputs=(models * classes,), outputs=classes)}

    async def run(self, node: LearningNode) -> None:
        if node.id == SERVER:
            await self.combine(node)
            return
        node.send(SERVER, {"model": (await node.train(epochs=self.epochs)).model}, tag="model")
        (message,), proxy = await node.receive(tag="models", senders=[SERVER]), node.samples("validation")
        said = (await node.predict(message["models"].unbind(), on=proxy)).transpose(0, 1).flatten(1)
        async for t in node.rounds():
            (message,) = await node.receive(tag="aggregator", round=t, senders=[SERVER])
            work = {"of": "aggregator", "on": (said, proxy.targets), "steps": 1, "batch_size": 128, "lr": 1.0}
            change = (await node.train(message["model"], **work)).delta
            node.send(SERVER, {"delta": change, "samples": len(said)}, tag="delta", round=t)

    async def combine(self, node: LearningNode) -> None:
        clients = [NodeId(id) for id in range(1, node.nodes)]
        models = [message["model"] for message in await node.receive(tag="model", senders=clients)]
        node.send(clients, {"models": torch.stack(models)}, tag="models")
        said, model = await node.predict(models, on=node.samples("test")), node.initial("aggregator")
        on_test = said.transpose(0, 1).flatten(1)
        first = second = torch.zeros_like(model)
        async for t in node.rounds():
            node.send(clients, {"model": model}, tag="aggregator", round=t)
            heard = await node.receive(tag="delta", round=t, senders=clients)
            total = sum(message["samples"] for message in heard)
            delta = torch.stack([message["delta"] * (message["samples"] / total) for message in heard]).sum(0)
            first, second = 0.9 * first + 0.1 * delta, 0.99 * second + 0.01 * delta.square()
            model = model + self.lr * first / (second.sqrt() + 1e-3)
            node.judge(await node.predict(model, on=on_test, of="aggregator"))
