"""Fixed-point numbers as integers of a ring. Sums are exact, so masks that are added and subtracted cancel.

Shapes: K numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.signedinteger[Any]]


_NEARLY_ALL = 1.0 - 2.0**-40
"""The fraction of a ring that is used. Near the ends of a 64-bit ring, float64 is exact to 2**10 only."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Integers modulo 2**bits, with `fraction` bits after the binary point."""

    bits: int
    fraction: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of one number."""
        return np.dtype(f"<i{self.bits // 8}")

    def limit(self, terms: int) -> float:
        """The largest magnitude of a sum of `terms` numbers. It allows for the rounding of each."""
        return (2.0 ** (self.bits - 1) * _NEARLY_ALL - terms) / 2.0**self.fraction

    def encode(self, values_K: NDArray[np.float32], weight: float) -> Integers:
        """Round weight * values_K to integers. The caller has refused values beyond `limit`."""
        # With an explicit dtype: numpy 1 would multiply in float32, whose error is far more than half a step.
        scaled_K = np.multiply(values_K, weight * 2.0**self.fraction, dtype=np.float64)
        return np.rint(scaled_K, out=scaled_K).astype(self.dtype)

    def decode(self, numbers_K: Integers) -> NDArray[np.float64]:
        """The values of integers."""
        return numbers_K * np.float64(2.0**-self.fraction)
