"""Sharings that send some numbers of the model; a receiver fills the gaps with its own."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.aggregation import Contribution
from covey.decentralized.sharing.places import Places
from covey.decentralized.sharing.sharing import Sharing
from covey.decentralized.sharing.values import Values, written_as
from covey.learning.node import LearningNode
from covey.messages.codecs import encode_places
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.node import Message

_ENTRY_BYTES = 16
"""What the header of a message says of one more tensor, and the tensor's padding, about."""


class Partial(Sharing):
    """Sends `choose`'s numbers of the model to every receiver, and where they belong."""

    foreseen: ClassVar[bool] = False
    """Whether the places of a round follow from public randomness alone, and so are known before it begins."""
    budget: float = param("The fraction of the values that is sent.", gt=0, le=1)
    values: str = written_as()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._places = Places(setting.parameters)
        self._values = Values(self.named(), self.values, setting.parameters, setting)

    def choose(self, node: LearningNode, t: int, start: Tensor) -> Tensor:
        """The places of the numbers to send in round t, increasing."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many numbers a message has."""
        return max(1, round(self.budget * self._setting.parameters))

    def outgoing(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        receivers = graph.receivers(node.id)
        if self.count == self._setting.parameters:
            return [(receivers, self._values.describe(node.model))]
        places = self.choose(node, t, start)
        return [(receivers, {**self._values.describe(node.model[places]), **self.describe(places, node, t)})]

    def describe(self, places: Tensor, node: LearningNode, t: int) -> Payload:
        """What tells a receiver the places."""
        return self._places.describe(places)

    def placed(self, message: Message, count: int) -> Tensor:
        """The places of a message's values.

        Raises:
            WireError: it does not tell them.
        """
        return self._places.read(message.shared, count)

    def contribution(self, message: Message) -> Contribution:
        values = self._values.read(message.shared)
        if len(values) == self._setting.parameters and len(message.shared) == 1:
            return Contribution(message.sender, values)
        return Contribution(message.sender, values, self.placed(message, len(values)))

    def message_bytes(self, model_bytes: int) -> float:
        values = self._values.expected_bytes(self.count)
        return model_bytes - 4 * self._setting.parameters + values + self.places_bytes()

    def places_bytes(self) -> float:
        """The expected bytes that tell the places of one message, were they random."""
        if self.count == self._setting.parameters:
            return 0.0
        generator = self._setting.generator("expected places")
        places = generator.choice(self._setting.parameters, self.count, replace=False, shuffle=False)
        return _ENTRY_BYTES + len(encode_places(torch.from_numpy(np.sort(places)), self._setting.parameters))
