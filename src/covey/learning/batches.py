"""The samples of every local step of every node.

A pass is a random order of the node's samples, cut into batches. The last batch of a pass may be smaller. Every
training begins a new pass. If it takes more steps than a pass has, another pass in a new order follows.

Shapes: J trainings, T steps, B samples of a batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covey.parts import rng


def steps_of(samples: int, batch_size: int, steps: int | None, epochs: int | None) -> int:
    """The number of optimiser steps of a training, from its `steps` or its `epochs`."""
    return steps if steps is not None else (epochs or 0) * -(-samples // batch_size)


def samples_of(samples: int, batch_size: int, steps: int) -> int:
    """The number of samples that `steps` steps use, with repetitions."""
    in_pass = -(-samples // batch_size)
    passes, rest = divmod(steps, in_pass)
    return passes * samples + min(rest * batch_size, samples)


class Parts:
    """The samples of every node, as one array with offsets."""

    def __init__(self, parts: Sequence[NDArray[np.int64]]) -> None:
        self.sizes = np.array([len(part) for part in parts], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.samples = np.concatenate(parts) if len(parts) else np.empty(0, dtype=np.int64)

    def digest(self) -> str:
        """The digest of the samples of each holder, in order."""
        return f"sha256:{hashlib.sha256(self.sizes.tobytes() + self.samples.tobytes()).hexdigest()}"

    def of(self, holder: int) -> NDArray[np.int64]:
        """The samples of one node."""
        start = self.offsets[holder]
        return self.samples[start : start + self.sizes[holder]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The samples of a chunk of trainings.

    Attributes:
        samples: J x T x B indices into the training data. A smaller batch is padded with -1.
        ragged: True if there is any -1.
    """

    samples: NDArray[np.int64]
    ragged: bool


def plan(parts: Parts, holders: NDArray[np.int64], keys: rng.Keys, steps: NDArray[np.int64], batch_size: int) -> Plan:
    """Draw the batches of J trainings.

    Args:
        parts: the samples of every node.
        holders: the node whose data each training uses, J.
        keys: the random key of each training, J.
        steps: the number of steps of each training, J.
        batch_size: B.
    """
    sizes = parts.sizes[holders]
    in_pass = -(-sizes // batch_size)
    most = int(steps.max())
    step = np.arange(most)
    pass_JT = step[None, :] // in_pass[:, None]
    index_JTB = (step[None, :] % in_pass[:, None])[:, :, None] * batch_size + np.arange(batch_size)
    taken_JTB = (index_JTB < sizes[:, None, None]) & (step[None, :] < steps[:, None])[:, :, None]
    width = int(min(sizes.max(), most * batch_size))
    local_JTB = np.zeros(index_JTB.shape, dtype=np.int64)
    rows = np.arange(len(holders))[:, None, None]
    for number in range(int(pass_JT.max()) + 1):
        order_JW = rng.permutations(rng.mix_array(keys, number), sizes, width)
        here = (pass_JT == number)[:, :, None]
        local_JTB = np.where(here, order_JW[rows, np.minimum(index_JTB, width - 1)], local_JTB)
    samples = parts.samples[parts.offsets[holders][:, None, None] + np.maximum(local_JTB, 0)]
    ragged = not bool(taken_JTB.all())
    if ragged:
        samples[~taken_JTB] = -1
    return Plan(samples, ragged)
