"""Clients that go through rounds while their server waits in one phase for all that they do in many."""

from collections.abc import Mapping, Sequence

from covey import LearningNode, LearningProgram, Node, NodeId, Program, Setting, State, param
from covey.learning.mixture import Mixture

SERVER = NodeId(0)


class Value(State):
    """The number of a node, which depends on all messages that it has taken."""

    number: float = 0.0
    waited: bool = False
    """True if the server's phase is over."""


class Phases(Program):
    """Clients add up what they send around a ring; the server answers some of their reports, and then works alone."""

    synchronous = True
    every: int = param("The number of rounds between two answers of the server.", default=5, ge=1)
    alone: int = param("The rounds of the server after the phase.", default=6, ge=0)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.rounds = setting.rounds

    async def run(self, node: Node) -> None:
        await (self.serve(node) if node.id == SERVER else self.take_part(node))

    async def take_part(self, node: Node) -> None:
        value, clients = node.keep(Value), node.nodes - 1
        after, before = NodeId(1 + node.id % clients), NodeId(1 + (node.id - 2) % clients)
        async for t in node.rounds():
            node.send(after, {"number": value.number}, tag="ring", round=t)
            (message,) = await node.receive(tag="ring", round=t, senders=[before])
            value.number = 0.7 * value.number + 0.3 * message["number"] + float(node.random("draw", t).uniform())
            await node.sleep(0.001 * (1 + node.id % 3))
            node.send(SERVER, {"number": value.number}, tag="report")
            if t % self.every == 0:
                (answer,) = await node.receive(tag="answer", senders=[SERVER])
                value.number += answer["number"]
            node.log(number=value.number)

    async def serve(self, node: Node) -> None:
        value = node.keep(Value)
        if not value.waited:
            value.number, value.waited = await self.wait(node), True
        async for t in node.rounds():
            if t == self.alone:
                break
            value.number = 0.9 * value.number + float(node.random("draw", t).uniform())
            await node.sleep(0.01)

    async def wait(self, node: Node) -> float:
        """The server's phase: take all reports, and answer some. The sum of what clients report."""
        clients, total = [NodeId(id) for id in range(1, node.nodes)], 0.0
        for t in range(self.rounds):
            reports = sorted(await node.receive(tag="report", senders=clients), key=lambda report: report.sender)
            total = 0.5 * total + sum(report["number"] for report in reports)
            if t % self.every == 0:
                node.send(clients, {"number": total / 100}, tag="answer")
        return total


class Taught(LearningProgram):
    """Clients average around a ring and are evaluated, while their server waits for the last model of each."""

    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"client"})

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    async def run(self, node: LearningNode) -> None:
        clients = node.nodes - 1
        if node.id == SERVER:
            models = {message.sender: message["model"] for message in await node.receive(count=clients)}
            node.model = Mixture([models[id] for id in sorted(models)], [1 / clients] * clients)
            return
        after, before = NodeId(1 + node.id % clients), NodeId(1 + (node.id - 2) % clients)
        async for t in node.rounds():
            model = (await node.train()).model
            node.send(after, {"model": model}, tag="ring", round=t)
            (message,) = await node.receive(tag="ring", round=t, senders=[before])
            node.model = Mixture([model, message["model"]], [0.5, 0.5])
        node.send(SERVER, {"model": node.model})
