"""Numbers as integers of a ring, in which sums come out the same whatever is added and taken away on the way.

Shapes: K numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Integers = NDArray[np.signedinteger[Any]]


_NEARLY_ALL = 1.0 - 2.0**-40
"""Of a ring. Beside its ends, float64 has the numbers of a ring of 64 bits to 2**10 only."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Integers modulo 2**bits, of which `fraction` bits stand behind the point."""

    bits: int
    fraction: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds one number, little-endian."""
        return np.dtype(f"<i{self.bits // 8}")

    @property
    def tensor_dtype(self) -> torch.dtype:
        """What holds one number in a tensor."""
        return torch.int32 if self.bits == 32 else torch.int64

    def limit(self, terms: int) -> float:
        """How large a sum of `terms` numbers may be; each of them is rounded, as is this limit."""
        return (2.0 ** (self.bits - 1) * _NEARLY_ALL - terms) / 2.0**self.fraction

    def encode(self, values_K: NDArray[np.float32], weight: float) -> Integers:
        """weight * values_K, rounded. What is beyond `limit` must have been refused before."""
        # Asked for, as numpy 1 would multiply in float32, and sums would be off by far more than half a step.
        scaled_K = np.multiply(values_K, weight * 2.0**self.fraction, dtype=np.float64)
        return np.rint(scaled_K, out=scaled_K).astype(self.dtype)

    def decode(self, numbers_K: Integers) -> NDArray[np.float64]:
        """The values of integers."""
        return numbers_K * np.float64(2.0**-self.fraction)
