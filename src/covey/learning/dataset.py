"""What a data set is, and where its files are found.

Shapes: S samples; a sample has the shape that the model takes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from covey.parts.parameters import Part

Objective = Literal["classes", "sequence", "values"]
"""What is predicted: one class a sample; a class at every position of a sequence; one number a sample."""


@dataclass(frozen=True)
class Split:
    """Samples and what is to be predicted for them.

    Attributes:
        inputs: S x ...; uint8 images stay uint8 here and are scaled batch by batch. int64 for tokens and ids.
        targets: S int64 classes, S x T int64 next characters, or S float32 values.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        train, test: the publisher's split, or the loader's own where there is none.
        objective: what is predicted.
        classes: how many classes or characters there are; 0 for values.
        owners: who made each training sample (writer, speaker, user), S ids from 0; None where nobody is known.
        owner_names: a name for each owner id.
        label_names: a name for each class.
        scale, shift: what turns stored inputs into what a model takes: float(input) * scale + shift.
        sizes: further dimensions that a model needs (for example "users" and "items").
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

    def scaled(self, inputs: Tensor) -> Tensor:
        """Some inputs as a model takes them."""
        if inputs.dtype == torch.uint8:
            inputs = inputs.float()
            if self.scale != 1.0:
                inputs.mul_(self.scale)
            if self.shift != 0.0:
                inputs.add_(self.shift)
        return inputs

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


class Dataset(Part):
    """A data set that can be loaded."""

    family: ClassVar[str] = "dataset"

    @abstractmethod
    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        """Read the data set from the data folder, downloading it there first where that is possible.

        Args:
            folder: the user's data folder; each data set has its own folder in it.
            quiet: whether to show no progress bar while it downloads.

        Raises:
            DataError: files are missing or damaged; the text says in one line what to put where.
        """
