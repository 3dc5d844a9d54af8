"""A budget of privacy for every pair and coordinate, which refuses releases once it is spent."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covey.parts.errors import BudgetExceeded, ConfigurationError, described, quoted
from covey.privacy.bounds import level_of, positive, vector

Floats = NDArray[np.float64]
Pair = int | str

_ROUNDING = 1e-12
"""The fraction by which sums of floats may exceed a budget."""


class Accountant:
    """The epsilon that each coordinate has spent with each pair, by sequential composition.

    Releases (epsilon 1, v) and (epsilon 2, u) to a pair cost coordinate i epsilon 1 * v_i + epsilon 2 * u_i. Its memory
    is bounded by `pairs`: a pair beyond them is refused.

    Args:
        coordinates: the number of coordinates.
        budget: the most that a coordinate may spend with a pair: a number, or one for each coordinate.
        pairs: the greatest number of pairs.
    """

    def __init__(self, coordinates: int, budget: ArrayLike, *, pairs: int = 1024) -> None:
        if not _is_count(coordinates) or not _is_count(pairs):
            raise ConfigurationError(
                "An accountant must have at least one coordinate and one pair, in whole numbers. "
                f"Got {quoted(coordinates)} and {quoted(pairs)} instead."
            )
        every = np.full(int(coordinates), budget) if isinstance(budget, Real) else budget
        self.budget: Floats = vector(every, "budget", int(coordinates), ge=0.0)
        self.pairs = int(pairs)
        self._spent: dict[Pair, Floats] = {}

    def spend(self, pair: Pair, epsilon: float, privacy: ArrayLike) -> None:
        """Account for a release, or refuse it without a change.

        Args:
            pair: the receiver, or the pair of parties.
            epsilon: the epsilon of the release.
            privacy: v, the privacy of each coordinate.

        Raises:
            BudgetExceeded: a coordinate has not enough left for the pair.
        """
        costs = positive(epsilon, "epsilon", "a release") * level_of(privacy, len(self.budget))
        before = self.spent(pair)
        after = before + costs
        after = np.where((costs > 0) & (after == before), np.nextafter(before, np.inf), after)  # No release is free.
        wrong = np.flatnonzero((costs > 0) & (after > self.budget * (1 + _ROUNDING)))
        if len(wrong):
            first = int(wrong[0])
            raise BudgetExceeded(pair, first, float(self.left(pair)[first]), float(costs[first]))
        if pair not in self._spent and len(self._spent) == self.pairs:
            raise BudgetExceeded(pair, int(costs.argmax()), 0.0, float(costs.max()))
        self._spent[pair] = after

    def spent(self, pair: Pair) -> Floats:
        """The epsilon that each coordinate has spent with a pair."""
        return self._spent.get(pair, np.zeros(len(self.budget)))

    def left(self, pair: Pair) -> Floats:
        """The epsilon that each coordinate has left for a pair."""
        return np.maximum(self.budget - self.spent(pair), 0.0)

    @property
    def state(self) -> dict[str, Any]:
        """Its budget and all that is spent, as plain values and arrays."""
        names = [*self._spent]
        spent = np.stack([self._spent[name] for name in names]) if names else np.zeros((0, len(self.budget)))
        return {"budget": self.budget.copy(), "pairs": self.pairs, "names": names, "spent": spent}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The accountant with such a `state`.

        Raises:
            ConfigurationError: the state is not one of an accountant. Nothing is taken for unspent.
        """
        try:
            budget, pairs, names = vector(state["budget"], "budget", None, ge=0.0), state["pairs"], [*state["names"]]
            spent = np.array(state["spent"], dtype=np.float64)
            known = all(isinstance(name, int | np.integer | str) for name in names) and len({*names}) == len(names)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The state of an accountant must be one of `state`. {described(error)}."
            ) from error
        found = cls(len(budget), budget, pairs=pairs)
        right = known and len(names) <= found.pairs and spent.shape == (len(names), len(budget))
        if not right or not (np.isfinite(spent) & (spent >= 0)).all():
            raise ConfigurationError(
                "The state of an accountant must have different 'names', at most 'pairs' of them, and what each has "
                f"'spent' of each coordinate, in [0, inf). Got {len(names)} names and spent of shape {spent.shape}."
            )
        found._spent = dict(zip(names, spent, strict=True))
        return found


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)
