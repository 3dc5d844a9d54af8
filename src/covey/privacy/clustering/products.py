"""Dot products of two parties without showing the vectors, with correlated randomness (Du and Atallah, 2001).

A dealer, which sees no vector, gives the first party a mask a and a number c, the second a mask b and a number c', with
c + c' = a b. Each sends the other its vector x + a or y + b, which is uniform. The first then has x (y + b) + c, the
second -(x + a) b + c'. These sum to x y, and each alone is uniform. All numbers are integers modulo 2**64. The parties
follow the protocol, and the dealer takes sides with neither.
"""

import numpy as np
from numpy.typing import NDArray

from covey.privacy.randomness import Source

Integers = NDArray[np.int64]
SEED_BYTES = 32
_SIGN = 1 << 63


def mask_of(seed: bytes, size: int) -> Integers:
    """The mask of a party: uniform integers of 64 bits."""
    return Source(seed).words(size).view(np.int64)


def wrapped(value: int) -> int:
    """An integer modulo 2**64, with a sign."""
    return (value + _SIGN) % (1 << 64) - _SIGN


def dealt(first: bytes, second: bytes, size: int, source: Source) -> tuple[int, int]:
    """c and c' for the masks of two seeds."""
    own = int(source.words(1).view(np.int64)[0])
    return own, wrapped(int(mask_of(first, size) @ mask_of(second, size)) - own)


def share_of(vector: Integers, mask: Integers, received: Integers, number: int, *, first: bool) -> int:
    """The share of a party in the dot product.

    Args:
        vector: the own vector.
        mask: the own mask.
        received: the masked vector of the other party.
        number: c, or c' of the second party.
        first: whether it is the first party.
    """
    return wrapped((int(vector @ received) if first else -int(received @ mask)) + number)
