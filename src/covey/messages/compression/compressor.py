"""What every compressor does: make a short payload of a vector, and of a payload the vector that it stands for."""

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.parameters import Part

Draw: TypeAlias = Callable[[], np.random.Generator]
"""Makes the randomness of one vector: whoever calls it, sender or receiver, gets the same numbers."""


class Guarantee(NamedTuple):
    """What theory says of C(v) for every vector v."""

    unbiased: bool
    """Whether E C(v) = v."""
    error: float
    """E |C(v) - v|² is at most so many times |v|²; below 1, C is a contraction."""


class Decompressed(NamedTuple):
    """A vector as it comes out of a compressor."""

    values: Tensor
    indices: Tensor | None = None
    """Where the values stand, all others being zero; None where they are all."""

    def add_to(self, total: Tensor, weight: float = 1.0) -> None:
        """Add this vector, so many times, to one that nobody else holds."""
        values = self.values.to(total.device)
        if self.indices is None:
            total.add_(values, alpha=weight)
        else:
            total.index_add_(0, self.indices.to(total.device), values, alpha=weight)

    def dense(self, size: int) -> Tensor:
        """All of its `size` numbers."""
        total = torch.zeros(size, device=self.values.device)
        self.add_to(total)
        return total


class Compressor(Part):
    """Makes vectors short, with a loss. It has no memory: whoever uses it keeps what was lost."""

    family: ClassVar[str] = "compressor"
    says_all: ClassVar[bool] = True
    """Whether every value is said, coarsely, instead of some of them."""
    says_sizes: ClassVar[bool] = True
    """Whether every value is said with its size: if not, what is left out should be added to what is said next."""

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        """What to send of a vector, float32 and finite, and what `decompress` makes of that, to the bit."""
        raise NotImplementedError

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        """The vector of `size` numbers that a payload stands for.

        Raises:
            WireError: it stands for none.
        """
        raise NotImplementedError

    def guarantee(self, size: int) -> Guarantee:
        """What holds for every vector of this length, up to the rounding of float32."""
        raise NotImplementedError

    def need_contraction(self, owner: Part, size: int, key: str = "compressor") -> None:
        """Raise ConfigurationError where the error may be as large as the vector: who adds up what was lost is lost.

        Args:
            owner: who compresses vectors of this size with it.
            key: what the owner calls it.
        """
        error = self.guarantee(size).error
        if error >= 1.0:
            raise ConfigurationError(
                f"The '{key}' of {owner.named()} must be a contraction. Got '{self.title()}' instead, whose error "
                f"can be {error:.3g} times the vector it is given (in squared norms). Set 'unbiased' to false where it "
                f"is true, or let fewer values share a scale."
            )


def entries(payload: Payload, *names: str) -> list[Tensor]:
    """The entries of a payload that has these and no others.

    Raises:
        WireError: it has others, or one is no vector.
    """
    if payload.keys() != set(names):
        raise WireError("bad-field", f"it holds {_listed(payload)} instead of {_listed(names)}")
    found = []
    for name in names:
        entry = payload[name]
        if not isinstance(entry, Tensor) or entry.dim() != 1:
            raise WireError("bad-field", f"its {name} are no vector")
        found.append(entry)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def check_numbers(name: str, numbers: Tensor, dtype: torch.dtype, count: int) -> None:
    """Whether an entry is so many finite numbers of a dtype.

    Raises:
        WireError: it is not.
    """
    if numbers.dtype != dtype or len(numbers) != count:
        found = f"{len(numbers)} of {numbers.dtype}"
        raise WireError("bad-field", f"its {name} are not {count} numbers of {dtype}, but {found}")
    if numbers.is_floating_point() and not bool(torch.isfinite(numbers).all()):
        raise WireError("bad-field", f"its {name} are not finite")
