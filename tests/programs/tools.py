"""An agent that reaches a goal by calling tools, which other nodes serve."""

from collections.abc import Callable

from covey import Node, Program, param
from covey.runtime.node import Message

TOOLS: dict[str, Callable[[int], int]] = {
    "double": lambda number: 2 * number,
    "add one": lambda number: number + 1,
    "halve": lambda number: number // 2,
}


class Agent(Program):
    """Node 0 goes from 1 to the goal; every other node serves one tool."""

    goal: int = param("The number that it wants.", default=22, ge=1)

    async def run(self, node: Node) -> None:
        names = [list(TOOLS)[(id - 1) % len(TOOLS)] for id in range(1, node.nodes)]
        if node.id:
            tool = TOOLS[names[node.id - 1]]

            async def call(message: Message) -> None:
                result = await node.compute(tool, message["number"], seconds=0.005)
                node.send(message.sender, {"result": result}, tag="result")

            node.serve("call", call)
            return
        number, plan = 1, [int(bit) for bit in bin(self.goal)[3:]]
        for bit in plan:
            for name in ("double", "add one") if bit else ("double",):
                served_by = names.index(name) + 1
                node.send(served_by, {"number": number}, tag="call")
                (answer,) = await node.receive(tag="result", count=1)
                number = answer["result"]
                node.record("calls", tool=name, result=number)
        node.state["number"] = number
