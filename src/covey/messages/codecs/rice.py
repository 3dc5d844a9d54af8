"""The Rice code of increasing indices: the high parts of their gaps in unary, the low bits as they are.

    k         one byte: the number of low bits of a gap
    low bits  plane by plane, the lowest last. Reading a plane is several times as fast as reading numbers whose bits
              are adjacent
    unary     the gaps >> k, each as that number of zeros and a one

The gaps of random indices are geometric. No code with a whole number of bits for each gap is much shorter then.

covey-native computes the same faster, if it is installed.
"""

import numpy as np
from numpy.typing import NDArray

from covey.messages.codecs.streams import Bytes, Ints, bytes_of, read_bits, read_unary, write_unary
from covey.parts.errors import WireError
from covey.parts.native import kernels

_MOST = 31


def fit(gaps: Ints, counts: Ints) -> tuple[int, int]:
    """The k with the shortest code, and its bytes, from the distinct gaps and their counts."""
    total = int(counts.sum())
    low_bits = np.arange(int(gaps.max(initial=0)).bit_length() + 1)
    unary = total + (gaps >> low_bits[:, None]) @ counts
    lengths = 1 + bytes_of(total * low_bits) + bytes_of(unary)
    k = int(lengths.argmin())
    return k, int(lengths[k])


def encode(gaps: Ints, k: int) -> Bytes:
    """Encode gaps with k low bits."""
    native = kernels()
    found = None if native is None else native.rice_encode(np.ascontiguousarray(gaps, dtype=np.int64), k)
    return encode_with_numpy(gaps, k) if found is None else found


def encode_with_numpy(gaps: Ints, k: int) -> Bytes:
    """Encode gaps with NumPy: the reference of `encode`."""
    low: Ints = gaps.astype(np.int32 if k > 7 else np.int8)
    planes = np.empty((k, len(gaps)), dtype=np.bool_)
    for row, plane in enumerate(reversed(range(k))):
        np.not_equal(low & (1 << plane), 0, out=planes[row])
    return np.concatenate([np.array([k], dtype=np.uint8), np.packbits(planes), write_unary(gaps >> k)])


def decode(stream: Bytes, size: int, count: int) -> NDArray[np.int64]:
    """Decode `count` indices. The caller checks that the last one is below `size`.

    Raises:
        WireError: the stream is not a Rice code of `count` gaps.
    """
    native = kernels()
    found = None if native is None else native.rice_decode(stream, size, count)
    return decode_with_numpy(stream, size, count) if found is None else found


def decode_with_numpy(stream: Bytes, size: int, count: int) -> NDArray[np.int64]:
    """Decode with NumPy: the reference of `decode`."""
    if not len(stream) or (k := int(stream[0])) > _MOST:
        raise WireError("bad-field", "the indices have no valid number of low bits")
    low, high = np.split(stream[1:], [bytes_of(count * k)])
    planes = read_bits(low, count * k).reshape(k, count)
    # Refused before the gaps can overflow.
    if len(high) > bytes_of(count + (size >> k)):
        raise WireError("bad-field", f"an index is not below {size}")
    ends, rest = read_unary(high, count)
    if len(rest):
        raise WireError("bad-field", f"{len(rest)} bytes follow the indices")
    gaps = np.zeros(count, dtype=np.int64)
    for plane in planes:
        gaps <<= 1
        gaps |= plane
    # The sum of the high parts up to an index is the number of zeros before its one.
    counted = np.arange(count)
    np.cumsum(gaps, out=gaps)
    gaps += counted
    ends -= counted
    ends <<= k
    gaps += ends
    return gaps
