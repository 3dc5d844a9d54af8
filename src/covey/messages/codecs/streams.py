"""Streams of bits, written and read as whole arrays."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import WireError

Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Ints = NDArray[np.signedinteger]
Count = TypeVar("Count", int, Ints)


def bytes_of(bits: Count) -> Count:
    """How many bytes so many bits take, of one stream or of several."""
    return -(-bits // 8)


def read_bits(stream: Bytes, count: int) -> Bits:
    """The bits of a stream.

    Raises:
        WireError: the stream is shorter or longer than `count` bits take, or does not end in zeros.
    """
    if len(stream) != bytes_of(count):
        raise WireError("bad-field", f"{count} bits of the indices are in {len(stream)} bytes")
    # As bools, of which numpy finds those that are set eight times as fast as among numbers.
    bits = np.unpackbits(stream).view(np.bool_)
    if bits[count:].any():
        raise WireError("bad-field", "bits follow the last of the indices")
    return bits[:count]


def write_unary(numbers: Ints) -> Bytes:
    """Every number as so many zeros and a one."""
    ends = np.cumsum(numbers + 1, dtype=np.int64)
    bits = np.zeros(1 + (int(ends[-1]) if len(ends) else 0), dtype=np.bool_)
    bits[ends] = True
    return np.packbits(bits[1:])


def read_unary(stream: Bytes, count: int) -> tuple[NDArray[np.int64], Bytes]:
    """(where the ones of the first `count` unary numbers stand, the bytes that follow these numbers).

    Raises:
        WireError: there are fewer numbers, or their last byte does not end in zeros.
    """
    ends = np.flatnonzero(np.unpackbits(stream).view(np.bool_))
    if len(ends) < count:
        raise WireError("bad-field", f"the indices end after {len(ends)} of {count}")
    used = bytes_of(int(ends[count - 1]) + 1) if count else 0
    if len(ends) > count and ends[count] < 8 * used:
        raise WireError("bad-field", "bits follow the last of the indices")
    return ends[:count], stream[used:]
