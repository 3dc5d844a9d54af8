"""The Elias gamma code of increasing indices: their steps as the number of bits in unary, and then these bits.

    unary     how many bits follow the first one of every step, which is at least 1
    low bits  plane by plane, the lowest first: bit 0 of all steps that have it, then bit 1 ...

It is shorter than the Rice code where indices stand in clusters: long steps cost little more than short ones.
"""

import numpy as np
from numpy.typing import NDArray

from covey.messages.codecs.streams import Bytes, Ints, bytes_of, read_bits, read_unary, write_unary
from covey.parts.errors import WireError

_MOST = 31


def length(gaps: Ints, counts: Ints) -> int:
    """How many bytes the code of so many of each of these gaps has."""
    low = int(_widths(gaps) @ counts)
    return bytes_of(low + int(counts.sum())) + bytes_of(low)


def _widths(gaps: Ints) -> Ints:
    """How many bits follow the first one of every gap + 1."""
    # The exponent of a float64 is that of every number below 2**53, to the bit.
    exponents = np.add(gaps, 1, dtype=np.float64).view(np.int64)
    exponents >>= 52
    exponents -= 1023
    return exponents


def encode(gaps: Ints) -> Bytes:
    """The bytes of the gaps."""
    steps, widths = gaps + 1, _widths(gaps)
    planes = [np.zeros(0, dtype=np.bool_)]
    planes += [steps[widths > plane] & (1 << plane) != 0 for plane in range(int(widths.max(initial=0)))]
    return np.concatenate([write_unary(widths), np.packbits(np.concatenate(planes))])


def decode(stream: Bytes, count: int) -> NDArray[np.int64]:
    """The indices; the caller checks that the last is below the vector's size.

    Raises:
        WireError: the stream is no Elias gamma code of so many steps.
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
