"""Ways to send the server's model to clients: whole, or as compressed changes of a copy that all clients hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import torch
from torch import Tensor

from covey.federated.ends import SERVER, Ends
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import FIRST_MARK, MARK_BYTES, Compressor, Decompressed, next_mark
from covey.parts.nodes import NodeId
from covey.runtime.content import Content
from covey.runtime.entries import Bytes, Numbers
from covey.runtime.node import Inbox, Message, Node, Wanted
from covey.runtime.reading import understood
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg
    from covey.parts.parameters import Setting

_ASK = "ask"
"""The tag of a client's request for the whole copy."""


class Order(Content):
    """A message of the server to a client."""

    control: Tensor | None = None
    """The server's control variate, if the program has one."""
    counted: Tensor | None = None
    """The round of each chosen client's last answer that counted, -1 for none, if some answers did not."""


class Model(Order):
    """The server's model."""

    model: Tensor


class WholeCopy(Model):
    """A whole copy."""

    mark: Annotated[bytes, Bytes(MARK_BYTES)]
    buffers: Tensor | None = None


class Change(Order):
    """A change of a copy. The other entries of its message are the compressed vector."""

    before: Annotated[bytes, Bytes(MARK_BYTES)]
    """The mark of the copy that is changed."""
    buffers: Tensor | None = None


