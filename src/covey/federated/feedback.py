"""Compressed vectors of clients, with error feedback: a client adds what one message leaves out to its next vector."""

from functools import partial

from torch import Tensor

from covey.messages.compression import Compressor, Decompressed
from covey.messages.payloads import Payload
from covey.parts.parameters import Setting
from covey.runtime.node import Node
from covey.runtime.state import State


class Unsent(State):
    """The part of its vectors that a client's messages left out."""

    residual: Tensor | None = None


class Feedback:
    """A compressor at both ends: at clients, with the error of earlier vectors, and at their server.

    Args:
        compressor: the compressor.
        setting: the experiment.
        size: the numbers of a vector.
        purpose: the purpose of its random numbers.
    """

    def __init__(self, compressor: Compressor, setting: Setting, size: int, purpose: str = "up") -> None:
        self._compressor, self._size = compressor, size
        self._draw = partial(partial, setting.generator, purpose)

    def payload(self, node: Node, vector: Tensor, moment: int) -> Payload:
        """The compressed vector of a client, after the error of its earlier ones was added.

        Args:
            node: the client, whose state keeps the error.
            vector: the vector.
            moment: a number that both ends know, such as the round.
        """
        unsent = node.keep(Unsent, "up")
        if unsent.residual is not None:
            vector = vector + unsent.residual
        payload, sent = self._compressor.compress(vector, self._draw(node.id, moment))
        residual = vector.clone()
        sent.add_to(residual, -1.0)
        unsent.residual = residual
        return payload

    def read(self, payload: Payload, sender: int, moment: int) -> Decompressed:
        """The vector in a payload.

        Raises:
            WireError: the payload is malformed.
        """
        return self._compressor.decompress(payload, self._size, self._draw(sender, moment))
