"""Marks of vectors that change by messages: whoever has the same mark has the same bits.

A mark is a hash of the one before and of the message that changed the vector, so it stands for all that made it.
"""

from hashlib import blake2b

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import WireError

MARK_BYTES = 8
FIRST_MARK = bytes(MARK_BYTES)


def next_mark(mark: bytes, change: Payload) -> bytes:
    """The mark of a vector after a change."""
    return blake2b(mark + wire.encode(change), digest_size=MARK_BYTES).digest()


def mark_of(payload: Payload, name: str) -> bytes:
    """The mark that an entry of a payload holds.

    Raises:
        WireError: it holds none.
    """
    mark = payload.get(name)
    if not isinstance(mark, bytes) or len(mark) != MARK_BYTES:
        raise WireError("bad-field", f"its {name} is no mark of {MARK_BYTES} bytes")
    return mark
