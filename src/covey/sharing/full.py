"""Send the whole model."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from covey.aggregation import Contribution
from covey.node import Inbox, Node, NodeId, Payload
from covey.sharing.sharing import Sharing
from covey.topology import Graph


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        return [(graph.receivers(node.id), {"model": node.model})]

    def incoming(self, node: Node, inbox: Inbox) -> list[Contribution]:
        contributions, shape = [], self._shape
        for message in inbox:
            model = message.payload.get("model")
            if isinstance(model, Tensor) and model.shape == shape and model.dtype == torch.float32:
                contributions.append(Contribution(message.sender, model))
            else:
                node.reject(message, f"its model is not {self._shape[0]} float32 numbers")
        return contributions

    def message_bytes(self, model_bytes: int) -> float:
        return model_bytes
