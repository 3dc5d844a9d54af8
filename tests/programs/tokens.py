"""Nodes that pass tokens on at their own pace, and end when they have received all that are for them."""

from covey import Node, Program, State, param


class Passed(State):
    """The tokens of a node so far."""

    sent: int = 0
    had: list[int] = []


class Tokens(Program):
    """Every node sends numbered tokens to others it draws, a few in a round, and counts each that comes."""

    tokens: int = param("The number of tokens that each node sends.", default=6, ge=1)
    tags: int = param("The number of tags.", default=2, ge=1)

    def receivers(self, node: Node, sender: int) -> list[int]:
        """The receivers of a node's tokens, one after the other; a function of public values."""
        draw = node.public_random("receivers", sender)
        return [int(draw.integers(0, node.nodes - 1)) for _ in range(self.tokens)]

    async def run(self, node: Node) -> None:
        passed = node.keep(Passed)
        mine = [(r + 1 if r >= node.id else r) for r in self.receivers(node, node.id)]
        due = sum(
            (r + 1 if r >= sender else r) == node.id
            for sender in range(node.nodes)
            if sender != node.id
            for r in self.receivers(node, sender)
        )
        async for t in node.rounds():
            for _ in range(int(node.public_random("pace", node.id, t).integers(0, 3))):
                sent = passed.sent
                if sent < self.tokens:
                    node.send(mine[sent], {"token": node.id * 1000 + sent}, tag=f"{sent % self.tags}")
                    passed.sent += 1
            await node.sleep(float(node.public_random("sleep", node.id, t).uniform(0.001, 0.02)))
            for tag in range(self.tags):
                had = [message["token"] for message in node.arrived(tag=f"{tag}")]
                passed.had = [*passed.had, *had]
            if passed.sent == self.tokens and len(passed.had) >= due:
                break
