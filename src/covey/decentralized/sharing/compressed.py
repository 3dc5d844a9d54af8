"""Sharings whose messages are compressed vectors."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import cast

from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Sharing
from covey.decentralized.topology import Topology
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor, Decompressed, Draw
from covey.messages.payloads import Payload
from covey.parts.errors import WireError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.node import Inbox, Message, Node
from covey.runtime.reading import understood


class Compressed(Sharing):
    """Sends one compressed vector to every receiver; randomness is public, so no message announces it."""

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._latest: dict[int, tuple[dict[str, Tensor], Decompressed]] = {}

    @property
    def codec(self) -> Compressor:
        """The compressor of changes."""
        raise NotImplementedError

    def _draw(self, sender: int, t: int) -> Draw:
        return partial(self._setting.generator, f"{self.kind} compressor", sender, t)

    def compress(self, round: Round, vector: Tensor) -> tuple[dict[str, Tensor], Decompressed]:
        """The payload of a vector in a round, and the vector that receivers decode from it."""
        sender = round.node.id
        made = self._latest[sender] = self.codec.compress(vector, self._draw(sender, round.t))
        return made

    def decompress(self, message: Message, payload: Payload) -> Decompressed:
        """The vector of a message.

        Args:
            payload: the message's, without its other entries.

        Raises:
            WireError: it has none.
        """
        # All receivers in this process get the same tensors, which need then not be decompressed for each of them.
        known, vector = self._latest.get(message.sender, ({}, None))
        if vector is None or known.keys() != payload.keys() or any(payload[name] is not known[name] for name in known):
            if message.round is None:
                raise WireError("bad-field", "it belongs to no round")
            vector = self.codec.decompress(payload, self._setting.parameters, self._draw(message.sender, message.round))
            tensors = {name: entry for name, entry in payload.items() if isinstance(entry, Tensor)}
            self._latest[message.sender] = tensors, vector
        return vector

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        for message in messages:
            vector = None if message.tag else self.observed_vector(adversary, message)
            if vector is not None:
                yield self.view(adversary, message, vector.values, vector.indices)

    def observed_vector(self, adversary: Adversary, message: Arrived) -> Decompressed | None:
        """The vector of an observed message; None if it has none."""
        inner = self.without_buffers(message)
        read = understood(cast(Node, adversary), [inner], lambda one: self.decompress(one, one.shared))
        return next((vector for _, vector in read), None)

    def received(self, round: Round, inbox: Inbox) -> dict[NodeId, Decompressed]:
        """The vectors that arrived, by their senders in order; wrong messages are rejected."""
        found = understood(round.node, inbox, lambda message: self.decompress(message, message.shared))
        return {message.sender: vector for message, vector in found}
