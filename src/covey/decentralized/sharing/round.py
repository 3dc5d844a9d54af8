"""One round of one node, for its sharing."""

from collections.abc import Awaitable, Sequence
from typing import cast

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.shown import Shown
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import BUFFERS, Selection
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.runtime.content import Content, entries_of
from covey.runtime.entries import Numbers
from covey.runtime.node import Inbox, Message
from covey.runtime.patience import Receive

_ALL_THE_WAY = 1.0 + 1e-5
"""The longest step of a node towards the mean of others; the part above 1 is room for rounding."""


class Beside(Content):
    """The buffers beside the values of a sharing."""

    buffers: Tensor


class Round:
    """A round of one node, through which its sharing sends and receives.

    Buffers that are shared beside the part travel as an entry of their own in the messages without a tag; the sharing
    sees nothing of them. They are averaged over those whose messages the sharing takes.

    Args:
        node: the node that shares.
        topology: the graphs.
        t: the number of the round.
        aggregation: the rule that merges models.
        receive: waits for messages of the round.
        selection: the part that is shared; None for all.
        start: the model that the round began with; by default the node's present one.
    """

    __slots__ = (
        "_beside",
        "_receive",
        "_selection",
        "_shown",
        "aggregation",
        "graph",
        "node",
        "start",
        "t",
        "topology",
    )

    def __init__(
        self,
        node: LearningNode,
        topology: Topology,
        t: int,
        aggregation: Aggregation,
        receive: Receive,
        *,
        selection: Selection | None = None,
        start: Tensor | None = None,
    ) -> None:
        self.topology, self.t, self.aggregation = topology, t, aggregation
        self.graph: Graph = topology.at(t)
        """The graph of the round."""
        self._selection, self._receive = selection, receive
        self._shown: Shown | None = None
        self.node = node
        """The node; its model is the shared part."""
        if selection is not None and not selection.is_whole:
            self._shown = Shown(node, selection)
            self.node = cast(LearningNode, self._shown)
            start = None if start is None else selection.take(start)
        self.start: Tensor = self.node.model if start is None else start
        """The model that the round began with, as far as it is shared; until all is sent."""
        self._beside: Sequence[tuple[NodeId, Tensor]] = ()
        """The senders of buffers beside messages, and the buffers."""

    def of(self, selection: Selection) -> "Round":
        """The same round for a sharing of a part of the shared part."""
        return Round(
            self.node, self.topology, self.t, self.aggregation, self._receive, selection=selection, start=self.start
        )

    # ------------------------------------------------------------------ what a sharing asks

    @property
    def receivers(self) -> Sequence[NodeId]:
        """The nodes to which the node sends."""
        return self.graph.receivers(self.node.id)

    @property
    def senders(self) -> Sequence[NodeId]:
        """The nodes that send to the node."""
        return self.graph.senders(self.node.id)

    def weights(self, node: NodeId) -> dict[NodeId, float]:
        """The weight that a node gives to each of its senders, if the aggregation has weights."""
        weights = self.aggregation.weights(node, self.graph)
        assert weights is not None
        return dict(zip(self.graph.senders(node), weights, strict=True))

    def send(self, receivers: Sequence[NodeId], payload: Payload | Content, tag: str = "") -> None:
        """Send a message of the round."""
        if self._shown is not None and not tag and self._shown.selection.beside:
            payload = {**entries_of(payload, self.node), BUFFERS: self._shown.selection.buffers(self._shown.whole)}
        self.node.send(receivers, payload, tag=tag, round=self.t)

    def receive(self, tag: str = "", senders: Sequence[NodeId] | None = None) -> Awaitable[Inbox]:
        """The messages of some nodes under a tag; by default of all that send to the node."""
        if self._shown is None or tag or not self._shown.selection.beside:
            return self._receive(tag, senders)
        return self._receive_without_buffers(self._shown, senders)

    def merge(self, own: Tensor, contributions: Sequence[Contribution]) -> Tensor | Mixture:
        """The aggregation's result for own numbers and received ones."""
        return self.aggregation.merge(self.node, self.graph, own, contributions)

    # ------------------------------------------------------------------ what a program asks

    def whole(self, part: Tensor | Mixture) -> Tensor | Mixture:
        """The whole model with the merged shared part."""
        selection, shown = self._selection, self._shown
        if selection is None or (shown is None and not selection.buffered):
            return part
        reach = self.aggregation.reach(self.node.id, self.graph) if selection.buffered else 1.0
        if shown is None and reach <= _ALL_THE_WAY:
            return part
        whole = self.node.model if shown is None else shown.whole
        buffers = None if shown is None or not selection.beside else self._averaged_buffers(shown)
        if reach > _ALL_THE_WAY:
            part, buffers = _not_beyond(selection, whole, part, buffers, reach)
        return selection.put(whole, part, buffers)

    # ------------------------------------------------------------------ the buffers beside

    async def _receive_without_buffers(self, shown: Shown, senders: Sequence[NodeId] | None) -> Inbox:
        """The views of messages for the sharing; messages without buffers are rejected."""
        inbox = await self._receive("", senders)
        usable = shown.outer.usable(inbox, Beside, buffers=Numbers(shown.selection.buffered))
        shown.rejected.clear()
        self._beside = [(beside.sender, beside.buffers) for beside in usable]
        return Inbox(map(_without_buffers, usable), inbox.missing)

    def _averaged_buffers(self, shown: Shown) -> Tensor | Mixture:
        """The buffers after the round."""
        used = [(sender, buffers) for sender, buffers in self._beside if sender not in shown.rejected]
        contributions = [Contribution(sender, buffers) for sender, buffers in used]
        return self.aggregation.merge(shown.outer, self.graph, shown.selection.buffers(shown.whole), contributions)


def _without_buffers(beside: Beside) -> Message:
    """The view of a message for a sharing; all receivers in this process share one."""
    message = beside.message
    if not isinstance(message.understood, Message):
        message.understood = Message(message.sender, message.tag, message.round, beside.others, message.size)
    inner: Message = message.understood
    return inner


def _not_beyond(
    selection: Selection, whole: Tensor, part: Tensor | Mixture, buffers: Tensor | Mixture | None, reach: float
) -> tuple[Tensor | Mixture, Tensor]:
    """The trained part, and buffers that move at most to the mean of the received ones. Variances must not become
    negative."""
    if buffers is None:
        part, buffers = selection.split(part.tensor() if isinstance(part, Mixture) else part)
    moved = buffers.tensor() if isinstance(buffers, Mixture) else buffers
    return part, torch.lerp(selection.buffers(whole), moved, 1.0 / (reach * _ALL_THE_WAY))
