"""A program that fails in its second round."""

from covey.runtime.node import Node, Program


class Broken(Program):
    """Raises."""

    async def run(self, node: Node) -> None:
        async for t in node.rounds():
            if t == 1:
                raise ValueError("oh")
