"""The places of what a message holds, on their way to a receiver."""

import weakref

from torch import Tensor

from covey.codecs import decode_places, encode_places
from covey.errors import WireError
from covey.node import Payload


class Places:
    """Sets of places in vectors of one length, as an entry of messages.

    All receivers in this process get the same tensor, which need then not be decoded for each of them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def describe(self, places: Tensor) -> Payload:
        """The entry of a message that tells places, which increase."""
        encoded = encode_places(places.cpu(), self._size)
        self._remember(encoded, places)
        return {"places": encoded}

    def read(self, payload: Payload, count: int) -> Tensor:
        """The places that a message tells.

        Args:
            count: how many there must be.

        Raises:
            WireError: it does not tell them.
        """
        encoded = payload.get("places")
        if not isinstance(encoded, Tensor):
            raise WireError("bad-field", "it has no places")
        tensor, places = self._known.get(id(encoded), (None, None))
        if tensor is None or tensor() is not encoded or places is None or len(places) != count:
            places = decode_places(encoded, self._size, count)
            self._remember(encoded, places)
        return places

    def _remember(self, encoded: Tensor, places: Tensor) -> None:
        key = id(encoded)
        self._known[key] = weakref.ref(encoded, lambda _: self._known.pop(key, None)), places
