"""Gaussian noise from secret keys.

Some numbers of a model are known to others: weights that no sample moves, for instance. So the noise of a
general-purpose generator is no secret, as a few hundred of its outputs give all others. Here the bits come from a
ChaCha20 stream, and Box and Muller's transform makes normal numbers of them. On one core that takes 7 ns a number, and
`torch.normal_` takes 4.
"""

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

from covey.messages.crypto import KEY_BYTES
from covey.runtime.node import Node

_AT_ONCE = 1 << 16
"""The numbers that are made at a time: they stay in the processor's cache."""
_ZEROS = memoryview(bytes(4 * _AT_ONCE))


def key_of(node: Node, purpose: str, t: int, *, fresh: bool) -> bytes:
    """The secret key of a node's noise in a round. No other node can compute it."""
    return os.urandom(KEY_BYTES) if fresh else node.random(purpose, t).bytes(KEY_BYTES)


class Noise:
    """A stream of independent standard normal numbers.

    Args:
        key: 32 bytes, used for nothing else.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def normal(self, count: int) -> Tensor:
        """The next float32 numbers."""
        found = torch.empty(count)
        half = max(min(_AT_ONCE, count + count % 2) // 2, 1)
        bits = bytearray(8 * half)
        words, radii = torch.frombuffer(bits, dtype=torch.int32), torch.empty(half)
        for start in range(0, count, 2 * half):
            some = found[start : start + 2 * half]
            first = (len(some) + 1) // 2
            self._stream.update_into(_ZEROS[: 8 * first], bits)
            _box_muller(words[:first], words[first : 2 * first], radii[:first], some)
        return found


def _box_muller(lengths: Tensor, angles: Tensor, radii: Tensor, out: Tensor) -> None:
    """Make normal numbers of uniform 32-bit integers.

    Args:
        lengths, angles: M integers each; the first are overwritten.
        radii: M floats for intermediate results.
        out: the 2M normal numbers, or 2M - 1.
    """
    first, second = out[: len(radii)], out[len(radii) :]
    # 24 bits are a float32 without rounding, so that the logarithm is never that of 0.
    radii.copy_(lengths.bitwise_and_(0xFFFFFF)).add_(0.5).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
    first.copy_(angles).mul_(math.pi * 2.0**-31)
    torch.sin(first[: len(second)], out=second)
    second.mul_(radii[: len(second)])
    first.cos_().mul_(radii)
