"""Ways to send the server's model to clients: whole, or as compressed changes of a copy that all clients hold."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from covey.federated.ends import SERVER, Ends
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import BUFFERS
from covey.messages.compression import FIRST_MARK, Compressor, mark_of, next_mark
from covey.parts.nodes import NodeId
from covey.runtime.node import Inbox, Message, Numbers
from covey.runtime.reading import understood
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg
    from covey.parts.parameters import Setting

_ASK, _BEFORE, _MARK = "ask", "before", "mark"
"""The tag of a client's request for the whole copy; the entries for the mark of the copy before a change, and of a
whole copy."""


class Received(State):
    """The models that a client has received."""

    last: int = -1
    """The last round in which the server's model came."""


class Copy(State):
    """The copy of the server's model that its clients hold, at the server and at a client."""

    copy: Tensor | None = None
    """The trained numbers."""
    mark: bytes = FIRST_MARK
    asked: list[int] = []
    """At the server: the clients that have asked for the whole copy."""
    behind: bool = False
    """At a client: whether it must ask."""


class WholeDown(Ends):
    """The whole model of the server, for the chosen clients."""

    def send(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        """Send the server's model to clients."""
        node.send(chosen, {"model": self.selection.take(node.model)}, tag="model", round=t)

    def origin(self, node: LearningNode) -> Tensor | None:
        """The trained values that clients start the round with, or None if those are the server's."""
        return None

    def end(self, node: LearningNode, t: int) -> None:
        """Record the requests of clients at the server."""

    async def receive(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> Tensor | Mixture | None:
        """Receive the server's model at a client. None if no model is sent to it, or none arrives in time."""
        if node.id not in chosen:
            return None
        inbox = await node.receive(tag="model", round=t, senders=[SERVER], timeout=self._timeout(node, t))
        model = self.model(node, inbox)
        if model is not None:
            node.keep(Received, "down").last = t
        return model

    def _timeout(self, node: LearningNode, t: int) -> float | None:
        return None if self.patience is None else (t - node.keep(Received, "down").last + 1) * self.patience

    def model(self, node: LearningNode, inbox: Inbox) -> Tensor | Mixture | None:
        """The model to train, with the client's unshared values; None if no model arrived."""
        usable = node.usable(inbox, model=self.selection.entry)
        return self.selection.put(node.model, usable[0]["model"]) if usable else None


class CompressedDown(WholeDown):
    """Compressed changes of a copy that all clients hold, including those that were not chosen.

    The first message is the whole copy. The error of a change remains in the difference of model and copy, so the next
    change includes it. A client that missed a change asks for the whole copy.
    """

    def __init__(self, program: "FedAvg", setting: "Setting", compressor: Compressor) -> None:
        super().__init__(program, setting)
        self.compressor = compressor

    def send(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        everybody = [NodeId(client) for client in range(1, node.nodes)]
        kept, trained = node.keep(Copy, "down"), self.trained(node.model)
        asked: set[int] = {*kept.asked}
        if kept.copy is None:
            copy, mark, asked = trained, FIRST_MARK, {*everybody}
        else:
            copy, before = kept.copy.clone(), kept.mark
            payload, change = self.compressor.compress(trained - copy, self.draw("down", node.id, t))
            change.add_to(copy)
            mark = next_mark(before, payload)
            follow = [client for client in everybody if client not in asked]
            node.send(follow, self.with_buffers({**payload, _BEFORE: before}, node.model), tag="model", round=t)
        kept.copy, kept.mark = copy, mark
        whole = self.with_buffers({"model": copy, _MARK: mark}, node.model)
        node.send([client for client in everybody if client in asked], whole, tag="model", round=t)

    def origin(self, node: LearningNode) -> Tensor | None:
        return node.keep(Copy, "down").copy

    def end(self, node: LearningNode, t: int) -> None:
        node.keep(Copy, "down").asked = [int(message.sender) for message in node.arrived(tag=_ASK, round=t)]

    async def receive(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> Tensor | Mixture | None:
        kept = node.keep(Copy, "down")
        if kept.behind:
            kept.behind = False
            node.send(SERVER, {}, tag=_ASK, round=t)
        return await super().receive(node, [node.id], t)

    def model(self, node: LearningNode, inbox: Inbox) -> Tensor | Mixture | None:
        sound, kept = node.usable(inbox, **self.beside), node.keep(Copy, "down")
        for message, found in understood(node, sound, partial(self._changed, node)):
            if found is not None:
                kept.copy, kept.mark = found
                return self.selection.put(node.model, found[0], message[BUFFERS] if self.beside else None)
        kept.behind = True
        return None

    def _changed(self, node: LearningNode, message: Message) -> tuple[Tensor, bytes] | None:
        """The copy after a message, and its mark; None if the message changes another copy than the client's.

        Raises:
            WireError: the message is malformed.
        """
        if "model" in message.shared:
            if not node.usable([message], model=Numbers(self.selection.trained)):
                return None
            return message["model"], mark_of(message.shared, _MARK)
        before = mark_of(message.shared, _BEFORE)
        payload = {name: entry for name, entry in message.shared.items() if name not in (_BEFORE, BUFFERS)}
        draw = self.draw("down", SERVER, message.round)
        change = self.compressor.decompress(payload, self.selection.trained, draw)
        kept = node.keep(Copy, "down")
        if kept.copy is None or kept.mark != before:
            return None
        copy = kept.copy.clone()
        change.add_to(copy)
        return copy, next_mark(before, payload)
