"""Functions of bounded data, and the bounds of their change by which noise is scaled.

Coordinates are in [0, B_i] or, if signed, in [-B_i, B_i]. Data shrink towards 0, so 0 must be the neutral value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covey.parts.errors import ConfigurationError, ModelError, quoted
from covey.privacy.bounds import vector, within

Floats = NDArray[np.float64]
Oracle = Callable[[int, Floats], float]
_PROBES = 32
"""The random pairs of neighbours at which declared bounds are tried out."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Query:
    """A function of the coordinates of a record, with the bounds that its protection needs.

    Attributes:
        function: a function of one record, a vector, to a number or to a vector of fixed length.
        bounds: B, the greatest magnitude of each coordinate.
        lipschitz: L, the greatest change of the function (its 1-norm) per change of each coordinate, if it is known.
        sensitivity: the oracle of exact sensitivities, if there is one: for a coordinate i and a shrinkage w, the
            greatest change of function(w * d) when coordinate i of d alone changes.
        signed: whether coordinates are in [-B_i, B_i] instead of [0, B_i].
    """

    function: Callable[[Floats], ArrayLike]
    bounds: ArrayLike
    lipschitz: ArrayLike | None = None
    sensitivity: Oracle | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        high = vector(self.bounds, "bounds", None, gt=0.0)
        object.__setattr__(self, "bounds", high)
        if self.lipschitz is not None:
            object.__setattr__(self, "lipschitz", vector(self.lipschitz, "lipschitz", len(high), ge=0.0))
        if self.lipschitz is None and self.sensitivity is None:
            raise ConfigurationError(
                "A query must have its 'lipschitz' constants or an oracle of its 'sensitivity'. Got neither."
            )

    @cached_property
    def high(self) -> Floats:
        """The greatest value of each coordinate."""
        return np.asarray(self.bounds, dtype=np.float64)

    @cached_property
    def low(self) -> Floats:
        """The least value of each coordinate."""
        return -self.high if self.signed else np.zeros(len(self.high))

    @cached_property
    def widths(self) -> Floats:
        """D, the greatest change of each coordinate."""
        return self.high - self.low

    @cached_property
    def size(self) -> int:
        """The number of values of the function."""
        size = len(self._values(np.zeros(len(self.high))))
        if not size:
            raise ModelError("The function of a query must return one number or more. Got none.")
        return size

    def at(self, record: Floats) -> Floats:
        """The values at a record within its bounds, as a vector.

        Raises:
            ModelError: the function returns other values than finite numbers in at most one row, or another number of
                them than at 0: the number itself would tell of the record.
        """
        found = self._values(record)
        if len(found) != self.size:
            raise ModelError(
                f"The function of a query must always return {self.size} numbers. Got {len(found)} instead."
            )
        return found

    def _values(self, record: Floats) -> Floats:
        returned = self.function(record)
        try:
            found = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            found = np.full(1, np.nan)
        if found.ndim > 1 or not np.isfinite(found).all():
            raise ModelError(
                f"The function of a query must return finite numbers in one row. Got {quoted(returned)} instead."
            )
        return found.reshape(-1)

    def record(self, data: ArrayLike, *, clip: bool = False) -> Floats:
        """Data within the bounds of their coordinates."""
        return within(data, self.low, self.high, clip=clip)

    def refute(self, limits: Floats, shrinkage: Floats, claim: str) -> None:
        """Refuse bounds that random neighbours contradict.

        Args:
            limits: the greatest change by each coordinate that is claimed for function(shrinkage * d).
            shrinkage: w.
            claim: the name of what claims them.

        Raises:
            ConfigurationError: two neighbours are further apart than claimed.
        """
        draw = np.random.default_rng(0)
        for _ in range(_PROBES):
            i = int(draw.integers(len(limits)))
            # Extreme records are where bounds fail first.
            ends = np.where(draw.random(len(limits)) < 0.5, self.low, self.high)
            record = np.where(draw.random(len(limits)) < 0.5, ends, draw.uniform(self.low, self.high))
            other = record.copy()
            record[i], other[i] = self.low[i], draw.choice([self.high[i], draw.uniform(self.low[i], self.high[i])])
            change = float(np.abs(self.at(shrinkage * record) - self.at(shrinkage * other)).sum())
            if change > limits[i] * (1 + _ROUNDING) + _ROUNDING * limits.max():
                raise ConfigurationError(
                    f"The {claim} of a query does not hold: coordinate {i} changes the function by {change:g}, more "
                    f"than {limits[i]:g}."
                )


def weighted_sum(weights: ArrayLike, bounds: ArrayLike, *, signed: bool = False) -> Query:
    """The sum of weights_i * d_i: with weights of 1 the sum, and else the dot product with a public vector."""
    of_each = vector(weights, "weights", None)
    magnitudes = np.abs(of_each)
    high = vector(bounds, "bounds", len(of_each), gt=0.0)
    widths = 2.0 * high if signed else high
    return Query(
        function=lambda record: float(of_each @ record),
        bounds=high,
        lipschitz=magnitudes,
        sensitivity=lambda i, shrinkage: float(magnitudes[i] * shrinkage[i] * widths[i]),
        signed=signed,
    )


def squared_norm(bounds: ArrayLike, *, signed: bool = False) -> Query:
    """The sum of squares."""
    high = vector(bounds, "bounds", None, gt=0.0)
    return Query(
        function=lambda record: float(record @ record),
        bounds=high,
        lipschitz=2.0 * high,
        sensitivity=lambda i, shrinkage: float((shrinkage[i] * high[i]) ** 2),
        signed=signed,
    )


def cosine(other: ArrayLike, bounds: ArrayLike, *, norm: float | None = None, signed: bool = False) -> Query:
    """The cosine with a public vector, for records whose norm is public.

    Args:
        other: the public vector.
        bounds: B.
        norm: the public norm of the record.
        signed: whether coordinates are in [-B_i, B_i].

    Raises:
        ConfigurationError: there is no public norm. A private one changes with every coordinate, by no bounded factor.
    """
    if norm is None or not (np.isfinite(norm) and norm > 0):
        raise ConfigurationError(
            f"The cosine must have the public 'norm' of the record, a float in (0, inf): with a private norm, one "
            f"coordinate changes it without a bound. Got {norm} instead: take the dot product, 'weighted_sum'."
        )
    vector_ = vector(other, "other", None)
    length = float(np.linalg.norm(vector_))
    if length == 0.0:
        raise ConfigurationError("The 'other' vector of a cosine must not be zero.")
    return weighted_sum(vector_ / (norm * length), bounds, signed=signed)
