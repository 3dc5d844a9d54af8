"""Random integers for noise that protects data, and the noise: Laplace's, discrete or of floats.

The integers come from the operating system or, so that a run can be repeated, from the ChaCha20 stream of a key. From
them the discrete Laplace distribution is drawn exactly, by integers alone (Canonne, Kamath and Steinke, 2020). Laplace
noise of floats is rounded, and its lowest bits tell which values it was added to (Mironov, 2012).
"""

import hashlib
import math
import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from covey.parts.errors import ConfigurationError, quoted

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

KEY_BYTES = 32
_FINENESS = 1 << 10
"""Scales are rounded up to multiples of one over this number."""
MOST_SCALE = float(1 << 40)
"""The greatest scale of discrete noise, so that all products are integers of 64 bits."""


class Source:
    """A source of uniform integers.

    Args:
        random: None for the operating system; 32 secret bytes, or an int, for a stream that can be repeated.
    """

    def __init__(self, random: int | bytes | None = None) -> None:
        if isinstance(random, bool) or not isinstance(random, int | bytes | None):
            raise ConfigurationError(
                f"The 'random' must be an int, {KEY_BYTES} bytes or None. Got {quoted(random)} instead."
            )
        if isinstance(random, int):
            random = hashlib.blake2b(str(random).encode(), digest_size=KEY_BYTES, person=b"covey noise").digest()
        if random is not None and len(random) != KEY_BYTES:
            raise ConfigurationError(f"The key of random numbers must be {KEY_BYTES} bytes. Got {len(random)} instead.")
        self._stream = None if random is None else Cipher(ChaCha20(random, bytes(16)), mode=None).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next uniform integers of 64 bits."""
        size = 8 * count
        found = os.urandom(size) if self._stream is None else self._stream.update(bytes(size))
        return np.frombuffer(found, dtype="<u8").astype(np.uint64)

    def below(self, bounds: Integers) -> Integers:
        """A uniform integer in [0, bound) for each bound, exactly: integers beyond a bound are drawn again."""
        masks = _masks(bounds)
        found = (self.words(len(bounds)) & masks).astype(np.int64)
        again = np.flatnonzero(found >= bounds)
        while len(again):
            found[again] = (self.words(len(again)) & masks[again]).astype(np.int64)
            again = again[found[again] >= bounds[again]]
        return found

    def chances(self, count: int) -> Floats:
        """Uniform floats in (0, 1], rounded up: one is at most p no more often than with probability p."""
        return ((self.words(count) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def _masks(bounds: Integers) -> NDArray[np.uint64]:
    """The bits that integers below each bound may have."""
    masks = (bounds - 1).astype(np.uint64)
    for shift in (1, 2, 4, 8, 16, 32):
        masks |= masks >> np.uint64(shift)
    return masks


def ratio_of(scale: float) -> tuple[int, int]:
    """A scale as the ratio of two integers, rounded up.

    Raises:
        ConfigurationError: the scale is not in (0, 2**40].
    """
    if not 0.0 < scale <= MOST_SCALE:
        raise ConfigurationError(f"The scale of discrete noise must be in (0, 2**40]. Got {scale:g} instead.")
    return max(1, math.ceil(scale * _FINENESS)), _FINENESS


def discrete_laplace(source: Source, scale: float, count: int) -> Integers:
    """Integers z with probabilities in proportion to exp(-|z| / scale), drawn exactly.

    Args:
        source: the source of randomness.
        scale: the scale, which `ratio_of` rounds up.
        count: the number of integers.
    """
    above, under = ratio_of(scale)
    found, open_ = np.zeros(count, dtype=np.int64), np.arange(count)
    while len(open_):
        size = len(open_)
        rest = source.below(np.full(size, above))
        magnitude = (rest + above * _geometric(source, size)) // under
        negative = source.words(size) & np.uint64(1) == 1
        accepted = _below_exp(source, rest, above) & ~(negative & (magnitude == 0))
        found[open_[accepted]] = np.where(negative, -magnitude, magnitude)[accepted]
        open_ = open_[~accepted]
    return found


def _geometric(source: Source, count: int) -> Integers:
    """The successes of probability 1/e before the first failure."""
    found, going = np.zeros(count, dtype=np.int64), np.arange(count)
    while len(going):
        going = going[_below_exp(source, np.ones(len(going), dtype=np.int64), 1)]
        found[going] += 1
    return found


def _below_exp(source: Source, numerators: Integers, denominator: int) -> NDArray[np.bool_]:
    """True with probability exp(-numerator / denominator), for numerators up to the denominator (von Neumann)."""
    result, going, k = np.zeros(len(numerators), dtype=bool), np.arange(len(numerators)), 1
    while len(going):
        hit = source.below(np.full(len(going), denominator * k)) < numerators[going]
        result[going[~hit]] = k % 2 == 1
        going, k = going[hit], k + 1
    return result


def discrete_log_density(values: Any, scale: float) -> Floats:
    """The logarithms of the probabilities of integers under `discrete_laplace`."""
    above, under = ratio_of(scale)
    rate = under / above
    constant = math.log(-math.expm1(-rate)) - math.log1p(math.exp(-rate))
    return np.asarray(constant - rate * np.abs(np.asarray(values, dtype=np.float64)), dtype=np.float64)


def laplace(source: Source, scale: float, count: int) -> Floats:
    """Floats of Laplace's distribution."""
    words = source.words(count)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.where(words & np.uint64(1) == 1, scale, -scale) * np.log(uniform)


def log_density(values: Any, scale: float) -> Floats:
    """The logarithms of the densities of floats under `laplace`."""
    return np.asarray(-np.abs(np.asarray(values, dtype=np.float64)) / scale - math.log(2.0 * scale), dtype=np.float64)
