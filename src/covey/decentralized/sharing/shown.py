"""A node as a sharing sees it, where less than its whole model is shared."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from covey.learning.mixture import Mixture
from covey.learning.node import MODEL, LearningNode
from covey.learning.selection import Selection
from covey.parts.nodes import NodeId
from covey.runtime.node import Expected, Message


class Shown:
    """A node whose model is the shared part, for one round; in all else the node itself."""

    def __init__(self, outer: LearningNode, selection: Selection) -> None:
        self.outer = outer
        self.selection = selection
        self._seen: tuple[Tensor, Tensor] | None = None
        """The whole model and its shared part, so that a model that is the same one is so for the sharing, too."""
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

    def usable(self, messages: Iterable[Message], /, **entries: Expected) -> list[Message]:
        asked = list(messages)
        wanted = {name: self.selection.entry if expected is MODEL else expected for name, expected in entries.items()}
        found = self.outer.usable(asked, **wanted)
        self.rejected |= {message.sender for message in asked} - {message.sender for message in found}
        return found

    def reject(self, message: Message, reason: str) -> None:
        self.rejected.add(message.sender)
        self.outer.reject(message, reason)
