"""The interface of compressors: from a vector to a short payload, and from a payload to the vector."""

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.parameters import Part

Draw: TypeAlias = Callable[[], np.random.Generator]
"""A function that returns the generator of one vector. Sender and receiver get the same numbers."""


class Guarantee(NamedTuple):
    """The properties of C(v) that hold for every vector v."""

    unbiased: bool
    """True if E C(v) = v."""
    error: float
    """The bound of E |C(v) - v|² / |v|². Below 1, C is a contraction."""


class Decompressed(NamedTuple):
    """A vector that a compressor or its receiver reconstructed."""

    values: Tensor
    indices: Tensor | None = None
    """The indices of the values; all other entries are zero. None if `values` is the whole vector."""

    def add_to(self, total: Tensor, weight: float = 1.0) -> None:
        """Add `weight` times this vector to `total`, in place."""
        values = self.values.to(total.device)
        if self.indices is None:
            total.add_(values, alpha=weight)
        else:
            total.index_add_(0, self.indices.to(total.device), values, alpha=weight)

    def dense(self, size: int) -> Tensor:
        """The vector with all of its `size` entries."""
        total = torch.zeros(size, device=self.values.device)
        self.add_to(total)
        return total


class Compressor(Part):
    """A lossy compressor of vectors. It has no memory: error feedback is up to its user."""

    family: ClassVar[str] = "compressor"
    sends_all: ClassVar[bool] = True
    """True if every value is sent, coarsely; False if some of the values are sent."""
    sends_magnitudes: ClassVar[bool] = True
    """True if every value is sent with its magnitude. If not, the error should be added to the next vector."""

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        """The payload of a finite float32 vector, and the exact result of `decompress` for that payload."""
        raise NotImplementedError

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        """Reconstruct a vector of `size` numbers from a payload.

        Raises:
            WireError: the payload is malformed.
        """
        raise NotImplementedError

    def guarantee(self, size: int) -> Guarantee:
        """The guarantee for every vector of this length, up to the rounding of float32."""
        raise NotImplementedError

    def need_contraction(self, owner: Part, size: int, key: str = "compressor") -> None:
        """Refuse a compressor whose error may be as large as the vector: with it, accumulated errors grow.

        Args:
            owner: the part that compresses vectors with it.
            size: the length of these vectors.
            key: the owner's name for it.

        Raises:
            ConfigurationError: the compressor is not a contraction.
        """
        error = self.guarantee(size).error
        if error >= 1.0:
            raise ConfigurationError(
                f"The '{key}' of {owner.named()} must be a contraction. Got '{self.title()}' instead, whose error "
                f"can be {error:.3g} times the vector (in squared norms). Set 'unbiased' to false if it is true, or "
                f"let fewer values share a scale."
            )


def entries(payload: Payload, *names: str) -> list[Tensor]:
    """The entries of a payload that has exactly these names.

    Raises:
        WireError: the payload has other entries, or one is not a vector.
    """
    if payload.keys() != set(names):
        raise WireError("bad-field", f"it holds {_listed(payload)} instead of {_listed(names)}")
    found = []
    for name in names:
        entry = payload[name]
        if not isinstance(entry, Tensor) or entry.dim() != 1:
            raise WireError("bad-field", f"its {name} are not a vector")
        found.append(entry)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def check_numbers(name: str, numbers: Tensor, dtype: torch.dtype, count: int) -> None:
    """Refuse an entry unless it has `count` finite numbers of a dtype.

    Raises:
        WireError: the dtype or the count differs, or a number is not finite.
    """
    if numbers.dtype != dtype or len(numbers) != count:
        found = f"{len(numbers)} of {numbers.dtype}"
        raise WireError("bad-field", f"its {name} are not {count} numbers of {dtype}, but {found}")
    if numbers.is_floating_point() and not bool(torch.isfinite(numbers).all()):
        raise WireError("bad-field", f"its {name} are not finite")
