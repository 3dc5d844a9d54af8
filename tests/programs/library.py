"""Nodes that end at once, or after some rounds, and answer the others until these have ended."""

from covey import Node, NodeId, Program, State, param
from covey.runtime.node import Message

LIBRARY, READER = NodeId(0), NodeId(1)


class Asked(State):
    """The sums of what a node was asked, how often, and of the answers that it has had."""

    sum: int = 0
    times: int = 0
    answers: float = 0.0


class Library(Program):
    """Node 0 only answers; node 1 asks it in a few rounds, and answers too; the others ask both."""

    takes: float = param("How long an answer takes.", default=0.002, ge=0)
    few: int = param("The rounds of node 1.", default=3, ge=0)

    async def run(self, node: Node) -> None:
        asked = node.keep(Asked)

        async def answer(message: Message) -> None:
            await node.sleep(self.takes)
            asked.sum, asked.times = asked.sum + message["number"], asked.times + 1
            node.send(message.sender, {"number": 3 * message["number"]}, tag=f"answer {node.id}")

        if node.id in (LIBRARY, READER):
            node.serve("question", answer)
        if node.id == LIBRARY:
            return
        async for t in node.rounds():
            if node.id == READER and t == self.few:
                break
            for library in {LIBRARY, READER} - {node.id}:
                node.send(library, {"number": 1000 * node.id + t}, tag="question")
                (answered,) = await node.receive(tag=f"answer {library}", senders=[library])
                asked.answers += 0.5 * answered["number"]
            await node.sleep(0.001 * node.id)
