"""Inputs that a function of the user's own reads when they are needed, in the form of a tensor.

Shapes: S samples, B samples that are read at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.parts.errors import CoveyError, DataError, described

Reader = Callable[[NDArray[np.int64]], Any]
_PROBED = 256
"""Samples that are read for the digest of data and the search for numbers that are not finite."""


@dataclass(frozen=True, eq=False)
class Read:
    """Inputs of S samples, each read when it is indexed.

    Attributes:
        read: returns the inputs of some samples, B x ..., in the types of `Split`.
        samples: the index of each sample for `read`, S.
        one: the shape of the input of a sample, as `read` returns it.
        dtype: the type of the inputs.
        name: the inputs, for the beginning of a sentence.
        device: the device on which they are needed.
        is_flat: whether inputs become vectors.
    """

    read: Callable[[NDArray[np.int64]], Tensor]
    samples: NDArray[np.int64]
    one: tuple[int, ...]
    dtype: torch.dtype
    name: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    is_flat: bool = False

    @property
    def shape(self) -> torch.Size:
        """S x the shape of a sample."""
        return torch.Size((len(self.samples), *([math.prod(self.one)] if self.is_flat else self.one)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        wanted = self.samples[chosen.cpu().numpy() if isinstance(chosen, Tensor) else chosen]
        if not len(wanted):
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype, device=self.device)
        try:
            found = self.read(wanted)
        except CoveyError:
            raise
        except Exception as error:
            raise DataError(f"{self.name} cannot be read: {described(error)}.") from error
        if found.shape != (len(wanted), *self.one) or found.dtype != self.dtype:
            raise DataError(
                f"{self.name} must be {self.dtype} of {(len(wanted), *self.one)} for {len(wanted)} samples. "
                f"Got {found.dtype} of {tuple(found.shape)} instead."
            )
        return found.view(len(wanted), *self.shape[1:]).to(self.device)

    def part(self, chosen: NDArray[Any]) -> "Read":
        """The inputs of some samples, by their indices or a mask."""
        return replace(self, samples=self.samples[chosen])

    def probes(self) -> Tensor:
        """The inputs of a few samples, at equal distances."""
        return self[torch.linspace(0, len(self) - 1, min(_PROBED, len(self))).long()]

    def to(self, device: torch.device) -> "Read":
        """The same inputs on a device."""
        return replace(self, device=device)

    def flatten(self, _: int) -> "Read":
        """The same inputs as vectors."""
        return replace(self, is_flat=True)

    def float(self) -> Tensor:
        """All inputs as numbers, in memory."""
        return self[:].float()

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether inputs are numbers, no bytes or ids."""
        return self.dtype.is_floating_point


def are_read(inputs: object) -> bool:
    """Whether inputs are read when they are needed."""
    return isinstance(inputs, Read)
