"""What encoded tensors say: all receivers in this process get the same one, which need not be decoded for each."""

import weakref

from torch import Tensor


class Decoded:
    """Remembers what tensors were decoded to, for as long as they live."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def remember(self, encoded: Tensor, decoded: Tensor) -> None:
        """Keep what an encoded tensor says."""
        key = id(encoded)
        self._known[key] = weakref.ref(encoded, lambda _: self._known.pop(key, None)), decoded

    def recall(self, encoded: Tensor) -> Tensor | None:
        """What this very tensor says, where that is known."""
        tensor, decoded = self._known.get(id(encoded), (None, None))
        return decoded if tensor is not None and tensor() is encoded else None
