"""Streams of bits that are written and read as whole arrays."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import WireError

Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Ints = NDArray[np.signedinteger]
Count = TypeVar("Count", int, Ints)


def bytes_of(bits: Count) -> Count:
    """The bytes of a stream of bits, or of each of several."""
    return -(-bits // 8)


def read_bits(stream: Bytes, count: int) -> Bits:
    """Read `count` bits.

    Raises:
        WireError: the stream is shorter or longer than `count` bits, or its padding is not zero.
    """
    if len(stream) != bytes_of(count):
        raise WireError("bad-field", f"{count} bits of the indices are in {len(stream)} bytes")
    # As bools: numpy finds the set ones eight times as fast as among uint8.
    bits = np.unpackbits(stream).view(np.bool_)
    if bits[count:].any():
        raise WireError("bad-field", "bits follow the last of the indices")
    return bits[:count]


def write_unary(numbers: Ints) -> Bytes:
    """Write each number as that number of zeros and a one."""
    ends = np.cumsum(numbers + 1, dtype=np.int64)
    bits = np.zeros(1 + (int(ends[-1]) if len(ends) else 0), dtype=np.bool_)
    bits[ends] = True
    return np.packbits(bits[1:])


def read_unary(stream: Bytes, count: int) -> tuple[NDArray[np.int64], Bytes]:
    """The positions of the ones of the first `count` unary numbers, and the bytes after these numbers.

    Raises:
        WireError: there are fewer numbers, or the padding of their last byte is not zero.
    """
    ends = np.flatnonzero(np.unpackbits(stream).view(np.bool_))
    if len(ends) < count:
        raise WireError("bad-field", f"the indices end after {len(ends)} of {count}")
    used = bytes_of(int(ends[count - 1]) + 1) if count else 0
    if len(ends) > count and ends[count] < 8 * used:
        raise WireError("bad-field", "bits follow the last of the indices")
    return ends[:count], stream[used:]
