"""The places of what a message holds, on their way to a receiver."""

from torch import Tensor

from covey.decentralized.sharing.decoded import Decoded
from covey.messages.codecs import decode_places, encode_places
from covey.messages.payloads import Payload
from covey.messages.wire import PLACES
from covey.parts.errors import WireError


class Places:
    """Sets of places in vectors of one length, as an entry of messages."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known = Decoded()

    def describe(self, places: Tensor) -> Payload:
        """The entry of a message that tells places, which increase."""
        encoded = encode_places(places.cpu(), self._size)
        self._known.remember(encoded, places)
        return {PLACES: encoded}

    def read(self, payload: Payload, count: int) -> Tensor:
        """The places that a message tells.

        Args:
            count: how many there must be.

        Raises:
            WireError: it does not tell them.
        """
        encoded = payload.get(PLACES)
        if not isinstance(encoded, Tensor):
            raise WireError("bad-field", "it has no places")
        places = self._known.recall(encoded)
        if places is None or len(places) != count:
            places = decode_places(encoded, self._size, count)
            self._known.remember(encoded, places)
        return places
