"""Data sets in memory, and the parts that load them.

Shapes: S samples; a sample has the shape that the model takes.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.fields import Field
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part

if TYPE_CHECKING:
    from covey.learning.datasets.streaming import Stream

Objective = Literal["classes", "sequence", "values"]
"""The kind of target: one class per sample, a class at every position of a sample, or numbers for each sample."""
_TAKEN_AS = {
    **dict.fromkeys((torch.float64, torch.float16, torch.bfloat16, torch.bool), torch.float32),
    **dict.fromkeys((torch.int8, torch.int16, torch.int32), torch.int64),
}
"""The type in which a model takes inputs that are stored in another one."""


@dataclass(frozen=True)
class Split:
    """Samples and their targets.

    Attributes:
        inputs: S x ...: uint8 images, which are scaled batch by batch, int64 tokens and ids, or float32.
        targets: S int64 classes, S x T or S x H x W int64 classes of positions, S or S x D float32 values.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Own:
    """Data of which each node has its own, in the process of its host alone.

    Attributes:
        train, test: the training and the test samples of each node that holds data, in order; none of nodes elsewhere.
        common: the number of test samples that all nodes have; they come first.
        digest: the digest of the facts that all processes know of the data.
    """

    train: Sequence[NDArray[np.int64]]
    test: Sequence[NDArray[np.int64]]
    common: int
    digest: str


@dataclass(frozen=True)
class Location:
    """The process in which data are loaded, and its nodes.

    Attributes:
        folder: the data folder.
        holders: the ids of the nodes that hold data.
        here: the ids of those whose samples this process has; None for all.
        local: the tables with this machine's own data, where it has any.
        quiet: whether to show no progress bar while data are downloaded.
        shipped: the samples from another process, in place of files: common ones, and its own.
    """

    folder: Path
    holders: Sequence[int]
    here: Collection[int] | None = None
    local: Mapping[str, Any] | None = None
    quiet: bool = True
    shipped: tuple[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory, or in files that are mapped into it. It never changes, so a copy of it is itself.

    Attributes:
        train, test: the publisher's split or, if there is none, the loader's.
        objective: the kind of target.
        classes: the number of classes or characters; 0 for values.
        owners: the writer, speaker or user of each training sample, S ids from 0; None if unknown.
        owner_names: a name for each owner id.
        label_names: a name for each class.
        scale, shift: a model takes float(input) * scale + shift.
        sizes: further dimensions that a model needs (for example "users" and "items").
        columns: further facts of each training sample, by name; S values each.
        fields: the inputs by name, where a sample has several; they are packed into one row of numbers.
        own: the samples of each node, if no partition assigns them.
        ignore_index: the target of a position that has no class; None if all positions have one.
        stream: the training samples of each node, if they come in streams; `train` then has some for a trial.
    """

    train: Split
    test: Split
    objective: Objective
    classes: int
    owners: Tensor | None = None
    owner_names: Sequence[str] = ()
    label_names: Sequence[str] = ()
    scale: float = 1.0
    shift: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    own: Own | None = None
    ignore_index: int | None = None
    stream: "Stream | None" = None

    def __deepcopy__(self, _: dict[int, Any]) -> "Data":
        return self

    def __repr__(self) -> str:
        return f"Data({len(self.train)} training and {len(self.test)} test samples of {self.objective})"

    def scaled(self, inputs: Tensor) -> Tensor:
        """Stored inputs, converted for a model."""
        if inputs.dtype == torch.uint8:
            inputs = inputs.float()
            if self.scale != 1.0:
                inputs.mul_(self.scale)
            if self.shift != 0.0:
                inputs.add_(self.shift)
        elif inputs.dtype in _TAKEN_AS:
            inputs = inputs.to(_TAKEN_AS[inputs.dtype])
        return inputs

    def check_no_stream(self, what: str) -> None:
        """Refuse a use of training samples that needs all of them.

        Args:
            what: the use.

        Raises:
            ConfigurationError: they come in a stream.
        """
        if self.stream is not None:
            raise ConfigurationError(f"The samples of each node come in a stream, which gives no {what}.")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


class Dataset(Part):
    """A data set that can be loaded."""

    family: ClassVar[str] = "dataset"

    @classmethod
    def shorthand(cls, value: object) -> "Dataset | None":
        from covey.learning.datasets.given import of_object

        return of_object(value)

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Self] | None":
        """A user's own function, made a data set of the name under which it was found."""
        from covey.learning.datasets.given import adopted

        return None if isinstance(found, type) or not callable(found) else adopted(name, found)  # type: ignore[return-value]

    @property
    def is_private(self) -> bool:
        """Whether each host loads the samples of its own nodes, which no other host has."""
        return False

    def load_at(self, location: Location) -> Data:
        """The data set as a process of a run has it."""
        from covey.learning.datasets.prepared import load

        return load(self, location)

    def sources(self, folder: Path) -> Sequence[Path] | None:
        """The files in the data folder that, with its parameters, decide the content of a data set of covey's own.

        It is then prepared once for all processes of a machine. None if it is loaded by each, or a file is missing.
        """
        return None

    def portable(self, folder: Path | None) -> "Dataset":
        """The same data set for other processes; see `Task.portable`."""
        return self

    @abstractmethod
    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        """Read the data set from the data folder. Download it first if that is possible and necessary.

        Args:
            folder: the user's data folder. Each data set has its own folder in it.
            quiet: show no progress bar of a download.

        Raises:
            DataError: files are missing or damaged. The text says in one line which file to put where.
        """
