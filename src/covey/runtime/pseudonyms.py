"""The virtual nodes of a node at run time."""

from typing import TYPE_CHECKING

from covey.messages.payloads import Payload
from covey.runtime.content import Content
from covey.runtime.node import Inbox, Pseudonym, Sending
from covey.runtime.requests import check_tag
from covey.runtime.sampler import Share
from covey.runtime.stage import named

if TYPE_CHECKING:
    from covey.runtime.running_node import RunningNode


class RunningPseudonym(Pseudonym):
    """A virtual node on the stage of its node.

    Args:
        node: the node that acts for it.
        share: its name and neighbours.
        round: the round.
    """

    __slots__ = ("_node", "_round", "id", "number", "peers")

    def __init__(self, node: "RunningNode", share: Share, round: int) -> None:
        self._node, self._round = node, round
        self.number, self.id, self.peers = share

    def send(self, payload: Payload | Content, *, tag: str = "") -> Sending:
        node = self._node
        check_tag(node, tag)
        return node.stage.post(node, self.peers, node.given(payload), tag, self._round)

    async def receive(self, *, tag: str = "", timeout: float | None = None) -> Inbox:
        key = named(tag, self.id)
        return await self._node.receive(tag=key, round=self._round, senders=self.peers, timeout=timeout)
