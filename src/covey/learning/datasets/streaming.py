"""Samples that come in a stream for each node: none of them is kept, and a run resumes at the same batch.

A stream is shuffled in blocks: the samples of a block come in a random order, with the key of the node and the block.

Shapes: B samples that are taken at once.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covey.learning.dataset import Data, Objective
from covey.learning.datasets.arrays import Wanted, made, plain, stored_as
from covey.parts import rng
from covey.parts.errors import CoveyError, DataError, described, quoted

Samples = Callable[[int], Iterator[tuple[Any, Any]]]
_NAME = "The samples of a stream"
_TRIED = 256
"""Samples of the first node's stream by which a model is tried out."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The streams of all nodes.

    Attributes:
        samples: returns the samples (x, y) of a node from the first on, by its index among the nodes with data.
        count: the samples of a pass, by which epochs are counted.
        block: the samples that are shuffled together.
        one: the shape of an input, and `dtype` its type.
        target: the shape of a target.
        objective, classes: those of the data set.
    """

    samples: Samples
    count: int
    block: int
    one: tuple[int, ...]
    dtype: torch.dtype
    target: tuple[int, ...]
    objective: Objective
    classes: int

    def tensors(self, rows: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
        """The inputs and targets of samples.

        Raises:
            DataError: they differ from the first ones in shape or type, or are no classes of the data set.
        """
        x = torch.from_numpy(np.array(stored_as(plain([x for x, _ in rows], _NAME), _NAME)))
        found = plain([y for _, y in rows], "The targets of a stream")
        kinds = "biuf" if self.objective == "values" else "biu"
        if found.dtype.kind not in kinds or found.shape[1:] != self.target:
            raise DataError(
                f"The targets of a stream must be {self.objective} of {self.target}, as its first ones. "
                f"Got {found.dtype} of {found.shape[1:]} instead."
            )
        if tuple(x.shape[1:]) != self.one or x.dtype != self.dtype:
            raise DataError(
                f"{_NAME} must be {self.dtype} of {self.one}, as the first ones. "
                f"Got {x.dtype} of {tuple(x.shape[1:])} instead."
            )
        if self.objective == "values":
            return x, torch.from_numpy(found.astype(np.float32))
        if found.min() < 0 or found.max() >= self.classes:
            raise DataError(
                f"The targets of a stream must be classes in [0, {self.classes}). "
                f"Got some in [{found.min()}, {found.max()}] instead."
            )
        return x, torch.from_numpy(found.astype(np.int64))


@dataclass
class _Reading:
    """The state of the reading of one node's stream."""

    samples: Iterator[tuple[Any, Any]] | None = None
    taken: int = 0
    """The samples that came from it, over all passes."""
    block: int = -1
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    lock: threading.Lock = field(default_factory=threading.Lock)


class Streams:
    """Reads the streams of the nodes of a process, each in a thread at a time.

    Args:
        stream: the streams.
        seed: the experiment's seed.
        holders: the number of nodes with data.
    """

    def __init__(self, stream: Stream, seed: int, holders: int) -> None:
        self._stream, self._seed = stream, seed
        self._readings = [_Reading() for _ in range(holders)]

    def take(self, holder: int, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Samples of a node, by their indices in its shuffled stream.

        Args:
            holder: the node's index among the nodes with data.
            start: the index of the first one. One before those that were taken reads the stream again.
            count: the number of samples.

        Raises:
            DataError: the stream fails, or has other samples than at its begin.
        """
        reading, size = self._readings[holder], self._stream.block
        found = []
        with reading.lock:
            while count:
                number, offset = divmod(start, size)
                self._read(reading, holder, number)
                order = rng.generator(self._seed, "stream", holder, number).permutation(size)
                here = torch.from_numpy(order[offset : offset + count])
                found.append((reading.inputs[here], reading.targets[here]))
                start, count = start + len(here), count - len(here)
        inputs, targets = zip(*found, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def _read(self, reading: _Reading, holder: int, number: int) -> None:
        """Make a block the current one."""
        if reading.block == number:
            return
        first = number * self._stream.block
        if first < reading.taken:
            reading.samples, reading.taken = None, 0
        for _ in range(first - reading.taken):
            self._next(reading, holder)
        rows = [self._next(reading, holder) for _ in range(self._stream.block)]
        reading.inputs, reading.targets = self._stream.tensors(rows)
        reading.block = number

    def _next(self, reading: _Reading, holder: int) -> tuple[Any, Any]:
        """The next sample of a stream, which begins anew at its end."""
        for _ in range(2):
            try:
                if reading.samples is None:
                    reading.samples = iter(self._stream.samples(holder))
                sample = next(reading.samples)
            except StopIteration:
                reading.samples = None
                continue
            except CoveyError:
                raise
            except Exception as error:
                raise DataError(f"The stream of node {holder} fails: {described(error)}.") from error
            if not (isinstance(sample, tuple | list) and len(sample) == 2):
                raise DataError(f"A stream must give pairs (x, y). Got {quoted(sample)} instead.")
            reading.taken += 1
            return sample[0], sample[1]
        raise DataError(f"The stream of node {holder} must have a sample or more. Got none.")


def streamed(samples: Samples, test: Any, count: int, block: int, wanted: Wanted) -> Data:
    """Data whose training samples come in a stream for each node.

    Args:
        samples, count, block: see `Stream`.
        test: the pair (x, y) of the test samples.
        wanted: the form of the samples.

    Raises:
        DataError: the first samples cannot be used.
    """
    if not (isinstance(test, tuple) and len(test) == 2):
        raise DataError(f"The 'test' of a stream must be the pair (x, y) of test samples. Got {quoted(test)} instead.")
    try:
        first = list(islice(samples(0), min(_TRIED, count)))
    except Exception as error:
        raise DataError(f"The stream of node 0 fails: {described(error)}.") from error
    if not first or any(not (isinstance(one, tuple | list) and len(one) == 2) for one in first):
        raise DataError(f"A stream must give pairs (x, y). Got {quoted(first[0]) if first else 'none'} instead.")
    x, y = plain([x for x, _ in first], _NAME), plain([y for _, y in first], "The targets of a stream")
    if wanted.classes is None and wanted.objective != "values" and y.dtype.kind != "f":
        raise DataError("The 'classes' of a stream must be a number or names: its samples are not known beforehand.")
    data = made(x, y, test, wanted)
    inputs, targets = data.train.inputs, data.train.targets
    shapes = tuple(inputs.shape[1:]), inputs.dtype, tuple(targets.shape[1:])
    return replace(data, stream=Stream(samples, count, block, *shapes, data.objective, data.classes))
