"""The decoded form of encoded tensors, which all receivers in this process share: each tensor is decoded once."""

import weakref

from torch import Tensor


class Decoded:
    """Remembers the decoded forms of tensors for as long as the tensors live."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def remember(self, encoded: Tensor, decoded: Tensor) -> None:
        """Keep the decoded form of an encoded tensor."""
        key = id(encoded)
        self._known[key] = weakref.ref(encoded, lambda _: self._known.pop(key, None)), decoded

    def recall(self, encoded: Tensor) -> Tensor | None:
        """The decoded form of a tensor, as an object; None if it is unknown."""
        tensor, decoded = self._known.get(id(encoded), (None, None))
        return decoded if tensor is not None and tensor() is encoded else None
