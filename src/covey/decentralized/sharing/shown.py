"""The view of a node for a sharing of a part of its model."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.runtime.content import Content, entries_of, usable
from covey.runtime.node import Message, Node, Sending, Wanted


class Shown:
    """A node whose model is the shared part, for one round; in all else the node itself."""

    def __init__(self, outer: LearningNode, selection: Selection) -> None:
        self.outer = outer
        self.selection = selection
        self._seen: tuple[Tensor, Tensor] | None = None
        """The whole model and its shared part. The same model has the same part, also as an object."""
        self.rejected: set[NodeId] = set()
        """The senders of messages that the sharing could not use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.outer, name)

    @property
    def whole(self) -> Tensor:
        """All of the node's model."""
        return self.outer.model

    @property
    def model(self) -> Tensor:
        whole = self.whole
        if self._seen is None or self._seen[0] is not whole:
            self._seen = whole, self.selection.take(whole)
        return self._seen[1]

    @model.setter
    def model(self, value: Tensor | Mixture) -> None:
        self.outer.model = self.selection.put(self.whole, value)

    @property
    def shape(self) -> tuple[int]:
        """The shape of the shared part."""
        return (self.selection.size,)

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload | Content, *, tag: str = "", round: int | None = None
    ) -> Sending:
        return self.outer.send(to, entries_of(payload, cast(Node, self)), tag=tag, round=round)

    def usable(self, messages: Iterable[Message], content: Any = None, /, **entries: Wanted) -> Any:
        return usable(cast(Node, self), messages, content, entries, copy=self.careful)

    def reject(self, message: Message | Content, reason: str) -> None:
        self.rejected.add(message.sender)
        self.outer.reject(message, reason)
