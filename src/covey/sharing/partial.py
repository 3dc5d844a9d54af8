"""Sharings that send some numbers of the model; a receiver fills the gaps with its own."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from covey.aggregation import Contribution
from covey.codecs import decode_values, encode_places, encode_values, has_pcodec
from covey.errors import ConfigurationError, WireError
from covey.node import Message, Node, NodeId, Payload
from covey.parameters import Setting, param
from covey.sharing.decoded import Decoded
from covey.sharing.places import Places
from covey.sharing.sharing import Sharing
from covey.topology import Graph

_ENTRY_BYTES = 16
"""What the header of a message says of one more tensor, and the tensor's padding, about."""
_SAMPLE = 1 << 16
"""From how many random numbers the bytes of packed values are estimated, at most."""


class Partial(Sharing):
    """Sends `choose`'s numbers of the model to every receiver, and where they belong."""

    budget: float = param("The fraction of the values that is sent.", gt=0, le=1)
    values: str = param(
        "How the values are written: as they are, or in fewer bytes without loss, which takes covey[pcodec].",
        default="raw",
        choices=("raw", "pcodec"),
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.values == "pcodec" and not has_pcodec():
            raise ConfigurationError(
                f"The 'values' of {self.named()} must be 'raw' unless pcodec is installed. Got 'pcodec' instead; "
                f"pip install 'covey[pcodec]' brings it."
            )
        self._places = Places(setting.parameters)
        self._values = Decoded()

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
            return [(receivers, {"values": self.written(node.model)})]
        places = self.choose(node, t, start)
        return [(receivers, {"values": self.written(node.model[places]), **self.describe(places, node, t)})]

    def written(self, values: Tensor) -> Tensor:
        """What a message says of its values; `read` turns it back."""
        if self.values == "raw":
            return values
        encoded = encode_values(values)
        # Others than finite numbers are left to the receivers, who refuse them.
        if bool(torch.isfinite(values).all()):
            self._values.remember(encoded, values)
        return encoded

    def read(self, message: Message) -> Tensor:
        """The values of a message, float32.

        Raises:
            WireError: it has none.
        """
        written = message.payload.get("values")
        wanted = torch.float32 if self.values == "raw" else torch.uint8
        if not isinstance(written, Tensor) or written.dtype != wanted or written.dim() != 1:
            raise WireError("bad-field", f"its values are no {str(wanted).removeprefix('torch.')} numbers")
        if self.values == "raw":
            return written
        values = self._values.recall(written)
        if values is None:
            values = decode_values(written, self._setting.parameters)
            self._values.remember(written, values)
        return values

    def describe(self, places: Tensor, node: Node, t: int) -> Payload:
        """What tells a receiver the places."""
        return self._places.describe(places)

    def placed(self, message: Message, count: int) -> Tensor:
        """The places of a message's values.

        Raises:
            WireError: it does not tell them.
        """
        return self._places.read(message.payload, count)

    def contribution(self, message: Message) -> Contribution:
        values = self.read(message)
        if len(values) == self._setting.parameters and len(message.payload) == 1:
            return Contribution(message.sender, values)
        return Contribution(message.sender, values, self.placed(message, len(values)))

    def message_bytes(self, model_bytes: int) -> float:
        return model_bytes - 4 * self._setting.parameters + self.values_bytes() + self.places_bytes()

    def values_bytes(self) -> float:
        """The expected bytes of the values of one message, were they normal random numbers."""
        if self.values == "raw":
            return 4 * self.count
        sample = min(self.count, _SAMPLE)
        numbers = self._setting.generator("expected values").standard_normal(sample, dtype=np.float32)
        return len(encode_values(torch.from_numpy(numbers))) * self.count / sample

    def places_bytes(self) -> float:
        """The expected bytes that tell the places of one message, were they random."""
        if self.count == self._setting.parameters:
            return 0.0
        generator = self._setting.generator("expected places")
        places = generator.choice(self._setting.parameters, self.count, replace=False, shuffle=False)
        return _ENTRY_BYTES + len(encode_places(torch.from_numpy(np.sort(places)), self._setting.parameters))
