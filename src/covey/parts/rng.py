"""Counter-based randomness: every draw is a function of (seed, purpose, key), never of earlier draws.

There are two forms. `generator` returns a NumPy Generator for one key. `mix_array` hashes whole arrays of keys and
counters at once, for thousands of nodes.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


@lru_cache(maxsize=4096)
def purpose_key(seed: int, purpose: str) -> int:
    """A 64-bit key for everything that is drawn for `purpose` under `seed`."""
    digest = blake2b(f"{seed}\x00{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mix(key: int, *counters: int) -> int:
    """Hash 64-bit counters into a key, one after the other (the finaliser of SplitMix64)."""
    for counter in counters:
        z = (key + _GOLDEN * (counter + 1)) & _MASK
        z = ((z ^ (z >> 30)) * _FIRST) & _MASK
        z = ((z ^ (z >> 27)) * _SECOND) & _MASK
        key = z ^ (z >> 31)
    return key


def mix_array(keys: Keys, counters: NDArray[np.integer] | int) -> Keys:
    """`mix` for arrays: keys and counters broadcast against each other."""
    steps = np.asarray(counters, dtype=np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        z = keys + steps * np.uint64(_GOLDEN)
        z ^= z >> np.uint64(30)
        z *= np.uint64(_FIRST)
        z ^= z >> np.uint64(27)
        z *= np.uint64(_SECOND)
        z ^= z >> np.uint64(31)
    return z


class _Key(ISeedSequence):
    """A seed sequence that is its key. `Philox(key=...)` makes the same generator, but reads system entropy first."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        return np.array([self._key, 0], dtype=dtype)


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The generator of (seed, purpose, key)."""
    sequence = _Key(mix(purpose_key(seed, purpose), *key))
    return np.random.Generator(np.random.Philox(sequence))  # type: ignore[arg-type]


def uniform(key: int, *counters: int) -> float:
    """The number in [0, 1) of a key and counters."""
    return (mix(key, *counters) >> 11) * 2.0**-53


def uniforms(keys: Keys) -> NDArray[np.float64]:
    """The number in [0, 1) of each of some keys, as `uniform` without counters gives it."""
    return np.asarray((keys >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def permutations(keys: Keys, sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` entries of a random permutation of range(size), for every key.

    Args:
        keys: the key of each row.
        sizes: the size of each row's range.
        count: the number of entries per row. A row with a smaller size ends in -1.

    Returns:
        Indices, rows x count, distinct within a row.
    """
    widest = int(sizes.max(initial=0))
    columns = np.arange(widest, dtype=np.uint64)
    order = mix_array(keys[:, None], columns[None, :])
    ragged = bool((sizes < widest).any())
    if ragged:
        order[columns[None, :] >= sizes[:, None].astype(np.uint64)] = np.uint64(_MASK)
    kept = min(count, widest)
    if kept * 4 < widest:
        first = np.argpartition(order, kept - 1, axis=1)[:, :kept]
        inner = np.argsort(np.take_along_axis(order, first, axis=1), axis=1, kind="stable")
        chosen = np.take_along_axis(first, inner, axis=1)
    else:
        chosen = np.argsort(order, axis=1, kind="stable")[:, :kept]
    result = np.full((len(keys), count), -1, dtype=np.int64)
    result[:, :kept] = chosen
    if ragged:
        result[np.arange(count)[None, :] >= sizes[:, None]] = -1
    return result
