"""Heterogeneous differential privacy (Alaggan, Gambs and Kermarrec, 2016): a privacy of its own for every coordinate.

A mechanism M is (epsilon, v)-private if, for all records that differ in coordinate i alone and all events,
P[M(d) in S] <= exp(epsilon * v_i) * P[M(d') in S]. With v_i = 0 coordinate i has no influence, with v = 1 it is epsilon
differential privacy.

    taste = Stretching(weighted_sum(theirs, bounds=np.ones(n)), epsilon=1.0, privacy=v)
    noisy = taste.release(mine)

Mechanisms need neither a run nor torch. v is not protected: a release may tell of it.
"""

import math
import sys
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import Mechanism
from covey.privacy.bounds import level_of, positive
from covey.privacy.budgets import Accountant, Pair
from covey.privacy.queries import Query
from covey.privacy.randomness import MOST_SCALE, Source, discrete_laplace, discrete_log_density, laplace, log_density

Floats = NDArray[np.float64]
Noise = Literal["discrete", "continuous"]
_HALVINGS = 50
_SLACK = 2
"""The steps of the grid by which rounding, of the value and within the function, moves two neighbours apart."""


class _Noised:
    """Values with Laplace's noise for a sensitivity: of floats, or of integers on a grid.

    On a grid of step g, the noise has the scale (sensitivity + 2 g) / epsilon: rounding moves the values of two
    neighbours at most two steps further apart, if the function is exact to half a step.

    Args:
        sensitivity: S.
        size: the number of values.
        epsilon: epsilon.
        noise: the noise.
        granularity: g; by default, the largest power of two that is at most a 2**20th of the sensitivity.
        random: the source, as of `Source`.
    """

    def __init__(
        self,
        sensitivity: float,
        size: int,
        epsilon: float,
        noise: Noise,
        granularity: float | None,
        random: int | bytes | None,
    ) -> None:
        step = 2.0 ** math.floor(math.log2(sensitivity) - 20)
        if granularity is not None:
            step = positive(granularity, "granularity", "a mechanism")
        self.step = step if noise == "discrete" else 0.0
        self.slack = self.step * _SLACK * size
        self.sensitivity = sensitivity
        least = (sensitivity + self.slack) / (self.step * MOST_SCALE or sys.float_info.max)
        if epsilon < least:
            of_step = f" of granularity {self.step:g}" if self.step else ""
            raise ConfigurationError(
                f"The 'epsilon' of a mechanism with {noise} noise{of_step} must be at least {least:.3g}. "
                f"Got {epsilon:g} instead."
            )
        self.scale = (sensitivity + self.slack) / epsilon
        self.source = Source(random)

    def allowed(self, levels: Floats) -> Floats:
        """The greatest change of the values by each coordinate, before they are rounded."""
        limits = levels * (self.sensitivity + self.slack) - self.slack
        return np.asarray(np.where(limits > 0.0, limits, 0.0), dtype=np.float64)

    def around(self, values: Floats) -> Floats:
        """The values with noise."""
        if self.step:
            noise = discrete_laplace(self.source, self.scale / self.step, len(values))
            return np.asarray((np.rint(values / self.step) + noise) * self.step, dtype=np.float64)
        return values + laplace(self.source, self.scale, len(values))

    def log_density(self, released: ArrayLike, values: Floats) -> float:
        """The logarithm of the density, or on a grid of the probability, with which values become released ones."""
        found = np.asarray(released, dtype=np.float64).reshape(-1)
        if not self.step:
            return float(log_density(found - values, self.scale).sum())
        on_grid = found / self.step
        if not (np.rint(on_grid) == on_grid).all():
            return -math.inf
        return float(discrete_log_density(on_grid - np.rint(values / self.step), self.scale / self.step).sum())


