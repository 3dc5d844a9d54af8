"""The Elias gamma code of increasing indices: each step as its number of bits in unary, and then these bits.

    unary     for every step (at least 1), the number of bits after its leading one
    low bits  plane by plane, the lowest first: bit 0 of all steps that have it, then bit 1 ...

It is shorter than the Rice code if indices form clusters: long steps cost little more than short ones.
"""

import numpy as np
from numpy.typing import NDArray

from covey.messages.codecs.streams import Bytes, Ints, bytes_of, read_bits, read_unary, write_unary
from covey.parts.errors import WireError

_MOST = 31


def length(gaps: Ints, counts: Ints) -> int:
    """The bytes of the code, from the distinct gaps and their counts."""
    low = int(_widths(gaps) @ counts)
    return bytes_of(low + int(counts.sum())) + bytes_of(low)


def _widths(gaps: Ints) -> Ints:
    """The number of bits after the leading one of every gap + 1."""
    # The exponent of a float64 is exact for integers below 2**53.
    exponents = np.add(gaps, 1, dtype=np.float64).view(np.int64)
    exponents >>= 52
    exponents -= 1023
    return exponents


def encode(gaps: Ints) -> Bytes:
    """Encode gaps."""
    steps, widths = gaps + 1, _widths(gaps)
    planes = [np.zeros(0, dtype=np.bool_)]
    planes += [steps[widths > plane] & (1 << plane) != 0 for plane in range(int(widths.max(initial=0)))]
    return np.concatenate([write_unary(widths), np.packbits(np.concatenate(planes))])


def decode(stream: Bytes, count: int) -> NDArray[np.int64]:
    """Decode `count` indices. The caller checks that the last one is below the vector's size.

    Raises:
        WireError: the stream is not an Elias gamma code of `count` steps.
    """
    ends, rest = read_unary(stream, count)
    widths = np.diff(ends, prepend=-1) - 1
    most = int(widths.max(initial=0))
    if most > _MOST:
        raise WireError("bad-field", f"a step between indices has more than {_MOST} bits")
    bits = read_bits(rest, int(widths.sum()))
    steps = np.left_shift(1, widths)
    for plane in range(most):
        has = widths > plane
        here, bits = np.split(bits, [np.count_nonzero(has)])
        steps[has] |= here.astype(np.int64) << plane
    return np.cumsum(steps) - 1
