"""Who holds which training samples.

Shapes: S samples, N nodes that hold data, C classes.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeGuard

import numpy as np
from numpy.typing import NDArray

from covey import rng
from covey.errors import ConfigurationError, DataError
from covey.parameters import Part, param
from covey.task.dataset import Data

Ids = NDArray[np.int64]


class Partition(Part):
    """Deals the training samples to the nodes that hold data."""

    family: ClassVar[str] = "partition"

    def assign(self, data: Data, holders: int, seed: int) -> list[Ids]:
        """The samples of each of `holders` nodes, ascending; nobody is left empty and no sample is dealt twice.

        Raises:
            ConfigurationError, DataError: it cannot be done.
        """
        if len(data.train) < holders:
            raise ConfigurationError(
                f"The number of nodes with data must be at most that of training samples, {len(data.train)}. "
                f"Got {holders} instead."
            )
        node_S = self.deal(data, holders, rng.generator(seed, "partition"))
        counts = np.bincount(node_S[node_S >= 0], minlength=holders)
        if (counts == 0).any():
            raise DataError(
                f"The partition {self.title()} leaves node {int(np.argmin(counts))} without samples "
                f"({len(data.train)} samples, {holders} nodes with data)."
            )
        order = np.argsort(node_S, kind="stable")
        return np.split(order[(node_S < 0).sum() :], np.cumsum(counts)[:-1])

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        """The node of each sample, S; -1 where nobody has it."""
        raise NotImplementedError


def label_counts(data: Data, parts: Sequence[Ids]) -> NDArray[np.int64] | None:
    """Samples of each class at each node, N x C; None where the data have no classes."""
    if data.objective != "classes":
        return None
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labels = data.train.targets.numpy()[np.concatenate(parts)]
    return np.bincount(owner * data.classes + labels, minlength=len(parts) * data.classes).reshape(-1, data.classes)


def _labels(partition: Partition, data: Data) -> Ids:
    if data.objective != "classes":
        raise ConfigurationError(f"The partition {partition.title()} goes by classes, which the data set has not.")
    labels: Ids = data.train.targets.numpy()
    return labels


class IID(Partition):
    """Shuffled and dealt evenly."""

    kind = "iid"

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        return generator.permutation(np.arange(len(data.train)) % holders)


class Shards(Partition):
    """Sorted by class, cut into equal shards, and so many of them to each node."""

    kind = "shards"
    per_node: int = param("How many shards each node gets.", default=2, ge=1)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        shards = holders * self.per_node
        if shards > len(data.train):
            raise ConfigurationError(
                f"The 'per_node' of shards must leave at least one sample a shard. "
                f"Got {self.per_node} instead ({holders} nodes, {len(data.train)} samples)."
            )
        order = np.argsort(_labels(self, data), kind="stable")
        node_of_shard = generator.permutation(shards) // self.per_node
        node_S = np.empty(len(order), dtype=np.int64)
        node_S[order] = node_of_shard[np.arange(len(order)) * shards // len(order)]
        return node_S


class Dirichlet(Partition):
    """Each class is dealt in proportions drawn from a symmetric Dirichlet distribution.

    The smaller alpha, the more skewed. Nodes that end up with too few samples are given some by those that have most.
    """

    kind = "dirichlet"
    alpha: float = param("The concentration.", default=0.1, gt=0)
    min_samples: int = param("How many samples each node has at least.", default=1, ge=1)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        labels = _labels(self, data)
        node_S = np.empty(len(labels), dtype=np.int64)
        for label in range(data.classes):
            here = generator.permutation(np.flatnonzero(labels == label))
            shares = _dirichlet(self.alpha, holders, generator)
            ends = np.round(np.cumsum(shares) * len(here)).astype(np.int64)
            node_S[here] = np.searchsorted(ends, np.arange(len(here)), side="right").clip(max=holders - 1)
        return _topped_up(self, node_S, holders, self.min_samples, generator)


class Quantity(Partition):
    """The classes are mixed alike everywhere; how many samples a node has is drawn from a Dirichlet distribution."""

    kind = "quantity"
    alpha: float = param("The concentration; the smaller, the more unequal.", default=0.5, gt=0)
    min_samples: int = param("How many samples each node has at least.", default=1, ge=1)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        samples = len(data.train)
        ends = np.round(np.cumsum(_dirichlet(self.alpha, holders, generator)) * samples).astype(np.int64)
        node_S = np.searchsorted(ends, np.arange(samples), side="right").clip(max=holders - 1)
        return _topped_up(self, generator.permutation(node_S), holders, self.min_samples, generator)


def _dirichlet(alpha: float, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """A draw in which at least one share is positive, also where alpha is so small that all would round to 0."""
    # log of a Gamma(alpha) variate is log Gamma(alpha + 1) variate + log(uniform) / alpha: exact, and never 0.
    logs = np.log(generator.standard_gamma(alpha + 1.0, count)) + np.log(generator.random(count)) / alpha
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def _topped_up(partition: Partition, node_S: Ids, holders: int, least: int, generator: np.random.Generator) -> Ids:
    """Move samples from the richest nodes to those that have fewer than `least`."""
    if least * holders > len(node_S):
        raise ConfigurationError(
            f"The 'min_samples' of {partition.title()} must leave enough for all nodes. "
            f"Got {least} instead ({holders} nodes, {len(node_S)} samples)."
        )
    counts = np.bincount(node_S, minlength=holders)
    lacking = np.repeat(np.arange(holders), np.maximum(least - counts, 0))
    if len(lacking) == 0:
        return node_S
    # What is above a level that leaves just enough to give: the level falls until it does.
    low, high = least, int(counts.max())
    while low < high:
        level = (low + high + 1) // 2
        if np.maximum(counts - level, 0).sum() >= len(lacking):
            low = level
        else:
            high = level - 1
    order = generator.permutation(len(node_S))
    by_node = order[np.argsort(node_S[order], kind="stable")]
    rank = np.arange(len(by_node)) - np.repeat(np.cumsum(counts) - counts, counts)
    spare = by_node[rank >= low]
    node_S[generator.permutation(spare)[: len(lacking)]] = lacking
    return node_S


class Natural(Partition):
    """By who made the samples: writers, speakers, users are dealt to nodes whole."""

    kind = "natural"

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        if data.owners is None:
            raise ConfigurationError(
                "The partition natural goes by owners, and the data set does not say who they are."
            )
        owners, owner_S = np.unique(data.owners.numpy(), return_inverse=True)
        if len(owners) < holders:
            raise ConfigurationError(
                f"The number of nodes with data must be at most that of owners, {len(owners)}. Got {holders} instead."
            )
        node_of_owner = generator.permutation(len(owners)) % holders
        return node_of_owner[owner_S]


class FromFile(Partition):
    """From a file: CSV lines "sample,node", or a JSON list with a list of samples for each node."""

    kind = "file"
    file: Path = param("The file, ending in .csv or .json.")

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        node_S = np.full(len(data.train), -1, dtype=np.int64)
        for where, sample, node in self._pairs():
            if not (_is_index(sample, len(node_S)) and _is_index(node, holders)):
                raise ConfigurationError(
                    f"{where} of '{self.file}' must be a sample in [0, {len(node_S)}) and a node in [0, {holders}). "
                    f"Got {sample!r} and {node!r} instead."
                )
            if node_S[sample] >= 0:
                raise ConfigurationError(f"{where} of '{self.file}' deals the sample {sample} a second time.")
            node_S[sample] = node
        return node_S

    def _pairs(self) -> list[tuple[str, object, object]]:
        try:
            text = self.file.read_text()
            if self.file.suffix == ".json":
                lists = json.loads(text)
                return [(f"Node {node}", sample, node) for node, samples in enumerate(lists) for sample in samples]
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise ConfigurationError(f"The 'file' of the partition, '{self.file}', cannot be read: {error}.") from error
        rows = []
        for number, row in enumerate(csv.reader(text.splitlines()), 1):
            if row and not (number == 1 and row[0].strip() == "sample"):
                cells: list[object] = [int(cell) if cell.strip().isdecimal() else cell for cell in row]
                rows.append((f"Line {number}", cells[0], cells[1] if len(cells) == 2 else row))
        return rows


def _is_index(value: object, size: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
