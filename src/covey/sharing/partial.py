"""Sharings that send some numbers of the model; a receiver fills the gaps with its own."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from covey.aggregation import Contribution
from covey.codecs import encode_places
from covey.errors import WireError
from covey.node import Inbox, Message, Node, NodeId, Payload
from covey.parameters import Setting, param
from covey.sharing.places import Places
from covey.sharing.sharing import Sharing
from covey.topology import Graph

_ENTRY_BYTES = 16
"""What the header of a message says of one more tensor, and the tensor's padding, about."""


class Partial(Sharing):
    """Sends `choose`'s numbers of the model to every receiver, and where they belong."""

    budget: float = param("The fraction of the values that is sent.", gt=0, le=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._places = Places(setting.parameters)

    def choose(self, node: Node, t: int, start: Tensor) -> Tensor:
        """The places of the numbers to send in round t, increasing."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many numbers a message has."""
        return max(1, round(self.budget * self._setting.parameters))

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        receivers = graph.receivers(node.id)
        if self.count == self._setting.parameters:
            return [(receivers, {"values": node.model})]
        places = self.choose(node, t, start)
        return [(receivers, {"values": node.model[places], **self.describe(places, node, t)})]

    def describe(self, places: Tensor, node: Node, t: int) -> Payload:
        """What tells a receiver the places."""
        return self._places.describe(places)

    def placed(self, message: Message, count: int) -> Tensor:
        """The places of a message's values.

        Raises:
            WireError: it does not tell them.
        """
        return self._places.read(message.payload, count)

    def incoming(self, node: Node, inbox: Inbox) -> list[Contribution]:
        contributions = []
        for message in inbox:
            try:
                contributions.append(self._contribution(message))
            except WireError as error:
                node.reject(message, error.detail)
        return contributions

    def _contribution(self, message: Message) -> Contribution:
        values = message.payload.get("values")
        if not isinstance(values, Tensor) or values.dtype != torch.float32 or values.dim() != 1:
            raise WireError("bad-field", "its values are no float32 numbers")
        if len(values) == self._setting.parameters and len(message.payload) == 1:
            return Contribution(message.sender, values)
        return Contribution(message.sender, values, self.placed(message, len(values)))

    def message_bytes(self, model_bytes: int) -> float:
        return model_bytes - 4 * (self._setting.parameters - self.count) + self.places_bytes()

    def places_bytes(self) -> float:
        """The expected bytes that tell the places of one message."""
        if self.count == self._setting.parameters:
            return 0.0
        return _ENTRY_BYTES + len(encode_places(torch.arange(self.count), self._setting.parameters))
