"""Marks of vectors that messages change: equal marks mean equal bits.

A mark is a hash of the previous mark and of the message that changed the vector. It covers the whole history.
"""

from hashlib import blake2b

from covey.messages import wire
from covey.messages.payloads import Payload

MARK_BYTES = 8
FIRST_MARK = bytes(MARK_BYTES)


def next_mark(mark: bytes, change: Payload) -> bytes:
    """The mark of a vector after a change."""
    return blake2b(mark + wire.encode(change), digest_size=MARK_BYTES).digest()
