"""Stretched similarities of profiles as integers, their noise, and the neighbours and recall that follow from them.

A shrunk value v_k d_k is cut off to a multiple of the step 2**-bits, so that all sums are exact. The similarity of two
profiles, the sum of (v_k d_k) (v'_k d'_k), is a multiple of 4**-bits. One value changes it by at most v_k, whatever the
other profile is, so that Laplace's noise of scale 1 / epsilon protects it by epsilon * v_k.

Shapes: N nodes, I items, K neighbours.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covey.privacy.bounds import level_of, within
from covey.privacy.randomness import Source, discrete_laplace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BITS = 10
"""The bits of a shrunk value after the binary point."""


def shrunk(profile: ArrayLike, privacy: ArrayLike, bits: int = BITS, *, clip: bool = False) -> Integers:
    """The values v_k d_k of a profile as integers, cut off.

    Args:
        profile: d, numbers in [0, 1].
        privacy: v, a number in [0, 1] or one for each item.
        bits: the bits after the binary point.
        clip: whether values outside [0, 1] become the nearest within.
    """
    size = np.shape(profile)[-1] if np.ndim(profile) else 1
    values = within(profile, np.zeros(size), np.ones(size), clip=clip)
    return np.floor(values * level_of(privacy, size) * 2.0**bits).astype(np.int64)


def scale_of(epsilon: float, bits: int = BITS) -> float:
    """The scale of the noise of a similarity, in units of 4**-bits."""
    return 4.0**bits / epsilon


def noise_of(secret: bytes, one: int, other: int, epsilon: float, bits: int = BITS) -> int:
    """The noise of one pair of nodes. The same secret gives it again, so that a pair has one noisy value only.

    Args:
        secret: the secret of whoever adds the noise.
        one, other: the ids of the pair, in any order.
        epsilon: epsilon; infinite for no noise.
        bits: the bits of shrunk values.
    """
    if math.isinf(epsilon):
        return 0
    return int(discrete_laplace(Source(key_of(secret, "noise", *sorted((one, other)))), scale_of(epsilon, bits), 1)[0])


def key_of(secret: bytes, purpose: str, *ids: int) -> bytes:
    """A key for one purpose and pair, from a secret."""
    return hashlib.blake2b(repr((purpose, *ids)).encode(), key=secret, digest_size=32).digest()


def similarities(
    shrunk_NI: Integers, epsilon: float, *, draws: int = 1, bits: int = BITS, random: int | bytes | None = None
) -> Floats:
    """The noisy similarities of all pairs, N x N, symmetric.

    Args:
        shrunk_NI: the shrunk profiles.
        epsilon: epsilon of each pair; infinite for no noise.
        draws: the draws of noise for each pair: one by a trusted function, or two, by both nodes.
        bits: the bits of shrunk values.
        random: the source, as of `Source`.
    """
    exact = shrunk_NI.astype(np.float64)  # Sums below 2**53 are exact in floats, for which matrix products are fast.
    found = (exact @ exact.T).astype(np.int64)
    if not math.isinf(epsilon):
        low, high = np.triu_indices(len(found), k=1)
        drawn = (
            discrete_laplace(Source(random), scale_of(epsilon, bits), draws * len(low)).reshape(draws, -1).sum(axis=0)
        )
        found[low, high] += drawn
        found[high, low] += drawn
    return np.asarray(found * 4.0**-bits, dtype=np.float64)


def nearest(values: dict[Any, int], count: int) -> list[Any]:
    """The peers of the greatest values, those of lower ids first among equals."""
    return sorted(values, key=lambda peer: (-values[peer], peer))[:count]


def neighbours(similarity_NN: Floats, count: int) -> NDArray[np.int64]:
    """The nodes that are most similar to each node, N x K, those of lower ids first among equals."""
    others = np.where(np.eye(len(similarity_NN), dtype=bool), -np.inf, similarity_NN)
    return np.argsort(-others, axis=1, kind="stable")[:, :count]


def recalls(views: Sequence[Sequence[int]], shown_NI: Floats, held_out: Sequence[Sequence[int]]) -> Floats:
    """The share of each node's held-out items that its neighbours' profiles have; NaN for a node without any.

    Args:
        views: the neighbours of each node.
        shown_NI: the profiles, without the held-out items.
        held_out: the held-out items of each node.
    """
    found = np.full(len(views), np.nan)
    for node, (view, items) in enumerate(zip(views, held_out, strict=True)):
        if len(items):
            found[node] = (shown_NI[list(view)][:, list(items)] > 0).any(axis=0).mean() if len(view) else 0.0
    return found
