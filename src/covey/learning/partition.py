"""Partitions of the training samples among nodes.

A partition is one number per sample: the node that holds it. Shapes: N nodes, S training samples, C classes.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.learning.dataset import Data
from covey.learning.datasets.targets import is_missing
from covey.parts import rng
from covey.parts.errors import DataError, quoted
from covey.parts.machine import demand
from covey.parts.parameters import Part, param

Ids = NDArray[np.int64]


class Partition(Part):
    """A way to deal the training samples to the nodes that hold data."""

    family: ClassVar[str] = "partition"

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        """The node of every training sample, S numbers in [0, holders); -1 for a sample that is not used."""
        raise NotImplementedError

    def assign(self, data: Data, holders: int, seed: int) -> list[Ids]:
        """The samples of every node.

        Args:
            data: the data set.
            holders: the number of nodes that hold data.
            seed: the experiment's seed.

        Returns:
            N disjoint index arrays into `data.train`, none of them empty; ascending, where nothing else says an order.

        Raises:
            DataError: the data cannot be dealt to this number of nodes.
        """
        samples = len(data.train)
        if not 1 <= holders <= samples:
            raise DataError(
                f"The partition {self.title()} must give each node a sample: "
                f"nodes must be in [1, {samples}], the training samples there are. Got {holders} instead."
            )
        node_of = self.deal(data, holders, rng.generator(seed, "partition"))
        sizes = np.bincount(node_of + 1, minlength=holders + 1)
        empty = np.flatnonzero(sizes[1:] == 0)
        if len(empty):
            raise DataError(
                f"The partition {self.title()} leaves {len(empty)} of {holders} nodes without a sample, "
                f"node {empty[0]} the first: give every node at least one."
            )
        order = np.argsort(node_of, kind="stable")
        return np.split(order, np.cumsum(sizes)[:-1])[1:]


class IID(Partition):
    """Equal random shares."""

    kind = "iid"

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        node_of = np.empty(len(data.train), dtype=np.int64)
        node_of[generator.permutation(len(node_of))] = np.arange(len(node_of)) % holders
        return node_of


class Shards(Partition):
    """Samples sorted by label and cut into equal shards, of which every node gets a few at random."""

    kind = "shards"
    per_node: int = param("The number of shards of a node.", default=2, ge=1)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        labels, samples = _labels(self, data), len(data.train)
        shards = holders * self.per_node
        if shards > samples:
            raise DataError(
                f"The 'per_node' of {self.named()} must be an int in [1, {samples // holders}] "
                f"for {samples} samples on {holders} nodes. Got {self.per_node} instead."
            )
        node_of_shard = generator.permutation(shards) // self.per_node
        node_of = np.empty(samples, dtype=np.int64)
        node_of[np.argsort(labels, kind="stable")] = node_of_shard[np.arange(samples) * shards // samples]
        return node_of


class Dirichlet(Partition):
    """Shares of every class that are drawn from a Dirichlet distribution."""

    kind = "dirichlet"
    alpha: float = param(
        "The concentration. Near 0, few nodes have a class; if large, all nodes have the same share.", gt=0, le=1e6
    )
    min_samples: int = param("The least number of samples of a node.", default=1, ge=1)
    balanced: bool = param(
        "Whether a node that has its equal share of all samples gets no further classes.", default=True
    )

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        labels = _labels(self, data)
        _check_least(self, self.min_samples, len(labels), holders)
        members = [np.flatnonzero(labels == label) for label in range(data.classes)]
        # A few draws are cheap and do not distort the distribution. If they fail, small nodes are topped up.
        for _ in range(10):
            node_of = self._draw(members, holders, generator)
            if np.bincount(node_of, minlength=holders).min() >= self.min_samples:
                return node_of
        return _topped_up(node_of, holders, self.min_samples, generator)

    def _draw(self, members: Sequence[Ids], holders: int, generator: np.random.Generator) -> Ids:
        samples = sum(map(len, members))
        node_of = np.empty(samples, dtype=np.int64)
        held = np.zeros(holders, dtype=np.int64)
        for label in generator.permutation(len(members)):
            shares = generator.dirichlet(np.full(holders, self.alpha))
            if self.balanced:
                open_shares = np.where(held * holders < samples, shares, 0.0)
                shares = open_shares if open_shares.sum() > 0 else shares
            counts = _cut(len(members[label]), shares)
            node_of[generator.permutation(members[label])] = np.repeat(np.arange(holders), counts)
            held += counts
        return node_of


class Quantity(Partition):
    """Random samples in amounts that are drawn from a Dirichlet distribution."""

    kind = "quantity"
    alpha: float = param(
        "The concentration. Near 0, few nodes have nearly all samples; if large, amounts are equal.", gt=0, le=1e6
    )
    min_samples: int = param("The least number of samples of a node.", default=1, ge=1)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        samples = len(data.train)
        _check_least(self, self.min_samples, samples, holders)
        counts = _cut(samples, generator.dirichlet(np.full(holders, self.alpha)))
        node_of = np.empty(samples, dtype=np.int64)
        node_of[generator.permutation(samples)] = np.repeat(np.arange(holders), counts)
        return _topped_up(node_of, holders, self.min_samples, generator)


class Draws(Partition):
    """Random samples that each node draws for itself, with replacement: a small data set serves any number of nodes."""

    kind = "draws"
    per_node: int = param("The number of samples of a node, in which one may occur twice.", ge=1)

    def assign(self, data: Data, holders: int, seed: int) -> list[Ids]:
        """See `Partition.assign`; nodes may share samples."""
        demand(8.0 * holders * self.per_node, f"The samples of {self.named()}")
        drawn_NS = rng.generator(seed, "partition").integers(len(data.train), size=(holders, self.per_node))
        return [*np.sort(drawn_NS, axis=1)]


class Natural(Partition):
    """Samples by owner: writers, speakers or users are assigned to nodes in equal numbers."""

    kind = "natural"
    by: str | None = param("The column with the owner of each sample; by default that of the data set.", default=None)

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        owners, owner_of = np.unique(self._makers(data), return_inverse=True)
        if len(owners) < holders:
            what = "owners" if self.by is None else f"values of {self.by!r}"
            raise DataError(
                f"The partition natural must give each node an owner of samples: nodes must be in "
                f"[1, {len(owners)}], the {what} there are. Got {holders} instead."
            )
        node_of_owner = generator.permutation(len(owners)) % holders
        return np.asarray(node_of_owner[owner_of], dtype=np.int64)

    def _makers(self, data: Data) -> NDArray[Any]:
        """The owner of each training sample."""
        if self.by is not None:
            if self.by not in data.columns:
                known = ", ".join(data.columns) or "none"
                raise DataError(
                    f"The 'by' of {self.named()} must be a column of the data, which has {known}. "
                    f"Got {quoted(self.by)} instead."
                )
            values = data.columns[self.by]
            self._check_present(values)
            return values.astype(str) if values.dtype.kind == "O" else values
        if data.owners is not None:
            return data.owners.numpy()
        hint = f": give one of its columns as 'by': {', '.join(data.columns)}" if data.columns else ""
        raise DataError(
            f"The partition natural needs a data set with the owner of each sample, which this one does not have{hint}."
        )

    def _check_present(self, values: NDArray[Any]) -> None:
        """Check that each sample has an owner.

        Raises:
            DataError: some have none.
        """
        if values.dtype.kind in "OU":
            missing = sum(is_missing(value) or (isinstance(value, str) and not value) for value in values)
        else:
            missing = int(np.sum(values != values))  # NaN and NaT are not equal to themselves.
        if missing:
            raise DataError(
                f"The column {self.by!r}, the 'by' of {self.named()}, must have a value for each training sample. "
                f"Got none for {missing} of {len(values)}: fill them in, or leave these samples out."
            )


class FromFile(Partition):
    """A partition that is read from a file, in its order. Samples that the file does not name are not used."""

    kind = "file"
    file: Path = param(
        'The file: a CSV with the header "sample,node", or a JSON list with a list of samples for every node.'
    )

    def deal(self, data: Data, holders: int, generator: np.random.Generator) -> Ids:
        samples, nodes = self._listed(data, holders)
        node_of = np.full(len(data.train), -1, dtype=np.int64)
        node_of[samples] = nodes
        return node_of

    def assign(self, data: Data, holders: int, seed: int) -> list[Ids]:
        """See `Partition.assign`; the samples of a node are in the order in which the file lists them."""
        parts = super().assign(data, holders, seed)
        samples, _ = self._listed(data, holders)
        listed = np.empty(len(data.train), dtype=np.int64)
        listed[samples] = np.arange(len(samples))
        return [part[np.argsort(listed[part], kind="stable")] for part in parts]

    def _listed(self, data: Data, holders: int) -> tuple[Ids, Ids]:
        """(samples, the node of each), as they are listed."""
        try:
            text = self.file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"The 'file' of {self.named()}, '{self.file}', cannot be read: {why}.") from error
        samples, nodes = self._from_json(text) if text.lstrip().startswith("[") else self._from_csv(text)
        for name, values, end in (("sample", samples, len(data.train)), ("node", nodes, holders)):
            wrong = np.flatnonzero((values < 0) | (values >= end))
            if len(wrong):
                at = wrong[0]
                raise DataError(
                    f"Every {name} in {self.file} must be an int in [0, {end}). "
                    f"Got {values[at]} instead (sample {samples[at]} of node {nodes[at]})."
                )
        order = np.argsort(samples, kind="stable")
        repeated = np.flatnonzero(samples[order][1:] == samples[order][:-1])
        if len(repeated):
            first, second = order[repeated[0]], order[repeated[0] + 1]
            raise DataError(
                f"Every sample may occur once in {self.file}. "
                f"Sample {samples[first]} is given to node {nodes[first]} and to node {nodes[second]}."
            )
        return samples, nodes

    def _from_csv(self, text: str) -> tuple[Ids, Ids]:
        rows = csv.reader(text.splitlines())
        header = next(rows, [])
        if [name.strip() for name in header] != ["sample", "node"]:
            raise DataError(f'Line 1 of {self.file} must be "sample,node". Got "{",".join(header)}" instead.')
        pairs: list[tuple[int, int]] = []
        for row in rows:
            try:
                sample, node = map(int, row)
            except ValueError:
                if not row:
                    continue
                raise DataError(
                    f"Line {rows.line_num} of {self.file} must be two integers, a sample and its node. "
                    f'Got "{",".join(row)}" instead.'
                ) from None
            pairs.append((sample, node))
        table = _integers(self.file, pairs).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _from_json(self, text: str) -> tuple[Ids, Ids]:
        try:
            lists = json.loads(text)
        except ValueError as error:
            raise DataError(f"{self.file} is not valid JSON: {error}.") from error
        for node, entry in enumerate(lists):
            if not isinstance(entry, list) or not all(type(sample) is int for sample in entry):
                raise DataError(f"Entry {node} of {self.file} must be a list of integers, the samples of node {node}.")
        nodes = np.repeat(np.arange(len(lists)), np.array([len(entry) for entry in lists], dtype=np.int64))
        return _integers(self.file, [sample for entry in lists for sample in entry]), nodes


def label_counts(data: Data, parts: Sequence[Ids]) -> Ids | None:
    """The number of samples of each class at each node, N x C; None unless targets are one class per sample."""
    if data.objective != "classes":
        return None
    nodes = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labels = data.train.targets.numpy()[np.concatenate(parts)] if len(parts) else np.empty(0, dtype=np.int64)
    counts = np.bincount(nodes * data.classes + labels, minlength=len(parts) * data.classes)
    return counts.astype(np.int64).reshape(len(parts), data.classes)


def _integers(file: Path, values: Sequence[int] | Sequence[tuple[int, int]]) -> Ids:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise DataError(f"{file} has an integer that needs more than 64 bits.") from None


def _labels(partition: Partition, data: Data) -> Ids:
    if data.objective != "classes":
        raise DataError(
            f"The partition {partition.title()} needs data with one class per sample; these have {data.objective}."
        )
    labels: Ids = data.train.targets.numpy()
    return labels


def _check_least(partition: Partition, least: int, samples: int, holders: int) -> None:
    if least * holders > samples:
        raise DataError(
            f"The 'min_samples' of {partition.named()} must be an int in [1, {samples // holders}] "
            f"for {samples} samples on {holders} nodes. Got {least} instead."
        )


def _cut(samples: int, shares: NDArray[np.float64]) -> Ids:
    """The integers, proportional to shares, that sum to `samples`."""
    ends = np.cumsum(shares)
    whole: Ids = np.rint(ends / ends[-1] * samples).astype(np.int64)
    return np.diff(whole, prepend=0)


def _topped_up(node_of: Ids, holders: int, least: int, generator: np.random.Generator) -> Ids:
    """The same partition, after nodes with fewer than `least` samples got random ones of the largest nodes."""
    lacking = np.maximum(least - np.bincount(node_of, minlength=holders), 0)
    shuffled = generator.permutation(len(node_of))
    order = shuffled[np.argsort(node_of[shuffled], kind="stable")]
    sizes = np.bincount(node_of, minlength=holders)
    index = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # In descending order of index within their nodes, samples are taken from the largest nodes first.
    moved = order[np.argsort(-index, kind="stable")[: lacking.sum()]]
    result = node_of.copy()
    result[moved] = np.repeat(np.arange(holders), lacking)
    return result


def held_out(parts: Sequence[np.ndarray], share: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The samples that every node trains on, and those that it keeps for validation."""
    if share == 0:
        return list(parts), [part[:0] for part in parts]
    trained, kept = [], []
    for holder, part in enumerate(parts):
        order = rng.generator(seed, "validation", holder).permutation(len(part))
        count = min(round(share * len(part)), len(part) - 1)
        kept.append(part[np.sort(order[:count])])
        trained.append(part[np.sort(order[count:])])
    return trained, kept
