"""Nodes that answer tokens in a slow handler while they go through rounds of their own."""

from covey import Node, Program, param
from covey.runtime.node import Message


class Served(Program):
    """Every node sends numbered tokens to others in turn, one a round; a handler counts each some time after it came."""

    tokens: int = param("The number of tokens that each node sends.", default=6, ge=1)
    takes: float = param("The time that a handler takes.", default=0.01, ge=0)

    async def run(self, node: Node) -> None:
        node.state.setdefault("had", [])

        async def count(message: Message) -> None:
            await node.sleep(self.takes)
            node.state["had"] = [*node.state["had"], message["token"]]

        node.serve("token", count)
        async for t in node.rounds():
            if t < self.tokens:
                receiver = (node.id + 1 + t % (node.nodes - 1)) % node.nodes
                node.send(receiver, {"token": node.id * 1000 + t}, tag="token")
            await node.sleep(float(node.public_random("sleep", node.id, t).uniform(0.001, 0.02)))
