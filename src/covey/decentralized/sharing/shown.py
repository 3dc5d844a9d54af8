"""A node as a sharing sees it, where less than its whole model is shared."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from covey.aggregation import Aggregation, Contribution
from covey.learning.mixture import Mixture
from covey.learning.node import MODEL, LearningNode
from covey.learning.selection import BUFFERS, Selection
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.runtime.node import Expected, Inbox, Message, Numbers


class Shown:
    """A node whose model is the shared part, for one round; in all else the node itself.

    Buffers that are shared beside the part travel as an entry of their own in the messages of the sharing, which sees
    nothing of them. They are averaged over those whose messages the sharing takes.
    """

    def __init__(self, node: LearningNode, selection: Selection) -> None:
        self._node = node
        self._selection = selection
        self._seen: tuple[Tensor, Tensor] | None = None
        """The whole model and its shared part, so that a model that is the same one is so for the sharing, too."""
        self._heard: list[tuple[Message, Tensor]] = []
        self._rejected: set[NodeId] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    @property
    def whole(self) -> Tensor:
        """All of the node's model."""
        return self._node.model

    @property
    def model(self) -> Tensor:
        whole = self.whole
        if self._seen is None or self._seen[0] is not whole:
            self._seen = whole, self._selection.take(whole)
        return self._seen[1]

    @model.setter
    def model(self, value: Tensor | Mixture) -> None:
        self._node.model = self._selection.put(self.whole, value)

    def usable(self, messages: Iterable[Message], /, **entries: Expected) -> list[Message]:
        asked = list(messages)
        wanted = {name: self._selection.entry if expected is MODEL else expected for name, expected in entries.items()}
        found = self._node.usable(asked, **wanted)
        self._rejected |= {message.sender for message in asked} - {message.sender for message in found}
        return found

    def reject(self, message: Message, reason: str) -> None:
        self._rejected.add(message.sender)
        self._node.reject(message, reason)

    # ------------------------------------------------------------------ the buffers beside

    def with_buffers(self, payload: Payload) -> Payload:
        """A message of the sharing, as it travels."""
        if not self._selection.beside:
            return payload
        return {**payload, BUFFERS: self._selection.buffers(self.whole)}

    def without_buffers(self, inbox: Inbox) -> Inbox:
        """Messages as the sharing sees them; those without buffers are rejected."""
        if not self._selection.beside:
            return inbox
        self._rejected.clear()
        usable = self._node.usable(inbox, **{BUFFERS: Numbers(self._selection.buffered)})
        self._heard = [(message, message[BUFFERS]) for message in usable]
        return Inbox(map(_without_buffers, usable), inbox.missing)

    def averaged_buffers(self, graph: Graph, aggregation: Aggregation) -> Tensor | Mixture | None:
        """The buffers after a round."""
        if not self._selection.beside:
            return None
        contributions = [
            Contribution(message.sender, buffers)
            for message, buffers in self._heard
            if message.sender not in self._rejected
        ]
        own = self._selection.buffers(self.whole)
        return aggregation.merge(self._node, graph, own, contributions)


def _without_buffers(message: Message) -> Message:
    """A message as a sharing sees it; all its receivers in this process share one."""
    if not isinstance(message.understood, Message):
        payload = {name: entry for name, entry in message.shared.items() if name != BUFFERS}
        message.understood = Message(message.sender, message.tag, message.round, payload, message.size)
    inner: Message = message.understood
    return inner
