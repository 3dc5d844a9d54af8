"""Send the whole model."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from covey.aggregation import Contribution
from covey.errors import WireError
from covey.node import Message, Node, NodeId, Payload
from covey.sharing.sharing import Sharing
from covey.topology import Graph


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        return [(graph.receivers(node.id), {"model": node.model})]

    def contribution(self, message: Message) -> Contribution:
        if "model" not in message.payload:
            raise WireError("bad-field", "it has no 'model'")
        model, numbers = message.payload["model"], self._setting.parameters
        if not isinstance(model, Tensor) or model.shape != (numbers,) or model.dtype != torch.float32:
            raise WireError("bad-field", f"its 'model' is not {numbers} float32 numbers")
        return Contribution(message.sender, model)

    def message_bytes(self, model_bytes: int) -> float:
        return model_bytes
