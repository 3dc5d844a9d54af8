"""Local differential privacy of training: DP-SGD at each node, whatever it sends afterwards."""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from covey.learning.batches import Parts, Plan
from covey.learning.layout import Layout
from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import NOT_REPEATED, Mechanism
from covey.parts.parameters import Part, param
from covey.parts.seeds import Seeds, seeds


class LDP(Part):
    """Clips the gradient of each sample, and adds Gaussian noise to the sum of a batch."""

    kind = "ldp"
    clip: float = param("The largest norm of the gradient of a sample. A larger one is scaled to it.", gt=0)
    noise: float = param("The standard deviation of the noise on the sum of a batch, as a multiple of 'clip'.", ge=0)
    sampling: Literal["poisson", "passes"] = param(
        "The batches: each sample with the same probability, which protects more, or passes over the data in a random "
        "order as without protection.",
        default="poisson",
    )
    delta: float = param("The probability with which the stated epsilon may fail.", default=1e-5, gt=0, lt=1)
    seeds: Seeds = seeds()

    @classmethod
    def named(cls) -> str:
        return "the task's ldp"

    def check_model(self, module: nn.Module, layout: Layout, title: str) -> None:
        """Refuse models in which the gradient of a sample depends on others of its batch."""
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise ConfigurationError(
                    f"The model {title} of {self.named()} must have no BatchNorm, which mixes the samples of a batch. "
                    f"Got {type(layer).__name__} {name!r} instead: use GroupNorm, as gn-lenet does."
                )
        if layout.buffers:
            raise ConfigurationError(
                f"The model {title} of {self.named()} must have no buffers, which no noise protects. "
                f"Got {layout.buffers[0].name!r} instead."
            )

    def mechanism(self, sizes: Sequence[int], batch_size: int, steps: int, rounds: int, *, fresh: bool) -> Mechanism:
        """The statement of its noise, for the node that is protected least.

        Args:
            sizes: the samples of each node.
            batch_size: the expected samples of a batch.
            steps: the most steps of a training.
            rounds: the rounds of the run, with a training each.
            fresh: whether keys come from the operating system.
        """
        fewest = max(min(sizes), 1)
        sampled = self.sampling == "poisson"
        # In a pass, a sample is in one batch.
        uses = steps if sampled else math.ceil(steps / math.ceil(fewest / batch_size))
        return Mechanism(
            part=self.named(),
            protects="one sample of a node",
            against="all who see all messages",
            delta=self.delta,
            releases=rounds * uses,
            multiplier=self.noise,
            sampling=min(1.0, batch_size / fewest) if sampled else 1.0,
            assumes=[
                NOT_REPEATED if fresh else "the keys of noise and batches are fresh, which they are not in this run",
                "data sets differ by one sample more or less, and the number of a node's samples is public",
                "a node trains at most once in a round, and sends nothing else that depends on its samples",
            ],
        )


def secret_of(key: int) -> bytes:
    """The secret key of a training whose random key is known."""
    return hashlib.blake2b(key.to_bytes(8, "little"), digest_size=32, person=b"covey ldp").digest()


def poisson(
    parts: Parts, holders: NDArray[np.int64], secrets: Sequence[bytes], steps: Sequence[int], batch_size: int
) -> Plan:
    """Batches in which each sample of a node is with the same probability, independently of others.

    Args:
        parts: the samples of every node.
        holders: the node whose data each training uses.
        secrets: the secret key of each training.
        steps: the number of steps of each training.
        batch_size: the expected number of samples; all samples if there are fewer.
    """
    drawn = []
    for holder, secret, count in zip(holders.tolist(), secrets, steps, strict=True):
        own = parts.of(holder)
        seed = int.from_bytes(hashlib.blake2b(secret, digest_size=32, person=b"covey batches").digest(), "little")
        chances = np.random.Generator(np.random.PCG64DXSM(seed)).random((count, len(own)))
        drawn.append([own[row] for row in chances < batch_size / max(len(own), 1)])
    width = max(1, *(len(batch) for batches in drawn for batch in batches))
    samples = np.full((len(drawn), max(steps), width), -1, dtype=np.int64)
    for job, batches in enumerate(drawn):
        for step, batch in enumerate(batches):
            samples[job, step, : len(batch)] = batch
    return Plan(samples, ragged=True)
