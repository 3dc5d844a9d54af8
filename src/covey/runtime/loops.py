"""The loops of programs: over the rounds of a node, and over the messages of a tag."""

from typing import TYPE_CHECKING

from covey.runtime.node import Message

if TYPE_CHECKING:
    from covey.runtime.running_node import RunningNode


class Rounds:
    """The iterator of a node's rounds, which commits each."""

    __slots__ = ("node", "open")

    def __init__(self, node: "RunningNode") -> None:
        self.node = node
        self.open = False

    def __aiter__(self) -> "Rounds":
        return self

    async def __anext__(self) -> int:
        node = self.node
        stage, mail = node.stage, node.mail
        if self.open:
            node.in_round = False
            await stage.complete(node)
        if node.behind:
            latest = mail.latest_round()
            if latest > mail.round:
                stage.skip_to(node, min(latest, stage.rounds))
        if mail.round >= stage.rounds:
            raise StopAsyncIteration
        self.open = node.in_round = True
        return mail.round


class Messages:
    """The iterator of the messages of a tag."""

    def __init__(self, node: "RunningNode", tag: str) -> None:
        self.node = node
        self.tag = tag

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> Message:
        return (await self.node.receive(tag=self.tag, count=1))[0]
