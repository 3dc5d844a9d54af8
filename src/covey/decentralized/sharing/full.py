"""Send the whole model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from covey.aggregation import Contribution
from covey.decentralized.sharing.sharing import Sharing
from covey.learning.node import MODEL, LearningNode
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.runtime.node import Message


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"
    takes_buffers = True

    def outgoing(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        return [(graph.receivers(node.id), {"model": node.model})]

    def understand(self, node: LearningNode, messages: Sequence[Message]) -> Iterator[tuple[Message, Contribution]]:
        for message in node.usable(messages, model=MODEL):
            model: Any = message.shared["model"]
            yield message, Contribution(message.sender, model)