@dataclass(eq=False)
class _Mechanism:
    """A query with noise that protects each coordinate by epsilon * v_i.

    Attributes:
        query: the function and its bounds.
        epsilon: epsilon.
        privacy: v, a number in [0, 1] or one for each coordinate.
        outside: "raise" refuses data outside their bounds, "clip" takes the nearest within.
        noise: "discrete" or "continuous". Floats with continuous noise tell of their values by their lowest bits.
        granularity: the step of discrete noise; by default, about a millionth of the sensitivity.
        random: None for the operating system's randomness; an int or 32 bytes for noise that can be repeated.
        sensitivity: the greatest change that the noise is made for.
    """

    named: ClassVar[str]
    query: Query
    epsilon: float
    privacy: ArrayLike = 1.0
    _: KW_ONLY
    outside: Literal["raise", "clip"] = "raise"
    noise: Noise = "discrete"
    granularity: float | None = None
    random: int | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_choice("outside", self.outside, ("raise", "clip"))
        _check_choice("noise", self.noise, ("discrete", "continuous"))
        self.epsilon = positive(self.epsilon, "epsilon", "a mechanism")
        self.levels = level_of(self.privacy, len(self.query.high))
        changes = self.changes()
        self.sensitivity = _greatest(changes)
        self._noised = _Noised(
            self.sensitivity, self.query.size, self.epsilon, self.noise, self.granularity, self.random
        )
        self.fit(changes)

    def changes(self) -> Floats:
        """The greatest change of the query by each coordinate."""
        raise NotImplementedError

    def fit(self, changes: Floats) -> None:
        """Find what makes the noise protect each coordinate by its level, and try the bounds of the query out."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """The scale of the noise."""
        return self._noised.scale

    def record(self, data: ArrayLike) -> Floats:
        """The data within their bounds."""
        return self.query.record(data, clip=self.outside == "clip")

    def values(self, record: Floats) -> Floats:
        """The values that get noise."""
        raise NotImplementedError

    def release(self, data: ArrayLike, *, accountant: Accountant | None = None, pair: Pair = 0) -> float | Floats:
        """A noisy value of the function.

        Args:
            data: the record.
            accountant: the budget that pays for it, if there is one.
            pair: the receiver, for the accountant.

        Raises:
            BudgetExceeded: a coordinate has not enough left. Nothing is released.
            DataError: the record is outside its bounds.
        """
        values = self.values(self.record(data))
        if accountant is not None:
            accountant.spend(pair, self.epsilon, self.levels)
        noisy = self._noised.around(values)
        return float(noisy[0]) if len(noisy) == 1 else noisy

    def transform(self, records: ArrayLike) -> Floats:
        """A noisy value for each row. Rows are records of different people."""
        values = np.array([self.values(self.record(record)) for record in np.asarray(records)]).reshape(
            -1, self.query.size
        )
        noisy = self._noised.around(values.reshape(-1)).reshape(values.shape)
        return noisy[:, 0] if self.query.size == 1 else noisy

    def statement(self, *, protects: str = "coordinate i of a record, at privacy v_i", releases: int = 1) -> Mechanism:
        """The statement of its protection at privacy 1, for `covey.privacy.accounting`."""
        return Mechanism(
            part=f"the {self.named} mechanism with {'discrete' if self._noised.step else 'continuous'} noise",
            protects=protects,
            against="all who see the released values, whatever else they know",
            delta=0.0,
            releases=releases,
            pure=self.epsilon,
            assumes=[
                "a record keeps to its bounds, and the query to its constants",
                "epsilon counts for coordinates of privacy 1, and v_i times it for others; v itself is not protected",
                *([] if self._noised.step else ["noise is of real numbers, which floats are not"]),
            ],
        )


@dataclass(eq=False)
class Stretching(_Mechanism):
    """The stretching mechanism: shrink every coordinate by w_i, apply the function, and add Laplace's noise.

    Attributes:
        mode: "lipschitz" for the scale max L_i D_i / epsilon and w = v, which holds for every function with these
            constants; "optimal" for the scale S / epsilon and the largest w with S_i(w) <= v_i S by the query's oracle,
            for one coordinate at a time with the others in full.
        shrinkage: w. With discrete noise it is smaller by what rounding may add.
    """

    named = "stretching"
    _: KW_ONLY
    mode: Literal["lipschitz", "optimal"] = "lipschitz"

    def changes(self) -> Floats:
        _check_choice("mode", self.mode, ("lipschitz", "optimal"))
        return _lipschitz_changes(self.query) if self.mode == "lipschitz" else _oracle_changes(self.query)

    def fit(self, changes: Floats) -> None:
        allowed = self._noised.allowed(self.levels)
        if self.mode == "lipschitz":
            self.shrinkage = allowed / self.sensitivity
            self.query.refute(changes, np.ones(len(changes)), "'lipschitz'")
            self.query.refute(self.shrinkage * changes, self.shrinkage, "'lipschitz'")
        else:
            self.shrinkage = _largest(self.query, allowed)
            verify(self.query, self.shrinkage, allowed)

    def values(self, record: Floats) -> Floats:
        """R_f(d), without noise."""
        # Zero is added so that coordinates without influence are 0.0 and never -0.0.
        return self.query.at(self.shrinkage * record + 0.0)

    def log_density(self, released: ArrayLike, data: ArrayLike) -> float:
        """The logarithm of the density of a released value, or of its probability with discrete noise."""
        return self._noised.log_density(released, self.values(self.record(data)))

    def distortion(self, data: ArrayLike) -> float:
        """A bound of the bias, sum (1 - w_i) |d_i| L_i. Without Lipschitz constants it is the bias itself."""
        record = self.record(data)
        if self.query.lipschitz is None:
            return float(np.abs(self.query.at(record) - self.values(record)).sum())
        return float((1.0 - self.shrinkage) @ (np.abs(record) * np.asarray(self.query.lipschitz)))


@dataclass(eq=False)
class Sampling(_Mechanism):
    """The sample mechanism of personalised differential privacy (Jorgensen, Yu and Cormode, 2015), a rival.

    Each coordinate takes part with probability (exp(epsilon v_i) - 1) / (exp(epsilon) - 1) and is 0 otherwise; then the
    function gets noise for epsilon. The guarantee is that of `Stretching`.
    """

    named = "sample"

    def changes(self) -> Floats:
        return _lipschitz_changes(self.query) if self.query.sensitivity is None else _oracle_changes(self.query)

    def fit(self, changes: Floats) -> None:
        self.query.refute(changes, np.ones(len(changes)), "sensitivity")
        # The same fraction, whose exponents are at most 0, so that a large epsilon does not overflow.
        weakest = np.expm1(-self.epsilon * self.levels) / math.expm1(-self.epsilon)
        self.chances = np.exp(self.epsilon * (self.levels - 1.0)) * weakest

    def values(self, record: Floats) -> Floats:
        """The values of a random part of the record."""
        return self.query.at(np.where(self._noised.source.chances(len(record)) <= self.chances, record, 0.0))


def verify(query: Query, shrinkage: Floats, allowed: Floats) -> None:
    """Refuse a shrinkage that the query's oracle, or random neighbours, do not confirm.

    Raises:
        ConfigurationError: the oracle or a pair of neighbours contradicts it.
    """
    assert query.sensitivity is not None
    for i, limit in enumerate(allowed):
        found = query.sensitivity(i, shrinkage)
        if not found <= limit * (1 + 1e-12):
            raise ConfigurationError(
                f"The oracle of a query must not grow when coordinates shrink: it says {found:g} for coordinate {i} of "
                f"the shrunk record, where the mechanism needs at most {limit:g}."
            )
    query.refute(allowed, shrinkage, "oracle")


def _largest(query: Query, allowed: Floats) -> Floats:
    """The largest shrinkage of each coordinate whose sensitivity is allowed while the others are in full."""
    assert query.sensitivity is not None
    found = np.zeros(len(allowed))
    for i, limit in enumerate(allowed):
        shrinkage, low, high = np.ones(len(allowed)), 0.0, 1.0
        if limit <= 0.0:
            continue
        if query.sensitivity(i, shrinkage) <= limit:
            found[i] = 1.0
            continue
        for _ in range(_HALVINGS):
            shrinkage[i] = (low + high) / 2
            low, high = (shrinkage[i], high) if query.sensitivity(i, shrinkage) <= limit else (low, shrinkage[i])
        found[i] = low
    return found


def _lipschitz_changes(query: Query) -> Floats:
    """L_i D_i."""
    if query.lipschitz is None:
        raise ConfigurationError("The mode 'lipschitz' must have a query with 'lipschitz' constants. Got none.")
    return np.asarray(query.lipschitz) * query.widths


def _oracle_changes(query: Query) -> Floats:
    """S_i of the function without shrinking."""
    if query.sensitivity is None:
        raise ConfigurationError("The mode 'optimal' must have a query with an oracle of its 'sensitivity'. Got none.")
    whole = np.ones(len(query.high))
    return np.array([query.sensitivity(i, whole) for i in range(len(whole))], dtype=np.float64)


def _greatest(changes: Floats) -> float:
    """The sensitivity of a function: the greatest change by a coordinate."""
    found = float(changes.max())
    if not (np.isfinite(changes).all() and (changes >= 0).all() and found > 0):
        raise ConfigurationError(f"The sensitivity of a query must be a float in (0, inf). Got {found:g} instead.")
    return found


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ConfigurationError(f"The '{name}' of a mechanism must be {known}. Got {value!r} instead.")
