"""Data that never leave the machine of their host: what all know of them, and what a host has.

Shapes: S samples, N nodes that hold data.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.dataset import Data, Dataset, Location, Objective, Own, Split
from covey.learning.datasets.arrays import sides
from covey.learning.datasets.digests import digest
from covey.learning.datasets.reading import are_read
from covey.learning.datasets.targets import LEFT_OUT
from covey.learning.partition import IID, Partition
from covey.parts.errors import ConfigurationError, DataError, quoted
from covey.parts.parameters import Part, build, fields_of, param

_DTYPES = {"float32": torch.float32, "uint8": torch.uint8, "int64": torch.int64}
_STANDING_IN = 2
"""Samples that a process without data has for each node, to try a model out on: BatchNorm needs two."""


class Local(Part):
    """The data of a host, as `covey host --data` names them."""

    kind = "local"
    dataset: Dataset | None = param(
        "The data of all nodes of the host, which the partition assigns to them.", default=None
    )
    partition: Partition = param("The partition of the host's samples among its nodes.", factory=IID)
    nodes: list[Dataset] = param("The data of each node of the host in order, instead of 'dataset'.", factory=list)

    @classmethod
    def named(cls) -> str:
        return "the host's own data"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.dataset is None) == (not self.nodes):
            raise ConfigurationError(
                "The host's own data must be one 'dataset', or one of each node in 'nodes'. "
                f"Got {'none' if self.dataset is None else 'both'}."
            )

    def sources(
        self, classes: int | list[str] | None, count: int, location: Location, seed: int
    ) -> list[tuple[Data, list[NDArray[np.int64]]]]:
        """The data sets of so many nodes, each with the training samples of its nodes, in the order of the nodes.

        Raises:
            DataError, ConfigurationError: they cannot be loaded, or are of another number of nodes.
        """
        if self.dataset is None:
            if len(self.nodes) != count:
                raise ConfigurationError(
                    f"The 'nodes' of the host's own data must be {count}, as many as the run gives this host. "
                    f"Got {len(self.nodes)} instead."
                )
            each = [_with(dataset, classes).load_at(location) for dataset in self.nodes]
            return [(data, [np.arange(len(data.train))]) for data in each]
        data = _with(self.dataset, classes).load_at(location)
        return [(data, list(self.partition.assign(data, count, seed)))]


def _with(dataset: Dataset, classes: int | list[str] | None) -> Dataset:
    """The data set with the classes of the experiment, where it takes classes and sets none."""
    takes = "classes" in fields_of(type(dataset)) and getattr(dataset, "classes") is None  # noqa: B009
    return replace(dataset, classes=classes) if takes and classes is not None else dataset  # type: ignore[call-arg]


class Private(Dataset):
    """Data that stay at the hosts of `covey host --data`. The experiment describes the form of a sample."""

    kind = "private"
    shape: list[int] = param("The shape of one input.", ge=1)
    numbers: Literal["float32", "uint8", "int64"] = param("The type of the numbers of an input.", default="float32")
    classes: int | list[str] | None = param(
        "The number of classes, or their names; none if values are predicted.", default=None, ge=2
    )
    sequence: bool = param("Whether a class is predicted for each position of a sequence.", default=False)
    target_shape: list[int] | None = param(
        "The shape of one target; by default one number or class, and a class for each position of a sequence.",
        default=None,
        ge=1,
    )
    ignore_index: int = param("The target of a position that has no class.", default=LEFT_OUT)
    test: Dataset | None = param("The test data that all hosts have, beside those of each node.", default=None)
    scale: float = param("The factor of inputs of bytes: byte b becomes b * scale + shift.", default=1 / 255)
    shift: float = param("The number that is added to scaled bytes.", default=0.0)

    @property
    def is_private(self) -> bool:
        return True

    @property
    def objective(self) -> Objective:
        """The kind of prediction."""
        return "values" if self.classes is None else "sequence" if self.sequence else "classes"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        raise ConfigurationError(
            "The dataset private is held by hosts that `covey host --data` started: name them in the 'hosts' of the "
            "engine emulation."
        )

    def load_at(self, location: Location) -> Data:
        """The data of a process: in a host the samples of its nodes, elsewhere a stand-in."""
        common = self._common(location)
        counted, called = (0, []) if self.classes is None else _counted(self.classes)
        described = Data(
            common, common, self.objective, counted, label_names=called, scale=self.scale, shift=self.shift,
            ignore_index=self.ignore_index if self.sequence else None,
        )  # fmt: skip
        known = f"{digest(described)} of {self.numbers} {sides(self.shape)}"
        if location.here is None:
            raise ConfigurationError(
                "The dataset private is held by hosts only: name them in the 'hosts' of the engine emulation."
            )
        mine = [index for index, id in enumerate(location.holders) if id in location.here]
        if not mine:
            return self._standing_in(described, len(location.holders), known)
        if location.local is None:
            raise ConfigurationError("This host has no data of its own: start it with `covey host --data FILE.toml`.")
        local = build(Local, location.local)
        sources = local.sources(self.classes, len(mine), location, seed=0)
        for data, _ in sources:
            self._check(data)
        nothing = np.empty(0, dtype=np.int64)
        parts = {"train": [nothing] * len(location.holders), "test": [nothing] * len(location.holders)}
        trained, tested, left = 0, len(common), iter(mine)
        for data, dealt in sources:
            for part, index in zip(dealt, left, strict=False):
                parts["train"][index] = trained + part
                parts["test"][index] = np.arange(tested, tested + len(data.test))
            trained, tested = trained + len(data.train), tested + len(data.test)
        train = _joined([data.train for data, _ in sources])
        test = _joined([common, *(data.test for data, _ in sources)])
        own = Own(parts["train"], parts["test"], len(common), known)
        return replace(described, train=train, test=test, own=own)

    def _common(self, location: Location) -> Split:
        """The test samples that all have."""
        nothing = Split(torch.empty((0, *self.shape), dtype=_DTYPES[self.numbers]), self._targets(0))
        if self.test is None:
            return nothing
        data = _with(self.test, self.classes).load_at(location)
        self._check(data)
        return data.test

    def _targets(self, count: int) -> Tensor:
        usual = self.shape[:1] if self.sequence else []
        shape = (count, *(usual if self.target_shape is None else self.target_shape))
        return torch.zeros(shape, dtype=torch.float32 if self.classes is None else torch.int64)

    def _standing_in(self, described: Data, holders: int, known: str) -> Data:
        count = _STANDING_IN * holders
        draw = torch.Generator().manual_seed(1)
        whole = torch.zeros((count, *self.shape), dtype=_DTYPES[self.numbers])
        inputs = whole.normal_(generator=draw) if whole.is_floating_point() else whole
        parts = np.split(np.arange(count), holders)
        own = Own(parts, [part[:0] for part in parts], len(described.test), known)
        return replace(described, train=Split(inputs, self._targets(count)), own=own)

    def _check(self, data: Data) -> None:
        """Check that data have the form that the experiment declares.

        Raises:
            DataError: they are not.
        """
        found, wanted = data.train.inputs, _DTYPES[self.numbers]
        if data.sample_shape != tuple(self.shape) or found.dtype != wanted:
            raise DataError(
                f"The samples of the dataset private must be {self.numbers} of {sides(self.shape)}, as in the "
                f"experiment. Got {str(found.dtype).removeprefix('torch.')} of {sides(data.sample_shape)} instead."
            )
        if data.objective != self.objective:
            raise DataError(
                f"The targets of the dataset private must be {self.objective}, as in the experiment. Got "
                f"{data.objective} instead."
            )
        target, wanted_shape = data.train.targets.shape[1:], self._targets(0).shape[1:]
        if target != wanted_shape:
            raise DataError(
                f"The targets of the dataset private must be {sides(wanted_shape)} for each sample, as in the "
                f"experiment. Got {sides(target)} instead."
            )
        if data.ignore_index not in (None, self.ignore_index):
            raise DataError(
                f"The 'ignore_index' of the dataset private must be {self.ignore_index}, as in the experiment. Got "
                f"{data.ignore_index} instead."
            )
        count, names = (0, []) if self.classes is None else _counted(self.classes)
        if data.classes > count or (data.label_names and list(data.label_names) != names):
            due = f"{names}, in this order" if names else str(count)
            hint = ": give the experiment a list of these names" if data.label_names and not names else ""
            raise DataError(
                f"The classes of the dataset private must be {due}, as in the experiment. Got "
                f"{quoted(list(data.label_names)) if data.label_names else data.classes} instead{hint}."
            )


def _counted(classes: int | Sequence[str]) -> tuple[int, list[str]]:
    return (classes, []) if isinstance(classes, int) else (len(classes), list(classes))


def _joined(splits: Sequence[Split]) -> Split:
    filled = [split for split in splits if len(split)]
    if len(filled) == 1:  # It may be mapped from files, and larger than memory.
        return filled[0]
    if any(are_read(split.inputs) for split in splits):
        raise DataError(
            "Inputs that a function reads must be those of one data set of the host, without common test data: name it "
            "as 'dataset', and no 'test' in the experiment."
        )
    return Split(torch.cat([split.inputs for split in splits]), torch.cat([split.targets for split in splits]))