class Start(NamedTuple):
    """The beginning of a client's round."""

    model: Tensor | Mixture
    """The server's model, with the client's unshared values."""
    order: Order
    """The message that it came with."""


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

    def send(self, node: LearningNode, chosen: Sequence[NodeId], t: int, **beside: Tensor) -> None:
        """Send the server's model to clients, with further entries of an `Order`."""
        node.send(chosen, Model(model=self.selection.take(node.model), **beside), tag="model", round=t)

    def origin(self, node: LearningNode) -> Tensor | None:
        """The trained values that clients start the round with, or None if those are the server's."""
        return None

    def end(self, node: LearningNode, t: int) -> None:
        """Record the requests of clients at the server."""

    async def receive(self, node: LearningNode, chosen: Sequence[NodeId], t: int, **wanted: Wanted) -> Start | None:
        """Receive the server's model at a client. None if no model is sent to it, or none arrives in time.

        Args:
            node: the client.
            chosen: the clients of the round.
            t: the round.
            wanted: the further entries of an `Order` that the message must have.
        """
        if node.id not in chosen:
            return None
        inbox = await node.receive(tag="model", round=t, senders=[SERVER], timeout=self._timeout(node, t))
        start = self.start(node, inbox, wanted)
        if start is not None:
            node.keep(Received, "down").last = t
        return start

    def views(self, client: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server's models, as a client gets them."""
        for found in client.usable(messages, Model, model=self.selection.entry):
            yield client.view(found.message, found.model, selection=self.selection)

    def _timeout(self, node: LearningNode, t: int) -> float | None:
        return None if self.patience is None else (t - node.keep(Received, "down").last + 1) * self.patience

    def start(self, node: LearningNode, inbox: Inbox, wanted: Mapping[str, Wanted]) -> Start | None:
        """The model to train, with the client's unshared values; None if no model arrived."""
        usable = node.usable(inbox, Model, model=self.selection.entry, **wanted)
        return Start(self.selection.put(node.model, usable[0].model), usable[0]) if usable else None


class CompressedDown(WholeDown):
    """Compressed changes of a copy that all clients hold, including those that were not chosen.

    The first message is the whole copy. The error of a change remains in the difference of model and copy, so the next
    change includes it. A client that missed a change asks for the whole copy.
    """

    def __init__(self, program: "FedAvg", setting: "Setting", compressor: Compressor) -> None:
        super().__init__(program, setting)
        self.compressor = compressor

    def send(self, node: LearningNode, chosen: Sequence[NodeId], t: int, **beside: Tensor) -> None:
        clients = [NodeId(client) for client in range(1, node.nodes)]
        kept, trained = node.keep(Copy, "down"), self.trained(node.model)
        asked: set[int] = {*kept.asked}
        if kept.copy is None:
            copy, mark, asked = trained, FIRST_MARK, {*clients}
        else:
            copy, before = kept.copy.clone(), kept.mark
            payload, change = self.compressor.compress(trained - copy, self.draw("down", node.id, t))
            change.add_to(copy)
            mark = next_mark(before, payload)
            follow = [client for client in clients if client not in asked]
            follow_up = self.with_buffers({**payload, "before": before, **beside}, node.model)
            node.send(follow, follow_up, tag="model", round=t)
        kept.copy, kept.mark = copy, mark
        whole = self.with_buffers({"model": copy, "mark": mark, **beside}, node.model)
        node.send([client for client in clients if client in asked], whole, tag="model", round=t)

    def origin(self, node: LearningNode) -> Tensor | None:
        return node.keep(Copy, "down").copy

    def end(self, node: LearningNode, t: int) -> None:
        node.keep(Copy, "down").asked = [int(message.sender) for message in node.arrived(tag=_ASK, round=t)]

    async def receive(self, node: LearningNode, chosen: Sequence[NodeId], t: int, **wanted: Wanted) -> Start | None:
        kept = node.keep(Copy, "down")
        if kept.behind:
            kept.behind = False
            node.send(SERVER, {}, tag=_ASK, round=t)
        return await super().receive(node, [node.id], t, **wanted)

    def start(self, node: LearningNode, inbox: Inbox, wanted: Mapping[str, Wanted]) -> Start | None:
        kept = node.keep(Copy, "down")
        for message in inbox:
            read = self._whole if "model" in message.shared else self._changed
            found = read(node, message, {**wanted, **self.beside})
            if found is not None:
                kept.copy, kept.mark, order = found
                return Start(self.selection.put(node.model, kept.copy, order.buffers if self.beside else None), order)
        kept.behind = True
        return None

    def _whole(
        self, node: LearningNode, message: Message, beside: Mapping[str, Wanted]
    ) -> tuple[Tensor, bytes, WholeCopy] | None:
        """The whole copy in a message, its mark, and the content; None if the message is malformed."""
        trained = Numbers(self.selection.trained)
        for whole in node.usable([message], WholeCopy, model=trained, **beside):
            return whole.model, whole.mark, whole
        return None

    def _changed(
        self, node: LearningNode, message: Message, beside: Mapping[str, Wanted]
    ) -> tuple[Tensor, bytes, Change] | None:
        """The same after a change; None if the message is malformed, or changes another copy than the client's."""
        kept = node.keep(Copy, "down")
        for change, vector in understood(node, node.usable([message], Change, **beside), self._vector):
            if kept.copy is not None and kept.mark == change.before:
                copy = kept.copy.clone()
                vector.add_to(copy)
                return copy, next_mark(change.before, change.others), change
        return None

    def views(self, client: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The copies of the server's model after each change."""
        reader, copy, mark = cast(LearningNode, client), None, FIRST_MARK
        for message in messages:
            found = self._whole(reader, message, self.beside) if "model" in message.shared else None
            if found is not None:
                copy, mark = found[0], found[1]
            else:
                changes = client.usable([message], Change, **self.beside)
                for change, vector in understood(cast(Node, reader), changes, self._vector):
                    if copy is None or mark != change.before:
                        copy = None  # It missed a change, so later ones are useless.
                    else:
                        copy, mark = copy.clone(), next_mark(mark, change.others)
                        vector.add_to(copy)
            if copy is not None:
                trained = torch.arange(self.selection.trained) if self.beside else None
                yield client.view(message, copy, trained, selection=self.selection)

    def _vector(self, change: Change) -> Decompressed:
        draw = self.draw("down", SERVER, change.message.round)
        return self.compressor.decompress(change.others, self.selection.trained, draw)
