"""The part of gossip that says what is sent, and what a received message contributes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from covey.node import Inbox, Node, NodeId, Payload
from covey.parameters import Part
from covey.topology import Graph


@dataclass(slots=True, eq=False)
class Contribution:
    """What one neighbour gives to the merged model."""

    sender: NodeId
    values: Tensor
    places: Tensor | None = None
    """Which of the P parameters `values` are; None where they are all."""


class Sharing(Part):
    """Chooses what leaves a node; one object serves all nodes, so what belongs to one lives in `node.state`."""

    family: ClassVar[str] = "sharing"

    def outgoing(self, node: Node, graph: Graph, t: int) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        """The messages of round t: to whom, and what."""
        raise NotImplementedError

    def incoming(self, node: Node, inbox: Inbox) -> list[Contribution]:
        """What the received messages contribute, in order of their senders; wrong ones are rejected."""
        raise NotImplementedError

    def message_bytes(self, model_bytes: int) -> float:
        """The expected size of one message, given that of a message with a whole model."""
        raise NotImplementedError
