"""Send the whole model."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from covey.aggregation import Contribution
from covey.node import MODEL, Inbox, Node, NodeId, Payload
from covey.sharing.sharing import Sharing
from covey.topology import Graph


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        return [(graph.receivers(node.id), {"model": node.model})]

    def incoming(self, node: Node, inbox: Inbox) -> list[Contribution]:
        usable = node.usable(inbox, model=MODEL)
        return [Contribution(message.sender, message.payload["model"]) for message in usable]  # type: ignore[arg-type]

    def message_bytes(self, model_bytes: int) -> float:
        return model_bytes
