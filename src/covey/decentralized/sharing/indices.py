"""The indices of the values of a message."""

from torch import Tensor

from covey.decentralized.sharing.decoded import Decoded
from covey.messages.codecs import decode_indices, encode_indices
from covey.messages.payloads import Payload
from covey.messages.wire import INDICES
from covey.parts.errors import WireError


class Indices:
    """Sets of indices in vectors of one length, as an entry of messages."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known = Decoded()

    def describe(self, indices: Tensor) -> Payload:
        """The entry of a message with increasing indices."""
        encoded = encode_indices(indices.cpu(), self._size)
        self._known.remember(encoded, indices)
        return {INDICES: encoded}

    def read(self, payload: Payload, count: int) -> Tensor:
        """The indices of a message.

        Args:
            count: the number of indices that it must have.

        Raises:
            WireError: it has no valid indices.
        """
        encoded = payload.get(INDICES)
        if not isinstance(encoded, Tensor):
            raise WireError("bad-field", "it has no indices")
        indices = self._known.recall(encoded)
        if indices is None or len(indices) != count:
            indices = decode_indices(encoded, self._size, count)
            self._known.remember(encoded, indices)
        return indices
